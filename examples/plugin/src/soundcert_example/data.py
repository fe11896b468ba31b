"""A data set: a flat folder whose files carry their label in their name, LABEL-ANYTHING.wav."""

from __future__ import annotations

from pathlib import Path

from soundcert.data import Item, Source, SourceInfo
from soundcert.data.items import entries, is_audio, require_folder
from soundcert.errors import InputError


def items(root: Path) -> list[Item]:
    """List the clips; nothing is decoded. What is wrong is one line."""
    require_folder(root)
    found = []
    for path in entries(root):
        if is_audio(path.name):
            label, dash, _ = path.stem.partition("-")
            if not (label and dash):
                raise InputError(f"{path.name!r}: expected LABEL-ANYTHING as a file's name; rename it")
            found.append(Item(path.name, path, label))
    if not found:
        raise InputError(f"{str(root)!r}: expected audio files, got none; correct data.root")
    return found


SOURCE = Source(
    SourceInfo(
        "named_files", "Files that carry their label in their name.", "root/LABEL-ANYTHING.wav", "yours"
    ),
    items,
)
