"""A run as Markdown: for a pull request, an issue or a model card. Contract first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from soundcert.errors import InputError
from soundcert.report.curve import Curve, curves
from soundcert.report.facts import (
    OUTCOMES,
    attack_summary,
    facts_of_cost,
    outcome,
    readable,
    reproduction,
    tiles,
)
from soundcert.report.findings import run_flags
from soundcert.report.shares import percent, percents
from soundcert.report.stated import stated
from soundcert.report.terminal import VIEWS
from soundcert.report.words import length, plain_words, view_text, visible
from soundcert.runs import Run

_MARKS = re.compile(r"[\\`*_{}\[\]<>#|~&$@]|(?<=:)/|(?<=www)\.|^[-+=]|(?<=\d)[.)](?=\s)", re.IGNORECASE)
_ROWS = 10
_CLIPS = 50


def escaped(text: object) -> str:
    """Return text that Markdown shows as it is, whatever characters it has."""
    return _MARKS.sub(lambda mark: "\\" + mark[0], visible(text))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["", *("| " + " | ".join(line) + " |" for line in lines), ""]


def markdown(run: Run) -> str:
    """Return the run as Markdown. Of many clips, those that were not certified correctly come first."""
    run = readable(run)
    words = plain_words(run)
    out = [f"# {escaped(run.name)}", "", f"**Contract: {escaped(words.kind)}.**", ""]
    out += [f"> **Warning:** {escaped(w)}\n" for w in run.warnings]
    out += [f"{escaped(line)}\n" for line in words.covered]
    out += ["**Not claimed**", "", *(f"- {escaped(line)}" for line in words.not_claimed), ""]
    out += [
        "## Stated, field by field",
        *_table(("field", "value"), [[escaped(k), escaped(v)] for k, v in stated(run)]),
    ]
    figures = [[escaped(t[key]) for key in ("name", "value", "more")] for t in tiles(run)]
    ends = [f"{sum(outcome(r) == k for r in run.records)} {name}" for k, (name, _) in enumerate(OUTCOMES)]
    out += [
        "## Figures",
        *_table(("", "", ""), [*figures, ["How the clips ended", escaped(", ".join(ends)), ""]]),
    ]
    out += ["## Certified accuracy", ""]
    out += ["Intervals are pointwise: each holds at one strength that was chosen beforehand."]
    out += [line for curve in curves(run) for line in _curve(curve)]
    out += ["## Flags", "", *_flags(run), ""]
    found = attack_summary(run)
    if found:
        bad = (
            [f"It contradicts the certificates of {', '.join(found['violated'])}."]
            if found["violated"]
            else []
        )
        out += ["## Found by attack", "", escaped(" ".join([*bad, *found["lines"]])), ""]
    again = reproduction(run)
    facts = [*facts_of_cost(run), ("seed", again["seed"])]
    facts += [(f"digest of the {name}", digest) for name, digest in again["digests"]]
    out += [
        "## Clips",
        *_clips(run),
        "## Again",
        "",
        *(f"- {escaped(k)}: {escaped(v)}" for k, v in facts),
        "",
    ]
    code = [*again["command"].splitlines(), "", *again["config"].splitlines()]
    return "\n".join([*out, *("    " + line for line in code), ""])


def _curve(curve: Curve) -> list[str]:
    rows = []
    for p in curve.grid[:: max(1, len(curve.grid) // _ROWS)]:
        band = " to ".join(percents(p.interval)) if p.interval else "none"
        rows.append([f"{p.x:.12g}", f"{p.count} of {curve.total}", percent(p.count, curve.total), band])
    axis = curve.axis
    title = f"{axis.title} ({axis.unit})" if axis.unit else axis.title
    return _table((escaped(title), "clips", "share", "95 % interval"), rows)


def _flags(run: Run) -> list[str]:
    lines = [
        f"- **{f.kind.level}: {escaped(f.kind.title)}** ({escaped(f.detail)}). {escaped(f.kind.action)}"
        for f in run_flags(run)
    ]
    return lines or ["None that the contract and the records raise."]


def _clips(run: Run) -> list[str]:
    order = sorted(run.records, key=lambda r: (-outcome(r), r.get("radius", 0.0)))[:_CLIPS]
    view = "snr_db" if run.about_waveform else "norm_ratio_db"
    rows = []
    for r in order:
        level = (r.get("views") or {}).get(view) if "radius" in r else None
        radius = escaped(length(r["radius"])) if "radius" in r else ""
        db = escaped(view_text(view, level)) if level is not None else ""
        answer, truth = escaped(r.get("label", r.get("candidate", ""))), escaped(r.get("truth") or "")
        rows.append([escaped(r["clip"]), OUTCOMES[outcome(r)][0], answer, truth, radius, db])
    out = _table(
        ("clip", "outcome", "answer", "true label", "radius", escaped(f"{VIEWS[view][0]}, dB")), rows
    )
    left = len(run.records) - len(rows)
    return [*out, f"{left} more clips are in certificates.jsonl.", ""] if left > 0 else out


def write_markdown(run: Run, out: Path) -> Path:
    """Write the run as Markdown and return the file's path."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(markdown(run), encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}; choose another --out") from None
    return out
