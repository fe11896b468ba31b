"""Certify a list of clips into a run directory."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import torch

from soundcert.certify import Sampling, SmoothedClassifier, check_pilots, share
from soundcert.classifier import NO_MODEL, Fastest, computed_by, default_batch, fastest, usable_device
from soundcert.config import Budget, CertifyConfig, Config
from soundcert.contract import read_contract
from soundcert.data import Item
from soundcert.data.config import split_words
from soundcert.engines import EngineName, Precision
from soundcert.errors import ConfigError, ModelError, ResourceError, RunError, SoundcertError, did_you_mean
from soundcert.normal import fastest as fastest_noise
from soundcert.pipeline import Pipeline, Route
from soundcert.policies import Pilot
from soundcert.randomness import NOISE
from soundcert.runs.directory import RUN, RunDirectory, encode_json, read_json, read_records, write_json
from soundcert.runs.executors import Executor, LocalExecutor, Workers
from soundcert.runs.summary import summarise
from soundcert.runs.work import Share, Work
from soundcert.sampling import WATCHDOG, cpu_count, within
from soundcert.stages import GaussianNoise
from soundcert.transport import check_space

SHARES = "shares.json"
# Fields of the model stage that say where its file lies, or that it may be read.
PLACES = ("weights", "onnx", "torchscript", "exported", "tflite", "hf", "loader", "trust")


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for a progress bar: clips done now, of `total`, and how the last one ended."""

    done: int
    total: int
    record: dict[str, Any]


