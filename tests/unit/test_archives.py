"""Data sets fetched as a whole: recognised, unpacked, moved into place, with licence; small stand-ins from loopback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import wave
import zipfile
from collections import namedtuple
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from loopback import Server, status
from soundcert.audio import load_clip
from soundcert.data import DataConfig, load_items
from soundcert.data import archives as module
from soundcert.data.archives import ARCHIVES, Archive, Fetched, check_esc, check_speech_commands, fetch
from soundcert.data.download import Patience
from soundcert.data.unpack import Allowance
from soundcert.errors import ConfigError, DownloadError, SoundcertError

FRAMES = 441


def wav(frames: int = FRAMES, rate: int = 44_100, value: int = 1) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(value.to_bytes(2, "little") * frames)
    return out.getvalue()


ESC_ROWS = [
    (f"{fold}-{100 + target}-A-{target}.wav", fold, target, name, name == "dog")
    for fold in (1, 2)
    for target, name in ((0, "dog"), (36, "vacuum_cleaner"))
]
ESC_TABLE = "filename,fold,target,category,esc10\n" + "".join(
    f"{file},{fold},{target},{name},{ten}\n" for file, fold, target, name, ten in ESC_ROWS
)


def esc_files() -> dict[str, bytes]:
    clips = {f"audio/{file}": wav(value=target) for file, _, target, _, _ in ESC_ROWS}
    return {"meta/esc50.csv": ESC_TABLE.encode(), "LICENSE": b"who made each clip", **clips}


def zipped(files: dict[str, bytes], top: str = "ESC-50-main/", note: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.comment = note
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(top + name), data)
    return out.getvalue()


SPEECH = {
    "./validation_list.txt": b"yes/b_nohash_0.wav\n",
    "./testing_list.txt": b"no/a_nohash_0.wav\n",
    "./LICENSE": b"CC BY 4.0",
    "./_background_noise_/pink.wav": wav(rate=16_000),
    **{f"./{name}.wav": wav(rate=16_000) for name in ("yes/a_nohash_0", "yes/b_nohash_0", "no/a_nohash_0")},
}


def tarred(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def stand_ins(server: Server, monkeypatch: pytest.MonkeyPatch):
    """The three data sets, small, at the loopback server; `stand_ins(name, body)` puts another archive there."""
    bodies = {
        "speech_commands": tarred(SPEECH),
        "esc50": zipped(esc_files()),
        "esc10": zipped(esc_files()),
    }
    checks = {
        "speech_commands": partial(
            check_speech_commands, words=2, splits={"training": 1, "validation": 1, "testing": 1}
        )
    }
    for name in ("esc50", "esc10"):
        table = hashlib.sha256(ESC_TABLE.encode()).hexdigest()
        checks[name] = partial(check_esc, table=table, clips=4, classes=2, folds=2, frames=FRAMES)
    for name, body in bodies.items():
        monkeypatch.setitem(
            ARCHIVES,
            name,
            replace(
                ARCHIVES[name],
                url=server.url,
                size=len(body),
                sha256=hashlib.sha256(body).hexdigest(),
                allowance=Allowance(entries=50, size=10**5),
                check=checks[name],
            ),
        )
    monkeypatch.delenv("SOUNDCERT_MIRROR", raising=False)

    def serve(name: str, body: bytes | None = None) -> Archive:
        server.body = bodies[name] if body is None else body
        return ARCHIVES[name]

    return serve


@pytest.fixture
def get(tmp_path: Path):
    def get(name: str, **kwargs: object) -> Fetched:
        kwargs = {"patience": Patience(attempts=2, timeout=5), "sleep": lambda _: None, **kwargs}
        return fetch(name, tmp_path / "data", **kwargs)  # type: ignore[arg-type]

    return get


def refused(get, error: type[Exception], pattern: str, name: str, **kwargs: object) -> str:
    with pytest.raises(error, match=pattern) as caught:
        get(name, **kwargs)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value)


@pytest.mark.parametrize("name", ["speech_commands", "esc50", "esc10"])
def test_a_data_set_is_fetched_and_a_config_reads_it(stand_ins, get, tmp_path, name):
    archive = stand_ins(name)
    seen: list[str] = []
    done = get(name, progress=lambda what, _done, _total: seen.append(what))
    root = tmp_path / "data" / name
    assert (done.status, done.digest, done.root) == ("fetched", "published", str(root))
    assert list(dict.fromkeys(seen)) == ["downloading", "checking", "unpacking"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == [name]
    items = load_items(DataConfig(source=name, root=f"data/{name}"), tmp_path)
    assert len(items) == done.clips == {"speech_commands": 3, "esc50": 4, "esc10": 2}[name]
    assert all(load_clip(item.path).frames == FRAMES for item in items)
    licence = (root / "ATTRIBUTION.md").read_text()
    assert archive.licence in licence
    assert "Cite: " in licence
    assert (root / "LICENSE").is_file()
    facts = json.loads((root / "soundcert-data.json").read_text())
    assert facts["sha256"] == archive.sha256
    assert facts["clips"] == done.clips


def test_esc10_is_the_part_of_esc50_that_it_says(stand_ins, get, tmp_path):
    stand_ins("esc10")
    get("esc10")
    get("esc50")
    ten = load_items(DataConfig(source="esc10", root=tmp_path / "data" / "esc10"))
    of_fifty = load_items(DataConfig(source="esc10", root=tmp_path / "data" / "esc50"))
    assert [(i.name, i.label, i.fold) for i in ten] == [(i.name, i.label, i.fold) for i in of_fifty]
    assert len(list((tmp_path / "data" / "esc10" / "audio").iterdir())) == 2
    assert "Only the ESC-10 clips" in (tmp_path / "data" / "esc10" / "ATTRIBUTION.md").read_text()


def test_what_is_there_is_not_fetched_again(stand_ins, get, server, tmp_path):
    stand_ins("esc50")
    get("esc50")
    asked = len(server.asked)
    again = get("esc50")
    assert (again.status, again.clips) == ("present", 4)
    assert len(server.asked) == asked
    shutil.rmtree(tmp_path / "data" / "esc50")
    (tmp_path / "data" / "esc50").mkdir()
    assert get("esc50").status == "fetched"
    (tmp_path / "data" / "esc10").mkdir()
    (tmp_path / "data" / "esc10" / "mine.txt").write_text("precious")
    refused(get, ConfigError, "is there, but is not ESC-10", "esc10")
    assert (tmp_path / "data" / "esc10" / "mine.txt").read_text() == "precious"


def test_a_broken_download_goes_on_in_the_next_call(stand_ins, get, server, tmp_path, monkeypatch):
    body = tarred({**SPEECH, "./_background_noise_/white": os.urandom(20_000)})
    stand_ins("speech_commands", body)
    published = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    monkeypatch.setitem(ARCHIVES, "speech_commands", replace(ARCHIVES["speech_commands"], **published))

    def drop(request) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("ETag", '"one"')
        request.end_headers()
        request.wfile.write(body[:9000])
        request.close_connection = True

    server.script = [drop, status(503)]
    refused(get, DownloadError, "9000 bytes are kept", "speech_commands")
    assert not (tmp_path / "data" / "speech_commands").exists()
    assert get("speech_commands").clips == 3
    assert server.ranges[-1] == "bytes=9000-"


# Which bytes are the right ones


def test_other_bytes_are_refused_and_thrown_away(stand_ins, get, tmp_path):
    archive = stand_ins("speech_commands")
    body = bytearray(tarred(SPEECH))
    body[-20] ^= 1
    stand_ins("speech_commands", bytes(body))
    message = refused(get, DownloadError, f"expected SHA-256 {archive.sha256}, got ", "speech_commands")
    assert "it was deleted: fetch it again" in message
    assert not list((tmp_path / "data").rglob("*tar.gz*"))
    stand_ins("speech_commands")
    assert get("speech_commands").clips == 3


def test_github_may_pack_the_same_files_anew(stand_ins, get):
    stand_ins("esc50", zipped(esc_files(), note=b"packed anew"))
    assert get("esc50").digest == "content"


def test_packed_anew_with_other_content_is_refused(stand_ins, get, tmp_path):
    changes: list[tuple[dict[str, bytes | None], str]] = [
        ({"meta/esc50.csv": ESC_TABLE.replace("dog", "cat").encode()}, "as SHA-256 of meta/esc50.csv"),
        ({"meta/esc50.csv": None}, "expected a readable list"),
        ({"audio/1-100-A-0.wav": None}, "missing from audio/, got \\['1-100-A-0.wav'\\]"),
        ({"audio/1-100-A-0.wav": wav(frames=440)}, "rate and frames of 1-100-A-0.wav"),
        ({"audio/1-100-A-0.wav": wav(rate=8000)}, "rate and frames of 1-100-A-0.wav"),
        ({"audio/1-100-A-0.wav": b"RIFF"}, "audio/1-100-A-0.wav"),
    ]
    for change, pattern in changes:
        files = {name: data for name, data in {**esc_files(), **change}.items() if data is not None}
        stand_ins("esc50", zipped(files))
        refused(get, DownloadError, pattern, "esc50")
        assert not (tmp_path / "data" / "esc50").exists()
    # What was wrong is not kept, so the next call is not stuck with it.
    stand_ins("esc50")
    assert get("esc50").digest == "published"


def test_a_mirror_must_have_the_published_bytes_or_be_vouched_for(stand_ins, get, server, monkeypatch):
    monkeypatch.setenv("SOUNDCERT_MIRROR", server.url.rpartition("/")[0] + "/sets/")
    other = zipped(esc_files(), note=b"packed anew")
    stand_ins("esc50", other)
    assert "--sha256" in refused(get, DownloadError, "expected SHA-256", "esc50")
    assert server.asked[-1][0] == f"/sets/{ARCHIVES['esc50'].file}"
    refused(get, DownloadError, f"expected SHA-256 {'0' * 64}", "esc50", sha256="0" * 64)
    assert get("esc50", sha256=hashlib.sha256(other).hexdigest().upper()).digest == "given"
    stand_ins("esc10")
    assert get("esc10", url=server.url + "?here").digest == "published"


def test_vouching_for_a_file_does_not_make_it_the_data_set(stand_ins, get):
    fewer = tarred({name: data for name, data in SPEECH.items() if "yes/a" not in name})
    stand_ins("speech_commands", fewer)
    digest = hashlib.sha256(fewer).hexdigest()
    refused(get, DownloadError, "expected 1 training clips, got 0", "speech_commands", sha256=digest)


def test_what_a_mirror_sent_does_not_pass_for_the_official_file(stand_ins, get, server):
    """The mirror's archive has come whole when the call is killed; its content alone would pass."""
    stand_ins("esc50", zipped(esc_files(), note=b"packed anew"))

    def stop(what: str, _done: int, _total: int | None) -> None:
        if what == "checking":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get("esc50", url=server.url + "?mirror", progress=stop)
    stand_ins("esc50")
    assert get("esc50").digest == "published"
    assert len(server.asked) == 2


