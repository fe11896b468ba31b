"""What a study must state of a run, in words: the list of arXiv 2606.04210, and what a reader needs beside it."""

from __future__ import annotations

from statistics import median
from typing import Any

from soundcert.report.accuracy import (
    accuracy_rows,
    counted_good,
    data_name,
    figure,
    grouped,
    joined,
    labelled,
    over,
    policy_of,
    said,
    share_name,
)
from soundcert.report.shares import percent
from soundcert.report.stated import sizes_of
from soundcert.report.terminal import shown
from soundcert.report.words import length, tries_words
from soundcert.runs import Run
from soundcert.runs.summary import tied

_WHERE = {
    "input": "the decoded samples of the file, before any processing",
    "waveform": "the waveform, after the steps above the noise",
    "waveform after gain": "the waveform after its gain, before any feature",
    "feature": "the features; not the waveform",
    "latent": "activations inside the model; neither the waveform nor its features",
}
_SCOPE = {
    "input": "The guarantee is about the decoded samples of the file.",
    "waveform": "The guarantee is about the processed waveform and not directly about the samples of the file.",
    "waveform after gain": (
        "The guarantee is about the waveform after its gain and not directly about the samples of the file: the "
        "same radius is a smaller change of a quiet file."
    ),
    "feature": "The guarantee is about the features and by itself bounds no attacker who changes the waveform.",
    "latent": "The guarantee is about activations and bounds no attacker who changes waveform or features.",
}


def checklist(run: Run) -> list[tuple[str, str]]:
    """Return what a study must state: (what, in a sentence or two), in the order to be read."""
    items = [
        ("Method", _method(run)),
        ("Certified object", _object(run)),
        ("Perturbation location", _location(run)),
        ("Gain policy", f"{said(run, 'gain_policy')}."),
        ("Noise", _noise(run)),
        ("Post-noise changes", _post_noise(run)),
        ("Sampling", _sampling(run)),
        ("Ceiling", _ceiling(run)),
        ("Raw radius", _raw_radius(run)),
        ("Signal-relative scale", _scale(run)),
        ("Data", _data(run)),
        ("Abstention", _abstention(run)),
        ("Result", _result(run)),
        ("Scope", _scope(run)),
    ]
    return [(what, text) for what, text in items if text]


def _texts(value: object) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list | tuple) else []


def _method(run: Run) -> str:
    version = run.info.get("soundcert")
    made = f"soundcert {version}" if version else "soundcert"
    return (
        f"randomized smoothing (Cohen, Rosenfeld and Kolter, 2019), certified with {made}. A certificate says that no "
        "perturbation of the certified object with an ℓ2 norm strictly below its radius changes the label of the "
        "smoothed classifier."
    )


def _object(run: Run) -> str:
    if not run.contract:
        return "no contract is recorded, since no clip could be used."
    fixed = any(stage.startswith("fit(") for stage in _texts(run.contract.get("pre_noise")))
    sizes = sizes_of(run)
    count = " to ".join(f"{grouped(n)}" for n in (sizes[0], sizes[-1])[: len(sizes)]) if sizes else ""
    count = f"{count} values" if count else "of a size that is not recorded"
    told = fixed or all("dimension" in r for r in run.usable)
    each = "" if told else " in the first clip"
    return f"the {said(run, 'certified_object')}, {count}{each}; the contract is {said(run, 'kind')}."


def _location(run: Run) -> str:
    if not run.contract:
        return ""
    where = said(run, "perturbation_location")
    steps = _texts(run.contract.get("pre_noise"))
    above = f"Above the noise: {', '.join(steps)}." if steps else "Nothing stands above the noise."
    if cut := run.contract.get("cut"):
        above += f" Before that, recordings were cut into clips of {cut}, each certified by itself."
    return f"{_WHERE.get(where, where)}. {above}"


def _noise(run: Run) -> str:
    if not run.contract:
        return ""
    sigma = f"σ\u00a0=\u00a0{said(run, 'sigma')}"
    name = {"gaussian_noise": "isotropic Gaussian"}.get(said(run, "noise"), said(run, "noise"))
    return f"{name}, {sigma} in the object's own unit ({said(run, 'unit')})."


