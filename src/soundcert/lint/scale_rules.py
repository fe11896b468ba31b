"""Rules about signal-relative scales: SNRs and what they follow from."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from soundcert.lint.numbers import Number, one_of, show
from soundcert.lint.registry import Hit, about_features, object_words, report_rule, rule, whole_number
from soundcert.lint.report import Place, Report, Result, Stated

# The likelier first: 80 000 samples are 5 s at 16 kHz before they are 10 s at 8 kHz.
_RATES = (16_000, 44_100, 22_050, 32_000, 48_000, 8000, 24_000)
_SECONDS = (1, 5, 10, 2, 4, 3, 0.5, 8, 30)


def _snr(result: Result) -> Stated | None:
    for name in ("median_snr", "snr"):
        item = result.fields.get(name)
        if item and item.number and item.number.finite:
            return item
    return None


def _radius(result: Result) -> Number | None:
    found = result.number("median_radius", "radius")
    return found if found and found.value > 0 else None


def _length(result: Result) -> float | None:
    """Return the number of samples of a clip, if the report says it."""
    rate, seconds = result.number("rate"), result.number("seconds")
    if rate and seconds and rate.value > 0 and seconds.value > 0:
        return rate.value * seconds.value
    d = whole_number(result, "dimension")
    return float(d) if d and not about_features(object_words(result)) else None


def _norm_squared(snr: Number, radius: Number) -> tuple[float, float]:
    """Return the interval of ‖v‖² that an SNR and a radius imply."""
    low = radius.low * 10 ** (snr.low / 20)
    high = radius.high * 10 ** (snr.high / 20)
    return max(low, 0.0) ** 2, high**2


def implied_length(result: Result) -> tuple[float, str] | None:
    """Return d where ‖v‖² = d is what SNR and radius say, and it is a stated or usual length at unit RMS."""
    item, radius = _snr(result), _radius(result)
    if not (item and item.number and radius) or item.number.step > 0.06 or abs(item.number.value) > 400:
        return None
    low, high = _norm_squared(item.number, radius)
    stated = _length(result)
    if stated is not None:
        return (stated, f"√{show(stated)}, the number of samples") if low <= stated <= high else None
    for rate in _RATES:
        for seconds in _SECONDS:
            if low <= rate * seconds <= high:
                return rate * seconds, f"√{show(rate * seconds)}: {show(seconds)} s at {show(rate)} Hz"
    return None


@rule(
    "snr-of-features", "error",
    raised_if="an SNR is quoted for an object that is said to be features, a spectrogram or activations.",
    meaning="‖v‖/R of features depends on gain, unit and log floor. It is a norm ratio, says nothing about loudness, "
    "and must not be ranked against an SNR of waveforms.",
    question="What is this ratio of? Can the radius be carried to the waveform instead?",
)  # fmt: skip
def of_features(result: Result) -> Iterator[Hit]:
    item = _snr(result)
    where = result.text("perturbation_location")
    if item and (about_features(where) if where else about_features(object_words(result))):
        words = result.text("certified_object") or where or result.text("kind")
        yield Hit(f"{item.label} {item.text} for {words[:80]}", item.place)


@rule(
    "snr-not-from-radius", "error",
    raised_if="20·log10(‖v‖/R) is not the SNR within the digits: of one radius, or of a row. Of medians, where the norm "
    "is the same for every clip, it is a warning, and raised from 1 dB.",
    meaning="The SNR-equivalent follows from the radius and the norm of the object: 20·log10(‖v‖/R), with ‖v‖ = RMS·√d. "
    "A median of SNRs is near to the SNR of the medians only if norms hardly differ.",
    question="Which norm, radius and clips does the SNR belong to? Is it 20·log10 and not 10·log10?",
)  # fmt: skip
def not_from_radius(result: Result) -> Iterator[Hit]:
    rows = result.rows
    if rows is not None and rows.snr is not None and rows.norm is not None:
        with np.errstate(all="ignore"):
            expected = 20 * np.log10(rows.norm / rows.radius)
            wrong = np.isfinite(expected) & np.isfinite(rows.snr) & (np.abs(expected - rows.snr) > 1e-6)
        if wrong.any():
            i = int(np.argmax(wrong))
            yield Hit(
                f"{int(wrong.sum())} records have an SNR that is not 20·log10(norm/radius); the first says "
                f"{rows.snr[i]:.4f} dB and gives {expected[i]:.4f}",
                Place(rows.place.file, int(rows.line[i])),
            )
        return
    item, norm, rms, length = (
        _snr(result),
        result.number("object_norm"),
        result.number("rms"),
        _length(result),
    )
    if item is None or item.number is None or abs(item.number.value) > 400:
        return
    norms: tuple[float, float] | None = None
    if norm and norm.value > 0:
        norms = (norm.low, norm.high)
    elif rms and length and rms.value > 0:
        norms = (rms.value * math.sqrt(length),) * 2  # a target, not a measurement
    single = item.name == "snr" and "radius" in result.fields and "median_radius" not in result.fields
    radius = _radius(result)
    if norms is None or radius is None or norms[0] <= 0 or radius.low <= 0:
        return
    low, high = 20 * math.log10(norms[0] / radius.high), 20 * math.log10(norms[1] / radius.low)
    room = 0.0 if single else 1.0
    if item.number.high < low - room or item.number.low > high + room:
        middle = f"{(low + high) / 2:.2f} dB"
        yield Hit(
            f"{item.label} {item.text}, but norm and radius give {middle}",
            item.place, None if single else "warning",
        )  # fmt: skip


@rule(
    "snr-is-unit-rms", "warning",
    raised_if="SNR and radius together say that ‖v‖² is the number of samples (the stated one, or that of a usual length "
    "and rate), and the gain policy does not say that clips are scaled to RMS 1.",
    meaning="Then every clip has the norm √d, as after a scaling to unit RMS: the SNR is the radius and the clip's length "
    "in another unit, and tells nothing about the signals' own energy.",
    question="Is each clip scaled to RMS 1 before the noise?",
)  # fmt: skip
def unit_rms(result: Result) -> Iterator[Hit]:
    item, found = _snr(result), implied_length(result)
    gain = result.text("gain_policy", "unit", "rms", "certified_object")
    said = one_of(["rms", "unit energy", "unit power"], gain) or "rms" in result.fields
    if item and found and not said and not about_features(object_words(result)):
        yield Hit(f"{item.label} {item.text} with this radius means ‖v‖ = {found[1]}", item.place)


@report_rule(
    "snr-is-length", "warning",
    raised_if="two results have the same radius, and their SNRs differ by 10·log10 of the ratio of their lengths.",
    meaning="At equal radius and RMS the SNR grows by 10·log10 of the clip's length: the difference says how long the "
    "clips are, and not that one data set is more robust or its perturbations quieter.",
    question="How do the two compare in a scale that does not grow with length, such as R/σ or the level of the "
    "perturbation within 20 ms?",
)  # fmt: skip
def is_length(report: Report) -> Iterator[Hit]:
    found = [
        (r, item, radius, d)
        for r in report.results
        if (item := _snr(r))
        and (radius := _radius(r))
        and (d := _length(r) or (implied_length(r) or (None,))[0])
    ]
    for i, (a, first, ra, da) in enumerate(found[:100]):
        for b, second, rb, db in found[i + 1 : 100]:
            x, y = first.number, second.number
            if x is None or y is None or da == db or not (ra.may_be(rb.value) or rb.may_be(ra.value)):
                continue
            expected = 10 * math.log10(db / da)
            if abs(expected) > 0.5 and abs((y.value - x.value) - expected) <= x.step + y.step + 0.01:
                yield Hit(
                    f"{first.text} ({a.name}) and {second.text} ({b.name}) at the same radius differ by "
                    f"{abs(y.value - x.value):.2f} dB, which is 10·log10({show(max(da, db))}/{show(min(da, db))})",
                    second.place,
                )


@rule(
    "snr-without-length", "warning",
    raised_if="an SNR is given and sampling rate, clip length or dimension is not.",
    meaning="At equal radius and level an SNR grows with the number of samples, by 3 dB for twice as many.",
    question="How long are the clips, at which sampling rate?",
)  # fmt: skip
def without_length(result: Result) -> Iterator[Hit]:
    item = _snr(result) or result.fields.get("file_snr")
    if item and _length(result) is None and not about_features(object_words(result)):
        yield Hit(f"{item.label} {item.text} is given without the number of samples of a clip", item.place)
