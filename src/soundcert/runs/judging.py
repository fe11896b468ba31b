"""Certify clips of a run once more, under the same keys, and say what in their records this contradicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from soundcert.audio import Clip
from soundcert.certify import Sampling, SmoothedClassifier, conclude, level_of
from soundcert.classifier import computed_by
from soundcert.config import Budget, Decide, Estimate
from soundcert.data import Item
from soundcert.pipeline import Pipeline, Route
from soundcert.policies import Pilot, Sampled, needed, pilot_plan, rules
from soundcert.randomness import Purpose
from soundcert.runs.certify_run import SHARES, engine_of, environment
from soundcert.runs.directory import RUN, read_json
from soundcert.runs.reading import Run
from soundcert.runs.recomputing import FRONT, differences
from soundcert.runs.replay import Replay, draws, replay
from soundcert.runs.work import in_space
from soundcert.sampling import Task
from soundcert.stages import GaussianNoise

#: Two counts under different noise contradict each other below this p-value.
SURPRISE = 1e-6


class Judge:
    """Certifies clips of a run once more, under the same keys, and compares."""

    def __init__(self, run: Run, pipe: Pipeline, sampling: Sampling) -> None:
        chosen = engine_of(run.info, run.path / RUN)
        self._run, self._sampling, self._pipe = run, sampling, pipe
        runtime = pipe.model.runtime if pipe.model else None
        self._computed_by = computed_by(chosen.engine, chosen.precision, chosen.device, runtime)
        self._report_in: Sequence[str] | None = run.info.get("report_in")
        self._chosen = chosen
        then, now = run.info.get("environment", {}), environment()
        if type(pipe.noise) is GaussianNoise and chosen.device == "cpu":
            parts = ["noise"]
        else:  # drawn by torch
            parts = ["torch", "platform", "cpu_capability", *([] if chosen.device == "cpu" else ["gpu"])]
        exact = pipe.noise.law is not None and pipe.noise.lattice is not None
        self.same_noise = exact or all(then.get(p) == now[p] for p in parts)
        self._shares: Mapping[str, Any] = {}
        if isinstance(sampling.policy, Budget):
            self._shares = read_json(run.path / SHARES)

    @cached_property
    def _classifier(self) -> SmoothedClassifier:
        chosen = self._chosen
        return SmoothedClassifier(
            self._pipe,
            micro_batch=chosen.micro_batch,
            engine=chosen.engine,
            precision=chosen.precision,
            device=chosen.device,
        )

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
            found += self._unlike(record, self._says(clip, route, trace, base.labels, sampled, record))
        count = int(made.result.counts[base.labels.index(record["candidate"])]) if not found else None
        return {
            "clip": clip.name,
            "counts": kind,
            "recorded": [record["count"], record["n"]],
            "again": [count if count is not None else int(made.result.counts.max(initial=0)), made.result.n],
            "disagreements": found,
        }

    def follows(self, record: Mapping[str, Any], clip: Clip, route: Route) -> list[str]:
        """Return what a record says of its clip that does not follow from its counts; nothing is drawn."""
        labels = self._run.info.get("labels") or self._pipe.labels or ()
        if record["candidate"] not in labels:
            return [f"{clip.name}: the candidate {record['candidate']!r} is none of the model's labels"]
        sampled = self._as_recorded(record, labels)
        return self._unlike(
            record, self._says(clip, route, self._pipe.front_trace(clip), labels, sampled, record)
        )

    def _says(
        self,
        clip: Clip,
        route: Route,
        trace: list[Tensor],
        labels: Sequence[str],
        sampled: Sampled,
        record: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return what a record must say where the draws are `sampled`."""
        certificate = conclude(clip, route, trace, labels, self._computed_by, sampled, self._sampling)
        out = certificate.to_dict()
        if certificate.status == "certified" and (spaces := self._spaces(record)):
            out["spaces"] = {name: in_space(certificate, name) for name in spaces}
        return out

    def _unlike(self, record: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
        # Not what a certificate says; or of other draws; or not said by records of earlier versions.
        left_out = {"clip", "truth", "recording", "seconds"}
        left_out |= set() if self.same_noise else {"displacement", "sensitivity"}
        left_out |= {"dimension"} - record.keys()
        have, want = ({k: v for k, v in facts.items() if k not in left_out} for facts in (record, want))
        return [f"{record['clip']}: {text}" for text in differences(have, want, "", FRONT)]

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


def surprise(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    """Return how probable it is, of (recorded, again) counts of n draws, that so few failures are recorded ones.

    Given a clip's failures in both, the recorded ones are hypergeometric; over clips they add up. One-sided, since a record
    that claims too little harms nobody; and of all clips together, since each by itself bears much. Exact where the numbers
    of draws do not hang on the counts. Under `decide` they do, by the same rule in both, and this is an approximation.
    """
    from scipy.signal import fftconvolve
    from scipy.stats import hypergeom

    law, seen = np.ones(1), 0
    for (told, n), (got, m) in pairs:
        if not (n and m):  # a share of a budget may be none
            continue
        failures = n - told + m - got
        law = fftconvolve(law, hypergeom.pmf(np.arange(failures + 1), n + m, failures, n))
        seen += n - told
    return float(law[: seen + 1].sum())
