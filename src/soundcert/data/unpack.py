"""Unpack an archive that need not be honest: nothing outside the folder, nothing but files, nothing without end.

Refused, with nothing kept: absolute paths, `..`, drive letters and backslashes (also where Unicode normalisation
brings them about); links, devices, sparse and encrypted members; names with control characters, names that are
not UTF-8, names that one of the usual file systems cannot hold or would take for another name of the archive;
more entries or bytes than allowed, or other bytes than a header declares. Permissions, owners and times of the
archive are not taken over.
"""

from __future__ import annotations

import gzip
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..errors import DownloadError

_CHUNK = 2**20
# Longest header that tarfile may read into memory at once.
_HEADER = 2**20
_DEPTH = 32
_RESERVED = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.IGNORECASE)


class NotWritableError(DownloadError):
    """The disk cannot take what is in an archive, which is not the archive's fault."""


@dataclass(frozen=True)
class Allowance:
    """What an archive may hold: entries (folders included) and unpacked bytes."""

    entries: int
    size: int


def unpack(
    archive: Path, to: Path, allowance: Allowance, progress: Callable[[int, int | None], None] | None = None
) -> None:
    """Unpack a .zip or .tar.gz into `to`, a folder that is empty. Raises `DownloadError`, one line.

    What was unpacked before a refusal is left in `to`, which the caller throws away.
    """
    sink = _Sink(archive.name, to, allowance, progress)
    try:
        with archive.open("rb") as file:
            head = file.read(4)
        if head[:2] == b"PK":
            _unpack_zip(archive, sink)
        elif head[:2] == b"\x1f\x8b":
            _unpack_tar(archive, sink)
        else:
            got = "a web page" if head[:1] == b"<" else f"something that begins with {head!r}"
            raise DownloadError(f"{archive.name}: expected a .zip or .tar.gz archive, got {got}")
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        gzip.BadGzipFile,
        struct.error,
        NotImplementedError,  # zipfile: packed by a method that it does not know
        ValueError,
        OverflowError,
        LookupError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(f"{archive.name}: damaged ({reason}); fetch it again") from None
    except OSError as error:
        raise NotWritableError(
            f"{str(to)!r} cannot be written: {error.strerror or error}; make room, or choose another --out"
        ) from None


