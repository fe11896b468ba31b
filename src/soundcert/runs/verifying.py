"""Check a run against itself, against its files, and against a few clips certified again.

What the run directory says of itself can be recomputed: bounds and radii from the counts, digests from config, model
and recordings. Counts cannot, short of drawing again; that is done for a random sample of clips. Nothing in a run
is signed: whoever can write it can write another one. What stands against that is the sample, and the digests, if
they were published.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from soundcert.audio import Clip
from soundcert.certify import Sampling, set_aside
from soundcert.classifier import computed_by
from soundcert.config import Config, validate
from soundcert.contract import read_contract
from soundcert.data import Item, load_items
from soundcert.errors import ConfigError, RunError, SoundcertError
from soundcert.pipeline import Pipeline, Route
from soundcert.runs.certify_run import check_labels, data_facts, engine_of, identity_of
from soundcert.runs.directory import RUN, read_json
from soundcert.runs.judging import SURPRISE, Judge, surprise
from soundcert.runs.reading import Run, open_run
from soundcert.runs.recomputing import SAME, alike, differences, recompute
from soundcert.runs.summary import copies, summarise

_SHOWN = 3

Step = Callable[[int, int, str], None]


@dataclass
class Check:
    """One thing that was checked: how many times, and what disagreed."""

    name: str
    checked: int = 0
    disagreements: list[str] = field(default_factory=list)
    note: str = ""
    unread: str = ""  # why it could not be checked

    @property
    def agrees(self) -> bool:
        return not self.disagreements and not self.unread

    def see(self, *disagreements: str) -> None:
        self.checked += 1
        self.disagreements += disagreements


@dataclass
class Verification:
    """What `verify_run` found. sampled: for each clip that was certified again, how its counts compare."""

    run: Path
    checks: list[Check]
    sampled: list[dict[str, Any]]
    sample_seed: int | None

    @property
    def agrees(self) -> bool:
        """Whether all was checked that was asked for, and nothing disagrees."""
        return all(check.agrees for check in self.checks)

    @property
    def contradicted(self) -> bool:
        """Whether anything disagrees; a run may be neither, where its model or data could not be read."""
        return any(check.disagreements for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "agrees": self.agrees,
            "contradicted": self.contradicted,
            "checks": [{**asdict(c), "agrees": c.agrees} for c in self.checks],
            "certified_again": self.sampled,
            "sample_seed": self.sample_seed,
        }


def verify_run(
    path: Path,
    *,
    sample: int = 5,
    sample_seed: int | None = None,
    records_only: bool = False,
    base: Path | None = None,
    trust: bool = False,
    progress: Step | None = None,
) -> Verification:
    """Verify a run directory; nothing in it is changed.

    sample: clips to certify again, drawn with `sample_seed` (fresh entropy by default: whoever made the run must not
    know which). records_only: check nothing but what the directory itself holds. base: where the config's relative
    paths start, by default where the run was made.
    """
    if sample < 0:
        raise ConfigError(f"sample must be 0 or more clips, got {sample}")
    run = open_run(path)
    if "config" not in run.info or "identity" not in run.info:
        raise RunError(f"{path} is not a run of `soundcert certify`: there is nothing to verify")
    config = validate(Config, run.info["config"], f"{path}/run.json, config")
    sampling = Sampling.of(config.certify)
    checks = [_whole(run), _bounds(run, sampling), _summary(run)]
    if records_only:
        return Verification(path, checks, [], None)
    base = base or Path(run.info.get("folder", "."))
    files = Check("model and data")
    checks.append(files)
    try:
        pipe = Pipeline.from_config(config, base, trust=trust)
        items = load_items(config.data, base) if config.data else []
        check_labels(pipe, items)
        files.see()
    except SoundcertError as error:
        files.unread = str(error)
        return Verification(path, checks, [], None)
    files.name = "config, model and data list"
    files.see(*_digests(run, pipe, items, sampling, config.certify.tries))
    checks.append(_list(run, items))
    recordings = Check("recordings")
    checks.append(recordings)
    usable = []
    places = {item.name: item for item in items}
    judge = Judge(run, pipe, sampling)
    for number, record in enumerate(run.records, start=1):
        clip = _recording(pipe, places.get(record["clip"]), record, sampling, judge, recordings)
        if clip is not None and record["status"] != "failed":
            usable.append(record)
        if progress:
            progress(number, len(run.records), record["clip"])
    seed = sample_seed if sample_seed is not None else secrets.randbits(32)
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.choice(len(usable), min(sample, len(usable)), replace=False).tolist())
    again = Check("certified again")
    checks.append(again)
    sampled = []
    if chosen:
        for number, index in enumerate(chosen, start=1):
            found = judge.again(usable[index], places[usable[index]["clip"]])
            sampled.append(found)
            again.see(*found["disagreements"])
            if progress:
                progress(number, len(chosen), found["clip"])
        kinds = [f["counts"] for f in sampled]
        again.note = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds))
        if not judge.same_noise:
            again.note += "; by other noise than the run's, which shows gross differences alone"
            again.disagreements += _together(sampled)
    return Verification(path, checks, sampled, seed)


def _together(sampled: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say that the counts of several clips, each of them possible, are too high together."""
    p = surprise([(s["recorded"], s["again"]) for s in sampled if s["counts"] != "contradicted"])
    if p > SURPRISE:
        return []
    return [
        f"the recorded counts are together higher than those drawn again, by chance with probability {p:.1g}"
    ]


