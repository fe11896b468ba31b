"""`soundcert inspect`: what it says is so, and the config that it writes is accepted and certified."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from foreign import LABELS, PYTHON, SAMPLES, Detector, write_features_onnx, write_onnx, write_tflite
from helpers import folder_of_tones

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder_of_tones(tmp_path / "clips")
    (tmp_path / "mymodel.py").write_text(PYTHON)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("mymodel", None)


def test_an_onnx_file_from_inspect_to_certificates(home, cli) -> None:
    write_onnx(home / "kws.onnx")
    found = cli(
        "inspect", "kws.onnx", "--labels", "high,low", "--data", "clips", "--out", "kws.yaml", "--json"
    ).json
    assert found["takes"] == "(batch, 1600)"
    assert found["gives"] == "logits of 2 classes"
    assert (found["rate"], found["samples"], found["labels"]) == (None, SAMPLES, list(LABELS))
    assert (found["deterministic"], found["rows_independent"], found["gradients"]) == (True, True, False)
    assert set(found["milliseconds"]) == {"1", "16"}
    assert found["contract"] == "fixed-gain waveform smoothing: waveform"
    text = Path("kws.yaml").read_text()
    assert "resample: {rate: 16000}  # ?" in text
    assert yaml.safe_load(text)["pipeline"][-1]["model"] == {"onnx": "kws.onnx", "labels": ["high", "low"]}
    assert cli("audit", "kws.yaml").code == 0
    ran = cli("certify", "kws.yaml", "--out", "run", "--n", 50, "--json")
    assert (ran.code, ran.json["certified"]) == (0, 4)


def test_what_the_file_says_of_itself_is_taken(home, cli) -> None:
    write_onnx(home / "kws.onnx", metadata={"classes": "yes,no", "sampling_rate": "8000"})
    found = cli("inspect", "kws.onnx", "--out", "kws.yaml", "--json").json
    assert (found["rate"], found["labels"], found["labels_from"]) == (8000, ["yes", "no"], "from the file")
    stages = yaml.safe_load(Path("kws.yaml").read_text())["pipeline"]
    assert stages[1] == {"resample": {"rate": 8000}}
    assert stages[-1]["model"] == {"onnx": "kws.onnx", "rate": 8000}


def test_a_data_set_with_splits_gives_its_testing_clips_and_made_up_labels_are_marked(home, cli) -> None:
    """Found by a first-time user: the config certified training clips, and nothing said so."""
    write_onnx(home / "kws.onnx")
    for split, who in (("training", "0a"), ("validation", "0b"), ("testing", "0c")):
        clip = home / "speech" / "yes" / f"{who}_nohash_0.wav"
        clip.parent.mkdir(parents=True, exist_ok=True)
        clip.write_bytes(next((home / "clips").rglob("*.wav")).read_bytes())
        if split != "training":
            (home / "speech" / f"{split}_list.txt").write_text(f"yes/{clip.name}\n")
    (home / "link").symlink_to(home / "speech")
    cli("inspect", "kws.onnx", "--data", "link", "--out", "kws.yaml", "--json")
    text = Path("kws.yaml").read_text()
    assert yaml.safe_load(text)["data"] == {"source": "speech_commands", "root": "link", "split": "testing"}
    assert "# ? labels: made up: the file names none, give --labels" in text


CASES = {
    "fixed batch": (lambda p: write_onnx(p / "m.onnx", batch=1), "m.onnx", [], "one a pass, as the file says"),
    "int8": (lambda p: write_onnx(p / "m.onnx", batch=1, quantised=True), "m.onnx", [], "scale 0.03, zero point 2"),
    "one channel": (lambda p: write_onnx(p / "m.onnx", axis=True), "m.onnx", [], "(batch, 1, 1600)"),
    "probabilities": (lambda p: write_onnx(p / "m.onnx", softmax=True), "m.onnx", [], "they sum to 1"),
    "features": (
        lambda p: write_features_onnx(p / "m.onnx", (101, 40), np.ones((4040, 2)) * [1, -1]),
        "m.onnx",
        [],
        "(batch, 101, 40)",
    ),
    "features in one channel": (
        lambda p: write_features_onnx(p / "m.onnx", (40, 51, 1), np.ones((2040, 2)) * [1, -1]),
        "m.onnx",
        [],
        "(batch, 40, 51, 1)",
    ),
    "a function": (lambda _: None, "mymodel:logits", ["--shape", "1600"], "tried, the model does not say"),
    "rows that meet": (lambda _: None, "mymodel:batch_statistics", ["--shape", "1600"], "INFLUENCE each other"),
    "a probability": (lambda _: None, "mymodel:one", ["--shape", "1600"], "the second label is above ½"),
    "class numbers": (
        lambda _: None, "mymodel:numbers", ["--shape", "1600", "--labels", "high,low"], "the number of a class"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_config_is_accepted_by_audit(home, cli, case) -> None:
    make, model, options, said = CASES[case]
    make(home)
    trust = ["--trust"] if ":" in model else []
    ran = cli("inspect", model, *options, *trust, "--data", "clips", "--out", "c.yaml")
    assert ran.code == 0
    assert said in ran.out
    assert cli("audit", "c.yaml", *trust).code == 0


def test_tflite(home, cli) -> None:
    pytest.importorskip("ai_edge_litert", reason="the extra `tflite` is not installed")
    w = np.random.default_rng(0).normal(size=(SAMPLES, 2)).astype(np.float32)
    write_tflite(home / "m.tflite", w, ((0.02, 3), (0.5, 0)))
    ran = cli("inspect", "m.tflite", "--labels", "high,low", "--data", "clips", "--out", "c.yaml")
    assert "litert int8" in ran.out
    assert cli("audit", "c.yaml").code == 0
    assert cli("certify", "c.yaml", "--out", "run", "--n", 50).code == 0


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("kind", ["torchscript", "exported"])
def test_code_needs_trust(cli, kind) -> None:
    net, x = Detector().eval(), torch.zeros(2, SAMPLES)
    if kind == "torchscript":
        name = "m.pt"
        torch.jit.save(torch.jit.trace(net, x), name)
    else:
        name = "m.pt2"
        torch.export.save(
            torch.export.export(net, (x,), dynamic_shapes={"x": {0: torch.export.Dim("b")}}), name
        )
    ran = cli("inspect", name)
    assert ran.code == 2
    assert "--trust" in ran.err
    ran = cli("inspect", name, "--trust", "--shape", "1600", "--out", "c.yaml", "--data", "clips")
    assert ran.code == 0
    assert "audit c.yaml --trust" in ran.out
    assert cli("audit", "c.yaml").code == 2
    assert cli("audit", "c.yaml", "--trust").code == 0


@pytest.mark.usefixtures("home")
def test_a_model_that_always_says_the_same_is_told_apart(cli) -> None:
    """Nothing is seen of determinism where every answer is equal."""
    note = "every probe got the same answer"
    assert note in cli("inspect", "mymodel:silent", "--shape", "1600", "--trust").out
    assert note not in cli("inspect", "mymodel:logits", "--shape", "1600", "--trust").out


@pytest.mark.usefixtures("home")
def test_a_model_that_draws_lots_is_no_model(cli) -> None:
    ran = cli("inspect", "mymodel:dropout", "--trust", "--shape", "1600", "--out", "c.yaml")
    assert ran.code == 1
    assert "NO: the same rows gave other outputs" in ran.out
    assert not Path("c.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone.onnx"], "no model at gone.onnx"),
        (["clips"], "has no config.json"),
        (["notes.txt"], "no kind of model that soundcert knows"),
        (["w.safetensors"], "holds weights and no network"),
        (["p.pt"], "reading a pickle runs whatever is in it"),
        (["k.onnx", "--labels", "a,b,c"], "returns 2 classes, but there are 3 labels"),
        (["k.onnx", "--labels", "a,a"], "must differ"),
        (["k.onnx", "--shape", "many"], "--shape must be whole numbers"),
        (["k.onnx", "--out", "k.onnx"], "exists"),
        (["k.onnx", "--out", "no/k.yaml"], "there is no folder no"),
        (["k.onnx", "--data", "nowhere"], "no folder at nowhere"),
        (["mymodel:logits", "--trust"], "give the shape of a row"),
        (["mymodel:nan", "--trust", "--shape", "1600"], "returns NaN for every probe"),
        (["mymodel:sequence", "--trust", "--shape", "1600"], "pool over time first"),
        (["mymodel:numbers", "--trust", "--shape", "1600"], "name its classes with --labels"),
    ],
)
def test_what_is_wrong_is_one_line(home, cli, arguments, said) -> None:
    write_onnx(home / "k.onnx")
    (home / "notes.txt").write_text("no model")
    (home / "w.safetensors").write_bytes(b"")
    torch.save(torch.nn.Linear(2, 2), home / "p.pt")
    ran = cli("inspect", *arguments)
    assert ran.code == 2
    assert said in ran.err


def test_labels_from_a_file(home, cli) -> None:
    write_onnx(home / "k.onnx")
    (home / "labels.txt").write_text("high\nlow\n")
    assert cli("inspect", "k.onnx", "--labels", "labels.txt", "--json").json["labels"] == ["high", "low"]


class Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[:, :2], x


def test_scores_with_something_beside_them_are_one_line(home, cli) -> None:
    torch.jit.script(Pair()).save(str(home / "pair.pt"))
    found = cli("inspect", "pair.pt", "--labels", "a,b", "--trust")
    assert found.code == 2
    assert "for a batch of 4 it gave a tuple, not one tensor of scores" in found.err


def test_complex_scores_are_one_line(home, cli) -> None:
    (home / "mymodel.py").write_text(
        "import torch\n\ndef model(x):\n    return torch.complex(x[:, :2], x[:, :2])\n"
    )
    found = cli("inspect", "mymodel:model", "--labels", "a,b", "--trust")
    assert found.code == 2
    assert "complex numbers, which have no largest" in found.err
