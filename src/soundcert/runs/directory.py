"""One run directory: `run.json`, `certificates.jsonl`, and a lock.

`certificates.jsonl` has one line a clip, in the order of the data list, flushed to the disk before the
next clip is begun. A process that dies while writing leaves a torn last line, which the next one cuts
off; so nothing is lost but the clip under way, and nothing is written twice.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from soundcert.errors import RunError
from soundcert.runs.values import leaves, missing_field, sound

RUN, RECORDS, LOCK = "run.json", "certificates.jsonl", ".lock"
FORMAT = 1
#: Of run.json and its kin; the shares of a million clips under a budget need about as much.
MAX_JSON_BYTES = 2**28
MAX_LINE_BYTES = 2**24


def _changes(before: Any, now: Any) -> list[str]:
    """Return where two JSON values differ, as `certify.n 500 → 700`."""
    return [f"{place} {str(a)[:60]} → {str(b)[:60]}" for place, a, b in leaves(before, now) if a != b]


class RunDirectory:
    """Open a run directory for writing, as a context manager.

    identity: what must be equal when a run is resumed (config, model, data list). info: further facts
    that run.json keeps from the first start. clips: names and labels of the data list, to say how another
    list differs from the one that was begun. Raises RunError where the directory holds another run, is
    in use by another process, or exists and `resume` was not asked for.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        info: Mapping[str, Any],
        *,
        resume: bool,
        clips: Iterable[tuple[str, str | None]] = (),
    ) -> None:
        self.path = path
        self.done: set[str] = (
            set()
        )  # names of the clips that are recorded: of a long run the rest stays on the disk
        self._lock: IO[str] | None = None
        self._records: IO[bytes] | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(path)
            self._begin(identity, info, resume, clips)
            self._repair()
            self._records = (path / RECORDS).open("ab")
        except OSError as error:
            self.close()
            raise RunError(f"cannot write to {path}: {error.strerror or error}") from None
        except BaseException:
            self.close()
            raise

    def _begin(
        self,
        identity: Mapping[str, Any],
        info: Mapping[str, Any],
        resume: bool,
        clips: Iterable[tuple[str, str | None]],
    ) -> None:
        file = self.path / RUN
        if not file.exists():
            if (self.path / RECORDS).exists():
                raise RunError(f"{self.path} has {RECORDS} but no {RUN}: it is not a run that can go on")
            write_json(file, {"format": FORMAT, "identity": dict(identity), **info})
            return
        if not resume:
            raise RunError(
                f"{self.path} holds a run already: add --resume to go on with it, or choose another --out"
            )
        before = read_json(file)
        if before.get("format") != FORMAT:
            raise RunError(f"{file} has format {before.get('format')!r}; this version reads {FORMAT}")
        held = before.get("identity", {})
        if not isinstance(held, dict):
            raise RunError(
                f"{file}: expected `identity` as an object, got {type(held).__name__}; restore the file"
            )
        changed = sorted(key for key, value in identity.items() if held.get(key) != value)
        if changed:
            *most, last = [f"another {self._changed(key, before, info, clips)}" for key in changed]
            what = f"{', '.join(most)} and {last}" if most else last
            raise RunError(
                f"{self.path} was begun with {what}: a run cannot change midway; choose another --out"
            )

    def _changed(
        self,
        key: str,
        before: Mapping[str, Any],
        now: Mapping[str, Any],
        clips: Iterable[tuple[str, str | None]],
    ) -> str:
        """Name what changed of a run, and how as far as the directory knows it."""
        details: list[str] = []
        if key == "config" and isinstance(before.get("config"), dict):
            details = _changes(before.get("config"), now.get("config"))[:3]
        elif key == "data":
            numbers = before.get("clips"), now.get("clips")
            if all(type(number) is int for number in numbers):
                details = ["{} then, {} now".format(*numbers)]
            details += self._first_other_clip(clips)
        word = "list of clips" if key == "data" else key
        return f"{word} ({'; '.join(details)})" if details else word

    def _first_other_clip(self, clips: Iterable[tuple[str, str | None]]) -> list[str]:
        """Say where a list of clips leaves the one that was certified, of which only finished clips are recorded."""
        # Records that are damaged or missing say nothing here.
        with contextlib.suppress(RunError, OSError):
            pairs = zip(read_records(self.path), clips, strict=False)
            for number, (record, (name, label)) in enumerate(pairs, start=1):
                then = record["clip"]
                if then != name:
                    return [f"number {number} was {then[:60]!r}, is {name[:60]!r}"]
                if record.get("truth") != label:
                    return [f"{name[:60]!r} was labelled {record.get('truth')!r:.60}, is {label!r:.60}"]
        return []

    def _repair(self) -> None:
        file = self.path / RECORDS
        self.done = {record["clip"] for record in checked(repaired(file), file)}

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one clip's record and wait until it is on the disk."""
        assert self._records is not None
        if record["clip"] in self.done:
            raise RunError(f"clip {record['clip']!r} is recorded already")
        append_line(self._records, record, self.path, "go on with --resume")
        self.done.add(record["clip"])

    def close(self) -> None:
        for handle in (self._records, self._lock):
            if handle is not None:
                # A full disk shows again on closing; append has reported it already.
                with contextlib.suppress(OSError):
                    handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def take_lock(path: Path) -> IO[str]:
    """Lock a run directory for writing until the handle is closed; RunError where another process has it."""
    import fcntl

    if (path / LOCK).exists() and not (path / LOCK).is_file():
        raise RunError(f"{path / LOCK} must be a file, and is a folder, pipe or device")
    lock = (path / LOCK).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        raise RunError(
            f"{path} is being written by another process: wait for it, or choose another --out"
        ) from None
    return lock


