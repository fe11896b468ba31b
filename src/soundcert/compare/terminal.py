"""A comparison for people: in full from 78 columns on, one line after the other below that.

What differs has a mark and a colour: `≠` decides the contract, `~` is part of what is compared, `*` is a
difference that the data show.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from soundcert.bounds import format_down, format_up
from soundcert.compare.result import (
    ClipDifference,
    Comparison,
    Difference,
    Pair,
    Side,
    ends,
    level_words,
    p_words,
    points,
    sentence,
)

NARROW, WIDE = 78, 100
_COLOURS = ("cyan", "magenta", "green", "blue", "yellow", "red")


def as_text(comparison: Comparison, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, no_color=True).print(ComparisonView(comparison))
    return out.getvalue().rstrip("\n")


def clean(text: str) -> str:
    """Return text that cannot steer a terminal: what does not print is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _name(name: str) -> str:
    """A name in a line of its own: clean, and cut in the middle where it is very long."""
    shown = clean(name)
    return shown if len(shown) <= 100 else f"{shown[:50]}…{shown[-48:]}"


class ComparisonView:
    """What `soundcert compare` prints."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        c = self.comparison
        yield from _sides(c)
        yield Text()
        yield from _verdict(c)
        for caveat in c.caveats:
            if caveat.loud:
                yield _item("!", clean(caveat.text), "bold yellow")
        yield Text()
        yield from _stages(c)
        yield from _facts(c)
        for pair in c.pairs:
            yield Text()
            yield from _pair(c, pair, width)
        if not c.comparable:
            yield Text()
            yield from _apart(c)
        rest = [caveat.text for caveat in c.caveats if not caveat.loud]
        if rest or c.notes:
            yield Text()
        for text in (*rest, *c.notes):
            yield _item("·", clean(text), "dim", "dim")


def _item(mark: str, text: str, style: str, rest: str = "") -> RenderableType:
    """A mark, and text that stays to the right of it over all its lines."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(mark, style=style), Text(text, style=rest))
    return table


def _colour(letter: str) -> str:
    return f"bold {_COLOURS[(ord(letter) - ord('A')) % len(_COLOURS)]}"


def _sides(c: Comparison) -> Iterator[RenderableType]:
    for side in c.sides:
        share = f"{side.correct} of {side.clips} clips certified as their label"
        where = f"; radii {side.radii_from}" if c.comparable and c.space != "object" else ""
        yield _item(side.letter, f"{clean(side.path)}: {share}{side.at_most}{where}", _colour(side.letter))
        for warning in side.warnings:
            yield _item(" !", clean(warning), "bold yellow")


def _verdict(c: Comparison) -> Iterator[RenderableType]:
    clips = f"{c.common} clips that all runs have" if c.common else "no clip in common"
    if c.comparable:
        what = {"file": "Compared on the file's samples", "object": "Compared in the certified object"}
        start = what.get(c.space, f"Compared in {c.space_words}")
        of = f" ({clean(c.space_words)})" if c.space == "object" else ""
        yield Text(f"{start}{of}, over the {clips}.", style="bold")
        return
    yield Text(f"A ranking would mislead ({clips}):", style="bold red")
    for reason in c.reasons:
        yield _item("✗", clean(reason.text), "bold red")
    for remedy in dict.fromkeys(reason.remedy for reason in c.reasons if reason.remedy):
        yield _item("→", remedy, "bold green")


def _stages(c: Comparison) -> Iterator[RenderableType]:
    if not c.stages:
        return
    yield Text("Stages", style="bold")
    decides = c.space == "object"
    table = Table.grid(padding=(0, 1))
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    words = {"above": "above", "noise": "noise", "below": "below"}
    before = ""
    for row in c.stages:
        mark, style = (" ", "dim") if row.same else ("~", "cyan")
        if not row.same and decides and row.place == "above":
            mark, style = "≠", "bold yellow"
        has = "".join(side.letter if p else "·" for side, p in zip(c.sides, row.present, strict=True))
        place = words[row.place] if row.place != before else ""
        before = row.place
        table.add_row(
            Text(mark, style=style), Text(place, style="dim"), Text(has), Text(clean(row.stage), style=style)
        )
    yield Padding(table, (0, 0, 0, 1))


def _facts(c: Comparison) -> Iterator[RenderableType]:
    same = [fact for fact in c.facts if fact.same]
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", ratio=1)
    for fact in c.facts:
        if not fact.same:
            mark, style = ("≠", "bold yellow") if fact.decides else ("~", "cyan")
            values = Text()
            for number, (side, value) in enumerate(zip(c.sides, fact.values, strict=True)):
                values.append("\n" if number and max(map(len, fact.values)) > 24 else "  " if number else "")
                values.append(f"{side.letter} ", style=_colour(side.letter))
                values.append(clean(value))
            table.add_row(Text(mark, style=style), Text(fact.name, style=style), values)
    if same:
        yield Text("Same: " + "; ".join(f"{f.name} {clean(f.values[0])}" for f in same), style="dim")
    if len(same) < len(c.facts):
        yield Text("Differs  (≠ decides the contract, ~ is part of what is compared)", style="bold")
        yield Padding(table, (0, 0, 0, 1))


