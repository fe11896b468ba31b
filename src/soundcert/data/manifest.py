"""A list that the user wrote: CSV with a header, JSON Lines, or plain text with one path a line."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import ConfigError, InputError, did_you_mean
from .items import AUDIO_SUFFIXES, Item, as_fold, canonical_split, inside, normal_name, read_csv, read_text

LIST_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".txt")
# As Hugging Face's audiofolder layout calls it, beside our own.
_PATHS = ("file", "file_name")
_LABELS = re.compile(r"labels?[ _.-]?\d*", re.IGNORECASE)
_WHY = (
    "a certificate is about the one class that wins, so a clip with several labels has no answer to certify; "
    "keep one label a clip, or make one list for each label"
)

Row = tuple[str, dict[str, str]]


def manifest_items(path: Path) -> list[Item]:
    """Columns `file` (or `file_name`) and, where present, `label`, `split`, `fold`; others are ignored.

    Files are relative to the manifest's folder and may lie outside it (`../`, absolute): whoever
    wrote the manifest chose them. A file that does not exist is reported when its clip is loaded.
    """
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing of that name"
        raise ConfigError(f"data.root: expected a CSV, JSONL or text list at {str(path)!r}, got {got}")
    return [_item(row, path.parent, where) for where, row in _rows(path)]


def metadata_items(path: Path) -> list[Item]:
    """The clips that a folder's `metadata.csv` or `metadata.jsonl` lists, all of them inside the folder."""
    rows = _rows(path)
    for where, row in rows:
        inside(path.parent, row["file"], where)
    # The data set is the folder, so a split or fold in the table is not one of the configuration's.
    return [
        _item(
            {"file": row["file"], **({"label": row["label"]} if "label" in row else {})}, path.parent, where
        )
        for where, row in rows
    ]


