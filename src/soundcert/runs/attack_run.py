"""Attack the certified clips of a run, into the run's own directory.

`attacks.jsonl` has one line a clip and settings, flushed to the disk before the next clip is begun; the last
line of a clip counts. Going on after an interruption is the same call again: clips that were attacked with
the same settings are left out. `attacks.json` is the summary.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any

from soundcert.attack import Attacker, Claim, Deployments, Settings
from soundcert.audio import Clip
from soundcert.certify import SmoothedClassifier
from soundcert.data.sources import sample
from soundcert.errors import ConfigError, InputError, RunError
from soundcert.pipeline import Pipeline
from soundcert.runs.certify_run import Progress, engine_of
from soundcert.runs.directory import (
    FORMAT,
    LOCK,
    RECORDS,
    RUN,
    append_line,
    checked,
    read_json,
    read_records,
    repaired,
    take_lock,
    write_json,
)
from soundcert.runs.recordings import Recordings, recordings_of
from soundcert.transport import check_space

ATTACKS, SUMMARY, FOLDER = "attacks.jsonl", "attacks.json", "attacks"


def attack_run(
    run: Path,
    settings: Settings,
    *,
    limit: int | None = None,
    wav: bool = False,
    base: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    trust: bool = False,
    skip: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Attack certified clips of a finished (or interrupted) run and return the summary.

    limit: at most so many clips, an unbiased sample by name. wav: keep the clips of a bypass in the run's
    folder `attacks`. base: where the config's relative paths start, by default where the run was made. skip: is
    told of goals that the model does not allow, and they are left out; without it they are a ConfigError. Raises
    RunError where the model or a recording is not the run's, before any attack. A clip that can no longer be
    read is recorded as failed.
    """
    facts = read_json(run / RUN)
    if facts.get("format") != FORMAT or "config" not in facts:
        raise RunError(
            f"{run / RUN} is not a run of `soundcert certify` in format {FORMAT}: nothing to attack"
        )
    _no_links(run)
    held = recordings_of(run, facts, base=base)
    pipe = Pipeline.from_config(held.config, held.folder, trust=trust)
    settings = _possible(pipe, settings, skip)
    digest = (pipe.model.digest if pipe.model else None) or "a callable without digest"
    if digest != facts["identity"]["model"]:
        raise RunError(
            f"{run} was made with another model ({facts['identity']['model']}), this is {digest}: restore it"
        )
    chosen = _certified(run, limit)
    clips: dict[str, Clip | InputError] = {r["clip"]: _recording(held, r) for r in chosen}
    for clip in clips.values():
        if isinstance(clip, Clip):
            check_space(pipe.route(clip.space), settings.space)
            break
    named = {**settings.to_dict(), "wav": wav}
    engine = engine_of(facts, run / RUN)
    how: dict[str, Any] = {
        "micro_batch": engine.micro_batch, "engine": engine.engine, "precision": engine.precision, "device": engine.device,
    }  # fmt: skip
    deployments = Deployments(pipe, **how) if "deployed" in settings.goals else None
    attacker = Attacker(SmoothedClassifier(pipe, **how), settings, deployments)
    try:
        with take_lock(run):
            done = {
                r["clip"]: r
                for r in repaired(run / ATTACKS)
                if r.get("settings") == named and r["status"] == "attacked"
            }
            with (run / ATTACKS).open("ab") as lines:
                for number, record in enumerate(chosen, start=1):
                    name = record["clip"]
                    if name not in done:
                        started = time.perf_counter()
                        out = _attack(run, attacker, record, clips[name], facts, named)
                        out["seconds"] = round(time.perf_counter() - started, 4)
                        append_line(lines, out, run, "go on with the same command")
                        done[name] = out
                    if progress:
                        progress(Progress(number, len(chosen), done[name]))
            summary = summarise_attacks([done[r["clip"]] for r in chosen], named)
            write_json(run / SUMMARY, {"format": 1, "identity": facts["identity"], **summary})
    except OSError as error:
        raise RunError(f"cannot write to {run}: {error.strerror or error}") from None
    return summary


def _possible(pipe: Pipeline, settings: Settings, skip: Callable[[str], None] | None) -> Settings:
    """Return the settings without goals that follow the model's gradient where it has none; see `attack_run`."""
    loaded = pipe.model.loaded if pipe.model else None
    goals = [goal for goal in settings.goals if goal in ("flip", "inside")]
    if loaded is None or loaded.gradients or not goals:
        return settings
    which = f"the goal {goals[0]} follows" if len(goals) == 1 else f"the goals {' and '.join(goals)} follow"
    reason = f"{which} the model's gradient, and {loaded.name} is a black box that has none"
    left = tuple(goal for goal in settings.goals if goal not in goals)
    if skip is None or not left:
        raise ConfigError(f"{reason}: use --goal leave")
    skip(f"{reason}: {'it is' if len(goals) == 1 else 'they are'} left out")
    return replace(settings, goals=left)


def _certified(run: Path, limit: int | None) -> list[dict[str, Any]]:
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    if not (run / RECORDS).exists():
        raise RunError(f"{run} has no {RECORDS}: certify first")
    rows = [r for r in checked(read_records(run), run / RECORDS) if r["status"] == "certified"]
    if not rows:
        raise RunError(f"{run} has no certified clip: there is nothing to attack")
    kept = set(sample([r["clip"] for r in rows], limit))
    return [r for r in rows if r["clip"] in kept]


