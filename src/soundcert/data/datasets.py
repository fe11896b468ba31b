"""Speech Commands, ESC-10 and ESC-50: as downloaded, or as a copy with a `meta.csv`."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError, InputError
from .items import (
    Item,
    as_fold,
    audio_below,
    canonical_split,
    entries,
    inside,
    normal_name,
    read_csv,
    require_folder,
)

_LISTS = {"validation": "validation_list.txt", "testing": "testing_list.txt"}


def speech_commands_items(root: Path) -> list[Item]:
    """Splits from the two lists of the download (everything else is training), or from `meta.csv`."""
    require_folder(root)
    lists = {split: root / name for split, name in _LISTS.items()}
    if not all(path.is_file() for path in lists.values()):
        if (root / "meta.csv").is_file():
            return _from_table(root, "meta.csv", file="file", label="label", split="split")
        raise ConfigError(
            f"data.root: expected Speech Commands at {str(root)!r} (validation_list.txt and "
            "testing_list.txt, or meta.csv), got neither; point data.root at the folder that holds the words"
        )
    split_of = {name: split for split, path in lists.items() for name in _lines(path)}
    items = []
    for word in entries(root):
        # Folders such as _background_noise_ hold no clips of a word.
        if word.is_dir() and not word.name.startswith((".", "_")):
            for path in audio_below(word):
                name = path.relative_to(root).as_posix()
                items.append(Item(name, path, word.name, split_of.get(name, "training")))
    if not items:
        raise InputError(f"{str(root)!r}: expected a folder of audio a word, got none; correct data.root")
    return items


def esc10_items(root: Path) -> list[Item]:
    """The ten CC BY classes, from their own copy or out of a whole ESC-50."""
    return _esc_items(root, ten=True)


def esc50_items(root: Path) -> list[Item]:
    return _esc_items(root, ten=False)


def _esc_items(root: Path, *, ten: bool) -> list[Item]:
    require_folder(root)
    if (root / "meta" / "esc50.csv").is_file():
        keep = "esc10" if ten else None
        return _from_table(
            root, "meta/esc50.csv", file="filename", label="category", fold="fold", folder="audio", keep=keep
        )
    if not (root / "meta.csv").is_file():
        raise ConfigError(
            f"data.root: expected ESC at {str(root)!r} (meta/esc50.csv beside audio/, or meta.csv), got "
            "neither; point data.root at the folder that holds them"
        )
    items = _from_table(root, "meta.csv", file="file", label="label", fold="fold")
    classes = len({item.label for item in items})
    if ten != (classes <= 10):
        # A run must not say that it is about the other of the two.
        wanted, other = ("esc10", "esc50") if ten else ("esc50", "esc10")
        raise ConfigError(
            f"data.source: {wanted} does not fit the {classes} classes of meta.csv; use {other}"
        )
    return items


def _from_table(
    root: Path,
    table: str,
    *,
    file: str,
    label: str,
    split: str | None = None,
    fold: str | None = None,
    folder: str = "",
    keep: str | None = None,
) -> list[Item]:
    """Items from a CSV whose columns have the names given; `keep` is a column that must say True."""
    columns, rows = read_csv(root / table)
    needed = [column for column in (file, label, split, fold, keep) if column]
    missing = [column for column in needed if column not in columns]
    if missing:
        raise InputError(f"{table}: expected the columns {', '.join(needed)}, got no {', '.join(missing)}")
    items: dict[str, Item] = {}
    for where, row in rows:
        empty = [column for column in needed if column not in row]
        if empty:
            raise InputError(f"{where}: expected a value for {empty[0]!r}, got none; correct the list")
        if keep and row[keep].lower() != "true":
            continue
        path = inside(root / folder, row[file], where)
        name = normal_name(f"{folder}/{row[file]}" if folder else row[file])
        if name in items:
            raise InputError(f"{where}: expected each file once, got {name!r} again; correct the list")
        items[name] = Item(
            name,
            path,
            row[label],
            canonical_split(row[split]) if split else None,
            as_fold(row[fold], where) if fold else None,
        )
    if not items:
        raise InputError(f"{table}: expected at least one clip, got none; fetch the data set again")
    return list(items.values())


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: expected a text file with one path a line, got {error}") from None
