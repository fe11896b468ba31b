"""Keyed noise: the generator's state, independence of order, and the distribution."""

from __future__ import annotations

import itertools
import math
from hashlib import shake_128

import numpy as np
import pytest
import torch
from scipy.stats import kstest, pearsonr

from soundcert.errors import ConfigError
from soundcert.randomness import BLOCK, NoiseKey, NoiseStream, fresh_seed, noise_stream
from soundcert.stages import GaussianNoise

NOISE = GaussianNoise(1.0)


def blocks(key: NoiseKey, start: int = 0) -> NoiseStream:
    """What a family without a generator of its own draws from."""
    return NoiseStream(key, NOISE.perturb_, start)


def rows(key: NoiseKey, count: int, *shape: int, start: int = 0) -> torch.Tensor:
    return noise_stream(key, NOISE, start).fill_(torch.empty(count, *shape))


def key(seed: int = 0, purpose: str = "estimation", digest: str = "a") -> NoiseKey:
    return NoiseKey(seed, purpose, digest)


# --- the generator ---------------------------------------------------------------------------------


def words_of(text: str) -> np.ndarray:
    return np.frombuffer(shake_128(text.encode()).digest(624 * 4), dtype="<u4")


def numpy_stream(words: np.ndarray, count: int) -> np.ndarray:
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    return twister.random_raw(count)


def assert_same_raw_stream(generator: torch.Generator, words: np.ndarray, *, skip: int = 0) -> None:
    """Compare 2000 raw words. torch joins two of them, the earlier on top, and drops the top bit."""
    torch.empty(skip, dtype=torch.int32).random_(generator=generator)  # one word each
    got = torch.empty(1000, dtype=torch.int64).random_(generator=generator).numpy().astype(np.uint64)
    raw = numpy_stream(words, 2000 + skip)[skip:].astype(np.uint64)
    joined = (raw[0::2] << np.uint64(32)) | raw[1::2]
    np.testing.assert_array_equal(got, joined & np.uint64(2**63 - 1))


@pytest.mark.parametrize("skip", [0, 1])  # both alignments, so that every bit of every word is compared
@pytest.mark.parametrize("block", [0, 1, 12_345])
def test_the_state_is_a_mersenne_twister_of_the_keys_words(block, skip):
    def generator() -> torch.Generator:
        return NoiseKey(7, "selection", "f00d").generator(block)

    words = words_of(f"soundcert noise 1|7|selection|f00d|{block}")
    assert_same_raw_stream(generator(), words, skip=skip)
    # One bit of one word changes the stream, so that the whole state is known to be in use.
    for index in (1, 300, 623):
        other = words.copy()
        other[index] ^= 1
        with pytest.raises(AssertionError):
            assert_same_raw_stream(generator(), other, skip=skip)


def test_torchs_own_seeding_agrees_with_numpys_reading_of_its_state():
    # The layout itself, apart from our keys: seed, read the words back, and go on in numpy.
    generator = torch.Generator()
    generator.manual_seed(20_260_604)
    state = generator.get_state().numpy()
    words = state[24 : 24 + 624 * 8].view("<u8")
    assert words.max() < 2**32
    assert_same_raw_stream(generator, words.astype(np.uint32))


def test_a_generator_starts_without_a_cached_normal():
    # torch keeps the second of each pair of normals; a fresh block must not inherit one.
    first = key().generator(0)
    torch.empty(1).normal_(generator=first)
    second = key().generator(0)
    again = key().generator(0)
    assert torch.equal(torch.empty(5).normal_(generator=second), torch.empty(5).normal_(generator=again))


# --- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (3,), (15,), (16,), (17,), (100,), (2, 5), (4, 8)])
@pytest.mark.parametrize("stream", [blocks, lambda key, start=0: noise_stream(key, NOISE, start)])
def test_row_i_is_the_same_whatever_the_start_and_the_batches(shape, stream):
    whole = stream(key()).fill_(torch.empty(41, *shape))
    assert len(torch.unique(whole.flatten(1), dim=0)) == 41
    for start in (0, 1, 7, 8, 9, 16, 31, 40):
        assert torch.equal(stream(key(), start).fill_(torch.empty(41 - start, *shape)), whole[start:])
    for sizes in ((1,) * 41, (7, 7, 7, 7, 7, 6), (8, 33), (40, 1), (16, 16, 9), (0, 41)):
        one = stream(key())
        parts = [one.fill_(torch.empty(size, *shape)) for size in sizes]
        assert torch.equal(torch.cat(parts), whole)


