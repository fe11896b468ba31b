"""Runs side by side, where that is fair; otherwise why a ranking would mislead."""

from soundcert.compare.comparing import compare
from soundcert.compare.result import (
    Caveat,
    ClipDifference,
    Comparison,
    Difference,
    Fact,
    LeftOut,
    Pair,
    Reason,
    Side,
    StageRow,
)

__all__ = [
    "Caveat",
    "ClipDifference",
    "Comparison",
    "Difference",
    "Fact",
    "LeftOut",
    "Pair",
    "Reason",
    "Side",
    "StageRow",
    "compare",
]
