"""Numbers as they are printed: a number stands for an interval of its last digit.

Conventions
-----------
`Number.value` is in the field's base unit (seconds, hertz, shares from 0 to 1), `low` and `high` are one
unit of the last printed digit away: whichever way the authors rounded, the figure lies between them.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Kind = Literal["text", "number", "count", "share", "probability", "db", "seconds", "hertz"]

MAX_TEXT = 300
_THIN = "\u00a0\u2009\u202f"
_CORE = rf"(?:\d{{1,3}}(?:[ ,_'{_THIN}]\d{{3}})+(?![\d])(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+)"
_NUMBER = re.compile(rf"[+-]?{_CORE}(?:[eE][+-]?\d{{1,4}})?")
_TIMES_TEN = re.compile(r"\s*[×x*·]\s*10\s*\^?\s*\{?([+-]?\d{1,4})\}?")
_POWER = re.compile(r"10\^\{?([+-]?\d{1,4})\}?")
_SUPERSCRIPT = re.compile(r"10([⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+)")
_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_APPROXIMATE = re.compile(r"^(?:~|≈|≃|about\b|roughly\b|approximately\b|approx\.?|ca\.)\s*", re.I)
_PREFIX = re.compile(r"^(?:[^\W\d][^\d=:]{0,24}\d?)?\s*(?:=|:|≤|≥|<|>|\\le|\\ge)+\s*")
_NAMED = {"nan": math.nan, "inf": math.inf, "infinity": math.inf, "∞": math.inf, "-inf": -math.inf}
_SCALES: dict[Kind, dict[str, float]] = {
    "seconds": {"s": 1, "sec": 1, "second": 1, "seconds": 1, "ms": 1e-3, "milliseconds": 1e-3, "min": 60},
    "hertz": {"hz": 1, "khz": 1e3, "k": 1e3, "mhz": 1e6},
    "count": {"k": 1e3, "m": 1e6, "thousand": 1e3, "million": 1e6},
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]{0,20}[ -/]{0,5}[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)?|[@-Z\\-_])?")


@dataclass(frozen=True)
class Number:
    """A printed number. step: one unit of its last digit, in the base unit. digits: significant digits."""

    value: float
    step: float = 0.0
    digits: int = 17
    unit: str = ""
    text: str = ""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.value)

    @property
    def low(self) -> float:
        return self.value - self.step - 1e-9 * abs(self.value)

    @property
    def high(self) -> float:
        return self.value + self.step + 1e-9 * abs(self.value)

    def may_be(self, x: float) -> bool:
        return self.low <= x <= self.high


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Return text without control characters and escape sequences, on one line, at most `limit` characters."""
    text = _CONTROL.sub("", _ESCAPE.sub("", text[: 4 * limit]))
    text = "".join(c for c in " ".join(text.split()) if not 0xD800 <= ord(c) < 0xE000)
    return text if len(text) <= limit else text[: limit - 1] + "…"


@lru_cache(8192)
def plain(text: str) -> str:
    """Return cleaned text without Markdown emphasis, HTML tags and TeX."""
    text = html.unescape(clean(text))
    text = re.sub(r"<[^<>]{0,60}>", "", text)
    text = text.replace("\\times", "×").replace("\\%", "%").replace("\\sigma", "σ").replace("\\alpha", "α")
    text = re.sub(r"\\[,;! ]", "", text)
    text = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)
    return clean(re.sub(r"\*\*|__|[`$]|(?<!\w)\*|\*(?!\w)", "", text)).strip()


