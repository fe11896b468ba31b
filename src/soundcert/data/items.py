"""One entry of a data list, and what every source needs to make them."""

from __future__ import annotations

import csv
import io
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..audio import Clip, Limits, load_clip, load_part
from ..errors import ConfigError, InputError

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"}
)

_SPLIT_ALIASES = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "testing",
    "testing": "testing",
}
SPLITS = ("training", "validation", "testing")


@dataclass(frozen=True)
class Item:
    """One clip of a data list. `name` is its POSIX path relative to the list's root.

    start, frames: which part of the file it is, None for all of it. recording, cut: the file's own name, and how it
    was cut, for a part.
    """

    name: str
    path: Path
    label: str | None
    split: str | None = None
    fold: int | None = None
    start: int = 0
    frames: int | None = None
    recording: str | None = None
    cut: str | None = None

    def load(self, name: str | None = None) -> Clip:
        """Decode this clip; InputError, one line, for whatever is wrong with the file. name: another than its own."""
        name = self.name if name is None else name
        if self.frames is None:
            clip = load_clip(self.path, name=name)
            if self.cut is not None:  # its length could not be read, so that it was not cut
                raise InputError(f"{name!r} could not be read when it was to be cut: try again")
            return clip
        return load_part(self.path, self.start, self.frames, name=name, cut=self.cut)


def canonical_split(name: str) -> str:
    """`train` → `training`, `val` and `valid` → `validation`, `test` → `testing`; others unchanged."""
    return _SPLIT_ALIASES.get(name.lower(), name)


def require_folder(root: Path) -> None:
    if not root.is_dir():
        got = "a file" if root.exists() else "nothing of that name"
        raise ConfigError(
            f"data.root: expected a folder at {str(root)!r}, got {got}; correct the path, or fetch a known data set with "
            "`soundcert data get`"
        )


def entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"expected a readable folder, got {error.strerror}: {str(folder)!r}") from None


def audio_below(folder: Path) -> Iterator[Path]:
    """Audio files at any depth, without hidden files and folders, in no particular order."""

    def refuse(error: OSError) -> None:
        # os.walk would otherwise leave out what it may not read, without a word.
        raise InputError(f"expected a readable folder, got {error.strerror}: {error.filename!r}") from None

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if is_audio(name))


def is_audio(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES


def inside(root: Path, file: str, where: str) -> Path:
    """`root / file`, refused where the list of a data set points out of the data set."""
    windows = PureWindowsPath(file)
    if windows.drive or windows.root or ".." in windows.parts:
        raise InputError(f"{where}: expected a path inside {str(root)!r}, got {file!r}; correct the list")
    return root / file


def normal_name(file: str) -> str:
    """One spelling for one path, so that `./a.wav` and `a.wav` are seen to be the same clip."""
    return posixpath.normpath(Path(file).as_posix())


def read_text(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(
                f"expected a list in a regular file, got a folder, pipe or device: {str(path)!r}"
            )
        most = Limits().max_list_bytes
        if status.st_size > most:
            raise InputError(
                f"{path.name}: expected a list of at most {most} bytes, got {status.st_size}; raise "
                "$SOUNDCERT_MAX_LIST_BYTES"
            )
        held = path.read_bytes()
    except OSError as error:
        raise InputError(f"expected a readable list, got {error.strerror}: {str(path)!r}") from None
    try:
        return held.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = held.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path.name} line {line}: expected UTF-8 text, got {error.reason}; save it as UTF-8"
        ) from None


def read_csv(path: Path) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Columns, and rows with where they stand (`meta.csv line 7`); empty cells are left out."""
    rows = []
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        columns = [column.strip() for column in reader.fieldnames or []]
        if len(set(columns)) < len(columns):
            raise InputError(f"{path.name} line 1: expected each column once, got {', '.join(columns)}")
        reader.fieldnames = columns
        for row in reader:
            where = f"{path.name} line {reader.line_num}"
            if None in row:
                raise InputError(
                    f"{where}: expected {len(columns)} cells, got more; put quotes around cells with commas"
                )
            rows.append((where, {key: value for key, value in row.items() if value}))
    except csv.Error as error:
        raise InputError(
            f"{path.name} line {reader.reader.line_num}: expected comma-separated values, got {error}; correct it"
        ) from None
    return columns, rows


def as_fold(value: str, where: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InputError(f"{where}: expected a whole number as fold, got {value!r}") from None
