"""Keyed randomness: every draw is a function of (seed, purpose, digest, index), never of batch order.

A stream holds the rows of noise for one clip and one purpose. The purpose keeps draws apart that must be
independent: a selection never sees a draw of an estimation. Any row can be reached without the ones before it,
and streams of different keys never overlap by a short seed:

- Gaussian noise on the CPU has a generator for each row, SFC64, whose state SHAKE-128 expands from the key and the
  row. What is made of its words is the same on every machine (`soundcert.normal`).
- Lattice noise has Philox, whose counter names the row: integer arithmetic alone.
- Other families, and Gaussian noise on a GPU, draw from torch's generators, one for each block of rows: BLOCK on the
  CPU, from a full Mersenne Twister state that SHAKE-128 expands from the key; up to GPU_BLOCK on a GPU.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import shake_128
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from soundcert.errors import ConfigError
from soundcert.normal import fill
from soundcert.rounded_normal import RoundedNormal
from soundcert.stages import GaussianNoise, NoiseStage

Purpose = Literal[
    "training",
    "validation",
    "probe",
    "selection",
    "pilot",
    "estimation",
    "prediction",
    "diagnostics",
    "attack",
    "verification",
]

#: Of Gaussian noise on a CPU: another number, other draws for the same seed. Runs record it.
NOISE = 2
BLOCK = 8
# Rows that one generator draws on a GPU, fewer of long objects so that they hold no more values than this: there a
# generator and a launch cost what a million values do.
GPU_BLOCK, _MOST_VALUES = 64, 2**24
# Layout of torch's CPU generator state: seed (8 bytes), left and seeded (4 each), next (8), then the
# 624 words of the Mersenne Twister in 8 bytes each. tests/unit/test_randomness.py checks it against
# numpy's Mersenne Twister.
_WORDS = slice(24, 24 + 624 * 8)


def fresh_seed() -> int:
    """Return a seed from the operating system's entropy, for deployed predictions."""
    return secrets.randbits(128)


