"""Whether runs may be ranked, and what a reader has to know: read off the runs, before any figure.

Every function takes the runs in order, A, B, C …, and returns what it found; nothing here looks at a radius.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from hashlib import blake2b
from typing import Any

from soundcert.compare.levels import Record, noise_index, stage_key
from soundcert.compare.result import Caveat, Fact, Reason, StageRow
from soundcert.config import build_stages
from soundcert.errors import SoundcertError
from soundcert.runs.reading import Run
from soundcert.stages import Fit, Resample
from soundcert.stages.base import Stage

LETTERS = "ABCDEFGHIJKL"


def letters(runs: Sequence[Run]) -> str:
    return LETTERS[: len(runs)]


def each(values: Sequence[object]) -> str:
    """`A 0.5, B 2`; one value where all agree."""
    if len(set(map(str, values))) == 1:
        return str(values[0])
    return ", ".join(f"{letter} {value}" for letter, value in zip(LETTERS, values, strict=False))


def above_noise(run: Run) -> tuple[str, ...]:
    """Return all that defines the front, stage by stage; its descriptions where the config cannot be built."""
    specs = run.config.get("pipeline") or []
    try:
        index = noise_index(specs)
        keys = [stage_key(stage) for stage in _in_samples(build_stages(specs[:index], training=True))]
    except (SoundcertError, TypeError, ValueError, AttributeError, StopIteration):
        return tuple(run.contract.get("pre_noise") or ())
    if run.contract.get("perturbation_location") == "latent":
        keys.append(_model(run))
    return tuple(keys)


def _in_samples(stages: Sequence[Stage]) -> Iterator[Stage]:
    """Yield stages, a length in seconds told in samples where the rate is known: it is one length, however written."""
    rate = None
    for stage in stages:
        if isinstance(stage, Resample):
            rate = stage.rate
        elif isinstance(stage, Fit) and rate is not None:
            yield Fit(samples=replace(stage, rate=rate).length(), place=stage.place)
            continue
        yield stage


def reasons(runs: Sequence[Run], space: str) -> list[Reason]:
    """Return why the runs' contracts do not allow a ranking in the space."""
    out: list[Reason] = []
    for letter, run in zip(LETTERS, runs, strict=False):
        if not run.contract:
            why = f"{letter} has no contract: no clip of it could be used, or it is not a run of `certify`"
            out.append(Reason("contract", why))
    if out:
        return out
    norms = [_of(run, "norm") for run in runs]
    if len(set(norms)) > 1:
        out.append(
            Reason(
                "norm", f"The radii are in different norms ({each(norms)}): no unit makes them one length."
            )
        )
    if space != "object":
        return out
    remedy = "--in file compares them on the file's samples, as far as that is proven."
    objects = [_of(run, "certified_object") for run in runs]
    locations = [_of(run, "perturbation_location") for run in runs]
    features = [loc in ("feature", "latent") for loc in locations]
    if len({above_noise(run) for run in runs}) > 1:
        if any(features) and not all(features):
            text = (
                f"The certified objects differ ({each(objects)}): a radius in features does not bound a waveform "
                "attacker, and a norm ratio of features is not an SNR, so the two are never ranked."
            )
        elif all(features):
            text = (
                f"The certified objects differ ({each(objects)}): they are made by different stages above the "
                "noise, so that one radius is two lengths in two spaces (gain, unit and floor decide which)."
            )
        else:
            text = (
                f"The certified objects differ ({each(objects)}): different stages stand above the noise, so that "
                "one radius is a change of two different signals."
            )
        out.append(Reason("object", text, remedy))
    units = [_of(run, "unit") for run in runs]
    if len(set(units)) > 1:
        out.append(Reason("unit", f"σ and the radii have different units ({each(units)}).", remedy))
    gains = [_gain_before(run) for run in runs]
    if len(set(gains)) > 1:
        out.append(
            Reason(
                "gain",
                f"The gain policies above the noise differ ({each(gains)}): the same radius is a larger or smaller "
                "change of the file, clip by clip.",
                remedy,
            )
        )
    noises = [_of(run, "noise") for run in runs]
    if len(set(noises)) > 1:
        out.append(Reason("noise", f"The noise is of different families ({each(noises)}).", remedy))
    return out


