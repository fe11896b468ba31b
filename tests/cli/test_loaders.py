"""Models that soundcert did not make: every kind gives the votes of the original, and says what it is."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import soundcert as sc
from foreign import LABELS, PYTHON, SAMPLES, Detector, write_features_onnx, write_onnx, write_tflite
from helpers import RATE, folder_of_tones, tone, yaml_of
from soundcert.certify import SmoothedClassifier
from soundcert.cli import run
from soundcert.config import config_schema, load_config
from soundcert.contract import read_contract
from soundcert.errors import ConfigError, MissingDependencyError, ModelError
from soundcert.inspection import kind_of
from soundcert.models import loaders
from soundcert.models.loaders import Adapter, Loaded, Loader, base
from soundcert.stages import Model

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

FRONT = ["mono", "resample: {rate: 16000}", "fit: {seconds: 0.1}", "gaussian_noise: {sigma: 0.3}"]


# torch itself says that its formats have a successor.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector in every kind of file; not to be written to."""
    root = tmp_path_factory.mktemp("zoo")
    write_onnx(root / "free.onnx")
    write_onnx(root / "one.onnx", batch=1)
    write_onnx(root / "axis.onnx", axis=True)
    write_onnx(root / "int8.onnx", batch=1, quantised=True)
    write_onnx(root / "soft.onnx", softmax=True)
    write_onnx(root / "noted.onnx", metadata={"labels": json.dumps(LABELS), "sample_rate": "16000"})
    net = Detector().eval()
    torch.jit.save(torch.jit.trace(net, torch.zeros(2, SAMPLES)), root / "script.pt")
    dynamic = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(
        torch.export.export(net, (torch.zeros(2, SAMPLES),), dynamic_shapes=dynamic), root / "free.pt2"
    )
    torch.export.save(torch.export.export(net, (torch.zeros(1, SAMPLES),)), root / "one.pt2")
    torch.save(net, root / "pickle.pt")
    (root / "mymodel.py").write_text(PYTHON)
    folder_of_tones(root / "clips")
    return root


@pytest.fixture
def functions(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(zoo))
    yield
    sys.modules.pop("mymodel", None)


def rows(batch: int = 5) -> torch.Tensor:
    x = np.stack([tone(500.0 if i % 2 else 4000.0, i) / 2**15 for i in range(batch)])
    return torch.tensor(x, dtype=torch.float32)


CASES = {
    "onnx": {"onnx": "free.onnx"},
    "onnx with a fixed batch": {"onnx": "one.onnx"},
    "onnx (batch, 1, samples)": {"onnx": "axis.onnx"},
    "onnx with its own notes": {"onnx": "noted.onnx"},
    "torchscript": {"torchscript": "script.pt", "trust": True},
    "exported": {"exported": "free.pt2", "trust": True},
    "exported with a fixed batch": {"exported": "one.pt2", "trust": True},
    "python": {"python": "mymodel:logits", "trust": True},
    "python with gradients": {"python": "mymodel:gradients", "trust": True},
    "python of arrays": {"python": "mymodel:arrays", "options": {"numpy": True}, "trust": True},
}