def certify_run(
    config: Config,
    items: Sequence[Item],
    out: Path,
    *,
    base: Path | None = None,
    resume: bool = False,
    report_in: Sequence[str] = (),
    executor: Executor | None = None,
    progress: Callable[[Progress], None] | None = None,
    trust: bool = False,
    watchdog: float | None = WATCHDOG,
) -> dict[str, Any]:
    """Certify every clip of the list and return the run's summary.

    A clip that cannot be used is recorded with its reason and the run goes on. Everything that makes
    the whole run impossible (config, model, labels, budget) is raised before the first draw.
    executor: where the passes run; by default on all cores of this machine. trust: models that say
    `trust: true` may run the code that their files bring. watchdog: seconds in which no forward pass is
    finished and no clip read, after which the run ends with RunError; None waits for ever.
    """
    executor = executor or LocalExecutor()
    budget = config.certify
    pipe = Pipeline.from_config(config, base, trust=trust)
    if pipe.model is None:
        raise ConfigError(NO_MODEL)
    sampling = Sampling.of(budget)
    sampling.check(float(pipe.noise.sigma))
    usable_device(budget.device)
    check_pilots(sampling, len(items))
    check_labels(pipe, items)
    fastest_noise()  # may compile for seconds, once on a machine: no part of a pass
    route = within(watchdog, lambda: _preflight(pipe, items, budget))
    check_made_up(pipe, items)
    chosen = _engine(budget, route, out)
    engine = computed_by(
        chosen.engine, chosen.precision, chosen.device, pipe.model.runtime if pipe.model else None
    )
    contract = read_contract(route, engine) if route else None
    if route:
        for name in report_in:
            check_space(route, name)
    identity = identity_of(pipe, items, sampling, report_in, engine, budget.tries)
    settings = config.model_dump(mode="json", exclude_none=True)
    info = {
        "soundcert": _version(),
        "config": settings,
        # Where the config's relative paths start, for what works on the run later.
        "folder": str((base or Path()).absolute()),
        "contract": contract.to_dict() if contract else None,
        "statement": contract.statement() if contract else None,
        "clips": len(items),
        "labels": list(pipe.labels or ()),
        "engine": dataclasses.asdict(chosen),
        "report_in": list(report_in),
        "environment": environment(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    work = Work(config, base, chosen, tuple(report_in), trust, watchdog)
    try:
        clips = ((item.name, item.label) for item in items)
        with (
            RunDirectory(out, identity, info, resume=resume, clips=clips) as run,
            executor.start(work) as workers,
        ):
            shares = _shares(workers, run, items, sampling)
            todo = [item for item in items if item.name not in run.done]
            for record in workers.certify(todo, shares):
                run.append(record)
                if progress:
                    progress(Progress(len(run.done), len(items), record))
            summary = summarise(read_records(out))
            report = {
                "format": 1,
                "contract": info["contract"],
                "certify": settings["certify"],
                "data": data_facts(settings.get("data") or {}),
                "summary": summary,
            }
            write_json(out / "report.json", report)
    except ResourceError as error:
        raise RunError(f"{error}; what was recorded is kept, go on with --resume") from error
    return summary


def identity_of(
    pipe: Pipeline,
    items: Sequence[Item],
    sampling: Sampling,
    report_in: Sequence[str],
    engine: str,
    tries: int = 1,
) -> dict[str, str]:
    """Return the digests of config, model and data list, and what draws the noise: what a resumed run must share."""
    stages = _placeless(pipe.to_specs())
    assert pipe.model is not None
    drawn = {"noise": f"Gaussian, {NOISE}"} if type(pipe.noise) is GaussianNoise else {}
    return {
        **drawn,
        "config": _digest(
            {
                "pipeline": stages,
                "labels": list(pipe.labels or ()),
                "certify": {**sampling.to_dict(), **({"tries": tries} if tries > 1 else {})},
                "report_in": list(report_in),
                "engine": engine,
            }
        ),
        "model": pipe.model.digest or "a callable without digest",
        "data": list_digest(items),
    }


def list_digest(items: Sequence[Item]) -> str:
    """Return the digest of a data list: the names and labels of its clips, in order."""
    return _digest([[item.name, item.label] for item in items])


def _placeless(specs: Iterable[Mapping[str, Mapping[str, Any]]]) -> list[Any]:
    """Return stages with their fields, ensembles' members too: weights count by their digest, not by where they lie."""
    out = []
    for spec in specs:
        for name, fields in spec.items():
            kept = {k: v for k, v in fields.items() if k not in PLACES}
            if "ensemble" in kept:
                kept["ensemble"] = [_placeless(member) for member in kept["ensemble"]]
            out.append([name, kept])
    return out


def data_facts(data: dict[str, Any]) -> dict[str, Any]:
    part = split_words(data)
    return data if part is None else {**data, "split": part}


def _shares(
    workers: Workers, run: RunDirectory, items: Sequence[Item], sampling: Sampling
) -> dict[str, Share] | None:
    """Return how a budget is shared out, None without one: as the run's file says, or from all clips' pilots."""
    if not isinstance(sampling.policy, Budget):
        return None
    file = run.path / SHARES
    if not file.exists():
        started = time.perf_counter()
        pilots = list(workers.pilots(items))
        shares = share(pilots, sampling.policy, sampling, time.perf_counter() - started)
        write_json(file, {d: {"pilot": dataclasses.asdict(p), "n": n} for d, (p, n) in shares.items()})
    out = {}
    for digest, entry in read_json(file).items():
        try:
            pilot, n = Pilot(**entry["pilot"]), entry["n"]
            if not all(type(value) is int and value >= 0 for value in (pilot.top, pilot.count, pilot.n, n)):
                raise TypeError
        except (KeyError, TypeError):
            raise RunError(
                f"{file}: expected a clip's pilot and draws as whole numbers, got {str(entry)[:100]}; restore the file"
            ) from None
        out[digest] = (pilot, n)
    return out


def _engine(budget: CertifyConfig, route: Route | None, out: Path) -> Fastest:
    """Return what runs the model. A choice by measurement is made once: a resumed run keeps its own."""
    if budget.engine != "auto" or route is None:
        size = budget.micro_batch or default_batch(budget.device)
        return Fastest(budget.named_engine, budget.precision, size, {}, budget.device)
    if (out / RUN).exists():
        before = read_json(out / RUN)
        if "engine" in before:
            return engine_of(before, out / RUN)
    return fastest(route, budget.micro_batch)


def engine_of(info: Mapping[str, Any], file: Path) -> Fastest:
    """Return what ran the model of a run, as its run.json says. RunError where that is no engine of this version."""
    kinds = {f.name for f in dataclasses.fields(Fastest)}
    held = info.get("engine")
    if (
        not isinstance(held, dict)
        or not {"engine", "precision", "micro_batch", "rates"} <= held.keys() <= kinds
        or held["engine"] not in get_args(EngineName)
        or held["precision"] not in get_args(Precision)
        or type(held["micro_batch"]) is not int
        or held["micro_batch"] < 1
        or not _is_device(held.get("device", "cpu"))
    ):
        raise RunError(
            f"{file}: expected `engine` as certify writes it, got {str(held)[:100]}; restore the file"
        )
    return Fastest(**held)


def _is_device(name: object) -> bool:
    try:
        return isinstance(name, str) and torch.device(name) is not None
    except RuntimeError:
        return False


def check_labels(pipe: Pipeline, items: Sequence[Item]) -> None:
    """Raise ConfigError where a clip's label is not one of the model's."""
    if pipe.labels is None:
        return
    for item in items:
        if item.label is not None and item.label not in pipe.labels:
            raise ConfigError(
                f"clip {item.name} has label {item.label!r}, which the model does not name"
                f"{did_you_mean(item.label, pipe.labels)}: map it with `data: {{label_map: …}}` or choose `labels`"
            )


def check_made_up(pipe: Pipeline, items: Sequence[Item]) -> None:
    """Raise ConfigError where a model names no labels and clips have some: all certificates would be counted as wrong."""
    if pipe.labels is not None or (pipe.model is not None and pipe.model.network is not None):
        return  # the weights of a reference network name its labels
    named = [item for item in items if item.label is not None]
    if named and not any(str(item.label).isdecimal() for item in named):
        raise ConfigError(
            f"the model names no labels, so that its classes are called 0, 1, …, but clip {named[0].name} has label "
            f"{named[0].label!r}: give the model stage `labels: […]`, in the order of its outputs"
        )


def _preflight(pipe: Pipeline, items: Sequence[Item], budget: CertifyConfig) -> Route | None:
    """Bind the pipeline to the first usable clip, so that a model that does not fit fails before sampling.

    A model that soundcert did not make, or that another engine runs, is also run on it, before a run directory is begun.
    Where no clip fits and none is broken, it is the config that is wrong: ConfigError.
    """
    problem: ConfigError | None = None
    broken = False
    for item in items:
        try:
            clip = item.load()
            route = pipe.route(clip.space)
            v = route.noise.held(pipe.object_of(clip))
            Sampling.of(budget).at(route)
        except ModelError:
            raise
        except ConfigError as error:
            problem = problem or error
            continue
        except SoundcertError:
            broken = True
            continue
        plain = (budget.named_engine, budget.precision) == ("torch", "fp32")
        if pipe.model is not None and (pipe.model.loaded is not None or not plain):
            SmoothedClassifier(
                pipe,
                micro_batch=2,
                engine=budget.named_engine,
                precision=budget.precision,
                device=budget.device,
            ).base(route, v, budget.seed, clip.digest)
        return route
    if problem is not None and not broken:
        raise ConfigError(f"none of the {len(items)} clips fits the pipeline: {problem}")
    return None


def environment() -> dict[str, Any]:
    """Return what a reader needs to judge floating-point differences between machines."""
    import numpy
    import scipy

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "numba": _numba(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": cpu_count(),
        "noise": NOISE,
        "gpu": _gpu(),
    }


def _numba() -> str | None:
    """Return numba's version; None where it is not installed, so that noise and mel bands are numpy's and torch's."""
    try:
        return version("numba")
    except PackageNotFoundError:
        return None


def _gpu() -> str | None:
    """Return the cards that torch sees: what one draws depends on how many processors share the values."""
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return "; ".join(f"{c.name}, {c.multi_processor_count} multiprocessors" for c in cards) or None


def _version() -> str:
    from soundcert import __version__

    return __version__


def _digest(values: object) -> str:
    return blake2b(encode_json(values), digest_size=16).hexdigest()
