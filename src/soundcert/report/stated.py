"""What every report has to state, field by field: the same facts in each form, under names that `lint` asks for.

A field that the run did not record is left out, so that whoever reads the report, or lints it, asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from soundcert.bounds import format_down, format_up
from soundcert.data.config import split_words
from soundcert.report.accuracy import data_name, labelled
from soundcert.report.words import tries_words
from soundcert.runs import Run
from soundcert.stages import FEATURE_STAGES

_NOISES = {"gaussian_noise": "Gaussian, independent for each value"}


def clock_of(run: Run) -> tuple[int | None, float | None]:
    """Return the sampling rate in hertz and the length in seconds of a clip where the noise is added, if known.

    Features refuse any rate but their own, so that it is the clip's; a resampler gives the rate that it makes.
    """
    rate: int | None = None
    seconds: float | None = None
    samples: int | None = None
    for entry in run.config.get("pipeline") or ():
        name, fields = next(iter(entry.items())) if isinstance(entry, Mapping) and entry else (entry, None)
        fields = fields if isinstance(fields, Mapping) else {}
        if name in FEATURE_STAGES and rate is None:
            rate = _whole(fields.get("rate", 16_000))
        elif name == "resample":
            rate = _whole(fields.get("rate"))
        elif name == "fit" and isinstance(fields.get("seconds"), int | float):
            seconds = float(fields["seconds"])
        elif name == "fit":
            samples = _whole(fields.get("samples"))
    if samples is None and run.about_waveform and len(sizes := sizes_of(run)) == 1:
        samples = sizes[0] // channels_of(run)
    if seconds is None and rate and samples:
        seconds = samples / rate
    return rate, seconds


def sizes_of(run: Run) -> list[int]:
    """Return the numbers of values that the clips' objects have, each once, from the least; of the first if need be."""
    sizes = {size for r in run.usable if (size := _whole(r.get("dimension")))}
    first = _whole(run.contract.get("dimension"))
    return sorted(sizes) or ([first] if first else [])


def channels_of(run: Run) -> int:
    """Return how many channels the objects have, whose values are counted together."""
    return _whole(run.contract.get("channels")) or 1


def length_text(run: Run) -> str | None:
    """Return how long the clips are where the noise is added, in seconds; None where that is not known."""
    rate, seconds = clock_of(run)
    if seconds:
        return f"{seconds:g} s"
    sizes = sizes_of(run)
    if not (run.about_waveform and rate and len(sizes) > 1):
        return None
    a_second = rate * channels_of(run)
    return f"{sizes[0] / a_second:g} s to {sizes[-1] / a_second:g} s"


def size_text(run: Run) -> str:
    """Return how many values the objects have."""
    sizes = sizes_of(run)
    if not sizes:
        return str(run.contract.get("dimension"))
    return f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def stated(run: Run) -> list[tuple[str, str]]:
    """Return the fields with their values as text, in the order to be read. Radii are rounded down, decibels up."""
    c, certify, summary = run.contract, run.certify, run.summary
    rate, _ = clock_of(run)
    first: Mapping[str, Any] = run.usable[0] if run.usable else {}
    out: list[tuple[str, object]] = [
        ("Certified object", c.get("certified_object")),
        ("Perturbation location", c.get("perturbation_location")),
        ("Gain policy", c.get("gain_policy")),
        ("Changes after the noise", _changes(c)),
        ("Noise family", _NOISES.get(str(c.get("noise")), c.get("noise"))),
        ("σ", _number(c.get("sigma"))),
        ("Unit", c.get("unit")),
        ("Norm", {"l2": "ℓ2"}.get(str(c.get("norm")), c.get("norm"))),
        *((key, _number(certify.get(key, first.get(key)))) for key in ("n0", "n")),
        ("α", _number(certify.get("alpha", first.get("alpha")))),
        ("Kept of several", tries_words(certify)),
        ("α set aside", _number(min((r.get("set_aside", 0.0) for r in run.usable), default=0.0) or None)),
        ("Bound", certify.get("bound", first.get("bound"))),
        ("Seed", _number(certify.get("seed", first.get("seed")))),
        ("Data set", data_name(run) if run.config.get("data") else None),
        ("Split", split_words(run.config.get("data") or {})),
        ("Number of clips", summary["clips"] - summary["failed"]),
        ("Clips that could not be used", summary["failed"] or None),
        ("Sampling rate", f"{rate} Hz" if rate else None),
        ("Clip length", length_text(run)),
        ("Abstained", f"{summary['abstained']} of {len(run.usable)}"),
        ("Accuracy interval", _interval(run)),
    ]  # fmt: skip
    if "median_radius" in summary:
        out.append(("Median radius", format_down(summary["median_radius"], significant=6)))
    for key, name in (
        ("median_snr_db", "Median SNR-equivalent (dB)"),
        ("median_norm_ratio_db", "Median norm ratio (dB)"),
    ):
        if key in summary:
            out.append((name, format_up(summary[key], decimals=2)))
    if "median_radius" in summary:
        out.append(("Medians over", summary["medians_over"]))
    if summary["certified"]:
        share = math.floor(1000 * summary["saturated_share_of_certified"]) / 10
        out.append(("Saturated certificates", f"{share:.1f} % of the certified"))
    ceilings = {r["ceiling"] for r in run.usable}
    if len(ceilings) == 1:
        name = "Largest radius asked about" if certify.get("decide") else "Monte-Carlo ceiling"
        out.append((name, format_down(ceilings.pop(), significant=6)))
    return [(name, str(value)) for name, value in out if value is not None]


def _changes(contract: Mapping[str, Any]) -> str | None:
    changes = contract.get("post_noise")
    if not isinstance(changes, list):
        return None
    return ", ".join(map(str, changes)) or "none"


def _number(value: object) -> str | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return repr(value)


def _interval(run: Run) -> str | None:
    ends = run.summary.get("smoothed_accuracy_interval_95")
    if ends:
        return f"{format_down(ends[0], decimals=4)} to {format_up(ends[1], decimals=4)}, 95 %, of the smoothed accuracy"
    if reason := run.summary.get("no_interval"):
        return f"none: {reason}"
    return None if labelled(run) else "none: the clips have no labels"
