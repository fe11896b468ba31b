"""Reads tables of radii: the CSV or TSV that locuslab/smoothing's certify.py writes, and its kin.

That format has the columns idx, label, predict, radius, correct, time, separated by tabs. An abstention has
predict −1 and radius 0.0. Radii are printed by `{:.3}`, three significant digits rounded to nearest, so a
printed radius can be larger than what was certified. σ, n0, n and α are not in the file.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from itertools import chain, islice

import numpy as np

from soundcert.errors import InputError
from soundcert.lint.building import Builder
from soundcert.lint.fields import resolve
from soundcert.lint.numbers import clean, parse
from soundcert.lint.report import Place, Rows

MAX_ROWS = 5_000_000
_ABSTAIN = {"-1", "-1.0", "abstain", "abstained", "abstention"}
#: How an outcome begins that is a certificate, be it of the wrong class.
CERTIFIED = ("certified", "wrong label")
_COLUMNS = {
    "radius": (
        "radius",
        "certified_radius",
        "raw_radius",
        "r",
        "l2_radius",
        "certified radius",
        "raw radius",
    ),
    "predict": ("predict", "prediction", "predicted", "pred", "label_hat", "predicted_label"),
    "label": ("label", "truth", "target", "true_label", "y", "class", "ground_truth"),
    "correct": ("correct", "is_correct", "ok"),
    "status": ("status", "outcome"),
    "index": ("idx", "index", "id", "clip", "file", "name", "i"),
}
_NO_RADII = " has no column of radii: expected a header such as idx, label, predict, radius, correct"


def looks_like_table(first: str) -> bool:
    """Whether a file's first line is the header of a table of radii."""
    return any(sign in first and _positions(_split(first, sign)).get("radius") is not None for sign in "\t,;")


def _split(line: str, sign: str) -> list[str]:
    return [c.strip().strip('"').lstrip("\ufeff") for c in line.split(sign)]


def _positions(header: Sequence[str]) -> dict[str, int]:
    low = [h.lower().strip() for h in header]
    found = {what: next((low.index(n) for n in names if n in low), None) for what, names in _COLUMNS.items()}
    if found["radius"] is None:
        hits = [i for i, h in enumerate(header) if (f := resolve(h)) and f[0] == "radius"]
        found["radius"] = hits[0] if hits else None
    return {what: at for what, at in found.items() if at is not None}


def read_table(lines: Iterable[str], out: Builder) -> None:
    """Read a table with a header. Columns of known fields that say the same in each row are fields."""
    source = iter(lines)
    first = next(source, "")
    sign = max("\t,;", key=first.count)
    try:
        header = next(csv.reader([first.lstrip("\ufeff")], delimiter=sign), [])
        at = _positions([h.strip() for h in header])
        if "radius" not in at and "status" not in at:
            raise InputError(out.file + _NO_RADII)
        _read(csv.reader(source, delimiter=sign), header, at, out)
    except csv.Error as error:
        raise InputError(f"{out.file} is not a table: {clean(str(error))}") from None


