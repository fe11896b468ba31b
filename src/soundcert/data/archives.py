"""The official archives of the known data sets: fetched, checked, unpacked, and moved into place when all is done.

A folder of that name exists only when it is whole: everything before happens in a hidden folder beside it, which
the next call goes on from.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..errors import ConfigError, DownloadError, SoundcertError, did_you_mean
from .config import DataConfig
from .datasets import speech_commands_items
from .download import Patience, check_url, download, held, shown
from .items import read_csv
from .sources import load_items
from .unpack import Allowance, NotWritableError, unpack

MIRROR = "SOUNDCERT_MIRROR"
_RECEIPT = "soundcert-data.json"
_ATTRIBUTION = "ATTRIBUTION.md"
# Left free beside what is written, and what a file takes beyond its bytes.
_MARGIN = 2**26
_BLOCK = 4096

# `what` is "downloading", "checking" or "unpacking".
Step = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Archive:
    """One official archive, and how its content is recognised."""

    name: str
    title: str
    url: str
    file: str
    size: int
    sha256: str
    # Packed anew by the server at times: another digest from the official address is no mistake by itself.
    repacked: bool
    allowance: Allowance
    # Raises `DownloadError` unless the unpacked folder holds what the data set is known to hold.
    check: Callable[[Path], None]
    # Leaves only the part that is asked for.
    reduce: Callable[[Path], None] | None
    licence: str
    credit: str


@dataclass(frozen=True)
class Fetched:
    """What `fetch` did. `digest` says how the archive was recognised: published, given or by its content."""

    name: str
    root: str
    clips: int
    status: str
    licence: str
    url: str | None = None
    size: int | None = None
    sha256: str | None = None
    digest: str | None = None

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def fetch(
    name: str,
    out: Path,
    *,
    url: str | None = None,
    sha256: str | None = None,
    keep: bool = False,
    patience: Patience | None = None,
    progress: Step | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Fetched:
    """Fetch a known data set into the folder `out / name`, or say that it is there.

    `url` is another address of the archive (http, https, or file for one that is here already); without it
    `$SOUNDCERT_MIRROR/<file name>`, if set, else the official one. `sha256` is the digest of that file where it
    is packed otherwise than the official one; what is in it is checked all the same. `keep` leaves the archive
    in `out`. Raises `DownloadError` or `ConfigError`, one line.
    """
    if name not in ARCHIVES:
        raise ConfigError(
            f"expected a data set that can be fetched, got {name!r}{did_you_mean(name, ARCHIVES)}"
        )
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"--sha256: expected 64 hexadecimal digits, got {sha256!r}")
    archive = ARCHIVES[name]
    target = out / name
    if target.is_symlink() or target.exists():
        found = _already(archive, target)
        if found:
            return found
    official = url is None and not os.environ.get(MIRROR)
    url = url or _address(archive)
    local = _local(url)
    work = out / f".{name}.download"
    step = progress or (lambda _what, _done, _total: None)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with _alone(work, name):
            shutil.rmtree(work / "unpacked", ignore_errors=True)
            # One file an address: what a mirror sent must not pass for what the official server sent.
            packed = local or work / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{archive.file}"
            to_come = 0 if local or packed.exists() else max(0, archive.size - held(packed))
            _require_room(out, to_come + _unpacked_room(archive), archive)
            if local is None and not packed.exists():
                # Any packing of the same files is of about the same size.
                known = None if archive.repacked or sha256 else archive.size
                download(
                    url, packed, size=known, limit=archive.size * 2 + 2**20, patience=patience, sleep=sleep,
                    progress=partial(step, "downloading"),
                )  # fmt: skip
            digest = _digest(packed, partial(step, "checking"))
            how = _recognise(archive, packed, digest, sha256, official, mine=local is None)
            try:
                unpack(packed, _emptied(work / "unpacked"), archive.allowance, partial(step, "unpacking"))
                root = _only_folder(work / "unpacked")
                archive.check(root)
                if archive.reduce:
                    archive.reduce(root)
                clips = _clips(name, root)
            except NotWritableError:
                raise
            except SoundcertError:
                # Fetching again is the only thing that can help, unless these are the published bytes.
                if local is None and how != "published":
                    packed.unlink(missing_ok=True)
                raise
            size = packed.stat().st_size
            done = Fetched(
                name, str(target), clips, "fetched", archive.licence, shown(url), size, digest, how
            )
            _write_papers(root, archive, done)
            _move(root, target)
            if keep and local is None:
                os.replace(packed, out / archive.file)
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise DownloadError(
            f"{str(out)!r} cannot be written: {error.strerror or error}; make room, or choose another --out"
        ) from None
    return done


def _address(archive: Archive) -> str:
    mirror = os.environ.get(MIRROR)
    return f"{mirror.rstrip('/')}/{archive.file}" if mirror else archive.url


def _local(url: str) -> Path | None:
    parts = urlsplit(url)
    if parts.scheme != "file":
        check_url(url)
        return None
    path = Path(url2pathname(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_file():
        raise ConfigError(f"expected an archive at {url!r}, got no file of that name")
    return path


def _already(archive: Archive, target: Path) -> Fetched | None:
    """What is there under the data set's name; `None` for an empty folder."""
    if target.is_dir() and not any(target.iterdir()):
        return None
    try:
        clips = _clips(archive.name, target)
    except SoundcertError as error:
        raise ConfigError(
            f"{str(target)!r} is there, but is not {archive.title} ({error}); move it away, or choose another --out"
        ) from None
    return Fetched(archive.name, str(target), clips, "present", archive.licence)


