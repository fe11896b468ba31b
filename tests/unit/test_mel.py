"""Mel bands from compiled code: those of the products, bit for bit the same in any batch, and never another clip's."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from soundcert.errors import ConfigError
from soundcert.stages import LogMel, Mfcc, mel
from soundcert.stages.mel import band_values, by_products

abreast = pytest.importorskip("soundcert.stages.abreast")

KINDS = [
    {},
    {"win_length": 400, "f_min": 60.0, "f_max": 3800.0, "mel_scale": "slaney", "mel_norm": "slaney"},
    {"n_fft": 1024, "hop": 320},
    {"n_fft": 1024, "hop": 114},  # nine hops, all but two samples
    {"n_fft": 2048, "hop": 500, "n_mels": 128},
    {"n_fft": 256, "hop": 80, "n_mels": 8},
    {"n_fft": 256, "hop": 256, "n_mels": 1},
    {"pad_mode": "reflect", "window": "hamming"},
    {"pad_mode": "none", "hop": 150},
    {"n_mels": 200},  # bands without a bin
]


def waves(batch: int, samples: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((batch, samples), dtype=np.float32))


@pytest.fixture
def anew():
    """Forget what was compiled or found wanting, before and after."""
    for made in (mel._abreast, abreast.compiled):
        made.cache_clear()
    yield
    for made in (mel._abreast, abreast.compiled):
        made.cache_clear()


@pytest.mark.parametrize("samples", [2048, 4001, 16_000])
@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_bands_are_those_of_the_products(kind, batch, samples):
    stage = LogMel(floor=1.0, **kind)
    assert mel._abreast(stage) is not None
    x = waves(batch, samples)
    expected = by_products(stage, x.double())
    got = band_values(stage, x)
    assert got.shape == expected.shape
    assert got.dtype == torch.float32
    # Of the frame's energy: a band of one bin may by chance be far below its neighbours.
    scale = expected.amax(dim=1, keepdim=True)
    assert ((got - expected).abs() <= 1e-6 * scale + 1e-5 * expected).all()


@pytest.mark.parametrize("floor", [1e-37, 1e-6, 1.0, 100.0])
@pytest.mark.parametrize("level", [1e-12, 1.0, 1e12])
def test_logarithms_are_right_to_the_last_places(floor, level):
    stage = LogMel(floor=floor)
    x = waves(3, 16_000, seed=1) * level
    bands = by_products(stage, x.double())
    assert torch.allclose(stage(x).double(), torch.log(bands + floor), rtol=3e-7, atol=1.5e-5)
    # Against its own bands, where no sum of squares blurs it.
    own = torch.log((band_values(stage, x) + floor).double())
    assert torch.allclose(stage(x).double(), own, rtol=1.2e-7, atol=6e-8)
    silent = stage(torch.zeros(1, 16_000))
    assert torch.allclose(silent, torch.full_like(silent, np.log(floor)), rtol=1e-7, atol=0)


def test_a_clips_bands_are_the_same_bits_alone_and_anywhere_in_a_batch():
    stage = LogMel(floor=1.0)
    x = waves(9, 7000)
    whole = stage(x)
    for i in range(len(x)):
        assert torch.equal(stage(x[i : i + 1])[0], whole[i])
    assert torch.equal(stage(x.flip(0)).flip(0), whole)
    every_other = torch.stack([x, x], dim=2).flatten(1)[:, ::2]  # not in one piece
    assert torch.equal(stage(every_other), whole)


def test_no_clip_has_no_bands():
    assert LogMel()(waves(0, 3000)).shape == (0, 40, 19)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_bad_sample_stays_in_its_frames(bad):
    stage = LogMel(floor=1.0)
    x = waves(5, 5000)
    clean = stage(x)
    x[2, 2500] = bad
    got = stage(x)
    heard = [f for f in range(clean.shape[2]) if abs(f * stage.hop - 2500) <= stage.n_fft // 2]
    assert not got[2, :, heard].isfinite().all(dim=0).any()
    clean[2, :, heard] = got[2, :, heard] = 0.0
    assert torch.equal(got, clean)


@pytest.mark.parametrize(
    "stage",
    [
        LogMel(power=1.0),
        LogMel(n_fft=400, win_length=400),
        LogMel(n_fft=512, hop=56),
        LogMel(n_fft=512, hop=700),
        Mfcc(n_fft=4096),
    ],
    ids=lambda s: f"{s.name}-{s.n_fft}-{s.hop}-{s.power:g}",
)
def test_what_is_not_compiled_goes_through_products(stage):
    assert mel._abreast(stage) is None
    x = waves(2, 9000)
    assert torch.equal(band_values(stage, x), by_products(stage, x))


@pytest.mark.parametrize("limits", [(0.0, 1e-320), (7999.999999999999, 8000.0), (999.9999999999999, 1000.0)])
def test_bands_without_a_width_are_refused(limits):
    with pytest.raises(ConfigError, match="every band has a width"):
        LogMel(mel_norm="slaney", f_min=limits[0], f_max=limits[1])


def test_a_clip_without_a_frame_is_refused_as_ever():
    stage = LogMel(pad_mode="none")
    for samples in (400, 20):
        with pytest.raises(RuntimeError, match="512"):
            stage(waves(2, samples))


@pytest.mark.filterwarnings("ignore")  # torch's own, of tracing and of vmap
def test_transforms_and_traces_of_torch_go_through_products():
    stage = LogMel(floor=1.0)
    x, t = waves(3, 3000), waves(3, 3000, seed=1)
    slope = torch.func.jvp(by_products_of(stage), (x,), (t,))[1]
    assert torch.allclose(torch.func.jvp(stage, (x,), (t,))[1], slope)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(stage(forward_ad.make_dual(x, t))).tangent
    assert torch.allclose(tangent, slope)
    each = torch.func.vmap(lambda row: stage(row.unsqueeze(0))[0])(x)
    assert torch.allclose(each, stage(x), atol=1e-5)

    class Front(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return stage(x)

    traced = torch.jit.trace(Front(), x, check_trace=False)
    assert torch.allclose(traced(t), stage(t), atol=1e-5)
    negative = torch._neg_view(x)
    assert torch.allclose(stage(negative), stage(x), atol=1e-5)


def by_products_of(stage: LogMel):
    return lambda x: torch.log(by_products(stage, x) + stage.floor)


def test_gradients_and_doubles_go_through_products_and_agree():
    stage = LogMel(floor=1.0)
    x = waves(2, 3000)
    asked = x.clone().requires_grad_()
    bands = stage(asked)
    assert bands.requires_grad
    assert torch.allclose(bands, stage(x), atol=1e-5)
    assert stage(x.double()).dtype == torch.float64


@pytest.mark.usefixtures("anew")
def test_without_numba_products_do_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundcert.stages.abreast", None)
    monkeypatch.delattr("soundcert.stages.abreast", raising=False)
    x = waves(2, 3000)
    assert torch.equal(band_values(LogMel(), x), by_products(LogMel(), x))


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("broken", ["always", "kept", "raises"])
def test_compiled_code_that_is_wrong_is_made_anew_or_not_used(monkeypatch, broken):
    real, asked = abreast.make, []

    def make(keep: bool):
        asked.append(keep)
        if broken == "raises":
            raise OSError("no room")
        if broken == "kept" and not keep:
            return real(True)
        return lambda *args: args[-1].fill(1.0)

    monkeypatch.setattr(abreast, "make", make)
    x = waves(2, 3000)
    got, expected = band_values(LogMel(), x), by_products(LogMel(), x)
    assert asked == [True, False]
    if broken == "kept":
        assert mel._abreast(LogMel()) is not None
    else:
        assert mel._abreast(LogMel()) is None
        assert torch.equal(got, expected)
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fields", [{"n_mels": 10**9}, {"n_mels": 1025}, {"n_fft": 2**17}, {"n_fft": 2**40}])
def test_sizes_that_would_fill_the_memory_are_refused(fields):
    for kind in (LogMel, Mfcc):
        with pytest.raises(ConfigError, match=f"{next(iter(fields))} must be from"):
            kind(**fields)