def clip_reasons(
    runs: Sequence[Run], records: Sequence[Mapping[str, Record]], common: Sequence[str]
) -> list[Reason]:
    """Return why the clips, labels or levels α do not allow a ranking. records: usable, by digest."""
    out: list[Reason] = []
    if not common:
        text = "No recording was certified by all runs: shares of different clips cannot be paired."
        sizes = [run.contract.get("dimension") for run in runs]
        if all(run.about_waveform for run in runs) and all(sizes) and len(set(sizes)) > 1:
            offset = 10 * math.log10(max(sizes) / min(sizes))  # type: ignore[type-var, operator]
            text += (
                f" SNRs of theirs are not on one scale either: the objects have {each(sizes)} values, and at equal "
                f"radius and RMS that alone is {offset:.2f} dB (10·log10 of the ratio of lengths)."
            )
        return [Reason("clips", text, "Certify the same clips with each.")]
    alphas = [sorted({r[d]["alpha"] for d in common}) for r in records]
    if len({tuple(a) for a in alphas}) > 1 or any(len(a) > 1 for a in alphas):
        words = ["/".join(f"{a:g}" for a in values) for values in alphas]
        smallest = min(min(a) for a in alphas)
        out.append(
            Reason(
                "alpha",
                f"α differs ({each(words)}): the certificates may be wrong with different probabilities, and a larger "
                "α buys larger radii.",
                f"--alpha {smallest:g} computes all radii at that α from the recorded counts.",
            )
        )
    truths = [[r[d].get("truth") for d in common] for r in records]
    if any(t is None for column in truths for t in column):
        out.append(
            Reason(
                "labels",
                "Clips have no label: a radius is about the answer and not about its truth, and a model that always "
                "says the same has the largest.",
                "Certify a labelled data list.",
            )
        )
    else:
        differ = [d for d, row in zip(common, zip(*truths, strict=True), strict=True) if len(set(row)) > 1]
        if differ:
            first = differ[0]
            seen = each([repr(r[first]["truth"]) for r in records])
            out.append(
                Reason(
                    "labels",
                    f"The data lists label {len(differ)} of the {len(common)} common clips differently "
                    f"(the first: {records[0][first]['clip']!r} is {seen}): the runs are not asked the same question.",
                    "Certify with one data list and one label_map.",
                )
            )
    return out


def facts(
    runs: Sequence[Run], records: Sequence[Mapping[str, Record]], common: Sequence[str], space: str
) -> tuple[Fact, ...]:
    """Return what each run is, property by property."""
    here = space == "object"

    def field(name: str) -> list[str]:
        return [_of(run, name) or "not recorded" for run in runs]

    def of_common(by_digest: Mapping[str, Record]) -> Sequence[Record]:
        return [by_digest[d] for d in common] or list(by_digest.values())

    def of_records(name: str, default: object = "-") -> list[str]:
        out = []
        for by_digest in records:
            values = sorted({_text(row.get(name, default)) for row in of_common(by_digest)})
            out.append("/".join(values[:4]) + ("/…" if len(values) > 4 else "") if values else "-")
        return out

    rows = [
        ("contract", field("kind"), False),
        ("certified object", field("certified_object"), here),
        ("unit", field("unit"), here),
        ("norm", field("norm"), True),
        ("noise", field("noise"), here),
        ("σ", [_text(run.contract.get("sigma", "-")) for run in runs], False),
        ("gain above the noise", [_gain_before(run) or "-" for run in runs], here),
        ("after the noise", ["; ".join(run.contract.get("post_noise") or ()) or "nothing" for run in runs], False),
        ("α", of_records("alpha"), True),
        ("n", [_span([row["n"] for row in of_common(by_digest)]) for by_digest in records], False),
        ("ceiling R/σ", _ceilings(records, common), False),
        ("bound", of_records("bound", "one-sided"), False),
        ("sampling policy", of_records("policy", "fixed"), False),
        ("seed", of_records("seed"), False),
        ("model", [_model(run) for run in runs], False),
        ("computed by", field("engine"), False),
        ("clips of the run", [str(run.total) for run in runs], False),
    ]  # fmt: skip
    return tuple(Fact(name, tuple(values), decides) for name, values, decides in rows)


