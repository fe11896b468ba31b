"""Inspect a model that soundcert did not make: what it takes and gives, whether it can be certified, and a config.

What the file does not say is guessed and marked as a guess: a rate, a length, which features. What can be tried
is tried: shapes, repeated passes, rows alone and in company, time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from torch import Tensor

from soundcert.data.registry import source_names, source_of
from soundcert.errors import ConfigError, ModelError, SoundcertError
from soundcert.models.loaders import (
    PACKAGE,
    Adapter,
    Loaded,
    Outputs,
    Request,
    all_loaders,
    hf,
    load,
    looks_like,
    path_of,
    probe_rows,
)
from soundcert.models.loaders.base import first_line, is_exported, is_torchscript, refuse_pickle, zip_members
from soundcert.pipeline import Pipeline
from soundcert.sampling import single_threaded
from soundcert.spaces import Space

GUESSED_RATE = 16_000
# Numbers of mel bands or coefficients that are in use: they tell bands from frames.
USUAL_BANDS = (10, 13, 20, 23, 26, 32, 39, 40, 64, 80, 96, 128)
HOP, N_FFT = 160, 512
# What a file that says nothing may take: one second of samples, or features of it.
CANDIDATES = ((40, 101), (64, 101), (80, 101), (128, 101))
# Relative to the spread of the outputs, as in the check before certifying.
TOLERANCE = 1e-3

MADE_UP = "made up"


@dataclass(frozen=True)
class Inspection:
    """What was found. rows: None where there is only one a pass. guesses: what the config took for granted."""

    kind: str
    name: str
    digest: str | None
    runtime: str
    takes: str
    gives: str
    rate: int | None
    samples: int | None
    labels: tuple[str, ...]
    labels_from: str
    gradients: bool
    deterministic: bool
    rows_independent: bool
    batch: int | None
    milliseconds: Mapping[int, float]
    outputs: Outputs
    pipeline: tuple[dict[str, Any] | str, ...]
    guesses: Mapping[str, str]
    facts: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        out = {key: getattr(self, key) for key in self.__dataclass_fields__}
        out["labels"], out["pipeline"] = list(self.labels), list(self.pipeline)
        out["milliseconds"] = {str(k): round(v, 4) for k, v in self.milliseconds.items()}
        out["facts"], out["guesses"] = dict(self.facts), dict(self.guesses)
        return out

    def lines(self) -> list[tuple[str, str]]:
        """Return what a person is told, as pairs of a name and a value."""
        seconds = f" ({self.samples / self.rate:g} s)" if self.samples and self.rate else ""
        shown = ", ".join(self.labels[:8]) + (
            f", … {len(self.labels)} in all" if len(self.labels) > 8 else ""
        )
        return [
            ("model", f"{self.name} ({self.kind})"),
            ("digest", self.digest or "unknown"),
            ("computed by", self.runtime),
            ("takes", self.takes + seconds),
            ("gives", self.gives),
            ("rate", f"{self.rate} Hz" if self.rate else "the file does not say"),
            ("labels", f"{shown} ({self.labels_from})"),
            ("gradients", "yes" if self.gradients else "no: a black box, which is enough to certify"),
            ("deterministic", "yes" if self.deterministic else "NO: the same rows gave other outputs"),
            ("rows of a batch", self._rows()),
            ("time a row, one thread", "; ".join(f"{v:.3g} ms in batches of {k}" for k, v in self.milliseconds.items())),
            *self.facts.items(),
        ]  # fmt: skip

    def _rows(self) -> str:
        if self.batch is not None and self.rows_independent:
            return (
                f"{self.batch} a pass, as the file says" if self.batch > 1 else "one a pass, as the file says"
            )
        if self.rows_independent:
            return "do not influence each other"
        return "INFLUENCE each other: it is run one row a pass (`batch: 1`)"

    def config(self, model: Mapping[str, Any], data: Mapping[str, Any]) -> str:
        """Return a starting configuration. model: the fields of the model stage; data: of the data block."""
        words = "one folder a class" if data["source"] == "folder" else "its testing clips alone"
        head = [
            f"# Written by `soundcert inspect` for {self.name}. What is marked ? was not in the file: check it.",
            f"data: {_flow(data)}  # {words}",
            "pipeline:",
        ]
        for stage in (*self.pipeline, {"model": dict(model)}):
            name = stage if isinstance(stage, str) else next(iter(stage))
            text = name if isinstance(stage, str) else f"{name}: {_flow(stage[name])}"
            guess = self.guesses.get(name)
            if name == "model" and self.labels_from.startswith(MADE_UP):
                guess = "; ".join(filter(None, (guess, f"labels: {self.labels_from}")))
            head.append(f"  - {text}" + (f"  # ? {guess}" if guess else ""))
        return "\n".join([*head, "certify: {n0: 100, n: 1000, alpha: 0.001, seed: 0}", ""])


def _flow(values: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(
        dict(values), default_flow_style=True, sort_keys=False, width=1_000_000, allow_unicode=True
    )
    return text.strip()


def kind_of(source: str) -> str:
    """Say which kind of model a path or a dotted name is; SoundcertError where it is none."""
    path = path_of(source)
    if path.is_dir():
        hf.folder_of(source)
        return "hf"
    if not path.exists():
        module, colon, attribute = source.partition(":")
        if colon and attribute.isidentifier() and all(p.isidentifier() for p in module.split(".")):
            return "python"
        if hf.is_hub_name(source) and not any(path.suffix in one.suffixes for one in all_loaders().values()):
            return "hf"
        raise ModelError(
            f"no model at {source}: give a file, a folder or hub name of transformers, or package.module:function"
        )
    suffix = path.suffix.lower()
    if suffix in (".safetensors",):
        raise ConfigError(
            f"{path.name} holds weights and no network: if soundcert wrote it write `model: {{weights: {path.name}}}`; "
            "else inspect the function that makes the network, package.module:function, with --weights"
        )
    members = zip_members(path)
    if is_exported(members):
        return "exported"
    if is_torchscript(members):
        return "torchscript"
    if suffix in (".pt", ".pth", ".pkl", ".bin", ".ckpt"):
        refuse_pickle(path, "a model file that can be inspected")
    loaders = all_loaders()
    for name, loader in loaders.items():
        if suffix in loader.suffixes:
            return name
    known = sorted({s for loader in loaders.values() for s in loader.suffixes})
    raise ConfigError(f"{path.name} is no kind of model that soundcert knows ({', '.join(known)})")


def inspect_model(
    source: str,
    *,
    kind: str | None = None,
    trust: bool = False,
    labels: Sequence[str] = (),
    rate: int | None = None,
    seconds: float | None = None,
    shape: Sequence[int] = (),
    options: Mapping[str, Any] | None = None,
    weights: str | None = None,
) -> Inspection:
    """Load a model and try it. shape: a row that it takes, where its file does not say.

    options: the loader's own. weights: a safetensors file, for a function that makes the network. Raises
    SoundcertErrors for what is no usable model.
    """
    kind = kind or ("factory" if weights is not None else kind_of(source))
    held = path_of(weights) if weights is not None else None
    loaded = load(Request(kind, source, Path(), trust, dict(options or {}), held))
    known_rate = rate or loaded.rate
    used_rate = known_rate or GUESSED_RATE
    samples = round(used_rate * (seconds or 1.0))
    row, raw = _first_pass(loaded, samples, tuple(shape))
    outputs, gives, classes = _outputs(loaded, raw)
    names, where = _names(labels, loaded.labels, classes)
    revision = (options or {}).get("revision")
    front, guesses, layout, length = _front(
        kind, source, loaded, row, used_rate, known_rate, seconds, revision
    )
    adapter = Adapter(loaded, outputs=outputs, classes=len(names))
    probes = probe_rows(row)
    deterministic, independent = _behaviour(adapter, probes)
    fields: dict[str, Any] = {kind: source}
    if weights is not None:
        fields["weights"] = weights
    if trust and kind not in ("onnx", "tflite", "hf"):
        fields["trust"] = True
    if layout:
        fields["layout"] = layout
    if outputs != "logits":
        fields["outputs"] = outputs
    if not independent and loaded.batch is None:
        adapter = Adapter(loaded, outputs=outputs, classes=len(names), batch=1)
        fields["batch"] = 1
        again, alone = _behaviour(adapter, probes)
        if deterministic and not (again and alone):
            raise ModelError(
                f"the model {loaded.name} answers otherwise for the same row even when it is run alone"
            )
    if options:
        fields["options"] = dict(options)
    if labels or loaded.labels is None:
        fields["labels"] = list(names)
    if known_rate and kind != "hf":
        fields["rate"] = known_rate
    facts = dict(loaded.facts)
    with torch.inference_mode():
        same = adapter._raw(probes)
    if bool((same == same[:1]).all()):
        facts["note"] = "every probe got the same answer: what else influences it cannot be seen"
    with single_threaded():
        times = {
            size: _milliseconds(adapter, probes, size) for size in ((1,) if adapter.batch == 1 else (1, 16))
        }
    return Inspection(
        kind=kind,
        name=loaded.name,
        digest=loaded.digest,
        runtime=loaded.runtime or "torch, or any engine that is installed",
        takes=_takes(loaded, row),
        gives=gives,
        rate=known_rate,
        samples=length,
        labels=names,
        labels_from=where,
        gradients=loaded.gradients,
        deterministic=deterministic,
        rows_independent=independent,
        batch=loaded.batch,
        milliseconds=times,
        outputs=outputs,
        pipeline=(*front, {"model": fields}),
        guesses=guesses,
        facts=facts,
    )


def write_config(found: Inspection, out: Path, data: Path | None = None) -> str:
    """Write a starting config and return the contract that it makes; it is bound to a clip of silence first.

    Paths become relative to the config. data: a folder of recordings, by default `recordings` beside it.
    """
    if out.exists():
        raise ConfigError(f"{out} exists: choose another --out, or remove it")
    folder = out.resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"{out} cannot be written: there is no folder {out.parent}")
    *front, last = found.pipeline
    assert isinstance(last, dict)
    fields = dict(last["model"])
    for name in ("weights", found.kind):
        if _is_path(found.kind, name, fields.get(name)):
            fields[name] = _from_here(Path(fields[name]), out.parent)
    block = {"source": "folder", "root": "recordings"} if data is None else _data_block(data, out.parent)
    text = Inspection(**{**_fields(found), "pipeline": tuple(front)}).config(fields, block)
    from soundcert.contract import read_contract

    specs = yaml.safe_load(text)["pipeline"]
    pipe = Pipeline.from_specs(specs, folder, trust=bool(fields.get("trust")))
    used = found.rate or GUESSED_RATE
    contract = read_contract(pipe.route(Space("file", "waveform", (found.samples or used,), used)))
    out.write_text(text, encoding="utf-8")
    return f"{contract.kind}: {contract.certified_object}"


def _from_here(path: Path, folder: Path) -> str:
    """Return a path relative to a folder, by the links that it was given by where that leads to the same place."""
    plain = os.path.relpath(os.path.abspath(path), os.path.abspath(folder))
    same = (folder.resolve() / plain).resolve() == path.resolve()
    return plain if same else os.path.relpath(path.resolve(), folder.resolve())


def _data_block(data: Path, folder: Path) -> dict[str, str]:
    """Return the data block of a folder: of a data set with splits its testing clips, and not those to train with."""
    root = _from_here(data, folder)
    for name in source_names():
        try:
            items = source_of(name).items(data)
        except (SoundcertError, OSError):
            continue
        if all(item.split for item in items) and any(item.split == "testing" for item in items):
            return {"source": name, "root": root, "split": "testing"}
    return {"source": "folder", "root": root}


def _is_path(kind: str, name: str, value: str | None) -> bool:
    """Whether a field of the model stage says where a file lies, relative to where this is run."""
    if value is None or value.startswith(PACKAGE):
        return False
    if name == "weights":
        return True
    return kind not in ("python", "factory") and (kind != "hf" or Path(value).is_dir())


def _fields(found: Inspection) -> dict[str, Any]:
    return {key: getattr(found, key) for key in found.__dataclass_fields__}


# What it takes


def _first_pass(loaded: Loaded, samples: int, shape: tuple[int, ...]) -> tuple[tuple[int, ...], Tensor]:
    """Return the shape of a row that the model takes, and what it gives for four of them."""
    declared = loaded.shape
    if shape:
        tries = [shape]
    elif declared is not None:
        tries = [_filled(declared, samples)]
    else:
        tries = [(samples,), *CANDIDATES, (1, samples), *((1, *c) for c in CANDIDATES)]
    reason = ""
    for row in tries:
        try:
            with torch.inference_mode():
                raw = Adapter(loaded)._in_batches(probe_rows(row))
        except Exception as error:  # a black box fails with whatever it likes
            reason = reason or first_line(error)
            continue
        if not isinstance(raw, Tensor):
            reason = reason or f"for a batch of 4 it gave a {type(raw).__name__}, not one tensor of scores"
        elif raw.is_complex():
            reason = reason or "it gave complex numbers, which have no largest"
        elif raw.dim() >= 1 and len(raw) == 4:
            return row, raw
        else:
            reason = reason or f"for a batch of 4 it gave {tuple(raw.shape)}"
    tried = ", ".join(str((*("batch",), *row)).replace("'", "") for row in tries)
    raise ModelError(
        f"the model {loaded.name} took none of {tried} ({reason}): give the shape of a row, as "
        "--shape 16000 or --shape 40,101"
    )


def _filled(declared: tuple[int | None, ...], samples: int) -> tuple[int, ...]:
    """Put numbers in place of free dimensions: samples where it is a waveform, else frames."""
    long = [n for n in declared if n != 1]
    free = samples if len(long) == 1 else 101
    return tuple(free if n is None else n for n in declared)


def _takes(loaded: Loaded, row: tuple[int, ...]) -> str:
    if loaded.shape is None:
        return f"(batch, {', '.join(map(str, row))}): tried, the model does not say"
    return "(batch, " + ", ".join("any" if n is None else str(n) for n in loaded.shape) + ")"


def _axes(row: tuple[int, ...]) -> tuple[str, tuple[int, int] | None, str | None]:
    """Return what a row is, bands and frames if it is features, and the layout to write down, if any."""
    long = [i for i, n in enumerate(row) if n != 1]
    if len(long) <= 1:
        layout = None
        if len(row) > 2 or (len(row) == 2 and row[0] != 1):
            layout = "batch, " + ", ".join("samples" if i in long else "1" for i in range(len(row)))
        return "waveform", None, layout
    if len(long) > 2:
        raise ModelError(f"a row of shape {row} has more than two axes: wrap the model in a Python function")
    first, second = (row[i] for i in long)
    swapped = (second in USUAL_BANDS) > (first in USUAL_BANDS) or (
        (first in USUAL_BANDS) == (second in USUAL_BANDS) and first > second
    )
    words = iter(("frames", "bands") if swapped else ("bands", "frames"))
    layout = "batch, " + ", ".join(next(words) if i in long else "1" for i in range(len(row)))
    plain = ("batch, bands, frames", "batch, 1, bands, frames")
    size = (second, first) if swapped else (first, second)
    return "features", size, None if layout in plain else layout


def _front(
    kind: str,
    source: str,
    loaded: Loaded,
    row: tuple[int, ...],
    rate: int,
    known_rate: int | None,
    seconds: float | None,
    revision: str | None,
) -> tuple[list[dict[str, Any] | str], dict[str, str], str | None, int]:
    """Return the stages above the model, what in them is guessed, the layout, and a clip's samples."""
    guesses = {"gaussian_noise": "the noise: raise σ as long as accuracy under it is good"}
    if known_rate is None:
        guesses["resample"] = "the model does not say its rate"
    if kind == "hf":
        return _hf_front(source, guesses, seconds, rate, revision)
    what, size, layout = _axes(row)
    if loaded.shape is None and layout is None and len(row) > 1 and row[0] == 1:
        layout = "batch, 1, samples" if what == "waveform" else "batch, 1, bands, frames"
    front: list[dict[str, Any] | str] = ["mono", {"resample": {"rate": rate}}]
    if what == "waveform":
        length = max(row)
        front += [{"fit": {"samples": length}}, {"gaussian_noise": {"sigma": 0.01}}]
        if loaded.shape is None or None in loaded.shape:
            guesses["fit"] = "the model takes other lengths too, or does not say"
        return front, guesses, layout, length
    assert size is not None
    bands, frames = size
    length = max(1, (frames - 1) * HOP)
    guesses["log_mel"] = (
        "the model takes features and does not say which: make them those that it was trained on"
    )
    guesses["fit"] = f"so many samples make {frames} frames with a hop of {HOP}"
    mel: dict[str, Any] = {"n_mels": bands, "n_fft": N_FFT, "hop": HOP}
    if rate != GUESSED_RATE:
        mel["rate"] = rate
    front += [{"fit": {"samples": length}}, {"gaussian_noise": {"sigma": 0.01}}, {"log_mel": mel}]
    return front, guesses, layout, length


