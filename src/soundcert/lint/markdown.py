"""Reads Markdown cards: front matter, tables, and `key: value` lines whose key is a field."""

from __future__ import annotations

import re
from collections.abc import Sequence

from soundcert.lint.building import Builder
from soundcert.lint.fields import FIELDS, point_of, resolve, stated
from soundcert.lint.numbers import clean, parse, plain
from soundcert.lint.prose import parts_of
from soundcert.lint.report import Place, Point
from soundcert.lint.tables import CERTIFIED, rows_of_texts
from soundcert.lint.trees import Branch, take, tree_of_yaml

MAX_LINE = 8000
_FENCE = re.compile(r"^\s{0,3}(?:```|~~~)")
_KEY_LINE = re.compile(r"^\s{0,8}(?:[-*+]\s+|\d{1,3}[.)]\s+)?([^:=|]{1,80}?)\s*[:=]\s*(\S.{0,400})$")
# A figure that is marked as the best of its column: `**0.43**`, `0.43*`, `0.43<b>*</b>`.
_BEST = re.compile(r"^(?:\*\*|<b>)?\s*(\d{0,3}\.?\d{1,9})(\s*%?)\s*(?:<b>\s*\*\s*</b>|\*\*|\\?\*|</b>)$")
_HEADING = re.compile(r"^#{1,6}\s+(.{1,200}?)\s*#*$")


def read_markdown(text: str, out: Builder) -> None:
    """Take the fields of a Markdown card: front matter, tables, and `key: value` lines whose key is a field."""
    lines = [line[:MAX_LINE] for line in text.splitlines()]
    start = 0
    if lines and lines[0].strip() == "---":
        end = next((i for i, line in enumerate(lines[1:], start=1) if line.strip() in ("---", "...")), None)
        if end is not None:
            tree = tree_of_yaml("\n".join(lines[1:end]), out.file, offset=1)
            if isinstance(tree, Branch):
                take(tree, out)
            start = end + 1
    sections: dict[str, list[tuple[str, str, int]]] = {}
    heading, fenced, i = "", False, start
    while i < len(lines):
        line = lines[i]
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and "|" in line and i + 1 < len(lines) and _rules_off(lines[i + 1]):
            end = i + 2
            while end < len(lines) and "|" in lines[end]:
                end += 1
            _table([(k + 1, _cells(lines[k])) for k in (i, *range(i + 2, end))], out)
            i = end
            continue
        elif not fenced and (match := _HEADING.match(line[:300])):
            heading = clean(plain(match[1]), 80)
        elif (field := None if fenced else _key_line(line)) is not None:
            label, value = field
            parts = parts_of(label, value)
            sections.setdefault(heading, []).extend((part, said, i + 1) for part, said in parts)
            if len(parts) > 1:
                out.passed(value, i + 1, label, {f[0] for part, _ in parts if (f := resolve(part))})
        elif any(c.isalpha() for c in line):
            out.partly = True
            out.passed(line, i + 1)
        i += 1
    _take_sections(sections, out)


def _key_line(line: str) -> tuple[str, str] | None:
    """Return the label and the value of a line that begins with a known field, else None."""
    match = None if line.startswith("    ") else _KEY_LINE.match(line)
    label = plain(match[1]) if match else ""
    return (label, match[2].strip("*_ ")) if match and _known(label) else None


def _take_sections(sections: dict[str, list[tuple[str, str, int]]], out: Builder) -> None:
    """Sections that state one field differently are results of their own; otherwise all is said of all."""
    values: dict[str, set[str]] = {}
    for entries in sections.values():
        for label, value, _ in entries:
            if (found := resolve(label)) and stated(value):
                values.setdefault(found[0], set()).add(value)
    once = {
        name
        for name in values
        if sum(any((f := resolve(la)) and f[0] == name for la, _, _ in e) for e in sections.values()) < 2
    }
    for heading, entries in sections.items():
        mine = {f[0] for la, _, _ in entries if (f := resolve(la))}
        apart = any(name not in once and len(values.get(name, ())) > 1 for name in mine)
        for label, value, line in entries:
            out.add(label, value, line, heading if apart else "")


def _cells(line: str) -> list[str]:
    body = line.strip()
    body = body.removeprefix("|")
    # An unescaped bar ends a cell; ‖ is another sign.
    cells = re.split(r"(?<!\\)\|", body)
    if cells and not cells[-1].strip() and body.endswith("|"):
        cells = cells[:-1]
    return [
        plain(
            _BEST.sub(r"\g<1>\g<2> †", c.strip().replace("\\|", "|"))
            if len(c) < 80
            else c.replace("\\|", "|")
        )
        for c in cells[:200]
    ]


def _rules_off(line: str) -> bool:
    """Whether a line is the one of dashes between a table's header and its body."""
    cells = line.strip().removeprefix("|").removesuffix("|").split("|")
    return all((c := cell.strip().strip(":")) and not c.strip("-") for cell in cells)


def _known(label: str) -> bool:
    return bool(label) and (resolve(label) is not None or point_of(label) is not None)


