"""Mel bands of waveforms, compiled by numba: the power spectra of many frames abreast.

A product with a matrix of filters, and a transform of one frame after another, leave most of a processor's width
unused. Here every step takes LANES frames at a time, one in each lane, so that each is a few wide sums and products:
frames are columns, and a row holds one sample, or one bin, of all of them. Consecutive frames lie `hop` samples
apart, so that with the waveform written `hop` samples a line, sample i of the frames is a piece of line i mod hop.

The transform is that of n_fft/2 complex numbers, even samples their real and odd ones their imaginary parts: in place,
decimation in frequency, radix 4 with a last radix 2 where the length asks for it (Cooley and Tukey 1965; Press et
al., Numerical Recipes, 12.3, for the real transform from it). No product is joined with a sum, and lanes do not mix:
a clip's bands are the same bits in any batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from soundcert.compiling import compile_checked

LANES = 64
#: A frame reaches over so many hops beyond its first at most.
REACH = 8
#: Lengths of frames that there is compiled code for.
LENGTHS = (256, 512, 1024, 2048)

# Rows of powers of two would fall on one another in the caches.
_ROW = LANES + 8
_LINE = LANES + REACH
_PAIR = 2 * _ROW
_HALF, _ONE, _INFINITY = np.float32(0.5), np.float32(1.0), np.float32(np.inf)
_ROOT_HALF = np.int32(0x3F3504F3)  # the bits of √½
_MANTISSA, _23 = np.int32(0x7FFFFF), np.int32(23)
# ln 2 in two parts, the first times any exponent exact; and ln m = 2t + t³(L0 + t²(L1 + t²·L2)), to 2·10⁻¹⁰.
_LN_2, _LN_2_REST = np.float32(0.693145751953125), np.float32(1.4286068203094172e-06)
_L0, _L1, _L2 = np.float32(0.6666682), np.float32(0.39973605), np.float32(0.2996127)

#: waves, zeros around each, hop, hops a wave, window, turns, half turns, rows of bins, rows of filters, their weights,
#: their counts, floor, bands
Run = Callable[..., None]


@numba.njit(nogil=True, error_model="numpy")
def _turn(waves: np.ndarray, pad: int, hops: int, hop: int, first: int, lines: np.ndarray) -> None:
    """Write LANES + REACH hops from `first` on as columns, numbered through the batch; zeros where there is no sample."""
    size = waves.shape[1]
    for c in range(0, _LINE, 4):
        clip, start = (first + c) // hops, (first + c) % hops * hop - pad
        if clip < len(waves) and start >= 0 and start + 4 * hop <= size:
            w = waves[clip, start:]
            w0, w1, w2, w3 = w[:hop], w[hop : 2 * hop], w[2 * hop : 3 * hop], w[3 * hop : 4 * hop]
            for j in range(hop):
                o = j * _LINE + c
                lines[o], lines[o + 1], lines[o + 2], lines[o + 3] = w0[j], w1[j], w2[j], w3[j]
            continue
        for d in range(c, c + 4):
            clip, start = (first + d) // hops, (first + d) % hops * hop - pad
            if clip >= len(waves):
                start = size
            for j in range(hop):
                inside = 0 <= start + j < size
                lines[j * _LINE + d] = waves[clip, start + j] if inside else np.float32(0)


@numba.njit(nogil=True, error_model="numpy")
def _frame(lines: np.ndarray, hop: int, window: np.ndarray, z: np.ndarray) -> None:
    """Write the windowed frames, a row a sample."""
    for start in range(0, len(window), hop):
        for i in range(start, min(len(window), start + hop)):
            line, row, w = lines[(i - start) * _LINE + start // hop :], z[i * _ROW :], window[i]
            for lane in range(LANES):
                row[lane] = line[lane] * w


@numba.njit(forceinline=True, nogil=True, error_model="numpy")
def _four(z: np.ndarray, m: int, size: int, turns: np.ndarray) -> None:
    """Split transforms of `size` numbers into four each. Inlined, so that all distances are known to the compiler."""
    step = m // size
    one = size // 4 * _PAIR
    two, three = 2 * one, 3 * one
    for i in range(size // 4):
        c1, s1 = turns[0, i * step], turns[1, i * step]
        c2, s2 = turns[0, 2 * i * step], turns[1, 2 * i * step]
        c3, s3 = turns[0, 3 * i * step], turns[1, 3 * i * step]
        for start in range(i * _PAIR, m * _PAIR, size * _PAIR):
            x = z[start:]
            for re in range(LANES):
                im = re + _ROW
                a, b = x[re] + x[re + two], x[im] + x[im + two]
                c, d = x[re] - x[re + two], x[im] - x[im + two]
                e, f = x[re + one] + x[re + three], x[im + one] + x[im + three]
                g, h = x[re + one] - x[re + three], x[im + one] - x[im + three]
                r1, i1, r2, i2, r3, i3 = c + h, d - g, a - e, b - f, c - h, d + g
                x[re], x[im] = a + e, b + f
                x[re + one], x[im + one] = r1 * c1 - i1 * s1, r1 * s1 + i1 * c1
                x[re + two], x[im + two] = r2 * c2 - i2 * s2, r2 * s2 + i2 * c2
                x[re + three], x[im + three] = r3 * c3 - i3 * s3, r3 * s3 + i3 * c3


@numba.njit(nogil=True, error_model="numpy")
def _two(z: np.ndarray, m: int) -> None:
    for start in range(0, m * _PAIR, 2 * _PAIR):
        x = z[start:]
        for i in range(_PAIR):
            a, b = x[i], x[i + _PAIR]
            x[i], x[i + _PAIR] = a + b, a - b


@numba.njit(nogil=True, error_model="numpy")
def _transform(z: np.ndarray, m: int, turns: np.ndarray) -> None:
    """Transform m complex numbers in place; number k ends in the place that `_places` says."""
    size = m
    while size >= 4:
        if size == 4:
            _four(z, m, 4, turns)
        elif size == 8:
            _four(z, m, 8, turns)
        elif size == 16:
            _four(z, m, 16, turns)
        elif size == 32:
            _four(z, m, 32, turns)
        elif size == 64:
            _four(z, m, 64, turns)
        elif size == 128:
            _four(z, m, 128, turns)
        elif size == 256:
            _four(z, m, 256, turns)
        elif size == 512:
            _four(z, m, 512, turns)
        else:
            _four(z, m, 1024, turns)
        size //= 4
    if size == 2:
        _two(z, m)


@numba.njit(nogil=True, error_model="numpy")
def _powers(z: np.ndarray, m: int, rows: np.ndarray, halves: np.ndarray) -> None:
    """Turn Z into |X|² of bins 0 to m, each over its row of `rows`: X[k] = E + W^k·O and X[m−k] = conj(E − W^k·O).

    2E = Z[k] + conj Z[m−k], 2iO = Z[k] − conj Z[m−k]; halves: ½·W^k.
    """
    for lane in range(LANES):
        a, b = z[lane] + z[lane + _ROW], z[lane] - z[lane + _ROW]
        z[lane], z[lane + _ROW] = a * a, b * b
    x = z[rows[m // 2] :]
    for lane in range(LANES):
        x[lane] = x[lane] * x[lane] + x[lane + _ROW] * x[lane + _ROW]
    for k in range(1, m // 2):
        x, y, c, s = z[rows[k] :], z[rows[m - k] :], halves[0, k], halves[1, k]
        for re in range(LANES):
            im = re + _ROW
            e_re, e_im = (x[re] + y[re]) * _HALF, (x[im] - y[im]) * _HALF
            o_re, o_im = x[im] + y[im], y[re] - x[re]
            t_re, t_im = o_re * c - o_im * s, o_re * s + o_im * c
            a, b, c_, d = e_re + t_re, e_im + t_im, e_re - t_re, e_im - t_im
            x[re], y[re] = a * a + b * b, c_ * c_ + d * d


@numba.njit(nogil=True, error_model="numpy")
def _logarithm(x: np.ndarray, floor: np.float32, room: np.ndarray, out: np.ndarray) -> None:
    """Write ln(x + floor) for sums from 2⁻¹²⁶ on, infinity and NaN among them. x is lost; room: for as many numbers.

    x + floor = 2^e·m with m from √½ to √2; ln m = 2 artanh t with t = (m − 1)/(m + 1), as a polynomial in t.
    """
    # One loop for each change between numbers and their bits: each is then done many values at a time.
    bits = x.view(np.int32)
    for i in range(LANES):
        x[i] += floor
        out[i] = x[i]
    for i in range(LANES):
        k = np.int32(bits[i] - _ROOT_HALF)
        room[i] = np.float32(k >> _23)
        bits[i] = np.int32((k & _MANTISSA) + _ROOT_HALF)
    for i in range(LANES):
        t = (x[i] - _ONE) / (x[i] + _ONE)
        q = t * t
        ln = room[i] * _LN_2_REST + (((q * _L2 + _L1) * q + _L0) * q * t + (t + t))
        out[i] = room[i] * _LN_2 + ln if out[i] < _INFINITY else out[i]


@numba.njit(nogil=True, error_model="numpy")
def _sum(
    z: np.ndarray, rows: np.ndarray, weights: np.ndarray, counts: np.ndarray, floor: np.float32,
    first: int, hops: int, room: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Write the bands of the frames from `first` on, numbered through the batch with `hops` a clip. room: three lines."""
    at = 0
    total, logs = room[0], room[1]
    for band in range(len(counts)):
        for lane in range(LANES):
            total[lane] = 0
        for _ in range(counts[band]):
            a, b, c, d = z[rows[at] :], z[rows[at + 1] :], z[rows[at + 2] :], z[rows[at + 3] :]
            u, v, w, x = weights[at], weights[at + 1], weights[at + 2], weights[at + 3]
            for lane in range(LANES):
                total[lane] += (a[lane] * u + b[lane] * v) + (c[lane] * w + d[lane] * x)
            at += 4
        values = total
        if floor > 0:
            _logarithm(total, floor, room[2], logs)
            values = logs
        lane = 0
        while lane < LANES and first + lane < len(out) * hops:
            clip, frame = (first + lane) // hops, (first + lane) % hops
            for i in range(min(out.shape[2] - frame, LANES - lane)):
                out[clip, band, frame + i] = values[lane + i]
            lane += hops - frame


