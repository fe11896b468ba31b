"""Clips: exact samples, digests that name the recording, and refusals in one line."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from soundcert.audio import Clip, Limits, load_clip
from soundcert.errors import ConfigError, InputError

RATE = 16_000


def tone(frames: int = 8000, channels: int = 1) -> np.ndarray:
    """16-bit integers, (frames, channels) as soundfile wants them."""
    rng = np.random.default_rng(7)
    return rng.integers(-(2**15), 2**15, (frames, channels), dtype=np.int16)


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, data: np.ndarray | bytes, rate: int = RATE, **kwargs: str) -> Path:
        path = tmp_path / name
        if isinstance(data, bytes):
            path.write_bytes(data)
        else:
            soundfile.write(path, data, rate, **kwargs)
        return path

    return write


def refused(path: object, pattern: str, **kwargs: object) -> str:
    with pytest.raises(InputError, match=pattern) as caught:
        load_clip(path, **kwargs)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__cause__ is None
    return message


# Samples


def test_a_file_whose_writer_has_not_ended_is_refused(tmp_path):
    """libsndfile itself takes what is there for the whole: the header says 0 bytes until the file is closed."""
    path = tmp_path / "a.wav"
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        file.write(np.full(5000, 1000, np.int16))
        file.flush()
        assert soundfile.info(path).frames > 0
        refused(path, "unfinished")
    assert load_clip(path).frames == 5000


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("bits", [16, 20, 24, 32])
def test_noise_in_alac_is_whole_until_it_is_cut(write, bits, channels):
    """Noise cannot be compressed: its packets take more bytes than its samples as PCM."""
    rng = np.random.default_rng(bits)
    data = rng.integers(-(2**31), 2**31, (20_000, channels)).astype(np.int32) >> (32 - bits) << (32 - bits)
    path = write("a.caf", data, format="CAF", subtype=f"ALAC_{bits}")
    # As libsndfile decodes it: of noise in 20 bits and more its own encoder keeps something else in places.
    np.testing.assert_array_equal(
        load_clip(path).samples.T, soundfile.read(path, dtype="int32", always_2d=True)[0]
    )
    held = path.read_bytes()
    path.write_bytes(held[: len(held) // 2])
    refused(path, "'a.caf'")


def test_pcm_is_kept_as_left_justified_integers(write):
    data = tone()
    clip = load_clip(write("a.wav", data))
    assert clip.samples.dtype == np.int32
    np.testing.assert_array_equal(clip.samples[0], data[:, 0].astype(np.int32) << 16)
    assert (clip.bits, clip.rate, clip.name) == (16, RATE, "a.wav")
    assert (clip.frames, clip.channels, clip.seconds) == (8000, 1, 0.5)


def test_tensor_is_exact_in_float64(write):
    data = tone()
    tensor = load_clip(write("a.wav", data)).tensor()
    assert tensor.dtype == torch.float64
    assert tensor.shape == (8000,)
    np.testing.assert_array_equal(tensor.numpy() * 2**15, data[:, 0])


def test_tensor_is_fresh_each_time(write):
    for subtype in ("PCM_16", "DOUBLE"):
        clip = load_clip(write("a.wav", tone(), subtype=subtype))
        before = clip.tensor().clone()
        clip.tensor().zero_()
        torch.testing.assert_close(clip.tensor(), before, rtol=0, atol=0)


def test_tensor_in_float32(write):
    assert load_clip(write("a.wav", tone())).tensor(torch.float32).dtype == torch.float32


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (96_000, 1), (RATE, 2), (RATE, 8)])
def test_rates_and_channels(write, rate, channels):
    data = tone(400, channels)
    clip = load_clip(write("a.wav", data, rate))
    assert clip.rate == rate
    expected = (400,) if channels == 1 else (channels, 400)
    assert clip.tensor().shape == expected
    assert clip.space.shape == expected
    assert (clip.space.name, clip.space.kind, clip.space.rate) == ("file", "waveform", rate)
    np.testing.assert_array_equal(clip.samples.T >> 16, data)


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 32)])
def test_bits_and_lsb(write, subtype, bits):
    clip = load_clip(write("a.wav", tone(), subtype=subtype))
    assert clip.bits == bits
    assert clip.lsb == 2.0 ** -(bits - 1)
    steps = clip.tensor() / clip.lsb
    assert torch.equal(steps, steps.round())


def test_float_files_are_kept_as_they_are(write):
    data = np.array([0.1, -1.5, 3.0, 0.0])
    clip = load_clip(write("a.wav", data, subtype="DOUBLE"))
    assert clip.bits is None
    np.testing.assert_array_equal(clip.samples[0], data)
    assert clip.lsb == 2.0**-15


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}),
        ("a.mp3", {"format": "MP3", "subtype": "MPEG_LAYER_III"}),
        ("a.au", {"format": "AU", "subtype": "ULAW"}),
    ],
)
def test_lossy_files_are_float(write, name, kwargs):
    clip = load_clip(write(name, np.sin(np.arange(RATE) / 20) / 2, **kwargs))
    assert clip.bits is None
    assert clip.samples.dtype == np.float64
    assert clip.frames == RATE


def test_silence_is_not_an_error(write):
    assert not load_clip(write("a.wav", np.zeros(100, np.int16))).samples.any()


def test_samples_cannot_be_changed(write):
    clip = load_clip(write("a.wav", tone()))
    with pytest.raises(ValueError, match="read-only"):
        clip.samples[0, 0] = 1


def test_one_frame(write):
    assert load_clip(write("a.wav", tone(1))).frames == 1


# Digests


def test_containers_of_one_recording_agree(write):
    data = tone(channels=2)
    clips = [
        load_clip(write("a.wav", data)),
        load_clip(write("a.flac", data)),
        load_clip(write("a.aiff", data)),
        load_clip(write("deep.wav", data.astype(np.int32) << 16, subtype="PCM_24")),
        Clip.from_array(np.ascontiguousarray(data.T), RATE),
    ]
    assert len({clip.digest for clip in clips}) == 1


def test_digest_stays_what_it_is():
    """Noise is keyed by the digest: a change here would change the draws of every published run."""
    assert Clip.from_array(np.arange(8, dtype=np.int16), RATE).digest == "9758d1a36378b32a597bc2dc7f85dcda"
    assert Clip.from_array(np.arange(8) / 8, RATE).digest == "1c9855e75f7cd839662012993b01a60f"


def test_digest_tells_recordings_apart():
    base = np.arange(1, 9, dtype=np.int16)
    clips = [
        Clip.from_array(base, RATE),
        Clip.from_array(base, 8000),
        Clip.from_array(base[::-1], RATE),
        Clip.from_array(base.reshape(2, 4), RATE),
        Clip.from_array(base.reshape(4, 2), RATE),
        Clip.from_array(base[:-1], RATE),
        Clip.from_array(base / 2**15, RATE),
    ]
    assert len({clip.digest for clip in clips}) == len(clips)


def test_digest_of_flac_and_wav_in_the_shared_data(shared_data, write):
    path = min((shared_data("speech_commands") / "yes").glob("*.flac"))
    clip = load_clip(path)
    copy = load_clip(write("a.wav", clip.samples.T, clip.rate, subtype="PCM_16"))
    assert clip.digest == copy.digest


# From arrays


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize(
    ("dtype", "bits", "first"),
    [
        (np.uint8, 8, (3 - 128) << 24),
        (np.int8, 8, 3 << 24),
        (np.int16, 16, 3 << 16),
        (np.int32, 32, 3),
        (np.float32, None, 3.0),
        (np.float64, None, 3.0),
    ],
)
def test_from_array_kinds(make, dtype, bits, first):
    clip = Clip.from_array(make(np.full(5, 3, dtype)), RATE)
    assert (clip.bits, clip.samples[0, 0]) == (bits, first)
    assert clip.name == "array"


def test_from_array_bfloat16_and_big_endian():
    assert Clip.from_array(torch.full((4,), 0.5, dtype=torch.bfloat16), RATE).samples[0, 0] == 0.5
    assert Clip.from_array(np.full(4, 3, ">i2"), RATE).samples[0, 0] == 3 << 16


def test_from_array_copies():
    array = np.zeros(4)
    clip = Clip.from_array(array, RATE)
    array[0] = 1.0
    assert clip.samples[0, 0] == 0.0


def test_uint8_agrees_with_an_eight_bit_wav(write):
    path = write("a.wav", tone(), subtype="PCM_U8")
    raw = np.frombuffer(path.read_bytes()[44:], np.uint8)
    assert Clip.from_array(raw, RATE).digest == load_clip(path).digest


@pytest.mark.parametrize(
    ("array", "rate", "pattern"),
    [
        (np.zeros(0), RATE, "at least one sample"),
        (np.zeros((2, 0)), RATE, "at least one sample"),
        (np.zeros(()), RATE, "expected an array of shape"),
        (np.zeros((1, 2, 3)), RATE, "expected an array of shape"),
        (np.zeros((4000, 2)), RATE, "transpose"),
        (np.zeros(4, np.int64), RATE, "got int64"),
        (np.zeros(4, bool), RATE, "got bool"),
        (np.array([0.0, np.nan, np.inf]), RATE, "2 NaN or infinite of 3, the first at frame 1"),
        (np.zeros(4), 16000.0, "whole number of hertz"),
        (np.zeros(4), 0, "expected a rate"),
        (np.zeros(4), -1, "expected a rate"),
    ],
)
def test_from_array_refuses(array, rate, pattern):
    with pytest.raises(InputError, match=pattern):
        Clip.from_array(array, rate)


def test_a_clip_by_hand_is_checked():
    with pytest.raises(InputError, match="from_array"):
        Clip(np.zeros(4), RATE, "x")
    with pytest.raises(InputError, match="bits"):
        Clip(np.zeros((1, 4), np.int32), RATE, "x")


# Refusals


def test_missing_folder_and_empty(write, tmp_path):
    refused(tmp_path / "none.wav", "there is no file")
    refused(tmp_path, "got a folder")
    refused(write("a.wav", b""), "0 bytes")
    refused("a\0b.wav", "cannot be opened: .*embedded null")


def test_the_name_in_the_message_is_the_lists(tmp_path):
    assert refused(tmp_path / "none.wav", "no file", name="yes/1.wav").startswith("'yes/1.wav'")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a POSIX thing")
def test_pipes_and_devices(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    refused(tmp_path / "pipe.wav", "got a pipe")
    refused("/dev/null", "got a pipe or a device")


def test_header_only(write):
    refused(write("a.wav", np.zeros(0, np.int16)), "at least one frame")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a"])
def test_text_with_an_audio_name(write, name):
    refused(write(name, b"this is not audio\n" * 200), "not audio")


def test_raw_samples(write):
    refused(write("a.raw", b"\1\2" * 200), "raw samples")


@pytest.mark.parametrize("cut", [1, 7, 1000, 8000])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.au"])
def test_truncated(write, name, cut):
    whole = write(name, tone()).read_bytes()
    refused(write("cut-" + name, whole[:-cut]), "truncated")


def test_truncated_wav_with_a_chunk_before_the_audio(write):
    whole = write("a.wav", tone()).read_bytes()
    at = whole.index(b"data")
    odd = b"note" + struct.pack("<I", 3) + b"abc\0"
    assert load_clip(write("b.wav", whole[:at] + odd + whole[at:])).frames == 8000
    refused(write("c.wav", whole[:at] + odd + whole[at:-2]), "truncated")


def test_a_chunk_after_the_audio_is_not_audio(write):
    whole = write("a.wav", tone()).read_bytes()
    more = whole + b"LIST" + struct.pack("<I", 4) + b"INFO"
    assert load_clip(write("b.wav", more)).digest == load_clip(write("a.wav", whole)).digest


def test_wav_from_a_pipe_has_an_open_length(write):
    whole = write("a.wav", tone()).read_bytes()
    at = whole.index(b"data") + 4
    streamed = write("b.wav", whole[:at] + b"\xff" * 4 + whole[at + 4 :])
    assert load_clip(streamed).digest == load_clip(write("a.wav", whole)).digest


def test_flac_with_an_open_length(write):
    whole = bytearray(write("a.flac", tone()).read_bytes())
    whole[21] &= 0xF0
    whole[22:26] = bytes(4)
    refused(write("b.flac", bytes(whole)), "clip's length")


def test_damaged_flac(write):
    whole = bytearray(write("a.flac", tone()).read_bytes())
    whole[len(whole) // 2] ^= 0x55
    refused(write("b.flac", bytes(whole)), "damaged")


@pytest.mark.parametrize(
    ("name", "format", "subtype"), [("a.ogg", "OGG", "VORBIS"), ("a.mp3", "MP3", "MPEG_LAYER_III")]
)
def test_truncated_lossy(write, name, format, subtype):
    noise = np.random.default_rng(3).normal(size=10 * RATE) / 10
    whole = write(name, noise, format=format, subtype=subtype).read_bytes()
    refused(write("cut-" + name, whole[: len(whole) * 2 // 3]), "truncated")


def test_nan_in_a_float_wav(write):
    data = np.zeros((50, 2))
    data[7, 1], data[9, 0] = np.nan, np.inf
    refused(write("a.wav", data, subtype="FLOAT"), "2 NaN or infinite of 100, the first at frame 7")


def test_limits_are_checked_from_the_header(write, monkeypatch):
    path = write("a.flac", np.zeros(7200 * 1000, np.int16), 1000)
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    refused(path, "at most 600 s, got 7200.0 s")
    refused(path, "decoded samples", limits=Limits(max_seconds=1e9, max_bytes=2**20))
    refused(path, "at most 100 bytes", limits=Limits(max_bytes=100))


def test_limits_on_rate_and_channels(write):
    refused(write("a.wav", tone(), 10), "expected a rate")
    refused(write("b.wav", tone(), 1_000_000), "expected a rate")
    refused(write("c.wav", tone(10, 8)), "at most 2 channels, got 8", limits=Limits(max_channels=2))
    assert load_clip(write("d.wav", tone(), 10), limits=Limits(max_seconds=1e4, min_rate=1)).rate == 10


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MAX_SECONDS", "0.001", r"at most 0.001 s, got .* raise \$SOUNDCERT_MAX_SECONDS"),
        ("MAX_CHANNELS", "1", r"at most 1 channels, got 2; .* raise \$SOUNDCERT_MAX_CHANNELS"),
        ("MIN_RATE", "32000", r"a rate of 32000 to 768000 Hz, got 16000; .*\$SOUNDCERT_MIN_RATE"),
        ("MAX_RATE", "8000", r"a rate of 100 to 8000 Hz, got 16000"),
        ("MAX_BYTES", "50", r"at most 50 bytes, got \d+; .* raise \$SOUNDCERT_MAX_BYTES"),
    ],
)
def test_limits_are_set_by_the_environment(write, monkeypatch, name, value, words):
    path = write("a.wav", tone(1000, 2), 16_000)
    load_clip(path)
    monkeypatch.setenv(f"SOUNDCERT_{name}", value)
    refused(path, words)
    for wrong in ("much", "-1", "0", "nan"):
        monkeypatch.setenv(f"SOUNDCERT_{name}", wrong)
        with pytest.raises(
            ConfigError, match=rf"\$SOUNDCERT_{name} must be a.* number above 0, got '{wrong}'"
        ):
            load_clip(path)
    monkeypatch.setenv(f"SOUNDCERT_{name}", "")
    load_clip(path)


@pytest.mark.skipif(os.name != "posix", reason="bytes in file names are a POSIX thing")
def test_odd_file_names(write, tmp_path):
    whole = write("a.wav", tone()).read_bytes()
    for name in ("ü ñ 声.wav", os.fsdecode(b"latin-\xe9.wav"), "no suffix", "line\nbreak.wav"):
        (tmp_path / name).write_bytes(whole)
        assert load_clip(tmp_path / name).name == name
    refused(tmp_path / "not\nhere.wav", "there is no file")
