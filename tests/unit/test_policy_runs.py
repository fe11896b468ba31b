"""Runs under a policy or on another engine: recorded, resumed, and said in the contract."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import soundcert as sc
from helpers import (
    HIGH,
    LOW,
    WAVEFORM,
    mistakes,
    records,
    tone,
    without_times,
    write,
    write_tone_model,
    yaml_of,
)
from soundcert.cli import run as command_line
from soundcert.config import load_config
from soundcert.data import load_items
from soundcert.errors import ConfigError, RunError
from soundcert.lint import lint_report
from soundcert.pipeline import Pipeline
from soundcert.runs import certify_run
from soundcert.runs.executors import LocalExecutor
from soundcert.runs.schema import record_schema
from soundcert.sequential import largest_ratio

SIGMA = 0.15
POLICIES = {
    "decide": f"decide: {{radii: [0, {SIGMA}, {2 * SIGMA}]}}",
    "estimate": "estimate: {rel_width: 0.1}",
    "budget": "budget: {passes: 1200}",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, five clips that are certified with ease, one that hangs in the balance, one that is broken."""
    root = tmp_path_factory.mktemp("policies")
    write(root / "clips" / "low" / "even.wav", write_tone_model(root / "tones.safetensors"))
    for i in range(3):
        write(root / "clips" / "high" / f"{i}.wav", tone(HIGH, i))
        write(root / "clips" / "low" / f"{i}.wav", tone(LOW, i))
    (root / "clips" / "high" / "broken.wav").write_bytes(b"RIFF")
    for name, text in {**POLICIES, "fixed": ""}.items():
        config(root, name, text)
    return root


def config(root: Path, name: str, text: str, n: int = 600) -> Path:
    path = root / f"{name}.yaml"
    base = yaml_of(WAVEFORM).replace("n: 30", f"n: {n}").replace("n0: 5", "n0: 40")
    path.write_text(base.replace("seed: 0}", f"seed: 0, {text}}}" if text else "seed: 0}"))
    return path


def run(path: Path, out: Path, **kwargs: Any) -> list[dict[str, Any]]:
    settings = load_config(path)
    assert settings.data is not None
    certify_run(settings, load_items(settings.data, path.parent), out, base=path.parent, **kwargs)
    return records(out)


@pytest.mark.parametrize("name", POLICIES)
def test_a_run_under_a_policy_is_recorded_as_its_schema_says(home, tmp_path, name):
    rows = run(home / f"{name}.yaml", tmp_path / "run")
    assert [r["status"] for r in rows].count("failed") == 1
    usable = [r for r in rows if r["status"] != "failed"]
    for row in rows:
        assert mistakes(row, record_schema()) == []
    assert {r["policy"] for r in usable} == {name}
    assert all(r["n"] <= 600 for r in usable)
    sure = [r for r in usable if not r["clip"].endswith("even.wav")]
    assert all(r["status"] == "certified" and r["label"] == r["truth"] for r in sure)
    assert sum(r["n"] for r in usable) < 0.7 * 600 * len(usable), "a policy is there to draw less"