def _pair(c: Comparison, pair: Pair, width: int) -> Iterator[RenderableType]:
    title = Text()
    title.append(pair.first, style=_colour(pair.first))
    title.append(" and ")
    title.append(pair.second, style=_colour(pair.second))
    title.append(" on the same clips", style="bold")
    yield title
    accuracy = [pair.accuracy] if pair.accuracy is not None else []
    if pair.points:
        rows = [*accuracy, *pair.points]
        yield _table(c, pair, rows, width) if width >= NARROW else _list(c, pair, rows)
        shown = [d for d in pair.points if d.shown]
        yield from _said(c, pair, shown)
    else:
        for d in accuracy:
            yield _item("*" if d.shown else "·", f"Labels alone: {sentence(pair, d, c)}.", "bold")
    for who, clips in ((pair.first, pair.first_more), (pair.second, pair.second_more)):
        if clips:
            yield _clips(c, pair, who, clips)


def _said(c: Comparison, pair: Pair, shown: Sequence[Difference]) -> Iterator[RenderableType]:
    if pair.accuracy is not None:
        yield _item(
            "*" if pair.accuracy.shown else "·", f"Labels alone: {sentence(pair, pair.accuracy, c)}.", "bold"
        )
    if not shown and pair.points[0].p_holm is not None:
        yield _item("·", "No difference of the curves is shown at any point.", "bold")
    for more, sign in ((pair.first, 1), (pair.second, -1)):
        mine = [d for d in shown if d.difference * sign > 0]
        if mine:
            largest = max(mine, key=lambda d: d.difference * sign)
            others = [level_words(d.at, c.axis, "") for d in mine if d is not largest and d.at is not None]
            also = f" Also shown: {more} certifies more at {', '.join(others)}." if others else ""
            yield _item("*", f"{sentence(pair, largest, c)}.{also}", "bold")


def _at(c: Comparison, d: Difference) -> str:
    return "label" if d.at is None else (f"{d.at:g} dB" if c.axis == "snr_db" else f"{d.at:g}")


def _alone(count: int, limited: int) -> str:
    return f"{count}†" if limited else f"{count}"


def _table(c: Comparison, pair: Pair, rows: Sequence[Difference], width: int) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("SNR" if c.axis == "snr_db" else "R", no_wrap=True)
    a, b = pair.first, pair.second
    headers = [f"{a} %", f"{b} %"]
    headers += ["both", f"{a} only", f"{b} only", "none"] if width >= WIDE else [f"{a} only", f"{b} only"]
    headers += [f"{a} − {b}"]
    tested = rows[0].interval is not None
    if tested:
        headers += [f"{100 * (1 - c.level):g} %", "all together"]
        headers += ["p", "Holm p"] if width >= WIDE else ["Holm p"]
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for d in rows:
        cells = [f"{100 * d.first_share:.1f}", f"{100 * d.second_share:.1f}"]
        only = [_alone(d.first_only, d.second_limited), _alone(d.second_only, d.first_limited)]
        cells += [str(d.both), *only, str(d.neither)] if width >= WIDE else only
        cells.append(points(d.difference))
        if d.interval and d.band and d.p_value is not None and d.p_holm is not None:
            cells += [" to ".join(ends(d.interval)), " to ".join(ends(d.band))]
            cells += [p_words(d.p_value), p_words(d.p_holm)] if width >= WIDE else [p_words(d.p_holm)]
        style = "bold" if d.shown else ""
        table.add_row(Text("*" if d.shown else " ", style="bold green"), _at(c, d), *cells, style=style)
    if any(d.first_limited or d.second_limited for d in rows):
        table.caption = Text("† some of these stand at the other run's ceiling", style="dim")
        table.caption_justify = "left"
    return table


def _list(c: Comparison, pair: Pair, rows: Sequence[Difference]) -> RenderableType:
    out = Text()
    for d in rows:
        out.append("* " if d.shown else "  ", style="bold green")
        out.append(_at(c, d), style="bold")
        out.append(
            f"  {pair.first} {100 * d.first_share:.1f} %  {pair.second} {100 * d.second_share:.1f} %  "
        )
        out.append(f"{points(d.difference)}\n", style="bold" if d.shown else "")
        if d.interval and d.band and d.p_holm is not None:
            low, high = ends(d.interval)
            band_low, band_high = ends(d.band)
            out.append(
                f"    {low} to {high}; all {band_low} to {band_high}; p {p_words(d.p_holm)}\n", style="dim"
            )
    out.rstrip()
    return out


def _clips(c: Comparison, pair: Pair, who: str, clips: Sequence[ClipDifference]) -> RenderableType:
    lines = [f"{_name(clip.clip)} ({_name(clip.truth)}): {_levels(c, pair, clip)}" for clip in clips]
    other = pair.second if who == pair.first else pair.first
    return _item(" ", "\n  ".join([f"{who} goes furthest beyond {other} on", *lines]), "")


def _levels(c: Comparison, pair: Pair, clip: ClipDifference) -> str:
    said = [
        f"{letter} {_value(c, value)}"
        for letter, value in ((pair.first, clip.first), (pair.second, clip.second))
    ]
    return ", ".join(said)


def _value(c: Comparison, value: float | None) -> str:
    if value is None:
        return "not certified"
    if abs(value) == float("inf"):
        return "without limit"
    return f"{format_up(value, decimals=1)} dB" if c.axis == "snr_db" else format_down(value, significant=3)


def _apart(c: Comparison) -> Iterator[RenderableType]:
    yield Text("Each by itself, on its own scale: not to be ranked", style="bold")
    for side in c.sides:
        yield _item(side.letter, _curve(side), _colour(side.letter))


def _curve(side: Side) -> str:
    name = "SNR" if side.axis == "snr_db" else f"radius in {side.unit or 'its own unit'}"
    shares = " · ".join(
        f"{at:g}{' dB' if side.axis == 'snr_db' else ''} {100 * share:.1f} %" for at, share in side.curve
    )
    return f"share certified by {name}, of {side.clips} clips: {shares or 'none'}"
