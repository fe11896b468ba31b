"""Names that no one would choose: not UTF-8, with line breaks, control characters, and as long as may be."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from rig import Process, check_same, copied

from helpers import records
from soundcert.data.sources import sample

NAMES = (
    b"a\nb.wav", b"\xff\xfe.wav", b"x" * 250 + b".wav", b"esc\x1b[31mred.wav", "\u202egnp.wav".encode(), b"--out.wav",
    b" .wav",
    b"'\".wav", "\u2028x.wav".encode(), b"a\r.wav",
)  # fmt: skip


def test_names_of_files(whole: Path, tmp_path: Path):
    home, run = copied(whole, tmp_path / "home"), tmp_path / "run"
    source = (home / "clips" / "low" / "00.wav").read_bytes()
    shutil.rmtree(home / "clips")
    (home / "clips" / "low").mkdir(parents=True)
    for name in NAMES:
        (home / "clips" / "low" / os.fsdecode(name)).write_bytes(source)
    call = ["certify", home / "kws.yaml", "--trust", "--json", "--out"]
    ended = Process(*call, run, logs=home / "logs").end()
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["certified"] == len(NAMES)
    assert {os.fsencode(r["clip"]) for r in records(run)} == {b"low/" + name for name in NAMES}
    again = Process(*call, tmp_path / "again", logs=home / "logs").end()
    assert again.out == ended.out
    resumed = Process(*call, run, "--resume", logs=home / "logs").end()
    assert resumed.out == ended.out
    check_same(run, tmp_path / "again")


def test_a_sample_of_names_that_are_no_unicode():
    names = ["a\udcff", "b\ud800", "c"]
    assert sorted(sample(names, 3)) == sorted(names)