def _run(
    waves: np.ndarray, pad: int, hop: int, hops: int, window: np.ndarray, turns: np.ndarray, halves: np.ndarray,
    bins: np.ndarray, rows: np.ndarray, weights: np.ndarray, counts: np.ndarray, floor: np.float32, out: np.ndarray,
) -> None:  # fmt: skip
    m = len(window) // 2
    lines, z = np.empty(hop * _LINE, np.float32), np.empty(m * _PAIR, np.float32)
    room = np.empty((3, LANES), np.float32)
    for first in range(0, len(out) * hops, LANES):
        _turn(waves, pad, hops, hop, first, lines)
        _frame(lines, hop, window, z)
        _transform(z, m, turns)
        _powers(z, m, bins, halves)
        _sum(z, rows, weights, counts, floor, first, hops, room, out)


class Bands:
    """Mel bands of frames of one kind.

    run: what `make` made. window: `(n_fft,)`, as it lies in the frame; n_fft one of LENGTHS, and at most REACH + 1 hops.
    filters: `(n_mels, n_fft//2 + 1)`.
    """

    def __init__(self, run: Run, window: np.ndarray, filters: np.ndarray, hop: int) -> None:
        self._run, self._hop = run, hop
        n = len(window)
        m = n // 2
        bins = np.append(_places(m) * _PAIR, _ROW)  # |X[m]|² lies beside |X[0]|²
        rows: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        counts = []
        for row in filters:
            used = np.flatnonzero(row)
            first, last = (used[0], used[-1] + 1) if len(used) else (0, 0)
            more = (first - last) % 4  # four bins at a time: what is missing are others without weight
            counts.append((last - first + more) // 4)
            rows.append(np.pad(bins[first:last], (0, more), constant_values=bins[first]))
            weights.append(np.pad(row[first:last], (0, more)))
        self._tables = (
            _floats(window),
            _circle(np.arange(m) / m),
            _circle(np.arange(m // 2) / n) * _HALF,
            bins,
            np.concatenate(rows),
            _floats(np.concatenate(weights)),
            np.array(counts),
        )

    def __call__(self, waves: np.ndarray, pad: int, floor: float = 0.0) -> np.ndarray:
        """Return bands, `(batch, n_mels, frames)` float32, or with a floor from 2⁻¹²⁶ on ln(band + floor).

        waves: `(batch, samples)` float32, in one piece, taken with so many zeros before and after each.
        """
        window, counts = self._tables[0], self._tables[-1]
        samples = waves.shape[1] + 2 * pad
        hops, frames = -(-samples // self._hop), 1 + (samples - len(window)) // self._hop
        out = np.empty((len(waves), len(counts), frames), np.float32)
        self._run(waves, pad, self._hop, hops, *self._tables, np.float32(floor), out)
        return out


@cache
def compiled() -> Run | None:
    """Return the compiled code; None where it cannot be had, or finds other bands than numpy."""
    return compile_checked(make, _finds_the_same)


def _finds_the_same(run: Run) -> bool:
    random = np.random.default_rng(0)
    for n in LENGTHS:
        hop, pad = n // 3, n // 2
        waves = random.standard_normal((2, (LANES // 2 + 5) * hop), dtype=np.float32)
        window, filters = np.hanning(n), random.random((5, n // 2 + 1)) * np.tri(5, n // 2 + 1, n // 3)
        padded = np.pad(waves.astype(np.float64), ((0, 0), (pad, pad)))
        spectra = np.fft.rfft(sliding_window_view(padded, n, axis=1)[:, ::hop] * window)
        expected = filters @ np.square(np.abs(spectra)).transpose(0, 2, 1)
        bands = Bands(run, window, filters, hop)
        if not np.allclose(bands(waves, pad), expected, rtol=1e-4):
            return False
        if not np.allclose(bands(waves, pad, 0.5), np.log(expected + 0.5), rtol=0, atol=1e-4):
            return False
    return True


def _places(m: int) -> np.ndarray:
    """Return where each of m numbers ends: its digits, base 4 and 2, in reverse."""
    k, place, left = np.arange(m), np.zeros(m, dtype=np.int64), m
    while left > 1:
        radix = 4 if left >= 4 else 2
        left //= radix
        place += k % radix * left
        k //= radix
    return place


def _circle(turns: np.ndarray) -> np.ndarray:
    """Return cosines and sines of −2π·turns, `(2, len)` float32."""
    points = np.exp(-2j * np.pi * turns)
    return _floats(np.stack([points.real, points.imag]))


def _floats(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, dtype=np.float32)


def make(keep: bool) -> Run:
    """Compile, which takes seconds; with `keep`, take what an earlier call left on the disk, or leave it there."""
    signature = (
        "void(float32[:,::1], int64, int64, int64, float32[::1], float32[:,::1], float32[:,::1], int64[::1], int64[::1], "
        "float32[::1], int64[::1], float32, float32[:,:,::1])"
    )
    made: Any = numba.njit(signature, cache=keep, nogil=True, error_model="numpy")(_run)
    run: Run = made
    return run