def test_rows_of_another_type_or_layout_get_the_same_draws():
    whole = rows(key(), 6, 4, 9)
    assert torch.equal(
        noise_stream(key(), NOISE).fill_(torch.empty(6, 4, 9, dtype=torch.float64)), whole.double()
    )
    turned = torch.empty(6, 9, 4).transpose(1, 2)
    assert noise_stream(key(), NOISE).fill_(turned) is turned
    assert torch.equal(turned, whole)


def test_rows_in_a_reused_larger_buffer_are_the_same():
    whole = rows(key(), 20, 30)
    buffer = torch.full((16, 30), float("nan"))
    stream = noise_stream(key(), NOISE)
    assert torch.equal(stream.fill_(buffer[5:16]), whole[:11])
    assert torch.equal(stream.fill_(buffer[0:9]), whole[11:])


def test_streams_side_by_side_do_not_disturb_each_other_or_the_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two = noise_stream(key(1), NOISE), noise_stream(key(2), NOISE)
    mixed = [(one.fill_(torch.empty(3, 9)), two.fill_(torch.empty(5, 9))) for _ in range(4)]
    assert torch.equal(torch.cat([a for a, _ in mixed]), rows(key(1), 12, 9))
    assert torch.equal(torch.cat([b for _, b in mixed]), rows(key(2), 20, 9))
    assert torch.equal(torch.get_rng_state(), before)


def test_sigma_scales_the_same_draws():
    scaled = noise_stream(key(), GaussianNoise(0.25)).fill_(torch.empty(5, 40))
    assert torch.equal(scaled, rows(key(), 5, 40) * 0.25)


def test_the_noise_of_a_key_never_changes_between_versions():
    # Certificates that name a seed can be drawn again: another number under randomness.NOISE where this changes.
    recorded = [
        [0.149873137, -0.678246319, -0.978426695, -1.63829529],
        [0.741482794, 1.04269242, -0.338897437, 0.399781883],
    ]
    drawn = rows(NoiseKey(0, "estimation", "0" * 32), 10, 16)
    assert torch.equal(drawn[[0, 9], :4], torch.tensor(recorded))


@pytest.mark.parametrize("row", [0, 1, 9])
def test_a_row_is_what_docs_noise_md_says(row):
    """From the page alone, in whole numbers and doubles: SHAKE-128, SFC64, then a radius and an angle of each word."""
    state = np.frombuffer(
        shake_128(f"soundcert noise 2|5|prediction|beef|{row}".encode()).digest(24), dtype="<u8"
    )
    a, b, c = (int(x) for x in state)
    cosines, sines = [], []
    for counter in range(1, 52):
        w = (a + b + counter) % 2**64
        a, b, c = b ^ b >> 11, 9 * c % 2**64, ((c << 24 | c >> 40) + w) % 2**64
        r = 0.3 * math.sqrt(-2 * math.log((w % 2**31 + 0.5) / 2**31)) * (-1) ** (w >> 31 & 1)
        high = w >> 32
        angle = 2 * (high - (high >> 31 << 32)) / 2**31 * math.pi / 4
        cosines.append(r * math.cos(angle))
        sines.append(r * math.sin(angle))
    got = noise_stream(NoiseKey(5, "prediction", "beef"), GaussianNoise(0.3), row).fill_(torch.empty(1, 101))[
        0
    ]
    np.testing.assert_allclose(got.numpy(), [*cosines, *sines[:50]], rtol=0, atol=1e-6)


# --- keys ------------------------------------------------------------------------------------------


def test_seed_purpose_digest_and_index_each_change_the_noise():
    keys = [
        NoiseKey(seed, purpose, digest)
        for seed, purpose, digest in itertools.product(
            (0, 1, 2**64, 2**128 - 1),
            ("selection", "pilot", "estimation", "prediction"),
            ("", "a", "b", "a|0"),
        )
    ]
    drawn = torch.cat([rows(k, 2 * BLOCK + 1, 16) for k in keys])
    assert len(torch.unique(drawn, dim=0)) == len(keys) * (2 * BLOCK + 1)


