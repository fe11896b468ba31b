"""The demo in the terminal and as a page: four pipelines side by side, and why their radii differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from soundcert.bounds import format_down, format_up
from soundcert.certificate import Certificate
from soundcert.errors import TransportError

if TYPE_CHECKING:
    from soundcert.demo import DemoContract, DemoResult


@dataclass(frozen=True)
class Column:
    """One contract's facts as text, in the order of the rows."""

    title: str
    facts: dict[str, str]


def _short_unit(cert: Certificate) -> str:
    return "nats" if cert.contract.unit == "nats" else "× clip RMS"


def _file_snr(certificates: Sequence[Certificate]) -> str:
    if not certificates:
        return "-"
    try:
        values = [c.in_space("file").snr_db for c in certificates]
    except TransportError:
        return "nothing proven"
    return f"{format_up(median(values), decimals=1)} dB"


def columns(result: DemoResult) -> list[Column]:
    """Return the comparison, a column a contract. Medians are over certified and correct clips."""
    out = []
    for entry in result.contracts:
        good = entry.correct(result.truths)
        contract = entry.contract
        first = entry.certificates[0]
        facts = {
            "Certified object": contract.certified_object,
            "Noise σ": f"{contract.sigma:g} {_short_unit(first)}",
            "Changed after the noise": "; ".join(contract.post_noise_words) or "nothing",
            "Certified and correct": f"{len(good)} of {len(result.clips)} clips",
        }
        if good:
            ratio = [c.norm_ratio_db for c in good]
            name = "SNR-equivalent" if contract.about_waveform else "norm ratio, not an SNR"
            facts["Median radius (ℓ2)"] = (
                f"{format_down(median(c.radius for c in good), significant=4)} {_short_unit(first)}"
            )
            facts["The same in dB"] = f"{format_up(median(ratio), decimals=1)} dB ({name})"
            facts["Proven for the file"] = _file_snr(good)
            left = [x for x in _of_correct(entry, result.truths) if x is not None]
            facts["White noise leaves the ball at"] = f"{median(left):.1f} dB" if left else "-"
            facts["At the ceiling for n"] = f"{sum(c.saturated for c in good)} of {len(good)}"
        geometry = entry.geometry()
        facts["Displacement · sensitivity"] = (
            "1 · 1" if geometry is None else f"{geometry[0]:.3g} · {geometry[1]:.3g}"
        )
        out.append(Column(entry.title, facts))
    return out


def _of_correct(entry: DemoContract, truths: tuple[str, ...]) -> list[float | None]:
    good = {c.clip for c in entry.correct(truths)}
    return [x for c, x in zip(entry.certificates, entry.left_at_db, strict=True) if c.clip in good]


def _names(columns_: Sequence[Column]) -> list[str]:
    seen: dict[str, None] = {}
    for column in columns_:
        seen.update(dict.fromkeys(column.facts))
    return list(seen)


def lessons(result: DemoResult) -> list[str]:
    """Return in sentences why one radius is not another, with this run's own figures."""
    by_key = {entry.key: entry for entry in result.contracts}
    out = []
    wave, features = by_key["waveform"], by_key["features"]
    both = [
        (w, f, wl, fl)
        for w, f, wl, fl, truth in zip(
            wave.certificates,
            features.certificates,
            wave.left_at_db,
            features.left_at_db,
            result.truths,
            strict=True,
        )
        if w.status == f.status == "certified" and w.candidate == f.candidate == truth and wl and fl
    ]
    if both:
        w, f, wl, fl = both[0]
        quieter = "quieter" if fl > wl else "louder"
        wr, fr = format_down(w.radius, significant=3), format_down(f.radius, significant=3)
        numbers = (
            f"the waveform radius and the log-mel radius are the same number, {wr}"
            if wr == fr
            else f"the waveform radius is {wr} and the log-mel radius {fr}"
        )
        out.append(
            f"Of the clip {w.clip}, {numbers}: lengths in different spaces, which cannot be compared. "
            f"White noise on the file leaves the waveform ball at {wl:.1f} dB and the log-mel ball at {fl:.1f} dB: "
            f"noise {abs(fl - wl):.1f} dB {quieter} is enough. A listener hears decibels, not radii."
        )
    if both:
        out.append(
            "Carried to the file's samples with proof, the median waveform certificate stands at "
            f"{_file_snr(wave.correct(result.truths))}, the median log-mel certificate at "
            f"{_file_snr(features.correct(result.truths))}. Only there, against one attacker, may the two be compared."
        )
    clipped, peak = by_key["clipped"].geometry(), by_key["peak"].geometry()
    if clipped and peak:
        out.append(
            f"Clipping after the noise moves the signal that the model hears {clipped[0]:.2g} times as far as the noise "
            f"alone (and leaves {clipped[1]:.0%} of the noise); the gain to one peak level, {peak[0]:.2g} times. The "
            f"radii of these two contracts are about the waveform before that change, not about what the model hears."
        )
    wide = [c for c, t in zip(result.sounds.certificates, result.sounds.truths, strict=True)
            if c.status == "certified" and c.candidate == t]  # fmt: skip
    if wide:
        longer = result.sounds.certificates[0].contract.dimension / wave.certificates[0].contract.dimension
        out.append(
            f"The sounds below last {longer:g} times as long as the words: at one radius and one RMS their "
            f"SNR-equivalent reads {10 * math.log10(longer):.2f} dB higher, for the length alone."
        )
    saturated = sum(c.saturated for entry in result.contracts for c in entry.certificates)
    out.append(
        f"{saturated} of the certificates are at the Monte-Carlo ceiling: all {result.n} draws agreed, so the "
        "radius says how many draws were made, not how robust the model is."
    )
    return out


