"""What each record of a run certifies in the space that is compared: recorded, or carried there now.

Conventions
-----------
A `Level` has the radius in the space (infinite: without limit; 0: nothing proven) and, for waveforms, the SNR
of a perturbation at the radius (None where there is no radius). Records are told apart by the digest of the
recording and never by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundcert.bounds import certified_radius, monte_carlo_ceiling
from soundcert.certify import level_of
from soundcert.diagnostics import snr_db
from soundcert.errors import ConfigError, InputError, RunError, TransportError
from soundcert.pipeline import Pipeline
from soundcert.runs.reading import Run
from soundcert.runs.recordings import recordings_of
from soundcert.stages import Stage
from soundcert.stages.base import stage_class
from soundcert.transport import carry, check_space

Record = Mapping[str, Any]
Tick = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Level:
    """How far one clip is certified. See the module's conventions."""

    radius: float
    snr_db: float | None


@dataclass(frozen=True)
class Levels:
    """The levels of one run by digest, and what is known of the space.

    source: where they come from, in words. unproven: how many clips have no bound there, and the first
    reason. space: the stages above it, to tell spaces of one name apart. samples: how long the recordings
    are, where they were read.
    """

    by_digest: Mapping[str, Level]
    source: str
    waveform: bool
    unit: str
    unproven: int = 0
    reason: str = ""
    space: tuple[str, ...] = ()
    samples: frozenset[int] = frozenset()


def in_object(run: Run, records: Mapping[str, Record]) -> Levels:
    """Return the raw radii, in the certified object."""
    out = {}
    for digest, record in records.items():
        level = None
        if run.about_waveform and record["radius"] > 0 and record["object_norm"] > 0:
            level = record["views"].get("snr_db", snr_db(record["object_norm"], record["radius"]))
            level = -math.inf if level is None else level
        out[digest] = Level(record["radius"], level)
    return Levels(out, "raw radii", run.about_waveform, str(run.contract.get("unit") or ""))


def recorded(run: Run, records: Mapping[str, Record], space: str) -> Levels | None:
    """Return the radii that the run's records hold for the file, None where one of them lacks it."""
    if space != "file":
        return None
    out = {}
    for digest, record in records.items():
        views, there = record.get("views") or {}, (record.get("spaces") or {}).get("file") or {}
        if there.get("proven"):
            radius = math.inf if there["radius"] is None else there["radius"]
            level = snr_db(there["norm"], radius) if radius > 0 and there["norm"] > 0 else None
            out[digest] = Level(radius, level)
        elif "file_radius" in views:
            radius = math.inf if views["file_radius"] is None else views["file_radius"]
            level = views.get("file_snr_db", math.inf)  # silence has none
            level = None if level == math.inf else -math.inf if level is None else level
            out[digest] = Level(radius, level)
        else:
            return None
    version = run.info.get("soundcert") or "an unknown version"
    return Levels(out, f"as recorded by soundcert {version}", True, "full scale")


def carried(
    run: Run, records: Mapping[str, Record], space: str, base: Path | None, tick: Tick | None
) -> Levels:
    """Carry each record's radius to a space now, from the recordings themselves.

    base: where the config's relative paths start, if the run did not record it or the data have moved. Raises
    RunError where a recording cannot be had, or is not the one that was certified.
    """
    held = recordings_of(run.path, run.info, otherwise=base)
    specs = held.config.pipeline
    above = Pipeline.from_specs(specs[: noise_index(specs) + 1], held.folder)
    out: dict[str, Level] = {}
    reasons: list[str] = []
    waveform, unit = space == "file", "full scale"
    stages: tuple[str, ...] = ()
    samples: set[int] = set()
    for number, (digest, record) in enumerate(records.items(), start=1):
        name = record["clip"]
        try:
            clip = held.clip(record)
        except InputError as error:
            raise RunError(f"{run.path}: {error}; restore the data") from None
        samples.add(clip.samples.shape[1])
        route = above.route(clip.space)
        try:
            check_space(route, space)
        except TransportError as error:
            raise ConfigError(f"{run.path}: {error}") from None
        if space != "file":
            index = [s.name for s in route.spaces[: route.noise_index + 1]].index(space)
            there = route.spaces[index]
            waveform, unit = there.kind == "waveform", there.unit
            stages = tuple(stage_key(s) for s in above.stages[:index])
        try:
            points = above.front_trace(clip)
            found = carry(route, points, record["radius"], space, exact=clip.exact, pcm_step=clip.pcm_step)
        except (TransportError, InputError) as error:
            reasons.append(str(error))
            out[digest] = Level(0.0, None)
        else:
            level = found.snr_db if found.radius > 0 and found.norm > 0 and waveform else None
            out[digest] = Level(found.radius, level)
        if tick:
            tick(number, len(records), name)
    return Levels(
        out, "carried now, by this version", waveform, unit,
        len(reasons), reasons[0] if reasons else "", stages, frozenset(samples),
    )  # fmt: skip


def at_alpha(record: Record, alpha: float) -> Record:
    """Return the record as it would stand at another α: its counts say all that is needed.

    The bounds are at α less what the record sets aside for the error of lattice noise, which depends on n and the
    noise and not on α (`certify.set_aside`). Raises RunError for a record whose n was not fixed beforehand, since its
    counts allow no other bound, and where nothing of α would be left.
    """
    if record["status"] == "failed" or record["alpha"] == alpha:
        return record
    if record.get("policy", "fixed") != "fixed":
        raise RunError(f"n was chosen while sampling (policy {record['policy']})")
    bound, sigma, n = record.get("bound", "one-sided"), record["sigma"], record["n"]
    aside = record.get("set_aside", 0.0)
    if aside >= alpha:
        raise RunError(f"its lattice noise's own error takes {aside:.3g} of it, which leaves nothing")
    level = level_of(alpha, aside)
    radius = certified_radius(
        record["count"], n, level, sigma, bound=bound, max_other=record.get("max_other")
    )
    ceiling = monte_carlo_ceiling(sigma, n, level, bound=bound)
    kept = {k: v for k, v in record.items() if k not in ("label", "radius", "views", "spaces")}
    kept |= {"alpha": alpha, "ceiling": ceiling, "saturated": radius is not None and radius >= ceiling}
    if radius is None:
        return {**kept, "status": "abstained"}
    return {**kept, "status": "certified", "label": record["candidate"], "radius": radius, "views": {}}


def noise_index(specs: Sequence[Any]) -> int:
    """Return where the noise stands in a config's list of stages."""
    for index, spec in enumerate(specs):
        name = spec if isinstance(spec, str) else next(iter(spec))
        if stage_class(str(name)).family == "noise":
            return index
    raise ConfigError("the pipeline has no noise stage")


def stage_key(stage: Stage) -> str:
    """Return all that a stage was given, for telling stages apart (a description shortens long lists)."""
    import dataclasses

    fields = {f.name: getattr(stage, f.name) for f in dataclasses.fields(stage) if f.repr}  # type: ignore[arg-type]
    return f"{stage.name}{fields!r}"
