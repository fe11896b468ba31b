"""Which contract certifies more against the same attacker? Writes docs/contracts-compared.md.

    python scripts/contracts_table.py run --data ../shared/data --work build/contracts   # trains, certifies; hours
    python scripts/contracts_table.py write --work build/contracts                       # the page, from the runs

The attacker adds a perturbation to the file's samples; its size is an SNR. Each cell is a data set, a
place for the noise (waveform at RMS 1, or log-mel features with a floor) and σ. Each cell's model is
trained with its own noise in its own place by the same short recipe, and certified on the same test
clips; each certificate is carried to the file's samples by the proven chain. `run` goes on where it
stopped; finished cells are kept.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import soundcert as sc
from soundcert import bounds
from soundcert.config import load_config
from soundcert.data import load_items
from soundcert.errors import SoundcertError
from soundcert.report.shares import percent_of
from soundcert.runs import certify_run
from soundcert.train import train
from soundcert.transport import carry

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "contracts-compared.md"
RESULTS = ROOT / "docs" / "results" / "contracts.json"
SNRS = (90, 80, 70, 60, 55, 50, 45, 40, 35, 30, 25)
SHARES = (0.8, 0.7, 0.6, 0.5)
WORDS = "yes, no, up, down, left, right, go, zero, one, two"


@dataclass(frozen=True)
class Cell:
    """floor: of the log-mel, under either contract. place: where the noise is added."""

    data: str
    place: str
    sigma: float
    floor: float

    @property
    def name(self) -> str:
        return f"{self.data}-{self.place}-{self.sigma:g}-floor-{self.floor:g}"

    def config(self, data: Path) -> dict[str, Any]:
        speech = self.data == "speech_commands"
        root = str((data / self.data).resolve())
        mel = {"log_mel": {"n_mels": 40, "floor": self.floor, **({} if speech else {"hop": 320})}}
        noise = {"gaussian_noise": {"sigma": self.sigma}}
        network = (
            {"network": "ds_cnn", "options": {"width": 64, "wide": 96, "blocks": 5, "halve": 2}}
            if speech
            else {"network": "event_cnn"}
        )
        pair = [noise, mel] if self.place == "waveform" else [mel, noise]
        common: dict[str, Any] = {"seed": 0, "validation_draws": 2, "warm_up": 2, "patience": 100}
        recipe = (
            {"epochs": 7, "speed": 0.15,
             "clips": {"source": self.data, "root": root, "split": "training"},
             "validation": {"source": self.data, "root": root, "split": "validation",
                                                        "limit": 300}}
            if speech
            else {"epochs": 40, "batch": 32, "shift": 0.3, "mix": 0.3,
                  "clips": {"source": self.data, "root": root, "folds": [3, 4, 5]},
                  "validation": {"source": self.data, "root": root, "folds": [2]}}
        )  # fmt: skip
        chosen = (
            {"source": self.data, "root": root, "split": "testing", "limit": 100}
            if speech
            else {"source": self.data, "root": root, "folds": [1], "limit": 40}
        )
        return {
            "data": chosen,
            "pipeline": [
                "mono",
                {"fit": {"seconds": 1.0 if speech else 5.0}},
                {"rms_normalize": {"target": 1.0}},
                *pair,
                {"model": {**network, "weights": f"{self.name}.safetensors"}},
            ],
            "certify": {"n0": 100, "n": 2000, "alpha": 0.001, "seed": 0},
            "train": {**common, **recipe},
        }


# (place, σ, floor), the most telling first.
GRID = (
    ("features", 0.5, 10), ("features", 0.5, 100), ("waveform", 0.5, 1), ("features", 2, 100), ("waveform", 2, 1),
    ("features", 1, 1000), ("features", 0.5, 1), ("features", 2, 1000), ("waveform", 4, 1), ("features", 1, 1e4),
    ("waveform", 0.0025, 1), ("features", 0.5, 1e-3), ("waveform", 1, 1), ("features", 1, 100), ("waveform", 0.1, 1),
)  # fmt: skip
CELLS = tuple(
    Cell(data, place, sigma, floor) for place, sigma, floor in GRID for data in ("esc10", "speech_commands")
)


def run(cell: Cell, data: Path, work: Path) -> None:
    """Train and certify one cell, as far as that is not done."""
    file = work / f"{cell.name}.yaml"
    file.write_text(yaml.safe_dump(cell.config(data), sort_keys=False), encoding="utf-8")
    config = load_config(file)
    if not (work / f"{cell.name}.safetensors").exists():
        train(config, base=work, resume=(work / f"{cell.name}.training").exists())
    out = work / cell.name
    if not (out / "report.json").exists():
        assert config.data is not None
        certify_run(config, load_items(config.data, work), out, base=work, resume=(out / "run.json").exists())


def carried(cell: Cell, work: Path) -> Iterator[dict[str, Any]]:
    """Yield each clip's outcome, with the radius carried to the file by today's bounds."""
    config = load_config(work / f"{cell.name}.yaml")
    pipe = sc.Pipeline.from_config(config, work)
    assert config.data is not None
    paths = {item.name: item.path for item in load_items(config.data, work)}
    for line in (work / cell.name / "certificates.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        right = record["status"] == "certified" and record["candidate"] == record["truth"]
        out = {"right": right, "abstained": record["status"] == "abstained"}
        if right:
            clip = sc.load_clip(paths[record["clip"]], name=record["clip"])
            points = pipe.front_trace(clip)
            file = carry(pipe.route(clip.space), points, record["radius"], "file", exact=clip.exact)
            out |= {"radius": record["radius"], "snr_db": file.snr_db}
        yield out


def cell_facts(cell: Cell, work: Path) -> dict[str, Any]:
    """Return what one finished cell says, with SNRs in the file."""
    clips = list(carried(cell, work))
    snrs = sorted(c["snr_db"] for c in clips if c["right"])
    return {
        "data": cell.data,
        "place": cell.place,
        "sigma": cell.sigma,
        "floor": cell.floor,
        "clips": len(clips),
        "smoothed_accuracy": len(snrs) / len(clips),
        "abstained": sum(c["abstained"] for c in clips),
        "certified_at_snr": {str(db): sum(x <= db for x in snrs) / len(clips) for db in SNRS},
        # The smallest SNR at which so many clips are certified with their label; none where too few are.
        "snr_at_accuracy": {
            str(share): snrs[need - 1] if (need := math.ceil(share * len(clips))) <= len(snrs) else None
            for share in SHARES
        },
    }


def label(facts: dict[str, Any]) -> str:
    place = "waveform" if facts["place"] == "waveform" else "log-mel"
    unit = "× RMS" if facts["place"] == "waveform" else "nats"
    return f"{place}, σ = {facts['sigma']:g} {unit}, ε = {facts['floor']:g}"


def order(facts: dict[str, Any]) -> tuple[Any, ...]:
    return (facts["place"] == "features", facts["floor"], facts["sigma"])


def best(rows: list[dict[str, Any]], place: str, share: str) -> dict[str, Any] | None:
    able = [r for r in rows if r["place"] == place and r["snr_at_accuracy"][share] is not None]
    return min(able, key=lambda r: r["snr_at_accuracy"][share], default=None)


def section(data: str, rows: list[dict[str, Any]]) -> list[str]:
    speech = data == "speech_commands"
    what = f"Speech Commands, ten words ({WORDS})" if speech else "ESC-10, fold 1"
    rows = sorted(rows, key=order)
    lines = [
        f"## {what}",
        "",
        f"{rows[0]['clips']} testing clips. Share of them certified with their label against every perturbation of the "
        "file's samples "
        "at the SNR or above:",
        "",
        "| contract | smoothed accuracy | " + " | ".join(f"{db} dB" for db in SNRS) + " |",
        "|---|---:|" + "---:|" * len(SNRS),
        *(
            f"| {label(r)} | {percent_of(r['smoothed_accuracy'], r['clips'], decimals=0, gap='')} | "
            + " | ".join(
                percent_of(share, r["clips"], decimals=0, gap="") for share in r["certified_at_snr"].values()
            )
            + " |"
            for r in rows
        ),
        "",
        "At equal certified accuracy, the smallest SNR (in dB) that each contract reaches with any of its σ and ε above:",
        "",
        "| certified accuracy | waveform | log-mel | the stronger, by |",
        "|---:|---|---|---|",
    ]
    for share in map(str, SHARES):
        pair = [best(rows, place, share) for place in ("waveform", "features")]
        cells = [
            "not reached" if r is None else
            f"{bounds.format_up(r['snr_at_accuracy'][share], decimals=1)} dB (σ = {r['sigma']:g}, ε = {r['floor']:g})"
            for r in pair
        ]  # fmt: skip
        verdict = "-"
        if pair[0] and pair[1]:  # half a decibel is less than these few clips can tell
            gap = pair[0]["snr_at_accuracy"][share] - pair[1]["snr_at_accuracy"][share]
            verdict = (
                "even" if abs(gap) < 0.5 else f"{'log-mel' if gap > 0 else 'waveform'}, {abs(gap):.1f} dB"
            )
        lines.append(f"| {float(share):.0%} | {cells[0]} | {cells[1]} | {verdict} |")
    return [*lines, ""]


def write(work: Path) -> None:
    rows = [cell_facts(c, work) for c in CELLS if (work / c.name / "report.json").exists()]
    if rows:
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    else:  # no runs here: the page anew, from the facts that are kept
        rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = [
        "# Which contract certifies more against the same attacker?",
        "",
        "Written by `python scripts/contracts_table.py`. The attacker adds a perturbation to the *file's "
        "samples*, of ℓ2 norm below",
        "‖file‖·10^(−SNR/20). Every certificate is carried to that space with proof "
        "([theory](theory.md#carrying-a-radius-to-another-space)),",
        "waveform smoothing (at RMS 1) through its gain, log-mel smoothing (40 bands, natural logarithm of "
        "power + ε) through features and",
        "gain. A smaller SNR is a stronger guarantee.",
        "",
        "Each row has a model of its own, trained by one short recipe with the row's noise in the row's "
        "place (Speech Commands: DS-CNN,",
        "7 epochs; ESC-10: a small CNN on three folds, 40 epochs); n = 2000 and α = 0.001 for every "
        "certificate, the same clips in each",
        "row. The short recipe and the small test sets are for comparison between rows: models trained "
        "longer certify more (see",
        "[models](models.md)), and an interval of 95 % around a share is up to ±10 points for 100 clips, ±16 "
        "for 40. Rows were not chosen on",
        "validation clips: the smallest SNRs below are the best of their rows on these same clips, a "
        "description of the table.",
        "",
    ]
    for data in ("speech_commands", "esc10"):
        chosen = [r for r in rows if r["data"] == data]
        if chosen:
            lines += section(data, chosen)
    lines += (ROOT / "scripts" / "contracts_reading.md").read_text(encoding="utf-8").splitlines()
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=["run", "write"])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "contracts")
    parser.add_argument("--only", help="cells of this data set")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for cell in CELLS:
        if options.only in (None, cell.data) and options.do == "run":
            torch.manual_seed(0)
            try:
                run(cell, options.data, options.work)
            except SoundcertError as error:
                print(f"{cell.name}: {error}")
            print(cell.name, flush=True)
    if options.do == "write":
        write(options.work)


if __name__ == "__main__":
    main()