# --- what the directory says of itself -------------------------------------------------------------


def _whole(run: Run) -> Check:
    """Every line readable, every clip once, as many as the run was given."""
    out = Check("records")
    names = [r["clip"] for r in run.records]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    out.see(*run.warnings, *(f"{name} is recorded more than once" for name in twice))
    out.checked = len(names)
    return out


def _bounds(run: Run, sampling: Sampling) -> Check:
    out = Check("bounds and radii, from the counts")
    sigma = run.contract.get("sigma")
    for record in run.usable:
        out.see(*(f"{record['clip']}: {text}" for text in recompute(record, sampling, sigma)))
    return out


def _summary(run: Run) -> Check:
    out = Check("report.json")
    file = run.path / "report.json"
    if not file.exists():
        out.note = "there is none yet"
        return out
    told = read_json(file)
    config = run.info["config"]
    out.see(
        *differences(told.get("contract"), run.info.get("contract"), "contract"),
        *differences(told.get("certify"), config.get("certify"), "certify"),
        *differences(told.get("data"), data_facts(config.get("data") or {}), "data"),
    )
    summary = told.get("summary")
    # A figure that an earlier version did not give says nothing false.
    want = {k: v for k, v in summarise(run.records).items() if not isinstance(summary, dict) or k in summary}
    if isinstance(summary, dict) and "copies" not in summary and copies(run.usable):
        # Earlier versions took copies for clips of their own, and their intervals are a little narrower.
        want = {k: v for k, v in want.items() if "_95" not in k}
        summary = {k: v for k, v in summary.items() if "_95" not in k}
        out.note = "intervals not compared: some clips are copies, which an earlier version counted as others"
    out.see(*differences(summary, want, "summary"))
    return out


# --- against the files -----------------------------------------------------------------------------


def _digests(run: Run, pipe: Pipeline, items: Sequence[Item], sampling: Sampling, tries: int) -> list[str]:
    """Return which parts of the run's identity are not those of its config, model and data list now."""
    chosen = engine_of(run.info, run.path / RUN)
    runtime = pipe.model.runtime if pipe.model else None
    engine = computed_by(chosen.engine, chosen.precision, chosen.device, runtime)
    # Runs of earlier versions did not keep the spaces asked for; their records name them.
    spaces = run.info.get("report_in")
    if spaces is None:
        spaces = list(dict.fromkeys(name for r in run.records for name in r.get("spaces", ())))
    now = identity_of(pipe, items, sampling, spaces, engine, tries)
    told = run.info["identity"]
    out = [
        f"{key}: the run says {told.get(key)}, it is {value}"
        for key, value in now.items()
        if key != "noise" and told.get(key) != value  # by it the draws are judged
    ]
    out += differences(run.info.get("labels"), list(pipe.labels or ()), "labels")
    route = next(_routes(pipe, items, sampling), None)
    if route is not None:
        contract = read_contract(route, engine)
        derived = contract.to_dict()
        for later in ("trained_otherwise", "channels"):
            if later not in run.contract:  # runs of earlier versions do not say
                derived.pop(later, None)
        out += differences(run.info.get("contract"), derived, "contract")
        if run.info.get("statement") != contract.statement():
            out.append("the statement is not the one that this version derives from the pipeline")
    return out


