"""examples/stateful-models: models of PyPI wheels, whose state is reset for each clip, certified on real audio."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import soundcert as sc
from soundcert.models.loaders import path_of
from soundcert.stages import Model

HOME = Path(__file__).resolve().parents[2] / "examples" / "stateful-models"
WHEELS = {
    "silero.yaml": "silero_vad",
    "silero-torchscript.yaml": "silero_vad",
    "wake-word-micro.yaml": "pymicro_wakeword",
    "wake-word-open.yaml": "pyopen_wakeword",
}
# Of torch itself, and of how a wheel finds its file.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
STREAM = {"state": {"state": "stateN"}, "constants": {"sr": 16000}, "chunk": 512, "context": 64}
ONNX = "package:silero_vad/data/silero_vad.onnx"


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(HOME))
    yield importlib.import_module("streaming")
    sys.modules.pop("streaming", None)


@pytest.fixture(scope="module")
def clips(shared_data) -> dict[str, np.ndarray]:
    """One second at 16 kHz of each listed clip, by label and file name."""
    shared_data("speech_commands"), shared_data("esc10")
    fit = sc.Pipeline.from_specs(
        ["mono", {"resample": {"rate": 16000}}, {"fit": {"seconds": 1.0}}, {"gaussian_noise": {"sigma": 1.0}}]
    )
    out = {}
    for row in csv.DictReader((HOME / "clips.csv").open()):
        path = shared_data("speech_commands").parent / row["file"].removeprefix("../../../shared/data/")
        out[f"{row['label']} {path.parent.name}"] = fit.object_of(sc.load_clip(path)).float().numpy()
    return out


def wheel(name: str) -> object:
    return pytest.importorskip(
        name, reason=f"the wheel {name} is not installed: pip install {name.replace('_', '-')}"
    )


@pytest.mark.parametrize("config", WHEELS)
def test_each_is_certified_on_real_audio(config, cli, shared_data, tmp_path) -> None:
    wheel(WHEELS[config])
    shared_data("speech_commands"), shared_data("esc10")
    few = 2 if config == "silero.yaml" else 1
    trust = ["--trust"] if "trust: true" in (HOME / config).read_text() else []
    clips = tmp_path / "clips.csv"
    rows = list(csv.DictReader((HOME / "clips.csv").open()))
    labels = yaml.safe_load((HOME / config).read_text())["pipeline"][-1]["model"]["labels"]
    chosen = [*rows[:few], *rows[16 : 16 + few]]  # words; rain, a rooster
    data = shared_data("speech_commands").parent
    with clips.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label"])
        for row in chosen:
            label = row["label"] if row["label"] in labels else "other"
            table.writerow([data / row["file"].removeprefix("../../../shared/data/"), label])
    run = tmp_path / "run"
    ran = cli("certify", HOME / config, "--data", clips, "--out", run, "--n0", 5, "--n", 30, *trust, "--json")
    assert (ran.code, ran.json["certified"]) == (0, 2 * few)
    assert ran.json["smoothed_accuracy"] == 1.0
    contract = json.loads((run / "run.json").read_text())["contract"]
    assert contract["perturbation_location"] == "waveform"
    if config == "silero.yaml":
        assert "in chunks of 512 samples after 64 of context, state reset for each clip" in contract["model"]
        assert contract["engine"] == "onnxruntime fp32"
    if trust:
        assert cli("certify", HOME / config, "--data", clips, "--out", tmp_path / "no").code == 2, (
            "it runs code"
        )


def test_every_config_lists_the_clips_that_lie_in_the_shared_data(shared_data) -> None:
    shared_data("speech_commands"), shared_data("esc10")
    for name, package in WHEELS.items():
        wheel(package)
        pipe = sc.Pipeline.from_yaml(HOME / name, trust=True)
        assert set(pipe.labels) in ({"no speech", "speech"}, {"other", "alexa"})
    rows = list(csv.DictReader((HOME / "clips.csv").open()))
    assert len(rows) == 20
    for row in rows:
        assert (shared_data("esc10").parent / row["file"].removeprefix("../../../shared/data/")).is_file()


def test_silero_in_onnx_and_torchscript_are_one_model_that_knows_speech(streaming, clips) -> None:
    wheel("silero_vad")
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    stage = Model(onnx=ONNX, options=STREAM, outputs="probabilities", labels=("no speech", "speech"))
    x = np.stack(list(clips.values()))
    chances = stage(torch.tensor(x))[:, 1].sigmoid().numpy()
    assert np.allclose(chances, streaming.speech(x)[:, 0], atol=1e-3)
    spoken = np.array([name.startswith("speech") for name in clips])
    # Clean: every word is heard; a crying baby, a ticking clock or a dog may pass for one.
    assert (chances[spoken] > 0.5).all()
    assert (chances[~spoken] > 0.5).mean() < 0.5


@pytest.mark.parametrize("name", ["speech", "alexa_micro", "alexa_open"])
def test_a_row_depends_on_nothing_that_was_heard_before(streaming, clips, name) -> None:
    wheel({"speech": "silero_vad", "alexa_micro": "pymicro_wakeword", "alexa_open": "pyopen_wakeword"}[name])
    run = getattr(streaming, name)
    x = np.stack(list(clips.values())[8:12]) * np.array([[1], [3], [0.1], [1]], np.float32)
    together = run(x)
    assert together.shape == (4, 1)
    assert len(set(together[:, 0].tolist())) > 1, "it hears a difference"
    assert np.allclose(run(x[::-1].copy())[::-1], together, atol=1e-6)
    assert np.allclose(run(x[2:3]), together[2:3], atol=1e-6)


def test_the_buffers_after_silence_are_those_of_a_fresh_detector(streaming, clips) -> None:
    package = wheel("pyopen_wakeword")
    sound = next(iter(clips.values()))
    detector = package.OpenWakeWord.from_builtin(package.Model.ALEXA)
    features = package.OpenWakeWordFeatures.from_builtin()
    pcm = bytes(2 * 1280) + streaming._pcm(sound)  # the first chunk is silence, as in streaming.py
    chances = [p for at in range(0, len(pcm), 2560) for e in features.process_streaming(pcm[at : at + 2560])
               for p in detector.process_streaming(e)]  # fmt: skip
    after = chances[-12:]  # of the last second: what came before is the silence
    assert float(streaming.alexa_open(sound[None])[0, 0]) == pytest.approx(max(after), abs=1e-6)


def test_a_model_that_keeps_its_state_is_refused(streaming, clips) -> None:
    """What the reset is for: without it, a row's answer depends on the rows before."""
    package = wheel("pymicro_wakeword")
    detector = package.MicroWakeWord.from_builtin(package.Model.ALEXA)
    features = package.MicroWakeWordFeatures()

    def keeps(x: torch.Tensor) -> torch.Tensor:
        out = [max(detector.process_streaming_prob(f) for f in features.process_streaming(streaming._pcm(row)))
               for row in x.numpy()]  # fmt: skip
        return torch.tensor(out)[:, None].expand(-1, 2) * torch.tensor([1.0, -1.0]) * 256

    pipe = sc.Pipeline([sc.stages.GaussianNoise(0.05), keeps])
    with pytest.raises(sc.errors.ModelError, match="changes when"):
        sc.certify(pipe, sc.Clip.from_array(next(iter(clips.values())), 16_000), n0=5, n=20)