def _table(rows: Sequence[tuple[int, list[str]]], out: Builder) -> None:
    header = [c.removesuffix(" †") for c in rows[0][1]]
    marked = rows[1:]
    body = [(line, [c.removesuffix(" †") for c in cells]) for line, cells in marked]
    by_column = sum(_known(c) for c in header)
    by_row = sum(_known(cells[0]) for _, cells in body if cells)
    if _clip_table(header, body, out) or _curve_table(header, body, out):
        return
    grid = bool(header and not _known(header[0])) and all(c and _number_alone(c[0]) for _, c in body)
    if grid:
        out.unread(header[0])
        return
    if by_column >= 2 or (by_column == 1 and not by_row):
        for (line, cells), (_, best) in zip(body, marked, strict=True):
            name = _row_name(header, cells)
            for at, label in enumerate(header[: len(cells)]):
                if _known(label) and cells[at]:
                    value = best[at] if point_of(label) else cells[at]
                    out.add(label, value, line, name if len(body) > 1 else "")
            if cells and not _known(header[0] if header else "") and (own := _assignment(cells[0])):
                out.add(*own, line, name if len(body) > 1 else "")
        return
    # Without a header the second column has the values, and what follows explains them.
    width = max((len(cells) for _, cells in body), default=0) if any(header) else 2
    for line, cells in body:
        if not cells or not cells[0]:
            continue
        if not _known(cells[0]):
            out.unread(cells[0])
            continue
        for column, value in enumerate(cells[1:width], start=1):
            title = header[column] if column < len(header) else ""
            name = (title or f"column {column}") if width > 2 else ""
            if value:
                out.add(cells[0], value, line, name)


def _find(header: Sequence[str], names: Sequence[str], fields: Sequence[str] = ()) -> int | None:
    for i, label in enumerate(header):
        found = resolve(label) if label else None
        if label.lower().strip() in names or (found and found[0] in fields and point_of(label) is None):
            return i
    return None


def _clip_table(header: Sequence[str], body: Sequence[tuple[int, list[str]]], out: Builder) -> bool:
    """Take a table with one row a clip."""
    clip = _find(header, ("clip", "file", "idx", "index", "id"))
    radius = _find(header, (), ("radius",))
    if clip is None or radius is None:
        return False
    status, guess = _find(header, ("status", "outcome")), _find(header, ("predict", "prediction", "answer"))

    def cell(cells: list[str], at: int | None) -> str:
        return cells[at] if at is not None and at < len(cells) else ""

    rows = [(line, cells) for line, cells in body if any(cells)]
    certified = [cell(c, status).lower().startswith(CERTIFIED) for _, c in rows]
    said = [
        any("abstain" in cell(c, at).lower() or cell(c, at) == "-1" for at in (status, guess, radius))
        for _, c in rows
    ]
    kept = [i for i, (_, c) in enumerate(rows) if said[i] or stated(cell(c, radius))]
    rows, said, certified = [rows[i] for i in kept], [said[i] for i in kept], [certified[i] for i in kept]
    if rows:
        out.rows(
            rows_of_texts(
                [cell(c, radius) for _, c in rows],
                [line for line, _ in rows],
                Place(out.file, rows[0][0]),
                predicted=[cell(c, guess) for _, c in rows],
                abstained=said,
                certified=certified,
                index=[cell(c, clip) for _, c in rows],
            )
        )
    for label in (h for h in header if (f := resolve(h)) and f[0] in ("snr", "norm_ratio")):
        out.put(
            (resolve(label) or ("signal_scale", ""))[0],
            label,
            "given for each clip",
            rows[0][0] if rows else None,
        )
    return True


def _curve_table(header: Sequence[str], body: Sequence[tuple[int, list[str]]], out: Builder) -> bool:
    """Take a table of certified accuracy by radius; pass over one by SNR or another level."""
    shares = ("certified_accuracy", "positive_accuracy", "clean_accuracy")
    share = _find(header, ("share", "certified", "accuracy"), shares)
    if share is None or not header or len(body) < 2:
        return False
    level = resolve(header[0])
    if not level or level[0] not in (
        "radius",
        "snr",
        "file_snr",
        "norm_ratio",
        "signal_scale",
        "r_over_sigma",
    ):
        return False
    for line, cells in body:
        radius = parse(cells[0]) if cells and level[0] == "radius" else None
        hint = (resolve(header[share]) or ("", ""))[1]
        accuracy = parse(cells[share], "share", hint) if len(cells) > share and stated(cells[share]) else None
        if radius and accuracy:
            out.point(Point(radius, accuracy, Place(out.file, line)))
    if level[0] != "radius":
        out.put(level[0], header[0], "given as a curve", body[0][0])
    return True


def _number_alone(cell: str) -> bool:
    number = parse(cell) if cell[:1] in set("0123456789.+-−") else None
    return number is not None and not number.unit


def _row_name(header: Sequence[str], cells: Sequence[str]) -> str:
    parts = []
    for label, value in zip(header, cells, strict=False):
        found = resolve(label)
        if value and (
            not _known(label)
            or (found and FIELDS[found[0]].kind == "text")
            or (found and found[0] == "sigma")
        ):
            parts.append(value if not found or found[0] != "sigma" else f"σ = {value}")
    return clean(", ".join(parts), 80)


def _assignment(cell: str) -> tuple[str, str] | None:
    """Return `σ` and `0.25` of a row that is called `σ = 0.25`."""
    label, sign, value = cell.partition("=")
    return (label.strip(), value.strip()) if sign and resolve(label) else None
