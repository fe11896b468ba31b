"""Write docs/models.md, and the README's table, from the run directories of the bundled models.

    soundcert certify configs/kws-waveform.yaml --out runs/kws-waveform --limit 300 --report-in file
    soundcert certify configs/kws-features.yaml --out runs/kws-features --limit 100 --n 1000
    python scripts/model_page.py runs/kws-waveform runs/kws-features

The runs' summaries are kept as docs/results/NAME.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from soundcert.bounds import format_down, format_up
from soundcert.models import bundled, load_weights
from soundcert.runs.directory import write_json

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- begin: scripts/model_page.py -->", "<!-- end -->"
WORDS = "yes, no, up, down, left, right, go, zero, one, two"


def read(run: Path) -> dict[str, Any]:
    facts = json.loads((run / "run.json").read_text())
    report = json.loads((run / "report.json").read_text())
    model = load_weights(bundled(run.name))
    return {
        "name": run.name,
        "model_digest": model.digest,
        "run_model_digest": facts["identity"]["model"],
        "certify": facts["config"]["certify"],
        "data": {k: v for k, v in facts["config"]["data"].items() if k != "root"},
        "contract": report["contract"],
        "training": dict(model.meta),
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "summary": report["summary"],
    }


def row(facts: dict[str, Any]) -> str:
    s, contract = facts["summary"], facts["contract"]
    low, high = s["smoothed_accuracy_interval_95"]
    if "certified_accuracy_at_snr_db" in s:
        at = f"{s['certified_accuracy_at_snr_db']['45']:.1%} at 45 dB SNR-equivalent"
        scale = f"{format_up(s['median_snr_db'], decimals=2)} dB SNR-equivalent"
    else:
        radii = s["certified_accuracy_at_radius"]
        radius = list(radii)[3]
        at = f"{radii[radius]:.1%} at radius {radius} nats"
        scale = f"{format_up(s['median_norm_ratio_db'], decimals=2)} dB norm ratio, not an SNR"
    return (
        f"| `{facts['name']}` | {contract['kind']}, σ = {contract['sigma']:g} ({contract['unit']}) | "
        f"{s['smoothed_accuracy']:.1%} ({low:.1%} to {high:.1%}) | {at} | {s['abstained']} of {s['clips']} | "
        f"{format_down(s['median_radius'], significant=4)} ({scale}) | {s['saturated_share_of_certified']:.1%} | "
        f"{s['smoothed_accuracy_over']} | {facts['certify']['n']} |"
    )


def table(all_facts: list[dict[str, Any]]) -> str:
    c = all_facts[0]["certify"]
    return "\n".join(
        [
            f"Ten words ({WORDS}; not the usual on/off/stop task) of Speech Commands, a sample of the official testing "
            f"split, α = {c['alpha']:g}:",
            "",
            "| model | contract | smoothed accuracy (95 % interval) | certified accuracy | abstained | "
            "median radius | saturated | clips | n |",
            "|---|---|---|---|---|---|---|---|---|",
            *(row(f) for f in all_facts),
            "",
            "Abstentions count as wrong; medians are over certified and correct clips; saturated is the share of "
            "certificates at the Monte-Carlo ceiling.",
            "",
            "The waveform model was chosen among three recipes by validation clips alone: by its accuracy under noise, and "
            "then by its certified accuracy, on both of which it was the best. Earlier models had been run on part of these "
            "testing clips.",
        ]
    )


def page(all_facts: list[dict[str, Any]]) -> str:
    parts = [
        "# The bundled models",
        "",
        "Written by `python scripts/model_page.py`, from runs of the configs in `configs/`.",
        "",
        table(all_facts),
        "",
    ]
    for facts in all_facts:
        s, t = facts["summary"], facts["training"]
        parts += [
            f"## {facts['name']}",
            "",
            f"- Network: DS-CNN, {facts['parameters']:,} parameters. Digest {facts['model_digest']}.",
            f"- Recipe: `configs/{facts['name']}.yaml`; {t['training_clips']} training clips (Speech Commands training "
            f"split and synthetic voices of `scripts/make_demo_clips.py`); epoch {t['epoch']} chosen on "
            f"{t['validation_clips']} validation clips: {t['validation_accuracy_under_noise']:.2%} under noise.",
            f"- Pipeline: {' → '.join(t['pipeline'])}.",
            "- Certified accuracy by radius: "
            + "; ".join(f"{r}: {v:.1%}" for r, v in s["certified_accuracy_at_radius"].items())
            + ".",
        ]
        for key, name in (
            ("certified_accuracy_at_snr_db", "SNR-equivalent"),
            ("certified_accuracy_at_file_snr_db", "SNR proven for the file"),
        ):
            if key in s:
                curve = "; ".join(f"{snr} dB: {v:.1%}" for snr, v in s[key].items())
                parts.append(f"- Certified accuracy by {name}: {curve}.")
        parts += [
            "- Training data: Speech Commands, CC BY 4.0 (Warden 2018); no audio of it is in this repository.",
            "",
        ]
    return "\n".join(parts)


def main() -> int:
    all_facts = [read(Path(argument)) for argument in sys.argv[1:]]
    if not all_facts:
        print(__doc__, file=sys.stderr)
        return 2
    for facts in all_facts:
        if facts["model_digest"] != facts["run_model_digest"]:
            print(
                f"{facts['name']}: the run was made with other weights than the bundled ones", file=sys.stderr
            )
            return 1
        (ROOT / "docs" / "results").mkdir(parents=True, exist_ok=True)
        write_json(ROOT / "docs" / "results" / f"{facts['name']}.json", facts)
    (ROOT / "docs" / "models.md").write_text(page(all_facts), encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN)
    after = rest.split(END, 1)[1]
    text = f"{before}{BEGIN}\n{table(all_facts)}\n{END}{after}"
    (ROOT / "README.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
