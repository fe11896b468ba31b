"""What a record must say, recomputed from its counts; and where two JSON values differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from soundcert.certificate import json_number
from soundcert.certify import Sampling, bounds_of, level_of
from soundcert.diagnostics import norm_ratio_db
from soundcert.policies import Sampled, rules
from soundcert.runs.values import leaves

# Numbers are recomputed by the same formulas; another version of scipy may round the last digits otherwise.
SAME = 1e-9
# What depends on the float64 front of a clip: norms, transported radii.
FRONT = 1e-6


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
                want[view] = json_number(norm_ratio_db(record["object_norm"], radius))
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
        if key in want and not alike(have.get(key), want[key], SAME):
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


def differences(have: Any, want: Any, place: str, tolerance: float = SAME) -> list[str]:
    """Return where two JSON values differ, numbers by more than a share of `tolerance`."""
    return [
        f"{at} is {a!r}, recomputed {b!r}"
        for at, a, b in leaves(have, want, place)
        if not alike(a, list(b) if isinstance(b, tuple) else b, tolerance)
    ]


def alike(have: Any, want: Any, tolerance: float) -> bool:
    numbers = [x for x in (have, want) if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) == 2:
        return math.isclose(have, want, rel_tol=tolerance, abs_tol=1e-300)
    return type(have) is type(want) and bool(have == want)