def caveats(
    runs: Sequence[Run], records: Sequence[Mapping[str, Record]], common: Sequence[str], space: str
) -> list[Caveat]:
    """Return what to keep in mind, from settings alone."""
    out: list[Caveat] = []
    letter = dict(zip(map(id, runs), LETTERS, strict=False))
    for run in runs:
        if not run.finished:
            out.append(
                Caveat(
                    "unfinished",
                    f"{letter[id(run)]} is not finished ({len(run.records)} of {run.total} clips): runs go through the "
                    "list in order, so its clips are not a sample of all; finish it with --resume.",
                    True,
                )
            )

    def values(name: str, default: object = None) -> list[set[Any]]:
        return [{r[d].get(name, default) for d in common} for r in records]

    draws = values("n")
    if len({frozenset(n) for n in draws}) > 1 and all(len(n) == 1 for n in draws):
        said = each([next(iter(n)) for n in draws])
        out.append(
            Caveat(
                "draws",
                f"n differs ({said}), and with it the largest radius that can be certified (R/σ at most "
                f"{each(_ceilings(records, common))}): a run of fewer draws looks weaker on clips at its ceiling.",
                True,
            )
        )
    bounds = [sorted(b) for b in values("bound", "one-sided")]
    if len({tuple(b) for b in bounds}) > 1:
        out.append(
            Caveat("bound", f"The bounds differ ({each(['/'.join(b) for b in bounds])}): part of a difference may be "
                   "the bound's and not the model's.", True)
        )  # fmt: skip
    policies = [sorted(map(str, p)) for p in values("policy", "fixed")]
    if len({tuple(p) for p in policies}) > 1:
        out.append(
            Caveat("policy", f"n was chosen in different ways ({each(['/'.join(p) for p in policies])}): part of a "
                   "difference may be the sampling's and not the model's.", True)
        )  # fmt: skip
    if any("decide" in p for p in policies):
        asked = sorted({r for by in records for d in common for r in by[d].get("radii") or ()})
        said = ", ".join(f"{r:g}" for r in asked)
        out.append(
            Caveat("decide", f"Under `decide` a radius is the largest that was asked about and shown (asked: {said}): "
                   "between these, and above them, that run looks weaker than it is.", True)
        )  # fmt: skip
    if any("budget" in p for p in policies):
        out.append(
            Caveat("budget", "A budget over the run ties its clips together: they are not independent, so there are "
                   "no intervals and no tests.", True)
        )  # fmt: skip
    classes = [sorted(run.info.get("labels") or ()) for run in runs]
    if common and len({tuple(c) for c in classes}) > 1:
        only = [c for c in sorted(set().union(*classes)) if not all(c in k for k in classes)]
        out.append(
            Caveat("classes", f"The models choose among different labels ({each([len(c) for c in classes])}; not in "
                   f"all: {', '.join(map(repr, only[:6]))}{' …' if len(only) > 6 else ''}): fewer are easier.", True)
        )  # fmt: skip
    splits = sorted({str(s) for run in runs if (s := (run.config.get("data") or {}).get("split"))})
    if "training" in splits or "validation" in splits:
        out.append(
            Caveat("split", f"These are clips of the split {' and '.join(splits)}: what was fitted or chosen on them "
                   "looks stronger there than on new ones.", True)
        )  # fmt: skip
    out += _choosing(runs)
    post = [tuple(run.contract.get("post_noise") or ()) for run in runs]
    if len(set(post)) > 1:
        out.append(
            Caveat("post-noise", "What is done to the object after the noise differs. It belongs to the base classifier "
                   "and is part of what is compared; the radius is about the object before it.")
        )  # fmt: skip
    if space != "object":
        noises = [_of(run, "noise") for run in runs]
        if len(set(noises)) > 1:
            out.append(Caveat("noise", f"The noise is of different families ({each(noises)})."))
        out.append(Caveat("one-attacker", _attacker(space)))
    return out


def _attacker(space: str) -> str:
    where = "the file's samples" if space == "file" else f"the space {space!r}"
    return (
        f"All radii are carried to {where} with proof: every figure is about one attacker who changes that, and each "
        "is a lower bound. A chain that loses more makes a run look weaker than it may be; the stages above the "
        "noise that differ are part of what is compared."
    )