def test_a_tflite_file_with_variables_begins_anew_with_every_row(clips, cli) -> None:
    """Its answer to most sounds is 0, so that repeating them would show nothing: the file itself says it."""
    wheel("pymicro_wakeword")
    frontend = pytest.importorskip("pymicro_features").MicroFrontend
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="the extra `tflite` is not installed")
    file = "package:pymicro_wakeword/models/alexa.tflite"
    rows = []
    for sound in clips.values():
        front, frames, pcm = frontend(), [], (sound * 2**15).astype("<i2").tobytes()
        while len(pcm) >= 320:
            heard = front.process_samples(pcm[:320])
            pcm = pcm[2 * heard.samples_read :]
            frames += [heard.features] if heard.features else []
        rows.append(frames[:96])
    x = torch.tensor(rows)
    options = {"chunk": 3, "vote": "any"}
    stage = Model(tflite=file, options=options, layout="batch, frames, bands", outputs="probabilities")

    expected = []
    for row in x.numpy():
        mine = litert.Interpreter(model_path=str(path_of(file)))
        mine.allocate_tensors()
        (source,), (target,) = mine.get_input_details(), mine.get_output_details()
        heard = []
        for at in range(0, 96, 3):
            q = np.clip(np.round(row[None, at : at + 3] / source["quantization"][0]) - 128, -128, 127).astype(
                np.int8
            )
            mine.set_tensor(source["index"], q)
            mine.invoke()
            heard.append(int(mine.get_tensor(target["index"])[0, 0]) / 256)
        expected.append(max(heard))
    assert len(set(expected)) > 1
    got = stage(x.transpose(1, 2))[:, 1].sigmoid().numpy()
    assert np.allclose(got, expected, atol=1e-6)
    assert np.allclose(stage(x[:1].transpose(1, 2))[:, 1].sigmoid().numpy(), expected[:1], atol=1e-6)
    assert "in chunks of 3 frames, state reset for each clip, largest over the chunks" in stage.describe()
    assert "state reset for each row" in Model(tflite=file, outputs="probabilities").describe()
    assert "begun anew with every row" in cli("inspect", file).out
