"""Shares and intervals in print: a share never reads larger than it is, an interval never narrower."""

from __future__ import annotations

from collections.abc import Sequence

from soundcert.bounds import format_down, format_up

NBSP = "\u00a0"


def percent(count: int, total: int, *, decimals: int = 1, gap: str = NBSP) -> str:
    """A share as counted, rounded down. gap: what stands before the sign."""
    unit = 10**decimals
    whole, rest = divmod(100 * unit * count // total if total else 0, unit)
    return f"{whole}{f'.{rest:0{decimals}d}' if decimals else ''}{gap}%"


def percent_of(share: float, total: int, *, decimals: int = 1, gap: str = NBSP) -> str:
    """The same of a share that was counted over so many."""
    return percent(round(share * total), total, decimals=decimals, gap=gap)


def percents(interval: Sequence[float], *, decimals: int = 1, gap: str = NBSP) -> tuple[str, str]:
    """Both ends of an interval, rounded outward."""
    low, high = interval
    return (
        f"{format_down(100 * low, decimals=decimals)}{gap}%",
        f"{format_up(100 * high, decimals=decimals)}{gap}%",
    )
