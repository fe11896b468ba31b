"""Each form that audio comes in, with the exact values that `load_clip` must give; built by hand where it matters."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from soundcert.audio import Clip, load_clip
from soundcert.errors import InputError

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
GUID = bytes.fromhex("00000000 1000 8000 00aa00389b71")
RATES = (8000, 11_025, 12_345, 22_050, 44_100, 48_000, 192_000)


def wav(
    code: int, bits: int, block: int, data: bytes, *, rate: int = 16_000, channels: int = 1, valid: int = 0
) -> bytes:
    """A RIFF/WAVE file by the book. `valid` makes it extensible, of `code`, with that many valid bits."""
    form = struct.pack("<HHIIHH", EXTENSIBLE if valid else code, channels, rate, rate * block, block, bits)
    if valid:
        mask = (1 << channels) - 1
        form += struct.pack("<HHIH", 22, valid, mask, code) + GUID
    body = b"WAVE" + chunk(b"fmt ", form) + chunk(b"data", data)
    return chunk(b"RIFF", body)


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def packed(values: list[int], bits: int) -> bytes:
    """Little-endian integers; 8 bits are offset binary, as WAV has them."""
    if bits == 8:
        return bytes(value + 128 for value in values)
    return b"".join(value.to_bytes(bits // 8, "little", signed=True) for value in values)


@pytest.fixture
def load(tmp_path: Path):
    def load(data: bytes, name: str = "a.wav") -> Clip:
        path = tmp_path / name
        path.write_bytes(data)
        return load_clip(path)

    return load


def edges(bits: int) -> list[int]:
    top = 2 ** (bits - 1)
    return [0, 1, -1, top - 1, -top, top // 3, -top // 7]


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_integers(load, bits, channels, extensible):
    values = [value for value in edges(bits) for _ in range(channels)]
    values[-1] = 5
    clip = load(
        wav(PCM, bits, channels * bits // 8, packed(values, bits), channels=channels, valid=bits * extensible)
    )
    expected = np.array(values, np.int64).reshape(-1, channels).T << (32 - bits)
    assert (clip.bits, clip.channels) == (bits, channels)
    np.testing.assert_array_equal(clip.samples, expected)
    np.testing.assert_array_equal(np.atleast_2d(clip.tensor().numpy()) * 2.0**31, expected)


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(("bits", "kind"), [(32, "<f4"), (64, "<f8")])
def test_floating_point(load, bits, kind, extensible):
    values = np.array(
        [0.0, 1.0, -1.0, 1.5, -3.25, 2**-140, 0.1, np.nextafter(np.float32(1), np.float32(0))], kind
    )
    clip = load(wav(FLOAT, bits, bits // 8, values.tobytes(), valid=bits * extensible))
    assert clip.bits is None
    np.testing.assert_array_equal(clip.samples[0], values.astype(np.float64))


@pytest.mark.parametrize(("bits", "valid"), [(16, 12), (24, 20), (32, 24)])
def test_fewer_valid_bits_than_stored_are_the_same_recording(load, bits, valid):
    """Left-justified by the book, so the samples are those of the whole container."""
    values = [value << (bits - valid) for value in edges(valid)]
    clip = load(wav(PCM, bits, bits // 8, packed(values, bits), valid=valid))
    np.testing.assert_array_equal(clip.samples[0], np.array(values, np.int64) << (32 - bits))
    assert clip.digest == load(wav(PCM, bits, bits // 8, packed(values, bits))).digest


@pytest.mark.parametrize("rate", RATES)
def test_rates(load, rate):
    clip = load(wav(PCM, 16, 2, packed([1, 2, 3], 16), rate=rate))
    assert (clip.rate, clip.frames) == (rate, 3)


def test_an_odd_number_of_bytes_is_padded_and_a_chunk_may_follow(load):
    data = wav(PCM, 24, 3, packed([1, -2, 3], 24)) + chunk(b"LIST", b"INFO")
    np.testing.assert_array_equal(load(data).samples[0] >> 8, [1, -2, 3])


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_an_extensible_file_cut_short_is_refused(load, cut):
    data = wav(PCM, 16, 4, packed(list(range(100)), 16), channels=2, valid=16)
    assert load(data).frames == 50
    with pytest.raises(InputError, match="truncated"):
        load(data[:-cut])


@pytest.mark.parametrize(
    ("name", "kind", "bits"),
    [
        ("a.flac", {"subtype": "PCM_S8"}, 8),
        ("a.flac", {"subtype": "PCM_16"}, 16),
        ("a.flac", {"subtype": "PCM_24"}, 24),
        ("a.aiff", {"subtype": "PCM_24"}, 24),
        ("a.aifc", {"format": "AIFF", "subtype": "PCM_32"}, 32),
        ("a.au", {"subtype": "PCM_16"}, 16),
        ("a.caf", {"subtype": "PCM_24"}, 24),
        ("a.w64", {"subtype": "PCM_24"}, 24),
        ("a.wav", {"format": "RF64", "subtype": "PCM_16"}, 16),
        ("a.wav", {"format": "WAV", "subtype": "PCM_16", "endian": "BIG"}, 16),
    ],
)
@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_lossless_forms_hold_the_same_recording(tmp_path, name, kind, bits, channels):
    rng = np.random.default_rng(bits + channels)
    left = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (999, channels)).astype(np.int64) << (32 - bits)
    soundfile.write(tmp_path / name, left.astype(np.int32), 11_025, **kind)
    clip = load_clip(tmp_path / name)
    np.testing.assert_array_equal(clip.samples, left.T)
    assert (clip.bits, clip.rate) == (bits, 11_025)
    if bits == 16:
        whole = Clip.from_array(np.ascontiguousarray(left.T >> 16).astype(np.int16), 11_025)
        assert clip.digest == whole.digest


@pytest.mark.parametrize("cut", [1, 2, 400, 3000])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.caf", {"subtype": "PCM_16"}),
        ("a.w64", {"subtype": "PCM_16"}),
        ("a.wav", {"format": "RF64", "subtype": "PCM_24"}),
        ("a.wav", {"format": "WAV", "subtype": "FLOAT", "endian": "BIG"}),
    ],
)
def test_rarer_forms_cut_short_are_refused_too(tmp_path, name, kind, cut):
    path = tmp_path / name
    soundfile.write(path, np.random.default_rng(0).normal(size=(3000, 3)) / 10, 16_000, **kind)
    assert load_clip(path).frames == 3000
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match="truncated"):
        load_clip(path)


@pytest.mark.parametrize(
    ("name", "kind", "rates"),
    [
        ("a.ogg", {"subtype": "VORBIS"}, (8000, 11_025, 44_100)),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}, (16_000, 48_000)),
        ("a.mp3", {"subtype": "MPEG_LAYER_III"}, (8000, 16_000, 44_100)),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_forms_keep_length_rate_and_channels(tmp_path, name, kind, rates, channels):
    for rate in rates:
        t = np.arange(rate) / rate
        sound = np.stack([np.sin(2 * np.pi * 440 * (1 + c) * t) / 2 for c in range(channels)], axis=1)
        soundfile.write(tmp_path / name, sound, rate, **kind)
        clip = load_clip(tmp_path / name)
        assert (clip.channels, clip.frames, clip.rate, clip.bits) == (channels, rate, rate, None)
        # Close to the original and where it was: a decoder's delay would show.
        middle = slice(rate // 4, 3 * rate // 4)
        error = clip.samples[:, middle] - sound.T[:, middle]
        assert np.sqrt(np.mean(error**2)) < 0.02
        assert clip.digest == load_clip(tmp_path / name).digest


@pytest.mark.parametrize(
    ("code", "bits"),
    [(PCM, 64), (FLOAT, 16), (0x0161, 16)],
    ids=["64-bit", "half", "windows media"],
)
def test_forms_that_nobody_can_decode_exactly_are_refused(load, code, bits):
    with pytest.raises(InputError) as caught:
        load(wav(code, bits, max(1, bits // 8), bytes(64)))
    assert "\n" not in str(caught.value)
