"""Speak the ten demo words with espeak-ng: the clips that ship with the package, and a set for training.

The demo set is a dozen one-second clips, one voice each. The training set, written only when asked for,
says every word in many other voices: no espeak variant (the timbre of a voice) is in both sets, nor in both
the training and the validation part. Everything is drawn from fixed seeds, so one version of espeak-ng gives
one result.
"""

import argparse
import csv
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf
import soxr

RATE = 16_000
SAMPLES = RATE  # one second
SEED = 0
WORDS = ("yes", "no", "up", "down", "left", "right", "go", "zero", "one", "two")
ACCENTS = {
    "us": "en-us",
    "gb": "en-gb",
    "rp": "en-gb-x-rp",
    "scot": "en-gb-scotland",
    "lanc": "en-gb-x-gbclan",
    "wmid": "en-gb-x-gbcwmd",
    "carib": "en-029",
    "nyc": "en-us-nyc",
}

DEMO = (  # word, accent, variant, peak: the levels differ so that gain normalisation has something to do
    ("yes", "us", "m3", 0.62),
    ("yes", "gb", "f4", 0.28),
    ("no", "gb", "f2", 0.45),
    ("no", "us", "m7", 0.90),
    ("up", "scot", "m7", 0.35),
    ("down", "us", "f4", 0.72),
    ("left", "rp", "m3", 0.24),
    ("right", "us", "f2", 0.55),
    ("go", "gb", "m7", 0.80),
    ("zero", "scot", "f4", 0.40),
    ("one", "rp", "f2", 0.20),
    ("two", "gb", "m3", 0.50),
)
TRAINING_VARIANTS = (
    *("m1", "m2", "m4", "m5", "m6", "m8", "f1", "f3", "f5", "grandma", "grandpa", "klatt2"),
    *("Alex", "Alicia", "Andrea", "Andy", "Annie", "anika", "belinda", "benjamin", "boris", "caleb", "david"),
    *("ed", "Gene", "Hugo", "Jacky", "john", "Lee", "linda", "marcelo", "Mario", "max", "Michael", "miguel"),
    *("Mike", "paul", "pedro", "quincy", "rob", "robert", "shelby", "steph", "travis", "victor", "zac"),
)
VALIDATION_VARIANTS = ("m4", "f5", "Annie", "boris", "linda", "paul", "steph")
TRAINING_VOICES = 60  # (accent, variant) pairs, each saying every word

DEMO_LICENSE = """\
# Licence of these clips

The clips in this folder are synthetic speech: no person was recorded. `scripts/make_demo_clips.py` made them
with espeak-ng. The sounds in `sounds/` are made from formulas by `scripts/make_demo_sounds.py`.

To the extent possible under law, the soundcert developers have waived all copyright and related or
neighbouring rights to them, under the
[CC0 1.0 Universal dedication](https://creativecommons.org/publicdomain/zero/1.0/).
"""


class Voice(NamedTuple):
    accent: str
    variant: str
    pitch: int = 50
    speed: int = 150

    @property
    def espeak(self) -> str:
        return f"{ACCENTS[self.accent]}+{self.variant}"

    @property
    def name(self) -> str:
        return f"{self.accent}-{self.variant.lower()}"


def random_for(*key: object) -> np.random.Generator:
    """A generator that depends on the key alone, so adding a clip leaves the others as they were."""
    return np.random.default_rng([SEED, zlib.crc32("/".join(map(str, key)).encode())])


def check_variants() -> None:
    """espeak-ng speaks in a default voice when it does not know a variant, so look for them first."""
    listed = subprocess.run(["espeak-ng", "--voices=variant"], check=True, capture_output=True, text=True)
    known = set(re.findall(r"!v/(\S+)", listed.stdout))
    missing = ({variant for _, _, variant, _ in DEMO} | set(TRAINING_VARIANTS)) - known
    if missing:
        raise SystemExit(f"error: this espeak-ng lacks the variants {', '.join(sorted(missing))}")