@dataclass(frozen=True)
class NoiseKey:
    """What a stream of noise depends on. `digest` is the clip's (or names a batch in training)."""

    seed: int
    purpose: Purpose
    digest: str

    def __post_init__(self) -> None:
        if self.purpose not in get_args(Purpose):
            raise ConfigError(f"purpose must be one of {', '.join(get_args(Purpose))}, got {self.purpose!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ConfigError(f"seed must be a whole number from 0, got {self.seed!r}")

    def generator(self, block: int, device: torch.device | None = None) -> torch.Generator:
        """Return the generator of one block of rows; another device than the CPU has its own, of 63 bits."""
        text = f"soundcert noise 1|{self.seed}|{self.purpose}|{self.digest}|{block}"
        if device is not None and device.type != "cpu":
            text = f"{device.type} of {GPU_BLOCK}|{text}"
            seed = int.from_bytes(shake_128(text.encode()).digest(8), "little") >> 1
            return torch.Generator(device).manual_seed(seed)
        words = np.frombuffer(shake_128(text.encode()).digest(624 * 4), dtype="<u4")
        generator = torch.Generator()
        generator.manual_seed(0)
        state = generator.get_state()
        state[_WORDS] = torch.from_numpy(words.astype("<u8").view(np.uint8))
        generator.set_state(state)
        return generator

    def states(self, first: int, count: int) -> np.ndarray:
        """Return the states of the generators of rows `first` and on, `(count, 3)` uint64 (see `normal.fill`)."""
        text = f"soundcert noise 2|{self.seed}|{self.purpose}|{self.digest}|"
        digests = (shake_128(f"{text}{row}".encode()).digest(24) for row in range(first, first + count))
        return np.frombuffer(b"".join(digests), dtype="<u8").reshape(count, 3).astype(np.uint64)

    def philox(self) -> int:
        """Return the 128-bit key of the stream's Philox generator."""
        text = f"soundcert lattice noise 1|{self.seed}|{self.purpose}|{self.digest}"
        return int.from_bytes(shake_128(text.encode()).digest(16), "little")


class NoiseStream:
    """Rows of noise for one key, in order or from any row on.

    `draw(row, generator)` fills one row in place. Row i is the same whatever was drawn before it.
    """

    def __init__(
        self, key: NoiseKey, draw: Callable[[Tensor, torch.Generator], Tensor], start: int = 0
    ) -> None:
        self.key = key
        self._draw = draw
        self.next = start
        self._generator: torch.Generator | None = None

    def fill_(self, rows: Tensor) -> Tensor:
        """Fill `(count, *shape)` with the next rows, in place."""
        return self._fill_rows(rows) if rows.device.type == "cpu" else self._fill_blocks(rows)

    def noisy_(self, rows: Tensor, held: Tensor) -> Tensor:
        """Fill `(count, *shape)` with what the base classifier hears: an object (see `NoiseStage.held`) plus noise."""
        return self.fill_(rows).add_(held)

    def _fill_blocks(self, rows: Tensor) -> Tensor:
        """Fill by whole blocks, one launch each: on a GPU a launch costs as much as the noise of many rows."""
        done = 0
        size = max(1, min(GPU_BLOCK, _MOST_VALUES // max(1, math.prod(rows.shape[1:]))))
        while done < len(rows):
            block, place = divmod(self.next, size)
            count = min(size - place, len(rows) - done)
            target = rows[done : done + count]
            whole = target if count == size else rows.new_empty(size, *rows.shape[1:])
            self._draw(whole, self.key.generator(block, rows.device))
            if whole is not target:
                target.copy_(whole[place : place + count])
            done, self.next = done + count, self.next + count
        return rows

    def _fill_rows(self, rows: Tensor) -> Tensor:
        for row in rows:
            block, place = divmod(self.next, BLOCK)
            if self._generator is None or place == 0:
                self._generator = self.key.generator(block)
                for _ in range(place):
                    self._draw(torch.empty_like(row), self._generator)
            self._draw(row, self._generator)
            self.next += 1
        return rows


class NormalStream(NoiseStream):
    """Rows of Gaussian noise for one key; on another device than the CPU, as torch draws them there."""

    def __init__(self, key: NoiseKey, noise: GaussianNoise, start: int = 0) -> None:
        super().__init__(key, noise.perturb_, start)
        self._sigma = noise.sigma

    def _fill_rows(self, rows: Tensor) -> Tensor:
        count, size = len(rows), math.prod(rows.shape[1:])
        drawn = (
            rows
            if rows.is_contiguous() and rows.dtype == torch.float32
            else rows.new_empty(rows.shape).float()
        )
        fill(self.key.states(self.next, count), drawn.view(count, size).numpy(), self._sigma)
        self.next += count
        return rows if drawn is rows else rows.copy_(drawn)


class LatticeStream(NoiseStream):
    """Rows of lattice noise for one key: whole numbers of steps, drawn and added as integers, on any device."""

    def __init__(self, key: NoiseKey, law: RoundedNormal, step: float, start: int = 0) -> None:
        self.key, self.next = key, start
        self._law, self._step = law, step

    def integers(self, count: int, size: int) -> Tensor:
        """Return the next rows of noise in steps, `(count, size)` int32.

        Row i uses the words of Philox4x64-10 from counter i·2^128 on: no row depends on another.
        """
        key = self.key.philox()
        sources = [
            np.random.Philox(key=key, counter=row << 128) for row in range(self.next, self.next + count)
        ]
        self.next += count
        return torch.from_numpy(self._law.fill(np.empty((count, size), dtype=np.int32), sources))

    def fill_(self, rows: Tensor) -> Tensor:
        steps = self.integers(len(rows), rows[0].numel() if len(rows) else 0)
        return rows.copy_(steps.reshape(rows.shape)).mul_(self._step)

    def noisy_(self, rows: Tensor, held: Tensor) -> Tensor:
        """Fill rows with object plus noise: an integer sum, one conversion, and a power of two, which is exact."""
        steps = self.integers(len(rows), held.numel()).reshape(rows.shape)
        return rows.copy_(steps.to(held.device) + held).mul_(self._step)


def noise_stream(key: NoiseKey, noise: NoiseStage, start: int = 0) -> NoiseStream:
    """Return the stream of a noise stage's rows under a key, from row `start` on."""
    if noise.law is not None and noise.lattice is not None:
        return LatticeStream(key, noise.law, noise.lattice, start)
    if type(noise) is GaussianNoise:  # a family derived from it may draw otherwise
        return NormalStream(key, noise, start)
    return NoiseStream(key, noise.perturb_, start)