def _read(rows: Iterable[list[str]], header: list[str], at: dict[str, int], out: Builder) -> None:
    constants = {
        i: "" for i, h in enumerate(header) if i not in at.values() and (f := resolve(h)) and f[0] != "radius"
    }
    if "contract.gain_policy" in header:
        # A clip's own factor, and no policy, even where it is that of each.
        constants = {i: "" for i in constants if header[i] != "gain"}
    radius_at, width = at.get("radius"), len(header)
    predict_at, label_at = at.get("predict"), at.get("label")
    correct_at, status_at, index_at = at.get("correct"), at.get("status"), at.get("index")
    radii: list[str] = []
    lines: list[int] = []
    predicted: list[str] = []
    labels: list[str] = []
    correct: list[int] = []
    index: list[str] = []
    said: list[bool] = []
    certified: list[bool] = []
    flags = {"1": 1, "1.0": 1, "true": 1, "True": 1, "0": 0, "0.0": 0, "false": 0, "False": 0}
    varying: set[int] = set()
    policy_at, asked = header.index("policy") if "policy" in header else None, False
    for line, cells in enumerate(rows, start=2):
        if not cells:
            continue
        row = cells
        if len(cells) < width:
            if not any(c.strip() for c in cells):
                continue
            row = cells + [""] * (width - len(cells))
        status = row[status_at].strip().lower() if status_at is not None else ""
        if status == "failed":  # a clip that could not be used has no certificate to be wrong
            continue
        if len(radii) >= MAX_ROWS:
            raise InputError(f"{out.file} has more than {MAX_ROWS} rows")
        radii.append(row[radius_at].strip() if radius_at is not None else "")
        lines.append(line)
        guess = row[predict_at].strip() if predict_at is not None else ""
        predicted.append(guess)
        labels.append(row[label_at].strip() if label_at is not None else "")
        correct.append(flags.get(row[correct_at].strip(), -1) if correct_at is not None else -1)
        index.append(row[index_at] if index_at is not None else "")
        said.append(guess.lower() in _ABSTAIN or status in _ABSTAIN)
        certified.append(status.startswith(CERTIFIED))
        asked |= policy_at is not None and row[policy_at] == "decide"
        for i, value in constants.items():
            if not value:
                constants[i] = row[i]
            elif value != row[i]:
                varying.add(i)
    if not radii:
        raise InputError(f"{out.file} has a header and no rows")
    if radius_at is None and not all(said):
        raise InputError(out.file + _NO_RADII)
    for i, value in constants.items():
        if asked and header[i] == "ceiling":
            continue  # the largest radius that was asked about
        if i not in varying and value:
            out.add(header[i], value, 2)
        elif i in varying and (field := resolve(header[i])):
            out.put(field[0], header[i], "given for each clip", 1)
    if status_at is not None and (any(said) or any(certified)):
        # A column that says how each clip ended says how often the classifier abstained, if only that it never did.
        out.put("abstained", header[status_at], str(sum(said)), 1)
    out.rows(
        rows_of_texts(
            radii, lines, Place(out.file, 1),
            predicted=predicted, label=labels, correct=correct, abstained=said, index=index, certified=certified,
        )
    )  # fmt: skip


_PLAIN = re.compile(r"[+-]?(\d*)\.?(\d*)(?:[eE]([+-]?\d{1,4}))?$")


def _printed(text: str) -> tuple[float, float]:
    """Return a printed radius and one unit of its last digit; NaN where it is no number."""
    match = _PLAIN.match(text) if len(text) <= 64 else None
    if not match:
        other = parse(text[:64]) if text else None
        return (other.value, other.step) if other else (math.nan, 0.0)
    try:
        return float(text), float(f"1e{int(match[3] or 0) - len(match[2])}")
    except ValueError:
        return math.nan, 0.0


def rows_of_texts(
    radii: Sequence[str],
    lines: Sequence[int],
    place: Place,
    *,
    predicted: Sequence[str] = (),
    label: Sequence[str] = (),
    correct: Sequence[int] = (),
    abstained: Sequence[bool] = (),
    index: Sequence[str] = (),
    certified: Sequence[bool] = (),
) -> Rows:
    """Return rows from radii as they are printed. Each distinct text is read once."""
    read: dict[str, tuple[float, float]] = {}
    for text in radii:
        if text not in read:
            read[text] = _printed(text)
    pairs = np.fromiter(chain.from_iterable(read[t] for t in radii), float, 2 * len(radii)).reshape(-1, 2)
    size = len(radii)
    return Rows(
        place,
        pairs[:, 0],
        pairs[:, 1],
        np.fromiter(islice(chain(abstained, [False] * size), size), bool, size),
        list(predicted) or [""] * size,
        list(label) or [""] * size,
        np.fromiter(islice(chain(correct, [-1] * size), size), np.int8, size),
        np.fromiter(lines, np.int64, size),
        list(index),
        certified=np.fromiter(islice(chain(certified, [False] * size), size), bool, size),
    )