def demo_view(result: DemoResult) -> RenderableType:
    """Return the demo for the terminal."""
    shown = columns(result)
    table = Table(title="What each certificate covers", title_style="bold", show_lines=False, pad_edge=False)
    table.add_column("", style="bold")
    for column in shown:
        table.add_column(column.title, overflow="fold")
    for name in _names(shown):
        table.add_row(name, *(Text(c.facts.get(name, "-")) for c in shown))
    clips = Table(
        title="Certified radius by clip, in each contract's own unit", title_style="bold", pad_edge=False
    )
    clips.add_column("clip", style="bold")
    for entry in result.contracts:
        clips.add_column(entry.title, justify="right")
    for i, (clip, truth) in enumerate(zip(result.clips, result.truths, strict=True)):
        clips.add_row(clip.name, *(cell(entry.certificates[i], truth) for entry in result.contracts))
    sounds = Table(
        title=f"Environmental sounds, another model: noise on the waveform, σ = {_sound_sigma(result):g} × clip RMS",
        title_style="bold", pad_edge=False,
    )  # fmt: skip
    for name in SOUND_COLUMNS:
        sounds.add_column(name, overflow="fold")
    for row in sound_rows(result):
        sounds.add_row(*map(Text, row))
    parts: list[RenderableType] = [table, Text(), clips, Text(), sounds, Text()]
    parts += [Text(f"• {line}") for line in lessons(result)]
    return Group(*parts)


SOUND_COLUMNS = ("sound", "answer", "radius (× clip RMS)", "SNR-equivalent", "proven for the file")


def _sound_sigma(result: DemoResult) -> float:
    return result.sounds.certificates[0].sigma


def sound_rows(result: DemoResult) -> list[tuple[str, ...]]:
    """Return the environmental sounds' certificates as text, in the order of SOUND_COLUMNS."""
    out: list[tuple[str, ...]] = []
    for cert, truth in zip(result.sounds.certificates, result.sounds.truths, strict=True):
        if cert.status == "abstained":
            out.append((cert.clip, "abstains", "-", "-", "-"))
            continue
        right = "" if cert.candidate == truth else ", which is wrong"
        out.append(
            (
                cert.clip,
                cert.candidate.replace("_", " ") + right,
                format_down(cert.radius, significant=3) + (" (ceiling)" if cert.saturated else ""),
                f"{format_up(cert.norm_ratio_db, decimals=1)} dB",
                _file_snr([cert]),
            )
        )
    return out


def cell(cert: Certificate, truth: str) -> str:
    if cert.status == "abstained":
        return "abstains"
    wrong = "" if cert.candidate == truth else f" as {cert.candidate!r}"
    return f"{format_down(cert.radius, significant=3)}{wrong}{' (ceiling)' if cert.saturated else ''}"


def demo_page(result: DemoResult, players: Sequence[tuple[str, str]]) -> str:
    """Return the page: one file, nothing fetched from anywhere."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from soundcert.report.html import ticked

    environment = Environment(
        loader=PackageLoader("soundcert.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["ticked"] = ticked
    shown = columns(result)
    rows = [
        {
            "name": clip.name,
            "truth": truth,
            "original": original,
            "noisy": noisy,
            "cells": [cell(entry.certificates[i], truth) for entry in result.contracts],
        }
        for i, (clip, truth, (original, noisy)) in enumerate(
            zip(result.clips, result.truths, players[: len(result.clips)], strict=True)
        )
    ]
    heard = [
        {"cells": row[1:], "name": row[0], "original": original, "noisy": noisy}
        for row, (original, noisy) in zip(sound_rows(result), players[len(result.clips) :], strict=True)
    ]
    return environment.get_template("demo.html.j2").render(
        result=result, columns=shown, names=_names(shown), rows=rows, lessons=lessons(result),
        sounds=heard, sound_columns=SOUND_COLUMNS, sound_sigma=_sound_sigma(result),
    )  # fmt: skip
