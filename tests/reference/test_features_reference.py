"""Spectral features and resampling against librosa, scipy, and naive formulas written out here.

Conventions: everything in float64; features agree to RELATIVE of their value (with the same share of
their spread as an absolute floor, for logarithms that cross zero).
"""

from __future__ import annotations

import itertools
import math

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch

import soundcert as sc
from soundcert.errors import ConfigError, InputError
from soundcert.spaces import Space
from soundcert.stages import LogMel, Mfcc, Resample, Spectrogram
from soundcert.stages.mel import mel_filters
from soundcert.stages.spectra import dct_matrix

RELATIVE = 1e-6

VARIATIONS = [
    {},
    {"power": 1.0},
    {"floor_mode": "max"},
    {"log": "db"},
    {"mel_scale": "slaney"},
    {"mel_norm": "slaney"},
    {"mel_scale": "slaney", "mel_norm": "slaney"},
    {"pad_mode": "reflect"},
    {"pad_mode": "none"},
    {"window": "hamming"},
    {"win_length": 400},
    {"win_length": 301, "n_fft": 512},
    {"n_fft": 401, "hop": 160},
    {"n_fft": 255, "win_length": 200, "hop": 77},
    {"n_fft": 1024, "hop": 300, "pad_mode": "none"},
    {"hop": 600, "n_fft": 512},
    {"f_min": 60.0, "f_max": 3800.0},
    {"f_min": 200.0, "mel_scale": "slaney"},
    {"rate": 8000, "n_fft": 256, "hop": 80, "n_mels": 23},
    {"rate": 22_050, "n_fft": 1024, "hop": 256, "n_mels": 64},
    {"rate": 44_100, "n_fft": 2048, "hop": 441, "n_mels": 80, "mel_scale": "slaney", "mel_norm": "slaney"},
    {"floor": 1.0},
    {"floor": 1e-10, "floor_mode": "max", "log": "db"},
    {"n_mels": 8, "power": 1.0, "n_fft": 333, "win_length": 251, "pad_mode": "reflect", "log": "db"},
]


def name_of(options: dict) -> str:
    return ",".join(f"{k}={v}" for k, v in options.items()) or "defaults"


def noise(samples: int = 4000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(samples)


def run(stage, x: np.ndarray) -> np.ndarray:
    return stage(torch.from_numpy(x)[None])[0].numpy()


def assert_agree(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=RELATIVE, atol=RELATIVE * 1e-3 * np.ptp(expected))


# --- what librosa makes of the same options ---------------------------------------------------------


def librosa_spectrum(x: np.ndarray, stage, *, window: object = None) -> np.ndarray:
    centred = stage.pad_mode != "none"
    spectrum = librosa.stft(
        x,
        n_fft=stage.n_fft,
        hop_length=stage.hop,
        win_length=stage.win_length,
        window=stage.window if window is None else window,
        center=centred,
        pad_mode=stage.pad_mode if centred else "constant",
    )
    return np.abs(spectrum) ** stage.power


def librosa_log_mel(x: np.ndarray, stage) -> np.ndarray:
    mel = librosa.feature.melspectrogram(
        S=librosa_spectrum(x, stage),
        sr=stage.rate,
        n_fft=stage.n_fft,
        n_mels=stage.n_mels,
        fmin=stage.f_min,
        fmax=stage.f_max,
        htk=stage.mel_scale == "htk",
        norm=stage.mel_norm,
        dtype=np.float64,
    )
    if stage.floor_mode == "add":
        logged = np.log(mel + stage.floor)
        return logged if stage.log == "ln" else logged * ((10 if stage.power == 2 else 20) / math.log(10))
    to_db = librosa.power_to_db if stage.power == 2 else librosa.amplitude_to_db
    decibels = to_db(mel, ref=1.0, amin=stage.floor, top_db=None)
    return decibels if stage.log == "db" else decibels * (math.log(10) / (10 if stage.power == 2 else 20))


@pytest.mark.parametrize("options", VARIATIONS, ids=name_of)
def test_log_mel_is_librosas_on_noise(options):
    stage = LogMel(**options)
    assert_agree(run(stage, noise()), librosa_log_mel(noise(), stage))


@pytest.mark.parametrize(
    ("power", "floor_mode", "log", "mel_scale", "mel_norm"),
    [*itertools.product((1.0, 2.0), ("add", "max"), ("ln", "db"), ("htk", "slaney"), (None, "slaney"))],
)
def test_every_pair_of_the_log_options_is_librosas(power, floor_mode, log, mel_scale, mel_norm):
    stage = LogMel(
        power=power, floor_mode=floor_mode, log=log, mel_scale=mel_scale, mel_norm=mel_norm, floor=1e-3
    )
    quiet = noise(2000) * np.geomspace(1e-4, 1.0, 2000)  # from below the floor to above it
    assert_agree(run(stage, quiet), librosa_log_mel(quiet, stage))


@pytest.mark.parametrize("options", [v for v in VARIATIONS if v.get("rate", 16_000) == 16_000], ids=name_of)
def test_log_mel_is_librosas_on_speech(options, shared_data):
    clip = sc.load_clip(sorted((shared_data("speech_commands") / "yes").iterdir())[0])
    x = clip.tensor().numpy()
    stage = LogMel(**options)
    assert clip.rate == stage.rate
    assert_agree(run(stage, x), librosa_log_mel(x, stage))


def test_log_mel_is_librosas_on_an_environmental_sound(shared_data):
    clip = sc.load_clip(sorted((shared_data("esc10") / "dog").iterdir())[0])
    x = clip.tensor().numpy()
    stage = LogMel(rate=clip.rate, n_fft=1024, hop=512, n_mels=64, mel_scale="slaney", log="db")
    assert_agree(run(stage, x), librosa_log_mel(x, stage))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lifter": 22.0},
        {"lifter": 3.0, "n_mfcc": 13},
        {"n_mfcc": 40},
        {"n_mfcc": 1},
        {"log": "ln"},
        {"power": 1.0, "floor_mode": "max"},
        {"mel_scale": "slaney", "mel_norm": "slaney", "n_fft": 401},
    ],
    ids=name_of,
)
def test_mfcc_is_librosas(options):
    stage = Mfcc(**options)
    expected = librosa.feature.mfcc(
        S=librosa_log_mel(noise(), stage), n_mfcc=stage.n_mfcc, dct_type=2, norm="ortho", lifter=stage.lifter
    )
    assert_agree(run(stage, noise()), expected)


