"""What a report lets people hear and see of a few clips: players at one loudness, waveforms, spectrograms.

Everything is made for looking and listening: 16 bits, at most ten seconds. Nothing here is evidence.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundcert.audio import Clip, load_clip
from soundcert.audit import audit
from soundcert.config import CertifyConfig
from soundcert.errors import SoundcertError
from soundcert.flags import Flag
from soundcert.pipeline import Pipeline
from soundcert.randomness import NoiseKey, noise_stream
from soundcert.report.findings import attacked
from soundcert.runs import Run
from soundcert.runs.recordings import Recordings, recordings_of

SECONDS = 10.0
LOUDNESS = 0.1
#: Bytes that all players of a page may have together.
BUDGET = 8_000_000
_COLUMNS, _BANDS, _FLOOR_DB = 160, 64, 80.0
Samples = NDArray[np.float64]


@dataclass(frozen=True)
class Version:
    """One way a clip sounds: a FLAC as a data URI, its outline and its spectrogram (base64, 8 bits each).

    note: what was added, in words. outline: lowest and highest sample of each of a few hundred stretches, as
    signed bytes. spectrogram: rows from low to high frequency, 0 at 80 dB below the original's peak.
    """

    key: str
    title: str
    note: str
    audio: str
    outline: str
    spectrogram: str


@dataclass(frozen=True)
class Heard:
    """The versions of one clip. seconds: of what is played; whole: of the clip."""

    clip: str
    rate: int
    seconds: float
    whole: float
    versions: tuple[Version, ...]


@dataclass(frozen=True)
class Sounds:
    """What could be heard of the chosen clips, why the others could not, and what their audio shows."""

    clips: tuple[Heard, ...] = ()
    missing: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()


def choose(run: Run, count: int) -> list[tuple[str, str]]:
    """Return up to `count` clips, each with why: extremes, abstentions and mistakes first, in turn."""
    hit = attacked(run)
    order = {r["clip"]: i for i, r in enumerate(run.records)}

    def ranked(records: Sequence[Mapping[str, Any]], sign: int) -> list[str]:
        key = {r["clip"]: (sign * r["radius"], r["clip"] not in hit, order[r["clip"]]) for r in records}
        return sorted(key, key=key.__getitem__)

    certified = [r for r in run.usable if r["status"] == "certified"]
    wrong = [r for r in certified if r.get("truth") not in (None, r["label"])]
    queues = [
        ("largest radius", ranked(run.good, -1)),
        ("smallest radius", ranked(run.good, 1)),
        ("certified with a wrong label", ranked(wrong, -1)),
        ("abstained", [r["clip"] for r in run.usable if r["status"] == "abstained"]),
        ("attacked", [r["clip"] for r in certified if r["clip"] in hit]),
    ]
    out: dict[str, str] = {}
    while len(out) < count and any(names for _, names in queues):
        for why, names in queues:
            while names and names[0] in out:
                names.pop(0)
            if names and len(out) < count:
                out[names.pop(0)] = why
    return sorted(out.items(), key=lambda pair: order[pair[0]])


def listen(run: Run, names: Sequence[str], *, data: Path | None = None, base: Path | None = None) -> Sounds:
    """Read the clips' files, and make what is played and drawn of them.

    data: a folder or manifest in place of the run's own list. base: where the config's relative paths start,
    by default where the run was made. A file counts only if its digest is the record's.
    """
    if not names:
        return Sounds()
    try:
        held = recordings_of(run.path, run.info, base=base, data=data)
        pipe = _without_model(held)
    except (SoundcertError, OSError) as error:
        return Sounds(missing=(f"no clip can be heard: {error}",))
    by_name = {r["clip"]: r for r in run.records}
    hit = attacked(run)
    heard, missing, clips = [], [], []
    left = BUDGET
    for name in names:
        record = by_name[name]
        try:
            found = held.clip(record, moved=True)
            one = _hear(run, pipe, found, record, hit.get(name))
        except SoundcertError as error:
            missing.append(f"{name}: {error}")
            continue
        size = sum(len(v.audio) + len(v.spectrogram) for v in one.versions)
        if size > left:
            missing.append(f"{name}: its audio is left out to keep the page small")
            continue
        left -= size
        heard.append(one)
        clips.append(found)
    return Sounds(tuple(heard), tuple(missing), _flags(pipe, clips, held.config.certify))


def _without_model(held: Recordings) -> Pipeline:
    """Return the pipeline without its last stage, the model: nothing here needs its answers."""
    specs = list(held.config.pipeline)
    last = specs[-1]
    if "model" in (last if isinstance(last, str) else list(last)):
        specs = specs[:-1]
    return Pipeline.from_specs(specs, held.folder)


def _hear(
    run: Run, pipe: Pipeline, clip: Clip, record: Mapping[str, Any], attack: Mapping[str, Any] | None
) -> Heard:
    route = pipe.route(clip.space)
    original = clip.tensor(torch.float64)
    parts: list[tuple[str, str, str, Tensor, int]] = [
        ("original", "Original", "the file as it was decoded", original, clip.rate)
    ]
    rate = route.object.rate
    is_waveform = route.object.kind == "waveform"
    v = pipe.object_of(clip)
    if is_waveform and rate:
        noise = _noise(pipe, clip, v, int(record.get("seed", 0)))
        note = f"one draw of the noise, {_below(v, noise)}: what the model is asked about"
        parts.append(("noisy", "With smoothing noise", note, v + noise, rate))
    views = record.get("views") or {}
    reach = views.get("file_radius")
    if record["status"] == "certified" and reach:
        delta = _random(original, reach, clip.digest)
        note = f"a random change of the file at its proven radius, {_below(original, delta)}"
        parts.append(("random", "With a random perturbation", note, original + delta, clip.rate))
    elif record["status"] == "certified" and is_waveform and rate and record["radius"]:
        delta = _random(v, record["radius"], clip.digest)
        note = f"a random change of the certified object at its radius, {_below(v, delta)}"
        parts.append(("random", "With a random perturbation", note, v + delta, rate))
    found = _attack_wav(run, attack)
    if found is not None:
        bad, words = found
        parts.append(("attack", "With the attack’s best", words, bad.tensor(torch.float64), bad.rate))
    return _heard(clip, parts)


def _noise(pipe: Pipeline, clip: Clip, v: Tensor, seed: int) -> Tensor:
    stream = noise_stream(NoiseKey(seed, "diagnostics", clip.digest), pipe.route(clip.space).noise)
    return stream.fill_(torch.empty(1, *v.shape))[0].double()


def _random(x: Tensor, radius: float, digest: str) -> Tensor:
    """Return a perturbation of the length in a random direction, always the same for one recording."""
    generator = torch.Generator().manual_seed(int(digest[:12], 16))
    out = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return out * (radius * (1 - 1e-9) / float(torch.linalg.vector_norm(out)))


def _below(x: Tensor, delta: Tensor) -> str:
    clip, change = float(torch.linalg.vector_norm(x)), float(torch.linalg.vector_norm(delta))
    if clip == 0 or change == 0:
        return "beside silence"
    level = 20 * math.log10(clip / change)
    return f"{abs(level):.1f} dB {'below' if level >= 0 else 'above'} the clip"


def _attack_wav(run: Run, attack: Mapping[str, Any] | None) -> tuple[Clip, str] | None:
    """Return the attacked clip that an attack kept, with what it does; never a file outside the run."""
    bypass = (attack or {}).get("bypass")
    files = bypass.get("files") if isinstance(bypass, dict) else None
    for file in files if isinstance(files, list) else []:
        if not isinstance(file, dict) or not isinstance(file.get("path"), str):
            continue
        root, path = run.path.resolve(), (run.path / file["path"]).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            continue
        try:
            clip = load_clip(path)
        except SoundcertError:
            continue
        snr = file.get("snr_db")
        level = f", {snr:.1f} dB below the clip" if isinstance(snr, int | float) else ""
        where = "outside" if file.get("outside") is True else "not outside"
        return clip, f"the smallest change found that leaves the certified ball{level}; read back, {where} it"
    return None


def _heard(clip: Clip, parts: Sequence[tuple[str, str, str, Tensor, int]]) -> Heard:
    """Bring all versions to one loudness (energy over the clip's own length) that none of them clips at."""
    signals: list[tuple[Samples, int]] = []
    for *_, x, rate in parts:
        signals.append((x.reshape(-1, x.shape[-1]).numpy()[:, : round(SECONDS * rate)], rate))
    seconds = min(clip.seconds, SECONDS)
    levels = [math.sqrt(float((s**2).sum()) / len(s) / rate / seconds) for s, rate in signals]
    peaks = [float(np.abs(s).max(initial=0.0)) for s, _ in signals]
    loudest = min(
        [LOUDNESS, *(0.98 * level / peak for level, peak in zip(levels, peaks, strict=True) if peak > 0)]
    )
    versions = []
    top: float | None = None
    for (key, title, note, *_), (s, rate), level in zip(parts, signals, levels, strict=True):
        played = s * (loudest / level) if level > 0 else s
        mono = played.mean(axis=0)
        power = _power(mono, rate, min(r for _, r in signals))
        top = float(power.max()) if top is None else top
        versions.append(Version(key, title, note, _flac(played, rate), _outline(mono), _picture(power, top)))
    return Heard(clip.name, min(r for _, r in signals), max(s.shape[1] / r for s, r in signals), clip.seconds,
                 tuple(versions))  # fmt: skip


def _flac(samples: Samples, rate: int) -> str:
    import soundfile

    heard = samples if len(samples) <= 2 else samples.mean(axis=0, keepdims=True)
    buffer = io.BytesIO()
    soundfile.write(buffer, heard.T, rate, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(buffer.getvalue()).decode()


def _outline(mono: Samples) -> str:
    parts = np.array_split(mono, min(300, len(mono)))
    pairs = np.array([[p.min(), p.max()] for p in parts])
    return base64.b64encode(np.round(pairs * 127).clip(-127, 127).astype(np.int8).tobytes()).decode()


def _power(mono: Samples, rate: int, shared_rate: int) -> Samples:
    """Return (bands, columns): the largest power in each, up to half the lowest rate that the versions share."""
    size = 2 ** max(4, round(math.log2(rate * 0.032)))
    padded = np.pad(mono, (0, max(0, size - len(mono))))
    starts = np.linspace(0, len(padded) - size, _COLUMNS).astype(int)
    frames = np.stack([padded[i : i + size] for i in starts]) * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2 / size
    bins = max(_BANDS, round(power.shape[1] * shared_rate / rate))
    edges = np.linspace(0, min(bins, power.shape[1]), _BANDS + 1).astype(int)
    rows = [power[:, a : max(b, a + 1)].max(axis=1) for a, b in itertools.pairwise(edges)]
    return np.stack(rows)


def _picture(power: Samples, top: float) -> str:
    db = 10 * np.log10(np.maximum(power, 1e-30) / max(top, 1e-30))
    return base64.b64encode(((db / _FLOOR_DB + 1).clip(0, 1) * 255).astype(np.uint8).tobytes()).decode()


def _flags(pipe: Pipeline, clips: Sequence[Clip], budget: CertifyConfig) -> tuple[Flag, ...]:
    """Return what an audit of these clips raises."""
    try:
        result = audit(
            pipe,
            clips,
            n0=budget.n0,
            n=budget.n,
            alpha=budget.alpha,
            bound=budget.bound,
            policy=budget.policy,
        )
    except SoundcertError:
        return ()
    return result.flags
