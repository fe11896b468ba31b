"""The JSON Schema of attacks on a run, one line of attacks.jsonl."""

from __future__ import annotations

from typing import Any

from soundcert.runs.schema import record_schema

_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}


def _parts(**fields: tuple[dict[str, Any], str]) -> dict[str, Any]:
    return {name: {**kind, "description": what} for name, (kind, what) in fields.items()}


def _record(
    required: list[str], nullable: bool = False, **fields: tuple[dict[str, Any], str]
) -> dict[str, Any]:
    return {
        "type": ["object", "null"] if nullable else "object",
        "properties": _parts(**fields),
        "required": required,
        "additionalProperties": False,
    }


_FOUND: dict[str, tuple[dict[str, Any], str]] = {
    "norm": (_NUMBER, "ℓ2 norm of the smallest perturbation found"),
    "snr_db": (_NUMBER, "20·log10 of the clip's norm over it (waveforms only)"),
    "ratio": (_NUMBER, "norm over the proven radius (where one is)"),
    "gap_db": (_NUMBER, "the ratio in decibels"),
}
_VOTES: dict[str, tuple[dict[str, Any], str]] = {
    "count": (_COUNT, "fresh draws for the answer"),
    "runner_up": (_COUNT, "fresh draws for the second class"),
    "n": (_COUNT, "fresh draws"),
    "level": (_NUMBER, "probability that what is said of them is wrong, at most"),
}

_ATTACK: dict[str, dict[str, Any]] = {
    **{name: record_schema()["properties"][name] for name in ("clip", "digest", "label", "radius")},
    "status": {"enum": ["attacked", "failed"], "description": "how it ended"},
    "reason": {"type": "string", "description": "why the clip could not be attacked (failed only)"},
    "space": {"type": "string", "description": "where the perturbation was added"},
    "norm": {**_NUMBER, "minimum": 0, "description": "ℓ2 norm of the clip in that space"},
    "settings": {
        "description": "what the attack could spend, and was after; lines of other settings are other attacks",
        **_record(
            ["space", "goals", "steps", "restarts", "draws", "n", "level", "seed", "wav"],
            space=(_TEXT, "where the perturbation is added"),
            goals=(
                {"type": "array", "items": {"enum": ["leave", "flip", "inside", "bypass", "deployed"]}},
                "what was looked for",
            ),
            steps=(_COUNT, "gradient steps of a search"),
            restarts=(_COUNT, "starts of the geometry search"),
            draws=(_COUNT, "noisy copies a gradient"),
            n=(_COUNT, "fresh draws that verify"),
            level=(_NUMBER, "probability of a wrong answer, at most"),
            seed=(_COUNT, "seed of starts and noise"),
            wav=(_FLAG, "whether the clips of a bypass were kept"),
        ),
    },
    "proven": {
        "description": "the certified radius carried to the space",
        **_record(
            ["proven"],
            proven=(_FLAG, "whether anything is proven there"),
            radius=({"type": ["number", "null"]}, "the proven radius; null means without limit"),
            reason=(_TEXT, "why nothing is proven"),
        ),
    },
    "leave": {
        "description": "the smallest perturbation found that leaves the certified ball; null: none was",
        **_record(
            ["norm", "distance", "start"],
            True,
            **_FOUND,
            distance=(_NUMBER, "how far it moves the certified object: more than the radius"),
            start=(_TEXT, "what the search began from"),
        ),
    },
    "flip": {
        "description": "the smallest perturbation found that changes the smoothed label; null: none was",
        **_record(
            ["norm", "label", *_VOTES, "tries"],
            True,
            **_FOUND,
            **_VOTES,
            label=(_TEXT, "the smoothed label after it"),
            tries=(_COUNT, "lengths that were counted, each at an eighth of the level"),
        ),
    },
    "inside": {
        "description": "the strongest perturbation found inside the certified ball; null for a radius of 0",
        **_record(
            ["norm", "count", "n", "level", "p_upper", "guaranteed", "violated"],
            True,
            norm=(_NUMBER, "its ℓ2 norm in the certified object"),
            count=(_COUNT, "fresh draws for the certified label there"),
            n=(_COUNT, "fresh draws"),
            level=(_NUMBER, "level of the test for a violation"),
            p_upper=(_NUMBER, "upper bound of the label's probability there"),
            guaranteed=(_NUMBER, "the probability that the certificate proves there"),
            violated=(_FLAG, "whether the two contradict each other"),
        ),
    },
    "bypass": {
        "description": "what leaving a feature ball takes in the file (objects that are no waveform only)",
        **_record(
            ["naive_radius", "naive_db", "found", "found_snr_db", "below_naive_db", "files"],
            naive_radius=(_NUMBER, "‖x‖·R/‖v‖: the radius in the file if the norm ratio were an SNR"),
            naive_db=(_NUMBER, "the norm ratio"),
            found=(_NUMBER, "the smallest perturbation of the file found that leaves the ball"),
            found_snr_db=(_NUMBER, "the same as an SNR"),
            below_naive_db=(_NUMBER, "how much smaller it is than the naive radius, in dB"),
            files=(
                {
                    "type": "array",
                    "items": _record(
                        ["encoding", "scale", "norm", "snr_db", "distance", "outside", "saturated"],
                        encoding=({"enum": ["float32", "16 bits"]}, "of the samples"),
                        path=(_TEXT, "the file, relative to the run (with --wav)"),
                        scale=(_NUMBER, "multiple of the perturbation found that was written"),
                        norm=(_NUMBER, "of what the file differs by when it is read back"),
                        snr_db=({"type": ["number", "null"]}, "the same as an SNR"),
                        distance=(_NUMBER, "of its object from the certified one"),
                        outside=(_FLAG, "whether that is outside the ball"),
                        saturated=(_COUNT, "samples that the encoding could not hold"),
                    ),
                },
                "the attacked clip, written and read back",
            ),
        ),
    },
    "deployed": {
        "type": "array",
        "description": "what pipelines that differ in a gain, clipping or resampler answer, without any attack",
        "items": _record(
            ["variant", "outcome"],
            False,
            **_VOTES,
            variant=(_TEXT, "what was changed"),
            outcome=(
                {"enum": ["same", "flipped", "abstained", "failed"]},
                "its answer against the certified label",
            ),
            distance=(_NUMBER, "of its object from the certified one, in certified radii"),
            label=(_TEXT, "the likeliest label"),
            reason=(_TEXT, "why it could not answer"),
        ),
    },
    "violations": {
        "type": "array",
        "items": _TEXT,
        "description": "what contradicts the certificate: none should",
    },
    "evidence": {
        "type": "string",
        "description": "the file with the perturbations, where there is a violation",
    },
    "seconds": {**_NUMBER, "description": "wall time"},
}


def attack_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of one line of attacks.jsonl."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "soundcert attack",
        "type": "object",
        "properties": _ATTACK,
        "required": ["clip", "status", "settings"],
        "additionalProperties": False,
        "allOf": [
            {"if": {"properties": {"status": {"const": status}}}, "then": {"required": required}}
            for status, required in (
                ("failed", ["reason"]),
                ("attacked", ["digest", "label", "radius", "space", "norm", "proven", "violations"]),
            )
        ],
    }
