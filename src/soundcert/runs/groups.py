"""Which clips belong together, as far as their names tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath


def grouping(names: Sequence[str]) -> tuple[list[str], str]:
    """Return the speaker or recording of each clip as its name tells it, and what it is; "clip" where no name does.

    A clip whose name does not tell, among others that do, stands for itself. Speech Commands names its speakers
    (WORD/SPEAKER_nohash_NUMBER), ESC its source recordings (FOLD-RECORDING-TAKE-CLASS); clips that soundcert cut out of
    a recording are its own (RECORDING#t=START,END).
    """
    recordings = [name.partition("#t=")[0] for name in names]
    stems = [PurePosixPath(name).stem for name in recordings]
    for pattern, what in (
        (r"([0-9a-f]+)_nohash_\d+", "speaker"),
        (r"\d+-(\d+)-[A-Z]\d*-\d+", "source recording"),
    ):
        found = [re.fullmatch(pattern, stem) for stem in stems]
        if any(found):
            return [
                match[1] if match else f"?{name}" for match, name in zip(found, recordings, strict=True)
            ], what
    return recordings, "clip" if recordings == list(names) else "recording"
