"""Runs that no model made, for what only reads runs: any size, hostile names, every outcome."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soundcert.bounds import certified_radius, clopper_pearson_lower, monte_carlo_ceiling
from soundcert.diagnostics import burst_level_db, norm_ratio_db

HOSTILE = (
    "<script>alert(1)</script>.wav",
    '"><img src=x onerror=alert(2)>.wav',
    "</script><script>alert(3)</script>",
    "../../etc/passwd",
    "line\nbreak\r\ttab.wav",
    "quotes ' \" ` ${x} {{ x }} {% x %}.wav",
    "👩🏽‍🚀 emoji.wav",
    "שלום עולם.wav",
    "مرحبا.wav",
    "evil\u202egnp.wav",
    "two\u2028lines\u2029of.wav",
    "| pipe | *bold* [link](javascript:alert(4)).wav",
    "nul\x00byte.wav",
    "lone \udcff surrogate.wav",
)
CONTRACT = {
    "kind": "fixed-gain waveform smoothing", "certified_object": "gain-normalised waveform (RMS 1 per clip)",
    "perturbation_location": "waveform after gain", "gain_policy": "per clip, before the noise: rms_normalize(target=1)",
    "norm": "l2", "unit": "RMS 1 per clip", "noise": "gaussian_noise", "sigma": 0.5, "dimension": 16000,
    "pre_noise": ["fit(seconds=1)", "rms_normalize(target=1)"], "post_noise": [],
    "post_noise_stages": ["log_mel(n_mels=40, floor=1)"], "model": "model(ds_cnn)", "engine": "torch fp32",
}  # fmt: skip
STATEMENT = (
    "Contract: fixed-gain waveform smoothing.\nThe certified object is the waveform: 16000 values.\n"
    "Gain policy: per clip.\nNot claimed: Nothing about lossy codecs."
)


def record(
    clip: str, count: int, label: str = "yes", truth: str | None = "yes", n: int = 1000
) -> dict[str, Any]:
    """A record whose radius and views follow from its count."""
    sigma, alpha, norm = 0.5, 0.001, 126.5
    radius = certified_radius(count, n, alpha, sigma)
    ceiling = monte_carlo_ceiling(sigma, n, alpha)
    out: dict[str, Any] = {
        "clip": clip, "candidate": label, "count": count, "n": n, "n0": 100, "alpha": alpha, "seed": 0,
        "bound": "one-sided", "sigma": sigma, "p_lower": clopper_pearson_lower(count, n, alpha), "ceiling": ceiling,
        "saturated": radius == ceiling, "object_norm": norm, "gain": 7.25, "policy": "fixed", "seconds": 0.25,
        "digest": f"{abs(hash(clip)):032x}"[-32:], "status": "abstained" if radius is None else "certified",
    }  # fmt: skip
    if truth is not None:
        out["truth"] = truth
    if radius is not None:
        out |= {"label": label, "radius": radius}
        file = radius / 7.25
        out["views"] = {
            "r_over_sigma": radius / sigma, "snr_db": norm_ratio_db(norm, radius),
            "burst_20ms_db": burst_level_db(radius, 1.0, 16000), "file_radius": file,
            "file_snr_db": norm_ratio_db(norm / 7.25, file), "file_lsb": file * 2**15,
        }  # fmt: skip
        chain = [
            ("certificate", radius),
            ("float32 rounding of the object", radius),
            ("rms_normalize(target=1)", file),
        ]
        out["spaces"] = {
            "file": {"proven": True, "radius": file, "norm": norm / 7.25,
                     "chain": [{"stage": s, "space": "file", "radius": r} for s, r in chain]}
        }  # fmt: skip
    return out


def many(size: int, labels: int = 10) -> list[dict[str, Any]]:
    """Records of a plausible run: most at the ceiling, some wrong, abstained and failed."""
    rng = random.Random(0)
    out = []
    for i in range(size):
        name, truth = f"class-{i % labels}/{rng.getrandbits(32):08x}_nohash_{i}.flac", f"class-{i % labels}"
        draw = rng.random()
        if draw < 0.01:
            out.append({"clip": name, "status": "failed", "reason": "truncated", "truth": truth})
            continue
        count = 1000 if draw < 0.5 else rng.randint(480, 1000)
        label = truth if rng.random() < 0.95 else "class-0"
        out.append(record(name, count, label, truth))
    return out


def write_run(path: Path, records: Sequence[Mapping[str, Any]], *, tail: bytes = b"", **info: Any) -> Path:
    """Write a run directory around the records."""
    path.mkdir(parents=True)
    facts = {
        "format": 1, "clips": len(records), "contract": CONTRACT, "statement": STATEMENT, "soundcert": "0.1.0",
        "config": {"data": {"source": "folder", "root": "clips"}, "pipeline": ["mono"],
                   "certify": {"n0": 100, "n": 1000, "alpha": 0.001, "seed": 0, "bound": "one-sided"}},
        "identity": {"config": "00", "model": "11", "data": "22"}, "environment": {"python": "3.11", "cores": 2},
        "started": "2026-01-01T00:00:00+00:00", "labels": ["yes", "no"], **info,
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(facts), "utf-8")
    lines = "".join(json.dumps(r) + "\n" for r in records).encode()
    (path / "certificates.jsonl").write_bytes(lines + tail)
    return path
