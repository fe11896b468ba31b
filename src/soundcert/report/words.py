"""Text for pages: names shown as they are, numbers rounded inward, the contract in plain words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from soundcert.bounds import format_down
from soundcert.contract import Contract
from soundcert.report.terminal import shown
from soundcert.runs import Run

#: Control characters, marks that separate lines, join or turn the direction of writing, and bytes that were no UTF-8.
_HIDDEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: object) -> str:
    """Return text in which nothing is hidden: control characters, line breaks and marks that turn the
    direction of writing become visible signs, and bytes that were no UTF-8 become �.
    """
    return _HIDDEN.sub(_sign, str(text))


def _sign(found: re.Match[str]) -> str:
    code = ord(found[0])
    return "�" if 0xD800 <= code < 0xE000 else f"⟨U+{code:04X}⟩"


def length(value: float | None) -> str:
    """A radius rounded down; None is a radius without limit."""
    return "without limit" if value is None else format_down(value, significant=4)


def view_text(view: str, value: float | None) -> str:
    """A view without its unit, rounded inward."""
    return "no limit" if value is None else shown(view, value).split(" ")[0]


def duration(seconds: float) -> str:
    """A wall time for people."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclasses.dataclass(frozen=True)
class Plain:
    """The contract in words: its kind, what is covered (sentences), what is not claimed (sentences)."""

    kind: str
    covered: tuple[str, ...]
    not_claimed: tuple[str, ...]


def plain_words(run: Run) -> Plain:
    """Return the contract of a run in words, as the run recorded it; what is not claimed, in this version's words."""
    lines = [line for line in run.statement.splitlines() if line.strip()]
    covered = [line for line in lines if not line.startswith(("Contract:", "Not claimed:"))]
    said = [line.removeprefix("Not claimed:").strip() for line in lines if line.startswith("Not claimed:")]
    known = _contract(run.contract)
    kind = str(run.contract.get("kind") or "no contract is recorded")
    return Plain(kind, tuple(covered), known.not_claimed() if known else tuple(said))


def _contract(fields: Mapping[str, Any]) -> Contract | None:
    names = {f.name: f for f in dataclasses.fields(Contract)}
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k in names
    }
    required = {k for k, f in names.items() if f.default is dataclasses.MISSING}
    texts = ("perturbation_location", "gain_policy")
    if not required <= set(values) or not all(isinstance(values[t], str) for t in texts):
        return None
    return Contract(**values)


def tries_words(certify: Mapping[str, Any]) -> str | None:
    """Return what is said where the best of several certificates of a clip will be kept; None for one alone."""
    tries, alpha = certify.get("tries", 1), certify.get("alpha")
    if type(tries) is not int or tries < 2 or not isinstance(alpha, int | float):
        return None
    level = f"{Decimal(str(alpha)) * tries:g}"  # as the two are written
    return f"the best of {tries} certificates of each clip holds at α = {level} (Bonferroni)"