def test_an_archive_that_is_here_already(stand_ins, get, server, tmp_path):
    stand_ins("esc50")
    here = tmp_path / "ESC 50.zip"
    here.write_bytes(server.body)
    assert get("esc50", url=here.as_uri()).digest == "published"
    assert server.asked == []
    assert here.is_file()
    refused(get, ConfigError, "got no file", "esc10", url="file:///nowhere/x.zip")
    here.write_bytes(zipped(esc_files(), note=b"packed anew"))
    refused(get, DownloadError, "name another", "esc10", url=here.as_uri())
    assert here.is_file()


def test_the_archive_can_be_kept(stand_ins, get, server, tmp_path):
    archive = stand_ins("esc50")
    get("esc50", keep=True)
    assert (tmp_path / "data" / archive.file).read_bytes() == server.body
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted(["esc50", archive.file])


# What stops it


def test_hostile_archives_leave_nothing_that_looks_finished(stand_ins, get, tmp_path):
    for name in ("../../evil", "/tmp/soundcert-evil", "ESC-50-main/con"):
        stand_ins("esc50", zipped({name: b"x", **esc_files()}, top=""))
        refused(get, DownloadError, "refused", "esc50")
        assert not (tmp_path / "data" / "esc50").exists()
        assert not (tmp_path / "evil").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_killed_extraction_leaves_nothing_that_looks_finished(stand_ins, get, server, tmp_path):
    stand_ins("esc50")
    here = tmp_path / "x.zip"
    here.write_bytes(server.body)
    steps = 0

    def dies(what: str, _done: int, _total: int | None) -> None:
        nonlocal steps
        steps += what == "unpacking"
        if steps == 3:
            os._exit(9)

    child = os.fork()
    if not child:
        try:
            get("esc50", url=here.as_uri(), progress=dies)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = tmp_path / "data"
    assert not (left / "esc50").exists()
    assert list((left / ".esc50.download" / "unpacked").rglob("*"))
    assert get("esc50", url=here.as_uri()).clips == 4
    assert [path.name for path in left.iterdir()] == ["esc50"]


