"""What a study will cost, for people at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from soundcert.report.terminal import plain_table
from soundcert.report.words import duration
from soundcert.study.cost import CellCost


def plan_view(costs: Sequence[CellCost], jobs: int) -> RenderableType:
    """Return the cells with what is left to do of each, and the sum."""
    table = plain_table("cell", "train", "time", "certify", "clips", "passes", "time")
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for c in costs:
        chosen = " *" if c.tests_if_chosen and c.to_test else ""
        table.add_row(
            c.cell,
            f"{c.to_train} of {c.fits}",
            duration(c.train_seconds + c.choose_seconds) if c.to_train or c.choose_seconds else "done",
            f"{c.to_test} of {c.fits}{chosen}",
            str(c.testing_clips),
            f"{c.passes:,.0f}",
            duration(c.test_seconds) if c.to_test else "done",
        )
    total = sum(c.seconds for c in costs)
    text = (
        f"{len(costs)} cells, at most {duration(total)} of one core, {duration(total / jobs)} with {jobs} at a time. "
        "Passes under `decide` are an expectation. Cells marked * are certified only if chosen, and counted in full."
        if total
        else f"{len(costs)} cells, all finished."
    )
    return Group(table, Text(), Text(text))
