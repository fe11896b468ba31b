"""Certify a list of clips into a run directory."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from soundcert.audio import Clip, load_clip
from soundcert.certificate import Certificate, json_number
from soundcert.certify import Sampling, SmoothedClassifier, share
from soundcert.config import Budget, Config
from soundcert.contract import read_contract
from soundcert.data import Item
from soundcert.errors import ConfigError, InputError, ModelError, SoundcertError, did_you_mean
from soundcert.pipeline import Pipeline, Route
from soundcert.policies import Pilot
from soundcert.runs.directory import RunDirectory, read_json, write_json
from soundcert.runs.summary import summarise
from soundcert.sampling import cpu_count
from soundcert.transport import check_space

SHARES = "shares.json"


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
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Certify every clip of the list and return the run's summary.

    A clip that cannot be used is recorded with its reason and the run goes on. Everything that makes
    the whole run impossible (config, model, labels, budget) is raised before the first draw.
    """
    budget = config.certify
    pipe = Pipeline.from_config(config, base)
    sampling = Sampling.of(budget)
    sampling.check(float(pipe.noise.sigma))
    check_labels(pipe, items)
    classifier = SmoothedClassifier(pipe, micro_batch=budget.micro_batch)
    route = _preflight(pipe, items)
    contract = read_contract(route) if route else None
    if route:
        for name in report_in:
            check_space(route, name)
    assert pipe.model is not None
    # The weights count by their digest and not by where they lie.
    stages = [
        [name, {k: v for k, v in fields.items() if k != "weights"}]
        for s in pipe.to_specs()
        for name, fields in s.items()
    ]
    identity = {
        "config": _digest(
            {
                "pipeline": stages,
                "labels": list(pipe.labels or ()),
                "certify": sampling.to_dict(),
                "report_in": list(report_in),
            }
        ),
        "model": pipe.model.digest or "a callable without digest",
        "data": _digest([[item.name, item.label] for item in items]),
    }
    info = {
        "soundcert": _version(),
        "config": config.model_dump(mode="json", exclude_none=True),
        "contract": contract.to_dict() if contract else None,
        "statement": contract.statement() if contract else None,
        "clips": len(items),
        "labels": list(pipe.labels or ()),
        "environment": environment(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with RunDirectory(out, identity, info, resume=resume) as run:
        before = time.perf_counter()
        for item, result in _certify_all(classifier, run, items, sampling):
            now = time.perf_counter()
            record = _record(item, result, now - before, report_in)
            before = now
            run.append(record)
            if progress:
                progress(Progress(len(run.done), len(items), record))
        summary = summarise(run.done.values())
        write_json(out / "report.json", {"format": 1, "contract": info["contract"], "summary": summary})
    return summary


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


def _preflight(pipe: Pipeline, items: Sequence[Item]) -> Route | None:
    """Bind the pipeline to the first usable clip, so that a model that does not fit fails before sampling."""
    for item in items:
        try:
            clip = load_clip(item.path, name=item.name)
            route = pipe.route(clip.space)
            pipe.object_of(clip)
        except ModelError:
            raise
        except SoundcertError:
            continue
        return route
    return None


class _Reader:
    """Reads the clips of a list as they are asked for; what cannot be used is kept with its reason."""

    def __init__(self, pipe: Pipeline, items: Sequence[Item]) -> None:
        self.pipe, self.items = pipe, items
        self.failed: dict[str, str] = {}

    def __iter__(self) -> Iterator[Clip]:
        for item in self.items:
            try:
                clip = load_clip(item.path, name=item.name)
                self.pipe.object_of(clip)
            except ModelError:
                raise
            except (InputError, ConfigError) as error:
                self.failed[item.name] = str(error)
                continue
            yield clip


def _certify_all(
    classifier: SmoothedClassifier, run: RunDirectory, items: Sequence[Item], sampling: Sampling
) -> Iterator[tuple[Item, Certificate | str]]:
    """Yield, in the order of the list, each clip's certificate, or why it has none."""
    shares = None
    todo = [item for item in items if item.name not in run.done]
    if isinstance(sampling.policy, Budget):
        shares = _shares(classifier, run, items, sampling)
    reader = _Reader(classifier.pipe, todo)
    rest = iter(todo)
    for certificate in classifier.certify_stream(reader, sampling, shares):
        for item in rest:
            if item.name == certificate.clip:
                yield item, certificate
                break
            yield item, reader.failed[item.name]
    for item in rest:
        yield item, reader.failed[item.name]


def _shares(
    classifier: SmoothedClassifier, run: RunDirectory, items: Sequence[Item], sampling: Sampling
) -> dict[str, tuple[Pilot, int]]:
    """Return how a budget is shared out: as the run's file says, or from pilots of all its clips."""
    file = run.path / SHARES
    if not file.exists():
        assert isinstance(sampling.policy, Budget)
        started = time.perf_counter()
        digests: list[str] = []

        def noted(clips: Iterable[Clip]) -> Iterator[Clip]:
            for clip in clips:
                digests.append(clip.digest)
                yield clip

        reader = noted(_Reader(classifier.pipe, items))
        pilots = dict(enumerate(classifier.pilot_stream(reader, sampling)))
        shares = share(
            {digests[i]: pilot for i, pilot in pilots.items()},
            sampling.policy,
            sampling,
            time.perf_counter() - started,
        )
        write_json(file, {d: {"pilot": dataclasses.asdict(p), "n": n} for d, (p, n) in shares.items()})
    return {d: (Pilot(**entry["pilot"]), entry["n"]) for d, entry in read_json(file).items()}


def _record(
    item: Item, result: Certificate | str, seconds: float, report_in: Sequence[str]
) -> dict[str, Any]:
    if isinstance(result, str):
        record: dict[str, Any] = {"clip": item.name, "status": "failed", "reason": result}
    else:
        record = {**result.to_dict(), "seconds": round(seconds, 4)}
        if result.status == "certified" and report_in:
            record["spaces"] = {name: _in_space(result, name) for name in report_in}
    if item.label is not None:
        record["truth"] = item.label
    return record


def _in_space(cert: Certificate, name: str) -> dict[str, Any]:
    try:
        there = cert.in_space(name)
    except SoundcertError as error:
        return {"proven": False, "reason": str(error)}
    chain = [{"stage": s.stage, "space": s.space, "radius": json_number(s.radius)} for s in there.chain]
    return {"proven": True, "radius": json_number(there.radius), "norm": there.norm, "chain": chain}


def environment() -> dict[str, Any]:
    """Return what a reader needs to judge floating-point differences between machines."""
    import numpy
    import scipy

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": cpu_count(),
    }


def _version() -> str:
    from soundcert import __version__

    return __version__


def _digest(values: object) -> str:
    return blake2b(
        json.dumps(values, sort_keys=True, ensure_ascii=False).encode(), digest_size=16
    ).hexdigest()