def test_an_interruption_while_unpacking_does_not_cost_the_download(stand_ins, get, server):
    stand_ins("esc50")

    def stop(what: str, _done: int, _total: int | None) -> None:
        if what == "unpacking":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get("esc50", progress=stop)
    assert get("esc50").status == "fetched"
    assert len(server.asked) == 1


def test_room_is_asked_for_before_anything_is_fetched(stand_ins, get, server, monkeypatch):
    stand_ins("esc50")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9, 10**6))
    refused(get, DownloadError, "expected 0.07 GB free for ESC-50 .* got 1.00 MB; make room", "esc50")
    assert server.asked == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 0, 10**9))
    assert get("esc50").clips == 4


def test_a_call_that_fetched_nothing_leaves_nothing(stand_ins, get, server, tmp_path):
    stand_ins("esc50")
    server.script = [status(404)]
    refused(get, DownloadError, "HTTP 404", "esc50")
    assert list((tmp_path / "data").iterdir()) == []


def test_two_calls_at_once(stand_ins, get, tmp_path):
    stand_ins("esc50")
    work = tmp_path / "data" / ".esc50.download"
    work.mkdir(parents=True)
    with module._alone(work, "esc50"):
        refused(get, ConfigError, "another call is fetching esc50", "esc50")
    assert get("esc50").clips == 4


