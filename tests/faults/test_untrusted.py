"""Files from strangers: nothing in them runs, reaches out of its folder, waits for ever or fills the memory.

docs/security.md says what is defended against. Archives: tests/unit/test_unpack.py; pickles as weights:
tests/cli/test_bad_input.py; code that asks for trust: tests/cli/test_loaders.py.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rig import CONFIG, Process, bounded

from soundcert.audio import load_clip
from soundcert.cli import run as command_line
from soundcert.config import load_config
from soundcert.data import DataConfig, load_items
from soundcert.errors import ConfigError, InputError, ModelError, RunError
from soundcert.pipeline import Pipeline
from soundcert.runs import open_run
from soundcert.stages import Model
from synthetic import many, write_run

# --- ONNX ------------------------------------------------------------------------------------------


def tensor(place: str):
    onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    out = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    out.external_data.add(key="location", value=place)
    return out


def model_with(at: str, place: str):
    """A model whose external tensor stands among the initializers, in a node, in a subgraph or in a function."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(n, 1, [None, 4]) for n in ("x", "y")]
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    constant = helper.make_node("Constant", [], ["w"], value=tensor(place))
    functions = []
    if at == "a node":
        nodes.insert(0, constant)
    elif at == "a subgraph":
        inner = helper.make_graph([constant], "g", [], [helper.make_tensor_value_info("w", 1, [4])])
        nodes = [
            helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.array(True))),
            helper.make_node("If", ["c"], ["v"], then_branch=inner, else_branch=inner),
            helper.make_node("Add", ["x", "v"], ["y"]),
        ]
    elif at == "a function":
        opset = [helper.make_opsetid("", 17)]
        functions = [helper.make_function("own", "F", [], ["w"], [constant], opset)]
        nodes.insert(0, helper.make_node("F", [], ["w"], domain="own"))
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    if at == "the initializers":
        graph.initializer.append(tensor(place))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("at", ["the initializers", "a node", "a subgraph", "a function"])
@pytest.mark.parametrize("how", ["up", "absolute", "link", "linked folder", "nul"])
def test_onnx_weights_outside_the_folder_are_refused(tmp_path: Path, at: str, how: str):
    secret = tmp_path / "secret"
    secret.write_bytes(np.ones(4, np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    place = {"up": "../secret", "absolute": str(secret), "nul": "a\0b"}.get(how, "inside")
    if how == "link":
        (folder / "inside").symlink_to(secret)
    if how == "linked folder":
        (folder / "inside").symlink_to(tmp_path)
        place = "inside/secret"
    (folder / "m.onnx").write_bytes(model_with(at, place).SerializeToString())
    with pytest.raises(ModelError, match=r"outside its own folder|not an ONNX file"):
        Model(onnx=str(folder / "m.onnx"))


# --- YAML and JSON ---------------------------------------------------------------------------------


def laughs(depth: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)]
    return "\n".join(lines)


BAD_YAML: dict[str, bytes] = {
    "a billion laughs": (laughs(30) + "\npipeline: *a29\n").encode(),
    "laughs as a stage": (laughs(30) + "\npipeline: [{gaussian_noise: {sigma: *a29}}]\n").encode(),
    "merge keys that double": (
        "\n".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}], k{i}: 1}}" for i in range(1, 40)).replace(
            "<<: [*m0, *m0], ", ""
        )
        + "\npipeline: []\n"
    ).encode(),
    "a list in itself": b"pipeline: &p [*p]\n",
    "a mapping in itself": b"data: &d {source: *d}\npipeline: []\n",
    "a Python object": b"pipeline: !!python/object/apply:os.system ['touch pwned']\n",
    "a Python name": b"pipeline: [!!python/name:os.system '']\n",
    "deep": b"pipeline: " + b"[" * 5000 + b"]" * 5000,
    "deep mappings": b"pipeline: " + b"{a: " * 3000 + b"1" + b"}" * 3000,
    "deep JSON": b'{"pipeline": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number without end": b"pipeline: [{gaussian_noise: {sigma: " + b"9" * 100_000 + b"}}]\n",
    "a sexagesimal number": b"pipeline: [{gaussian_noise: {sigma: 1" + b":1" * 50_000 + b"}}]\n",
    "NUL bytes": b"pipeline:\0 []\n",
    "a lone surrogate": b'{"pipeline": ["\\ud800"]}',
    "binary": bytes(range(256)) * 20,
    "UTF-16": "pipeline: []\n".encode("utf-16"),
    "a stage of 12 000 keys": b"pipeline: [{gaussian_noise: {"
    + b", ".join(b"k%d: 1" % i for i in range(12_000))
    + b"}}]",
    "a date as a key": b"pipeline: [{2001-01-01: {}}]\n2001-01-01: 1\n",
    "a list as a key": b"? [a, b]\n: 1\npipeline: []\n",
    "a key without hash": b"pipeline: [{? {a: b} : 1}]\n",
}


