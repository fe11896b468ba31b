"""The JSON Schema of a run's report, the predicate of `soundcert report --format in-toto`.

A version adds fields and never changes or removes one; a change of meaning gets a new REPORT_TYPE.
"""

from __future__ import annotations

from typing import Any

#: A name and not an address: nothing is to be fetched from it.
REPORT_TYPE = "urn:soundcert:report:v1"

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_COUNT = {"type": "integer", "minimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_NUMBER = {"type": "number"}
_CURVE = {
    "type": "object",
    "additionalProperties": _SHARE,
    "description": "share of the labelled clips certified with their label, by level",
}
_BAND = {
    "type": "object",
    "additionalProperties": {"type": "array", "items": _SHARE, "minItems": 2, "maxItems": 2},
    "description": "95 % intervals of the curve that hold for all of its levels together; absent under a budget",
}
_SHA256 = {
    "type": "object",
    "properties": {"sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
    "required": ["sha256"],
}
_LOCATIONS = ["input", "waveform", "waveform after gain", "feature", "latent"]

_CONTRACT: dict[str, Any] = {
    "type": ["object", "null"],
    "description": "what each certificate covers; null where no clip could be used",
    "properties": {
        "kind": {**_TEXT, "description": "which contract"},
        "certified_object": {**_TEXT, "description": "what the radius is about"},
        "perturbation_location": {"enum": _LOCATIONS, "description": "where the noise is added"},
        "gain_policy": {**_TEXT, "description": "every gain, fixed or per clip, before or after the noise"},
        "norm": {**_TEXT, "description": "the norm of radii"},
        "unit": {**_TEXT, "description": "the unit of object, sigma and radii"},
        "noise": {**_TEXT, "description": "the noise"},
        "sigma": {"type": "number", "exclusiveMinimum": 0, "description": "its standard deviation, in that unit"},
        "dimension": {"type": "integer", "minimum": 1, "description": "values of the object, of the first clip"},
        "pre_noise": {**_TEXTS, "description": "the stages above the noise"},
        "post_noise": {**_TEXTS, "description": "the stages that change the object after the noise"},
        "post_noise_stages": {**_TEXTS, "description": "all stages between noise and model"},
        "model": {**_TEXT, "description": "the model"},
        "engine": {**_TEXT, "description": "what computes the model, and in which precision"},
        "windows": {**_TEXT, "description": "windows that the base classifier reads the object in, below the noise"},
        "vote": {**_TEXT, "description": "how the answers for the windows become one"},
        "cut": {**_TEXT, "description": "how recordings were cut into clips, above the noise"},
        "channels": {"type": "integer", "minimum": 2, "description": "of a waveform with several; dimension counts all"},
    },
    "required": [
        "kind", "certified_object", "perturbation_location", "gain_policy", "norm", "unit", "noise", "sigma",
        "dimension", "pre_noise", "post_noise", "post_noise_stages", "model",
    ],
}  # fmt: skip

_SUMMARY: dict[str, Any] = {
    "type": "object",
    "description": "the run's figures, from its records; `median_…` are over the clips named in `medians_over`",
    "properties": {
        "clips": {**_COUNT, "description": "clips recorded"},
        "certified": _COUNT,
        "abstained": {
            **_COUNT,
            "description": "clips without a certificate: neither a radius of 0 nor a failure",
        },
        "failed": {**_COUNT, "description": "clips that could not be used, in no figure"},
        "passes": {**_COUNT, "description": "noisy copies classified"},
        "copies": {
            **_COUNT,
            "description": "clips that repeat another's samples: an interval counts each recording once",
        },
        "saturated_share_of_certified": {**_SHARE, "description": "certificates at the ceiling"},
        "smoothed_accuracy": {**_SHARE, "description": "certified with the label; abstentions are wrong"},
        "smoothed_accuracy_over": {**_COUNT, "description": "labelled, usable clips"},
        "smoothed_accuracy_interval_95": {
            "type": "array",
            "items": _SHARE,
            "minItems": 2,
            "maxItems": 2,
            "description": "absent where clips are not independent",
        },
        "no_interval": {**_TEXT, "description": "why there is no interval"},
        "certified_accuracy_at_radius": _CURVE,
        "certified_accuracy_at_snr_db": _CURVE,
        "certified_accuracy_at_file_snr_db": _CURVE,
        "certified_accuracy_band_95_at_radius": _BAND,
        "certified_accuracy_band_95_at_snr_db": _BAND,
        "certified_accuracy_band_95_at_file_snr_db": _BAND,
        "medians_over": _TEXT,
        "spaces": {
            "type": "object",
            "additionalProperties": {"type": "object", "required": ["proven", "of"]},
        },
    },
    "patternProperties": {"^median_": _NUMBER},
    "required": ["clips", "certified", "abstained", "failed", "medians_over"],
}

_FIELDS: dict[str, Any] = {
    "format": {"const": 1, "description": "version of this schema"},
    "soundcert": {"type": ["string", "null"], "description": "version of soundcert that made the run"},
    "run": {
        "type": "object",
        "properties": {
            "name": {**_TEXT, "description": "name of the run directory"},
            "started": {"type": ["string", "null"], "description": "when, in UTC"},
            "finished": {"type": "boolean", "description": "whether every clip is recorded"},
            "clips": {**_COUNT, "description": "clips that the run was given"},
            "recorded": {**_COUNT, "description": "clips with a record"},
            "identity": {
                "type": "object",
                "additionalProperties": _TEXT,
                "description": "BLAKE2b-128 of the model's parameters, of the data list, and of the settings",
            },
            "evidence": {
                "type": "object",
                "additionalProperties": _SHA256,
                "description": "the run's own files when this was written",
            },
        },
        "required": ["name", "finished", "clips", "recorded", "identity", "evidence"],
    },
    "contract": _CONTRACT,
    "statement": {**_TEXT, "description": "the contract in plain words, as the run recorded it"},
    "not_claimed": {**_TEXTS, "description": "what a reader might wrongly take a certificate to say"},
    "certify": {
        "type": "object",
        "description": "the settings of the sampling",
        "properties": {
            "n0": {**_COUNT, "description": "draws that select the class; the most, under a policy"},
            "n": {
                **_COUNT,
                "description": "fresh draws that bound its probability; the most, under a policy",
            },
            "alpha": {**_SHARE, "description": "probability that one certificate is wrong, at most"},
            "bound": {"enum": ["one-sided", "two-class"]},
            "seed": {**_COUNT, "description": "seed of the noise, fixed before any result is seen"},
            "policy": {"enum": ["fixed", "decide", "estimate", "budget"], "description": "how n was chosen"},
        },
        "required": ["policy"],
    },
    "data": {
        "type": "object",
        "description": "the data list's source and filters; without its place on the disk",
        "properties": {
            "name": _TEXT,
            "source": _TEXT,
            "split": _TEXT,
            "limit": _COUNT,
            "shuffle_seed": _COUNT,
        },
        "required": ["name"],
    },
    "labels": {**_TEXTS, "description": "the model's classes"},
    "engine": {"type": ["object", "null"], "description": "what ran the model"},
    "environment": {
        "type": ["object", "null"],
        "description": "versions and machine, for differences in rounding",
    },
    "summary": _SUMMARY,
    "warnings": {
        **_TEXTS,
        "description": "what was torn, missing or left out; whoever shows the report shows them",
    },
}


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a report."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": REPORT_TYPE,
        "title": "soundcert report of a run",
        "type": "object",
        "properties": _FIELDS,
        "required": list(_FIELDS),
        "additionalProperties": False,
    }
