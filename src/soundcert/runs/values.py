"""What a record of a run must have, and of which kinds its values must be, before anything is computed with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any


def missing_field(record: Mapping[str, Any]) -> str | None:
    """Return the first field that a record of its status must have and has not."""
    status = record.get("status")
    if status == "failed":
        needed = ["reason"]
    elif status in ("certified", "abstained"):
        needed = [
            "candidate",
            "count",
            "n",
            "n0",
            "alpha",
            "sigma",
            "p_lower",
            "ceiling",
            "saturated",
            "object_norm",
        ]
        needed += ["label", "radius", "views"] if status == "certified" else []
    else:
        return "status that this version knows"
    return next((field for field in needed if field not in record), None)


def sound(record: Mapping[str, Any]) -> bool:
    """Whether the values of a record that lacks no field are of the kinds that figures are made of."""
    if record["status"] == "failed":
        return True
    numbers = ["alpha", "sigma", "p_lower", "ceiling", "object_norm", "count", "n", "n0"]
    numbers += [key for key in ("displacement", "sensitivity", "gain", "seconds") if key in record]
    texts = ["candidate"]
    if record["status"] == "certified":
        numbers.append("radius")
        texts.append("label")
        views = record["views"]
        if not isinstance(views, dict) or not all(v is None or finite(v) for v in views.values()):
            return False
    asked = record.get("radii") or []
    return (
        _sound_spaces(record.get("spaces", {}))
        and all(finite(record[k]) for k in numbers)
        and record["sigma"] > 0
        and 0 <= record["count"] <= record["n"]
        and 0 < record["alpha"] < 1
        and all(isinstance(record[k], str) for k in texts)
        and isinstance(record.get("truth"), str | None)
        and isinstance(record.get("recording"), str | None)
        and isinstance(asked, list)
        and all(finite(r) for r in asked)
    )


def finite(value: object) -> bool:
    """Whether a value of a record is a finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _sound_spaces(spaces: object) -> bool:
    return isinstance(spaces, dict) and all(map(_sound_space, spaces.values()))


def _sound_space(there: object) -> bool:
    if not isinstance(there, dict) or not isinstance(there.get("proven"), bool):
        return False
    if not there["proven"]:
        return isinstance(there.get("reason"), str)
    chain = there.get("chain")
    return (
        _radius(there)
        and finite(there.get("norm"))
        and isinstance(chain, list)
        and all(
            isinstance(s, dict)
            and isinstance(s.get("stage"), str)
            and isinstance(s.get("space"), str)
            and _radius(s)
            for s in chain
        )
    )


def _radius(of: Mapping[str, Any]) -> bool:
    """Whether a radius is there: a number, or null for one without limit."""
    return "radius" in of and (of["radius"] is None or finite(of["radius"]))


def leaves(a: Any, b: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield what stands at each place of two JSON values, as `("certify.n", 500, 700)`.

    Mappings are walked key by key, with None where one has no such key; lists (or tuples) of one length item by item.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            yield from leaves(a.get(key), b.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from leaves(one, other, f"{place}[{i}]")
    else:
        yield place, a, b
