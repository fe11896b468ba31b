"""Archives that mean harm, and archives that are broken: refused in one line, with nothing outside the folder."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from soundcert.data.unpack import Allowance, unpack
from soundcert.errors import DownloadError

ROOM = Allowance(entries=50, size=2**20)
FILES = {"set/a.wav": b"a" * 1000, "set/sub/ü 声.wav": b"", "set/b.wav": b"bb" * 512}


def tar(members: list[tarfile.TarInfo | tuple[str, bytes]], **kwargs: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", **kwargs) as archive:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def special(name: str, kind: bytes, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def zipped(members: list[tuple[str, bytes] | tuple[str, bytes, int]]) -> bytes:
    """A zip; a third value is the Unix mode of the member."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, *mode in members:
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = (mode[0] if mode else 0o100644) << 16
            archive.writestr(info, data)
    return out.getvalue()


@pytest.fixture
def into(tmp_path: Path):
    """`into(bytes)`: unpack them; what lies outside the folder afterwards is an error."""
    outside = tmp_path / "home" / "precious"
    outside.parent.mkdir()
    outside.write_text("mine")

    def into(data: bytes, allowance: Allowance = ROOM) -> Path:
        archive = tmp_path / "home" / "archive"
        archive.write_bytes(data)
        to = tmp_path / "home" / f"to{len(list(outside.parent.iterdir()))}"
        to.mkdir()
        before = {path for path in tmp_path.rglob("*") if to not in path.parents}
        try:
            unpack(archive, to, allowance)
        finally:
            assert {path for path in tmp_path.rglob("*") if to not in path.parents} == before
            assert outside.read_text() == "mine"
            assert not any(path.is_symlink() for path in to.rglob("*"))
        return to

    return into


def refused(into, data: bytes, pattern: str, allowance: Allowance = ROOM) -> None:
    with pytest.raises(DownloadError, match=pattern) as caught:
        into(data, allowance)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def held(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("make", [tar, zipped])
def test_honest_archives(into, make):
    assert held(into(make(list(FILES.items())))) == FILES
    assert held(into(make([("./set/a.wav", b"x"), ("./b", b"")]))) == {"set/a.wav": b"x", "b": b""}


def test_folders_of_their_own(into):
    data = tar([special("./", tarfile.DIRTYPE), special("set", tarfile.DIRTYPE), ("set/a", b"1")])
    assert held(into(data)) == {"set/a": b"1"}
    assert (into(zipped([("set/", b""), ("set/a", b"1"), ("empty/", b"")])) / "empty").is_dir()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_format(into, format):
    name = "/".join(["folder" * 5] * 4) + "/声.wav"
    assert held(into(tar([(name, b"x" * 512)], format=format))) == {name: b"x" * 512}


def test_permissions_and_owners_are_not_taken_over(into):
    info = special("program", tarfile.REGTYPE, mode=0o6777)
    info.uid = info.gid = 12345
    for data in (tar([info]), zipped([("program", b"", 0o106777)])):
        status = (into(data) / "program").stat()
        assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX | 0o111)
        assert status.st_uid == os.getuid()


BAD_NAMES = {
    "../evil": "leads out",
    "set/../../evil": "leads out",
    "/etc/evil": "absolute",
    "//host/evil": "absolute",
    "C:/evil": "colon",
    "set/a.wav:stream": "colon",
    "..\\evil": "backslash",
    "\uff0e\uff0e/evil": "leads out",  # fullwidth full stops
    "\uff0e\uff0e\uff0fevil": "leads out",
    "\uff0fetc/evil": "absolute",
    "set/\u2024\u2024/evil": "leads out",  # one dot leaders
    "set/a\x01.wav": "control",
    "set/a\n.wav": "control",
    "set/\x7f": "control",
    "set/\u202egpj.wav": "control",  # turns the rest of the name round
    "set/a\u200b.wav": "control",
    "set/con": "not every file system",
    "set/LPT1.wav": "not every file system",
    "set/a. ": "not every file system",
    "set/a.": "not every file system",
    "set/" + "x" * 256: "not every file system",
    "set/" + "声" * 100: "not every file system",
    "x/" * 40 + "a": "folders deep",
}