def test_mfcc_is_librosas_on_speech(shared_data):
    x = sc.load_clip(sorted((shared_data("speech_commands") / "no").iterdir())[0]).tensor().numpy()
    stage = Mfcc(lifter=22.0, floor=1e-10, floor_mode="max")
    expected = librosa.feature.mfcc(S=librosa_log_mel(x, stage), n_mfcc=20, lifter=22.0)
    assert_agree(run(stage, x), expected)


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize(
    "options",
    [{}, {"n_fft": 401}, {"win_length": 300}, {"pad_mode": "reflect"}, {"pad_mode": "none"}],
    ids=name_of,
)
def test_spectrogram_is_librosas(power, options):
    stage = Spectrogram(power=power, **options)
    assert_agree(run(stage, noise()), librosa_spectrum(noise(), stage))


def test_the_comparison_would_see_another_window_scale_norm_or_floor():
    stage = LogMel()
    expected = librosa_log_mel(noise(), stage)
    others = [
        LogMel(mel_scale="slaney"),
        LogMel(mel_norm="slaney"),
        LogMel(floor=1e-3),
        LogMel(pad_mode="reflect"),
        LogMel(window="hamming"),
        LogMel(f_max=7999.0),
        LogMel(win_length=511),
        LogMel(power=1.0),
    ]
    for other in others:
        with pytest.raises(AssertionError):
            assert_agree(run(other, noise()), expected)


# --- the window ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hann", "hamming"])
@pytest.mark.parametrize("length", [16, 31])
def test_the_window_is_periodic(kind, length):
    # One frame that holds one impulse has that sample's weight at every frequency.
    stage = Spectrogram(n_fft=length, hop=length, pad_mode="none", power=1.0, window=kind)
    weights = np.array([run(stage, impulse)[:, 0] for impulse in np.eye(length)])
    np.testing.assert_allclose(weights, weights[:, :1].repeat(weights.shape[1], axis=1), atol=1e-14)
    periodic = scipy.signal.get_window(kind, length, fftbins=True)
    np.testing.assert_allclose(weights[:, 0], periodic, atol=1e-14)
    symmetric = scipy.signal.get_window(kind, length, fftbins=False)
    assert np.abs(weights[:, 0] - symmetric).max() > 1e-3


