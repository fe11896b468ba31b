"""An in-toto Statement of a run: which model and data it is about, by digest, and the report as its predicate.

Statement v1: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md. It is not signed: signing is
for whoever stands behind it, with the tool of their choice.

Digests
-------
`soundcert_state_blake2b_128` is BLAKE2b with 16 bytes of output over the names, types, shapes and bytes of the
model's parameters (`models.weights.state_digest`), and `soundcert_list_blake2b_128` the same over the JSON list of
the clips' names and labels. Neither is a digest of a file's bytes, hence names of their own. Both are lowercase hex.
`sha256` is of the weight file's bytes; it is given where the file can still be read and holds the run's parameters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from soundcert.data.config import split_words
from soundcert.errors import RunError, SoundcertError
from soundcert.models import bundled, load_weights
from soundcert.report.accuracy import data_name, policy_of
from soundcert.report.attestation_schema import REPORT_TYPE
from soundcert.report.words import plain_words
from soundcert.runs import Run
from soundcert.runs.directory import RECORDS, RUN

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
STATE_DIGEST = "soundcert_state_blake2b_128"
LIST_DIGEST = "soundcert_list_blake2b_128"
_BUNDLED = "bundled:"


def statement_bytes(run: Run) -> bytes:
    try:
        text = json.dumps(statement(run), indent=2, ensure_ascii=False, allow_nan=False, sort_keys=True)
    except ValueError as error:
        raise RunError(f"{run.path} has a figure that is no number: {error}") from None
    return text.encode("utf-8", "backslashreplace") + b"\n"


def statement(run: Run) -> dict[str, Any]:
    """Return the Statement. RunError where run.json names no data list, so that there is nothing to speak of."""
    identity = run.info.get("identity") or {}
    if not _hex(identity.get("data")):
        raise RunError(
            f"{run.path / RUN} has no digest of its data list: a statement needs something to be about"
        )
    subjects, notes = [], []
    if _hex(identity.get("model")):
        digests = {STATE_DIGEST: identity["model"]}
        file = _weight_file(run)
        if isinstance(file, str):
            digests["sha256"] = file
        else:
            notes.append(f"no SHA-256 of the weight file: {file}")
        subjects.append({"name": f"model weights {model_name(run) or ''}".strip(), "digest": digests})
    else:
        notes.append(f"no digest of the model ({identity.get('model')}): it is not among the subjects")
    subjects.append({"name": f"data list {data_name(run)}", "digest": {LIST_DIGEST: identity["data"]}})
    return {
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": REPORT_TYPE,
        "predicate": report(run, notes),
    }


def report(run: Run, notes: list[str] | None = None) -> dict[str, Any]:
    """Return the predicate: the run's report as `attestation_schema.report_schema` describes it."""
    info, data = run.info, run.config.get("data") or {}
    keep = ("source", "split", "folds", "labels", "label_map", "limit", "shuffle_seed")
    return {
        "format": 1,
        "soundcert": info.get("soundcert"),
        "run": {
            "name": run.name,
            "started": info.get("started"),
            "finished": run.finished,
            "clips": run.total,
            "recorded": len(run.records),
            "identity": dict(info.get("identity") or {}),
            "evidence": {name: {"sha256": d} for name in (RUN, RECORDS) if (d := _sha256(run.path / name))},
        },
        "contract": dict(run.contract) or None,
        "statement": run.statement,
        "not_claimed": list(plain_words(run).not_claimed),
        "certify": {**run.certify, "policy": policy_of(run)},
        "data": {"name": data_name(run), **_split(data), **{k: data[k] for k in keep if k in data}},
        "labels": [str(label) for label in info.get("labels") or ()],
        "engine": info.get("engine"),
        "environment": info.get("environment"),
        "summary": run.summary,
        "warnings": [*run.warnings, *(notes or ())],
    }


def _split(data: Mapping[str, Any]) -> dict[str, str]:
    words = split_words(data)
    return {} if words is None else {"split": words}


def model_name(run: Run) -> str | None:
    """The name of the run's weight file, without its folder; None where the config has none."""
    weights = (_model_stage(run) or {}).get("weights")
    if not isinstance(weights, str):
        return None
    return weights.removeprefix(_BUNDLED) if weights.startswith(_BUNDLED) else PurePath(weights).stem


def _model_stage(run: Run) -> Mapping[str, Any] | None:
    stages = run.config.get("pipeline") or []
    found = [s["model"] for s in stages if isinstance(s, Mapping) and isinstance(s.get("model"), Mapping)]
    return found[-1] if found else None


class _MissingError(Exception):
    """Why there is no digest of the weight file."""


def _weight_file(run: Run) -> str | _MissingError:
    """Return the SHA-256 of the weight file, if it holds the parameters that the run was made with."""
    stage = _model_stage(run) or {}
    weights = stage.get("weights")
    if not isinstance(weights, str):
        return _MissingError("the config names none")
    try:
        if weights.startswith(_BUNDLED):
            path = bundled(weights.removeprefix(_BUNDLED))
        else:
            path = Path(str(run.info.get("folder") or ".")) / weights
        before = _sha256(path)
        if before is None:
            return _MissingError("it is not where the run's config has it")
        labels = stage.get("labels")
        found = load_weights(
            path,
            network=stage.get("network"),
            options=stage.get("options"),
            labels=list(labels) if labels else None,
        )
    except SoundcertError as error:
        return _MissingError(str(error))
    if found.digest != run.info["identity"]["model"]:
        return _MissingError("the file holds other parameters than the run's now")
    return before if _sha256(path) == before else _MissingError("the file was changed while it was read")


def _sha256(path: Path) -> str | None:
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _hex(value: object) -> bool:
    return isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")