def speak(word: str, voice: Voice) -> np.ndarray:
    """The word alone at 16 kHz, with the silence on both sides trimmed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "word.wav"
        options = ["-v", voice.espeak, "-p", str(voice.pitch), "-s", str(voice.speed), "-w", str(path)]
        subprocess.run(["espeak-ng", *options, word], check=True, capture_output=True)
        wave, rate = sf.read(path)
    return trim(soxr.resample(wave, rate, RATE, quality="VHQ"))


def trim(wave: np.ndarray) -> np.ndarray:
    """Keep from 10 ms before the first to 10 ms after the last 5 ms that is within 50 dB of the loudest."""
    window, margin = RATE // 200, RATE // 100
    level = np.sqrt(np.convolve(wave**2, np.ones(window) / window, mode="same"))
    loud = np.flatnonzero(level > 10**-2.5 * level.max())
    word = wave[max(loud[0] - margin, 0) : loud[-1] + margin].copy()
    ramp = np.sin(np.linspace(0, np.pi / 2, RATE // 1000)) ** 2  # espeak-ng starts some words at once
    word[: len(ramp)] *= ramp
    word[-len(ramp) :] *= ramp[::-1]
    return word


def one_second(word: str, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """The word near the middle of one second, faster than asked for where it would not fit."""
    spoken = speak(word, voice)
    while len(spoken) > 0.95 * SAMPLES:
        voice = voice._replace(speed=voice.speed + 20)
        spoken = speak(word, voice)
    slack = SAMPLES - len(spoken)
    jitter = min(RATE // 20, slack // 4)
    start = slack // 2 + int(rng.integers(-jitter, jitter + 1))
    return np.pad(spoken, (start, slack - start))


def background(rng: np.random.Generator) -> np.ndarray:
    """Noise of unit RMS with a spectrum between white and brown."""
    spectrum = np.fft.rfft(rng.standard_normal(SAMPLES))
    frequency = np.maximum(np.fft.rfftfreq(SAMPLES, 1 / RATE), 20.0)
    noise = np.fft.irfft(spectrum * frequency ** -rng.uniform(0.0, 1.0), SAMPLES)
    return noise / np.sqrt(np.mean(noise**2))


def write_clip(path: Path, wave: np.ndarray, peak: float) -> None:
    sf.write(path, wave * (peak / np.abs(wave).max()), RATE, subtype="PCM_16", format="FLAC")


def write_manifest(folder: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with (folder / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def make_demo(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for word, accent, variant, peak in DEMO:
        voice = Voice(accent, variant)
        file = f"{word}-{voice.name}.flac"
        write_clip(folder / file, one_second(word, voice, random_for("demo", file)), peak)
        rows.append((file, word, voice.espeak))
    write_manifest(folder, ("file", "label", "voice"), rows)
    (folder / "LICENSE.md").write_text(DEMO_LICENSE, encoding="utf-8")
    return len(rows)


def training_voices() -> list[Voice]:
    """Every variant in turn, each time in another accent and at another pitch and speed."""
    voices = []
    for i in range(TRAINING_VOICES):
        variant = TRAINING_VARIANTS[i % len(TRAINING_VARIANTS)]
        rng = random_for("voice", variant)
        accents = rng.permutation(list(ACCENTS))
        turn = i // len(TRAINING_VARIANTS)
        pitch, speed = rng.integers(30, 71, size=8)[turn], rng.integers(115, 191, size=8)[turn]
        voices.append(Voice(str(accents[turn]), variant, int(pitch), int(speed)))
    return voices


def make_training(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for voice in training_voices():
        split = "validation" if voice.variant in VALIDATION_VARIANTS else "training"
        for word in WORDS:
            file = f"{word}-{voice.name}.flac"
            rng = random_for("train", file)
            wave = one_second(word, voice, rng)
            if rng.random() < 0.5:
                below = 10 ** (rng.uniform(-60, -40) / 20)  # of the word's peak
                wave = wave + below * np.abs(wave).max() * background(rng)
            write_clip(folder / file, wave, rng.uniform(0.2, 0.9))
            rows.append((file, word, split))
    write_manifest(folder, ("file", "label", "split"), rows)
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make the demo clips, and on request a larger set for training, with espeak-ng.",
        epilog="example: python scripts/make_demo_clips.py --train-out ../espeak_train",
    )
    demo = Path(__file__).resolve().parents[1] / "src" / "soundcert" / "data" / "demo"
    parser.add_argument(
        "--demo-out", type=Path, default=demo, metavar="DIR", help="default: the package's demo folder"
    )
    parser.add_argument("--train-out", type=Path, metavar="DIR", help="also write the training set here")
    args = parser.parse_args()
    if shutil.which("espeak-ng") is None:
        sys.exit("error: espeak-ng is not installed (on Debian and Ubuntu: apt-get install espeak-ng)")
    check_variants()
    print(f"{make_demo(args.demo_out)} demo clips in {args.demo_out}")
    if args.train_out:
        print(f"{make_training(args.train_out)} training clips in {args.train_out}")


if __name__ == "__main__":
    main()