def _hf_front(
    source: str, guesses: dict[str, str], seconds: float | None, rate: int, revision: str | None
) -> tuple[list[dict[str, Any] | str], dict[str, str], str | None, int]:
    """Return the feature extractor as stages, with the noise on the waveform, below a gain that it applies."""
    stages = hf.front_of(source, revision)
    length = round(rate * (seconds or 1.0))
    front: list[dict[str, Any] | str] = ["mono"]
    placed = any("fit" in stage or "fit_frames" in stage for stage in stages)
    for stage in stages:
        front.append(stage)
        if "fit" in stage:
            length = int(stage["fit"]["samples"])
        if "resample" in stage and not placed:
            front.append({"fit": {"samples": length}})
            guesses["fit"] = "the model takes any length"
    at = next(
        (i for i, s in enumerate(front) if isinstance(s, dict) and next(iter(s)) not in WAVE), len(front)
    )
    front.insert(at, {"gaussian_noise": {"sigma": 0.01}})
    return front, guesses, None, length


WAVE = ("resample", "fit", "standardize", "fixed_gain", "remove_offset")


# What it gives


def _outputs(loaded: Loaded, raw: Tensor) -> tuple[Outputs, str, int | None]:
    """Return what the outputs are, in words too, and how many classes there are."""
    if raw.dim() == 1:
        if raw.is_floating_point() and not torch.equal(raw, raw.round()):
            raise ModelError(
                f"the model {loaded.name} returns one value a row, (batch,): return (batch, classes)"
            )
        return "labels", "the number of a class, (batch,)", None
    wide = raw.flatten(1)
    if raw.dim() > 2 and wide.shape[1] != max(raw.shape[1:]):
        raise ModelError(
            f"the model {loaded.name} returns {tuple(raw.shape[1:])} a row: pool over time first"
        )
    if bool(wide.isnan().all()):
        raise ModelError(
            f"the model {loaded.name} returns NaN for every probe: check the range of what it is fed"
        )
    look = "logits" if loaded.outputs == "logits" else looks_like(wide.float())
    if wide.shape[1] == 1:
        single: Outputs = "probabilities" if look == "sigmoids" else "logits"
        what = "one probability" if look == "sigmoids" else "one score"
        return (
            single,
            f"{what}, (batch, 1): the second label is above {'½' if look == 'sigmoids' else '0'}",
            2,
        )
    size = wide.shape[1]
    if look == "probabilities":
        return (
            "probabilities",
            f"probabilities of {size} classes (they sum to 1): the vote is the largest",
            size,
        )
    if look == "sigmoids":
        return "scores", f"{size} values between 0 and 1, one decision a class: the vote is the largest", size
    return "logits", f"logits of {size} classes", size


