"""A comparison in words and figures for the page: rounded as on the terminal, names with nothing hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from soundcert.bounds import format_down, format_up
from soundcert.compare.result import (
    ClipDifference,
    Comparison,
    Difference,
    Pair,
    Reason,
    Side,
    ends,
    level_words,
    p_words,
    points,
    sentence,
)
from soundcert.report.words import visible

_VERDICTS = {"file": "Compared on the file’s samples", "object": "Compared in the certified object"}


def comparison_words(found: Comparison, names: Sequence[str]) -> dict[str, Any]:
    """Return what the page shows. names: of the runs, in their order."""
    return {
        "comparable": found.comparable,
        "space": visible(found.space),
        "verdict": _verdict(found),
        "reasons": [visible(r.text) for r in found.reasons],
        "remedies": list(dict.fromkeys(_remedy(r) for r in found.reasons if r.remedy)),
        "to_file": any("--in file" in r.remedy for r in found.reasons),
        "axis": found.axis,
        "axis_title": "SNR of the perturbation (dB)"
        if found.axis == "snr_db"
        else f"radius ({visible(found.unit)})",
        "loud": [visible(c.text) for c in found.caveats if c.loud],
        "caveats": [visible(c.text) for c in found.caveats if not c.loud] + [visible(n) for n in found.notes],
        "facts": [
            {"name": f.name, "values": [visible(v) for v in f.values], "same": f.same, "decides": f.decides}
            for f in found.facts
        ],
        "stages": [
            {"place": s.place, "stage": visible(s.stage), "present": list(s.present), "same": s.same}
            for s in found.stages
        ],
        "sides": [_side(side, name) for side, name in zip(found.sides, names, strict=True)],
        "pairs": [_pair(found, pair) for pair in found.pairs],
        "level": f"{100 * (1 - found.level):g} %",
    }


def _verdict(found: Comparison) -> str:
    clips = f"{found.common} clips that all runs have" if found.common else "no clip in common"
    if not found.comparable:
        return f"A ranking would mislead ({clips})"
    start = _VERDICTS.get(found.space, f"Compared in {visible(found.space_words)}")
    return f"{start}, over the {clips}"


def _remedy(reason: Reason) -> str:
    """The remedy without the command line's words: the page has a control for that one."""
    return visible(reason.remedy.replace("--in file compares them", "Comparing them").replace(
        "on the file's samples, as far as", "on the file’s samples is possible, as far as"
    ))  # fmt: skip


def _side(side: Side, name: str) -> dict[str, Any]:
    return {
        "letter": side.letter,
        "name": name,
        "said": f"{side.correct} of {side.clips} clips certified as their label{side.at_most}",
        "from": visible(side.radii_from),
        "axis": side.axis,
        "unit": visible(side.unit),
        "curve": [[x, round(share, 6)] for x, share in side.curve],
        "left_out": [f"{out.count} clips left out: {visible(out.why)}" for out in side.left_out if out.count],
        "warnings": [visible(w) for w in side.warnings],
    }


def _pair(found: Comparison, pair: Pair) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "accuracy": None if pair.accuracy is None else _row(found, pair, pair.accuracy),
        "points": [_row(found, pair, d) for d in pair.points],
        "first_more": [_clip(found, c) for c in pair.first_more],
        "second_more": [_clip(found, c) for c in pair.second_more],
    }


def _row(found: Comparison, pair: Pair, d: Difference) -> dict[str, Any]:
    return {
        "at": "label alone" if d.at is None else level_words(d.at, found.axis, ""),
        "first": f"{100 * d.first_share:.1f} %",
        "second": f"{100 * d.second_share:.1f} %",
        "first_only": f"{d.first_only}{'†' if d.second_limited else ''}",
        "second_only": f"{d.second_only}{'†' if d.first_limited else ''}",
        "difference": points(d.difference),
        "interval": " to ".join(ends(d.interval)) if d.interval else None,
        "band": " to ".join(ends(d.band)) if d.band else None,
        "p": p_words(d.p_holm) if d.p_holm is not None else None,
        "shown": d.shown,
        "sentence": visible(sentence(pair, d, found)),
    }


def _clip(found: Comparison, clip: ClipDifference) -> list[str]:
    return [visible(clip.clip), visible(clip.truth), _level(found, clip.first), _level(found, clip.second)]


def _level(found: Comparison, value: float | None) -> str:
    if value is None:
        return "not certified"
    if abs(value) == float("inf"):
        return "without limit"
    return (
        f"{format_up(value, decimals=1)} dB" if found.axis == "snr_db" else format_down(value, significant=3)
    )
