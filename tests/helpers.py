"""Small clips, a tiny model whose votes are known, configs around them, and a check against JSON Schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from soundcert.audio import Clip
from soundcert.models import build_network, save_weights
from soundcert.pipeline import Pipeline
from soundcert.randomness import NoiseKey, noise_stream

RATE = 16_000
SECONDS = 0.1
LOW, HIGH = 500.0, 4000.0
OPTIONS = {"width": 2, "blocks": 1, "dropout": 0.0}

FRONT = ["mono", "resample: {rate: 16000}", "fit: {seconds: 0.1}", "rms_normalize: {target: 1.0}"]
NOISE = "gaussian_noise: {sigma: 0.15}"
FEATURES = "log_mel: {n_mels: 8, n_fft: 256, floor: 1.0}"
MODEL = "model: {weights: tones.safetensors}"


def tone(frequency: float, seed: int = 0, *, rate: int = RATE, seconds: float = SECONDS) -> np.ndarray:
    """A tone in noise at 16 bits, which a clip and its file agree on exactly."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(rate * seconds)) / rate
    samples = 0.3 * np.sin(2 * np.pi * frequency * t + rng.uniform(0, 6)) + 0.01 * rng.standard_normal(len(t))
    return np.round(samples * 2**15).astype(np.int16)


def mix(share: float) -> np.ndarray:
    """Both tones, `share` of the high one."""
    return ((1 - share) * tone(LOW, 1) + share * tone(HIGH, 2)).astype(np.int16)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **kwargs: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **kwargs)
    return path


def folder_of_tones(root: Path, each: int = 2) -> Path:
    """`root/low/*.wav` and `root/high/*.wav`, `each` of both."""
    for i in range(each):
        write(root / "low" / f"{i}.wav", tone(LOW, 10 + i))
        write(root / "high" / f"{i}.wav", tone(HIGH, 20 + i))
    return root


def yaml_of(
    stages: Sequence[str], data: str | None = "{source: folder, root: clips}", *, n: int = 30, more: str = ""
) -> str:
    lines = [f"data: {data}"] if data else []
    lines += ["pipeline:", *(f"  - {stage}" for stage in stages)]
    lines += [f"certify: {{n0: 5, n: {n}, alpha: 0.001, seed: 0}}", more]
    return "\n".join(lines) + "\n"


WAVEFORM = [*FRONT, NOISE, FEATURES, MODEL]
IN_FEATURES = [*FRONT, FEATURES, "gaussian_noise: {sigma: 0.2}", MODEL]


def write_tone_model(path: Path, labels: tuple[str, str] = ("high", "low")) -> np.ndarray:
    """Write a tiny network that is sure of tones under `NOISE`; return a clip at about even votes.

    Its convolutions are random; its last layer separates the means of the two tones' activations. The
    clip is the mix of both tones whose activations fall on the threshold, found by bisection.
    """
    torch.manual_seed(0)
    net = build_network("ds_cnn", 2, OPTIONS).eval()
    front = ["mono", {"fit": {"seconds": SECONDS}}, {"rms_normalize": {"target": 1.0}}]
    features = {"log_mel": {"n_mels": 8, "n_fft": 256, "floor": 1.0}}
    pipe = Pipeline.from_specs([*front, {"gaussian_noise": {"sigma": 0.15}}, features])

    def activations(samples: np.ndarray) -> torch.Tensor:
        clip = Clip.from_array(samples, RATE)
        v = pipe.object_of(clip).float()
        noise = noise_stream(NoiseKey(99, "validation", clip.digest), pipe.noise)
        with torch.inference_mode():
            return net[:-2](pipe(v + noise.fill_(torch.empty(100, *v.shape))))

    low, high = activations(mix(0.0)).mean(0), activations(mix(1.0)).mean(0)
    towards = (low - high) / (low - high).norm()
    threshold = (low + high) @ towards / 2
    share, step = 0.5, 0.25
    for _ in range(10):
        share += step if (activations(mix(share)) @ towards).median() > threshold else -step
        step /= 2
    last = net[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.copy_(torch.stack((-towards, towards)) * 20)
        last.bias.copy_(torch.stack((threshold, -threshold)) * 20)
    save_weights(path, net, network="ds_cnn", labels=labels, options=OPTIONS)
    return mix(share)


def write_untrained(path: Path, labels: Sequence[str], options: Mapping[str, Any] = OPTIONS) -> Path:
    torch.manual_seed(0)
    net = build_network("ds_cnn", len(labels), options)
    save_weights(path, net, network="ds_cnn", labels=labels, options=options)
    return path


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "certificates.jsonl").read_bytes().splitlines()]