@dataclass
class _Sink:
    """Places members below a folder, and keeps count."""

    archive: str
    root: Path
    allowance: Allowance
    progress: Callable[[int, int | None], None] | None
    total: int | None = None
    entries: int = 0
    size: int = 0
    # Each path and each folder on the way, as file systems that fold case and normalise would compare them.
    taken: dict[str, tuple[str, bool]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    def refuse(self, name: str, reason: str) -> DownloadError:
        return DownloadError(f"{self.archive}: refused: {name[:80]!r} {reason}; nothing was kept")

    def count(self) -> None:
        self.entries += 1
        if self.entries > self.allowance.entries:
            raise DownloadError(
                f"{self.archive}: refused: more than {self.allowance.entries} entries; nothing was kept"
            )

    def folder(self, name: str) -> None:
        parts = self._parts(name)
        if parts:
            self._take(name, parts, folder=True)
            self.root.joinpath(*parts).mkdir(parents=True, exist_ok=True)

    def file(self, name: str, size: int, source: IO[bytes]) -> None:
        parts = self._parts(name)
        if not parts:
            raise self.refuse(name, "names no file")
        self._take(name, parts, folder=False)
        self._allow(name, size)
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        left = size
        with path.open("xb") as file:
            while left:
                block = source.read(min(left, _CHUNK))
                if not block:
                    raise EOFError(f"{name[:80]!r} ends {left} bytes early")
                file.write(block)
                left -= len(block)
        if self.progress:
            self.progress(self.size, self.total)

    def _allow(self, name: str, size: int) -> None:
        if size < 0:
            raise self.refuse(name, "declares a negative size")
        self.size += size
        if self.size > self.allowance.size:
            raise self.refuse(
                name, f"declares {size} bytes, which makes more than the {self.allowance.size} allowed"
            )

    def _parts(self, name: str) -> list[str]:
        """The folders and the file of a path that is safe as it stands and in its normal form."""
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise self.refuse(name, "is not a UTF-8 name") from None
        for form in (name, unicodedata.normalize("NFKC", name)):
            if any(unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") for letter in form):
                raise self.refuse(name, "has control characters")
            if "\\" in form or ":" in form:
                raise self.refuse(name, "has a backslash or a colon")
            if form.startswith("/"):
                raise self.refuse(name, "is an absolute path")
            parts = [part for part in form.split("/") if part not in ("", ".")]
            if ".." in parts:
                raise self.refuse(name, "leads out of the folder")
            for part in parts:
                if len(part.encode()) > 255 or part.endswith((" ", ".")) or _RESERVED.fullmatch(part):
                    raise self.refuse(name, "is a name that not every file system can hold")
            if len(parts) > _DEPTH:
                raise self.refuse(name, f"is more than {_DEPTH} folders deep")
        return [part for part in name.split("/") if part not in ("", ".")]

    def _take(self, name: str, parts: list[str], *, folder: bool) -> None:
        for number in range(1, len(parts) + 1):
            path = "/".join(parts[:number])
            is_folder = folder or number < len(parts)
            key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
            before = self.taken.setdefault(key, (path, is_folder))
            if before[0] != path:
                raise self.refuse(name, f"and {before[0][:80]!r} are one name on some file systems")
            if before[1] != is_folder:
                raise self.refuse(name, "is a file and a folder")
        if not folder:
            if path in self.files:
                raise self.refuse(name, "comes twice")
            self.files.add(path)


def _unpack_zip(path: Path, sink: _Sink) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        sink.total = sum(member.file_size for member in members)
        if sink.total > sink.allowance.size:
            raise DownloadError(
                f"{path.name}: refused: declares {sink.total} bytes, more than the {sink.allowance.size} "
                "allowed; nothing was kept"
            )
        for member in members:
            sink.count()
            # `filename` is already cut at a NUL, which a name must not have.
            name = member.orig_filename
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise sink.refuse(name, "is a link or a device")
            if member.flag_bits & 1:
                raise sink.refuse(name, "is encrypted")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise sink.refuse(name, "is compressed in an unusual way")
            if name.endswith("/"):
                if member.file_size:
                    raise sink.refuse(name, "is a folder with bytes")
                sink.folder(name)
            elif kind == stat.S_IFDIR:
                raise sink.refuse(name, "is a file and a folder")
            else:
                with archive.open(member) as source:
                    sink.file(name, member.file_size, source)
                    if source.read(1):
                        raise sink.refuse(name, "holds more bytes than it declares")


def _unpack_tar(path: Path, sink: _Sink) -> None:
    # Room for headers and padding on top of the members' own bytes.
    room = sink.allowance.size + 4096 * sink.allowance.entries + 2**20
    with gzip.open(path) as packed:
        stream = _Forward(packed, room, path.name)
        with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                # The list that tarfile keeps would grow with the archive.
                archive.members = []
                sink.count()
                if member.isdir():
                    sink.folder(member.name)
                elif member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                    raise sink.refuse(member.name, "is a link, a device or a sparse file")
                else:
                    stream.seek(member.offset_data)
                    sink.file(member.name, member.size, stream)  # type: ignore[arg-type]
        # tarfile takes a broken header for the end, and gzip checks its sum only at the end.
        last = stream.last
        while True:
            if last.strip(b"\0"):
                raise tarfile.ReadError("bytes after the end")
            last = stream.read(_CHUNK)
            if not last:
                break


class _Forward:
    """A decompressed stream that is read once, in reasonable pieces, up to a limit."""

    def __init__(self, source: gzip.GzipFile, limit: int, name: str):
        self.source, self.limit, self.name = source, limit, name
        self.position = 0
        self.last = b""

    def read(self, size: int) -> bytes:
        if size > max(_HEADER, _CHUNK):
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self.source.read(size)
        self.position += len(self.last)
        if self.position > self.limit:
            raise DownloadError(
                f"{self.name}: refused: more than {self.limit} bytes unpacked; nothing was kept"
            )
        return self.last

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence or offset < self.position:
            raise tarfile.ReadError("headers out of order")
        while self.position < offset and self.read(min(offset - self.position, _CHUNK)):
            pass
        return self.position