def _clips(name: str, root: Path) -> int:
    return len(load_items(DataConfig(source=name, root=root.absolute())))


@contextmanager
def _alone(work: Path, name: str) -> Iterator[None]:
    """Refuse a second call beside this one; a lock that its holder's end takes with it."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover - not on Windows, where open files cannot be replaced anyway
        yield
        return
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another call is fetching {name} into {str(work.parent)!r}: wait for it"
            ) from None
        try:
            yield
        finally:
            # Nothing is left of a call that fetched nothing.
            if {path.name for path in work.glob("*")} == {"lock"}:
                shutil.rmtree(work, ignore_errors=True)


def _unpacked_room(archive: Archive) -> int:
    return archive.allowance.size + archive.allowance.entries * _BLOCK // 2


def _require_room(out: Path, needed: int, archive: Archive) -> None:
    free = shutil.disk_usage(out).free
    if free < needed + _MARGIN:
        raise DownloadError(
            f"{str(out)!r}: expected {_gigabytes(needed + _MARGIN)} free for {archive.title} (the archive and "
            f"what is in it, side by side), got {_gigabytes(free)}; make room, or choose another --out"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def _digest(path: Path, progress: Callable[[int, int | None], None]) -> str:
    digest, done, whole = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
            done += len(block)
            progress(done, whole)
    return digest.hexdigest()


def _recognise(
    archive: Archive, packed: Path, digest: str, given: str | None, official: bool, *, mine: bool
) -> str:
    if digest == archive.sha256 and given is None:
        return "published"
    if given is not None and digest == given.lower():
        return "given"
    if given is None and archive.repacked and official:
        return "content"
    size = packed.stat().st_size
    if mine:
        packed.unlink(missing_ok=True)
    expected = given.lower() if given else archive.sha256
    more = (
        " (if the mirror packed it anew, give its digest with --sha256)" if not given and not official else ""
    )
    raise DownloadError(
        f"{archive.file}: expected SHA-256 {expected}, got {digest} ({size} bytes): damaged, or another file; "
        f"{'it was deleted: fetch it again' if mine else 'name another'}{more}"
    )


def _emptied(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _only_folder(folder: Path) -> Path:
    """The folder that an archive wraps everything in, if it does."""
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _move(root: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        target.rmdir()  # empty, as found above; fails if anything has come into it since
    os.rename(root, target)


def _write_papers(root: Path, archive: Archive, done: Fetched) -> None:
    """Where the data is from and what may be done with it, beside the data."""
    changes = "Only the ESC-10 clips were kept, and meta.csv lists them." if archive.reduce else "None."
    recognised = {
        "published": "the one published for this archive",
        "given": "the one that whoever fetched it gave",
        "content": "not the one on record, as this server packs anew at times; the content was checked",
    }[done.digest or "content"]
    (root / _ATTRIBUTION).write_text(
        f"# {archive.title}\n\n{archive.credit}\n\nLicence: {archive.licence}\n\nFetched from {done.url} by "
        f"soundcert. SHA-256 of the archive: {done.sha256} ({recognised}). Changes: {changes}\n",
        encoding="utf-8",
    )
    facts = {key: value for key, value in done.to_dict().items() if key not in ("root", "status")}
    facts["fetched"] = datetime.now(UTC).isoformat(timespec="seconds")
    (root / _RECEIPT).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


# --- what the data sets are known to hold -----------------------------------------------------------


def _require(what: str, expected: object, got: object) -> None:
    if expected != got:
        raise DownloadError(f"the archive is not the data set: expected {expected} {what}, got {got}")


def check_speech_commands(root: Path, *, words: int, splits: dict[str, int]) -> None:
    try:
        items = speech_commands_items(root)
    except SoundcertError as error:
        raise DownloadError(f"the archive is not the data set: {error}") from None
    _require("words", words, len({item.label for item in items}))
    found = Counter(item.split for item in items)
    for split, count in splits.items():
        _require(f"{split} clips", count, found[split])


_ESC_NAME = re.compile(r"([1-9])-\d+-[A-Z]-(\d{1,2})\.wav")


def check_esc(root: Path, *, table: str | None, clips: int, classes: int, folds: int, frames: int) -> None:
    """The table has the digest on record, and each of its clips is there, whole and in the form described."""
    meta = root / "meta" / "esc50.csv"
    try:
        columns, rows = read_csv(meta)
    except SoundcertError as error:
        raise DownloadError(f"the archive is not the data set: {error}") from None
    if table is not None:
        _require("as SHA-256 of meta/esc50.csv", table, hashlib.sha256(meta.read_bytes()).hexdigest())
    needed = {"filename", "fold", "target", "category", "esc10"}
    _require("as columns of meta/esc50.csv", [], sorted(needed - set(columns)))
    _require("clips", clips, len(rows))
    for where, row in rows:
        match = _ESC_NAME.fullmatch(row.get("filename", ""))
        if not match or match.groups() != (row.get("fold"), row.get("target")):
            raise DownloadError(f"the archive is not the data set: {where} does not agree with its file name")
    for column, kinds in (("category", classes), ("fold", folds)):
        count = Counter(row[column] for _, row in rows)
        _require(f"clips in each of {kinds} of {column}", {clips // kinds}, set(count.values()))
        _require(f"values of {column}", kinds, len(count))
    audio = root / "audio"
    there = {path.name for path in audio.iterdir()} if audio.is_dir() else set()
    absent = sorted({row["filename"] for _, row in rows} - there)
    _require("clips missing from audio/", [], absent[:3])
    for _, row in rows:
        try:
            with wave.open(str(audio / row["filename"])) as clip:
                form = (clip.getnchannels(), clip.getsampwidth(), clip.getframerate(), clip.getnframes())
        except (wave.Error, EOFError) as error:
            raise DownloadError(
                f"the archive is not the data set: audio/{row['filename']}: {error}"
            ) from None
        _require(f"as channels, bytes, rate and frames of {row['filename']}", (1, 2, 44_100, frames), form)


def only_esc10(root: Path) -> None:
    """Leave the clips of ESC-10, named as in ESC-50, and a table of them.

    The whole table would let the folder pass for ESC-50.
    """
    _, rows = read_csv(root / "meta" / "esc50.csv")
    kept = []
    for _, row in rows:
        if row["esc10"].lower() == "true":
            kept.append((f"audio/{row['filename']}", row["category"], row["fold"]))
        else:
            (root / "audio" / row["filename"]).unlink()
    with (root / "meta.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("file", "label", "fold"), *kept])
    shutil.rmtree(root / "meta")


# Every digest and size below is given alike by several public projects that fetched the file. GitHub does not
# promise that an archive of a commit keeps its bytes, and Google's bucket has kept this one since 2018.
_ESC_COMMIT = "33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6"
_ESC_TABLE = "ca660da60191a97de289983a05821c9382d852a38a2ba8428980816b68cf6246"
_ESC_CREDIT = (
    "Karol J. Piczak. Cite: K. J. Piczak, ESC: Dataset for Environmental Sound Classification, Proc. 23rd ACM Int. "
    "Conf. on Multimedia, 2015, doi:10.1145/2733373.2806390. Authors and licences of the single clips, which come "
    "from Freesound: LICENSE."
)


def _esc(name: str, title: str, licence: str, reduce: Callable[[Path], None] | None) -> Archive:
    return Archive(
        name=name,
        title=title,
        url=f"https://github.com/karolpiczak/ESC-50/archive/{_ESC_COMMIT}.zip",
        file=f"ESC-50-{_ESC_COMMIT}.zip",
        size=645_832_161,
        sha256="661183a6f53ef04f12c9bd618fed0ddc1713280d6c94a5a5431e844ba6f6a21f",
        repacked=True,
        allowance=Allowance(entries=3_000, size=1_000_000_000),
        check=partial(check_esc, table=_ESC_TABLE, clips=2_000, classes=50, folds=5, frames=220_500),
        reduce=reduce,
        licence=licence,
        credit=_ESC_CREDIT,
    )


ARCHIVES = {
    archive.name: archive
    for archive in (
        Archive(
            name="speech_commands",
            title="Speech Commands v0.02",
            url="https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
            file="speech_commands_v0.02.tar.gz",
            size=2_428_923_189,
            sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
            repacked=False,
            allowance=Allowance(entries=120_000, size=4_000_000_000),
            check=partial(
                check_speech_commands,
                words=35,
                splits={"training": 84_843, "validation": 9_981, "testing": 11_005},
            ),
            reduce=None,
            licence="CC BY 4.0, https://creativecommons.org/licenses/by/4.0/",
            credit=(
                "Google LLC and contributors, released by Pete Warden. Cite: P. Warden, Speech Commands: A Dataset "
                "for Limited-Vocabulary Speech Recognition, arXiv:1804.03209, 2018."
            ),
        ),
        _esc("esc10", "ESC-10", "CC BY 3.0, https://creativecommons.org/licenses/by/3.0/", only_esc10),
        _esc("esc50", "ESC-50", "CC BY-NC 3.0, https://creativecommons.org/licenses/by-nc/3.0/", None),
    )
}
