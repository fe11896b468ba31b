"""A Hugging Face model card's front matter: `model-index`, one metric per certified accuracy.

The task and dataset identifiers are plain names; a metric's args say which attacker and which contract its value
is about. Format: https://github.com/huggingface/hub-docs/blob/main/modelcard.md (read 2026).
"""

from __future__ import annotations

import html
import re
from typing import Any

import yaml

from soundcert.data.config import split_words
from soundcert.errors import RunError
from soundcert.report.accuracy import Row, accuracy_rows, data_name, labelled, policy_of, some_warnings
from soundcert.report.attestation import model_name
from soundcert.report.stated import stated
from soundcert.report.words import visible
from soundcert.runs import Run

#: What each metric says beside its contract and settings, under these names.
_STATED = (
    "Sampling rate",
    "Clip length",
    "Abstained",
    "Median SNR-equivalent (dB)",
    "Median norm ratio (dB)",
)
_SPLITS = {"testing": "test", "training": "train"}


def card(run: Run) -> str:
    """Return a README with the front matter and the contract's statement, to be merged into a model's own."""
    front = yaml.dump(front_matter(run), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100)
    said = [f"**Warning: {_markdown(w)}**" for w in some_warnings(run, 100)]
    said += [_markdown(line) for line in run.statement.splitlines() if line.strip()]
    return f"---\n{front}---\n\n## Certified robustness\n\n" + "\n\n".join(said) + "\n"


class _Plain(yaml.SafeDumper):
    """Each metric stands for itself: no anchors and aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def front_matter(run: Run) -> dict[str, Any]:
    """Return the front matter as data. RunError for a run without labels: it has no accuracy."""
    tables = accuracy_rows(run)
    if not tables or not labelled(run):
        raise RunError(f"{run.path} has no clip with a known label: a model index is made of accuracies")
    about = _about(run)
    metrics = []
    s = run.summary
    why = {"no_interval": s["no_interval"]} if "no_interval" in s else {}
    metrics.append(
        {
            "type": "smoothed_accuracy",
            "name": "Smoothed accuracy (abstentions count as errors)",
            "value": s["smoothed_accuracy"],
            "args": {**about, **_interval(s.get("smoothed_accuracy_interval_95")), **why},
        }
    )
    for row in tables["radius"]:
        if row.value > 0:
            name = f"Certified accuracy at raw radius {row.level} ({_line(run.contract.get('unit', 'own unit'))})"
            metrics.append(_metric(name, row, about, {"radius": row.value}))
    for axis, of in (("snr_db", "certified object"), ("file_snr_db", "file")):
        for row in tables.get(axis, ()):
            name = f"Certified accuracy at {row.level} dB SNR of the {of}"
            metrics.append(_metric(name, row, about, {axis: row.value}))
    data = run.config.get("data") or {}
    dataset: dict[str, Any] = {"name": _line(data_name(run)), "type": _line(data.get("source") or "unknown")}
    if (part := split_words(data)) is not None:
        dataset["split"] = _SPLITS.get(part, _line(part))
    # What the shares are over, and apart from it what they are not.
    apart = {"failed": s["failed"], "without_label": len(run.usable) - s["smoothed_accuracy_over"]}
    dataset["args"] = {
        "clips": s["smoothed_accuracy_over"],
        **{key: count for key, count in apart.items() if count},
        **(
            {"limit": data["limit"], "shuffle_seed": data.get("shuffle_seed", 0)} if data.get("limit") else {}
        ),
        **({"folds": list(data["folds"])} if data.get("folds") else {}),
        **({"warnings": [_line(w) for w in some_warnings(run, 100)]} if run.warnings else {}),
    }
    result = {
        "task": {
            "type": "audio-classification",
            "name": "Audio classification, certified by randomized smoothing",
        },
        "dataset": dataset,
        "metrics": metrics,
    }
    return {
        "library_name": "soundcert",
        "pipeline_tag": "audio-classification",
        "tags": ["audio-classification", "randomized-smoothing", "certified-robustness"],
        "model-index": [{"name": _line(model_name(run) or run.name), "results": [result]}],
    }


def _about(run: Run) -> dict[str, Any]:
    keys = ["kind", "certified_object", "perturbation_location", "gain_policy", "unit", "norm"]
    keys += ["noise", "post_noise", *(key for key in ("windows", "vote", "cut") if run.contract.get(key))]
    first = run.usable[0]
    settings = {key: run.certify.get(key, first.get(key)) for key in ("n0", "n", "alpha", "bound", "seed")}
    said = [(_line(name).lower().replace(" ", "_"), value) for name, value in stated(run) if name in _STATED]
    if "median_radius" not in run.summary:
        said.append(("median_radius", "none: no clip is certified and correct"))
    if not any(name in run.summary for name in ("median_snr_db", "median_norm_ratio_db")):
        said.append(("signal_relative_scale", "none: no clip that is certified and correct has one"))
    return {
        "contract": {key: _lines(run.contract[key]) for key in keys if key in run.contract},
        "sigma": first["sigma"],
        "policy": policy_of(run),
        **{key: value for key, value in settings.items() if value is not None},
        **dict(said),
    }


def _metric(name: str, row: Row, about: dict[str, Any], level: dict[str, float]) -> dict[str, Any]:
    counts = {"certified_and_correct": row.count, "clips": row.total}
    args = {**level, **about, **counts, **_interval(row.interval)}
    return {"type": "certified_accuracy", "name": name, "value": row.share, "args": args}


def _interval(ends: Any) -> dict[str, Any]:
    return {"interval_95": [float(e) for e in ends]} if ends else {"interval_95": None}


def _lines(value: Any) -> Any:
    return [_line(v) for v in value] if isinstance(value, list | tuple) else _line(value)


def _line(value: object) -> str:
    """Text on one line, so that nothing in it can end the front matter."""
    return visible(value)


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]#|~!])", r"\\\1", html.escape(visible(text), quote=False))