def test_the_spectrum_is_that_of_the_padded_signal_by_the_sum_itself():
    n_fft, hop = 12, 5
    x = noise(40, seed=3)
    stage = Spectrogram(n_fft=n_fft, hop=hop, win_length=9, power=1.0)
    window = np.zeros(n_fft)
    window[1:10] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(9) / 9)
    padded = np.concatenate([np.zeros(n_fft // 2), x, np.zeros(n_fft // 2)])
    frames = 1 + (len(padded) - n_fft) // hop
    naive = np.empty((n_fft // 2 + 1, frames))
    for f, t in np.ndindex(*naive.shape):
        turn = np.exp(-2j * np.pi * f * np.arange(n_fft) / n_fft)
        naive[f, t] = abs(np.sum(padded[t * hop : t * hop + n_fft] * window * turn))
    np.testing.assert_allclose(run(stage, x), naive, atol=1e-13)


# --- mel filters and the cosine transform ----------------------------------------------------------


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", [None, "slaney"])
@pytest.mark.parametrize("n_fft", [400, 401, 512, 2048])
@pytest.mark.parametrize("band", [(16_000, 0.0, None), (44_100, 50.0, 15_000.0)])
def test_mel_filters_are_librosas(scale, norm, n_fft, band):
    rate, f_min, f_max = band
    got = mel_filters(rate, n_fft, 40, f_min, f_max, scale, norm)
    shared = {"sr": rate, "n_fft": n_fft, "n_mels": 40, "fmin": f_min, "fmax": f_max, "dtype": np.float64}
    expected = librosa.filters.mel(htk=scale == "htk", norm=norm, **shared)
    assert got.shape == (40, n_fft // 2 + 1)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12 * expected.max())
    assert (got >= 0).all()


def test_mel_filters_overlap_to_one_between_the_outer_centres():
    filters = mel_filters(16_000, 4096, 40, 0.0, None, "htk", None)
    centres = librosa.mel_frequencies(n_mels=42, fmin=0.0, fmax=8000.0, htk=True)
    bins = np.fft.rfftfreq(4096, 1 / 16_000)
    inside = (bins >= centres[1]) & (bins <= centres[-2])
    np.testing.assert_allclose(filters.sum(axis=0)[inside], 1.0, atol=1e-12)
    assert filters.sum(axis=0)[~inside].max() < 1.0


@pytest.mark.parametrize("size", [1, 2, 13, 40])
def test_the_dct_is_orthonormal_and_scipys(size):
    matrix = dct_matrix(size, size, 0.0)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-13)
    expected = scipy.fft.dct(np.eye(size), type=2, norm="ortho", axis=0)
    np.testing.assert_allclose(matrix, expected, atol=1e-13)
    half = max(1, size // 2)
    np.testing.assert_allclose(dct_matrix(half, size, 0.0), expected[:half], atol=1e-13)


def test_the_lifter_weights_each_coefficient_and_ends_orthonormality():
    lifted = dct_matrix(13, 40, 22.0)
    weights = 1 + 11 * np.sin(np.pi * np.arange(1, 14) / 22)
    np.testing.assert_allclose(np.linalg.norm(lifted, axis=1), weights, atol=1e-12)
    assert np.abs(lifted @ lifted.T - np.eye(13)).max() > 1


# --- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [600, 601, 4000])
@pytest.mark.parametrize("options", VARIATIONS, ids=name_of)
def test_the_announced_shape_is_the_shape(options, samples):
    stage = LogMel(**options)
    before = Space("file", "waveform", (samples,), stage.rate)
    if samples < stage.n_fft and stage.pad_mode == "none":
        with pytest.raises(InputError, match="too few"):
            stage.space(before)
        return
    assert stage.space(before).shape == stage(torch.zeros(1, samples)).shape[1:]


def test_rows_do_not_influence_each_other():
    rows = torch.from_numpy(np.stack([noise(1000, 1), 1e3 * noise(1000, 2), np.zeros(1000)]))
    for stage in (LogMel(), Mfcc(), Spectrogram(n_fft=255)):
        together = stage(rows)
        for i in range(3):
            torch.testing.assert_close(stage(rows[i : i + 1])[0], together[i], rtol=1e-12, atol=1e-12)


# --- resampling ------------------------------------------------------------------------------------


def naive_resample(x: np.ndarray, old: int, new: int, zeros: int, rolloff: float) -> np.ndarray:
    """Sum over all input samples for each output sample; the filter's gain at 0 Hz is 1."""
    divisor = math.gcd(old, new)
    old, new = old // divisor, new // divisor
    cutoff = rolloff * min(old, new) / old  # in units of the input's Nyquist frequency
    out = np.empty(math.ceil(len(x) * new / old))
    for m in range(len(out)):
        place = m * old / new  # where the output sample lies between the input's
        taps = np.arange(math.floor(place - zeros / cutoff) - 1, math.ceil(place + zeros / cutoff) + 2)
        t = (taps - place) * cutoff
        weight = np.where(np.abs(t) < zeros, np.sinc(t) * np.cos(np.pi * t / zeros / 2) ** 2, 0.0)
        inside = (taps >= 0) & (taps < len(x))
        out[m] = np.sum(weight[inside] * x[taps[inside]]) / np.sum(weight)
    return out


RATES = [(44_100, 16_000), (16_000, 8000), (8000, 16_000), (48_000, 22_050), (22_050, 16_000), (3, 2), (7, 9)]


@pytest.mark.parametrize(("old", "new"), RATES)
@pytest.mark.parametrize(("zeros", "rolloff"), [(24, 0.945), (6, 1.0)])
def test_resampling_is_the_naive_sum(old, new, zeros, rolloff):
    x = noise(353, seed=old)
    stage = Resample(new, zeros=zeros, rolloff=rolloff, source_rate=old)
    expected = naive_resample(x, old, new, zeros, rolloff)
    np.testing.assert_allclose(run(stage, x), expected, atol=1e-12)
    shifted = naive_resample(np.roll(x, 1), old, new, zeros, rolloff)
    assert np.abs(run(stage, x) - shifted).max() > 1e-3


@pytest.mark.parametrize(("old", "new"), RATES[:5])
@pytest.mark.parametrize("share", [0.05, 0.4, 0.8])
def test_a_sine_below_both_nyquist_frequencies_comes_through(old, new, share):
    hertz = share * min(old, new) / 2
    samples = round(0.05 * old)
    x = np.sin(2 * np.pi * hertz * np.arange(samples) / old + 0.3)
    y = run(Resample(new, source_rate=old), x)
    assert len(y) == math.ceil(samples * new / old)
    expected = np.sin(2 * np.pi * hertz * np.arange(len(y)) / new + 0.3)
    edge = math.ceil(26 * max(1.0, new / old))
    np.testing.assert_allclose(y[edge:-edge], expected[edge:-edge], atol=2e-3)


def test_a_sine_above_the_new_nyquist_frequency_is_removed():
    x = np.sin(2 * np.pi * 6500 * np.arange(2000) / 16_000)
    y = run(Resample(8000, source_rate=16_000), x)
    assert np.abs(y[60:-60]).max() < 2e-3
    assert np.abs(y[60:-60]).max() < 0.01 * np.abs(x[::2][60:-60]).max()


def test_resampling_keeps_channels_apart_and_is_linear():
    stage = Resample(16_000, source_rate=22_050)
    x = torch.from_numpy(np.stack([noise(500, 1), noise(500, 2)]))[None]
    out = stage(x)
    for channel in range(2):
        torch.testing.assert_close(out[:, channel], stage(x[:, channel]), rtol=0, atol=1e-14)
    torch.testing.assert_close(stage(3 * x[:, 0] - x[:, 1]), 3 * out[:, 0] - out[:, 1], rtol=0, atol=1e-12)


def test_equal_rates_change_nothing_and_an_unknown_rate_is_refused():
    x = torch.from_numpy(noise(100))[None]
    assert Resample(16_000, source_rate=16_000)(x) is x
    with pytest.raises(ConfigError, match="rate is not known"):
        Resample(16_000)(x)


# --- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stage",
    [
        Resample(9000, zeros=11, source_rate=7000),
        Spectrogram(n_fft=37, hop=5, power=1.0),
        LogMel(n_fft=38, hop=5, n_mels=7, rate=9000),
        Mfcc(n_fft=39, hop=5, n_mels=7, n_mfcc=5, rate=9000),
    ],
    ids=lambda stage: stage.name,
)
def test_a_stage_that_ran_under_inference_mode_still_has_gradients(stage):
    # An attack follows a certification in one process; the settings here are used by no other test.
    x = torch.from_numpy(noise(300))[None]
    with torch.inference_mode():
        stage(x)
    x.requires_grad_()
    stage(x).sum().backward()
    assert float(x.grad.abs().sum()) > 0