@pytest.mark.parametrize("kind", BAD_YAML)
def test_a_bad_config_is_one_line_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "bad.yaml"
    file.write_bytes(BAD_YAML[kind])
    with bounded(), pytest.raises(ConfigError) as caught:
        Pipeline.from_config(load_config(file), tmp_path)
    assert len(str(caught.value)) < 600
    assert not Path("pwned").exists()


def test_a_config_that_is_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="no config at"):
        load_config(tmp_path / "pipe.yaml")


# --- lists -----------------------------------------------------------------------------------------


def test_a_list_that_is_too_long_or_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "list.csv").write_text("file\na.wav\nb.wav\n")
    config = DataConfig(source="manifest", root=tmp_path / "list.csv")
    assert len(load_items(config)) == 2
    monkeypatch.setenv("SOUNDCERT_MAX_LIST_BYTES", "10")
    with pytest.raises(InputError, match=r"at most 10 bytes, got 17; raise \$SOUNDCERT_MAX_LIST_BYTES"):
        load_items(config)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ConfigError, match="expected a CSV"):
        load_items(DataConfig(source="manifest", root=tmp_path / "pipe.csv"))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "meta.csv")
    for source in ("speech_commands", "esc10", "esc50", "folder"):
        with pytest.raises((ConfigError, InputError)):
            load_items(DataConfig(source=source, root=tmp_path / "folder"))


# --- run directories -------------------------------------------------------------------------------


def deep(path: Path) -> None:
    path.write_text("[" * 100_000 + "]" * 100_000)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


READERS = (["report"], ["lint"], ["attack", "--trust"], ["compare"])


@pytest.mark.parametrize("spoil", [deep, pipe, endless, huge])
@pytest.mark.parametrize("name", ["run.json", "certificates.jsonl", "attacks.jsonl"])
def test_a_run_directory_from_a_stranger_is_one_line_soon(
    tmp_path: Path, spoil: Callable[[Path], None], name: str, capsys: pytest.CaptureFixture[str]
):
    run = write_run(tmp_path / "run", many(20))
    spoil(run / name)
    with bounded(), contextlib.suppress(RunError):
        open_run(run)
    for verb, *more in READERS:
        capsys.readouterr()
        with bounded():
            code = command_line([verb, str(run), *([str(run)] if verb == "compare" else []), *more])
        err = capsys.readouterr().err
        assert code in (0, 1, 2), verb
        # Warnings are a line each, and an error is one.
        assert all(line.startswith("soundcert: ") for line in err.splitlines()), (verb, err)


@pytest.mark.parametrize("name", ["run.json", "certificates.jsonl", ".lock"])
def test_a_run_is_not_resumed_through_a_pipe(whole: Path, tmp_path: Path, name: str):
    run = tmp_path / "run"
    run.mkdir()
    for file in ("run.json", "certificates.jsonl"):
        (run / file).write_bytes((whole / "whole" / file).read_bytes())
    pipe(run / name)
    call = ["certify", whole / "kws.yaml", "--out", run, "--trust", "--resume"]
    Process(*call, logs=tmp_path / "logs").end(60).said(2, str(run))


def test_records_cannot_reach_out_of_the_run(whole: Path, tmp_path: Path):
    """Clips named ../../x, as an attack keeps its sounds under the clip's name."""
    run = tmp_path / "a" / "b" / "run"
    run.mkdir(parents=True)
    facts = json.loads((whole / "whole" / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts))
    lines = (whole / "whole" / "certificates.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    record["clip"] = "../../../escaped.wav"
    (run / "certificates.jsonl").write_text(json.dumps(record) + "\n")
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if "logs" not in p.parts)
    call = ["attack", run, "--trust", "--wav", "--limit", 1, "--steps", 1]
    Process(*call, logs=tmp_path / "logs").end().said(2, "no longer holds")
    after = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if "logs" not in p.parts)
    assert [p for p in after if p not in before and p.name != ".lock"] == []


# --- audio -----------------------------------------------------------------------------------------


def test_a_small_file_that_unpacks_to_much_is_refused_before_it_is_decoded(tmp_path: Path):
    import soundfile

    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", 8000, 8, format="FLAC") as file:
        for _ in range(90):
            file.write(np.zeros((100_000, 8), np.int16))
    assert path.stat().st_size < 2**20
    with pytest.raises(InputError, match=r"at most \d+ (s|bytes)"):
        load_clip(path)


def test_a_config_of_a_stranger_runs_nothing(whole: Path, tmp_path: Path):
    """A module beside the config, an installed one, and neither flag nor word enough alone."""
    (tmp_path / "faulty.py").write_text("open(__file__ + '.ran', 'w')\n")
    (tmp_path / "kws.yaml").write_text(CONFIG)
    call = ["audit", tmp_path / "kws.yaml", "--data", whole / "clips"]
    Process(*call, logs=tmp_path / "logs").end().said(2, "--trust")
    (tmp_path / "kws.yaml").write_text(CONFIG.replace("trust: true, ", ""))
    Process(*call, "--trust", logs=tmp_path / "logs").end().said(2, "`trust: true`")
