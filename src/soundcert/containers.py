"""What the header of an audio file says of its length, where the decoder would shorten the file without a word."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

# What a WAV or AU writer that cannot seek back leaves as the size of its data.
STREAMED_SIZE = 0xFFFFFFFF

# The first bytes of a Sony Wave64 file.
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")


def declared_audio(file: BinaryIO) -> tuple[int, int] | None:
    """Where the audio of a WAV, RF64, W64, AIFF, AU or CAF file begins and how many bytes its header gives it.

    `None` for every other format, where no such chunk is found, and where the header leaves the length open.
    """
    head = file.read(12)
    if head[:4] == b".snd" and len(head) == 12:
        start, size = struct.unpack(">II", head[4:])
        return start, size
    if head[:4] == b"caff":
        file.seek(8)
        return _find_chunk(file, b"data", ">4sq")
    if head == _W64_RIFF[:12]:
        file.seek(40)
        # A size there counts the header of its chunk, and chunks begin at multiples of 8.
        return _find_chunk(file, b"data", "<4s12xq", counted=24, align=8)
    wanted, order = {
        (b"RIFF", b"WAVE"): (b"data", "<"),
        (b"RF64", b"WAVE"): (b"data", "<"),
        (b"RIFX", b"WAVE"): (b"data", ">"),
        (b"FORM", b"AIFF"): (b"SSND", ">"),
        (b"FORM", b"AIFC"): (b"SSND", ">"),
    }.get((head[:4], head[8:]), (b"", ""))
    if not wanted:
        return None
    wide = None
    if head[:4] == b"RF64":
        sizes = _find_chunk(file, b"ds64", "<4sI")
        told = file.read(16) if sizes and sizes[1] >= 16 else b""
        wide = struct.unpack("<8xQ", told) if len(told) == 16 else None
        file.seek(12)
    found = _find_chunk(file, wanted, order + "4sI", align=2)
    return (found[0], wide[0]) if found and wide and found[1] == STREAMED_SIZE else found


def _find_chunk(
    file: BinaryIO, wanted: bytes, header: str, *, counted: int = 0, align: int = 1
) -> tuple[int, int] | None:
    """Where the chunk of that name holds its bytes, and how many; the file is left there."""
    length = struct.calcsize(header)
    for _ in range(10_000):  # no honest file has as many chunks
        chunk = file.read(length)
        if len(chunk) < length:
            return None
        name, size = struct.unpack(header, chunk)
        size -= counted
        if size < 0:
            return None
        if name == wanted:
            return file.tell(), size
        if size > 2**62:  # no file goes on so far
            return None
        file.seek(size + -size % align, os.SEEK_CUR)
    return None


def ogg_ends(file: BinaryIO, size: int) -> bool:
    """Whether the last page of an Ogg file is whole and marked as the last; true for other formats."""
    file.seek(0)
    if file.read(4) != b"OggS":
        return True
    file.seek(max(0, size - 2**17))  # a page has at most 65 307 bytes
    tail = file.read()
    at = tail.rfind(b"OggS")
    page = tail[at:]
    if at < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return False
    body = sum(page[27 : 27 + page[26]])
    return bool(page[5] & 4) and len(page) >= 27 + page[26] + body