def _routes(pipe: Pipeline, items: Sequence[Item], sampling: Sampling) -> Iterator[Route]:
    for item in items:
        try:
            clip = item.load()
            route = pipe.route(clip.space)
            _check_usable(pipe, clip, route, sampling)
        except SoundcertError:
            continue
        yield route


def _check_usable(pipe: Pipeline, clip: Clip, route: Route, sampling: Sampling) -> None:
    """Raise SoundcertError where a clip can be read and still cannot be certified."""
    route.noise.held(pipe.object_of(clip))
    sampling.at(route)


def _list(run: Run, items: Sequence[Item]) -> Check:
    """The clips and labels of the data list, in its order."""
    out = Check("clips and labels")
    recorded = {r["clip"]: r for r in run.records}
    for item in items:
        record = recorded.pop(item.name, None)
        if record is None:
            out.see(f"{item.name} is in the data list and has no record")
        elif record.get("truth") != item.label:
            out.see(f"{item.name}: label {record.get('truth')!r} recorded, {item.label!r} in the data list")
        elif record.get("recording") != item.recording:
            out.see(
                f"{item.name}: recording {record.get('recording')!r} recorded, {item.recording!r} in the data list"
            )
        else:
            out.see()
    for name in recorded:
        out.see(f"{name} is recorded and not in the data list")
    return out


def _recording(
    pipe: Pipeline,
    item: Item | None,
    record: Mapping[str, Any],
    sampling: Sampling,
    judge: Judge,
    check: Check,
) -> Clip | None:
    """Load a record's clip and compare its digest, and all that follows from its counts and its samples."""
    name = record["clip"]
    if item is None:
        return None
    try:
        clip = item.load()
        route = pipe.route(clip.space)
        if record["status"] == "failed":
            _check_usable(pipe, clip, route, sampling)
    except SoundcertError as error:
        if record["status"] == "failed":
            check.see()
        else:
            check.see(f"{name} cannot be read any more: {error}")
        return None
    if record["status"] == "failed":
        check.see(f"{name} is recorded as failed ({record['reason']}), but it can be used")
        return None
    found = []
    if clip.digest != record.get("digest"):
        found.append(f"{name}: the record is about {record.get('digest')}, the file is {clip.digest}")
    want = set_aside(route, sampling.n, sampling.alpha)
    if not alike(record.get("set_aside", 0.0), want, SAME):
        found.append(f"{name}: set_aside is {record.get('set_aside')!r}, it is {want!r}")
    check.see(*(found or judge.follows(record, clip, route)))
    return None if found else clip


def lines(found: Verification) -> Iterator[str]:
    """Yield the verification as people read it."""
    width = max(len(c.name) for c in found.checks)
    for check in found.checks:
        count = f"{check.checked:,}" if check.checked else "-"
        verdict = "DISAGREE" if check.disagreements else "not checked" if check.unread else "agree"
        yield f"{check.name:{width}}  {count:>7}  {verdict}{f'  ({check.note})' if check.note else ''}"
        if check.unread:
            yield f"{'':{width}}           {check.unread}"
        for text in check.disagreements[:_SHOWN]:
            yield f"{'':{width}}           {text}"
        if len(check.disagreements) > _SHOWN:
            yield f"{'':{width}}           and {len(check.disagreements) - _SHOWN} more (--json lists all)"
