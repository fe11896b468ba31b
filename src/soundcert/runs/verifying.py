"""Check a run against itself, against its files, and against a few clips certified again.

What the run directory says of itself can be recomputed: bounds and radii from the counts, digests from config, model
and recordings. Counts cannot, short of drawing again; that is done for a random sample of clips. Nothing in a run
is signed: whoever can write it can write another one. What stands against that is the sample, and the digests, if
they were published.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from soundcert.audio import Clip
from soundcert.certify import Sampling, SmoothedClassifier, bounds_of, conclude, level_of, set_aside
from soundcert.classifier import computed_by
from soundcert.config import Budget, Config, Decide, Estimate, validate
from soundcert.contract import read_contract
from soundcert.data import Item, load_items
from soundcert.diagnostics import norm_ratio_db
from soundcert.errors import ConfigError, RunError, SoundcertError
from soundcert.pipeline import Pipeline
from soundcert.policies import Pilot, Sampled, needed, pilot_plan, rules
from soundcert.randomness import Purpose
from soundcert.runs.certify_run import SHARES, check_labels, engine_of, environment, identity_of
from soundcert.runs.directory import RUN, read_json
from soundcert.runs.reading import Run, open_run
from soundcert.runs.replay import Replay, draws, replay
from soundcert.runs.summary import summarise
from soundcert.runs.work import in_space
from soundcert.sampling import Task

# Numbers are recomputed by the same formulas; another version of scipy may round the last digits otherwise.
_SAME = 1e-9
# What depends on the float64 front of a clip: norms, transported radii.
_FRONT = 1e-6
#: Two counts under different noise contradict each other below this p-value.
SURPRISE = 1e-6
_SHOWN = 3

Step = Callable[[int, int, str], None]


@dataclass
class Check:
    """One thing that was checked: how many times, and what disagreed."""

    name: str
    checked: int = 0
    disagreements: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def agrees(self) -> bool:
        return not self.disagreements

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
        return all(check.agrees for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "agrees": self.agrees,
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
        files.see(f"cannot be read: {error}")
        return Verification(path, checks, [], None)
    files.name = "config, model and data list"
    files.see(*_digests(run, pipe, items, sampling))
    checks.append(_list(run, items))
    recordings = Check("recordings")
    checks.append(recordings)
    usable = []
    places = {item.name: item for item in items}
    for number, record in enumerate(run.records, start=1):
        clip = _recording(pipe, places.get(record["clip"]), record, sampling, recordings)
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
        judge = _Judge(run, pipe, sampling)
        for number, index in enumerate(chosen, start=1):
            found = judge.again(usable[index], places[usable[index]["clip"]])
            sampled.append(found)
            again.see(*found["disagreements"])
            if progress:
                progress(number, len(chosen), found["clip"])
        kinds = [f["counts"] for f in sampled]
        again.note = ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds))
    return Verification(path, checks, sampled, seed)


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


def recompute(record: Mapping[str, Any], sampling: Sampling, sigma: float | None) -> Iterator[str]:
    """Yield what a record's numbers say that does not follow from its counts and the run's configuration."""
    given = {"alpha": sampling.alpha, "seed": sampling.seed, "bound": sampling.bound, "sigma": sigma,
             "policy": sampling.policy_name}  # fmt: skip
    for key, value in given.items():
        if value is not None and record.get(key, "fixed" if key == "policy" else None) != value:
            yield f"{key} is {record.get(key)!r}, the run's {value!r}"
            return
    n, n0, count = record["n"], record["n0"], record["count"]
    fixed = sampling.policy is None
    if not 0 <= count <= n or n > sampling.n or (fixed and (n, n0) != (sampling.n, sampling.n0)):
        yield f"{count} of n = {n} draws, after {n0}: the run's n is {sampling.n}, n0 {sampling.n0}"
        return
    radii = tuple(record.get("radii", ()))
    radius = record.get("radius")
    aside = record.get("set_aside", 0.0)
    if not 0 <= aside < sampling.alpha:
        yield f"set_aside is {aside!r}, alpha {sampling.alpha!r}"
        return
    level = replace(sampling, alpha=level_of(sampling.alpha, aside))
    accepted = 0
    if sampling.policy_name == "decide":
        if radii != level.policy.radii or record.get("cap") != sampling.n:  # type: ignore[union-attr]
            yield f"radii {radii} and cap {record.get('cap')}: not those of the run"
            return
        if radius is not None and radius not in radii:
            yield f"radius {radius!r} is not among those that were asked about"
            return
        accepted = radii.index(radius) + 1 if radius is not None else 0
        yield from _impossible(record, level, accepted)
    other = record.get("max_other", 0)
    if not 0 <= other <= n - count:
        yield f"max_other is {other!r}, of {n - count} other draws"
        return
    counts = np.array([count, other], dtype=np.int64)
    want = bounds_of(Sampled(0, counts, n, n0, accepted), level, record["sigma"])
    want["radius"] = want.pop("_radius")
    want["saturated"] = want["radius"] is not None and want["radius"] >= want["ceiling"]
    if radius:
        want["r_over_sigma"] = radius / record["sigma"]
        for view in ("snr_db", "norm_ratio_db"):
            if view in record["views"]:
                want[view] = norm_ratio_db(record["object_norm"], radius)
    have = {**record.get("views", {}), **record}
    for key in (
        "status",
        "p_lower",
        "p_upper",
        "radius",
        "ceiling",
        "saturated",
        "r_over_sigma",
        "snr_db",
        "norm_ratio_db",
    ):
        if key in want and not _alike(have.get(key), want[key], _SAME):
            yield f"{key} is {have.get(key)!r}, the counts give {want[key]!r}"
    if record["status"] == "certified" and record["label"] != record["candidate"]:
        yield f"label is {record['label']!r}, the class that was counted {record['candidate']!r}"


def _impossible(record: Mapping[str, Any], sampling: Sampling, accepted: int) -> Iterator[str]:
    """Yield a radius that no order of these draws could have accepted: too many failures at every look."""
    policy = sampling.policy
    failures, n = record["n"] - record["count"], record["n"]
    tests = rules(policy, record["sigma"], sampling.n, sampling.alpha)  # type: ignore[arg-type]
    for radius, test in list(zip(record["radii"], tests, strict=True))[:accepted]:
        looks = test.looks[test.looks <= n]
        fewest = np.maximum(0, failures - (n - looks))  # failures that the draws after a look cannot hold
        if not bool((test.accept[: len(looks)] >= fewest).any()):
            yield f"radius {radius:g} cannot have been accepted with {failures} failures in {n} draws"


def _summary(run: Run) -> Check:
    out = Check("report.json")
    file = run.path / "report.json"
    if not file.exists():
        out.note = "there is none yet"
        return out
    told = read_json(file)
    out.see(*_differences(told.get("contract"), run.info.get("contract"), "contract"))
    summary = told.get("summary")
    # A figure that an earlier version did not give says nothing false.
    want = {k: v for k, v in summarise(run.records).items() if not isinstance(summary, dict) or k in summary}
    out.see(*_differences(summary, want, "summary"))
    return out


def _differences(have: Any, want: Any, place: str, tolerance: float = _SAME) -> list[str]:
    """Return where two JSON values differ, numbers by more than a share of `tolerance`."""
    if isinstance(have, Mapping) and isinstance(want, Mapping):
        keys = dict.fromkeys([*have, *want])
        return [
            d
            for k in keys
            for d in _differences(have.get(k), want.get(k), f"{place}.{k}".lstrip("."), tolerance)
        ]
    if isinstance(have, list) and isinstance(want, list | tuple) and len(have) == len(want):
        return [
            d
            for i, (a, b) in enumerate(zip(have, want, strict=True))
            for d in _differences(a, b, f"{place}[{i}]", tolerance)
        ]
    if _alike(have, list(want) if isinstance(want, tuple) else want, tolerance):
        return []
    return [f"{place} is {have!r}, recomputed {want!r}"]


def _alike(have: Any, want: Any, tolerance: float) -> bool:
    numbers = [x for x in (have, want) if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) == 2:
        return math.isclose(have, want, rel_tol=tolerance, abs_tol=1e-300)
    return type(have) is type(want) and bool(have == want)


# --- against the files -----------------------------------------------------------------------------


def _digests(run: Run, pipe: Pipeline, items: Sequence[Item], sampling: Sampling) -> list[str]:
    """Return which parts of the run's identity are not those of its config, model and data list now."""
    chosen = engine_of(run.info, run.path / RUN)
    runtime = pipe.model.runtime if pipe.model else None
    engine = computed_by(chosen.engine, chosen.precision, chosen.device, runtime)
    # Runs of earlier versions did not keep the spaces asked for; their records name them.
    spaces = run.info.get("report_in")
    if spaces is None:
        spaces = list(dict.fromkeys(name for r in run.records for name in r.get("spaces", ())))
    now = identity_of(pipe, items, sampling, spaces, engine)
    told = run.info["identity"]
    out = [
        f"{key}: the run says {told.get(key)}, it is {value}"
        for key, value in now.items()
        if told.get(key) != value
    ]
    route = next((r for r in _routes(pipe, items)), None)
    if route is not None:
        contract = read_contract(route, engine)
        out += _differences(run.info.get("contract"), contract.to_dict(), "contract")
        if run.info.get("statement") != contract.statement():
            out.append("the statement is not the one that this version derives from the pipeline")
    return out


