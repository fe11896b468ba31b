"""Flags that a finished run raises, read off its contract and records: no audio is needed.

Some kinds ask for samples (a clipped recording, padding, the log floor): `soundcert audit` raises those, and a
report adds them for the clips whose audio it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from soundcert.flags import FLAGS, Flag
from soundcert.runs import Run

_ORDER = {"warning": 0, "note": 1}


def run_flags(run: Run) -> list[Flag]:
    """Return the flags that the contract and the records raise, warnings first."""
    contract = run.contract
    location = contract.get("perturbation_location")
    post = _texts(contract.get("post_noise"))
    out = []
    if location == "feature":
        out.append(Flag("feature-not-waveform", f"the object is {contract.get('certified_object')}"))
    elif location == "latent":
        out.append(Flag("latent-not-waveform", f"the object is {contract.get('certified_object')}"))
    for part in str(contract.get("gain_policy") or "").split("; "):
        where, _, stage = part.partition(": ")
        if where == "per clip, before the noise":
            out.append(Flag("per-clip-gain-before-noise", stage))
        elif where == "per clip, after the noise" and stage in post:
            out.append(Flag("gain-after-noise", stage))
    out += [Flag("quantise-after-noise", stage) for stage in post if stage.startswith("quantize")]
    clipping = [stage for stage in post if stage.startswith(("clip", "limiter"))]
    if clipping == list(post) and clipping:
        # Both are 1-Lipschitz: noise alone never moves it further than the noise. More is the clean clip's cut.
        cut = [r for r in run.usable if r.get("displacement", 0) > 1]
        if cut:
            worst = max(r["displacement"] for r in cut)
            out.append(
                Flag(
                    "clip-after-unit-gain",
                    f"{clipping[0]} moves the clean object on {len(cut)} of {len(run.usable)} clips at least; "
                    f"displacement up to {worst:.3g} times the noise",
                )
            )
    if contract.get("trained_otherwise"):
        out.append(Flag("trained-otherwise", str(contract["trained_otherwise"])))
    silent = [r["clip"] for r in run.usable if r["object_norm"] == 0] if location != "feature" else []
    if silent:
        out.append(Flag("silent-clip", f"{len(silent)} of {len(run.usable)} clips, such as {silent[0]!r}"))
    low = [r["ceiling"] / r["sigma"] for r in run.usable if 0 < r["ceiling"] < r["sigma"]]
    if low and not any(r.get("policy") == "decide" for r in run.usable):
        out.append(Flag("small-ceiling", f"{min(low):.3g}σ on {len(low)} of {len(run.usable)} clips"))
    return in_order(out)


def in_order(flags: Iterable[Flag]) -> list[Flag]:
    """Warnings first; each kind once, with all its details."""
    details: dict[str, list[str]] = {}
    for flag in flags:
        if flag.id in FLAGS and flag.detail not in details.setdefault(flag.id, []):
            details[flag.id].append(flag.detail)
    merged = [Flag(kind, "; ".join(found)) for kind, found in details.items()]
    return sorted(merged, key=lambda flag: _ORDER[flag.kind.level])


def _texts(value: object) -> Sequence[str]:
    return [str(v) for v in value] if isinstance(value, list | tuple) else []


def attacked(run: Run) -> dict[str, Mapping[str, Any]]:
    """Return the last line of each attacked clip, by name."""
    return {str(a["clip"]): a for a in run.attacks if a.get("status") == "attacked"}
