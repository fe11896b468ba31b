"""Collects what a reader finds into one report: fields by result, curves, rows."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from soundcert.lint.fields import FIELDS, point_of, resolve, stated
from soundcert.lint.numbers import clean, parse, plain, several
from soundcert.lint.prose import mentions, parts_of
from soundcert.lint.report import ASKED_AS, Place, Point, Report, Result, Rows, Stated

# As soundcert describes its stages.
_FRONT = (
    ("rate", re.compile(r"resample\([^()]*?rate=(\d{1,9})"), "Hz"),
    ("seconds", re.compile(r"fit\([^()]*?seconds=([\d.]{1,20})"), "s"),
)
_SAMPLES = re.compile(r"fit\([^()]*?samples=(\d{1,12})")
MAX_RESULTS = 1000
MAX_UNREAD = 50


class Builder:
    """Collects fields. The result named '' is what is said of all results."""

    def __init__(self, file: str, form: str) -> None:
        self.file, self.form = file, form
        self._fields: dict[str, dict[str, Stated]] = {"": {}}
        self._curves: dict[str, list[Point]] = {}
        self._rows: dict[str, Rows] = {}
        self._again: dict[str, list[Stated]] = {}
        self._unread: dict[str, None] = {}
        self._passed: dict[str, tuple[int | None, str]] = {}
        self.own = False
        self.partly = False

    def add(self, label: str, text: str, line: int | None = None, result: str = "") -> bool:
        """Take a label and its value; False where the label means no field that is known."""
        point = point_of(label)
        found = resolve(label)
        if point is not None and (found is None or found[0] in ("certified_accuracy", "radius")):
            accuracy = parse(text, "share", "%" if "%" in label or "percent" in label.lower() else "")
            if accuracy is not None and stated(text):
                self.point(Point(point, accuracy, Place(self.file, line)), result)
            return True
        if found is None:
            self.unread(label)
            self.passed(text, line, label)
            return False
        names = set()
        for part, value in parts_of(label, text):
            name, hint = resolve(part) or found
            names.add(name)
            if stated(value):
                self.put(name, part, value, line, result, hint=hint)
        self.passed(text, line, label, names)
        return True

    def put(
        self, name: str, label: str, text: str, line: int | None = None, result: str = "", *, hint: str = ""
    ) -> None:
        """Take a value for a known field."""
        kind = FIELDS[name].kind
        text = plain(text)
        number = None if kind == "text" else parse(text, kind, hint)
        if name == "sigma" and number is None and resolve(label) == ("sigma", hint):
            # `noise: Gaussian` names the family.
            name = "noise" if "noise" in label.lower() else name
        if name == "noise" and (value := parse(text)) is not None and value.text[:1] in "0123456789.+-":
            name, number = "sigma", value
        if name in ("sigma", "n", "alpha", "n0") and several(text) and not _of_others(text, name):
            number = None
        if name == "clips" and re.search(r"\d[^\d,]*,\s*\d+\s+[a-z]", text):
            number = None  # `284 certified, 13 wrong`: a tally, not one count
        unit = hint or (number.unit if number else "")
        item = Stated(name, clean(plain(label), 80), text, Place(self.file, line), number, unit)
        fields = self._fields_of(result)
        before = fields.get(name)
        if before is None:
            fields[name] = item
        elif not _same(before, item):
            self._again.setdefault(result, []).append(item)

    def knows(self, name: str) -> bool:
        """Whether a field is known for all results."""
        return name in self._fields[""]

    def point(self, point: Point, result: str = "") -> None:
        self._fields_of(result)
        self._curves.setdefault(result, []).append(point)

    def rows(self, rows: Rows, result: str = "") -> None:
        self._fields_of(result)
        self._rows[result] = rows

    def unread(self, label: str) -> None:
        if len(self._unread) < MAX_UNREAD:
            self._unread[clean(plain(label), 60)] = None

    def passed(self, text: str, line: int | None, label: str = "", read: Collection[str] = ()) -> None:
        """Remember which fields a text that is not read has words of. read: those that were taken from it."""
        if " " in text or "=" in text:
            about = f"{label}: {text}" if label else text
            for name in mentions(text) - {ASKED_AS.get(name, name) for name in read}:
                self._passed.setdefault(name, (line, clean(plain(about), 60)))

    def _fields_of(self, result: str) -> dict[str, Stated]:
        if result not in self._fields and len(self._fields) > MAX_RESULTS:
            result = ""
        return self._fields.setdefault(result, {})

    def _read_front(self) -> None:
        """Take the sampling rate and the clip length from the steps before the noise, where they say them."""
        for result, fields in list(self._fields.items()):
            item = fields.get("pre_noise")
            for name, pattern, unit in _FRONT if item else ():
                match = pattern.search(item.text) if item else None
                if item and match and name not in fields and name not in self._fields[""]:
                    self.put(name, item.label, f"{match[1]} {unit}", item.place.line, result)
            rate, samples = (p.search(item.text) if item else None for p in (_FRONT[0][1], _SAMPLES))
            known = "seconds" in fields or "seconds" in self._fields[""]
            if item and rate and samples and not known:
                seconds = int(samples[1]) / max(1, int(rate[1]))
                self.put("seconds", item.label, f"{seconds:.6g} s", item.place.line, result)

    def report(self) -> Report:
        """Return the report: what is said of all results stands in each of them."""
        self._read_front()
        common = self._fields[""]
        names = [n for n in self._fields if n] or [""]
        shared_curve, shared_rows = self._curves.get("", []), self._rows.get("")
        if len(names) > 1 and (shared_curve or shared_rows is not None):
            names = ["", *names]
        out = []
        for name in names:
            fields = {**common, **self._fields.get(name, {})}
            alone = name == "" or len(names) == 1
            curve = self._curves.get(name, []) + (shared_curve if alone and name else [])
            rows = self._rows.get(name, shared_rows if alone else None)
            again = tuple(self._again.get(name, [])) + (tuple(self._again.get("", [])) if name else ())
            points = tuple(sorted(curve, key=lambda p: p.radius.value))
            out.append(Result(name, fields, points, rows, again, self.own))
        lines = {
            f"line {line}: {text}" if line else text: None
            for name, (line, text) in sorted(self._passed.items(), key=lambda item: item[1][0] or 0)
            if not any(r.says(name) for r in out)
        }
        return Report(
            Place(self.file),
            self.form,
            tuple(out),
            (*lines, *self._unread),
            {name: Place(self.file, line) for name, (line, _) in self._passed.items()},
            self.partly,
        )


def _of_others(text: str, name: str) -> bool:
    """Whether a text assigns to other names: then it is no list of one field's values."""
    names = re.findall(r"([^\W\d]\w{0,20})\s*=", text)
    return any((resolve(other) or ("",))[0] != name for other in names)


def _same(a: Stated, b: Stated) -> bool:
    if a.number and b.number and a.name in ("sigma", "n", "n0", "alpha", "clips", "rate"):
        return math.isclose(a.number.value, b.number.value, rel_tol=1e-9)
    if a.number and b.number:
        return (
            a.number.may_be(b.number.value)
            or b.number.may_be(a.number.value)
            or a.number.value == b.number.value
        )
    said = (a.text.lower().rstrip("."), b.text.lower().rstrip("."))
    return said[0] == said[1] or any(t.startswith("given ") for t in said)
