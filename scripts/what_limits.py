"""What stands in the way of larger certified shares? Writes docs/what-limits.md. About forty minutes on two cores.

    python scripts/what_limits.py --data ../shared/data/speech_commands --work build/limits --jobs 2

Three questions about keywords under noise of σ = 2. What would a bound gain that asks for more than the top class's
probability: for the strongest rival's, or for the slope? How far away is another answer, as far as an attack finds one?
And what do more recordings to learn from gain: the network is trained on a quarter, a half and all of the training
speakers, and on these and half of the *testing* speakers, to be heard on the other half. That last network is a probe and
no result, since it has seen testing clips.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import multiprocessing
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy.optimize import brentq
from scipy.stats import norm

import soundcert as sc
from soundcert import bounds
from soundcert.attack import Attacker, Claim, Settings
from soundcert.certify import SmoothedClassifier
from soundcert.classifier import votes
from soundcert.config import load_config
from soundcert.data import DataConfig, load_items
from soundcert.data.items import Item
from soundcert.randomness import NoiseKey, noise_stream
from soundcert.runs.directory import write_json
from soundcert.sampling import Job, count_votes
from soundcert.train import train

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "src" / "soundcert" / "models" / "zoo" / "kws-waveform-sigma-2.safetensors"
SIGMA, SNR = 2.0, 30.0
RADIUS = 2 * math.sqrt(16_000) * math.sin(0.5 * math.asin(10 ** (-SNR / 20)))  # of one second at RMS 1
EPOCHS, DRAWS = 30, 100
SHARES = (0.25, 0.5, 1.0)


PAGE = """\
# What limits the certified share

Written by `python scripts/what_limits.py`: keywords (yes, no, up, down, left, right, go, zero, one, two) under noise of
σ = {sigma:g} at RMS 1. The [study](results/study/README.md) certifies fewer testing clips at {snr:g} dB than one would
like, and than its validation clips promise. What would another bound gain, and what more recordings?

## The rival's share and the slope would add little

{clips} validation clips, chosen by a hash of their names among those of which about 0.5 to 5 % of the noisy copies fail
(`kws-waveform-sigma-2`), with {draws:,} draws each: those whose radius is in question. Medians, quartiles in brackets,
and the largest.

| of the draws that fail | median (quartiles) | largest |
|---|---:|---:|
| part that goes to one rival class | {rival} | {most_rival:.2f} |
| slope: 1 for a half-space, less for any other set | {slope} | {most_slope:.2f} |
| radius if the rival's share were known too, over the radius | {by_rival} | {most_by_rival:.3f} |
| radius if the slope were known too, over the radius | {by_slope} | {most_by_slope:.3f} |
| smallest perturbation found that changes the answer, over the radius | {flip} | {most_flip:.2f} |