@pytest.mark.parametrize(
    ("name", "said"),
    [("decide", "one-sided, time-uniform (decide)"), ("estimate", "one-sided"), ("budget", "one-sided")],
)
def test_lint_says_the_bound_of_a_policy_and_finds_nothing(home, tmp_path, name, said):
    """`estimate` counts fresh draws, as many as a pilot chose: an ordinary bound, and no time-uniform one."""
    run(home / f"{name}.yaml", tmp_path / "run")
    report, findings = lint_report(tmp_path / "run")
    assert report.results[0].fields["bound"].text == said
    assert [f for f in findings if f.level != "note"] == []


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_run_under_a_policy_resumes_to_the_same(home, tmp_path, name, kept):
    whole = run(home / f"{name}.yaml", tmp_path / "whole")
    out = tmp_path / "torn"
    run(home / f"{name}.yaml", out)
    lines = (out / "certificates.jsonl").read_bytes().splitlines(keepends=True)
    (out / "certificates.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:10])
    (out / "report.json").unlink()
    run(home / f"{name}.yaml", out, resume=True)
    assert without_times(out) == without_times(tmp_path / "whole")
    assert len(whole) == len(lines)
    assert (out / "report.json").read_bytes() == (tmp_path / "whole" / "report.json").read_bytes()


@pytest.mark.parametrize("name", [*POLICIES, "fixed"])
def test_a_run_does_not_depend_on_the_number_of_workers(home, tmp_path, name):
    run(home / f"{name}.yaml", tmp_path / "one", executor=LocalExecutor(1))
    run(home / f"{name}.yaml", tmp_path / "four", executor=LocalExecutor(4))
    assert without_times(tmp_path / "one") == without_times(tmp_path / "four")


def test_a_budget_is_shared_out_once(home, tmp_path):
    run(home / "budget.yaml", tmp_path / "run")
    shares = json.loads((tmp_path / "run" / "shares.json").read_text())
    rows = [r for r in records(tmp_path / "run") if r["status"] != "failed"]
    assert {r["digest"]: (r["n0"], r["n"]) for r in rows} == {
        d: (s["pilot"]["n"], s["n"]) for d, s in shares.items()
    }
    assert sum(r["n"] + r["n0"] for r in rows) <= 1200


def test_seconds_buy_draws(home, tmp_path):
    path = config(home, "seconds", "budget: {seconds: 1.5}", n=100_000)
    rows = [r for r in run(path, tmp_path / "run") if r["status"] != "failed"]
    assert sum(r["n"] for r in rows) > 0
    assert all(r["n0"] == 40 for r in rows)


def test_decided_radii_are_on_the_grid_and_print_as_such(home):
    pipe = Pipeline.from_yaml(home / "decide.yaml")
    policy = sc.Decide(radii=(0.0, SIGMA, 2 * SIGMA))
    sure = sc.certify(pipe, sc.load_clip(home / "clips" / "low" / "0.wav"), n=600, policy=policy)
    assert sure.radius == 2 * SIGMA == sure.ceiling
    assert sure.saturated
    assert "largest radius asked about" in str(sure)
    label = sc.certify(
        pipe, sc.load_clip(home / "clips" / "low" / "0.wav"), n=600, policy=sc.Decide(radii=(0.0,))
    )
    assert (label.status, label.radius, label.p_lower) == ("certified", 0.0, 0.5)
    assert "some radius above 0" in str(label)
    assert label.views() == {"r_over_sigma": 0.0}
    even = sc.certify(pipe, sc.load_clip(home / "clips" / "low" / "even.wav"), n=600, policy=policy)
    assert even.status == "abstained"
    assert "not even the smallest radius asked about" in str(even)


def test_a_radius_out_of_reach_is_refused_before_any_pass(home, tmp_path):
    most = largest_ratio(600, 0.001) * SIGMA
    path = config(home, "far", f"decide: {{radii: [{most * 1.01}]}}")
    with pytest.raises(ConfigError, match="can never be certified"):
        run(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("decide: {radii: [0]}, estimate: {}", "choose one of decide and estimate"),
        ("decide: {radii: [0.2, 0.1]}", "must be ascending"),
        ("decide: {radii: []}", "radii"),
        ("decide: {radiii: [0]}", "unknown field .*radiii.*radii"),
        ("budget: {}", "name either passes or seconds"),
        ("budget: {passes: 10, seconds: 3}", "name either passes or seconds"),
        ("estimate: {rel_width: 0}", "rel_width"),
        ("decide: {radii: [0]}, bound: two-class", "one-sided bound only"),
        ("engine: auto, precision: bf16", "name the engine for bf16"),
        ("engine: onnxx", "engine"),
    ],
)
def test_a_wrong_block_is_one_clear_line(home, text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(config(home, "wrong", text))
    assert "\n" not in str(caught.value)


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not importlib.util.find_spec(package), reason=f"{package} is not installed")


