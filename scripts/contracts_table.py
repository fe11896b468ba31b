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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import soundcert as sc
from soundcert.config import load_config
from soundcert.data import load_items
from soundcert.errors import SoundcertError
from soundcert.runs import certify_run
from soundcert.train import train

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "contracts-compared.md"
RESULTS = ROOT / "docs" / "results" / "contracts.json"
SNRS = (90, 80, 70, 60, 55, 50, 45, 40, 35, 30, 25)
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
    ("features", 0.5, 1), ("features", 1, 1000), ("features", 1, 100), ("features", 0.5, 1000), ("waveform", 4, 1),
    ("features", 0.5, 1e4), ("features", 2, 10), ("waveform", 0.0025, 1), ("features", 0.5, 1e-3), ("waveform", 0.1, 1),
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
            file = sc.transport.carry(
                pipe.route(clip.space), points, record["radius"], "file", exact=clip.exact
            )
            out |= {"radius": record["radius"], "snr_db": file.snr_db}
        yield out


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


if __name__ == "__main__":
    main()
