"""A list that the user wrote: CSV with a header, or JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ConfigError, InputError, did_you_mean
from .items import Item, as_fold, canonical_split, normal_name, read_csv


def manifest_items(path: Path) -> list[Item]:
    """Columns `file` and, where present, `label`, `split`, `fold`; others are ignored.

    Files are relative to the manifest's folder and may lie outside it (`../`, absolute): whoever
    wrote the manifest chose them. A file that does not exist is reported when its clip is loaded.
    """
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing of that name"
        raise ConfigError(f"data.root: expected a CSV or JSONL manifest at {str(path)!r}, got {got}")
    suffix = path.suffix.lower()
    if suffix == ".csv":
        columns, rows = read_csv(path)
        if "file" not in columns:
            raise InputError(_without_file(path.name, columns))
    elif suffix in (".jsonl", ".ndjson"):
        rows = _read_jsonl(path)
    else:
        raise ConfigError(f"data.root: expected a manifest that ends in .csv or .jsonl, got {path.name!r}")
    if not rows:
        raise InputError(f"{path.name}: expected at least one clip, got none")

    items: list[Item] = []
    first: dict[str, str] = {}
    for where, row in rows:
        if "file" not in row:
            raise InputError(_without_file(where, list(row)))
        item = _item(row, path.parent, where)
        if item.name in first:
            raise InputError(
                f"{where}: expected each file once, got {item.name!r} again (first at {first[item.name]}); "
                "remove one of the lines"
            )
        first[item.name] = where
        items.append(item)
    return items


def _item(row: dict[str, str], folder: Path, where: str) -> Item:
    file = Path(row["file"])
    path = folder / file
    # An absolute path keeps a name that is the same wherever the manifest is read, if it can.
    name = file.relative_to(folder) if file.is_absolute() and file.is_relative_to(folder) else file
    split = canonical_split(row["split"]) if "split" in row else None
    fold = as_fold(row["fold"], where) if "fold" in row else None
    return Item(normal_name(str(name)), path, row.get("label"), split, fold)


def _without_file(where: str, columns: list[str]) -> str:
    found = ", ".join(repr(column) for column in columns) or "nothing"
    hint = did_you_mean("file", columns)
    hint = hint if hint.startswith(" (did") else ""
    return f"{where}: expected a value for 'file', got {found}{hint}; name the column of paths 'file'"


def _read_jsonl(path: Path) -> list[tuple[str, dict[str, str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"expected a readable list, got {error.strerror}: {str(path)!r}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: expected UTF-8 text, got {error.reason}; save it as UTF-8") from None
    rows = []
    # Not splitlines(), which also breaks at separators that JSON allows inside text.
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path.name} line {number}"
        if line.strip():
            rows.append((where, _object(line, where)))
    return rows


def _object(line: str, where: str) -> dict[str, str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(
            f'{where}: expected a JSON object such as {{"file": "a.wav"}}, got {line.strip()[:40]!r}'
        )
    row = {}
    for key in ("file", "label", "split", "fold"):
        if value.get(key) in (None, ""):
            continue
        row[key] = _text(value[key], f"{where}, {key!r}")
    # Other keys only serve the message about a missing `file`.
    return row if "file" in row else dict.fromkeys((key for key in value if key != "file"), "")


def _text(value: Any, where: str) -> str:
    if isinstance(value, dict | list | float | bool):
        raise InputError(f"{where}: expected text or a whole number, got {json.dumps(value)[:40]}")
    return str(value)