def _recording(held: Recordings, record: Mapping[str, Any]) -> Clip | InputError:
    """Return the clip that a certificate is about; an error where its file can no longer be read."""
    try:
        return held.clip(record)
    except InputError as error:
        return error


def _claim(record: Mapping[str, Any]) -> Claim:
    names = ("clip", "digest", "label", "radius", "sigma", "p_lower", "p_upper")
    return Claim(**{name: record.get(name) for name in names})  # type: ignore[arg-type]


def _no_links(run: Path) -> None:
    """RunError where what an attack keeps would be written through a symbolic link: a run may be a stranger's."""
    kept = run / FOLDER
    places = [run / name for name in (ATTACKS, SUMMARY, f"{SUMMARY}.part", LOCK, FOLDER)]
    for place in (*places, *(sorted(kept.iterdir()) if kept.is_dir() else ())):
        if place.is_symlink():
            raise RunError(
                f"{place} is a symbolic link, and what an attack keeps is written there: remove it"
            )


def stem_of(name: str) -> str:
    """Return what the files kept for a clip begin with: the last part of its name, and 8 hex digits of all of it.

    A name may be an absolute path, lead out of its folder (`../yes.wav`), or be longer than a file's may be, and two
    names may have the same last part; nothing is written through the name itself.
    """
    last = re.split(r"[/\\]", name)[-1]
    # 40 characters are at most 160 bytes, which leaves room for the rest of a name of 255.
    readable = re.sub(r"[^\w.-]", "_", last).lstrip(".")[:40] or "clip"
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{readable}-{digest}"


def _attack(
    run: Path,
    attacker: Attacker,
    record: Mapping[str, Any],
    clip: Clip | InputError,
    facts: Mapping[str, Any],
    named: Mapping[str, Any],
) -> dict[str, Any]:
    """Return one line: what was found, or why the clip could not be attacked."""
    name = record["clip"]
    stem = run / FOLDER / stem_of(name)
    try:
        if isinstance(clip, InputError):
            raise clip
        result = attacker.attack(clip, _claim(record), stem if named["wav"] else None)
    except InputError as error:
        return {"clip": name, "status": "failed", "reason": str(error), "settings": dict(named)}
    out = {**result.to_dict(), "settings": dict(named)}
    for file in (out.get("bypass") or {}).get("files", ()):
        if "path" in file:
            file["path"] = Path(file["path"]).relative_to(run).as_posix()
    if result.violations:
        more = {"identity": facts["identity"], "certificate": dict(record)}
        evidence = result.save_evidence(stem.with_name(f"{stem.name}.violation.npz"), more)
        out["evidence"] = evidence.relative_to(run).as_posix()
    return out


def summarise_attacks(records: Iterable[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of attacked clips as JSON values. Medians say over how many clips they are taken."""
    rows = list(records)
    attacked = [r for r in rows if r["status"] == "attacked"]
    violated = [r for r in attacked if r["violations"]]
    out: dict[str, Any] = {
        "settings": dict(settings),
        "clips": len(rows),
        "failed": len(rows) - len(attacked),
        "violations": [
            {"clip": r["clip"], "what": r["violations"], "evidence": r.get("evidence")} for r in violated
        ],
    }
    proven = [r["proven"]["radius"] for r in attacked if r["proven"]["proven"]]
    finite = [p for p in proven if p is not None]
    out["proven"] = {
        "clips": len(proven),
        "without_limit": len(proven) - len(finite),
        **_median("radius", finite),
    }
    for goal in ("leave", "flip"):
        if goal in settings["goals"]:
            found = [r[goal] for r in attacked if r[goal]]
            out[goal] = {
                "clips": len(attacked),
                "found": len(found),
                **_median("norm", [f["norm"] for f in found]),
                **_median("snr_db", [f["snr_db"] for f in found if "snr_db" in f]),
                **_median("ratio", [f["ratio"] for f in found if "ratio" in f]),
                **_median("gap_db", [f["gap_db"] for f in found if "gap_db" in f]),
            }
    if "inside" in settings["goals"]:
        inside = [r["inside"] for r in attacked if r["inside"]]
        out["inside"] = {"clips": len(inside), "violated": sum(i["violated"] for i in inside)}
    bypassed = [r["bypass"] for r in attacked if "bypass" in r]
    if bypassed:
        out["bypass"] = {
            "clips": len(bypassed),
            **_median("below_naive_db", [b["below_naive_db"] for b in bypassed]),
            "outside_as_float32": sum(b["files"][0]["outside"] for b in bypassed),
            "outside_at_16_bits": sum(b["files"][1]["outside"] for b in bypassed),
        }
    if "deployed" in settings["goals"]:
        out["deployed"] = _deployed([d for r in attacked for d in r["deployed"]])
    return out


def _median(name: str, values: Sequence[float]) -> dict[str, float]:
    finite = [v for v in values if math.isfinite(v)]
    return {f"median_{name}": median(finite)} if finite else {}


def _deployed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    out = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == variant]
        counts = {
            o: sum(row["outcome"] == o for row in mine) for o in ("same", "flipped", "abstained", "failed")
        }
        distances = [row["distance"] for row in mine if "distance" in row]
        out.append({"variant": variant, "clips": len(mine), **counts, **_median("distance", distances)})
    return out