def parse(text: str, kind: Kind = "number", hint: str = "") -> Number | None:
    """Read the number that a text begins with; None where there is none. hint: the unit in the label."""
    raw = plain(text)
    t = _SUPERSCRIPT.sub(lambda m: "10^" + m[1].translate(_SUPER), raw).replace("−", "-")
    about = 1.0
    for _ in range(2):
        shorter = _APPROXIMATE.sub("", t)
        about = about if shorter == t else 5.0
        t = _PREFIX.sub("", shorter).strip()
    word = t.split()[0].lower().rstrip(".,;") if t else ""
    if word.lstrip("+") in _NAMED:
        return Number(_NAMED[word.lstrip("+")], text=raw)
    power = _POWER.match(t)
    match = power or _NUMBER.match(t)
    if match is None:
        return None
    if power:
        value, decimals, digits = _exact(10.0, int(power[1])), 0, 1
        step = 0.0
        rest = t[power.end() :]
    else:
        mantissa, exponent = _split(match[0])
        rest = t[match.end() :]
        times = _TIMES_TEN.match(rest)
        if times:
            exponent += int(times[1])
            rest = rest[times.end() :]
        try:
            value = float(f"{mantissa}e{exponent}")
        except (ValueError, OverflowError):
            return None
        decimals = len(mantissa.partition(".")[2])
        digits = len(mantissa.replace(".", "").lstrip("+-0")) or 1
        if kind == "number" and "." not in mantissa:
            # A radius of 20 may be 29.2 in one digit.
            decimals = len(mantissa.rstrip("0")) - len(mantissa) if mantissa.strip("+-0") else 0
            digits += decimals
        step = _exact(10.0, exponent - decimals)
        ratio = re.match(r"\s*/\s*(\d{1,9})(?![\d.])", rest)
        if ratio and not decimals and int(ratio[1]):
            value, step, rest = value / int(ratio[1]), 0.0, rest[ratio.end() :]
        room = re.match(r"\((\d{1,3})\)", rest)
        if room:
            step, rest = step * int(room[1]), rest[room.end() :]
        spread = re.match(rf"\s*(?:±|\+/-|\+-)\s*({_CORE})", rest)
        if spread:
            step, rest = max(step, float(_split(spread[1])[0])), rest[spread.end() :]
    unit = rest.strip().strip("()[],;").strip()
    scale = _scale(kind, unit, hint, value)
    return Number(value * scale, step * scale * about, digits, unit[:80], raw)


def _scale(kind: Kind, unit: str, hint: str, value: float) -> float:
    words = [w for w in (unit.split()[:1] or [""]) + hint.split()[:1] if w]
    first = (words[0] if words else "").strip("()[],;.").lower()
    if kind in ("share", "probability"):
        marked = unit.startswith(("%", "percent", "per cent")) or hint.startswith(("%", "percent"))
        # An accuracy of 65.53 can only be per cent; a probability is taken at its word.
        return 0.01 if marked or (kind == "share" and 1.0 < value <= 100.0) else 1.0
    return _SCALES.get(kind, {}).get(first, 1.0)


def _split(text: str) -> tuple[str, int]:
    """Return a number's mantissa with a point for the decimal sign, and its exponent."""
    body, _, exponent = text.replace("E", "e").partition("e")
    sign = body[0] if body[0] in "+-" else ""
    body = body.lstrip("+-")
    if re.fullmatch(rf"[1-9]\d{{0,2}}(?:[ ,_'{_THIN}]\d{{3}})+(?:\.\d+)?", body):
        body = re.sub(rf"[ ,_'{_THIN}]", "", body)
    body = re.sub(rf"[ _'{_THIN}]", "", body.replace(",", "."))
    if body.count(".") > 1:
        body = body.replace(".", "")
    return sign + body, int(exponent or 0)


def _exact(base: float, exponent: int) -> float:
    try:
        return float(f"1e{exponent}") if base == 10.0 else base**exponent
    except (OverflowError, ValueError):
        return math.inf


def parse_interval(text: str) -> tuple[Number, Number] | None:
    """Read `[a, b]`, `a to b`, `a–b` or `(a; b)`; a percent sign at the end counts for both ends."""
    t = plain(text).strip()
    inner = re.search(r"[\[(]([^\[\]()]{1,80})[\])]", t)
    body = inner[1] if inner else t
    parts = re.split(r"\s*(?:;|–|—|\bto\b|,\s|\s-\s)\s*", body)
    if len(parts) != 2 and inner:
        parts = body.split(",")
    if len(parts) != 2:
        return None
    hint = "%" if "%" in t else ""
    low, high = (parse(p, "share", hint) for p in parts)
    if low is None or high is None or not (low.finite and high.finite):
        return None
    return low, high


def several(text: str) -> list[Number]:
    """Return the numbers of a list such as `0.25, 0.5, 1.0`; one or none where it is no list."""
    t = plain(text).strip("[](){} ")
    if re.fullmatch(r"1\s?/\s?\d+", t):  # `1/1000`
        return []
    parts = [p for p in re.split(r"\s*(?:,\s|;|/|\band\b|\bor\b)\s*", t) if p]
    if len(parts) < 2:
        return []
    found = [parse(p) for p in parts]
    return [f for f in found if f is not None] if all(found) else []


def show(x: float, digits: int = 6) -> str:
    """Write a number for a message."""
    if isinstance(x, int) or (float(x).is_integer() and abs(x) < 1e12):
        return f"{int(x):,}".replace(",", " ")
    return f"{x:.{digits}g}"


def one_of(words: Iterable[str], text: str) -> bool:
    """Whether one of the words (regular expressions, at word starts) stands in the text."""
    return bool(re.search(r"(?<![a-z])(?:" + "|".join(words) + ")", text.lower()))
