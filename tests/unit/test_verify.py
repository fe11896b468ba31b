"""`soundcert verify`: an honest run agrees under every policy and noise, and every kind of tampering is found."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import HIGH, LOW, WAVEFORM, records, tone, write, write_tone_model, write_untrained, yaml_of
from soundcert import bounds
from soundcert.audio import load_clip
from soundcert.certify import Sampling, SmoothedClassifier
from soundcert.cli import run as command_line
from soundcert.config import Config, load_config, validate
from soundcert.data import load_items
from soundcert.diagnostics import norm_ratio_db
from soundcert.errors import ConfigError, RunError
from soundcert.models import load_weights, save_weights
from soundcert.pipeline import Pipeline
from soundcert.policies import Sampled
from soundcert.runs import certify_run, open_run, verify_run
from soundcert.runs import replay as replaying
from soundcert.runs.directory import RunDirectory
from soundcert.runs.judging import Judge, surprise
from soundcert.runs.recomputing import recompute
from soundcert.runs.replay import near_ties
from soundcert.sampling import Task

SIGMA = 0.15
KINDS = {
    "fixed": "",
    "two-class": "bound: two-class",
    "decide": f"decide: {{radii: [0, {SIGMA}, {2 * SIGMA}]}}",
    "estimate": "estimate: {rel_width: 0.1}",
    "budget": "budget: {passes: 1100}",
}
LATTICE = [*WAVEFORM[:4], "quantize: {log2_step: -18}", "lattice_noise: {sigma: 0.15}", *WAVEFORM[5:]]


def make(home: Path, name: str, stages: list[str], more: str, n: int = 400) -> Path:
    text = yaml_of(stages).replace("n: 30", f"n: {n}").replace("n0: 5", "n0: 20")
    path = home / f"{name}.yaml"
    path.write_text(text.replace("seed: 0}", f"seed: 0, {more}}}" if more else "seed: 0}"))
    settings = load_config(path)
    assert settings.data is not None
    certify_run(
        settings, load_items(settings.data, home), home / name, base=home, report_in=("file", "waveform")
    )
    return home / name


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips of every fate, and a finished run of every kind."""
    root = tmp_path_factory.mktemp("verify")
    write(root / "clips" / "low" / "even.wav", write_tone_model(root / "tones.safetensors"))
    for i in range(2):
        write(root / "clips" / "high" / f"{i}.wav", tone(HIGH, i))
        write(root / "clips" / "low" / f"{i}.wav", tone(LOW, i))
    (root / "clips" / "high" / "broken.wav").write_bytes(b"RIFF")
    for name, more in KINDS.items():
        make(root, name, WAVEFORM, more)
    make(root, "lattice", LATTICE, "")
    make(root, "lattice-decide", LATTICE, KINDS["decide"])
    return root


