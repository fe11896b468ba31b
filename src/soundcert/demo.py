"""The demo: bundled models, bundled clips, three contracts, and why one radius is not another; and other sounds."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import soundfile
import torch

from soundcert.audio import Clip
from soundcert.certificate import Certificate
from soundcert.certify import SmoothedClassifier
from soundcert.config import load_config
from soundcert.contract import Contract
from soundcert.data import load_items
from soundcert.errors import InputError
from soundcert.pipeline import Pipeline
from soundcert.randomness import NoiseKey, noise_stream

CONTRACTS = (
    ("waveform", "Waveform", "noise on the waveform, after the gain"),
    ("features", "Log-mel", "noise on the log-mel features"),
    ("clipped", "Waveform, then clipped", "noise on the waveform, then clipping to [−1, 1]"),
    ("peak", "Waveform, then peak-normalised", "noise on the waveform, then a gain to peak 6"),
)


@dataclass(frozen=True)
class DemoContract:
    """One contract's certificates on all clips. `left_at_db`: see `leaves_ball_at`."""

    key: str
    title: str
    summary: str
    pipeline: tuple[str, ...]
    noise_index: int
    certificates: tuple[Certificate, ...]
    left_at_db: tuple[float | None, ...]

    @property
    def contract(self) -> Contract:
        """The contract without what belongs to one clip."""
        return self.certificates[0].contract.for_clip(
            gain=None, raw_radius=None, snr_db=None, norm_ratio_db=None, displacement=None, sensitivity=None
        )

    def correct(self, truths: tuple[str, ...]) -> list[Certificate]:
        return [
            c for c, truth in zip(self.certificates, truths, strict=True)
            if c.status == "certified" and c.candidate == truth
        ]  # fmt: skip

    def geometry(self) -> tuple[float, float] | None:
        """Median displacement and sensitivity over the clips; None where nothing follows the noise."""
        pairs = [(c.contract.displacement, c.contract.sensitivity) for c in self.certificates]
        known = [(d, s) for d, s in pairs if d is not None and s is not None]
        if not known:
            return None
        return median(d for d, _ in known), median(s for _, s in known)


@dataclass(frozen=True)
class DemoSounds:
    """Environmental sounds under the waveform contract: another model, longer clips."""

    clips: tuple[Clip, ...]
    truths: tuple[str, ...]
    pipeline: tuple[str, ...]
    certificates: tuple[Certificate, ...]


@dataclass(frozen=True)
class DemoResult:
    """Everything that the demo shows."""

    clips: tuple[Clip, ...]
    truths: tuple[str, ...]
    contracts: tuple[DemoContract, ...]
    sounds: DemoSounds
    n: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "seed": self.seed,
            "contracts": [
                {
                    "key": c.key,
                    "title": c.title,
                    "pipeline": list(c.pipeline),
                    "contract": c.contract.to_dict(),
                    "certified_and_correct": len(c.correct(self.truths)),
                    "of": len(self.clips),
                    "certificates": [
                        {**cert.to_dict(), "truth": truth}
                        for cert, truth in zip(c.certificates, self.truths, strict=True)
                    ],
                }
                for c in self.contracts
            ],
            "sounds": {
                "pipeline": list(self.sounds.pipeline),
                "certificates": [
                    {**cert.to_dict(), "truth": truth}
                    for cert, truth in zip(self.sounds.certificates, self.sounds.truths, strict=True)
                ],
            },
        }


def demo_folder() -> Path:
    """Return the folder of the bundled clips and the demo's four configs."""
    return Path(str(files("soundcert.data") / "demo"))


