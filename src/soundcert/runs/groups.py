"""Which clips belong together, as far as their names tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

_PATTERNS = (
    (re.compile(r"([0-9a-f]+)_nohash_\d+"), "speaker"),
    (re.compile(r"\d+-(\d+)-[A-Z]\d*-\d+"), "source recording"),
)


@dataclass(frozen=True)
class Grouping:
    """names: of each clip's group, a clip whose name does not tell standing with its own recording. what: a group is.

    told: clips whose names tell; told_groups: the groups that they are of.
    """

    names: tuple[str, ...]
    what: str
    told: int
    told_groups: int

    @property
    def groups(self) -> int:
        return len(set(self.names))

    @property
    def untold_groups(self) -> int:
        return self.groups - self.told_groups


def grouping(names: Sequence[str]) -> Grouping:
    """Return which clips are of one speaker or recording, by their names.

    Speech Commands names its speakers (WORD/SPEAKER_nohash_NUMBER), ESC its source recordings
    (FOLD-RECORDING-TAKE-CLASS); clips that soundcert cut out of a recording are its own (RECORDING#t=START,END). Where
    no name tells, each clip is a "clip" by itself.
    """
    recordings = [name.partition("#t=")[0] for name in names]
    stems = [PurePosixPath(name).stem for name in recordings]
    for pattern, what in _PATTERNS:
        found = [pattern.fullmatch(stem) for stem in stems]
        if any(found):
            groups = [
                f"{what} {m[1]}" if m else f"clip {name}" for m, name in zip(found, recordings, strict=True)
            ]
            told = {group for group, match in zip(groups, found, strict=True) if match}
            return Grouping(tuple(groups), what, sum(match is not None for match in found), len(told))
    cut = recordings != list(names)
    groups = [f"recording {name}" for name in recordings]
    return Grouping(tuple(groups), "recording" if cut else "clip", len(names), len(set(groups)))