def _rows(path: Path) -> list[Row]:
    """Where each clip stands, and its `file`, `label`, `split` and `fold` as far as they are there."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        rows = _csv_rows(path)
    elif suffix in (".jsonl", ".ndjson"):
        rows = _jsonl_rows(path)
    elif suffix == ".txt":
        rows = _text_rows(path)
    else:
        raise ConfigError(f"data.root: expected a list that ends in .csv, .jsonl or .txt, got {path.name!r}")
    if not rows:
        raise InputError(f"{path.name}: expected at least one clip, got none")
    if suffix not in (".jsonl", ".ndjson"):
        # JSON has lists; text in it is one label, whatever is in it.
        _refuse_several_in_a_cell(rows)
    _refuse_repeated(rows, path.parent)
    return rows


def _item(row: dict[str, str], folder: Path, where: str) -> Item:
    split = canonical_split(row["split"]) if "split" in row else None
    fold = as_fold(row["fold"], where) if "fold" in row else None
    return Item(_name(row["file"], folder), folder / row["file"], row.get("label"), split, fold)


def _name(file: str, folder: Path) -> str:
    # An absolute path keeps a name that is the same wherever the manifest is read, if it can.
    path = Path(file)
    return normal_name(
        str(path.relative_to(folder) if path.is_absolute() and path.is_relative_to(folder) else path)
    )


# --- several labels ---------------------------------------------------------------------------------


def _refuse_repeated(rows: list[Row], folder: Path) -> None:
    first: dict[str, Row] = {}
    for where, row in rows:
        name = _name(row["file"], folder)
        before = first.setdefault(name, (where, row))
        if before[1] is row:
            continue
        labels = (before[1].get("label"), row.get("label"))
        if None not in labels and labels[0] != labels[1]:
            raise InputError(
                f"{where}: expected one label a clip, got {labels[1]!r} for {name!r}, which is {labels[0]!r} at "
                f"{before[0]}: {_WHY}"
            )
        raise InputError(
            f"{where}: expected each file once, got {name!r} again (first at {before[0]}); "
            "remove one of the lines"
        )


def _refuse_several_in_a_cell(rows: list[Row]) -> None:
    """`dog;rain`, `dog|rain`, `['dog', 'rain']`, and `dog,rain` where the list has `dog` or `rain` elsewhere too.

    A comma alone says nothing: `yes, sir` can be one label.
    """
    labels = {row["label"] for _, row in rows if "label" in row}
    words = Counter(word for label in labels for word in {label, *_split(label, ",")})
    for where, row in rows:
        label = row.get("label", "")
        listed = label.startswith("[") and label.endswith("]")
        found = _split(label.strip("[]") if listed else label, "," if listed else ";|")
        if len(found) < 2 and not listed:
            found = _split(label, ",")
            found = found if len(found) > 1 and any(words[word] > 1 for word in found) else []
        if len(found) > 1 or listed:
            raise InputError(
                f"{where}: expected one label a clip, got {len(found)} in {label[:60]!r}: {_WHY} (if it is one "
                "label, write the list as JSONL)"
            )


def _split(label: str, separators: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in re.split(f"[{separators}]", label) if part.strip()))


def _label_column(columns: list[str], where: str) -> str | None:
    """The column of labels; `label`, unless only `labels` or a numbered one is there."""
    found = [column for column in columns if _LABELS.fullmatch(column)]
    if len(found) > 1:
        raise InputError(
            f"{where}: expected one column of labels, got {', '.join(repr(column) for column in found)}: {_WHY}"
        )
    return found[0] if found else None


# --- the three forms --------------------------------------------------------------------------------


def _csv_rows(path: Path) -> list[Row]:
    columns, rows = read_csv(path)
    file = next((column for column in _PATHS if column in columns), None)
    if file is None:
        raise InputError(_without_file(f"{path.name} line 1", columns))
    label = _label_column(columns, f"{path.name} line 1")
    out = []
    for where, row in rows:
        if file not in row:
            raise InputError(_without_file(where, list(row)))
        kept = {"file": row[file]}
        for key, column in (("label", label), ("split", "split"), ("fold", "fold")):
            # Blanks after a comma are not part of a label.
            if column and row.get(column, "").strip():
                kept[key] = row[column].strip()
        out.append((where, kept))
    return out


def _jsonl_rows(path: Path) -> list[Row]:
    rows = []
    # Not splitlines(), which also breaks at separators that JSON allows inside text.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        where = f"{path.name} line {number}"
        if line.strip():
            rows.append((where, _object(line, where)))
    return rows


def _text_rows(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        where = f"{path.name} line {number}"
        file, *label = line.removesuffix("\r").split("\t")
        if not line.strip():
            continue
        if not file.strip():
            raise InputError(
                f"{where}: expected a path, optionally a tab and a label, got {line.strip()[:60]!r}"
            )
        if len(label) > 1:
            raise InputError(f"{where}: expected a path and one label, got {len(label)} labels: {_WHY}")
        if not label and (found := _WITHOUT_TAB.fullmatch(file)):
            raise InputError(
                f"{where}: expected a path, optionally a tab and a label, got {file[:60]!r}; put a tab before "
                f"{found[2].strip()[:30]!r}, or write a .csv with the header file,label"
            )
        row = {"file": file}
        if label and label[0].strip():
            row["label"] = label[0].strip()
        rows.append((where, row))
    return rows


_WITHOUT_TAB = re.compile(
    rf"(.*?(?:{'|'.join(re.escape(suffix) for suffix in sorted(AUDIO_SUFFIXES))}))[ ,;]+(\S.*)", re.IGNORECASE
)


def _without_file(where: str, columns: list[str]) -> str:
    found = ", ".join(repr(column) for column in columns) or "nothing"
    hint = did_you_mean("file", columns)
    hint = hint if hint.startswith(" (did") else ""
    return f"{where}: expected a value for 'file', got {found}{hint}; name the column of paths 'file'"


def _object(line: str, where: str) -> dict[str, str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(
            f'{where}: expected a JSON object such as {{"file": "a.wav"}}, got {line.strip()[:40]!r}'
        )
    given = {key: item for key, item in value.items() if item not in (None, "")}
    file = next((key for key in _PATHS if key in given), None)
    if file is None:
        raise InputError(_without_file(where, [key for key in value if key not in _PATHS]))
    label = _label_column(list(given), where)
    if label and isinstance(given[label], list | dict):
        raise InputError(
            f"{where}, {label!r}: expected one label a clip as text, got {json.dumps(given[label])[:60]}: {_WHY}"
        )
    columns = {"file": file, "label": label, "split": "split", "fold": "fold"}
    return {
        key: _text(given[column], f"{where}, {column!r}")
        for key, column in columns.items()
        if column in given
    }


def _text(value: Any, where: str) -> str:
    if isinstance(value, dict | list | float | bool):
        raise InputError(f"{where}: expected text or a whole number, got {json.dumps(value)[:40]}")
    return str(value)
