"""A run as one page: contract first, then the curve, the clips and what can be heard, nothing fetched.

The template writes what must be readable without scripts. The rest travels as JSON in a data block, of which
the page's own script makes elements through text nodes alone, so that no name of a clip can become markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundcert.bounds import format_down
from soundcert.errors import InputError
from soundcert.flags import Flag
from soundcert.report.curve import Curve, Intervals, curves, intervals_of
from soundcert.report.facts import (
    OUTCOMES,
    attack_summary,
    contract_facts,
    facts_of_cost,
    label_bars,
    outcome,
    pipeline_of,
    probability_bars,
    readable,
    reproduction,
    tiles,
)
from soundcert.report.findings import attacked, in_order, run_flags
from soundcert.report.shares import percent, percents
from soundcert.report.sounds import Sounds, choose, listen
from soundcert.report.terminal import VIEWS
from soundcert.report.words import length, plain_words, view_text, visible
from soundcert.runs import Run
from soundcert.runs.summary import tied
from soundcert.runs.values import finite

if TYPE_CHECKING:
    from markupsafe import Markup

CLIPS_WITH_AUDIO = 12
_MOST_LABELS = 40

_SAY = {
    "radius": "every change of the certified object with an ℓ2 norm below {x}",
    "r_over_sigma": "every change of the certified object with an ℓ2 norm below {x} σ",
    "snr_db": "every change of the certified object that is quieter than it by more than {x} dB",
    "norm_ratio_db": "every change of the features whose norm is smaller than theirs by more than {x} dB (not an SNR)",
    "burst_20ms_db": "every change below {x} dB of the clip’s RMS, all of it within 20 ms",
    "file_radius": "every change of the file’s samples with an ℓ2 norm below {x} (full scale 1)",
    "file_snr_db": "every change of the file’s samples that is quieter than them by more than {x} dB",
    "file_lsb": "every change of the file’s samples with an ℓ2 norm below {x} quantisation steps",
}
_AXIS = {
    "radius": "Raw radius",
    "r_over_sigma": "R/σ",
    "snr_db": "SNR-equivalent",
    "norm_ratio_db": "Norm ratio",
    "burst_20ms_db": "20 ms level",
    "file_radius": "File: radius",
    "file_snr_db": "File: SNR",
    "file_lsb": "File: LSBs",
}
_NOTES = {
    "snr_db": "At equal radius it grows by 10·log₁₀ of the clip’s length: compare at equal lengths only.",
    "norm_ratio_db": "It depends on gain, unit and floor of the features. It is not a signal-to-noise ratio and must "
    "not be ranked against one.",
    "burst_20ms_db": "Does not grow with the clip’s length. Below 0 dB even a burst is quieter than the clip is on "
    "average.",
    "file_radius": "Carried to the decoded samples with proof, stage by stage; the ceiling there differs from clip "
    "to clip.",
    "file_snr_db": "Carried to the decoded samples with proof. Only here may contracts of different spaces be "
    "compared.",
    "file_lsb": "An ℓ2 norm over all samples, not a step at each of them.",
    "r_over_sigma": "Independent of unit, gain and length, within one kind of object.",
}


def curve_data(curve: Curve, intervals: Intervals) -> dict[str, Any]:
    """Return a curve as JSON values: the corners with their band, and the grid with its words."""
    name = curve.axis.name
    counts = [count for _, count in curve.steps]
    band = intervals.band([*counts, curve.unlimited])
    rows = []
    for point in curve.grid:
        words = percents(point.interval) if point.interval else None
        rows.append([point.x, f"{point.x:.12g}", point.count, percent(point.count, curve.total), words])
    return {
        "name": name,
        "title": _AXIS[name],
        "axis": _axis_title(curve),
        "falling": curve.axis.falling,
        "total": curve.total,
        "steps": curve.steps,
        "unlimited": curve.unlimited,
        "band": band,
        "grid": rows,
        "ceiling": curve.ceiling,
        "domain": curve.domain,
        "say": _SAY[name],
        "note": _NOTES.get(name, ""),
    }


def _axis_title(curve: Curve) -> str:
    axis = curve.axis
    if axis.name == "radius":
        return f"raw radius R (ℓ2, unit of the certified object: {visible(axis.unit)})"
    unit = f" ({axis.unit})" if axis.unit else ""
    return f"{axis.title}{unit}"


def clip_columns(run: Run) -> dict[str, Any]:
    """Return the records column by column: texts as they are shown, numbers rounded inward already."""
    rows = run.records
    views = [v for v in VIEWS if any(v in (r.get("views") or {}) for r in rows)]
    plain: dict[str, list[Any]] = {
        "clip": [visible(r["clip"]) for r in rows],
        "outcome": [outcome(r) for r in rows],
        "truth": [_text(r.get("truth")) for r in rows],
        "label": [_text(r.get("label", r.get("candidate"))) for r in rows],
        "radius": [length(r["radius"]) if "radius" in r else None for r in rows],
        "at_ceiling": [int(bool(r.get("saturated"))) for r in rows],
        "p": [format_down(r["p_lower"], decimals=5) if "p_lower" in r else None for r in rows],
        "count": [r.get("count") for r in rows],
        "n": [r.get("n") for r in rows],
        "n0": [r.get("n0") for r in rows],
        "norm": [_short(r.get("object_norm")) for r in rows],
        "gain": [_short(r.get("gain")) for r in rows],
        "displacement": [_short(r.get("displacement")) for r in rows],
        "sensitivity": [_short(r.get("sensitivity")) for r in rows],
        "digest": [_text(r.get("digest")) for r in rows],
        "reason": [_text(r.get("reason")) for r in rows],
    }
    return {
        **{name: values for name, values in plain.items() if any(v is not None for v in values)},
        "views": {
            v: [view_text(v, r["views"][v]) if v in (r.get("views") or {}) else None for r in rows]
            for v in views
        },
        "view_names": {v: [VIEWS[v][0], VIEWS[v][1], VIEWS[v][2]] for v in views},
        **_chains(rows),
    }


def _text(value: object) -> str | None:
    return None if value is None else visible(value)


def _short(value: object) -> str | None:
    return f"{value:.5g}" if finite(value) else None


def _chains(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return each clip's radii along the chains of bounds; the stages, equal for most clips, are written once."""
    routes: dict[tuple[str, ...], int] = {}
    out: dict[str, list[Any]] = {}
    for index, record in enumerate(rows):
        spaces = record.get("spaces")
        for name, there in spaces.items() if isinstance(spaces, dict) else ():
            if not isinstance(there, dict):
                continue
            if not there.get("proven"):
                found: Any = visible(there.get("reason") or "nothing is proven")
            else:
                chain = [s for s in there.get("chain") or () if isinstance(s, dict)]
                route = routes.setdefault(tuple(visible(s.get("stage")) for s in chain), len(routes))
                radii = [s.get("radius") for s in chain]
                found = [route, *(length(r) if r is None or finite(r) else "?" for r in radii)]
            shown = visible(name)
            if shown not in out:
                out[shown] = [None] * len(rows)
            out[shown][index] = found
    return {"routes": list(routes), "chains": out} if out else {}