def test_a_folder_that_cannot_be_made(stand_ins, tmp_path):
    stand_ins("esc50")
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot be written"):
        fetch("esc50", tmp_path / "file")


def test_calls_that_are_wrong(get):
    refused(get, ConfigError, "did you mean 'esc50'", "esc500")
    refused(get, ConfigError, "64 hexadecimal digits", "esc50", sha256="abc")
    refused(get, ConfigError, "an address such as", "esc50", url="esc50.zip")


# What is on record


def test_what_is_on_record_is_whole():
    for name, archive in ARCHIVES.items():
        assert archive.name == name
        assert archive.url.startswith("https://")
        assert len(archive.sha256) == 64
        assert archive.size < archive.allowance.size
    assert "CC BY 4.0" in ARCHIVES["speech_commands"].licence
    assert "NC" in ARCHIVES["esc50"].licence
    assert "NC" not in ARCHIVES["esc10"].licence


def test_the_check_of_esc50_at_its_full_size(tmp_path):
    """2000 clips as ESC-50 has them, of zeros that take no room; no table digest, as this is not its table."""
    check = partial(ARCHIVES["esc50"].check, table=None)  # type: ignore[call-arg]
    head = wav(frames=0)[:44]
    head = head[:4] + (441_036).to_bytes(4, "little") + head[8:40] + (441_000).to_bytes(4, "little")
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for clip in range(2000):
        target, fold = clip % 50, clip // 50 % 5 + 1
        file = f"{fold}-{clip}-A-{target}.wav"
        rows.append(f"{file},{fold},{target},class{target},{target < 10},{clip},A")
        with (tmp_path / "audio" / file).open("wb") as out:
            out.write(head)
            out.truncate(44 + 441_000)
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    check(tmp_path)
    with pytest.raises(DownloadError, match="as SHA-256 of meta/esc50"):
        ARCHIVES["esc50"].check(tmp_path)
    for change, pattern in (
        (lambda r: r[:-1], "expected 2000 clips, got 1999"),
        (lambda r: [*r[:-1], r[-1].replace(",class", ",klass")], "clips in each of 50 of category"),
        (lambda r: [*r[:-1], r[-1].replace("-A-", "-A-1")], "line 2001 does not agree with its file name"),
        (lambda r: [r[0].replace("esc10", "ten"), *r[1:]], "columns of meta/esc50.csv, got \\['esc10'\\]"),
    ):
        (tmp_path / "meta" / "esc50.csv").write_text("\n".join(change(rows)) + "\n")
        with pytest.raises(DownloadError, match=pattern):
            check(tmp_path)


def test_the_shared_esc10_agrees_on_names_and_folds(shared_data):
    """Its table was made from another release of the same clips."""
    items = load_items(DataConfig(source="esc10", root=shared_data("esc10")))
    for item in items:
        match = module._ESC_NAME.fullmatch(Path(item.name).stem + ".wav")
        assert match
        assert int(match[1]) == item.fold


def test_a_speech_commands_without_its_lists(tmp_path):
    with pytest.raises(SoundcertError, match="is not the data set"):
        check_speech_commands(tmp_path, words=2, splits={})