def _names(
    given: Sequence[str], own: tuple[str, ...] | None, classes: int | None
) -> tuple[tuple[str, ...], str]:
    names, where = (tuple(given), "given") if given else (own, "from the file")
    if names is None:
        if classes is None:
            raise ConfigError("the model returns class numbers: name its classes with --labels")
        return tuple(f"class {i}" for i in range(classes)), f"{MADE_UP}: the file names none, give --labels"
    if len(set(names)) != len(names):
        raise ConfigError(f"labels must differ from each other, got {list(names)}")
    if classes is not None and len(names) != classes:
        raise ConfigError(
            f"the model returns {classes} classes, but there are {len(names)} labels ({where}): {list(names)}"
        )
    return names, where


def _behaviour(adapter: Adapter, probes: Tensor) -> tuple[bool, bool]:
    """Return whether the same rows give the same outputs, and whether a row minds its company."""
    # At one level, so that the spread of the outputs is that of usual rows; loud ones are company.
    probes = torch.randn(probes.shape, generator=torch.Generator().manual_seed(1))
    try:
        with torch.inference_mode():
            first, second = adapter._raw(probes), adapter._raw(probes)
            spread = float((first.amax(0) - first.amin(0)).nan_to_num(0.0).max()) + 1e-12

            def same(a: Tensor, b: Tensor) -> bool:
                return bool(torch.isclose(a, b, rtol=1e-5, atol=TOLERANCE * spread, equal_nan=True).all())

            if not same(first, second):
                return False, True
            others = torch.cat([probes[1:2], probes[2:].flip(0) * 10, probes[:1] * 0.1])
            alone = adapter._raw(probes[1:2])
            return True, same(alone, first[1:2]) and same(adapter._raw(others)[:1], first[1:2])
    except SoundcertError:
        raise
    except Exception as error:
        raise ModelError(
            f"the model {adapter.loaded.name} fails on another batch size ({first_line(error)}): export it with a free "
            "batch, or with a batch of 1"
        ) from error


def _milliseconds(adapter: Adapter, probes: Tensor, size: int) -> float:
    rows = probes[torch.arange(size) % len(probes)].contiguous()
    times: list[float] = []
    with torch.inference_mode():
        stop = time.perf_counter() + 0.3
        while len(times) < 3 or (time.perf_counter() < stop and len(times) < 50):
            started = time.perf_counter()
            adapter._raw(rows)
            times.append(time.perf_counter() - started)
    return 1000 * median(times) / size
