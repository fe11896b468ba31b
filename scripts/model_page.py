"""Bundle models, and write docs/models.md and the README's table from the runs that measured them.

    python scripts/model_page.py                                             # the pages, from docs/results/NAME.json
    python scripts/model_page.py kws-waveform=runs/kws-waveform              # a run of configs/kws-waveform.yaml
    python scripts/model_page.py esc10-waveform=runs/study/cells/CELL/fold-1 # a fit of a study: bundles its weights too

A run's facts are kept as docs/results/NAME.json. Only a run that was made with the bundled weights is taken.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from soundcert.bounds import format_down, format_up
from soundcert.models import bundled, load_weights
from soundcert.report.shares import percent_of, percents
from soundcert.runs import open_run
from soundcert.runs.directory import write_json
from soundcert.runs.summary import summarise

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "src" / "soundcert" / "models" / "zoo"
RESULTS = ROOT / "docs" / "results"
BEGIN, END = "<!-- begin: scripts/model_page.py -->", "<!-- end -->"
WORDS = "yes, no, up, down, left, right, go, zero, one, two"
SNRS = ("60", "45", "35", "30")
DATA = {
    "speech_commands": "Speech Commands, CC BY 4.0 (Warden 2018)",
    "esc10": "ESC-10, CC BY 3.0 (Piczak 2015), clips of freesound.org under CC0, CC BY and CC Sampling+",
}
NETWORKS = {"ds_cnn": "DS-CNN", "event_cnn": "small CNN", "res_cnn": "residual CNN"}


def read(name: str, folder: Path) -> dict[str, Any]:
    """Return a run's facts. A study's fit is bundled under the name first."""
    fit = (folder / "train.json").exists()
    run = folder / "run" if fit else folder
    if fit:
        shutil.copyfile(folder / "model.safetensors", ZOO / f"{name}.safetensors")
    facts = json.loads((run / "run.json").read_text())
    report = json.loads((run / "report.json").read_text())
    model = load_weights(bundled(name))
    if model.digest != facts["identity"]["model"]:
        raise SystemExit(f"{name}: {run} was made with other weights than the bundled ones")
    return {
        "name": name,
        "recipe": f"cell `{folder.parts[folder.parts.index('cells') + 1]}` of `configs/study.yaml`"
        if fit
        else f"`configs/{name}.yaml`",
        "network": model.network,
        "model_digest": model.digest,
        "certify": facts["config"]["certify"],
        "data": {k: v for k, v in facts["config"]["data"].items() if k != "root"},
        "contract": report["contract"],
        "training": dict(model.meta),
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "summary": summarise(open_run(run).records),
    }


def share(summary: dict[str, Any], value: float) -> str:
    """A share of the clips of known label."""
    return percent_of(value, summary["smoothed_accuracy_over"])


def row(facts: dict[str, Any]) -> str:
    s, contract = facts["summary"], facts["contract"]
    low, high = percents(s["smoothed_accuracy_interval_95"])
    levels = s.get("certified_accuracy_at_file_snr_db")
    if levels and contract["perturbation_location"] != "feature":
        at = ", ".join(f"{share(s, levels[db])} at {db} dB" for db in SNRS)
        # Under `decide` a certificate of the label alone has no level, and the median none.
        middle = s.get("median_file_snr_db", s.get("median_snr_db"))
        scale = "largest decided" if middle is None else f"{format_up(middle, decimals=2)} dB in the file"
    else:
        radii = s["certified_accuracy_at_radius"]
        radius = list(radii)[3]
        at = f"{share(s, radii[radius])} at radius {radius} nats"
        scale = f"{format_up(s['median_norm_ratio_db'], decimals=2)} dB norm ratio, not an SNR"
    deciding = "decide" in facts["certify"]
    data = "ten words" if facts["data"]["source"] == "speech_commands" else "ESC-10"
    return (
        f"| `{facts['name']}` | {data} | {contract['kind']}, σ = {contract['sigma']:g} ({contract['unit']}) | "
        f"{share(s, s['smoothed_accuracy'])} ({low} to {high}) | {at} | {s['abstained']} of {s['clips']} | "
        f"{format_down(s['median_radius'], significant=4)} ({scale}) | "
        f"{'at most ' if deciding else ''}{facts['certify']['n']} |"
    )


def table(all_facts: list[dict[str, Any]]) -> str:
    c = all_facts[0]["certify"]
    return "\n".join(
        [
            f"The ten words are {WORDS} (not the usual on/off/stop task) of Speech Commands, in a selection of its clips: "
            "6,414 for training, 783 for validation and 3,644 for testing by the official rule, near-silent ones left out; "
            "the testing clips here are a sample of those. ESC-10 has five folds, and the bundled model was tested on "
            "fold 1 alone; its clips are copies at 16 kHz and 16 bits, and “the file” is the copy. Figures on the whole "
            f"archives will differ. α = {c['alpha']:g}; SNRs are proven for the file, and a lower SNR is a louder "
            "perturbation; 0 % stands where no clip can be certified with so little noise and so few draws:",
            "",
            "| model | data | contract | smoothed accuracy (95 % interval) | certified accuracy | abstained | "
            "median radius | draws |",
            "|---|---|---|---|---|---|---|---|",
            *(row(f) for f in all_facts),
            "",
            "Abstentions count as wrong; medians are over certified and correct clips. With “at most” draws, radii are the "
            "largest of a grid that was decided ([sampling](docs/sampling.md)); otherwise the largest that all draws allow.",
            "",
            "Recipes, σ and epochs were chosen by validation clips alone. Earlier models had been run on part of the "
            "testing clips of `kws-waveform`. More: [the study](docs/results/study/README.md).",
        ]
    )


def page(all_facts: list[dict[str, Any]]) -> str:
    parts = [
        "# The bundled models",
        "",
        "Written by `python scripts/model_page.py`, from runs of configs in `configs/` and of cells of the study.",
        "",
        table(all_facts).replace("](docs/", "]("),
        "",
    ]
    for facts in all_facts:
        s, t = facts["summary"], facts["training"]
        voices = (
            " (training clips of the selection, and synthetic voices of `scripts/make_demo_clips.py`)"
            if facts["data"]["source"] == "speech_commands"
            else " (three of the five folds)"
        )
        parts += [
            f"## {facts['name']}",
            "",
            f"- Network: {NETWORKS[facts['network']]}, {facts['parameters']:,} parameters. Digest {facts['model_digest']}.",
            f"- Recipe: {facts['recipe']}; {t['training_clips']} training clips{voices}; epoch {t['epoch']} chosen on "
            f"{t['validation_clips']} validation clips: {t['validation_accuracy_under_noise']:.2%} under noise.",
            f"- Pipeline: {' → '.join(t['pipeline'])}.",
            f"- Tested on {s['smoothed_accuracy_over']} clips. Certified accuracy by radius: "
            + "; ".join(f"{r}: {share(s, v)}" for r, v in s["certified_accuracy_at_radius"].items())
            + ".",
        ]
        for key, name in (
            ("certified_accuracy_at_snr_db", "SNR-equivalent"),
            ("certified_accuracy_at_file_snr_db", "SNR proven for the file"),
        ):
            if key in s:
                curve = "; ".join(f"{snr} dB: {share(s, v)}" for snr, v in s[key].items())
                parts.append(f"- Certified accuracy by {name}: {curve}.")
        parts += [
            f"- Training data: {DATA[facts['data']['source']]}; no audio of it is in this repository.",
            "",
        ]
    return "\n".join(parts)


def main() -> int:
    for argument in sys.argv[1:]:
        name, equals, folder = argument.partition("=")
        if not equals:
            print(__doc__, file=sys.stderr)
            return 2
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_json(RESULTS / f"{name}.json", read(name, Path(folder)))
    all_facts = [
        json.loads((RESULTS / f"{file.stem}.json").read_text())
        for file in sorted(ZOO.glob("*.safetensors"), reverse=True)
    ]
    for facts in all_facts:
        if load_weights(bundled(facts["name"])).digest != facts["model_digest"]:
            print(f"{facts['name']}: docs/results has the facts of other weights", file=sys.stderr)
            return 1
    (ROOT / "docs" / "models.md").write_text(page(all_facts), encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    after = rest.split(END, 1)[1]
    text = f"{before}{BEGIN}\n{table(all_facts)}\n{END}{after}"
    (ROOT / "README.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