def repaired(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file, and cut a torn last line off when they are through."""
    if not file.exists():
        return
    whole = 0
    for number, line in enumerate(lines_of(file), start=1):
        if not line.endswith(b"\n"):
            break
        yield _record(line, file, number)
        whole += len(line)
    if whole < file.stat().st_size:
        os.truncate(file, whole)


def checked(records: Iterable[dict[str, Any]], file: Path) -> Iterator[dict[str, Any]]:
    """Yield a file's records from its first line on; RunError for one that no figure could be made of."""
    for number, record in enumerate(records, start=1):
        missing = missing_field(record)
        if missing or not sound(record):
            what = f"it has no {missing}" if missing else "it has values of other kinds than certify writes"
            raise RunError(
                f"{file}, line {number}, is not a record of soundcert: {what}; restore the file, or remove the line"
            )
        yield record


def _record(line: bytes, file: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if not isinstance(record["clip"], str):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RunError(f"{file}, line {number}, is not a record of soundcert") from None
    return dict(record)


def encode_json(values: object, indent: int | None = None) -> bytes:
    """Return JSON as UTF-8. A name that is not valid Unicode, as a file's may be, makes all of it escapes."""
    text = json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False, sort_keys=True)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(values, indent=indent, allow_nan=False, sort_keys=True).encode()


def lines_of(file: Path) -> Iterator[bytes]:
    """Yield the lines of a file of records, ends included; RunError where one is longer than any record."""
    if not file.is_file():  # a pipe would be waited for
        raise RunError(f"{file} must be a file, and is a folder, pipe or device")
    with file.open("rb") as handle:
        while line := handle.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise RunError(f"{file} has a line of more than {MAX_LINE_BYTES} bytes, which is no record")
            yield line


def append_line(handle: IO[bytes], record: Mapping[str, Any], path: Path, advice: str) -> None:
    """Write a record as one line and wait until it is on the disk."""
    line = encode_json(record) + b"\n"
    try:
        handle.write(line)
        handle.flush()
        os.fsync(handle.fileno())
    except OSError as error:
        raise RunError(
            f"cannot write to {path}: {error.strerror or error}; what was recorded is kept, {advice}"
        ) from None


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all; RunError where it cannot be written."""
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            file.write(encode_json(values, indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; what was recorded is kept, go on with --resume"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file() or path.stat().st_size > MAX_JSON_BYTES:  # a pipe would be waited for
            raise ValueError
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise RunError(f"cannot read {path}: it is missing or not JSON") from None
    if not isinstance(values, dict):
        raise RunError(f"{path} must hold a JSON object")
    return values


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a run directory; a torn last line is left out. RunError for a line that is no record."""
    for number, line in enumerate(lines_of(path / RECORDS), start=1):
        if line.endswith(b"\n"):
            yield _record(line, path / RECORDS, number)
