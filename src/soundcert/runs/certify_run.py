"""Certify a list of clips into a run directory."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from soundcert.audio import Clip, load_clip
from soundcert.certify import SmoothedClassifier, check_budget, json_number
from soundcert.config import CertifyConfig, Config
from soundcert.contract import read_contract
from soundcert.data import Item
from soundcert.errors import ConfigError, InputError, ModelError, SoundcertError, did_you_mean
from soundcert.pipeline import Pipeline, Route
from soundcert.runs.directory import RunDirectory, write_json
from soundcert.runs.summary import summarise
from soundcert.sampling import cpu_count
from soundcert.transport import check_space

# Clips whose whole budget is smaller than this share batches; larger ones are certified one by one, so
# that each is on the disk as soon as it is done.
_ROWS_A_GROUP = 512


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
    check_budget(budget.n0, budget.n, budget.alpha, budget.bound)
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
                "certify": _sampling(budget),
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
        todo = [item for item in items if item.name not in run.done]
        finished = len(items) - len(todo)
        for record in _certify_all(classifier, todo, budget, report_in):
            run.append(record)
            finished += 1
            if progress:
                progress(Progress(finished, len(items), record))
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


def _certify_all(
    classifier: SmoothedClassifier, items: Sequence[Item], budget: CertifyConfig, report_in: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for group in _groups(classifier.pipe, items, max(1, _ROWS_A_GROUP // budget.n)):
        failed = {item.name: reason for item, _, reason in group if reason}
        usable = [(item, clip) for item, clip, _ in group if clip is not None]
        started = time.perf_counter()
        done = {}
        if usable:
            certificates = classifier.certify_many([c for _, c in usable], **_sampling(budget))
            done = {item.name: cert for (item, _), cert in zip(usable, certificates, strict=True)}
        seconds = (time.perf_counter() - started) / max(1, len(usable))
        for item, _, _ in group:
            if item.name in failed:
                record: dict[str, Any] = {"clip": item.name, "status": "failed", "reason": failed[item.name]}
            else:
                cert = done[item.name]
                record = {**cert.to_dict(), "seconds": round(seconds, 4)}
                if cert.status == "certified" and report_in:
                    record["spaces"] = {name: _in_space(cert, name) for name in report_in}
            if item.label is not None:
                record["truth"] = item.label
            yield record


def _in_space(cert: Any, name: str) -> dict[str, Any]:
    try:
        there = cert.in_space(name)
    except SoundcertError as error:
        return {"proven": False, "reason": str(error)}
    chain = [{"stage": s.stage, "space": s.space, "radius": json_number(s.radius)} for s in there.chain]
    return {"proven": True, "radius": json_number(there.radius), "norm": there.norm, "chain": chain}


def _sampling(budget: CertifyConfig) -> dict[str, Any]:
    return {"n0": budget.n0, "n": budget.n, "alpha": budget.alpha, "seed": budget.seed, "bound": budget.bound}


_Loaded = tuple[Item, Clip | None, str]


def _groups(pipe: Pipeline, items: Sequence[Item], size: int) -> Iterator[list[_Loaded]]:
    """Yield runs of clips whose certified objects have one shape, at most `size` usable ones each."""
    group: list[_Loaded] = []
    shape = None
    for item in items:
        clip, reason, space = None, "", None
        try:
            clip = load_clip(item.path, name=item.name)
            space = pipe.route(clip.space).object
            pipe.object_of(clip)
        except ModelError:
            raise
        except (InputError, ConfigError) as error:
            clip, reason = None, str(error)
        if group and (
            sum(c is not None for _, c, _ in group) >= size or (space and shape and space != shape)
        ):
            yield group
            group, shape = [], None
        group.append((item, clip, reason))
        shape = space or shape
    if group:
        yield group


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
