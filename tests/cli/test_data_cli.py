"""`soundcert data get`, from an archive on this disk; the downloads themselves are tested below tests/unit."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import soundfile

from helpers import LOW, WAVEFORM, tone, yaml_of
from soundcert.cli import data as module
from soundcert.cli import run
from soundcert.data import archives
from soundcert.data.archives import check_speech_commands
from soundcert.data.unpack import Allowance


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a small Speech Commands, which stands on record in place of the official one."""
    sound = io.BytesIO()
    soundfile.write(sound, tone(LOW), 16_000, format="WAV")
    path = tmp_path / "commands.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        for name, data in {
            "./validation_list.txt": b"",
            "./testing_list.txt": b"low/b_nohash_0.wav\n",
            "./low/a_nohash_0.wav": sound.getvalue(),
            "./low/b_nohash_0.wav": sound.getvalue(),
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    held = path.read_bytes()
    splits = {"training": 1, "validation": 0, "testing": 1}
    on_record = replace(
        archives.ARCHIVES["speech_commands"],
        size=len(held),
        sha256=hashlib.sha256(held).hexdigest(),
        allowance=Allowance(entries=10, size=10**5),
        check=partial(check_speech_commands, words=1, splits=splits),
    )
    monkeypatch.setitem(archives.ARCHIVES, "speech_commands", on_record)
    monkeypatch.delenv("SOUNDCERT_MIRROR", raising=False)
    monkeypatch.delenv("SOUNDCERT_DATA", raising=False)
    return path.as_uri()


def test_get_then_list_then_certify(cli, home, archive, monkeypatch):
    monkeypatch.chdir(home)
    ran = cli("data", "get", "speech_commands", "--url", archive)
    assert ran.code == 0
    assert ran.err == ""
    assert "data/speech_commands: 2 clips (SHA-256 as published)" in ran.out
    assert "CC BY 4.0" in ran.out
    listed = {source["name"]: source["on_disk"] for source in cli("data", "--json").json}
    assert listed["speech_commands"][0] == "data/speech_commands (2 clips)"
    line = ran.out.splitlines()[-1].removeprefix("In a config: data: ")
    assert line == "{source: speech_commands, root: data/speech_commands}"
    (home / "mine.yaml").write_text(yaml_of(WAVEFORM, line))
    assert cli("audit", home / "mine.yaml").code == 0


def test_get_in_json_and_again(cli, home, archive, monkeypatch):
    monkeypatch.setenv("SOUNDCERT_DATA", str(home / "sets"))
    first = cli("data", "get", "speech_commands", "--url", archive, "--json")
    assert first.code == 0
    assert first.json["status"] == "fetched"
    assert first.json["root"] == str(home / "sets" / "speech_commands")
    assert first.json["digest"] == "published"
    again = cli("data", "get", "speech_commands", "--json")
    assert again.json["status"] == "present"
    assert "already there, 2 clips" in cli("data", "get", "speech_commands").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["esc"], "esc"),
        ([], "name"),
        (["esc50", "--url", "ftp://host/x"], "expected an address"),
        (["esc50", "--url", "https://me:secret@host/x"], "without a password"),
        (["esc50", "--sha256", "12"], "64 hexadecimal digits"),
        (["esc50", "--url", "file:///nowhere.zip"], "got no file"),
    ],
)
def test_calls_that_are_wrong(cli, home, monkeypatch, arguments, says):
    monkeypatch.chdir(home)
    ran = cli("data", "get", *arguments)
    assert ran.code == 2
    assert says in ran.err.lower()
    assert "secret" not in ran.err
    assert not (home / "data").exists()


def test_an_archive_that_is_another_is_refused_in_one_line(cli, home, archive, monkeypatch):
    monkeypatch.chdir(home)
    ran = cli("data", "get", "esc50", "--url", archive)
    assert ran.code == 2
    assert "expected SHA-256 661183a6" in ran.err


def test_an_interruption_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "fetch", interrupted)
    assert run(["data", "get", "speech_commands"]) == 130
    assert capsys.readouterr().err == "soundcert: interrupted; the same command goes on from there\n"


def test_progress_is_for_terminals(capsys, monkeypatch):
    with module._steps() as step:
        step("downloading", 1, 10)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("rich.console.Console.is_terminal", property(lambda _self: True))
    with module._steps() as step:
        step("downloading", 1_000_000, 10_000_000)
        step("downloading", 5_000_000, 10_000_000)
        step("unpacking", 5, None)
    assert "downloading" in capsys.readouterr().err


def test_a_list_of_files_in_place_of_the_configs_data(cli, home):
    (home / "list.txt").write_text("clips/low/0.wav\tlow\nclips/high/0.wav\thigh\n")
    ran = cli("audit", home / "kws.yaml", "--data", home / "list.txt", "--json")
    assert ran.code == 0
    (home / "clips" / "metadata.csv").write_text("file_name,label\nlow/0.wav,low\n")
    ran = cli("certify", home / "kws.yaml", "--data", home / "clips", "--out", home / "run", "--json")
    assert ran.code == 0
    assert ran.json["certified"] + ran.json["abstained"] == 1


def test_the_configs_table_of_labels_goes_for_other_data_too(cli, home):
    text = (
        (home / "kws.yaml")
        .read_text()
        .replace("root: clips", "root: clips, label_map: {low: low, high: high}")
    )
    (home / "kws.yaml").write_text(text.replace("{low: low, high: high}", "{high: low, low: high}"))
    (home / "clips" / "low").rename(home / "only-low")
    (home / "more" / "low").parent.mkdir()
    (home / "only-low").rename(home / "more" / "low")
    ran = cli("certify", home / "kws.yaml", "--data", home / "more", "--out", home / "run", "--json")
    assert ran.code == 0, "its entry for `high`, which these data have not, is no mistake"
    assert ran.json["smoothed_accuracy"] == 0.0, "low is called high, as the config's table says"


def test_data_says_where_it_looked(cli, monkeypatch):
    monkeypatch.setenv("SOUNDCERT_DATA", "elsewhere")
    assert cli("data").out.rstrip().endswith("Looked in elsewhere, data, ../shared/data.")


def test_help_of_data_names_get(cli):
    ran = cli("data", "--help")
    assert ran.code == 0
    assert "get" in ran.out
    assert "Example" in ran.out
    assert "Example" in cli("data", "get", "--help").out