def model(zoo: Path, fields: dict) -> Model:
    fields = dict(fields)
    for kind in ("onnx", "torchscript", "exported", "tflite"):
        if kind in fields:
            fields[kind] = str(zoo / fields[kind])
    return Model(**fields)


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("case", CASES)
def test_every_kind_gives_the_original_logits(zoo, case) -> None:
    x = rows()
    got = model(zoo, CASES[case])(x)
    assert torch.allclose(got, Detector()(x), rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("case", CASES)
def test_every_kind_is_certified_alike(zoo, case) -> None:
    stage = model(zoo, {**CASES[case], "labels": LABELS})
    pipe = sc.Pipeline([sc.stages.Fit(seconds=0.1), sc.stages.GaussianNoise(0.3), stage])
    own = sc.Pipeline(
        [
            sc.stages.Fit(seconds=0.1),
            sc.stages.GaussianNoise(0.3),
            Model(module=Detector().eval(), labels=LABELS),
        ]
    )
    clip = sc.Clip.from_array(tone(500.0), RATE)
    a, b = (sc.certify(p, clip, n0=5, n=60) for p in (pipe, own))
    assert (a.count, a.candidate, a.status) == (b.count, b.candidate, b.status) == (60, "low", "certified")


@pytest.mark.usefixtures("functions")
def test_the_contract_names_kind_and_file_and_what_computes_it(zoo) -> None:
    for fields, named, computed in (
        ({"onnx": "free.onnx"}, "model(onnx free.onnx)", "onnxruntime fp32"),
        (
            {"torchscript": "script.pt", "trust": True},
            "model(torchscript script.pt)",
            "torch fp32, TorchScript",
        ),
        ({"exported": "free.pt2", "trust": True}, "model(exported free.pt2)", "torch fp32, torch.export"),
        (
            {"python": "mymodel:logits", "trust": True},
            "model(python mymodel:logits, source file ",
            "a Python callable",
        ),
        (
            {"python": "math:fsum", "trust": True},
            "model(python math:fsum, digest unknown)",
            "a Python callable",
        ),
    ):
        stage = model(zoo, fields)
        assert stage.describe().startswith(named)
        assert stage.runtime == computed
        assert str(zoo) not in stage.describe()
    pipe = sc.Pipeline(
        [sc.stages.Fit(seconds=0.1), sc.stages.GaussianNoise(0.3), model(zoo, {"onnx": "free.onnx"})]
    )
    clip = sc.Clip.from_array(tone(500.0), RATE)
    text = str(SmoothedClassifier(pipe).certify(clip, n0=5, n=30).contract)
    assert "as onnxruntime fp32 computes it" in text
    assert str(zoo) not in json.dumps(read_contract(pipe.route(clip.space)).to_dict())


def test_the_digest_is_of_the_files(zoo, tmp_path) -> None:
    first = model(zoo, {"onnx": "free.onnx"}).digest
    assert first and len(first) == 32
    (tmp_path / "other name.onnx").write_bytes((zoo / "free.onnx").read_bytes())
    assert Model(onnx=str(tmp_path / "other name.onnx")).digest == first
    assert model(zoo, {"onnx": "one.onnx"}).digest != first


def test_weights_beside_the_graph_count_and_may_not_lie_elsewhere(zoo, tmp_path) -> None:
    graph = onnx.load(str(zoo / "free.onnx"))
    onnx.save(
        graph, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0
    )
    first = Model(onnx=str(tmp_path / "m.onnx")).digest
    data = bytearray((tmp_path / "m.data").read_bytes())
    data[100] ^= 1
    (tmp_path / "m.data").write_bytes(data)
    assert Model(onnx=str(tmp_path / "m.onnx")).digest != first
    graph = onnx.load(str(tmp_path / "m.onnx"), load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret"
    (tmp_path / "bad.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match="outside its own folder"):
        Model(onnx=str(tmp_path / "bad.onnx"))


# --- quantised -------------------------------------------------------------------------------------


def test_quantised_onnx_reads_scale_and_zero_point_from_the_graph(zoo) -> None:
    stage = model(zoo, {"onnx": "int8.onnx"})
    x = rows()
    q = ((x / 0.03).round() + 2).clamp(-128, 127)
    expected = Detector()((q - 2) * 0.03)
    expected = ((expected / 1.0).round() + 3).clamp(0, 255) - 3
    assert torch.allclose(stage(x), expected, atol=1.01)  # a value on the edge may round either way
    assert stage.runtime == "onnxruntime int8"
    assert "zero point 2" in stage.loaded.facts["input quantisation"]


def test_integers_without_a_scale_ask_for_one(tmp_path) -> None:
    from onnx import TensorProto as T
    from onnx import helper as h

    nodes = [h.make_node("Cast", ["x"], ["y"], to=T.FLOAT)]
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", T.INT16, ["b", 2])],
        [h.make_tensor_value_info("y", T.FLOAT, ["b", 2])],
    )
    path = tmp_path / "pcm.onnx"
    path.write_bytes(
        h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    with pytest.raises(ModelError, match=r"options: \{input_scale"):
        Model(onnx=str(path))
    stage = Model(onnx=str(path), options={"input_scale": 2.0**-15})
    assert stage(torch.tensor([[0.5, -2.0]])).tolist() == [[16384.0, -32768.0]]


def test_tflite_in_float_and_in_int8(tmp_path) -> None:
    pytest.importorskip("ai_edge_litert", reason="the extra `tflite` is not installed")
    w = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    x = torch.tensor(np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)) * 0.5
    expected = x @ torch.tensor(w)
    stage = Model(tflite=str(write_tflite(tmp_path / "f.tflite", w)))
    assert torch.allclose(stage(x), expected, atol=1e-5)
    assert (stage.loaded.shape, stage.loaded.batch, stage.runtime) == ((16,), 1, "litert fp32")
    stage = Model(tflite=str(write_tflite(tmp_path / "q.tflite", w, ((0.02, 3), (0.1, -5)))))
    assert float((stage(x) - expected).abs().max()) < 0.2
    assert stage.runtime == "litert int8"
    (tmp_path / "no.tflite").write_bytes(b"\x00" * 64)
    with pytest.raises(ModelError, match="not a TFLite file"):
        Model(tflite=str(tmp_path / "no.tflite"))


def test_dynamic_quantisation_is_found_out_and_run_row_by_row(tmp_path, cli) -> None:
    """Its scale is that of the whole batch, so that a loud row changes the answer for a quiet one."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(write_onnx(tmp_path / "f.onnx")), str(tmp_path / "d.onnx"))
    folder_of_tones(tmp_path / "clips")
    found = cli(
        "inspect", tmp_path / "d.onnx", "--labels", "high,low", "--out", tmp_path / "c.yaml", "--json"
    ).json
    assert (found["rows_independent"], found["runtime"]) == (False, "onnxruntime int8")
    assert "rows may influence each other" in found["facts"]["dynamic quantisation"]
    text = (tmp_path / "c.yaml").read_text().replace("recordings", "clips")
    assert "batch: 1" in text
    (tmp_path / "c.yaml").write_text(text)
    assert cli("certify", tmp_path / "c.yaml", "--out", tmp_path / "run", "--n", 50).code == 0
    (tmp_path / "c.yaml").write_text(text.replace("batch: 1, ", ""))
    ran = cli("certify", tmp_path / "c.yaml", "--out", tmp_path / "other", "--n", 50)
    assert ran.code == 2
    assert "answer for a row changes" in ran.err


def test_without_a_goal_a_black_box_is_attacked_as_far_as_it_goes(zoo, tmp_path, cli) -> None:
    folder_of_tones(tmp_path / "clips")
    model = f"{{onnx: {zoo / 'free.onnx'}, labels: [high, low]}}"
    (tmp_path / "c.yaml").write_text(yaml_of([*FRONT, f"model: {model}"]))
    assert cli("certify", tmp_path / "c.yaml", "--out", tmp_path / "run", "--n", 50).code == 0
    quick = ("--limit", 1, "--restarts", 1, "--draws", 4, "--n", 60)
    ran = cli("attack", tmp_path / "run", *quick, "--json")
    assert ran.code == 0
    assert "the goals flip and inside follow the model's gradient" in ran.err
    assert ran.err.endswith("they are left out\n")
    (row,) = [
        json.loads(line) for line in (tmp_path / "run" / "attacks.jsonl").read_text("utf-8").splitlines()
    ]
    assert row["settings"]["goals"] == ["leave", "bypass", "deployed"]
    assert "leave" in row
    assert "flip" not in row
    ran = cli("attack", tmp_path / "run", *quick, "--goal", "leave", "--goal", "flip")
    assert ran.code == 2
    assert "use --goal leave" in ran.err


# --- layouts and outputs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((4, 6), None),
        ((1, 4, 6), None),
        ((6, 4), "batch, frames, bands"),
        ((4, 6, 1), "batch, bands, frames, 1"),
        ((1, 6, 4), "(batch, 1, frames, bands)"),
    ],
)
def test_layouts_of_features(tmp_path, shape, layout) -> None:
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    w = np.random.default_rng(0).normal(size=(24, 2))
    path = write_features_onnx(tmp_path / "f.onnx", shape, w)
    transposed = [n for n in shape if n > 1] == [6, 4]
    flat = (x.transpose(1, 2) if transposed else x).flatten(1)
    stage = Model(onnx=str(path), layout=layout)
    assert torch.allclose(stage(x), (flat.double() @ torch.tensor(w)).float(), atol=1e-4)
    space = sc.Space("log-mel", "feature", (4, 6), RATE, "nats")
    assert stage.space(space).shape == (2,)
    if layout:
        with pytest.raises(ModelError, match="layout"):
            Model(onnx=str(path)).space(space)


@pytest.mark.usefixtures("functions")
def test_outputs_of_every_sort() -> None:
    x = rows()
    winner = Detector()(x).argmax(1)
    for function, outputs in (
        ("probabilities", "probabilities"),
        ("sigmoids", "scores"),
        ("numbers", "labels"),
    ):
        stage = Model(trust=True, python=f"mymodel:{function}", outputs=outputs, labels=LABELS)
        if function != "sigmoids":  # which saturate here
            assert torch.equal(stage(x).argmax(1), winner)
    one = Model(trust=True, python="mymodel:one", outputs="probabilities", labels=LABELS)
    assert torch.equal(one(x).argmax(1), winner)
    assert one(x).shape == (5, 2)
    high = Adapter(Loaded(lambda x: x[:, :1], "m"), outputs="probabilities", threshold=0.9)
    assert high(torch.tensor([[0.89], [0.91]])).argmax(1).tolist() == [0, 1]


def test_rows_of_a_fixed_batch_are_filled_up() -> None:
    seen = []

    def run(x):
        seen.append(len(x))
        return x

    adapter = Adapter(Loaded(run, "m", batch=4))
    x = torch.arange(10.0).reshape(5, 2)
    assert torch.equal(adapter(x), x)
    assert seen == [4, 4]


@pytest.mark.usefixtures("functions")
def test_a_model_on_one_row_a_pass_where_rows_would_meet() -> None:
    clip = sc.Clip.from_array(tone(500.0), RATE)
    front = [sc.stages.Fit(seconds=0.1), sc.stages.GaussianNoise(0.3)]
    pipe = sc.Pipeline([*front, Model(trust=True, python="mymodel:batch_statistics", labels=LABELS)])
    with pytest.raises(ModelError, match=r"changes when it is run alone|batch"):
        sc.certify(pipe, clip, n0=5, n=30)
    pipe = sc.Pipeline([*front, Model(trust=True, python="mymodel:batch_statistics", labels=LABELS, batch=1)])
    sc.certify(pipe, clip, n0=5, n=30)


# --- trust -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "file"), [("torchscript", "script.pt"), ("exported", "free.pt2")])
def test_code_runs_only_where_config_and_command_both_say_so(zoo, tmp_path, cli, kind, file) -> None:
    config = tmp_path / "c.yaml"
    for line, options, said in (
        (f"model: {{{kind}: {zoo / file}}}", ["--trust"], "trust: true"),
        (f"model: {{{kind}: {zoo / file}, trust: true, labels: [high, low]}}", [], "--trust"),
    ):
        config.write_text(yaml_of([*FRONT, line], f"{{source: folder, root: {zoo / 'clips'}}}"))
        ran = cli("audit", config, *options)
        assert ran.code == 2
        assert said in ran.err
    assert cli("audit", config, "--trust").code == 0
    assert cli("certify", config, "--trust", "--out", tmp_path / "run").code == 0
    assert cli("predict", config, zoo / "clips" / "low" / "0.wav", "--trust", "--n", 50).code == 0
    assert cli("attack", tmp_path / "run", "--trust", "--limit", 1, "--steps", 2, "--n", 50).code == 0


def test_a_module_beside_the_config_asks_for_trust(tmp_path) -> None:
    (tmp_path / "lies_beside.py").write_text("def f(x):\n    return x[:, :2]\n")
    specs = [{"gaussian_noise": {"sigma": 0.1}}, {"model": {"python": "lies_beside:f"}}]
    with pytest.raises(ConfigError, match=r"importing it runs.*--trust"):
        sc.Pipeline.from_specs(specs, tmp_path)
    specs[1]["model"]["trust"] = True
    try:
        assert sc.Pipeline.from_specs(specs, tmp_path, trust=True).model.digest.startswith("source:")
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("lies_beside", None)


@pytest.mark.parametrize("source", ["parcel.inner:f", "parcel:f", "pickle:loads"])
def test_no_installed_module_is_imported_without_trust(tmp_path, monkeypatch, source) -> None:
    """Looking for `parcel.inner` alone would import `parcel`; and pickle.loads takes a clip's samples as bytes."""
    (tmp_path / "parcel").mkdir()
    (tmp_path / "parcel" / "__init__.py").write_text("open('imported', 'w')\n\ndef f(x): return x[:, :2]\n")
    (tmp_path / "parcel" / "inner.py").write_text("from parcel import f\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    specs = [{"gaussian_noise": {"sigma": 0.1}}, {"model": {"python": source, "labels": LABELS}}]
    with pytest.raises(ConfigError, match="--trust"):
        sc.Pipeline.from_specs(specs, tmp_path, trust=True)
    assert not Path("imported").exists()
    assert "parcel" not in sys.modules
    specs[1]["model"]["trust"] = True
    with pytest.raises(ConfigError, match="--trust"):
        sc.Pipeline.from_specs(specs, tmp_path)
    assert not Path("imported").exists()


# --- runs, schema, third parties -------------------------------------------------------------------


def test_a_run_keeps_its_identity_where_the_file_moves(zoo, tmp_path, cli) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.onnx").write_bytes((zoo / "free.onnx").read_bytes())
        stages = [*FRONT, f"model: {{onnx: {name}.onnx, labels: [high, low]}}"]
        (tmp_path / name / "c.yaml").write_text(yaml_of(stages, f"{{source: folder, root: {zoo / 'clips'}}}"))
        assert cli("certify", tmp_path / name / "c.yaml", "--out", tmp_path / name / "run").code == 0
    facts = [json.loads((tmp_path / name / "run" / "run.json").read_text()) for name in ("a", "b")]
    assert facts[0]["identity"] == facts[1]["identity"]
    assert facts[0]["contract"]["engine"] == "onnxruntime fp32"


def test_the_schema_knows_the_kinds() -> None:
    text = json.dumps(config_schema())
    for word in (*loaders.BUILT_IN, "trust", "outputs", "layout"):
        assert f'"{word}"' in text


def test_third_parties_plug_in_by_entry_point(monkeypatch, tmp_path) -> None:
    (tmp_path / "m.own").write_text("2")

    def load(request):
        factor = float(request.path.read_text())
        return Loaded(lambda x: x[:, :2] * factor, request.name, digest="00", runtime="own engine")

    class Point:
        name = "own"

        def load(self):
            return Loader("own", load, "a kind of one's own", (".own",))

    monkeypatch.setattr(base, "entry_points", lambda group: [Point()] if group == base.ENTRY_POINTS else [])
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    specs = [{"gaussian_noise": {"sigma": 0.1}}, {"model": {"own": "m.own"}}]
    stage = sc.Pipeline.from_specs(specs, tmp_path).model
    assert stage(torch.ones(1, 3)).tolist() == [[2.0, 2.0]]
    assert (stage.describe(), stage.runtime) == ("model(own m.own)", "own engine")
    assert kind_of(str(tmp_path / "m.own")) == "own"
    again = sc.Pipeline.from_specs(sc.Pipeline.from_specs(specs, tmp_path).to_specs())
    assert again.model.describe() == stage.describe()


def test_entry_points_are_looked_for_under_their_group() -> None:
    assert importlib.metadata.entry_points(group=base.ENTRY_POINTS) is not None
    with pytest.raises(ConfigError, match=r"unknown kind of model 'onx'.*'onnx'"):
        loaders.loader_of("onx")


# --- bad input -------------------------------------------------------------------------------------

BAD = {
    "no such file": ("{onnx: gone.onnx}", "no model at"),
    "not ONNX": ("{onnx: text.onnx}", "text.onnx is not an ONNX file"),
    "a pickle as ONNX": ("{onnx: pickle.pt}", "a pickle and not an ONNX file"),
    "a pickle as TorchScript": ("{torchscript: pickle.pt, trust: true}", "reading a pickle runs whatever is in it"),
    "a pickle as an export": ("{exported: pickle.pt, trust: true}", "reading a pickle runs"),
    "an export as TorchScript": ("{torchscript: free.pt2, trust: true}", "write `exported: free.pt2`"),
    "TorchScript as an export": ("{exported: script.pt, trust: true}", "write `torchscript: script.pt`"),
    "a script of text": ("{torchscript: text.onnx, trust: true}", "not a TorchScript file"),
    "two models": ("{onnx: free.onnx, weights: a.safetensors}", "choose one of onnx and weights"),
    "an option for others": ("{weights: 'bundled:kws-waveform', rate: 16000}", "rate goes with one of"),
    "an unknown option": ("{onnx: free.onnx, options: {outptu: 1}}", "did you mean 'output'"),
    "an unknown output": ("{onnx: free.onnx, options: {output: y}}", "has no output 'y'"),
    "no function": ("{trust: true, python: mymodel}", "package.module:function"),
    "no module": ("{trust: true, python: 'gone.module:f'}", "no Python module 'gone.module'"),
    "no attribute": ("{trust: true, python: 'mymodel:gone'}", "has no 'gone'"),
    "not a function": ("{trust: true, python: 'mymodel:constant'}", "must be a function"),
    "three labels": ("{onnx: free.onnx, labels: [high, low, c]}", "returns 2 classes but names 3 labels"),
    "labels of others": ("{onnx: free.onnx, labels: [hihg, low]}", "which the model does not name (did you mean 'hihg'?)"),
    "classes and labels": ("{onnx: free.onnx, labels: [a, b], classes: 3}", "classes is 3 but there are 2 labels"),
    "another rate": ("{onnx: free.onnx, rate: 8000}", "wants 8000 Hz but receives 16000 Hz: put `resample: {rate: 8000}`"),
    "another batch": ("{onnx: one.onnx, batch: 4}", "takes 1 rows a pass, not batch=4"),
    "a layout of nothing": ("{onnx: free.onnx, layout: 'samples'}", "must begin with batch"),
    "a layout of features": ("{onnx: free.onnx, layout: 'batch, frames, bands'}", "does not fit rows of shape (1600,)"),
    "probabilities": ("{trust: true, python: 'mymodel:probabilities'}", "write `outputs: probabilities`"),
    "probabilities in ONNX": ("{onnx: soft.onnx}", "write `outputs: probabilities`"),
    "no probabilities": ("{onnx: free.onnx, outputs: probabilities}", "does not return probabilities"),
    "sigmoids": ("{trust: true, python: 'mymodel:sigmoids'}", "write `outputs: scores`"),
    "one sigmoid": ("{trust: true, python: 'mymodel:one'}", "write `outputs: probabilities`, with two `labels`"),
    "NaN": ("{trust: true, python: 'mymodel:nan'}", "returns NaN for every probe"),
    "dropout left on": ("{trust: true, python: 'mymodel:dropout'}", "changes when the same batch is run twice"),
    "batch statistics": ("{trust: true, python: 'mymodel:batch_statistics'}", "answer for a row changes"),
    "a sequence": ("{trust: true, python: 'mymodel:sequence'}", "pool over time first"),
    "words": ("{trust: true, python: 'mymodel:words'}", "must return a tensor or an array"),
    "fewer rows": ("{trust: true, python: 'mymodel:fewer'}", "for a batch of 4 it gave (1, 2)"),
    "class numbers": ("{trust: true, python: 'mymodel:numbers'}", "write `outputs: labels`"),
    "class numbers without labels": ("{trust: true, python: 'mymodel:numbers', outputs: labels}", "name its `labels`"),
    "wrong class numbers": ("{trust: true, python: 'mymodel:wrong_numbers', outputs: labels, classes: 2}", "none of 0 … 1"),
    "an exception": ("{trust: true, python: 'mymodel:fails'}", "fails on (batch, 1600): 'who knows'"),
    "an engine": ("{onnx: free.onnx}\ncertify: {engine: openvino}", "openvino"),
}  # fmt: skip


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("case", BAD)
def test_bad_models_are_told_in_one_line_before_any_draw(zoo, tmp_path, cli, case) -> None:
    fields, said = BAD[case]
    for name in ("free.onnx", "one.onnx", "soft.onnx", "pickle.pt", "script.pt", "free.pt2"):
        (tmp_path / name).symlink_to(zoo / name)
    (tmp_path / "text.onnx").write_text("The quick brown fox.\n" * 20)
    fields, _, more = fields.partition("\ncertify: ")
    text = yaml_of([*FRONT, f"model: {fields}"], f"{{source: folder, root: {zoo / 'clips'}}}")
    if more:
        text = text.replace("certify: {", "certify: {" + more.strip("{}") + ", ")
    config = tmp_path / "c.yaml"
    config.write_text(text)
    load_config(config)
    ran = cli("certify", config, "--out", tmp_path / "run", "--trust")
    assert ran.code == 2
    assert said in ran.err
    assert not (tmp_path / "run").exists(), "nothing was begun"


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (["mono"], "put `fit: {samples: 1600}` above it"),
        (["mono", "fit: {seconds: 0.5}"], "put `fit: {samples: 1600}` above it"),
        (["mono", "fit: {seconds: 0.1}", "log_mel: {n_mels: 8, n_fft: 256}"], "leave the features out"),
    ],
)
def test_a_wrong_length_says_what_to_put_above(zoo, tmp_path, cli, stages, said) -> None:
    from helpers import write

    write(tmp_path / "clips" / "low" / "a.wav", tone(500.0, seconds=0.2))
    text = yaml_of([*stages, "gaussian_noise: {sigma: 0.1}", f"model: {{onnx: {zoo / 'free.onnx'}}}"])
    (tmp_path / "c.yaml").write_text(text)
    ran = cli("certify", tmp_path / "c.yaml", "--out", tmp_path / "run")
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "package", "command"),
    [
        ({"onnx": "free.onnx"}, "onnxruntime", "pip install -c constraints.txt '.[onnx]'"),
        ({"tflite": "free.onnx"}, "ai_edge_litert.interpreter", "pip install -c constraints.txt '.[tflite]'"),
        ({"hf": "hf"}, "transformers", "pip install -c constraints.txt '.[hf]'"),
    ],
)
def test_a_missing_extra_says_which_to_install(zoo, tmp_path, monkeypatch, fields, package, command) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    (tmp_path / "free.onnx").write_bytes((zoo / "free.onnx").read_bytes())
    monkeypatch.setitem(sys.modules, package, None)
    kind, name = next(iter(fields.items()))
    with pytest.raises(MissingDependencyError) as error:
        Model(**{kind: str(tmp_path / name)})
    assert command in str(error.value)


def test_a_module_in_training_mode_is_refused(monkeypatch) -> None:
    import types

    module = types.ModuleType("inmemory")
    module.net = nn.Linear(3, 2)
    module.__spec__ = importlib.machinery.ModuleSpec("inmemory", None)
    monkeypatch.setitem(sys.modules, "inmemory", module)
    with pytest.raises(ModelError, match="training mode"):
        Model(trust=True, python="inmemory:net")
    module.net.eval()
    assert Model(trust=True, python="inmemory:net")(torch.ones(2, 3)).shape == (2, 2)


def test_run_is_importable() -> None:
    assert callable(run)
