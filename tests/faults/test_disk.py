"""A disk that is full or read-only, at every file that a run writes.

Full: a tmpfs of a few kilobytes, and a limit on the size of files. Read-only: a bind mount that may not be written
(root, as whom CI runs, may write anywhere else). Where this process may not mount, those tests are skipped.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import Process, certify, check_same

import soundcert
from soundcert.errors import RunError
from soundcert.runs.directory import read_json, write_json


@contextlib.contextmanager
def mounted(at: Path, *arguments: object) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    call = ["mount", *map(str, arguments), str(at)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this process may not mount: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def test_a_disk_that_fills_up_in_mid_run(whole: Path, tmp_path: Path):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=16k", "tmpfs") as disk:
        run = disk / "run"
        certify(whole, run).end().said(2, "No space left on device", "what was recorded is kept", "--resume")
        kept = (run / "certificates.jsonl").read_bytes()
        assert kept.count(b"\n") >= 3
        # Still full: the same again, and nothing is lost.
        certify(whole, run, "--resume").end().said(2, "No space left on device")
        assert (run / "certificates.jsonl").read_bytes()[: kept.rindex(b"\n") + 1] == kept[
            : kept.rindex(b"\n") + 1
        ]
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        assert certify(whole, run, "--resume").end().code == 1
        check_same(run, whole / "whole")


@pytest.mark.parametrize("size", [400, 1500, 3000, 9000])
def test_files_that_may_not_grow_beyond_a_size(whole: Path, tmp_path: Path, size: int):
    """So that run.json, a record at any place, or the last report is the one that cannot be written."""
    run = tmp_path / "run"
    ended = certify(whole, run, limits={resource.RLIMIT_FSIZE: size}).end()
    ended.said(2, "File too large", str(run))
    ended = certify(whole, run, "--resume").end()
    assert ended.code == 1, ended
    check_same(run, whole / "whole")


def test_a_folder_that_may_not_be_written(whole: Path, tmp_path: Path):
    (tmp_path / "source").mkdir()
    assert certify(whole, tmp_path / "source" / "run").end().code == 1
    (tmp_path / "source" / "begun").mkdir()
    with mounted(tmp_path / "disk", "--bind", tmp_path / "source") as disk:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(disk)], check=True)
        for run, more in ((disk / "new", ()), (disk / "begun", ()), (disk / "run", ("--resume",))):
            certify(whole, run, *more).end().said(2, "Read-only file system", str(run))
        for call in (
            ["report", disk / "run"],
            ["report", disk / "run", "--format", "md", "--out", disk / "run.md"],
            ["report", disk / "run", "--format", "csv", "--out", disk / "run.csv"],
            ["demo", "--n", 100, "--out", disk / "demo"],
            ["attack", disk / "run", "--trust", "--limit", 1, "--goal", "leave", "--steps", 1],
        ):
            Process(*call, logs=whole / "logs").end().said(2, "Read-only file system", str(disk))
        # What only reads is not hindered.
        compared = Process("compare", disk / "run", disk / "run", logs=whole / "logs").end()
        assert "Read-only" not in compared.err


def test_a_full_disk_under_the_output_is_one_line():
    """`soundcert … > file`, where the file's disk is full."""
    environment = {**os.environ, "PYTHONPATH": str(Path(soundcert.__file__).parents[1])}
    with open("/dev/full", "w") as full:
        call = [sys.executable, "-m", "soundcert", "schema"]
        done = subprocess.run(
            call, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done
    assert "No space left on device" in done.stderr


def test_a_file_that_cannot_be_written_whole_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_json(tmp_path / "a.json", {"whole": True})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left.*--resume"):
        write_json(tmp_path / "a.json", {"whole": False})
    assert read_json(tmp_path / "a.json") == {"whole": True}
