"""The JSON Schema of a run's records, one line of certificates.jsonl."""

from __future__ import annotations

from typing import Any

_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}

_FIELDS: dict[str, dict[str, Any]] = {
    "clip": {"type": "string", "description": "the clip's name in the data list"},
    "status": {"enum": ["certified", "abstained", "failed"], "description": "how it ended"},
    "reason": {"type": "string", "description": "why the clip could not be used (failed only)"},
    "truth": {"type": "string", "description": "the data list's label, where it has one"},
    "recording": {"type": "string", "description": "the recording that the clip was cut out of, if it was"},
    "digest": {"type": "string", "description": "BLAKE2b-128 of the decoded samples, rate and channels"},
    "candidate": {"type": "string", "description": "the class that the selection draws chose"},
    "label": {"type": "string", "description": "the certified label (certified only)"},
    "radius": {
        **_NUMBER,
        "minimum": 0,
        "description": "raw ℓ2 radius in the certified object (certified only); 0 under `decide` where only p > ½ holds",
    },
    "count": {**_COUNT, "description": "fresh draws that gave the candidate"},
    "max_other": {**_COUNT, "description": "largest count of any other class (two-class bound only)"},
    "n": {**_COUNT, "description": "fresh draws that were made"},
    "n0": {**_COUNT, "description": "draws that selected the class, or made the pilot"},
    "alpha": {**_NUMBER, "description": "probability that this certificate is wrong, at most"},
    "set_aside": {
        **_NUMBER,
        "exclusiveMinimum": 0,
        "description": "part of alpha that pays for the noise's distance from its exact law; bounds are at what is left",
    },
    "seed": {**_COUNT, "description": "the run's seed"},
    "bound": {"enum": ["one-sided", "two-class"], "description": "the bound in use"},
    "sigma": {**_NUMBER, "description": "standard deviation of the noise, in the object's unit"},
    "p_lower": {**_NUMBER, "description": "lower bound of the candidate's probability"},
    "p_upper": {**_NUMBER, "description": "upper bound of every other class's (two-class bound only)"},
    "policy": {"enum": ["fixed", "decide", "estimate", "budget"], "description": "how n was chosen"},
    "radii": {"type": "array", "items": _NUMBER, "description": "the radii asked about (decide only)"},
    "cap": {**_COUNT, "description": "the most fresh draws that could have been made (decide only)"},
    "ceiling": {
        **_NUMBER,
        "description": "the largest radius that n and alpha allow; under `decide`, the largest asked about",
    },
    "saturated": {"type": "boolean", "description": "whether the radius is the ceiling"},
    "object_norm": {**_NUMBER, "description": "ℓ2 norm of the certified object"},
    "dimension": {**_COUNT, "description": "number of values of the certified object"},
    "gain": {**_NUMBER, "description": "product of the gains before the noise, for this clip"},
    "displacement": {**_NUMBER, "description": "mean of ‖T(v+η) − v‖/‖η‖, T the changes after the noise"},
    "sensitivity": {**_NUMBER, "description": "mean of ‖T(v+η) − T(v)‖/‖η‖"},
    "seconds": {**_NUMBER, "description": "wall time since the clip before was done"},
    "views": {
        "type": "object",
        "description": "the radius in other units; null means without limit (certified only)",
        "additionalProperties": {"type": ["number", "null"]},
    },
    "spaces": {
        "type": "object",
        "description": "the radius carried to other spaces, with the chain of bounds (with --report-in)",
        "additionalProperties": {"type": "object"},
    },
}


def record_fields() -> frozenset[str]:
    """Return the names of all fields that a record may have."""
    return frozenset(_FIELDS)


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of one record."""
    sampled = [
        "digest",
        "candidate",
        "count",
        "n",
        "n0",
        "alpha",
        "seed",
        "bound",
        "sigma",
        "p_lower",
        "ceiling",
    ]

    def case(status: str, required: list[str]) -> dict[str, Any]:
        return {
            "if": {"properties": {"status": {"const": status}}},
            "then": {"required": required},
        }

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "soundcert record",
        "type": "object",
        "properties": _FIELDS,
        "required": ["clip", "status"],
        "additionalProperties": False,
        "allOf": [
            case("failed", ["reason"]),
            case("abstained", sampled),
            case("certified", [*sampled, "label", "radius", "views"]),
            {
                "if": {"properties": {"status": {"const": "abstained"}}},
                "then": {"not": {"required": ["radius"]}},
            },
            {
                "if": {"not": {"properties": {"policy": {"const": "decide"}}, "required": ["policy"]}},
                "then": {"properties": {"radius": {"exclusiveMinimum": 0}}},
            },
        ],
    }