@pytest.mark.parametrize("make", [tar, zipped])
@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_names_that_are_refused(into, make, name):
    refused(into, make([("good", b"1"), (name, b"evil")]), BAD_NAMES[name])


def test_a_nul_cannot_hide_the_rest_of_a_name(into):
    data = zipped([("goodX../evil", b"x")]).replace(b"goodX../evil", b"good\0../evil")
    refused(into, data, "control characters")
    pax = tarfile.TarInfo("good")
    pax.pax_headers = {"path": "good\0/../evil"}
    refused(into, tar([pax], format=tarfile.PAX_FORMAT), "control characters|leads out")


def test_names_that_are_not_utf8(into):
    info = tarfile.TarInfo(os.fsdecode(b"latin-\xe9.wav"))
    refused(into, tar([info], format=tarfile.GNU_FORMAT), "not a UTF-8 name")


LINKS = {
    "symlink": special("set/link", tarfile.SYMTYPE, "../../precious"),
    "absolute symlink": special("set/link", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": special("set/link", tarfile.LNKTYPE, "../precious"),
    "hard link within": special("set/link", tarfile.LNKTYPE, "good"),
    "character device": special("set/null", tarfile.CHRTYPE),
    "block device": special("set/disk", tarfile.BLKTYPE),
    "pipe": special("set/pipe", tarfile.FIFOTYPE),
    "sparse": special("set/sparse", tarfile.GNUTYPE_SPARSE),
    "unknown": special("set/what", b"Z"),
}


@pytest.mark.parametrize("kind", LINKS)
def test_links_and_devices_in_a_tar(into, kind):
    refused(into, tar([("good", b"1"), LINKS[kind]]), "refused|damaged")


def test_a_link_cannot_be_written_through(into):
    refused(into, tar([special("set", tarfile.SYMTYPE, "/tmp"), ("set/evil", b"x")]), "link")


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o060666, 0o010666, 0o140777], ids=oct)
def test_links_and_devices_in_a_zip(into, mode):
    refused(into, zipped([("good", b"1"), ("set/link", b"../../precious", mode)]), "link or a device")


def test_odd_zip_members(into):
    encrypted = bytearray(zipped([("a", b"x")]))
    for sign, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[encrypted.index(sign) + place] |= 1
    refused(into, bytes(encrypted), "encrypted")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", b"x" * 100)
    refused(into, out.getvalue(), "unusual")
    refused(into, zipped([("a/", b"bytes")]), "folder with bytes")
    refused(into, zipped([("a", b"", 0o040755)]), "file and a folder")


@pytest.mark.parametrize("make", [tar, zipped])
@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["set/a", "set/a"], "comes twice"),
        (["set/a", "./set//a"], "comes twice"),
        (["set/a", "set/A"], "one name on some file systems"),
        (["Set/a", "set/b"], "one name on some file systems"),
        (["stra\u00dfe", "STRASSE"], "one name on some file systems"),
        (["caf\u00e9", "cafe\u0301"], "one name on some file systems"),
        (["\ufb01le", "file"], "one name on some file systems"),
        (["set", "set/a"], "file and a folder"),
        (["set/a", "set"], "file and a folder"),
    ],
    ids=ascii,
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_meet(into, make, names, pattern):
    refused(into, make([(name, b"x") for name in names]), pattern)


# Bombs


def test_a_zip_that_declares_too_much_is_refused_before_it_is_unpacked(into):
    data = zipped([(f"zeros{i}", bytes(2**19)) for i in range(3)])
    assert len(data) < 10_000
    refused(into, data, "declares 1572864 bytes, more than the 1048576 allowed")


def test_a_zip_that_declares_too_little(into):
    """Its 2 MB of zeros are declared as 100 bytes: what is beyond is never written."""
    data = bytearray(zipped([("zeros", bytes(2**21))]))
    for sign, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<I", data, data.index(sign) + place, 100)
    refused(into, bytes(data), "damaged")