ENGINES = [
    ("torch", "bf16"),
    pytest.param("onnxruntime", "fp32", marks=needs("onnxruntime")),
    pytest.param("openvino", "fp32", marks=needs("openvino")),
]


@pytest.mark.parametrize(("engine", "precision"), ENGINES)
def test_the_engine_is_part_of_the_contract_and_of_the_identity(home, tmp_path, engine, precision):
    path = config(home, "engine", f"engine: {engine}, precision: {precision}", n=60)
    rows = run(path, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["contract"]["engine"] == f"{engine} {precision}"
    assert f"as {engine} {precision} computes it" in facts["statement"]
    plain = config(home, "engine", "", n=60)
    if precision == "fp32":
        theirs = {r["clip"]: r.get("count") for r in run(plain, tmp_path / "plain")}
        assert {r["clip"]: r.get("count") for r in rows} == theirs
    with pytest.raises(RunError, match="another config"):
        run(plain, tmp_path / "run", resume=True)


def test_an_engine_chosen_by_measurement_is_kept(home, tmp_path, monkeypatch):
    path = config(home, "auto", "engine: auto", n=60)
    run(path, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["engine"]["engine"] in ("torch", "onnxruntime", "openvino")
    assert facts["engine"]["rates"]

    def never(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(sys.modules["soundcert.runs.certify_run"], "fastest", never)
    before = (tmp_path / "run" / "certificates.jsonl").read_bytes()
    run(path, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "certificates.jsonl").read_bytes() == before


def test_an_audit_names_the_most_that_a_policy_may_cost(home):
    pipe = Pipeline.from_yaml(home / "decide.yaml")
    clips = [sc.load_clip(home / "clips" / "low" / f"{i}.wav") for i in range(2)]
    fixed = sc.audit(pipe, clips, n0=40, n=600)
    decided = sc.audit(pipe, clips, n0=40, n=600, policy=sc.Decide(radii=(0.0,)))
    assert (fixed.policy, fixed.passes) == ("fixed", 2 * 640)
    assert (decided.policy, decided.passes) == ("decide", 2 * 640)
    assert sc.audit(pipe, clips, n0=40, n=600, policy=sc.Budget(passes=300)).passes == 300
    with pytest.raises(ConfigError, match="can never be certified"):
        sc.audit(pipe, clips, n=600, policy=sc.Decide(radii=(10.0,)))


def test_audit_and_predict_speak_of_the_classifier_that_is_certified(home, monkeypatch, capsys):
    """A bf16 model is another classifier: what is deployed from a config must be what the config certifies."""
    path = config(home, "deployed", "precision: bf16", n=60)
    assert command_line(["audit", str(path), "--json"]) == 1  # one clip is broken
    assert json.loads(capsys.readouterr().out)["contract"]["engine"] == "torch bf16"
    used = []
    real = sys.modules["soundcert.classifier"].prepare

    def noted(network, example, engine, precision):
        used.append((engine, precision))
        return real(network, example, engine, precision)

    monkeypatch.setattr(sys.modules["soundcert.classifier"], "prepare", noted)
    clip = home / "clips" / "low" / "0.wav"
    assert command_line(["predict", str(path), str(clip), "--n", "50", "--json"]) == 0
    assert set(used) == {("torch", "bf16")}
    assert json.loads(capsys.readouterr().out)[0]["label"] == "low"


def test_a_budget_has_no_interval_over_clips(home, tmp_path, capsys):
    """A clip's draws depend on the other clips' pilots, so the successes are not binomial."""
    assert command_line(["certify", str(home / "budget.yaml"), "--out", str(tmp_path / "run")]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "no interval: a budget ties the clips together" in shown
    summary = json.loads((tmp_path / "run" / "report.json").read_text())["summary"]
    assert "smoothed_accuracy_interval_95" not in summary
    assert summary["smoothed_accuracy"] > 0
