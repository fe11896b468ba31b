"""A run read back: what reports, comparisons and the explorer start from.

Reading never changes a run, and is forgiving where nothing false can follow: a torn last line, a missing
summary or fields of a newer version become `warnings`, which whoever shows the run must show too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from sys import intern
from typing import Any

from soundcert.errors import RunError
from soundcert.runs.directory import FORMAT, RECORDS, RUN, lines_of, read_json
from soundcert.runs.schema import record_fields
from soundcert.runs.summary import summarise
from soundcert.runs.values import finite, missing_field

ATTACKS = "attacks.jsonl"
#: Clips that a run may claim to have been given; a larger number is damage, and is not believed.
_MOST_CLIPS = 10**9
#: Names that the folders of every cell of a study have.
_SAYS_NOTHING = re.compile("run|validation|fold-[0-9]+")


@dataclass(frozen=True)
class Run:
    """One run directory as it is on the disk.

    info: run.json. records: the lines of certificates.jsonl, as dicts, in the order of the data list.
    attacks: the lines of attacks.jsonl, if the run was attacked. warnings: what was left out, and why.
    looked_through: whether all values are known to be of the kinds that reports take (report.facts.readable).
    """

    path: Path
    info: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]
    attacks: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    looked_through: bool = False

    @property
    def name(self) -> str:
        """What the run is called: its folder's name, with the folders above it while that says nothing."""
        return name_of(self.path)

    @property
    def contract(self) -> Mapping[str, Any]:
        """The contract's fields; empty for a run that has none yet."""
        return self.info.get("contract") or {}

    @property
    def statement(self) -> str:
        return str(self.info.get("statement") or "")

    @property
    def config(self) -> Mapping[str, Any]:
        return self.info.get("config") or {}

    @property
    def certify(self) -> Mapping[str, Any]:
        return self.config.get("certify") or {}

    @property
    def about_waveform(self) -> bool:
        """Whether the radius is about a waveform, so that it has an SNR."""
        return self.contract.get("perturbation_location") not in ("feature", "latent")

    @property
    def total(self) -> int:
        """How many clips the run was given: as run.json says, if that is a whole number up to 10⁹; else its records."""
        told = self.info.get("clips")
        return told if type(told) is int and 0 < told <= _MOST_CLIPS else len(self.records)

    @property
    def finished(self) -> bool:
        return len(self.records) >= self.total

    @cached_property
    def usable(self) -> tuple[Mapping[str, Any], ...]:
        """Records of clips that could be used: certified or abstained."""
        return tuple(r for r in self.records if r["status"] != "failed")

    @cached_property
    def good(self) -> tuple[Mapping[str, Any], ...]:
        """Certified records, with their own label where labels are known."""
        certified = [r for r in self.usable if r["status"] == "certified"]
        return tuple(r for r in certified if r.get("truth") in (None, r["label"]))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The run's figures, computed from the records and not taken from report.json."""
        return summarise(self.records)


def name_of(path: Path) -> str:
    """Return what a run directory is called, such as `kws`, `sigma-0.5/run` or `sigma-0.5/fold-1/run`.

    A study names the runs of all its cells alike, and so do people: such a name is told with that of the folder above.
    """
    whole = path.resolve()
    parts = whole.relative_to(whole.anchor).parts
    taken = next(
        (k for k, part in enumerate(reversed(parts), 1) if not _SAYS_NOTHING.fullmatch(part)), len(parts)
    )
    return "/".join(parts[-taken:])


def open_run(path: Path) -> Run:
    """Read a run directory. RunError where it has no readable run.json."""
    if not (path / RUN).is_file():
        raise RunError(f"{path} is not a run directory: it has no {RUN} (soundcert certify writes it)")
    info = read_json(path / RUN)
    warnings = []
    if info.get("format") != FORMAT:
        warnings.append(
            f"{RUN} has format {info.get('format')!r}, and this version knows {FORMAT}: fields it does not know are left out"
        )
    records = _lines(path / RECORDS, warnings)
    known = record_fields()
    strange = sorted({key for r in records for key in r} - known)
    if strange:
        warnings.append(f"{RECORDS} has fields that this version does not know: {', '.join(strange)}")
    usable = []
    for record in records:
        missing = missing_field(record)
        if missing:
            warnings.append(f"the record of {record['clip']!r} is left out: it has no {missing}")
        else:
            usable.append(record)
    beyond = [r["clip"] for r in usable if _beyond(r)]
    if beyond:
        warnings.append(
            f"{len(beyond)} records claim a radius above what their draws allow, such as that of {beyond[0]!r}: "
            "soundcert verify tells more"
        )
    out = Run(
        path, info, tuple(usable), tuple(_lines(path / ATTACKS, warnings, needed=False)), tuple(warnings)
    )
    if not out.finished:
        late = f"the run is not finished: {len(out.records)} of {out.total} clips are recorded"
        out = Run(path, info, out.records, out.attacks, (*out.warnings, late))
    return out


def _beyond(record: Mapping[str, Any]) -> bool:
    """Whether a record claims a radius that its draws cannot give."""
    if record["status"] != "certified" or not (finite(record["radius"]) and finite(record["ceiling"])):
        return False
    return bool(record["radius"] > record["ceiling"] * (1 + 1e-9))


def find_runs(folder: Path, limit: int = 1000) -> list[Path]:
    """Return the run directories under a folder (links are not followed), newest first, at most `limit`."""
    found = [p.parent for p in folder.rglob(RUN) if p.is_file() and not p.is_symlink()]
    return sorted(found, key=lambda p: (p / RUN).stat().st_mtime, reverse=True)[:limit]


def _lines(file: Path, warnings: list[str], *, needed: bool = True) -> list[dict[str, Any]]:
    if not file.exists():
        if needed:
            warnings.append(f"{file.name} is missing: no clip is recorded")
        return []
    out = []
    for number, line in enumerate(lines_of(file), start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError
            record = json.loads(line, object_pairs_hook=_sharing)
            if not (isinstance(record, dict) and isinstance(record.get("clip"), str)):
                raise ValueError
        except (ValueError, RecursionError):
            torn = "torn" if not line.endswith(b"\n") else "not a record"
            warnings.append(f"{file.name}, line {number}, is {torn} and left out")
            continue
        out.append(record)
    return out


def _sharing(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object whose names are one with those of all others: half the memory of many records."""
    return {intern(name): value for name, value in pairs}