def attack_columns(run: Run) -> dict[str, Any]:
    """Return what was found on each attacked clip, in words; what was found is rounded to nearest."""
    place = {r["clip"]: i for i, r in enumerate(run.records)}
    out = {}
    for name, found in attacked(run).items():
        lines = []
        for goal, words in (("leave", "leaves the certified ball"), ("flip", "changes the smoothed label")):
            hit = found.get(goal)
            if isinstance(hit, dict) and finite(hit.get("norm")):
                more = f", {hit['snr_db']:.2f} dB below the clip" if finite(hit.get("snr_db")) else ""
                more += f"; {hit['ratio']:.4g} times what is proven" if finite(hit.get("ratio")) else ""
                lines.append(
                    f"A change of norm {hit['norm']:.4g} in {visible(found.get('space'))} {words}{more}."
                )
            elif goal in found:
                lines.append(f"Nothing was found that {words}.")
        if found.get("violations"):
            lines.append(
                "It contradicts the certificate: " + visible("; ".join(map(str, found["violations"])))
            )
        if name in place:
            out[str(place[name])] = lines
    return out


def page_data(run: Run, sounds: Sounds, reasons: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page's script shows."""
    intervals = intervals_of(run)
    place = {r["clip"]: i for i, r in enumerate(run.records)}
    return {
        "curves": [curve_data(c, intervals) for c in curves(run, intervals)],
        **_ceiling_words(run),
        "no_band": f"No interval: {reason}." if (reason := tied(run.usable)) else "",
        "labelled": any(r.get("truth") is not None for r in run.usable),
        "outcomes": [{"name": name, "key": key} for name, key in OUTCOMES],
        "clips": clip_columns(run),
        "attacks": attack_columns(run),
        "unit": visible(run.contract.get("unit") or ""),
        "waveform": run.about_waveform,
        "why": {str(place[clip]): why for clip, why in reasons.items()},
        "heard": {
            str(place[h.clip]): {
                "rate": h.rate,
                "seconds": h.seconds,
                "whole": h.whole,
                "versions": [
                    {
                        "key": v.key,
                        "title": v.title,
                        "note": v.note,
                        "outline": v.outline,
                        "picture": v.spectrogram,
                    }
                    for v in h.versions
                ],
            }
            for h in sounds.clips
        },
    }


def _ceiling_words(run: Run) -> dict[str, str]:
    """Return what the ceiling is called on the curve, and what it means."""
    if any(r.get("policy") == "decide" for r in run.usable):
        meaning = "No radius beyond the largest one asked about was tried: the curve ends there by choice."
        return {"ceiling": "largest radius asked about", "ceiling_note": meaning}
    budgets = {(r["n"], r["alpha"]) for r in run.usable}
    name = "Monte-Carlo ceilings, by clip"
    if len(budgets) == 1:
        n, alpha = budgets.pop()
        name = f"Monte-Carlo ceiling: n = {n}, α = {alpha:g}"
    meaning = (
        "Ceiling: the largest radius that the number of draws and α allow, reached where every draw agreed. A fall of "
        "the curve there tells how many draws were made, not how robust the model is."
    )
    return {"ceiling": name, "ceiling_note": meaning}


def embed(values: object) -> str:
    """Return JSON that can stand inside a script element: nothing in it can end the element or the line."""
    text = json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def ticked(text: object) -> Markup:
    """Return text as markup, in which what stands between backticks is code; page.js has the same for its elements."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def piece(name: str) -> str:
    """Return a file of templates/; the explorer's pages begin with this style and script (page.js) too."""
    return (files("soundcert.report") / "templates" / name).read_text("utf-8")


def _pieces() -> tuple[str, str]:
    """Return the page's style and script."""
    return piece("report.css"), piece("page.js") + piece("report.js")


def policy_of(style: str, script: str, *, live: bool = False) -> str:
    """Return the Content-Security-Policy under which a page works: its own style and script, nothing fetched.

    live: it may ask the server that it came from, and play a clip that its user gave it.
    """
    connect, media = ("connect-src 'self'; ", "data: blob:") if live else ("", "data:")
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; {connect}img-src data:; "
        f"media-src {media}; base-uri 'none'; form-action 'none'"
    )