def _choosing(runs: Sequence[Run]) -> list[Caveat]:
    """Return what to say where the runs could be candidates of one choice."""
    what = []
    sigmas = [_text(run.contract.get("sigma", "-")) for run in runs]
    seeds = [str(run.certify.get("seed", "-")) for run in runs]
    models = [_model(run) for run in runs]
    if len(set(sigmas)) > 1:
        what.append(f"σ ({each(sigmas)})")
    if len(set(seeds)) > 1:
        what.append(f"the seed ({each(seeds)})")
    if len(set(models)) > 1:
        what.append("the model")
    if not what:
        return []
    named = " and ".join(what)
    text = (
        f"The runs differ in {named}. To choose by these figures is to choose on these clips: the best of several is "
        "then no result (choose on validation clips). Who keeps the best certificate of a clip divides α by the "
        "number of runs."
    )
    if len(set(seeds)) > 1 and len(set(models)) == 1 and len(set(sigmas)) == 1:
        text += " Runs that differ in the seed alone differ by Monte-Carlo error alone."
    return [Caveat("choice", text)]


def stage_rows(runs: Sequence[Run]) -> tuple[StageRow, ...]:
    """Merge the pipelines in order, and say which run has which stage."""
    rows: list[StageRow] = []
    for place, lists in (
        ("above", [_named(run, "pre_noise", above_noise(run)) for run in runs]),
        ("noise", [[f"{_of(run, 'noise')}(sigma={_text(run.contract.get('sigma', '-'))})"] for run in runs]),
        ("below", [[*(run.contract.get("post_noise_stages") or ()), _model(run)] for run in runs]),
    ):
        merged: list[str] = []
        for stages in lists:
            parts = SequenceMatcher(a=merged, b=stages, autojunk=False).get_opcodes()
            merged = [
                stage
                for tag, i, j, k, m in parts
                for stage in (*merged[i:j], *(() if tag == "equal" else stages[k:m]))
            ]
        has = [_where(merged, stages) for stages in lists]
        for index, stage in enumerate(merged):
            rows.append(StageRow(place, stage, tuple(h[index] for h in has)))  # type: ignore[arg-type]
    return tuple(rows)


def _named(run: Run, field: str, keys: Sequence[str]) -> list[str]:
    """Return stages as described, with a mark where the description leaves out what tells them apart."""
    texts = list(run.contract.get(field) or ())
    if len(texts) > len(keys):
        return texts
    return [
        f"{text} #{blake2b(key.encode('utf-8', 'replace'), digest_size=3).hexdigest()}"
        if "values>" in text
        else text
        for text, key in zip(texts, keys, strict=False)
    ]


def _where(merged: Sequence[str], stages: Sequence[str]) -> list[bool]:
    """Return where a list stands in a longer one that contains it in order."""
    out = [False] * len(merged)
    rest = list(stages)
    for index, stage in enumerate(merged):
        if rest and rest[0] == stage:
            out[index] = True
            rest.pop(0)
    return out


def _ceilings(records: Sequence[Mapping[str, Record]], common: Sequence[str]) -> list[str]:
    out = []
    for by_digest in records:
        rows = [by_digest[d] for d in common] or by_digest.values()
        ratios = [row["ceiling"] / row["sigma"] for row in rows]
        if not ratios:
            out.append("-")
        elif max(ratios) - min(ratios) < 1e-9:
            out.append(f"{ratios[0]:.3f}")
        else:
            out.append(f"{min(ratios):.3f} to {max(ratios):.3f}")
    return out


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return ("-" if not numbers else str(low)) if low == high else f"{low} to {high}"


def _of(run: Run, name: str) -> str:
    return str(run.contract.get(name) or "")


def _gain_before(run: Run) -> str:
    parts = [p for p in _of(run, "gain_policy").split("; ") if "after the noise" not in p]
    return "; ".join(parts) or "none: the samples keep the file's own scale"


def _model(run: Run) -> str:
    # What the digest is of may stand before it: "factory:…", "source:…".
    kind, colon, digest = str((run.info.get("identity") or {}).get("model") or "").rpartition(":")
    return f"{_of(run, 'model') or 'model'} {kind}{colon}{digest[:8]}".strip()


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