def _routes(pipe: Pipeline, items: Sequence[Item]) -> Iterator[Any]:
    for item in items:
        try:
            yield pipe.route(item.load().space)
        except SoundcertError:
            continue


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
    pipe: Pipeline, item: Item | None, record: Mapping[str, Any], sampling: Sampling, check: Check
) -> Clip | None:
    """Load a record's clip and compare its digest and what its length takes off alpha."""
    name = record["clip"]
    if item is None:
        return None
    try:
        clip = item.load()
        route = pipe.route(clip.space)
        if record["status"] == "failed":
            route.noise.held(pipe.object_of(clip))
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
    if not _alike(record.get("set_aside", 0.0), want, _SAME):
        found.append(f"{name}: set_aside is {record.get('set_aside')!r}, it is {want!r}")
    check.see(*found)
    return None if found else clip


# --- certified again -------------------------------------------------------------------------------


class _Judge:
    """Certifies clips of a run once more, under the same keys, and compares."""

    def __init__(self, run: Run, pipe: Pipeline, sampling: Sampling) -> None:
        chosen = engine_of(run.info, run.path / RUN)
        self._sampling, self._pipe = sampling, pipe
        self._report_in: Sequence[str] | None = run.info.get("report_in")
        self._classifier = SmoothedClassifier(
            pipe,
            micro_batch=chosen.micro_batch,
            engine=chosen.engine,
            precision=chosen.precision,
            device=chosen.device,
        )
        then, now = run.info.get("environment", {}), environment()
        parts = ("torch", "platform", "cpu_capability")
        exact = pipe.noise.lattice is not None
        self.same_noise = exact or all(then.get(p) == now[p] for p in parts)
        self._shares: Mapping[str, Any] = {}
        if isinstance(sampling.policy, Budget):
            self._shares = read_json(run.path / SHARES)

    def again(self, record: Mapping[str, Any], item: Item) -> dict[str, Any]:
        """Return how one clip's draws, made again, compare with its record."""
        clip = item.load()
        route = self._pipe.route(clip.space)
        trace = self._pipe.front_trace(clip)
        v = route.noise.held(trace[-1])
        sampling = self._sampling
        base = self._classifier.base(route, v, sampling.seed, clip.digest)
        held = v.to(base.device)
        found: list[str] = []
        share = None
        if isinstance(sampling.policy, Budget):
            share = self._share(clip.digest, found)
            pilot = replay(
                Task(base, held, sampling.seed, clip.digest, pilot_plan(base.classes, sampling.n0))
            )
            if share is not None:
                found += self._pilot(clip.name, share[0], pilot)
        plan = sampling.at(route).plan(base.classes, float(route.noise.sigma), share)
        task = Task(base, held, sampling.seed, clip.digest, plan)
        made = replay(task)
        kind = self._compare(record, base.labels, task, made, found)
        if kind != "contradicted":
            sampled = made.result if kind == "identical" else self._as_recorded(record, base.labels)
            certificate = conclude(clip, route, trace, base, sampled, sampling)
            again = certificate.to_dict()
            if certificate.status == "certified" and (spaces := self._spaces(record)):
                again["spaces"] = {name: in_space(certificate, name) for name in spaces}
            found += _facts(record, again)
        count = int(made.result.counts[base.labels.index(record["candidate"])]) if not found else None
        return {
            "clip": clip.name,
            "counts": kind,
            "recorded": [record["count"], record["n"]],
            "again": [count if count is not None else int(made.result.counts.max(initial=0)), made.result.n],
            "disagreements": found,
        }

    def _share(self, digest: str, found: list[str]) -> tuple[Pilot, int] | None:
        entry = self._shares.get(digest)
        if entry is None:
            found.append(f"{SHARES} has no share for the recording {digest}")
            return None
        return Pilot(**entry["pilot"]), entry["n"]

    def _pilot(self, name: str, told: Pilot, made: Replay[Pilot]) -> list[str]:
        near = made.near.get("pilot", 0)
        got = made.result
        if told == got or not self.same_noise:
            return []
        if (told.top == got.top and abs(told.count - got.count) <= near) or (told.top != got.top and near):
            return []
        return [
            f"{name}: the pilot gave class {told.top} {told.count} times, now class {got.top} {got.count} times"
        ]

    def _spaces(self, record: Mapping[str, Any]) -> Sequence[str]:
        # Runs of earlier versions did not keep what was asked for.
        return tuple(record.get("spaces", ()) if self._report_in is None else self._report_in)

    def _as_recorded(self, record: Mapping[str, Any], labels: Sequence[str]) -> Sampled:
        """The draws as the record counts them; other classes share one count, the largest."""
        top = labels.index(record["candidate"])
        counts = np.zeros(len(labels), dtype=np.int64)
        counts[top - 1] = record.get("max_other", 0)
        counts[top] = record["count"]
        return Sampled(top, counts, record["n"], record["n0"], self._accepted(record))

    def _accepted(self, record: Mapping[str, Any]) -> int:
        """How many radii of `decide` the record counts as accepted."""
        radii, radius = tuple(record.get("radii", ())), record.get("radius")
        return radii.index(radius) + 1 if radius in radii else 0

    def _compare(
        self,
        record: Mapping[str, Any],
        labels: Sequence[str],
        task: Task[Sampled],
        made: Replay[Sampled],
        found: list[str],
    ) -> str:
        """Return "identical", "explained by rounding", "consistent" or "contradicted"; the last goes to `found`."""
        name, told, n = record["candidate"], record["count"], record["n"]
        if name not in labels:
            found.append(f"{record['clip']}: the candidate {name!r} is none of the model's labels")
            return "contradicted"
        got, m = int(made.result.counts[labels.index(name)]), made.result.n
        chosen = labels[made.result.top]
        if (got, m, made.result.first, chosen) == (told, n, record["n0"], name):
            return "identical"
        if self.same_noise and self._rounding(record, labels, task, made):
            return "explained by rounding"
        # With one class and one count n fixed, a few votes more or less under *other* noise say nothing.
        rival, others = (
            record.get("max_other"),
            int(np.delete(made.result.counts, labels.index(name)).max(initial=0)),
        )
        alike = _plausible(told, n, got, m) and (rival is None or _plausible(rival, n, others, m))
        if not self.same_noise and alike:
            return "consistent"
        found.append(
            f"{record['clip']}: {told} of {n} draws gave {name!r} by the record, {got} of {m} when drawn again"
            + ("" if chosen == name else f", where {chosen!r} was chosen")
        )
        return "contradicted"

    def _other_choice(
        self, record: Mapping[str, Any], name: int, task: Task[Sampled], made: Replay[Sampled]
    ) -> bool:
        """Whether near ties among the draws that choose the class could have chosen the record's, or another number."""
        purpose: Purpose = "pilot" if "pilot" in made.near else "selection"
        near = made.near.get(purpose, 0)
        votes, _ = draws(task, purpose, min(max(record["n0"], made.result.first), self._sampling.n))
        lead = int((votes == made.result.top).sum() - (votes == name).sum())
        return near > 0 and lead <= 2 * near

    def _sizes(
        self, policy: Estimate, record: Mapping[str, Any], task: Task[Sampled], made: Replay[Sampled]
    ) -> set[int]:
        """The numbers of draws that the pilot asks for, whichever way its near ties turn."""
        votes, instead = draws(task, "pilot", made.result.first)
        near, count = int((instead >= 0).sum()), int((votes == made.result.top).sum())
        level = level_of(self._sampling.alpha, record.get("set_aside", 0.0))
        counts = range(max(0, count - near), min(len(votes), count + near) + 1)
        return {
            needed(Pilot(made.result.top, k, len(votes)), policy.rel_width, self._sampling.n, level)
            for k in counts
        }

    def _rounding(
        self, record: Mapping[str, Any], labels: Sequence[str], task: Task[Sampled], made: Replay[Sampled]
    ) -> bool:
        """Whether the record can be of these very draws, with no votes turned but near ties.

        The draws that the record is about are made once more, however many they are, and each decision that it claims
        must follow from some turning of the near ties among them.
        """
        policy, n, m = self._sampling.policy, record["n"], made.result.n
        name = labels.index(record["candidate"])
        choice = made.near.get("selection", 0) + made.near.get("pilot", 0)
        if (made.result.top, made.result.first) != (name, record["n0"]) and not self._other_choice(
            record, name, task, made
        ):
            return False
        if not n:
            return bool(choice)
        votes, instead = draws(task, "estimation", n)
        near = instead >= 0
        failures, turned = np.cumsum(votes != name), np.cumsum(near)
        won_back, given_up = np.cumsum(instead == name), np.cumsum(near & (votes == name))
        if not -given_up[-1] <= record["count"] - (n - failures[-1]) <= won_back[-1]:
            return False
        rivals = np.bincount(votes[(votes >= 0) & (votes != name)], minlength=1)
        if abs(record.get("max_other", rivals.max()) - int(rivals.max())) > turned[-1]:
            return False
        if n != m:  # it ended elsewhere: because of a vote that was turned before
            earlier = int(turned[min(n, m) - 1]) if m and isinstance(policy, Decide) else 0
            if not choice + earlier or (
                isinstance(policy, Estimate) and n not in self._sizes(policy, record, task, made)
            ):
                return False
        if not isinstance(policy, Decide):
            return True
        level = level_of(self._sampling.alpha, record.get("set_aside", 0.0))
        accepted = rules(policy, record["sigma"], self._sampling.n, level)[: self._accepted(record)]
        fewest = failures - won_back
        return all(
            bool((test.accept[: len(looks)] >= fewest[looks - 1]).any())
            for test in accepted
            for looks in [test.looks[test.looks <= n]]
        )