"The radius" is σΦ⁻¹(1 − share of failures) here, without what {draws:,} draws at α = 0.001 lose of it ({lost:.0f} %
where 2 % fail). It allows for the worst set of failures: a half-space whose copies all go to one class. In most clips
nearly all copies that go wrong go to one class, so that the [runner-up's bound](theory.md#two-class-bounds) has little
to gain; and a bound that knows the gradient's norm too ([arXiv 2010.10549](https://arxiv.org/abs/2010.10549)) gains a
few per cent, before it pays for estimating it. The true radius may be larger: two half-spaces at right angles have a
slope of 0.77 as well, and a radius 12 % above this one. A [search](attack.md) found another answer at half as far again
as the radius ({flips} clips; certified with 1,000 draws, each answer counted with 1,000 more), so that much may be
there at most in such a clip; but a bound that asks for no more than these figures cannot show it.

(The slope is the root of an estimate without bias, over φ(Φ⁻¹(share)); it may exceed 1 by chance, and counts as 1
then.)

## More recordings help, less and less

One network (residual, features every 10 ms, the recipe of `brisk` without synthetic voices, one seed), trained with as
many steps on clips of more and more speakers; heard on the 500 validation clips of the study, which also chose its best
epoch, and on testing clips of speakers that none of these networks has heard ({kept} clips of the half of the testing
speakers that is kept back). “{snr:g} dB” is the share whose estimate at level ½ of {estimate_draws} draws reaches it:
no certificate.

| trained on | speakers | clips | validation, one noisy copy | {snr:g} dB | testing, one noisy copy | {snr:g} dB |
|---|---:|---:|---:|---:|---:|---:|
{table}

The second doubling of the speakers gains less than the first of what testing copies are known. Half of the testing
speakers, added to all others, show no clear gain: no sign that testing clips are of another kind than those that the
networks learn from, though two or three points could hide. (That last row is a probe: it has learnt from testing
speakers, and no figure elsewhere is of such a network. The standard error of a share of testing clips is about
{error:.1f} points, and more since a speaker has several clips.)
"""


def pipe_of(folder: Path, model: dict[str, Any], more: dict[str, Any] | None = None) -> Path:
    """Write a config, with more than a pipeline if asked, and return its path."""
    stages = [
        "mono",
        {"resample": {"rate": 16000}},
        {"fit": {"seconds": 1.0}},
        {"rms_normalize": {"target": 1.0}},
        {"gaussian_noise": {"sigma": SIGMA}},
        {"log_mel": {"n_mels": 40, "n_fft": 1024, "hop": 160, "floor": 100.0}},
        {"model": model},
    ]
    path = folder / f"{Path(model['weights']).stem}.yaml"
    path.write_text(yaml.safe_dump({"pipeline": stages, **(more or {})}, sort_keys=False), encoding="utf-8")
    return path


def clips_of(data: Path, split: str, limit: int | None = None) -> list[Item]:
    return load_items(DataConfig(source="speech_commands", root=str(data), split=split, limit=limit), ROOT)


# --- the bound -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failures:
    """Of one clip's draws: the share that failed, the strongest rival's part of it, and the slope.

    slope: ‖E[1{fails}·z]‖ over φ(Φ⁻¹(share)), z the noise over σ. No set of that probability has more than 1, and a
    half-space has 1. By Σ_{i≠j} ⟨zᵢ, zⱼ⟩ over the failing draws, whose expectation is the square of n(n − 1) such norms.
    """

    clip: str
    share: float
    rival: float
    slope: float
    flip: float | None = None  # the smallest perturbation found that changes the answer, over σΦ⁻¹(1 − share)


def failures(smoothed: SmoothedClassifier, item: Item, draws: int, purpose: str) -> Failures:
    clip = item.load()
    route = smoothed.pipe.route(clip.space)
    v = route.noise.held(smoothed.pipe.object_of(clip))
    base = smoothed.base(route, v, 0, clip.digest)
    stream = noise_stream(NoiseKey(0, purpose, clip.digest), base.noise)  # type: ignore[arg-type]
    top = base.labels.index(str(item.label))
    rows = torch.empty(base.micro_batch, *base.shape)
    counts, n = np.zeros(base.classes), 0
    total, squares = torch.zeros(v.numel(), dtype=torch.float64), 0.0
    with torch.inference_mode():
        while n < draws:
            winners = votes(base(stream.noisy_(rows, v))).numpy()
            z = ((rows - v) / SIGMA).flatten(1).double()[torch.from_numpy(winners != top)]
            total += z.sum(0)
            squares += float((z * z).sum())
            counts += np.bincount(winners[winners >= 0], minlength=base.classes)
            n += len(rows)
    failed = n - counts[top]
    if not 0 < failed < n:
        return Failures(item.name, float(failed / n), 0.0, 0.0)
    square = (float(total @ total) - squares) / (n * (n - 1))
    slope = math.copysign(math.sqrt(abs(square)), square) / norm.pdf(norm.ppf(failed / n))
    return Failures(item.name, float(failed / n), float(np.delete(counts, top).max() / failed), float(slope))


def ratio_with_slope(share: float, slope: float) -> float:
    """Return the R/σ that would hold if the share of failures and their slope were known exactly, and nothing else.

    The worst set of failures is then z < a or z > b along the perturbation, with Φ(a) + Φ(−b) = share and
    φ(b) − φ(a) = slope·φ(Φ⁻¹(share)), and Φ(a − R/σ) + Φ(R/σ − b) = ½. With slope 1, a = −∞ and R/σ = Φ⁻¹(1 − share).
    Source: arXiv 2010.10549, Theorem 1.
    """
    most = norm.pdf(norm.ppf(share))
    want = min(max(slope, 0.0), 1.0) * most

    def moment(right: float) -> float:
        left = share - right
        return float(norm.pdf(norm.isf(right)) - (norm.pdf(norm.ppf(left)) if left > 0 else 0.0) - want)

    right = share if moment(share) <= 0 else float(brentq(moment, share / 2, share, xtol=1e-15))
    a, b = norm.ppf(share - right), norm.isf(right)
    return float(brentq(lambda r: norm.cdf(a - r) + norm.cdf(r - b) - 0.5, 0.0, 12.0))


_SMOOTHED: list[SmoothedClassifier] = []


def look(item: Item, work: Path, draws: int) -> Failures | None:
    """Look at a clip of which 0.5 to 5 % of a thousand draws fail: a larger bound could help it. None for others."""
    if not _SMOOTHED:
        torch.set_num_threads(1)
        path = work / f"{ZOO.stem}.yaml"
        _SMOOTHED.append(SmoothedClassifier(sc.Pipeline.from_yaml(path), workers=1))
    smoothed = _SMOOTHED[0]
    if not 0.005 <= failures(smoothed, item, 1000, "pilot").share <= 0.05:
        return None
    found = failures(smoothed, item, draws, "diagnostics")
    clip = item.load()
    certificate = smoothed.certify(clip, n=1000)
    if certificate.status == "certified" and certificate.label == item.label and certificate.radius > 0:
        attacked = Attacker(smoothed, Settings("object", ("flip",), n=1000)).attack(
            clip, Claim.of(certificate), None
        )
        if attacked.flipped is not None:
            found = replace(found, flip=attacked.flipped.norm / (SIGMA * float(norm.isf(found.share))))
    return found


def ask_bound(data: Path, work: Path, clips: int, draws: int, pool: Any) -> dict[str, Any]:
    """Look at validation clips in an order that is nobody's choice, until there are enough."""
    pipe_of(work, {"weights": str(ZOO)})
    items = sorted(clips_of(data, "validation"), key=lambda i: hashlib.sha256(i.name.encode()).hexdigest())
    found: list[Failures] = []
    for one in pool.imap(partial(look, work=work, draws=draws), items):
        if one is not None:
            found.append(one)
            print(one, flush=True)
        if len(found) == clips:
            break
    return {"draws": draws, "clips": [asdict(f) for f in found]}


# --- the recordings --------------------------------------------------------------------------------


def speaker(item: Item) -> str:
    return Path(item.name).name.split("_nohash_")[0]


def some_speakers(items: Sequence[Item], share: float) -> list[Item]:
    """Return the clips of that share of the speakers, by a hash of their names: a larger share only adds to it."""
    names = sorted({speaker(i) for i in items}, key=lambda s: hashlib.sha256(s.encode()).hexdigest())
    kept = set(names[: round(share * len(names))])
    return [i for i in items if speaker(i) in kept]


def write_list(path: Path, items: Sequence[Item]) -> dict[str, str]:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "label"))
        rows.writerows((str(i.path.resolve()), i.label) for i in items)
    return {"source": "manifest", "root": path.name}