def test_a_tar_that_declares_too_much(into):
    refused(into, tar([(f"zeros{i}", bytes(2**19)) for i in range(3)]), "more than the 1048576 allowed")
    for size in (2**40, 2**62):
        header = special("huge", tarfile.REGTYPE)
        header.size = size
        block = header.tobuf(tarfile.GNU_FORMAT)
        refused(into, gzip.compress(block + bytes(1024)), "more than the 1048576 allowed")


def test_a_tar_with_endless_headers(into):
    """Names and pax headers are read into memory whole, so their length is limited too."""
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        header = special("header", kind)
        header.size = 2**28
        refused(
            into,
            gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**21)),
            "a header of 268435456 bytes",
        )


def test_endless_zeros_after_the_end_of_a_tar(into):
    data = tar([("a", b"x")])
    refused(into, gzip.compress(gzip.decompress(data) + bytes(2**22)), "more than .* bytes unpacked")


@pytest.mark.parametrize("make", [tar, zipped])
def test_too_many_entries(into, make):
    refused(into, make([(f"{i}", b"") for i in range(51)]), "more than 50 entries")


# Broken


@pytest.mark.parametrize("make", [tar, zipped])
def test_truncated_archives(into, make):
    data = make([(name, os.urandom(3000)) for name in "abc"])
    for length in (5, 20, 600, len(data) // 2, len(data) - 30, len(data) - 1):
        refused(into, data[:length], "damaged")


@pytest.mark.parametrize("make", [tar, zipped])
def test_changed_bytes(into, make):
    data = bytearray(make([(name, os.urandom(3000)) for name in "abc"]))
    data[len(data) // 2] ^= 0xFF
    refused(into, bytes(data), "damaged")


def test_a_broken_header_is_not_the_end(into):
    """tarfile stops there without a word."""
    plain = bytearray(gzip.decompress(tar([("a", b"x" * 10), ("b", b"y" * 10), ("c", b"z")])))
    plain[1024 + 148] ^= 0xFF  # the checksum of the second header
    refused(into, gzip.compress(bytes(plain)), "damaged")


@pytest.mark.parametrize("make", [tar, zipped])
def test_whatever_is_changed_there_is_one_line_at_most(tmp_path, make):
    rng = np.random.default_rng(1)
    data = make([(f"set/{i}", b"abc" * 50) for i in range(5)])
    plain = gzip.decompress(data) if make is tar else data
    archive, to = tmp_path / "archive", tmp_path / "to"
    ends = set()
    for _ in range(200):
        changed = bytearray(plain)
        for place in rng.integers(0, len(plain), rng.integers(1, 6)):
            changed[place] = rng.integers(0, 256)
        archive.write_bytes(gzip.compress(bytes(changed), 1) if make is tar else bytes(changed))
        to.mkdir()
        try:
            unpack(archive, to, ROOM)
            ends.add("unpacked")
        except DownloadError as error:
            ends.add("one line" if "\n" not in str(error) else str(error))
        shutil.rmtree(to)
        assert os.listdir(tmp_path) == ["archive"]
    assert ends <= {"unpacked", "one line"}
    assert "one line" in ends


def test_headers_upon_headers(into):
    link = special("name", tarfile.GNUTYPE_LONGNAME)
    refused(into, gzip.compress(link.tobuf(tarfile.GNU_FORMAT) * 3000 + bytes(1024)), "damaged")


def test_what_is_no_archive(into):
    refused(into, b"<!DOCTYPE html>", "got a web page")
    refused(into, b"MZ\x90\0", "something that begins with")
    refused(into, b"", "something that begins with")
    refused(into, gzip.compress(b"not a tar" * 200), "damaged")
    refused(into, gzip.compress(b""), "damaged")
    refused(into, b"PK\3\4" + bytes(100), "damaged")


def test_a_disk_that_fills_up(into, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("soundcert.data.unpack._Sink.file", full)
    refused(into, tar([("a", b"x")]), "No space left on device; make room")
