"""Facts of a run in words and numbers, as every form of a report states them."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from soundcert.report.findings import attacked
from soundcert.report.shares import NBSP, percent, percents
from soundcert.report.stated import size_text
from soundcert.report.terminal import VIEWS
from soundcert.report.words import duration, length, tries_words, view_text, visible
from soundcert.runs import Run
from soundcert.runs.groups import grouping
from soundcert.runs.values import finite, sound

_BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0)
#: How a clip ended: shown as, and the class of its colour.
OUTCOMES = (
    ("certified", "good"),
    ("wrong label", "wrong"),
    ("abstained", "none"),
    ("failed", "failed"),
)
GOOD, WRONG, NONE, FAILED = range(4)


@dataclass(frozen=True)
class Bar:
    """A bar of clips by outcome: its name, and how many of each of OUTCOMES."""

    name: str
    counts: tuple[int, int, int, int]

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def heard(self) -> int:
        """Clips that shares are of: a clip that could not be used is in none."""
        return self.total - self.counts[FAILED]


def readable(run: Run) -> Run:
    """Return the run without values of another kind than this version knows, with a warning where there are any."""
    if run.looked_through:
        return run
    info, strange = dict(run.info), []
    for key in ("contract", "config"):
        if not isinstance(info.get(key), dict | None):
            strange.append(key)
            del info[key]
    if not isinstance(run.config.get("certify") if "config" not in strange else None, dict | None):
        strange.append("config.certify")
        info["config"] = {k: v for k, v in run.config.items() if k != "certify"}
    if strange:
        warning = f"run.json has a {' and a '.join(strange)} that this version cannot read: left out"
        run = replace(run, info=info, warnings=(*run.warnings, warning))
    kept: list[Mapping[str, Any]] = []
    out: list[Mapping[str, Any]] = []
    for record in run.records:
        (kept if sound(record) else out).append(record)
    if not out:
        return replace(run, looked_through=True)
    some = ", ".join(repr(str(r["clip"])) for r in out[:3])
    warning = f"{len(out)} records have values that this version cannot read, and are left out: {some}"
    return replace(run, records=tuple(kept), warnings=(*run.warnings, warning), looked_through=True)


def outcome(record: Mapping[str, Any]) -> int:
    """Return which of OUTCOMES a record is."""
    if record["status"] == "failed":
        return FAILED
    if record["status"] == "abstained":
        return NONE
    return GOOD if record.get("truth") in (None, record["label"]) else WRONG


def probability_bars(run: Run) -> list[Bar]:
    """Return the distribution of the lower bounds p_A: bins from ½ up, the ceiling by itself."""
    rows: dict[str, list[int]] = {}
    edges = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(_BINS)]
    names = ["up to 0.5", *edges, "at the ceiling"]
    for record in run.usable:
        p = record["p_lower"]
        if record["saturated"] and record["status"] == "certified":
            name = names[-1]
        else:
            name = names[0] if p <= 0.5 else edges[max(i for i, edge in enumerate(_BINS[:-1]) if p > edge)]
        rows.setdefault(name, [0, 0, 0, 0])[outcome(record)] += 1
    last = max((names.index(n) for n in rows if n != names[-1]), default=0)
    shown = [*names[: last + 1], *names[-1:]]
    return [Bar(name, _four(rows.get(name, [0, 0, 0, 0]))) for name in shown]


def label_bars(run: Run) -> list[Bar]:
    """Return how the clips of each true label ended, the worst label first."""
    rows: dict[str, list[int]] = {}
    for record in run.records:
        if isinstance(record.get("truth"), str):
            rows.setdefault(record["truth"], [0, 0, 0, 0])[outcome(record)] += 1
    bars = [Bar(visible(name), _four(counts)) for name, counts in rows.items()]
    return sorted(bars, key=lambda b: (b.counts[GOOD] / max(1, b.heard), b.name))


def _four(counts: Sequence[int]) -> tuple[int, int, int, int]:
    a, b, c, d = counts
    return a, b, c, d


def contract_facts(run: Run) -> list[tuple[str, str]]:
    """Return the fields of the contract and the sampling, each with its title."""
    c = run.contract
    names = (
        ("certified_object", "Certified object"),
        ("perturbation_location", "Where the noise is added"),
        ("gain_policy", "Gain policy"),
        ("unit", "Unit of σ and radius"),
        ("sigma", "Noise σ"),
        ("norm", "Norm"),
        ("dimension", "Values"),
        ("model", "Model"),
        ("engine", "Computed by"),
        ("windows", "Heard in windows of"),
        ("vote", "Vote of the windows"),
        ("cut", "Cut out of recordings, into"),
    )
    told = {**c, "dimension": size_text(run)} if "dimension" in c else c
    out = [(title, visible(told[key])) for key, title in names if key in told]
    post = c.get("post_noise")
    out.insert(5, ("Changed after the noise", visible("; ".join(map(str, post))) if post else "nothing"))
    budget = run.certify
    asked = [f"{k} = {budget[k]}" for k in ("n0", "n", "alpha", "seed") if k in budget]
    asked += [str(budget.get("bound", "one-sided")) + " bound"]
    asked += [words] if (words := tries_words(budget)) else []
    asked += [f"policy {p}" for p in ("decide", "estimate", "budget") if budget.get(p)]
    out.append(("Sampling", visible(", ".join(asked).replace("alpha", "α"))))
    return [(title, "ℓ2" if (title, text) == ("Norm", "l2") else text) for title, text in out]


def pipeline_of(run: Run) -> list[tuple[str, str]]:
    """Return the stages from the file to the model, each with its place: before, noise, after or base."""
    c = run.contract
    if "noise" not in c:
        return []

    def texts(key: str) -> list[str]:
        value = c.get(key)
        return [visible(v) for v in value] if isinstance(value, list) else []

    post, below = texts("post_noise"), []
    for stage in texts("post_noise_stages"):  # in this order; `windows` may stand between the changes
        changes = post[:1] == [stage]
        below.append((stage, "after" if changes else "base"))
        post = post[changes:]
    noise = f"{visible(c['noise'])}(sigma={visible(c.get('sigma', '?'))})"
    above = [(s, "before") for s in texts("pre_noise")]
    return [*above, (noise, "noise"), *below, (visible(c.get("model", "model")), "base")]


def tiles(run: Run) -> list[dict[str, Any]]:
    """Return the figures at the top: name, value, and what it is taken over."""
    s = run.summary
    out: list[dict[str, Any]] = []
    if "smoothed_accuracy" in s:
        total = s["smoothed_accuracy_over"]
        good = round(s["smoothed_accuracy"] * total)
        if "smoothed_accuracy_interval_95" in s:
            low, high = percents(s["smoothed_accuracy_interval_95"])
            more = f"{good} of {total} clips; 95{NBSP}% interval {low} to {high}{_of_few(run)}"
        else:
            more = f"{good} of {total} clips; no interval: {s['no_interval']}"
        out.append({"name": "Certified, right label", "value": percent(good, total), "more": more})
    elif run.usable:
        share = percent(s["certified"], len(run.usable))
        out.append(
            {"name": "Certified", "value": share, "more": f"{s['certified']} of {len(run.usable)} clips"}
        )
    if "median_radius" in s:
        view = next((v for v in ("snr_db", "norm_ratio_db") if f"median_{v}" in s), None)
        more = f"median, over {s['medians_over']}"
        if view:
            more += f"; median {VIEWS[view][0]} {view_text(view, s[f'median_{view}'])} dB"
        out.append({"name": "Raw radius", "value": length(s["median_radius"]), "more": more})
    if "median_file_snr_db" in s:
        out.append(
            {
                "name": "Proven for the file",
                "value": f"{view_text('file_snr_db', s['median_file_snr_db'])} dB",
                "more": "median SNR against which the file’s samples are covered",
            }
        )
    if s["certified"]:
        at = sum(bool(r["saturated"]) for r in run.usable if r["status"] == "certified")
        more = f"{at} of {s['certified']} certificates: every draw agreed, so n sets the radius and not the model"
        if any(r.get("policy") == "decide" for r in run.usable):
            more = f"{at} of {s['certified']} certificates hold at the largest radius asked about"
        out.append({"name": "At the ceiling", "value": percent(at, s["certified"]), "more": more})
    return out


def _of_few(run: Run) -> str:
    """Say where clips belong together by their names, and an interval takes them as drawn one by one."""
    found = grouping([str(r["clip"]) for r in run.usable])
    if found.what == "clip" or found.groups == len(found.names):
        return ""
    clips = "the clips" if found.told == len(found.names) else f"{found.told} of the clips"
    return f"; by their names {clips} are of {found.told_groups} {found.what}s, and for new {found.what}s it is too narrow"


def attack_summary(run: Run) -> dict[str, Any] | None:
    """Return what attacks found on the run, in sentences; None where it was not attacked."""
    found = attacked(run)
    if not found:
        return None
    violated = [visible(name) for name, a in found.items() if a.get("violations")]
    ratios = sorted(
        a["leave"]["ratio"] for a in found.values()
        if isinstance(a.get("leave"), dict) and finite(a["leave"].get("ratio"))
    )  # fmt: skip
    flips = [a for a in found.values() if isinstance(a.get("flip"), dict)]
    asked = [a for a in found.values() if "flip" in a]
    lines = []
    if ratios:
        lines.append(
            f"The smallest change found that leaves the certified ball is {ratios[len(ratios) // 2]:.4g} times the "
            f"proven radius on the median clip (from {ratios[0]:.4g} to {ratios[-1]:.4g}, on {len(ratios)} clips)."
        )
    if asked:
        lines.append(f"A change of the smoothed label was found on {len(flips)} of {len(asked)} clips.")
    lines.append("What was found bounds the robustness from above. It proves nothing about less.")
    return {"clips": len(found), "violated": violated, "lines": lines}


def facts_of_cost(run: Run) -> list[tuple[str, str]]:
    """Return what the run took."""
    used = run.usable
    draws, chosen = [r["n"] for r in used], [r["n0"] for r in used]
    out = [("noisy passes", f"{sum(draws) + sum(chosen):,}".replace(",", "\u202f"))]
    if draws:
        spread = f"{draws[0]}" if len(set(draws)) == 1 else f"{min(draws)} to {max(draws)}, by clip"
        out.append(("fresh draws a clip, n", spread))
        first = f"{chosen[0]}" if len(set(chosen)) == 1 else f"{min(chosen)} to {max(chosen)}"
        out.append(("selection or pilot draws, n0", first))
    times = [r["seconds"] for r in run.records if finite(r.get("seconds"))]
    if times and sum(times) > 0:
        out.append(("wall time", duration(sum(times))))
        out.append(
            (
                "speed",
                f"{(sum(draws) + sum(chosen)) / sum(times):,.0f} passes a second".replace(",", "\u202f"),
            )
        )
    engine = run.contract.get("engine")
    if engine:
        out.append(("engine", visible(engine)))
    return out


def reproduction(run: Run) -> dict[str, Any]:
    """Return what it takes to make the run again: command, config, digests, versions."""
    config = {key: run.config[key] for key in ("data", "pipeline", "certify", "train") if key in run.config}
    spaces = sorted({str(s) for r in run.records if isinstance(r.get("spaces"), dict) for s in r["spaces"]})
    command = ["soundcert certify run.yaml --out runs/again", *(f"--report-in {_quoted(s)}" for s in spaces)]
    environment = run.info.get("environment")
    identity = run.info.get("identity")
    versions = {
        "soundcert": run.info.get("soundcert"),
        **(environment if isinstance(environment, dict) else {}),
    }
    return {
        "command": " ".join(command),
        "config": visible_lines(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)),
        "digests": [(visible(k), visible(v)) for k, v in identity.items()]
        if isinstance(identity, dict)
        else [],
        "versions": [(visible(k), visible(v)) for k, v in versions.items() if v is not None],
        "seed": visible(run.certify.get("seed", "not recorded")),
        "started": visible(run.info.get("started") or "not recorded"),
    }


def _quoted(text: str) -> str:
    return shlex.quote(visible(text))


def visible_lines(text: str) -> str:
    """`visible`, line by line."""
    return "\n".join(visible(line) for line in text.splitlines())