def learn(name: str, data: Path, work: Path) -> dict[str, Any]:
    """Train one network, and say what it knows of the validation clips and of the testing speakers that none has heard."""
    torch.set_num_threads(1)
    kept_facts = work / f"{name}.json"
    if kept_facts.exists():
        known: dict[str, Any] = json.loads(kept_facts.read_text(encoding="utf-8"))
        return known
    everything = clips_of(data, "training")
    testing = clips_of(data, "testing")
    lent = some_speakers(testing, 0.5)
    kept = {i.name for i in testing} - {i.name for i in lent}
    clips = [*everything, *lent] if name == "lent" else some_speakers(everything, float(name))
    # As many steps for each: what differs is what they are made on.
    epochs = round(EPOCHS * len(everything) / len(clips))
    valid = clips_of(data, "validation", 500)
    recipe = {
        "clips": write_list(work / f"{name}.csv", clips),
        "validation": write_list(work / f"{name}-validation.csv", valid),
        "epochs": epochs,
        "batch": 32,
        "draws": 1,
        "consistency": 0,
        "mix": 0.1,
        "speed": 0.15,
        "shift": 0.1,
        "patience": 1000,
        "validation_draws": 2,
        "precision": "bf16",
        "seed": 5,
    }
    options = {"width": 24, "last": 128, "dropout": 0.2}
    model = {"network": "res_cnn", "options": options, "weights": f"speakers-{name}.safetensors"}
    path = pipe_of(work, model, {"data": write_list(work / f"{name}.csv", clips), "train": recipe})
    if not (work / model["weights"]).exists():  # type: ignore[operator]
        train(load_config(path), base=work, resume=True)
    smoothed = SmoothedClassifier(sc.Pipeline.from_yaml(path))
    unheard = [i for i in clips_of(data, "testing") if i.name in kept][:: max(1, len(kept) // 600)]
    facts: dict[str, Any] = {
        "clips": len(clips),
        "speakers": len({speaker(i) for i in clips}),
        "epochs": epochs,
    }
    for title, items in (("validation", valid), ("testing", unheard)):
        counts = np.array([hits(smoothed, i) for i in items])
        radii = [bounds.certified_radius(int(k), DRAWS, 0.5, SIGMA) or 0.0 for k in counts]
        facts[title] = {
            "clips": len(items),
            "under_noise": float(counts.mean() / DRAWS),
            "estimated": float(np.mean([r >= RADIUS for r in radii])),
        }
    print(name, facts, flush=True)
    write_json(kept_facts, facts)
    return facts


def hits(smoothed: SmoothedClassifier, item: Item) -> int:
    """Return how many of DRAWS noisy copies give the clip's label."""
    clip = item.load()
    route = smoothed.pipe.route(clip.space)
    v = route.noise.held(smoothed.pipe.object_of(clip))
    base = smoothed.base(route, v, 0, clip.digest)
    counts = count_votes(base, [Job(v, NoiseKey(0, "diagnostics", clip.digest), DRAWS)], workers=1)
    return int(counts[0, base.labels.index(str(item.label))])


# --- the page --------------------------------------------------------------------------------------


def write(facts: dict[str, Any]) -> None:
    found = [Failures(**f) for f in facts["bound"]["clips"]]
    plain = [float(norm.isf(f.share)) for f in found]
    two = [(p + float(norm.isf(f.share * f.rival))) / 2 / p for p, f in zip(plain, found, strict=True)]
    slope = [ratio_with_slope(f.share, f.slope) / p for p, f in zip(plain, found, strict=True)]
    rows = [
        (
            f"{100 * float(name):g} % of the training speakers"
            if name != "lent"
            else "all, and half of the testing speakers",
            f,
        )
        for name, f in facts["speakers"].items()
    ]

    def spread(values: Sequence[float], digits: str = ".2f") -> str:
        low, _, high = statistics.quantiles(values, n=4)
        return f"{statistics.median(values):{digits}} ({low:{digits}} to {high:{digits}})"

    table = "\n".join(
        f"| {title} | {f['speakers']:,} | {f['clips']:,} | "
        + " | ".join(
            f"{100 * f[s][k]:.1f} %" for s in ("validation", "testing") for k in ("under_noise", "estimated")
        )
        + " |"
        for title, f in rows
    )
    flips = [f.flip for f in found if f.flip is not None]
    rivals, slopes = [f.rival for f in found], [f.slope for f in found]
    page = PAGE.format(
        sigma=SIGMA, snr=SNR, estimate_draws=DRAWS, table=table, error=spread_error(rows), clips=len(found),
        draws=facts["bound"]["draws"], kept=rows[0][1]["testing"]["clips"], flips=len(flips),
        rival=spread(rivals), slope=spread(slopes), by_rival=spread(two, ".3f"), by_slope=spread(slope, ".3f"),
        flip=spread(flips), most_rival=max(rivals), most_slope=max(slopes), most_by_rival=max(two),
        most_by_slope=max(slope), most_flip=max(flips), lost=100 * (1 - kept_of(facts["bound"]["draws"])),
    )  # fmt: skip
    (ROOT / "docs" / "what-limits.md").write_text(page, encoding="utf-8")


def kept_of(draws: int) -> float:
    """Return the part of the radius that so many draws certify where 2 % fail."""
    return (bounds.certified_radius(draws - round(0.02 * draws), draws, 1e-3, 1.0) or 0.0) / float(
        norm.isf(0.02)
    )


def spread_error(rows: Sequence[tuple[str, dict[str, Any]]]) -> float:
    """Return the standard error of a share of the testing clips, in points, as if they were drawn one by one."""
    last = rows[-1][1]["testing"]
    return 100 * math.sqrt(last["estimated"] * (1 - last["estimated"]) / last["clips"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of Speech Commands")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "limits", help="weights and lists; kept"
    )
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--jobs", type=int, default=1, help="networks trained at a time")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    names = [*map(str, SHARES), "lent"]
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        learnt = pool.map(partial(learn, data=args.data, work=args.work), names, chunksize=1)
        bound = ask_bound(args.data, args.work, args.clips, args.draws, pool)
        pool.terminate()  # clips beyond the last that is needed
    facts = {"speakers": dict(zip(names, learnt, strict=True)), "bound": bound}
    write_json(ROOT / "docs" / "results" / "what-limits.json", facts)
    write(facts)


if __name__ == "__main__":
    main()