def run_demo(
    *, n: int = 1000, seed: int = 0, progress: Callable[[int, int, str], None] | None = None
) -> DemoResult:
    """Certify the bundled clips under every contract, and the bundled sounds under one."""
    folder = demo_folder()
    clips, truths = _clips(folder / "waveform.yaml")
    sounds, kinds = _clips(folder / "sounds.yaml")
    total = len(CONTRACTS) * len(clips) + len(sounds)
    done = 0

    def certify(key: str, title: str, chosen: Sequence[Clip]) -> tuple[Pipeline, tuple[Certificate, ...]]:
        nonlocal done
        config = load_config(folder / f"{key}.yaml")
        pipe = Pipeline.from_config(config, folder)
        classifier = SmoothedClassifier(pipe)
        certificates = []
        for clip in chosen:
            certificates.append(
                classifier.certify(clip, n0=config.certify.n0, n=n, alpha=config.certify.alpha, seed=seed)
            )
            done += 1
            if progress:
                progress(done, total, f"{title}: {clip.name}")
        return pipe, tuple(certificates)

    results = []
    for key, title, summary in CONTRACTS:
        pipe, certificates = certify(key, title, clips)
        left = tuple(leaves_ball_at(pipe, clip, cert) for clip, cert in zip(clips, certificates, strict=True))
        results.append(
            DemoContract(key, title, summary, tuple(pipe.describe()), pipe.noise_index, certificates, left)
        )
    pipe, certificates = certify("sounds", "Environmental sounds", sounds)
    heard = DemoSounds(sounds, kinds, tuple(pipe.describe()), certificates)
    return DemoResult(clips, truths, tuple(results), heard, n, seed)


def _clips(config: Path) -> tuple[tuple[Clip, ...], tuple[str, ...]]:
    items = load_items(load_config(config).data or _no_data(), config.parent)
    return tuple(item.load() for item in items), tuple(str(item.label) for item in items)


def _no_data() -> Any:
    raise InputError("the bundled demo is incomplete: reinstall soundcert")


def leaves_ball_at(pipe: Pipeline, clip: Clip, cert: Certificate) -> float | None:
    """Return the SNR in dB of white noise on the file that just leaves the certified ball.

    It is found by bisection on the level of one fixed noise, so it bounds from above what the
    certificate could ever say about white noise on the file; nothing is proven by it.
    """
    if cert.status != "certified":
        return None
    route = pipe.route(clip.space)
    samples = clip.tensor(torch.float64)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(samples.shape, generator=generator, dtype=torch.float64)
    noise *= torch.linalg.vector_norm(samples) / torch.linalg.vector_norm(noise)

    def moved(db: float) -> float:
        pair = torch.stack([samples, samples + noise * 10 ** (-db / 20)])
        for stage in route.front:
            pair = stage(pair)
        return float(torch.linalg.vector_norm(pair[1] - pair[0]))

    low, high = -20.0, 160.0  # louder leaves the ball, quieter stays
    if moved(high) > cert.radius or moved(low) <= cert.radius:
        return None
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if moved(middle) <= cert.radius else (middle, high)
    return low


def _flac(samples: torch.Tensor, rate: int, level: float) -> str:
    """Encode a waveform as a data URI, scaled so that its RMS is `level`, never beyond full scale."""
    scaled = samples * (level / float(samples.square().mean().sqrt()))
    peak = float(scaled.abs().max())
    if peak > 0.99:
        scaled = scaled * (0.99 / peak)
    buffer = io.BytesIO()
    soundfile.write(buffer, scaled.numpy(), rate, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(buffer.getvalue()).decode()


def players(result: DemoResult) -> list[tuple[str, str]]:
    """Return for each clip, and then each sound, the original and one noisy copy of the waveform, at one loudness."""
    folder = demo_folder()
    speech, sounds = (Pipeline.from_yaml(folder / f"{key}.yaml") for key in ("waveform", "sounds"))
    out = []
    for pipe, clip in [*((speech, c) for c in result.clips), *((sounds, c) for c in result.sounds.clips)]:
        route = pipe.route(clip.space)
        v = pipe.object_of(clip)
        stream = noise_stream(NoiseKey(result.seed, "diagnostics", clip.digest), route.noise)
        noisy = v + stream.fill_(torch.empty(1, *v.shape))[0].double()
        rate = route.object.rate or clip.rate
        out.append((_flac(v, rate, 0.1), _flac(noisy, rate, 0.1)))
    return out


def write_page(result: DemoResult, out: Path) -> Path:
    """Write the page and the results into a folder, and return the page's path."""
    from soundcert.report.demo import demo_page
    from soundcert.runs.directory import write_json

    try:
        out.mkdir(parents=True, exist_ok=True)
        page = out / "index.html"
        page.write_text(demo_page(result, players(result)), encoding="utf-8")
        write_json(out / "demo.json", result.to_dict())
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from None
    return page