def _post_noise(run: Run) -> str:
    if not run.contract:
        return ""
    changes = _texts(run.contract.get("post_noise"))
    below = [*_texts(run.contract.get("post_noise_stages")), said(run, "model")]
    base = (
        f"the base classifier is {', '.join(below)}, computed by {run.contract.get('engine', 'torch fp32')}"
    )
    if not changes:
        return f"none; {base}."
    out = (
        f"{', '.join(changes)}. They belong to the base classifier: the certificate holds for the object before "
        f"them, and the radius is no distance between the signals after them; {base}."
    )
    moved = [
        (r["displacement"], r["sensitivity"]) for r in run.usable if {"displacement", "sensitivity"} <= set(r)
    ]
    if moved:
        far, near = (median(column) for column in zip(*moved, strict=True))
        out += f" Median over {len(moved)} usable clips: displacement {far:.4g} times the noise, sensitivity {near:.4g}."
    return out


def _sampling(run: Run) -> str:
    settings, policy = run.certify, policy_of(run)
    first = run.usable[0] if run.usable else {}
    known: dict[str, Any] = {
        key: settings.get(key, first.get(key)) for key in ("n0", "n", "alpha", "bound", "seed")
    }
    if any(known[key] is None for key in ("n0", "n", "alpha")):
        return "not recorded."
    n0, n = grouped(int(known["n0"])), grouped(int(known["n"]))
    bound = {
        "one-sided": "a one-sided Clopper–Pearson bound",
        "two-class": "two Clopper–Pearson bounds at α/2 each, of the class and of its strongest rival",
    }.get(str(known["bound"]), str(known["bound"]))
    level = f"α\u00a0=\u00a0{known['alpha']:g}"
    if policy == "fixed":
        how = f"n₀\u00a0=\u00a0{n0} draws select the class and n\u00a0=\u00a0{n} fresh draws bound its probability ({bound})"
    elif policy == "decide":
        radii = ", ".join(
            f"{x:g}" for x in (settings.get("decide") or {}).get("radii") or first.get("radii") or ()
        )
        how = (
            f"policy decide: at most n₀\u00a0=\u00a0{n0} draws select the class, and sequential tests on at most "
            f"n\u00a0=\u00a0{n} fresh draws decide the radii {radii}, each counting only if every smaller one holds"
        )
    elif policy == "estimate":
        how = (
            f"policy estimate: a pilot of at most n₀\u00a0=\u00a0{n0} draws selects the class and sets the number of "
            f"fresh draws, at most n\u00a0=\u00a0{n}, that bound its probability ({bound})"
        )
    else:
        limit = settings.get("budget") or {}
        size = (
            f"{grouped(int(limit['passes']))} passes" if limit.get("passes") else f"{limit.get('seconds')} s"
        )
        how = (
            f"policy budget: {size} shared over the clips after pilots of at most n₀\u00a0=\u00a0{n0} draws, at most "
            f"n\u00a0=\u00a0{n} fresh draws a clip, that bound the probability of its class ({bound})"
        )
    drawn = sorted(int(r["n"]) for r in run.usable)
    if policy != "fixed" and drawn:
        spread = f"{grouped(drawn[0])} to {grouped(drawn[-1])} (median {grouped(int(median(drawn)))})"
        how += f"; {grouped(drawn[0]) if drawn[0] == drawn[-1] else spread} fresh draws were made for a clip"
    return (
        f"{how}. Each certificate is wrong with probability at most {level} over the draw of the noise; its "
        f"seed, {known['seed']}, has to be fixed before any result is seen."
        + (f" One of several is kept: {words}." if (words := tries_words(settings)) else "")
    )


def _ceiling(run: Run) -> str:
    certified = [r for r in run.usable if r["status"] == "certified"]
    if not certified:
        return ""
    span = sorted({float(r["ceiling"]) for r in certified})
    size = (
        length(span[0])
        if len(span) == 1
        else f"{length(span[0])} to {length(span[-1])}, with the draws of each clip"
    )
    full = sum(bool(r["saturated"]) for r in certified)
    asked = policy_of(run) == "decide"
    what = "largest radius asked about" if asked else "largest radius that n and α allow"
    why = "" if asked else ": every draw agreed, which tells n and not the model"
    return (
        f"the {what} is {size}; {grouped(full)} of {grouped(len(certified))} certificates "
        f"({joined(percent(full, len(certified)))}) are saturated at it{why if full else ''}."
    )


