"""Make the demo's environmental sounds from formulas: nobody's recording, any number of seconds, one result.

    python scripts/make_demo_sounds.py

Seven of ESC-10's ten classes lend themselves to it. Those that the package ships are in `SHIPPED`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy.signal import butter, lfilter

RATE = 16_000
SAMPLES = 5 * RATE
PEAK = 0.6
SHIPPED = ("clock_tick", "rain", "rooster")
OUT = Path(__file__).resolve().parents[1] / "src" / "soundcert" / "data" / "demo" / "sounds"


def filtered(noise: np.ndarray, order: int, *edges: float) -> np.ndarray:
    """White noise through a Butterworth low-pass (one edge, in Hz) or band-pass (two)."""
    b, a = butter(order, [e / (RATE / 2) for e in edges], "bandpass" if len(edges) == 2 else "lowpass")
    out: np.ndarray = lfilter(b, a, noise)
    return out


def harmonics(frequency: np.ndarray, count: int, fall: float) -> np.ndarray:
    """A tone whose frequency in Hz is given for every sample, with overtones of amplitude h^-fall."""
    phase = 2 * np.pi * np.cumsum(frequency) / RATE
    return np.sum([np.sin(h * phase) / h**fall for h in range(1, count)], axis=0)


def clock_tick(rng: np.random.Generator) -> np.ndarray:
    """Two clicks in turn, twice a second."""
    out = 0.002 * rng.standard_normal(SAMPLES)
    t = np.arange(int(0.03 * RATE)) / RATE
    for i, start in enumerate(np.arange(0.2, 5, 0.5)):
        first = int(start * RATE)
        ring = np.exp(-220 * t) * np.sin(2 * np.pi * (2600, 3100)[i % 2] * t)
        out[first : first + len(t)] += ring + 0.5 * np.exp(-500 * t) * rng.standard_normal(len(t))
    return out


def rain(rng: np.random.Generator) -> np.ndarray:
    """Steady noise, and drops that ring."""
    out = filtered(rng.standard_normal(SAMPLES), 2, 600, 7000)
    for first in rng.integers(0, SAMPLES - 800, 1500):
        t = np.arange(int(rng.integers(60, 300))) / RATE
        drop = np.exp(-600 * t) * np.sin(2 * np.pi * rng.uniform(1500, 6000) * t)
        out[first : first + len(t)] += rng.uniform(0.3, 1.5) * drop
    return out


def sea_waves(rng: np.random.Generator) -> np.ndarray:
    """Dull noise that swells every four seconds."""
    t = np.arange(SAMPLES) / RATE
    swell = 0.15 + np.clip(np.sin(2 * np.pi * t / 4.3 - 1.2), 0, None) ** 2
    return swell * filtered(rng.standard_normal(SAMPLES), 1, 1200)


def helicopter(rng: np.random.Generator) -> np.ndarray:
    """Thirteen blades a second, and what they leave of an engine."""
    beat = np.exp(-5 * ((np.arange(SAMPLES) / RATE * 13) % 1)) + 0.1
    low, high = rng.standard_normal((2, SAMPLES))
    return beat * (filtered(low, 2, 500) + 0.08 * filtered(high, 2, 800, 3000))


def dog(rng: np.random.Generator) -> np.ndarray:
    """Five barks."""
    out = 0.0005 * rng.standard_normal(SAMPLES)
    t = np.arange(int(0.22 * RATE)) / RATE
    shape = np.sin(np.pi * t / 0.22) ** 0.6
    for start in (0.4, 1.0, 2.2, 2.8, 4.0):
        voice = harmonics(520 * np.exp(-2.2 * t) + 60 * np.sin(np.pi * t / 0.22), 9, 0.7)
        first = int(start * RATE)
        out[first : first + len(t)] += shape * (voice + 0.4 * rng.standard_normal(len(t)))
    return out


def rooster(rng: np.random.Generator) -> np.ndarray:
    """One crow: three short notes and a long one that falls."""
    out = 0.0005 * rng.standard_normal(SAMPLES)
    first = int(0.6 * RATE)
    for seconds, low, high, level in (
        (0.18, 700, 900, 0.7),
        (0.2, 900, 950, 0.8),
        (0.3, 1000, 1150, 1),
        (0.9, 1200, 700, 1),
    ):
        t = np.arange(int(seconds * RATE)) / RATE
        voice = harmonics(np.linspace(low, high, len(t)) * (1 + 0.02 * np.sin(2 * np.pi * 28 * t)), 8, 0.8)
        shape = np.sin(np.pi * t / seconds) ** 0.4
        out[first : first + len(t)] += level * shape * (voice + 0.15 * rng.standard_normal(len(t)))
        first += len(t) + RATE // 20
    return out


def crackling_fire(rng: np.random.Generator) -> np.ndarray:
    """A low rush, and crackles of every strength."""
    out = 0.5 * filtered(rng.standard_normal(SAMPLES), 1, 300)
    for first in rng.integers(0, SAMPLES - 400, 180):
        t = np.arange(int(rng.integers(20, 160))) / RATE
        out[first : first + len(t)] += rng.exponential() * np.exp(-900 * t) * rng.standard_normal(len(t))
    return out


SOUNDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    f.__name__: f for f in (clock_tick, rain, sea_waves, helicopter, dog, rooster, crackling_fire)
}


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("file", "label"))
        for number, (name, make) in enumerate(SOUNDS.items()):
            if name in SHIPPED:
                wave = make(np.random.default_rng([0, number]))
                sf.write(
                    OUT / f"{name}.flac",
                    wave * (PEAK / np.abs(wave).max()),
                    RATE,
                    subtype="PCM_16",
                    format="FLAC",
                )
                rows.writerow((f"{name}.flac", name))
    print(f"{len(SHIPPED)} sounds in {OUT}")


if __name__ == "__main__":
    main()