def page_policy() -> str:
    """Return the policy of a report."""
    return policy_of(*_pieces())


def render(
    run: Run,
    sounds: Sounds | None = None,
    reasons: Mapping[str, str] | None = None,
    *,
    home: str | None = None,
) -> str:
    """Return the page of a run. home: the address of the page with all runs, for a report that has one."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    run = readable(run)
    sounds = sounds or Sounds()
    environment = Environment(
        loader=PackageLoader("soundcert.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["visible"] = visible
    environment.filters["ticked"] = ticked
    style, script = _pieces()
    place = {r["clip"]: i for i, r in enumerate(run.records)}
    players = {str(place[h.clip]): [v.audio for v in h.versions] for h in sounds.clips}
    flags = run_flags(run)
    seen = {flag.id for flag in flags}
    heard = [f for f in sounds.flags if f.id not in seen]
    labels = label_bars(run)
    return environment.get_template("report.html.j2").render(
        run=run,
        name=visible(run.name),
        words=plain_words(run),
        contract=contract_facts(run),
        pipeline=pipeline_of(run),
        tiles=tiles(run),
        bars=probability_bars(run),
        labels=labels[:_MOST_LABELS],
        labels_left=max(0, len(labels) - _MOST_LABELS),
        outcomes=OUTCOMES,
        totals=[sum(outcome(r) == k for r in run.records) for k in range(4)],
        flags=_flag_texts(flags, ""),
        heard_flags=_flag_texts(
            in_order(heard), f"among the {len(sounds.clips)} clips whose audio was read, "
        ),
        attacks=attack_summary(run),
        cost=facts_of_cost(run),
        sounds=sounds,
        again=reproduction(run),
        style=Markup(style),
        script=Markup(script),
        policy=policy_of(style, script),
        home=home,
        data=Markup(embed(page_data(run, sounds, reasons or {}))),
        audio=Markup(embed(players)),
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _flag_texts(flags: Sequence[Flag], where: str) -> list[dict[str, str]]:
    return [
        {
            "level": f.kind.level,
            "title": f.kind.title,
            "detail": visible(where + f.detail),
            "raised_if": f.kind.raised_if,
            "meaning": f.kind.meaning,
            "action": f.kind.action,
        }
        for f in flags
    ]


def _listened(
    run: Run, audio: int, data: Path | None, base: Path | None, home: str | None
) -> tuple[str, Sounds]:
    run = readable(run)
    chosen = dict(choose(run, audio))
    sounds = listen(run, list(chosen), data=data, base=base)
    return render(run, sounds, chosen, home=home), sounds


def listen_and_render(run: Run, *, audio: int = CLIPS_WITH_AUDIO, home: str | None = None) -> str:
    """Return the page of a run with the audio of a few clips, where its recordings can be had."""
    return _listened(run, audio, None, None, home)[0]


def write_report(
    run: Run, out: Path, *, audio: int = CLIPS_WITH_AUDIO, data: Path | None = None, base: Path | None = None
) -> Sounds:
    """Write the page of a run, and return what of its clips can be heard on it."""
    text, sounds = _listened(run, audio, data, base, None)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(out.name + ".part")
        partial.write_text(text, encoding="utf-8", errors="replace")
        partial.replace(out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}; choose another --out") from None
    return sounds