def test_neighbouring_keys_and_blocks_are_uncorrelated():
    def values(key: NoiseKey, start: int = 0) -> np.ndarray:
        return rows(key, 200, 100, start=start).flatten().numpy()

    base = values(key(5))
    chance = 4.5 / np.sqrt(len(base))
    for other in (key(6), key(5, "selection"), key(5, digest="b")):
        assert abs(pearsonr(base, values(other)).statistic) < chance
    assert abs(pearsonr(base, values(key(5), BLOCK)).statistic) < chance
    assert pearsonr(base, values(key(5))).statistic > 0.999


@pytest.mark.parametrize("seed", [-1, -(2**70), 1.0, "1", None, True, float("nan")])
def test_a_seed_that_is_not_a_whole_number_from_0_is_refused(seed):
    with pytest.raises(ConfigError, match="seed must be a whole number from 0"):
        NoiseKey(seed, "selection", "a")


@pytest.mark.parametrize("purpose", ["", "select", "Estimation", None])
def test_an_unknown_purpose_is_refused(purpose):
    with pytest.raises(ConfigError, match="purpose must be one of training"):
        NoiseKey(0, purpose, "a")


def test_fresh_seeds_are_large_and_differ():
    seeds = {fresh_seed() for _ in range(50)}
    assert len(seeds) == 50
    assert max(seeds).bit_length() > 100
    NoiseKey(max(seeds), "prediction", "a")


# --- the distribution ------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [1, 5, 15, 16, 50, 1000])
def test_the_noise_is_standard_normal(dimension):
    values = rows(key(digest="ks"), 60_000 // dimension, dimension)
    assert kstest(values.flatten().numpy(), "norm").pvalue > 1e-3
    for column in {0, dimension // 2, dimension - 1}:
        assert kstest(values[:, column].numpy(), "norm").pvalue > 1e-3


def test_the_normality_test_would_see_another_scale_or_shape():
    values = rows(key(digest="ks"), 60, 1000).flatten().numpy()
    uniform = np.random.default_rng(0).random((60_000, 12)).sum(axis=1) - 6
    for wrong in (values * 1.05, values + 0.05, np.clip(values, -1.8, 1.8), uniform * 1.05):
        assert kstest(wrong, "norm").pvalue < 1e-3


def test_coordinates_of_a_row_are_uncorrelated():
    values = rows(key(digest="cov"), 20_000, 12).numpy()
    covariance = np.cov(values.T)
    np.testing.assert_allclose(covariance, np.eye(12), atol=5 * np.sqrt(2 / 20_000))
    neighbours = np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]
    assert abs(neighbours) < 4.5 / np.sqrt(20_000)


# --- other devices ---------------------------------------------------------------------------------


def test_rows_filled_by_blocks_do_not_depend_on_where_the_cuts_are():
    """What a GPU does, on the CPU: whole blocks at once, and parts of them."""
    key = NoiseKey(3, "estimation", "clip")

    def rows(start: int, *counts: int) -> torch.Tensor:
        stream = NoiseStream(key, lambda out, generator: out.normal_(generator=generator), start)
        return torch.cat([stream._fill_blocks(torch.empty(count, 5)) for count in counts])

    whole = rows(0, 200)
    assert len(torch.unique(whole)) == whole.numel()
    for cuts in ((1,) * 200, (64,) * 3 + (8,), (30, 50, 64, 1, 55), (200,), (199, 1)):
        assert torch.equal(rows(0, *cuts), whole)
    for start in (1, 63, 64, 65, 150):
        assert torch.equal(rows(start, 200 - start), whole[start:])


def test_a_device_that_is_not_there_is_one_clear_line(monkeypatch):
    from soundcert.classifier import usable_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no CUDA device here: use device: cpu"):
        usable_device("cuda")


def test_fp32_on_a_gpu_is_fp32(monkeypatch):
    """Found by a reviewer: torch's convolutions multiply with 10 bits there by default."""
    from soundcert.classifier import usable_device

    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        usable_device("cpu")
        assert all(backend.allow_tf32 for backend in backends)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        usable_device("cuda")
        assert not any(backend.allow_tf32 for backend in backends)
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
