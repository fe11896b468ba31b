"""A torch network from a function of someone's package, with its weights in safetensors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import soundcert as sc
from foreign import SAMPLES, Detector
from helpers import RATE, folder_of_tones, tone, yaml_of
from soundcert.engines import available
from soundcert.errors import ConfigError
from soundcert.stages import Model

CODE = """
import torch
from foreign import Detector


def make(axis=False, dropout=0.0):
    net = torch.nn.Sequential(Detector(axis), torch.nn.Dropout(dropout))
    net.train()
    return net


def fails():
    raise RuntimeError("no such luck")


def nothing():
    return 3


number = 3
net = torch.nn.Linear(2, 2)
"""
FRONT = ["mono", "resample: {rate: 16000}", "fit: {seconds: 0.1}", "gaussian_noise: {sigma: 0.3}"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "site" / "tonework"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    folder_of_tones(tmp_path / "clips")
    save_file(torch.nn.Sequential(Detector(), torch.nn.Dropout()).state_dict(), tmp_path / "w.safetensors")
    yield tmp_path
    for name in ("tonework.nets", "tonework"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("home")
def test_it_gives_the_votes_of_the_network_in_evaluation_mode() -> None:
    stage = Model(
        factory="tonework.nets:make",
        weights="w.safetensors",
        options={"dropout": 0.9},
        labels=("high", "low"),
        trust=True,
    )
    x = torch.stack([torch.tensor(tone(f) / 2**15).float() for f in (500.0, 4000.0)])
    assert torch.equal(stage(x), Detector()(x))
    assert not stage.module.training
    assert stage.loaded.gradients
    assert stage.describe() == "model(factory tonework.nets:make, weights w.safetensors)"


def test_from_inspect_to_a_run_that_knows_its_weights(home, cli) -> None:
    options = [
        "--weights",
        "w.safetensors",
        "--shape",
        "1600",
        "--labels",
        "high,low",
        "--data",
        "clips",
        "--trust",
    ]
    found = cli("inspect", "tonework.nets:make", *options, "--out", "c.yaml", "--json").json
    assert (found["kind"], found["gradients"], found["gives"]) == ("factory", True, "logits of 2 classes")
    assert cli("certify", "c.yaml", "--out", "run", "--n", 50, "--trust").code == 0
    facts = json.loads((home / "run" / "run.json").read_text())
    assert facts["identity"]["model"].startswith("factory:")
    assert facts["contract"]["engine"] == "torch fp32"
    assert "tonework.nets:make" in facts["statement"] or "tonework.nets:make" in facts["contract"]["model"]
    assert cli("attack", "run", "--limit", 1, "--steps", 2, "--n", 50, "--goal", "flip", "--trust").code == 0
    # Other weights are another model, wherever they lie.
    other = {key: value * 2 for key, value in Detector().state_dict().items()}
    save_file({f"0.{key}": value for key, value in other.items()}, home / "w.safetensors")
    ran = cli("certify", "c.yaml", "--out", "run", "--n", 50, "--resume", "--trust")
    assert ran.code == 2


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("engine", [name for name, precision in available() if precision == "fp32"])
def test_any_engine_takes_it_over(engine) -> None:
    stage = Model(factory="tonework.nets:make", weights="w.safetensors", labels=("high", "low"), trust=True)
    pipe = sc.Pipeline([sc.stages.Fit(seconds=0.1), sc.stages.GaussianNoise(0.3), stage])
    classifier = sc.certify.__globals__["SmoothedClassifier"](pipe, engine=engine)
    cert = classifier.certify(sc.Clip.from_array(tone(500.0), RATE), n0=5, n=60)
    assert (cert.label, cert.contract.engine) == ("low", f"{engine} fp32")


def test_a_factory_beside_the_config_asks_for_trust(tmp_path) -> None:
    (tmp_path / "lies_near.py").write_text(CODE)
    save_file(torch.nn.Sequential(Detector(), torch.nn.Dropout()).state_dict(), tmp_path / "w.safetensors")
    specs = [
        {"gaussian_noise": {"sigma": 0.1}},
        {"model": {"factory": "lies_near:make", "weights": "w.safetensors"}},
    ]
    with pytest.raises(ConfigError, match=r"is Python code.*--trust"):
        sc.Pipeline.from_specs(specs, tmp_path)
    specs[1]["model"]["trust"] = True
    try:
        pipe = sc.Pipeline.from_specs(specs, tmp_path, trust=True)
        assert pipe.model(torch.zeros(1, SAMPLES)).shape == (1, 2)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("lies_near", None)


BAD = {
    "no weights": ("{factory: 'tonework.nets:make'}", "name its `weights`"),
    "no file": ("{factory: 'tonework.nets:make', weights: gone.safetensors}", "no weights at"),
    "a pickle": ("{factory: 'tonework.nets:make', weights: p.pt}", "reading a pickle runs whatever is in it"),
    "text": ("{factory: 'tonework.nets:make', weights: c.yaml}", "is not a safetensors file"),
    "another network's": ("{factory: 'tonework.nets:make', weights: other.safetensors}", "lacks 0.s and 1 more"),
    "too much": ("{factory: 'tonework.nets:make', weights: more.safetensors}", "holds what the network has not: z"),
    "another shape": ("{factory: 'tonework.nets:make', weights: shape.safetensors}", "0.s of shape (3, 3), and"),
    "an option": ("{factory: 'tonework.nets:make', weights: w.safetensors, options: {axes: 1}}", "unexpected keyword"),
    "a failure": ("{factory: 'tonework.nets:fails', weights: w.safetensors}", "fails: no such luck"),
    "no module": ("{factory: 'tonework.nets:nothing', weights: w.safetensors}", "must return an nn.Module, got int"),
    "no function": ("{factory: 'tonework.nets:number', weights: w.safetensors}", "must be a function"),
    "a module": ("{factory: 'tonework.nets:net', weights: w.safetensors}", "must be a function that returns an nn.Module"),
    "a layout": ("{factory: 'tonework.nets:make', weights: w.safetensors, layout: 'batch, samples'}", "needs no layout"),
    "a network too": ("{factory: 'tonework.nets:make', weights: w.safetensors, network: ds_cnn}", "choose one of"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line_before_any_draw(home, cli, case) -> None:
    fields, said = BAD[case]
    state = torch.nn.Sequential(Detector(), torch.nn.Dropout()).state_dict()
    save_file({"a": torch.zeros(1)}, home / "other.safetensors")
    save_file({**state, "z": torch.zeros(1)}, home / "more.safetensors")
    save_file({**state, "0.s": torch.zeros(3, 3)}, home / "shape.safetensors")
    torch.save(state, home / "p.pt")
    trusted = fields.removesuffix("}") + ", trust: true}"
    (home / "c.yaml").write_text(yaml_of([*FRONT, f"model: {trusted}"]))
    ran = cli("certify", "c.yaml", "--out", "run", "--trust")
    assert ran.code == 2
    assert said in ran.err
    assert not (home / "run").exists()
