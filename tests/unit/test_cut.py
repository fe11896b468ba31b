"""Recordings cut above the noise: exact parts, named and certified one by one, and no interval over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import RATE, tone, write
from soundcert.audio import Limits, length_of, load_clip, load_part
from soundcert.bounds import accuracy_interval
from soundcert.config import validate
from soundcert.data import CutConfig, DataConfig, load_items
from soundcert.errors import ConfigError, InputError
from soundcert.runs.summary import summarise, tied


@settings(deadline=None)
@given(
    frames=st.integers(1, 5000),
    seconds=st.floats(0.001, 2),
    share=st.floats(0.05, 1),
    rate=st.sampled_from([100, 999, 16_000]),
    tail=st.sampled_from(["keep", "drop"]),
)
def test_parts_have_one_length_and_lie_within(frames, seconds, share, rate, tail) -> None:
    cut = CutConfig(seconds=seconds, hop=seconds * share, tail=tail)
    parts = cut.parts(frames, rate)
    length = max(1, round(seconds * rate))
    assert parts[0] == (0, min(frames, length))
    assert all(start >= 0 and n >= 1 and start + n <= frames for start, n in parts)
    heard = sorted({i for start, n in parts for i in range(start, start + n)})
    assert heard == list(range(len(heard))), "no gaps"
    if tail == "keep":
        assert len(heard) == frames
        assert all(n == length for _, n in parts[:-1])
    elif frames >= length:
        assert all(n == length for _, n in parts)
        assert frames - len(heard) < max(1, round(seconds * share * rate))


FORMS = [
    ("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"),
    ("WAVEX", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("AIFF", "PCM_16"), ("CAF", "PCM_16"),
    ("W64", "PCM_16"), ("RF64", "PCM_16"), ("AU", "PCM_16"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"),
    ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "subtype"), FORMS)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_part_is_exactly_that_of_the_whole(tmp_path, form, subtype, channels) -> None:
    rng = np.random.default_rng(0)
    x = 0.3 * np.sin(np.arange(30_000)[:, None] / [9, 23][:channels]) + 0.05 * rng.normal(
        size=(30_000, channels)
    )
    path = tmp_path / "a.audio"
    soundfile.write(path, x, 16_000, format=form, subtype=subtype)
    whole = load_clip(path)
    assert length_of(path) == (whole.frames, 16_000)
    for start, frames in ((0, 100), (12_345, 4321), (whole.frames - 7, 7), (7, whole.frames - 7)):
        part = load_part(path, start, frames)
        assert (part.bits, part.rate) == (whole.bits, whole.rate)
        assert np.array_equal(part.samples, whole.samples[:, start : start + frames])


def test_a_recording_may_be_longer_than_a_clip(tmp_path) -> None:
    path = write(tmp_path / "a.wav", np.zeros(100_000, np.int16), 100)
    limits = Limits(max_seconds=600)
    with pytest.raises(InputError, match=r"at most 600 s, got 1000\.0 s"):
        load_clip(path, limits=limits)
    assert load_part(path, 99_000, 1000, limits=limits).seconds == 10
    with pytest.raises(InputError, match=r"at most 600 s, got 700\.0 s"):
        load_part(path, 0, 70_000, limits=limits)
    with pytest.raises(InputError, match="truncated: expected 1000 frames from frame 99500 on, got 500"):
        load_part(path, 99_500, 1000, limits=limits)


def test_a_lossy_file_that_was_written_anew_is_decoded_anew(tmp_path) -> None:
    path = tmp_path / "a.ogg"
    for level, frames in ((0.1, 20_000), (0.4, 30_000)):
        soundfile.write(path, level * np.sin(np.arange(frames) / 9), 16_000)
        part = load_part(path, 5000, 5000)
        assert float(np.abs(part.samples).max()) == pytest.approx(level, rel=0.2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "rec" / "low" / "long.wav", np.concatenate([tone(500.0, s) for s in range(12)]))
    write(tmp_path / "rec" / "low" / "short.wav", tone(500.0)[:800])
    write(tmp_path / "rec" / "high" / "a.wav", np.concatenate([tone(4000.0, s) for s in range(2)])[:2000])
    (tmp_path / "rec" / "high" / "broken.wav").write_bytes(b"RIFF....WAVE")
    return tmp_path / "rec"


def test_clips_are_named_by_their_seconds_and_keep_their_labels_and_order(folder) -> None:
    items = load_items(DataConfig(source="folder", root=folder, cut={"seconds": 0.1}))
    names = [item.name for item in items]
    assert names[:3] == ["high/a.wav#t=0,0.1", "high/a.wav#t=0.1,0.125", "high/broken.wav"]
    assert names[-3:] == ["low/long.wav#t=1,1.1", "low/long.wav#t=1.1,1.2", "low/short.wav#t=0,0.05"]
    assert len(names) == 2 + 1 + 12 + 1
    assert {item.label for item in items if item.recording == "low/long.wav"} == {"low"}
    clip = items[5].load()
    assert (clip.name, clip.frames) == (items[5].name, 1600)
    assert clip.space.cut == "0.1 s"
    with pytest.raises(InputError, match="high/broken"):
        items[2].load()
    # A limit is an unbiased sample of clips, which a larger one adds to.
    few = load_items(DataConfig(source="folder", root=folder, cut={"seconds": 0.1}, limit=4))
    more = load_items(DataConfig(source="folder", root=folder, cut={"seconds": 0.1}, limit=9))
    assert {i.name for i in few} < {i.name for i in more} < set(names)


def test_a_file_that_could_not_be_cut_is_never_certified_whole(folder) -> None:
    items = load_items(DataConfig(source="folder", root=folder, cut={"seconds": 0.1}))
    write(folder / "high" / "broken.wav", tone(4000.0))
    with pytest.raises(InputError, match="could not be read when it was to be cut"):
        items[2].load()


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ({"seconds": 1, "hop": 2}, "would never be heard"),
        ({"seconds": True}, "expected a number of seconds, got True"),
        ({"seconds": 0}, "greater than 0"),
        ({"length": 1}, "unknown field 'data.cut.length'|unknown field 'cut.length'"),
        ({}, "seconds"),
    ],
)
def test_bad_cuts_are_told_in_one_line(tmp_path, cut, said) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        validate(DataConfig, {"source": "folder", "root": tmp_path, "cut": cut}, "data")
    assert "\n" not in str(error.value)


def test_clips_of_one_recording_are_not_independent_and_have_no_interval() -> None:
    common = {"status": "certified", "label": "a", "truth": "a", "radius": 1.0, "alpha": 0.001, "sigma": 1.0,
              "saturated": False, "views": {}, "n": 10, "n0": 1}  # fmt: skip
    apart = [{**common, "clip": f"{i}#t=0,1", "recording": str(i)} for i in range(3)]
    together = [{**common, "clip": f"0#t={i},{i + 1}", "recording": "0"} for i in range(3)]
    assert tied(apart) is None
    assert "smoothed_accuracy_interval_95" in summarise(apart)
    found = summarise(together)
    assert "smoothed_accuracy_interval_95" not in found
    assert found["no_interval"] == "clips cut from one recording are not independent of each other"


def test_copies_of_a_clip_are_one_recording_to_an_interval() -> None:
    """Found by a reviewer: 200 records of one recording gave an interval from 98 to 100 %."""
    common = {"status": "certified", "label": "a", "truth": "a", "radius": 1.0, "alpha": 0.001, "sigma": 1.0,
              "saturated": False, "views": {}, "n": 10, "n0": 1}  # fmt: skip
    rows = [{**common, "clip": str(i), "digest": str(i % 40)} for i in range(50)]
    found = summarise(rows)
    assert found["copies"] == 10
    assert found["smoothed_accuracy_interval_95"] == list(accuracy_interval(50, 50, 0.05, 0.001, 10))
    assert found["smoothed_accuracy_interval_95"][0] == accuracy_interval(40, 40, 0.05, 0.001).lower
    assert "copies" not in summarise(rows[:40])
    one = summarise([{**common, "clip": str(i), "digest": "0"} for i in range(200)])
    assert one["smoothed_accuracy_interval_95"][0] < 0.03


def test_the_rate_of_the_file_says_how_many_frames_a_second_has(tmp_path) -> None:
    write(tmp_path / "r" / "a" / "x.wav", np.zeros(88_200, np.int16), 44_100)
    (first, second) = load_items(DataConfig(source="folder", root=tmp_path / "r", cut={"seconds": 1.0}))
    assert (first.frames, second.start, RATE) == (44_100, 44_100, 16_000)