def without_times(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records(run)]


# --- JSON Schema (2020-12), as far as soundcert's schemas use it ------------------------------------

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
}
_LIMITS: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": lambda v, limit: v >= limit,
    "maximum": lambda v, limit: v <= limit,
    "exclusiveMinimum": lambda v, limit: v > limit,
    "exclusiveMaximum": lambda v, limit: v < limit,
    "minItems": lambda v, limit: len(v) >= limit,
    "maxItems": lambda v, limit: len(v) <= limit,
    "minLength": lambda v, limit: len(v) >= limit,
    "maxLength": lambda v, limit: len(v) <= limit,
    "pattern": lambda v, pattern: re.search(pattern, v) is not None,
}
_SAYS_NOTHING = {"$schema", "$defs", "title", "description", "default", "format", "then", "examples"}


def mistakes(value: Any, schema: Any, whole: Any = None, place: str = "$") -> list[str]:
    """What `value` breaks of `schema`. A keyword that this does not know is an error, not a pass."""
    whole = schema if whole is None else whole
    if isinstance(schema, bool):
        return [] if schema else [f"{place}: nothing is allowed here"]
    out: list[str] = []

    def fails(part: Any, of: Any = value) -> bool:
        return bool(mistakes(of, part, whole, place))

    for word, rule in schema.items():
        if word in _SAYS_NOTHING or (word in ("properties", "required") and not isinstance(value, dict)):
            continue
        if word == "$ref":
            target = whole
            for step in rule.removeprefix("#/").split("/"):
                target = target[step]
            out += mistakes(value, target, whole, place)
        elif word == "type":
            kinds = [rule] if isinstance(rule, str) else rule
            if not any(_TYPES[kind](value) for kind in kinds):
                out.append(f"{place}: {value!r} is not {kinds}")
        elif word in ("enum", "const"):
            if value not in (rule if word == "enum" else [rule]):
                out.append(f"{place}: {value!r} is not {rule}")
        elif word in _LIMITS:
            fits = {str: ("Length", "pattern"), list: ("Items",)}.get(
                type(value), ("imum", "Minimum", "Maximum")
            )
            if (
                word.endswith(fits)
                and not isinstance(value, bool | dict | None)
                and not _LIMITS[word](value, rule)
            ):
                out.append(f"{place}: {value!r} breaks {word} {rule}")
        elif word == "properties":
            for key in rule.keys() & value.keys():
                out += mistakes(value[key], rule[key], whole, f"{place}.{key}")
        elif word == "required":
            out += [f"{place}: no {key}" for key in rule if key not in value]
        elif word == "additionalProperties":
            for key in value.keys() - schema.get("properties", {}).keys() if isinstance(value, dict) else ():
                out += mistakes(value[key], rule, whole, f"{place}.{key}")
        elif word in ("items", "prefixItems"):
            if isinstance(value, list):
                pairs = (
                    [(v, rule) for v in value] if word == "items" else list(zip(value, rule, strict=False))
                )
                for number, (v, part) in enumerate(pairs):
                    out += mistakes(v, part, whole, f"{place}[{number}]")
        elif word == "anyOf":
            if all(fails(part) for part in rule):
                out.append(f"{place}: {value!r} fits none of anyOf")
        elif word == "oneOf":
            if sum(not fails(part) for part in rule) != 1:
                out.append(f"{place}: {value!r} does not fit exactly one of oneOf")
        elif word == "allOf":
            for part in rule:
                out += mistakes(value, part, whole, place)
        elif word == "not":
            if not fails(rule):
                out.append(f"{place}: fits what it must not, {rule}")
        elif word == "if":
            if not fails(rule):
                out += mistakes(value, schema.get("then", True), whole, place)
        else:
            raise AssertionError(f"tests/helpers.py does not know the keyword {word!r}")
    return out