def _raw_radius(run: Run) -> str:
    if "median_radius" not in run.summary:
        return ""
    middle = run.summary["median_radius"]
    unit = said(run, "unit")
    out = f"median {length(middle)} in ℓ2, in the object's own unit ({unit}), before any change of unit, over {over(run)}"
    good, asked = counted_good(run), policy_of(run) == "decide"
    if {r["ceiling"] for r in good} == {middle}:
        out += "; it is the largest radius asked about" if asked else "; it is the ceiling itself"
    elif 2 * sum(bool(r["saturated"]) for r in good) > len(good):
        out += "; more than half of them are at their own ceiling"
    ratio = run.summary.get("median_r_over_sigma")
    return out + (f"; median R/σ {shown('r_over_sigma', ratio)}." if ratio is not None else ".")


def _scale(run: Run) -> str:
    if not counted_good(run):
        return ""
    view = "snr_db" if run.about_waveform else "norm_ratio_db"
    value = run.summary.get(f"median_{view}")
    if value is None:
        out = "none can be stated for all certified clips"
    elif view == "snr_db":
        out = (
            f"median SNR-equivalent 20\u00a0log₁₀(‖v‖/R) {joined(shown(view, value))} over the same clips; at one "
            "radius and level it grows with the length of a clip"
        )
    else:
        out = (
            f"median norm ratio 20\u00a0log₁₀(‖v‖/R) {joined(shown(view, value))} over the same clips; it is not an SNR "
            "and not comparable with one"
        )
    file, ratio = run.summary.get("median_file_radius"), run.summary.get("median_file_snr_db")
    if file is not None:
        out += f". Proven for the samples of the file: median radius {joined(shown('file_radius', file))}"
        out += f", SNR {joined(shown('file_snr_db', ratio))}" if ratio is not None else ""
        out += " (medians of each, over the same clips)"
    return out + "."


def _data(run: Run) -> str:
    data = run.config.get("data") or {}
    out = data_name(run)
    if data.get("split"):
        out += f", {data['split']} split"
    if data.get("folds"):
        out += f", folds {', '.join(str(f) for f in data['folds'])}"
    out += f", {grouped(run.total)} clips"
    if data.get("limit"):
        out += f" chosen by a hash of their names (seed {data.get('shuffle_seed', 0)})"
    if not run.finished:
        out += f", of which {grouped(len(run.records))} are recorded"
    classes = _texts(run.info.get("labels"))
    if classes:
        out += f"; {len(classes)} classes"
    return out + "."


def _abstention(run: Run) -> str:
    s = run.summary
    wrong = " and count as errors" if labelled(run) else ""
    return (
        f"{grouped(s['abstained'])} of {grouped(len(run.usable))} usable clips abstained{wrong}; {grouped(s['failed'])} "
        "could not be used and are in no figure."
    )


def _result(run: Run) -> str:
    rows = accuracy_rows(run).get("radius")
    if not rows:
        return ""
    name = "smoothed accuracy" if labelled(run) else "certified at some radius"
    out = [f"{name}: {figure(rows[0])}"] if rows[0].value == 0 else []
    sigma = float(run.usable[0]["sigma"])
    reach = [r for r in rows if 0 < r.value <= max(c["ceiling"] for c in run.usable)]
    if reach:
        row = next((r for r in reach if r.value == float(f"{sigma:.6g}")), reach[-1])
        out.append(f"{share_name(run)} at raw radius {row.level}: {figure(row)}")
    how = (
        f". There are no intervals: {tied(run.usable)}."
        if rows[0].interval is None
        else ". Intervals are pointwise: each holds at one radius chosen beforehand, allowing for false certificates and "
        "for the sampling of clips, which must be independent of each other."
    )
    return "; ".join(out) + how


def _scope(run: Run) -> str:
    if not run.contract:
        return ""
    own = _SCOPE.get(str(run.contract.get("perturbation_location")), "")
    return f"{own} It does not cover lossy codecs, other processing, or whether a label is correct.".strip()
