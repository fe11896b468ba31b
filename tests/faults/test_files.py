"""Recordings, weights and lists that change or vanish while a run goes on."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rig import certify, copied, wait_for_lines

from helpers import (
    HIGH,
    RATE,
    WAVEFORM,
    folder_of_tones,
    records,
    tone,
    without_times,
    write,
    write_tone_model,
    yaml_of,
)
from soundcert.audio import load_clip
from soundcert.config import load_config
from soundcert.data import load_items
from soundcert.errors import InputError
from soundcert.runs import certify_run


def test_recordings_that_vanish_and_change_in_mid_run(whole: Path, tmp_path: Path):
    """One vanishes, one becomes another recording, one is cut, one becomes a folder, one a pipe: the rest goes on."""
    home, run = copied(whole, tmp_path / "home"), tmp_path / "run"
    low = home / "clips" / "low"
    process = certify(home, run)
    wait_for_lines(process, run, 1)
    (low / "07.wav").unlink()
    write(low / "new.wav", tone(HIGH, 99))
    (low / "new.wav").replace(low / "08.wav")
    (low / "09.wav").write_bytes((low / "09.wav").read_bytes()[:500])
    for name in ("10.wav", "11.wav"):
        (low / name).unlink()
    (low / "10.wav").mkdir()
    os.mkfifo(low / "11.wav")
    ended = process.end()
    assert ended.code == 1, ended
    assert "Traceback" not in ended.err
    rows = {r["clip"]: r for r in records(run)}
    assert len(rows) == 25
    before = {r["clip"]: r for r in without_times(whole / "whole")}
    for name, row in rows.items():
        row.pop("seconds", None)
        if name not in {f"low/{i:02}.wav" for i in range(7, 12)}:
            assert row == before[name]
    reasons = [rows[f"low/{name}.wav"]["reason"] for name in ("07", "09", "10", "11")]
    for reason, words in zip(
        reasons, ("there is no file", "truncated", "got a folder", "a pipe or a device"), strict=True
    ):
        assert words in reason
    # Its record names the recording that was certified, by its digest.
    assert rows["low/08.wav"]["digest"] == load_clip(low / "08.wav").digest != before["low/08.wav"]["digest"]
    assert (rows["low/08.wav"]["label"], rows["low/08.wav"]["truth"]) == ("high", "low")


def test_a_recording_that_changes_after_the_pilot_of_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_tone_model(tmp_path / "tones.safetensors")
    folder_of_tones(tmp_path / "clips", 2)
    text = yaml_of(WAVEFORM, n=60).replace("n0: 5", "n0: 20, budget: {passes: 300}")
    (tmp_path / "kws.yaml").write_text(text)
    config = load_config(tmp_path / "kws.yaml")
    assert config.data is not None
    items = load_items(config.data, tmp_path)
    certifying = sys.modules["soundcert.runs.certify_run"]
    shares = certifying._shares

    def changing(*args: object) -> object:
        out = shares(*args)  # type: ignore[arg-type]
        write(tmp_path / "clips" / "low" / "0.wav", tone(HIGH, 77))
        return out

    monkeypatch.setattr(certifying, "_shares", changing)
    summary = certify_run(config, items, tmp_path / "run", base=tmp_path)
    assert (summary["clips"], summary["failed"]) == (4, 1)
    (failed,) = [r for r in records(tmp_path / "run") if r["status"] == "failed"]
    assert failed["clip"] == "low/0.wav"
    assert "it has changed meanwhile" in failed["reason"]


def test_a_file_that_is_written_while_it_is_read_is_whole_or_refused(tmp_path: Path):
    """A recorder that goes on, and one that begins anew: never a mixture under a digest of its own."""
    path = tmp_path / "a.wav"
    sounds = [np.full(RATE * 4, value, np.int16) for value in (1000, -2000)]
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for sound in sounds:
                soundfile.write(path, sound, RATE)

    soundfile.write(path, sounds[0], RATE)
    writer = threading.Thread(target=rewrite)
    writer.start()
    whole = refused = 0
    try:
        while whole + refused < 150:
            try:
                clip = load_clip(path)
            except InputError:
                refused += 1
                continue
            whole += 1
            assert clip.frames == RATE * 4
            assert len(np.unique(clip.samples)) == 1, "half of one recording and half of another"
    finally:
        stop.set()
        writer.join()
    assert whole or refused