def _plausible(a: int, n: int, b: int, m: int) -> bool:
    """Whether a of n and b of m can be counts of one probability: Fisher's exact test above SURPRISE."""
    from scipy.stats import fisher_exact

    return n == 0 or m == 0 or float(fisher_exact([[a, n - a], [b, m - b]]).pvalue) > SURPRISE


def _facts(record: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """Return what a record says of a clip, beside its counts, that certifying it again does not."""
    left_out = ("clip", "truth", "recording", "seconds")  # not what a certificate says
    have = {key: value for key, value in record.items() if key not in left_out}
    want = {key: value for key, value in again.items() if key not in left_out}
    return [f"{record['clip']}: {text}" for text in _differences(have, want, "", _FRONT)]


def lines(found: Verification) -> Iterator[str]:
    """Yield the verification as people read it."""
    width = max(len(c.name) for c in found.checks)
    for check in found.checks:
        count = f"{check.checked:,}" if check.checked else "-"
        verdict = "agree" if check.agrees else "DISAGREE"
        yield f"{check.name:{width}}  {count:>7}  {verdict}{f'  ({check.note})' if check.note else ''}"
        for text in check.disagreements[:_SHOWN]:
            yield f"{'':{width}}           {text}"
        if len(check.disagreements) > _SHOWN:
            yield f"{'':{width}}           and {len(check.disagreements) - _SHOWN} more (--json lists all)"