@pytest.fixture
def copied(home: Path, tmp_path: Path) -> Path:
    """Everything once more, to be tampered with; runs look for their files in the copy."""
    out = tmp_path / "copy"
    shutil.copytree(home, out)
    for file in out.glob("*/run.json"):
        edit(file, lambda facts: facts.update(folder=str(out)))
    return out


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def edit_record(run: Path, clip: str, change: Callable[[dict[str, Any]], object]) -> None:
    rows = records(run)
    (row,) = (r for r in rows if r["clip"].endswith(clip))
    change(row)
    (run / "certificates.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def found(run: Path, **kwargs: Any) -> dict[str, list[str]]:
    """What disagrees, by the name of the check."""
    result = verify_run(run, **{"sample": 99, **kwargs})
    return {c.name: c.disagreements for c in result.checks if not c.agrees}


# --- honest runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "lattice", "lattice-decide"])
def test_an_honest_run_agrees_in_everything(home, kind):
    result = verify_run(home / kind, sample=99)
    assert found(home / kind) == {}
    assert result.agrees
    assert [c.checked for c in result.checks if c.name == "recordings"] == [6]
    assert {row["counts"] for row in result.sampled} <= {"identical", "explained by rounding"}
    assert len(result.sampled) == 5
    assert sum(row["counts"] == "identical" for row in result.sampled) >= 4


def test_the_sample_is_by_chance_or_by_its_seed(home):
    chosen = [
        {r["clip"] for r in verify_run(home / "fixed", sample=2, sample_seed=s).sampled}
        for s in (1, 1, 2, 3, 4)
    ]
    assert chosen[0] == chosen[1]
    assert len({frozenset(c) for c in chosen}) > 1
    none = verify_run(home / "fixed", sample=0)
    assert none.agrees and none.sampled == [] and none.sample_seed is not None
    with pytest.raises(ConfigError, match="sample must be 0 or more"):
        verify_run(home / "fixed", sample=-1)


def test_records_alone_need_no_files(copied):
    shutil.rmtree(copied / "clips")
    (copied / "tones.safetensors").unlink()
    assert found(copied / "fixed", records_only=True) == {}
    result = verify_run(copied / "fixed")
    (unread,) = [c for c in result.checks if c.unread]
    assert (unread.name, unread.disagreements) == ("model and data", [])
    assert not result.agrees, "what was not looked at does not agree"
    assert not result.contradicted
    assert (result.to_dict()["agrees"], result.to_dict()["contradicted"]) == (False, False)


def test_what_cannot_be_checked_is_not_called_a_disagreement(copied, capsys):
    (copied / "tones.safetensors").unlink()
    assert command_line(["verify", str(copied / "fixed")]) == 2
    said = capsys.readouterr().out
    assert "DISAGREE" not in said and "does NOT agree" not in said
    assert "not checked" in said and "--base names the folder" in said
    edit_record(copied / "fixed", "low/0.wav", lambda row: row.update(n=row["n"] + 1))
    assert command_line(["verify", str(copied / "fixed")]) == 1
    assert "does NOT agree" in capsys.readouterr().out


def test_nothing_is_written(home):
    before = {p: p.read_bytes() for p in (home / "decide").rglob("*") if p.is_file()}
    verify_run(home / "decide")
    assert {p: p.read_bytes() for p in (home / "decide").rglob("*") if p.is_file()} == before


# --- tampering -------------------------------------------------------------------------------------


def raised(row: dict[str, Any], count: int) -> None:
    """A forger who knows the formulas: count, bound, radius and all that follows from them agree."""
    row["count"] = count
    row["p_lower"] = bounds.clopper_pearson_lower(count, row["n"], row["alpha"])
    row["radius"] = bounds.certified_radius(count, row["n"], row["alpha"], row["sigma"])
    row["status"], row["label"], row["saturated"] = (
        "certified",
        row["candidate"],
        row["radius"] >= row["ceiling"],
    )
    row["views"] = {
        "r_over_sigma": row["radius"] / row["sigma"],
        "snr_db": norm_ratio_db(row["object_norm"], row["radius"]),
    }
    row.setdefault("spaces", {})


TAMPERED: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "count": ("fixed", lambda r: r.update(count=r["count"] - 1), "p_lower is"),
    "radius": ("fixed", lambda r: r.update(radius=r["radius"] * 1.001), "radius is"),
    "p_lower": ("fixed", lambda r: r.update(p_lower=r["p_lower"] * 1.0001), "p_lower is"),
    "ceiling": ("fixed", lambda r: r.update(ceiling=r["ceiling"] * 2), "ceiling is"),
    "saturated": ("fixed", lambda r: r.update(saturated=not r["saturated"]), "saturated is"),
    "alpha": ("fixed", lambda r: r.update(alpha=0.01), "alpha is 0.01"),
    "sigma": ("fixed", lambda r: r.update(sigma=0.3), "sigma is 0.3"),
    "seed": ("fixed", lambda r: r.update(seed=1), "seed is 1"),
    "bound": ("fixed", lambda r: r.update(bound="two-class"), "bound is"),
    "policy": ("fixed", lambda r: r.update(policy="estimate"), "policy is"),
    "draws": ("fixed", lambda r: r.update(n=200, count=200), "the run's n is 400"),
    "selection": ("fixed", lambda r: r.update(n0=19), "n0 20"),
    "more than all": ("fixed", lambda r: r.update(count=401), "401 of n = 400"),
    "label": ("fixed", lambda r: r.update(label="other"), "label is 'other'"),
    "view": ("fixed", lambda r: r["views"].update(r_over_sigma=9.0), "r_over_sigma is 9.0"),
    "snr": ("fixed", lambda r: r["views"].update(snr_db=1.0), "snr_db is 1.0"),
    "status": ("fixed", lambda r: r.update(status="abstained"), "status is 'abstained'"),
    "rival": ("two-class", lambda r: r.update(max_other=r["n"]), "max_other is"),
    "rival's bound": ("two-class", lambda r: r.update(p_upper=0.0), "p_upper is"),
    "level": ("lattice", lambda r: r.update(set_aside=1.0), "set_aside is 1.0"),
    "grid": ("decide", lambda r: r.update(radii=[0.0, 9.0]), "not those of the run"),
    "cap": ("decide", lambda r: r.update(cap=3000), "not those of the run"),
    "off the grid": ("decide", lambda r: r.update(radius=0.2), "not among those"),
    "decided": ("decide", lambda r: r.update(count=r["n"] // 2), "cannot have been accepted"),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_a_number_that_does_not_follow_from_the_counts_is_found(copied, what):
    kind, change, words = TAMPERED[what]
    edit_record(copied / kind, "low/1.wav", change)
    wrong = found(copied / kind, records_only=True)["bounds and radii, from the counts"]
    assert any(words in text and "low/1.wav" in text for text in wrong), wrong


def forge(run: Path, name: str, count: int) -> None:
    """A forger who has soundcert, too: all that follows from the count and the recording agrees."""
    opened = open_run(run)
    config = validate(Config, opened.info["config"], "run.json")
    pipe, base = Pipeline.from_config(config, run.parent), run.parent
    (item,) = (i for i in load_items(config.data, base) if i.name.endswith(name))
    clip = item.load()
    judge, route = Judge(opened, pipe, Sampling.of(config.certify)), pipe.route(clip.space)

    def change(row: dict[str, Any]) -> None:
        counts = np.array([count if label == row["candidate"] else 0 for label in opened.info["labels"]])
        sampled = Sampled(int(counts.argmax()), counts, row["n"], row["n0"])
        row.update(judge._says(clip, route, pipe.front_trace(clip), opened.info["labels"], sampled, row))

    edit_record(run, name, change)


def told_anew(run: Path) -> None:
    edit(run / "report.json", lambda report: report.update(summary=open_run(run).summary))


def test_a_consistent_forgery_is_found_by_drawing_again(copied):
    run = copied / "fixed"
    forge(run, "even.wav", 400)
    report = json.loads((run / "report.json").read_text())
    report["summary"] = json.loads(json.dumps(open_run(run).summary))
    (run / "report.json").write_text(json.dumps(report))
    assert found(run, sample=0) == {}  # nothing but the draws can tell
    wrong = found(run)
    assert list(wrong) == ["certified again"]
    assert "400 of 400 draws gave" in wrong["certified again"][0]


@pytest.mark.parametrize("key", ["object_norm", "gain", "dimension"])
def test_facts_about_a_clip_are_compared_when_it_is_certified_again(copied, key):
    edit_record(copied / "fixed", "low/1.wav", lambda r: r.update({key: r[key] * 1.01}))
    wrong = found(copied / "fixed")
    assert any(f"{key} is" in text for text in wrong["certified again"])
    assert any(f"{key} is" in text for text in wrong["recordings"])


@pytest.mark.parametrize(
    ("view", "factor"), [("file_radius", 1.01), ("file_snr_db", 0.99), ("burst_20ms_db", 0.9)]
)
def test_what_follows_from_a_recording_is_compared_without_drawing(copied, view, factor):
    edit_record(copied / "fixed", "low/1.wav", lambda r: r["views"].update({view: r["views"][view] * factor}))
    told_anew(copied / "fixed")
    wrong = found(copied / "fixed", sample=0)
    assert list(wrong) == ["recordings"]
    assert f"views.{view} is" in wrong["recordings"][0]


def test_counts_that_are_all_a_little_too_high_are_found_under_other_noise(copied):
    """Found by a reviewer: who says that other noise was drawn is judged by chance, and clip by clip that bears much."""
    run = copied / "fixed"
    names = [r["clip"] for r in records(run) if r["status"] != "failed"]
    for name in names:
        forge(run, name, 400)
    told_anew(run)
    edit(
        run / "run.json",
        lambda facts: (facts["environment"].update(noise=1), facts["identity"].update(noise="x")),
    )
    result = verify_run(run, sample=99)
    assert not result.agrees
    assert any("together" in text or "drawn again" in text for c in result.checks for text in c.disagreements)


def test_the_joint_surprise_is_what_it_says():
    """Two clips of few draws, enumerated; and honest counts are hardly ever that surprising."""
    pairs = [((9, 10), (5, 10)), ((10, 10), (8, 9))]  # failures 1 and 5 of 6; 0 and 1 of 1
    first = [math.comb(10, k) * math.comb(10, 6 - k) / math.comb(20, 6) for k in range(7)]
    second = [9 / 19, 10 / 19]
    both = sum(a * b for k, a in enumerate(first) for j, b in enumerate(second) if k + j <= 1)
    assert surprise(pairs) == pytest.approx(both)
    assert surprise([]) == surprise([((0, 0), (0, 0)), ((5, 9), (0, 0))]) == 1.0
    assert surprise([((400, 400), (390, 400))] * 5) < 1e-6 < surprise([((400, 400), (390, 400))])
    rng = np.random.default_rng(0)
    p = [
        surprise(
            [
                ((int(a), 200), (int(b), 200))
                for a, b in rng.binomial(200, rng.uniform(0.5, 1, (5, 1)), (5, 2))
            ]
        )
        for _ in range(2000)
    ]
    assert np.mean(np.array(p) <= 0.01) <= 0.02


def test_what_a_report_says_of_its_settings_is_compared(copied):
    """Found by a reviewer: α, n and the split of report.json could be changed unseen, and the labels of run.json."""
    run = copied / "fixed"
    edit(run / "report.json", lambda report: report["certify"].update(alpha=1e-6, n=10**6))
    assert any("certify.alpha is 1e-06" in text for text in found(run, sample=0)["report.json"])
    edit(run / "report.json", lambda report: report["data"].update(split="testing"))
    assert any("data.split is 'testing'" in text for text in found(run, sample=0)["report.json"])
    edit(run / "run.json", lambda facts: facts.update(labels=["high", "loud"]))
    assert any("labels" in text for text in found(run, sample=0)["config, model and data list"])


def test_a_clip_that_failed_for_its_length_alone_agrees(tmp_path):
    """Found by a reviewer: on a lattice a long clip may leave nothing of a small α, and was called usable."""
    write(tmp_path / "clips" / "low" / "a.wav", write_tone_model(tmp_path / "tones.safetensors"))
    write(tmp_path / "clips" / "high" / "long.wav", np.tile(tone(HIGH, 1), 40))
    stages = [s.replace("-18", "-23") for s in LATTICE if not s.startswith("fit")]
    text = yaml_of(stages).replace("n: 30", "n: 400").replace("alpha: 0.001", "alpha: 1.0e-10")
    (tmp_path / "x.yaml").write_text(text)
    settings = load_config(tmp_path / "x.yaml")
    assert settings.data is not None
    certify_run(settings, load_items(settings.data, tmp_path), tmp_path / "run", base=tmp_path)
    assert "failed" in {r["status"] for r in records(tmp_path / "run")}
    assert found(tmp_path / "run") == {}


def test_records_of_earlier_versions_need_not_say_how_many_values(copied):
    edit_record(copied / "fixed", "low/1.wav", lambda r: r.pop("dimension"))
    assert found(copied / "fixed") == {}


def test_a_radius_carried_too_far_is_found(copied):
    edit_record(copied / "fixed", "low/1.wav", lambda r: r["spaces"]["file"].update(radius=1.0))
    assert any("spaces.file.radius is 1.0" in text for text in found(copied / "fixed")["certified again"])


def test_changed_audio_is_found(copied):
    samples = tone(LOW, 1)
    samples[5] += 1
    write(copied / "clips" / "low" / "1.wav", samples)
    (text,) = found(copied / "fixed")["recordings"]
    assert "low/1.wav: the record is about" in text
    (copied / "clips" / "low" / "1.wav").unlink()
    wrong = found(copied / "fixed")
    assert any("recorded and not in the data list" in t for t in wrong["clips and labels"])


def test_a_clip_recorded_as_failed_that_can_be_used_is_found(copied):
    write(copied / "clips" / "high" / "broken.wav", tone(HIGH, 5))
    (text,) = found(copied / "fixed")["recordings"]
    assert "recorded as failed" in text


def test_a_clip_that_can_no_longer_be_read_is_found(copied):
    (copied / "clips" / "low" / "1.wav").write_bytes(b"RIFF")
    (text,) = found(copied / "fixed")["recordings"]
    assert "low/1.wav cannot be read any more" in text


def test_another_model_is_found(copied):
    write_untrained(copied / "tones.safetensors", ["high", "low"])
    wrong = found(copied / "fixed", sample=1)
    assert any(text.startswith("model: the run says") for text in wrong["config, model and data list"])


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["certify"].update(seed=1),
        lambda c: c["certify"].update(n0=21),
        lambda c: c["pipeline"].insert(0, "mono"),
        lambda c: c["pipeline"].__setitem__(4, {"gaussian_noise": {"sigma": 0.3}}),
    ],
    ids=["seed", "n0", "front", "sigma"],
)
def test_a_changed_config_is_found(copied, change):
    edit(copied / "fixed" / "run.json", lambda facts: change(facts["config"]))
    wrong = found(copied / "fixed", sample=0)
    assert any(text.startswith("config: the run says") for text in wrong["config, model and data list"])


def test_a_changed_contract_and_statement_are_found(copied):
    edit(copied / "fixed" / "run.json", lambda facts: facts["contract"].update(post_noise=["clip()"]))
    edit(copied / "fixed" / "run.json", lambda facts: facts.update(statement="It covers everything."))
    wrong = found(copied / "fixed", sample=0)["config, model and data list"]
    assert any("contract.post_noise" in text for text in wrong)
    assert any("the statement is not the one" in text for text in wrong)


def test_what_a_model_was_trained_with_is_compared_where_the_run_says_it(copied):
    """Runs of earlier versions do not; the same network in a file that says more is the same model."""
    loaded = load_weights(copied / "tones.safetensors")
    save_weights(
        copied / "tones.safetensors", loaded.module, network=loaded.network, labels=loaded.labels,
        options=loaded.options, meta={"pipeline": ["gaussian_noise(sigma=2)"]},
    )  # fmt: skip
    assert found(copied / "fixed", sample=0) == {}
    run = make(copied, "later", WAVEFORM, "")
    assert found(run, sample=0) == {}
    edit(
        run / "run.json",
        lambda facts: facts["contract"].update(trained_otherwise="trained with nothing else"),
    )
    assert any(
        "contract.trained_otherwise" in text for text in found(run, sample=0)["config, model and data list"]
    )


def test_labels_and_missing_or_doubled_clips_are_found(copied):
    run = copied / "fixed"
    edit_record(run, "low/1.wav", lambda r: r.update(truth="high"))
    assert any("label 'high' recorded" in t for t in found(run, sample=0)["clips and labels"])
    rows = (run / "certificates.jsonl").read_text().splitlines(keepends=True)
    (run / "certificates.jsonl").write_text("".join(rows[:-1]))
    wrong = found(run, sample=0)
    assert any("has no record" in t for t in wrong["clips and labels"])
    assert any("not finished" in t for t in wrong["records"])
    (run / "certificates.jsonl").write_text("".join([*rows, rows[0]]))
    assert any("more than once" in t for t in found(run, sample=0)["records"])


def test_a_changed_summary_is_found(copied):
    edit(copied / "fixed" / "report.json", lambda r: r["summary"].update(smoothed_accuracy=1.0))
    (text,) = found(copied / "fixed", sample=0)["report.json"]
    assert "summary.smoothed_accuracy is 1.0" in text
    edit(copied / "fixed" / "report.json", lambda r: r["summary"].pop("smoothed_accuracy"))
    assert found(copied / "fixed", sample=0) == {}  # what is not said is not false
    (copied / "fixed" / "report.json").unlink()
    assert found(copied / "fixed", sample=0) == {}


def test_shares_of_a_budget_are_drawn_again(copied):
    file = copied / "budget" / "shares.json"

    def forge(shares: dict[str, Any]) -> None:
        for entry in shares.values():
            entry["pilot"]["count"] -= 7

    edit(file, forge)
    assert any("the pilot gave class" in t for t in found(copied / "budget")["certified again"])
    file.write_text("{}")
    with pytest.raises(ConfigError, match="a budget is shared"):
        verify_run(copied / "budget")


def test_another_machines_noise_is_judged_by_chance(copied):
    """Where the environment differs, counts of Gaussian noise may differ: by what chance allows, and no more."""
    run = copied / "fixed"
    edit(run / "run.json", lambda facts: facts["environment"].update(noise=1))
    even = next(r for r in records(run) if r["clip"].endswith("even.wav"))

    def recount(row: dict[str, Any], count: int) -> None:
        row["count"] = count
        row["p_lower"] = bounds.clopper_pearson_lower(count, row["n"], row["alpha"])

    edit_record(run, "even.wav", lambda row: recount(row, even["count"] - 3))
    result = verify_run(run, sample=99)
    assert {r["counts"] for r in result.sampled} == {"identical", "consistent"}
    assert result.agrees or list(found(run)) == ["report.json"]
    edit_record(run, "even.wav", lambda row: raised(row, 400))
    assert "certified again" in found(run)
    # Lattice noise is the same everywhere, so that nothing is left to chance.
    run = copied / "lattice"
    edit(run / "run.json", lambda facts: facts["environment"].update(noise=1, torch="1.0"))
    edit_record(run, "low/1.wav", lambda row: row.update(count=row["count"] - 3))
    assert "certified again" in found(run)


def test_a_run_from_before_noise_had_a_number_is_judged_by_chance_too(copied):
    run = copied / "fixed"

    def older(facts: dict[str, Any]) -> None:
        del facts["environment"]["noise"], facts["environment"]["gpu"], facts["identity"]["noise"]

    edit(run / "run.json", older)
    assert verify_run(run, sample=99).agrees
    edit_record(run, "even.wav", lambda row: raised(row, 400))
    assert "certified again" in found(run)


def test_a_run_does_not_go_on_with_other_noise(copied):
    run = copied / "fixed"
    edit(run / "run.json", lambda facts: facts["identity"].update(noise="Gaussian, 1"))
    info = json.loads((run / "run.json").read_text())
    with pytest.raises(RunError, match="another noise"):
        RunDirectory(run, {**info["identity"], "noise": "Gaussian, 2"}, info, resume=True)


def test_on_a_cpu_gaussian_noise_is_the_same_whatever_torch_is(copied):
    run = copied / "fixed"
    edit(run / "run.json", lambda facts: facts["environment"].update(torch="1.0", cpu_capability="DEFAULT"))
    assert {r["counts"] for r in verify_run(run, sample=99).sampled} == {"identical"}
    even = next(r for r in records(run) if r["clip"].endswith("even.wav"))

    def recount(row: dict[str, Any]) -> None:
        row["count"] = even["count"] - 3
        row["p_lower"] = bounds.clopper_pearson_lower(row["count"], row["n"], row["alpha"])

    edit_record(run, "even.wav", recount)
    assert "certified again" in found(run)


@pytest.fixture
def one_near_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every micro-batch the first draw counts as one that rounding could turn."""
    monkeypatch.setattr(replaying, "near_ties", lambda logits, _: torch.arange(len(logits)) == 0)


def recounted(row: dict[str, Any], count: int) -> None:
    row["count"] = count
    row["p_lower"] = bounds.clopper_pearson_lower(count, row["n"], row["alpha"])


@pytest.mark.parametrize("side", ["for", "against"])
def test_a_vote_turns_to_one_side_alone(copied, monkeypatch, side):
    """Near ties among the votes for a class can take votes from it, and give it none."""
    run = copied / "fixed"
    even = next(r for r in records(run) if r["clip"].endswith("even.wav"))
    label = json.loads((run / "run.json").read_text())["labels"].index(even["candidate"])
    pro = side == "for"
    monkeypatch.setattr(replaying, "near_ties", lambda logits, _: (logits.argmax(1) == label) == pro)
    for change, kind in ((-1, "explained by rounding"), (1, "contradicted")):
        by = change if pro else -change
        edit_record(run, "even.wav", lambda row, by=by: recounted(row, even["count"] + by))
        kinds = {r["clip"]: r["counts"] for r in verify_run(run, sample=99).sampled}
        assert kinds[even["clip"]] == kind


@pytest.mark.usefixtures("one_near_tie")
def test_votes_that_rounding_could_turn_explain_as_many_votes_and_no_more(copied):
    run = copied / "fixed"
    even = next(r for r in records(run) if r["clip"].endswith("even.wav"))
    batch = json.loads((run / "run.json").read_text())["engine"]["micro_batch"]
    votes = votes_again(run, even)
    label = json.loads((run / "run.json").read_text())["labels"].index(even["candidate"])
    given_up = int((votes[::batch] == label).sum())
    won_back = len(votes[::batch]) - given_up
    assert given_up and won_back
    for change, kind in (
        (-given_up, "explained by rounding"), (-given_up - 1, "contradicted"),
        (won_back, "explained by rounding"), (won_back + 1, "contradicted"),
    ):  # fmt: skip
        edit_record(run, "even.wav", lambda row, by=change: recounted(row, even["count"] + by))
        kinds = {r["clip"]: r["counts"] for r in verify_run(run, sample=99).sampled}
        assert kinds.pop(even["clip"]) == kind
        assert set(kinds.values()) == {"identical"}


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.usefixtures("one_near_tie")
def test_the_votes_of_the_rival_class_are_counted_again_too(copied, elsewhere):
    """Otherwise one vote that rounding explains hides a two-class radius that is many times too large."""
    run = copied / "two-class"
    if elsewhere:
        edit(run / "run.json", lambda facts: facts["environment"].update(noise=1))

    def forge(row: dict[str, Any]) -> None:
        row["count"] -= 1
        low, high = bounds.two_class_bounds(row["count"], 0, row["n"], row["alpha"])
        radius = bounds.certified_radius(
            row["count"], row["n"], row["alpha"], SIGMA, bound="two-class", max_other=0
        )
        assert radius
        row.update(
            max_other=0, p_lower=low, p_upper=high, radius=radius, status="certified", label=row["candidate"]
        )
        row.update(saturated=radius >= row["ceiling"], spaces={})
        row["views"] = {"r_over_sigma": radius / SIGMA, "snr_db": norm_ratio_db(row["object_norm"], radius)}

    even = next(r for r in records(run) if r["clip"].endswith("even.wav"))
    assert even["max_other"] > 100
    edit_record(run, "even.wav", forge)
    assert any("draws gave" in text for text in found(run)["certified again"])


def test_a_class_that_is_masked_makes_no_near_ties() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0, -1.0, -2.0, -1e9]] * 4)
    assert not near_ties(logits, 1e-4).any()


def votes_again(run: Path, record: dict[str, Any]) -> np.ndarray:
    """The estimation votes of a record of a `fixed` run, drawn once more."""
    pipe = Pipeline.from_yaml(run.parent / "fixed.yaml")
    clip = load_clip(run.parent / "clips" / record["clip"])
    route = pipe.route(clip.space)
    v = route.noise.held(pipe.object_of(clip))
    size = json.loads((run / "run.json").read_text())["engine"]["micro_batch"]
    base = SmoothedClassifier(pipe, micro_batch=size).base(route, v, record["seed"], clip.digest)
    task = Task(base, v, record["seed"], clip.digest, iter(()))  # type: ignore[arg-type]
    return replaying.draws(task, "estimation", record["n"])[0]


@pytest.mark.usefixtures("one_near_tie")
@pytest.mark.parametrize("n", [None, 300, 400])
def test_rounding_explains_no_decision_that_the_draws_do_not_bear(copied, n):
    """A forged end of a sequential test: every draw a success, and the largest radius."""
    run = copied / "decide"
    even = next(r for r in records(run) if r["clip"].endswith("even.wav"))

    def forge(row: dict[str, Any]) -> None:
        row["n"] = row["count"] = n or row["n"]
        raised(row, row["n"])
        row.update(radius=2 * SIGMA, saturated=True)
        row["views"].update(r_over_sigma=2.0, snr_db=norm_ratio_db(row["object_norm"], 2 * SIGMA))
        row["p_lower"] = bounds.probability_of_radius(2 * SIGMA, SIGMA)

    assert even["count"] < 0.9 * even["n"]
    edit_record(run, "even.wav", forge)
    assert any("draws gave" in text for text in found(run)["certified again"])


@pytest.mark.usefixtures("one_near_tie")
def test_an_end_before_any_vote_was_turned_is_no_rounding(copied, monkeypatch):
    run = copied / "decide"
    monkeypatch.setattr(replaying, "near_ties", lambda logits, _: torch.zeros(len(logits), dtype=torch.bool))
    certified = next(r for r in records(run) if r["clip"].endswith("low/1.wav"))
    edit_record(
        run, "low/1.wav", lambda row: row.update(n=certified["n"] + 40, count=certified["count"] + 40)
    )
    assert any("draws gave" in text for text in found(run)["certified again"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(gain=r["gain"] * 1.01), "gain is"),
        (lambda r: r["views"].update(file_snr_db=r["views"]["file_snr_db"] - 30), "views.file_snr_db is"),
        (lambda r: r["spaces"]["file"].update(radius=1.0), "spaces.file.radius is 1.0"),
        (lambda r: r.pop("spaces"), "spaces"),
    ],
    ids=["gain", "view", "radius", "none"],
)
def test_facts_are_compared_where_the_noise_is_another_machines_too(copied, change, words):
    run = copied / "fixed"
    edit(run / "run.json", lambda facts: facts["environment"].update(noise=1))
    even = next(r for r in records(run) if r["clip"].endswith("low/1.wav"))

    def forge(row: dict[str, Any]) -> None:
        raised(row, even["count"] - 1)
        row["views"] = {**even["views"], **row["views"]}
        change(row)

    edit_record(run, "low/1.wav", forge)
    result = verify_run(run, sample=99)
    assert "consistent" in {r["counts"] for r in result.sampled}
    assert any(words in text for text in found(run)["certified again"])


# --- the command line ------------------------------------------------------------------------------


def test_the_command_line_says_what_agrees_and_ends_with_its_code(home, copied, capsys):
    assert command_line(["verify", str(home / "fixed"), "--sample", "2"]) == 0
    said = capsys.readouterr().out
    assert "The run agrees." in said and "certified again" in said and "2 identical" in said
    edit_record(copied / "fixed", "low/1.wav", lambda r: r.update(radius=1.0))
    assert command_line(["verify", str(copied / "fixed"), "--records-only", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["agrees"] is False
    assert any("radius is 1.0" in d for c in told["checks"] for d in c["disagreements"])
    assert command_line(["verify", str(copied / "fixed"), "--records-only"]) == 1
    assert "does NOT agree" in capsys.readouterr().out
    assert command_line(["verify", str(copied)]) == 2


def test_what_is_no_run_is_refused(copied):
    edit(copied / "fixed" / "run.json", lambda facts: facts.pop("identity"))
    with pytest.raises(RunError, match="nothing to verify"):
        verify_run(copied / "fixed")


STRANGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "n": lambda r: r.update(n="abc"), "count": lambda r: r.update(count=None), "sigma": lambda r: r.update(sigma="x"),
    "views": lambda r: r.update(views=[]), "set_aside": lambda r: r.update(set_aside="a"),
    "radii": lambda r: r.update(radii=5), "spaces": lambda r: r.update(spaces=["file"]),
    "max_other": lambda r: r.update(max_other="a"), "object_norm": lambda r: r.update(object_norm="q"),
    "radius": lambda r: r.update(radius="q"), "status": lambda r: r.pop("status"),
}  # fmt: skip
STRANGE_FACTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no engine": lambda f: f.pop("engine"), "engine": lambda f: f["engine"].update(colour="red"),
    "device": lambda f: f["engine"].update(device="zz"), "batch": lambda f: f["engine"].update(micro_batch=0),
    "identity": lambda f: f.update(identity=[1]), "empty identity": lambda f: f.update(identity={}),
    "contract": lambda f: f.update(contract=[1]), "contract text": lambda f: f.update(contract="a"),
    "folder": lambda f: f.update(folder=3), "no folder": lambda f: f.update(folder=None),
    "report_in": lambda f: f.update(report_in=3), "environment": lambda f: f.update(environment=[1]),
    "config": lambda f: f.update(config="a"),
}  # fmt: skip


@pytest.mark.parametrize(
    "verb", [["verify"], ["verify", "--records-only"], ["attack", "--goal", "inside", "--limit", "1"]]
)
@pytest.mark.parametrize("what", [*STRANGE, *STRANGE_FACTS])
def test_strange_runs_of_others_are_told_in_a_line(copied, capsys, verb, what):
    run = copied / "fixed"
    if what in STRANGE:
        edit_record(run, "low/1.wav", STRANGE[what])
    else:
        edit(run / "run.json", STRANGE_FACTS[what])
    code = command_line([verb[0], str(run), *verb[1:]])
    said = capsys.readouterr().err
    assert code in (0, 1, 2)
    if code == 2:
        assert said.splitlines()[-1].startswith("soundcert: ")
    if verb == ["verify"]:
        assert code != 0


# --- parts -----------------------------------------------------------------------------------------


def test_near_ties_are_told():
    logits = torch.tensor(
        [[1.0, 0.0], [1.0, 1.0 - 1e-6], [0.0, 1.0], [2.0, 0.5], [5.0, -torch.inf], [torch.nan, 1.0]]
    )
    assert near_ties(logits, 1e-4).tolist() == [False, True, False, False, False, False]
    assert near_ties(torch.ones(3, 2), 1e-4).all()  # whatever decides here, it is not the logits
    assert not near_ties(logits[:, :1], 1e-4).any()


@pytest.mark.parametrize("seed", range(3))
def test_honest_decisions_are_never_called_impossible(seed):
    """Draws of a known probability through the real plan; whatever it decides must be possible by `recompute`."""
    from soundcert.certify import bounds_of
    from soundcert.config import Decide

    rng = np.random.default_rng(seed)
    policy = Decide(radii=(0.0, 0.5, 1.0, 2.0))
    sampling = Sampling(n0=50, n=2000, policy=policy)
    for p in rng.uniform(0.4, 1.0, 12):
        plan = sampling.plan(2, 1.0, None)
        draw = next(plan)
        try:
            while True:
                draw = plan.send((rng.random(max(draw.need, draw.upto)) >= p).astype(np.int16))
        except StopIteration as end:
            out = end.value
        row = bounds_of(out, sampling, 1.0)
        radius = row.pop("_radius")
        record = {**row, "policy": "decide", "alpha": 0.001, "seed": 0, "bound": "one-sided", "sigma": 1.0, "n": out.n,
                  "n0": out.first, "count": int(out.counts[out.top]), "candidate": "a", "label": "a",
                  "saturated": radius is not None and radius >= row["ceiling"], "views": {}}  # fmt: skip
        if radius is not None:
            record["radius"] = radius
            record["views"] = {"r_over_sigma": radius}
        assert list(recompute(record, sampling, 1.0)) == []
