"""Run directories: killed anywhere, resumed, and the same as if nothing had happened."""

from __future__ import annotations

import fcntl
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import beta, norm

import soundcert
import soundcert as sc
from helpers import (
    HIGH,
    LOW,
    WAVEFORM,
    folder_of_tones,
    records,
    tone,
    without_times,
    write,
    write_tone_model,
    yaml_of,
)
from soundcert.bounds import accuracy_band, accuracy_interval
from soundcert.cli import run as command_line
from soundcert.config import load_config
from soundcert.data import load_items
from soundcert.data.items import Item
from soundcert.errors import ConfigError, RunError
from soundcert.runs import RunDirectory, certify_run, read_records, summarise
from soundcert.runs.certify_run import check_made_up
from soundcert.runs.directory import write_json


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and six clips of every fate: certified, abstained, failed; the last one has a long name."""
    root = tmp_path_factory.mktemp("runs")
    write(root / "clips" / "low" / "even.wav", write_tone_model(root / "tones.safetensors"))
    for i in range(2):
        write(root / "clips" / "high" / f"{i}.wav", tone(HIGH, i))
        write(root / "clips" / "low" / f"{i}.wav", tone(LOW, i))
    (root / "clips" / "high" / "broken.wav").write_bytes(b"RIFF")
    write(root / "clips" / "low" / "grün 猫.wav", tone(LOW, 7))
    (root / "kws.yaml").write_text(yaml_of(WAVEFORM, n=14))
    return root


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands, so that whole files can be compared."""
    module = sys.modules["soundcert.runs.work"]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: 0.0))


def certify(home: Path, out: Path, config: str | Path = "kws.yaml", **kwargs: Any) -> dict[str, Any]:
    settings = load_config(home / config)
    assert settings.data is not None
    return certify_run(settings, load_items(settings.data, home), out, base=home, **kwargs)


def variant(home: Path, tmp_path: Path, old: str, new: str) -> Path:
    """The prepared config with one change, beside the prepared files."""
    text = (home / "kws.yaml").read_text()
    assert old in text
    text = text.replace(old, new).replace("root: clips", f"root: {home / 'clips'}")
    if "weights: /" not in text:
        text = text.replace("weights: ", f"weights: {home}/")
    path = tmp_path / "changed.yaml"
    path.write_text(text)
    return path


# --- torn lines ------------------------------------------------------------------------------------


@pytest.fixture
def whole(prepared: Path, tmp_path: Path, still: None) -> Path:  # noqa: ARG001
    """An uninterrupted run."""
    certify(prepared, tmp_path / "whole")
    return tmp_path / "whole"


def torn(whole: Path, cut: int) -> Path:
    """A copy of a run whose records end at byte `cut`, as a killed process leaves them."""
    run = whole.with_name("torn")
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(whole, run)
    data = (whole / "certificates.jsonl").read_bytes()
    (run / "certificates.jsonl").write_bytes(data[:cut])
    (run / "report.json").unlink()
    return run


def last_record(whole: Path) -> tuple[int, bytes]:
    """Where the last line begins, and the whole file."""
    data = (whole / "certificates.jsonl").read_bytes()
    return data.rindex(b"\n", 0, len(data) - 1) + 1, data


def same(run: Path, whole: Path) -> None:
    for name in ("certificates.jsonl", "report.json", "run.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_record_torn_at_every_byte_is_cut_off_and_written_again(whole, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    begin, data = last_record(whole)
    identity = json.loads((whole / "run.json").read_bytes())["identity"]
    record = json.loads(data[begin:])
    before = [json.loads(line)["clip"] for line in data[:begin].splitlines()]
    run = torn(whole, begin)
    assert len(data) - begin > 500
    for cut in range(begin, len(data)):
        (run / "certificates.jsonl").write_bytes(data[:cut])
        with RunDirectory(run, identity, {}, resume=True) as directory:
            assert directory.done == set(before)
            assert (run / "certificates.jsonl").read_bytes() == data[:begin]
            directory.append(record)
        assert (run / "certificates.jsonl").read_bytes() == data
        assert len(list(read_records(run))) == len(before) + 1


def places(begin: int, data: bytes) -> list[int]:
    """The beginning, the end, inside a character of several bytes, and between."""
    cat = data.index("猫".encode(), begin)
    return [
        begin,
        begin + 1,
        cat + 1,
        cat + 2,
        (begin + len(data)) // 2,
        len(data) - 2,
        len(data) - 1,
        len(data),
    ]


def test_a_resumed_run_is_the_same_as_one_that_was_not_interrupted(prepared, whole):
    begin, data = last_record(whole)
    for cut in places(begin, data):
        run = torn(whole, cut)
        certify(prepared, run, resume=True)
        same(run, whole)


@pytest.mark.long
def test_a_run_resumed_from_every_byte_of_its_last_record_is_the_same(prepared, whole):
    begin, data = last_record(whole)
    for cut in range(begin, len(data) + 1):
        run = torn(whole, cut)
        certify(prepared, run, resume=True)
        same(run, whole)


def test_a_run_resumed_from_every_line_is_the_same(prepared, whole):
    data = (whole / "certificates.jsonl").read_bytes()
    lines = data.splitlines(keepends=True)
    assert len(lines) == 7
    for count in range(len(lines) + 1):
        run = torn(whole, sum(map(len, lines[:count])))
        certify(prepared, run, resume=True)
        same(run, whole)


def test_a_run_killed_before_its_first_record_is_resumed(prepared, whole, tmp_path):
    for left in ((), (".lock",), (".lock", "run.json.part"), (".lock", "run.json")):
        run = tmp_path / "begun"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        for name in left:
            (run / name).write_bytes((whole / name).read_bytes() if name == "run.json" else b"{")
        certify(prepared, run, resume=True)
        assert (run / "certificates.jsonl").read_bytes() == (whole / "certificates.jsonl").read_bytes()
        assert not (run / "run.json.part").exists()


def test_the_number_of_cores_and_the_micro_batch_change_nothing(prepared, whole, tmp_path):
    begin, _ = last_record(whole)
    run = torn(whole, begin // 2)
    certify(prepared, run, variant(prepared, tmp_path, "seed: 0", "seed: 0, micro_batch: 5"), resume=True)
    assert (run / "certificates.jsonl").read_bytes() == (whole / "certificates.jsonl").read_bytes()


# --- kill -9 ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips with a budget that takes each a moment, and the run that nobody kills."""
    root = tmp_path_factory.mktemp("many")
    write_tone_model(root / "tones.safetensors")
    folder_of_tones(root / "clips", 6)
    (root / "kws.yaml").write_text(yaml_of(WAVEFORM, n=600))
    certify(root, root / "whole")
    return root


def start(home: Path, out: Path) -> subprocess.Popen[bytes]:
    path = str(Path(soundcert.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-m", "soundcert", "certify", str(home / "kws.yaml"), "--out", str(out), "--resume"],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def kill_after(process: subprocess.Popen[bytes], run: Path, lines: int, delay: float) -> bool:
    """Kill once `lines` records stand there and `delay` seconds more have passed; whether it was still alive."""
    file = run / "certificates.jsonl"
    while process.poll() is None:
        if (run / "run.json").exists() and (file.read_bytes().count(b"\n") if file.exists() else 0) >= lines:
            time.sleep(delay)
            break
        time.sleep(0.001)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    return alive


def killed_and_resumed(home: Path, run: Path, draw: random.Random) -> int:
    """Kill a run once or twice at random moments, resume it, compare it; how often it was alive when killed."""
    alive = 0
    for _ in range(draw.choice((1, 1, 2))):
        before = len(list(read_records(run))) if (run / "certificates.jsonl").exists() else 0
        lines = draw.randint(min(before, 10), 10)
        alive += kill_after(start(home, run), run, lines, draw.uniform(0, 0.03))
        kept = [{k: v for k, v in r.items() if k != "seconds"} for r in read_records(run)] if alive else []
        assert kept == without_times(home / "whole")[: len(kept)], (
            "what was recorded before the kill is right"
        )
    assert command_line(["certify", str(home / "kws.yaml"), "--out", str(run), "--resume", "--json"]) == 0
    names = [record["clip"] for record in records(run)]
    assert len(names) == len(set(names)) == 12
    assert without_times(run) == without_times(home / "whole")
    assert (run / "report.json").read_bytes() == (home / "whole" / "report.json").read_bytes()
    return alive


@pytest.mark.parametrize("seed", range(4))
def test_a_process_killed_at_a_random_moment_loses_nothing_and_writes_nothing_twice(many, tmp_path, seed):
    assert killed_and_resumed(many, tmp_path / "run", random.Random(seed)) >= 1


@pytest.mark.long
def test_many_processes_killed_at_random_moments(many, tmp_path):
    alive = sum(killed_and_resumed(many, tmp_path / f"run{i}", random.Random(100 + i)) for i in range(50))
    assert alive >= 40


# --- one writer, one run ---------------------------------------------------------------------------


def test_a_second_process_on_a_directory_is_refused(prepared, whole, capsys):
    identity = json.loads((whole / "run.json").read_bytes())["identity"]
    before = (whole / "certificates.jsonl").read_bytes()
    with RunDirectory(whole, identity, {}, resume=True):
        with pytest.raises(RunError, match="being written by another process"):
            certify(prepared, whole, resume=True)
        probe = "import fcntl,sys; fcntl.flock(open(sys.argv[1], 'a+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        child = subprocess.run(
            [sys.executable, "-c", probe, str(whole / ".lock")], capture_output=True, check=False
        )
        assert b"BlockingIOError" in child.stderr
    assert (whole / "certificates.jsonl").read_bytes() == before
    # A process that holds the lock itself, as another soundcert does.
    hold = "import fcntl,sys; f=open(sys.argv[1],'a+'); fcntl.flock(f, fcntl.LOCK_EX); print(1,flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(whole / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.readline()
        assert command_line(["certify", str(prepared / "kws.yaml"), "--out", str(whole), "--resume"]) == 2
        assert "another process" in capsys.readouterr().err
        other.stdin.close()
    certify(prepared, whole, resume=True)


def test_the_lock_is_given_back_when_a_run_ends_or_fails(prepared, whole):
    with pytest.raises(RunError):
        certify(prepared, whole)
    with (whole / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_existing_run_without_resume_is_refused_and_left_alone(prepared, whole):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    with pytest.raises(RunError, match="holds a run already: add --resume"):
        certify(prepared, whole)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sigma: 0.15", "sigma: 0.16"),
        ("floor: 1.0", "floor: 2.0"),
        ("  - mono\n", ""),
        ("n: 14", "n: 15"),
        ("n0: 5", "n0: 6"),
        ("alpha: 0.001", "alpha: 0.002"),
        ("seed: 0", "seed: 1"),
        ("seed: 0", "seed: 0, bound: two-class"),
        ("seed: 0", "seed: 0, tries: 3"),
    ],
)
def test_a_resume_with_another_config_is_refused(prepared, whole, tmp_path, old, new):
    before = (whole / "certificates.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"was begun with another config \(.+ → .+\):"):
        certify(prepared, whole, variant(prepared, tmp_path, old, new), resume=True)
    assert (whole / "certificates.jsonl").read_bytes() == before


def test_a_resume_with_another_report_is_refused(prepared, whole):
    with pytest.raises(RunError, match="was begun with another config:"):
        certify(prepared, whole, resume=True, report_in=["file"])


def test_a_resume_with_other_statistics_of_as_many_bands_is_refused(prepared, tmp_path):
    stage = "  - feature_standardize: {mean: [%s, 0, 0, 0, 0, 0, 0, 0], std: 1.0}\n  - model"
    certify(prepared, tmp_path / "run", variant(prepared, tmp_path, "  - model", stage % 0))
    with pytest.raises(RunError, match=r"was begun with another config \(pipeline.* → .*\):"):
        certify(prepared, tmp_path / "run", variant(prepared, tmp_path, "  - model", stage % 9), resume=True)


def test_a_resume_with_the_labels_in_another_order_is_refused(prepared, tmp_path):
    save_file(load_file(prepared / "tones.safetensors"), tmp_path / "plain.safetensors")
    model = "weights: %s/plain.safetensors, network: ds_cnn, options: {width: 2, blocks: 1}, labels: [%s]"
    first, second = (model % (tmp_path, labels) for labels in ("high, low", "low, high"))
    certify(prepared, tmp_path / "run", variant(prepared, tmp_path, "weights: tones.safetensors", first))
    with pytest.raises(RunError, match="was begun with another"):
        certify(
            prepared,
            tmp_path / "run",
            variant(prepared, tmp_path, "weights: tones.safetensors", second),
            resume=True,
        )


@pytest.fixture
def copied(prepared: Path, tmp_path: Path) -> Path:
    """The prepared folder, to be changed."""
    shutil.copytree(prepared, tmp_path / "copied")
    return tmp_path / "copied"


def nudge(path: Path) -> None:
    """Change one weight of a file by the smallest amount."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    key = next(key for key, value in state.items() if value.is_floating_point() and value.dim() > 1)
    state[key].view(-1)[0] = torch.nextafter(state[key].view(-1)[0], torch.tensor(math.inf))
    save_file(state, path, metadata=metadata)


def test_a_resume_with_another_model_is_refused(copied, whole):
    certify(copied, whole, resume=True)  # the same files in another folder are the same run
    nudge(copied / "tones.safetensors")
    with pytest.raises(RunError, match="was begun with another model:"):
        certify(copied, whole, resume=True)


@pytest.mark.parametrize("change", ["more", "fewer", "renamed", "relabelled"])
def test_a_resume_with_other_data_is_refused(copied, whole, change):
    clips = copied / "clips"
    if change == "more":
        write(clips / "low" / "new.wav", tone(LOW, 40))
    elif change == "fewer":
        (clips / "low" / "0.wav").unlink()
    elif change == "renamed":
        (clips / "low" / "0.wav").rename(clips / "low" / "00.wav")
    else:
        text = (copied / "kws.yaml").read_text()
        (copied / "kws.yaml").write_text(text.replace("root: clips", "root: clips, label_map: {low: high}"))
    now = {"more": 8, "fewer": 6}.get(change, 7)
    how = {
        "more": r"\)",  # behind all that are recorded
        "fewer": "; number 4 was 'low/0.wav', is 'low/1.wav'",
        "renamed": "; number 4 was 'low/0.wav', is 'low/00.wav'",
        "relabelled": "; 'low/0.wav' was labelled 'low', is 'high'",
    }[change]
    with pytest.raises(RunError, match=rf"was begun with another list of clips \(7 then, {now} now{how}"):
        certify(copied, whole, resume=True)


@pytest.mark.parametrize(
    ("clips", "words"),
    [
        ([("a", "x"), ("b2", "x"), ("c", None)], "(3 then, 3 now; number 2 was 'b', is 'b2')"),
        ([("a", "x"), ("b", "y")], "(3 then, 2 now; 'b' was labelled 'x', is 'y')"),
        ([("a", None)], "(3 then, 1 now; 'a' was labelled 'x', is None)"),
        ([("a", "x"), ("b", "x"), ("d", None)], "(3 then, 3 now)"),  # the third was not certified yet
        ([], "(3 then, 0 now)"),
    ],
)
def test_how_another_list_differs_is_told_as_far_as_clips_are_recorded(tmp_path, clips, words):
    with RunDirectory(tmp_path / "run", {"data": "0"}, {"clips": 3}, resume=False) as run:
        for name in ("a", "b"):
            run.append({"clip": name, "status": "failed", "reason": "", "truth": "x"})
    with pytest.raises(RunError) as caught:
        RunDirectory(tmp_path / "run", {"data": "1"}, {"clips": len(clips)}, resume=True, clips=clips)
    assert str(caught.value) == (
        f"{tmp_path / 'run'} was begun with another list of clips {words}: a run cannot change midway; "
        "choose another --out"
    )


def test_another_list_is_told_of_a_run_whose_records_cannot_be_read(tmp_path):
    with RunDirectory(tmp_path / "run", {"data": "0"}, {}, resume=False):
        pass
    (tmp_path / "run" / "certificates.jsonl").write_text("[1]\n")
    with pytest.raises(RunError, match="begun with another list of clips: a run"):
        RunDirectory(tmp_path / "run", {"data": "1"}, {"clips": 1}, resume=True, clips=[("a", None)])


def test_everything_that_changed_is_named(copied, whole):
    nudge(copied / "tones.safetensors")
    (copied / "clips" / "low" / "0.wav").unlink()
    text = (copied / "kws.yaml").read_text()
    (copied / "kws.yaml").write_text(text.replace("seed: 0", "seed: 3"))
    message = r"another config \(certify.seed 0 → 3\), another list of clips \(7 then, 6 now.*\) and another model: a run"
    with pytest.raises(RunError, match=message):
        certify(copied, whole, resume=True)


# --- directories that are not runs -----------------------------------------------------------------


def test_a_folder_with_other_things_in_it_may_become_a_run(prepared, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    certify(prepared, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", b"{", "missing or not JSON"),
        ("run.json", b"[]", "must hold a JSON object"),
        ("run.json", b'{"format": 2}', "format 2; this version reads 1"),
        (
            "run.json",
            b'{"format": 1}',
            "another config, another list of clips, another model and another noise: a run",
        ),
        ("certificates.jsonl", b"{}\n", "but no run.json"),
    ],
)
def test_a_directory_of_something_else_is_refused(prepared, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=message):
        certify(prepared, tmp_path, resume=True)
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("line", [b"not json\n", b"[1]\n", b'"clip"\n', b"{}\n", b"\xff\n", b"\n"])
def test_a_damaged_line_that_is_not_the_last_is_refused_and_not_cut_off(prepared, whole, line):
    begin, data = last_record(whole)
    damaged = data[:begin] + line + data[begin:]
    (whole / "certificates.jsonl").write_bytes(damaged)
    with pytest.raises(RunError, match=r"certificates\.jsonl, line 7, is not a record"):
        certify(prepared, whole, resume=True)
    assert (whole / "certificates.jsonl").read_bytes() == damaged


STRANGE = [
    {"status": "done"}, {"status": None}, {"status": ["certified"]}, {"n": "30"}, {"n": None}, {"alpha": 2},
    {"alpha": "0.001"}, {"sigma": 0}, {"sigma": [1]}, {"radius": "1"}, {"radius": math.nan}, {"views": []},
    {"views": {"snr_db": "loud"}}, {"label": 1}, {"truth": ["low"]}, {"radii": 3}, {"recording": ["a"]},
    {"spaces": {"file": 1}}, {"spaces": ["file"]}, {"spaces": {"file": {"proven": False}}},
]  # fmt: skip


@pytest.mark.parametrize("odd", STRANGE, ids=str)
@pytest.mark.parametrize("verb", ["certify", "attack"])
def test_a_record_of_other_kinds_is_one_line(prepared, whole, capsys, verb, odd):
    """A run that somebody else wrote: nothing is computed with its values, and nothing is written."""
    file = whole / "certificates.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    at = next(i for i, record in enumerate(lines) if record["status"] == "certified")
    lines[at].update(odd)
    file.write_text("".join(json.dumps(record) + "\n" for record in lines))
    held = file.read_bytes()
    call = ["certify", prepared / "kws.yaml", "--out", whole, "--resume"]
    said_in_one_line(
        capsys, call if verb == "certify" else ["attack", whole], f"line {at + 1}, is not a record"
    )
    assert file.read_bytes() == held


@pytest.mark.parametrize("name", ["alpha", "views", "saturated", "status"])
def test_a_record_that_lacks_a_field_is_one_line(prepared, whole, capsys, name):
    file = whole / "certificates.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    at = next(i for i, record in enumerate(lines) if record["status"] == "certified")
    del lines[at][name]
    file.write_text("".join(json.dumps(record) + "\n" for record in lines))
    call = ["certify", prepared / "kws.yaml", "--out", whole, "--resume"]
    said_in_one_line(capsys, call, f"it has no {name}")


@pytest.mark.parametrize("identity", [[], "x", 3, None], ids=str)
def test_an_identity_of_another_kind_is_one_line(prepared, whole, capsys, identity):
    facts = json.loads((whole / "run.json").read_text())
    (whole / "run.json").write_text(json.dumps({**facts, "identity": identity}))
    call = ["certify", prepared / "kws.yaml", "--out", whole, "--resume"]
    said_in_one_line(capsys, call, "expected `identity`")


@pytest.fixture(scope="module")
def measured(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config that leaves the engine to a measurement, and its run."""
    root = tmp_path_factory.mktemp("measured")
    config = variant(prepared, root, "seed: 0", "seed: 0, engine: auto")
    certify(prepared, root / "run", config)
    return config, root / "run"


@pytest.mark.parametrize(
    "engine",
    [None, 3, {}, {"engine": ["torch"]}, {"micro_batch": "many"}, {"micro_batch": 0}, {"speed": 9},
     {"engine": "steam"}, {"device": 1}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("verb", ["certify", "attack"])
def test_an_engine_of_another_kind_is_one_line(measured, tmp_path, capsys, verb, engine):
    config, before = measured
    run = shutil.copytree(before, tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())
    odd = {**facts["engine"], **engine} if isinstance(engine, dict) and engine else engine
    (run / "run.json").write_text(json.dumps({**facts, "engine": odd}))
    call = ["certify", config, "--out", run, "--resume"] if verb == "certify" else ["attack", run]
    said_in_one_line(capsys, call, "expected `engine`")


@pytest.mark.parametrize("entry", [3, [], {"n": 3}, {"pilot": {"top": 0}, "n": 30}, {"pilot": 1, "n": 3},
                                   {"pilot": {"top": 0, "count": 5, "n": 5}, "n": "30"}], ids=str)  # fmt: skip
def test_shares_of_another_kind_are_one_line(prepared, tmp_path, capsys, entry):
    config = variant(prepared, tmp_path, "seed: 0", "seed: 0, budget: {passes: 600}")
    run = tmp_path / "shared"
    certify(prepared, run, config)
    shares = json.loads((run / "shares.json").read_text())
    (run / "shares.json").write_text(json.dumps(dict.fromkeys(shares, entry)))
    call = ["certify", config, "--out", run, "--resume"]
    said_in_one_line(capsys, call, "expected a clip's pilot and draws")


def said_in_one_line(capsys: pytest.CaptureFixture[str], call: Sequence[object], words: str) -> None:
    capsys.readouterr()
    assert command_line([str(part) for part in call]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert err.startswith("soundcert: ")
    assert words in err


def test_a_full_disk_says_that_nothing_is_lost(tmp_path):
    class Full:
        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    with RunDirectory(tmp_path / "run", {}, {}, resume=False) as run:
        run.append({"clip": "a"})
        assert run._records is not None
        run._records.close()
        run._records = Full()  # type: ignore[assignment]
        with pytest.raises(RunError, match=r"No space left on device.*--resume"):
            run.append({"clip": "b"})
    assert [record["clip"] for record in read_records(tmp_path / "run")] == ["a"]


def test_a_clip_is_recorded_once(tmp_path):
    record = {"clip": "a", "status": "failed", "reason": "silent"}
    with RunDirectory(tmp_path / "run", {}, {}, resume=False) as run:
        run.append(record)
        with pytest.raises(RunError, match="'a' is recorded already"):
            run.append(record)
    with (
        RunDirectory(tmp_path / "run", {}, {}, resume=True) as run,
        pytest.raises(RunError, match="'a' is recorded already"),
    ):
        run.append(record)


def test_a_record_is_on_the_disk_when_append_returns(tmp_path):
    with RunDirectory(tmp_path / "run", {}, {}, resume=False) as run:
        for i in range(3):
            run.append({"clip": str(i)})
            assert len(list(read_records(tmp_path / "run"))) == i + 1


def test_json_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": 1, "b": math.nan})
    assert json.loads(path.read_text()) == {"a": 1}


# --- records ---------------------------------------------------------------------------------------


def test_records_stand_in_the_order_of_the_list_and_failures_among_them(prepared, whole):
    items = load_items(load_config(prepared / "kws.yaml").data, prepared)
    rows = list(read_records(whole))
    assert [row["clip"] for row in rows] == [item.name for item in items]
    assert {row["clip"]: row["status"] for row in rows} == {
        "high/0.wav": "certified",
        "high/1.wav": "certified",
        "high/broken.wav": "failed",
        "low/0.wav": "certified",
        "low/1.wav": "certified",
        "low/even.wav": "abstained",
        "low/grün 猫.wav": "certified",
    }
    (bad,) = [row for row in rows if row["status"] == "failed"]
    assert set(bad) == {"clip", "reason", "status", "truth"}
    assert "broken.wav" in bad["reason"]
    assert all(row["truth"] == row["clip"].split("/")[0] for row in rows)


def test_clips_of_different_lengths_stand_in_the_order_of_the_list(prepared, tmp_path):
    for i, seconds in enumerate((0.1, 0.12, 0.1, 0.12, 0.1)):
        write(tmp_path / "clips" / "low" / f"{i}.wav", tone(LOW, i, seconds=seconds))
    (tmp_path / "clips" / "low" / "2.wav").write_bytes(b"")
    stages = [stage for stage in WAVEFORM if not stage.startswith("fit")]
    text = yaml_of(stages, n=14).replace("tones.safetensors", str(prepared / "tones.safetensors"))
    (tmp_path / "kws.yaml").write_text(text)
    summary = certify(tmp_path, tmp_path / "run")
    assert [row["clip"] for row in records(tmp_path / "run")] == [f"low/{i}.wav" for i in range(5)]
    assert summary["failed"] == 1
    # Packed with others of their shape or alone, clips have the same certificates.
    for i in (0, 3):
        (tmp_path / "one.csv").write_text(f"file,label\nclips/low/{i}.wav,low\n")
        (tmp_path / "one.yaml").write_text(
            text.replace("{source: folder, root: clips}", "{source: manifest, root: one.csv}")
        )
        certify(tmp_path, tmp_path / f"one{i}", "one.yaml")
        (alone,) = without_times(tmp_path / f"one{i}")
        assert {**alone, "clip": f"low/{i}.wav"} == without_times(tmp_path / "run")[i]


def test_progress_counts_to_the_end_and_goes_on_where_it_stopped(prepared, whole):
    seen: list[tuple[int, int, str]] = []
    lines = (whole / "certificates.jsonl").read_bytes().splitlines(keepends=True)
    run = torn(whole, sum(map(len, lines[:3])))
    certify(prepared, run, resume=True, progress=lambda p: seen.append((p.done, p.total, p.record["clip"])))
    assert [(done, total) for done, total, _ in seen] == [(4, 7), (5, 7), (6, 7), (7, 7)]
    assert [clip for _, _, clip in seen] == [row["clip"] for row in records(whole)][3:]


@pytest.mark.parametrize("bound", ["one-sided", "two-class"])
def test_every_radius_can_be_recomputed_from_its_line(prepared, tmp_path, bound):
    path = variant(prepared, tmp_path, "n: 14", f"n: 200, bound: {bound}")
    certify(prepared, tmp_path / "run", path)
    rows = [row for row in records(tmp_path / "run") if row["status"] != "failed"]
    assert {row["status"] for row in rows} == {"certified", "abstained"}
    for row in rows:
        k, n, alpha, sigma = row["count"], row["n"], row["alpha"], row["sigma"]
        assert (n, row["n0"], alpha, sigma, row["bound"]) == (200, 5, 0.001, 0.15, bound)
        level = alpha if bound == "one-sided" else alpha / 2
        lower = beta.ppf(level, k, n - k + 1)
        if bound == "one-sided":
            exact = sigma * norm.ppf(lower)
        else:
            m = row["max_other"]
            upper = min(beta.ppf(1 - level, m + 1, n - m), 1 - lower)
            assert row["p_upper"] == pytest.approx(upper, rel=1e-9)
            exact = sigma / 2 * (norm.ppf(lower) - norm.ppf(upper))
        assert row["p_lower"] == pytest.approx(lower, rel=1e-9)
        assert row["p_lower"] <= lower * (1 + 1e-12)
        if row["status"] == "certified":
            assert row["radius"] == pytest.approx(exact, rel=1e-9)
            assert row["radius"] <= exact * (1 + 1e-12)
            assert row["views"]["snr_db"] >= 20 * math.log10(row["object_norm"] / row["radius"])
            assert row["saturated"] == (k == n)
            assert (row["radius"] == row["ceiling"]) == row["saturated"]
        else:
            assert exact <= 0


def test_labels_that_the_model_does_not_name_are_refused_before_the_directory_is_made(prepared, tmp_path):
    (tmp_path / "list.csv").write_text(f"file,label\n{prepared}/clips/low/0.wav,lwo\n")
    text = yaml_of(WAVEFORM, "{source: manifest, root: list.csv}")
    (tmp_path / "kws.yaml").write_text(text.replace("tones.safetensors", str(prepared / "tones.safetensors")))
    with pytest.raises(ConfigError, match="did you mean 'low'"):
        certify(tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("labels", "refused"), [(("yes", "up"), True), (("0", "1"), False), ((None, None), False)]
)
def test_a_model_that_names_no_labels_meets_clips_that_have_some(labels, refused):
    """Found by a first-time user: every certificate was counted as wrong, and nothing said why."""
    pipe = sc.Pipeline(
        [sc.stages.GaussianNoise(0.5), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 2)).eval()]
    )
    items = [Item(f"{i}.wav", Path(f"{i}.wav"), label) for i, label in enumerate(labels)]
    if refused:
        with pytest.raises(
            ConfigError, match=r"names no labels, .* clip 0.wav has label 'yes': give the model stage"
        ):
            check_made_up(pipe, items)
    else:
        check_made_up(pipe, items)


# --- the summary -----------------------------------------------------------------------------------


def fake(count: int, sigma: float = 0.5, *, labelled: bool = True, seed: int = 0) -> list[dict[str, Any]]:
    """Records of a run that never was."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        row: dict[str, Any] = {
            "clip": str(i),
            "status": rng.choice(["certified"] * 6 + ["abstained", "failed"]),
        }
        if labelled:
            row["truth"] = rng.choice("ab")
        if row["status"] != "failed":
            row |= {"alpha": 0.001, "sigma": sigma, "candidate": rng.choice("aaab")}
            row["saturated"] = rng.random() < 0.2
        if row["status"] == "certified":
            row["label"] = row["candidate"]
            row["radius"] = sigma * rng.uniform(0.001, 3.5)
            row["views"] = {
                "r_over_sigma": row["radius"] / sigma,
                "snr_db": rng.uniform(15, 90),
                "file_snr_db": None if rng.random() < 0.1 else rng.uniform(15, 90),
                "file_radius": rng.uniform(0, 1),
            }
        rows.append(row)
    return rows


def test_silence_is_certified_at_no_snr_and_takes_no_median_away():
    """A change 20 dB below silence is no change: a class of silent clips must not raise the curve."""
    rows = [row for row in fake(60, seed=3) if row["status"] == "certified" and row["label"] == row["truth"]]
    before = summarise(rows)
    silent = [{**row, "clip": f"silent {row['clip']}", "views": {"r_over_sigma": row["views"]["r_over_sigma"]}}
              for row in rows[:3]]  # fmt: skip
    after = summarise([*rows, *silent])
    for curve in ("certified_accuracy_at_snr_db", "certified_accuracy_at_file_snr_db"):
        for level, share in before[curve].items():
            assert after[curve][level] == pytest.approx(share * len(rows) / (len(rows) + 3))
    levels = sorted(row["views"]["snr_db"] for row in rows) + [math.inf] * 3
    assert after["median_snr_db"] == statistics.median(levels)
    assert after["median_file_radius"] <= before["median_file_radius"]
    most = summarise([*rows[:1], *silent])
    assert "median_snr_db" not in most, "there is no median where most clips have no level"


def recomputed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures, from their definitions."""
    usable = [row for row in rows if row["status"] != "failed"]
    correct = np.array([row["status"] == "certified" and row["label"] == row["truth"] for row in usable])
    radii = np.array([row.get("radius", 0.0) for row in usable])
    return {
        "clips": len(rows),
        "certified": sum(row["status"] == "certified" for row in rows),
        "abstained": sum(row["status"] == "abstained" for row in rows),
        "failed": sum(row["status"] == "failed" for row in rows),
        "smoothed_accuracy": correct.mean(),
        "smoothed_accuracy_over": len(usable),
        "median_radius": np.median(radii[correct]),
        "saturated_share_of_certified": np.mean(
            [r["saturated"] for r in usable if r["status"] == "certified"]
        ),
    }


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_a_summary_are_those_of_their_definitions(seed):
    rows = fake(200, seed=seed)
    summary = summarise(rows)
    for key, value in recomputed(rows).items():
        assert summary[key] == pytest.approx(value, abs=1e-12), key
    usable = [row for row in rows if row["status"] != "failed"]
    good = [row for row in usable if row["status"] == "certified" and row["label"] == row["truth"]]
    assert summary["medians_over"] == "certified and correct clips"
    for view in ("r_over_sigma", "snr_db", "file_radius"):
        assert summary[f"median_{view}"] == statistics.median(row["views"][view] for row in good)
    unlimited = [-math.inf if (x := row["views"]["file_snr_db"]) is None else x for row in good]
    assert summary["median_file_snr_db"] == statistics.median(unlimited)
    for key, view in (
        ("certified_accuracy_at_snr_db", "snr_db"),
        ("certified_accuracy_at_file_snr_db", "file_snr_db"),
    ):
        for level, share in summary[key].items():
            covered = [row["views"][view] is None or row["views"][view] <= float(level) for row in good]
            assert share == pytest.approx(sum(covered) / len(usable))
        shares = list(summary[key].values())
        assert shares == sorted(shares, reverse=True), "louder perturbations are covered by fewer clips"
    low, high = summary["smoothed_accuracy_interval_95"]
    assert (low, high) == tuple(accuracy_interval(len(good), len(usable), 0.05, 0.001))
    assert low < len(good) / len(usable) < high
    for name in ("radius", "snr_db", "file_snr_db"):
        curve, band = (
            summary[f"certified_accuracy_at_{name}"],
            summary[f"certified_accuracy_band_95_at_{name}"],
        )
        counts = [round(share * len(usable)) for share in curve.values()]
        assert list(band) == list(curve)
        assert list(map(tuple, band.values())) == accuracy_band(counts, len(usable), 0.05, 0.001)


@pytest.mark.parametrize("sigma", [0.5, 0.0025, 1 / 3, 0.7])
def test_certified_accuracy_holds_at_the_radius_that_is_written(sigma):
    rows = fake(50, sigma)
    usable = [row for row in rows if row["status"] != "failed"]
    # Clips between the grid's radii and what six digits make of them.
    for i, k in enumerate(range(1, 8)):
        extra = dict(next(row for row in usable if row["status"] == "certified"))
        extra |= {"clip": f"edge {i}", "label": "a", "truth": "a", "radius": sigma * k / 2}
        rows.append(extra)
        usable.append(extra)
    good = [row for row in usable if row["status"] == "certified" and row["label"] == row["truth"]]
    curve = summarise(rows)["certified_accuracy_at_radius"]
    assert len(curve) == 8
    for radius, share in curve.items():
        holds = sum(row["radius"] >= float(radius) for row in good) / len(usable)
        assert share <= holds + 1e-12, radius
    assert curve["0"] == pytest.approx(len(good) / len(usable))


def test_without_labels_medians_are_over_certified_clips():
    rows = fake(60, labelled=False)
    summary = summarise(rows)
    certified = [row["radius"] for row in rows if row["status"] == "certified"]
    assert summary["medians_over"] == "certified clips"
    assert summary["median_radius"] == statistics.median(certified)
    assert not any("accuracy" in key for key in summary)


def test_a_summary_of_failures_and_of_nothing():
    rows = [{"clip": "a", "status": "failed", "reason": "broken", "truth": "a"}]
    for summary in (summarise([]), summarise(rows)):
        assert (summary["certified"], summary["abstained"]) == (0, 0)
        assert not any("accuracy" in key or key == "median_radius" for key in summary)
        json.dumps(summary, allow_nan=False)


def test_abstentions_count_as_wrong():
    rows = [
        {"clip": str(i), "status": "abstained", "truth": "a", "alpha": 0.001, "sigma": 1.0} for i in range(3)
    ]
    summary = summarise(rows)
    assert (summary["smoothed_accuracy"], summary["smoothed_accuracy_over"]) == (0.0, 3)
    assert "median_radius" not in summary


def test_features_have_no_snr_curve_even_where_no_clip_is_correct():
    row = {
        "clip": "a",
        "status": "certified",
        "truth": "a",
        "label": "b",
        "candidate": "b",
        "saturated": True,
    }
    row |= {
        "alpha": 0.001,
        "sigma": 1.0,
        "radius": 1.0,
        "views": {"norm_ratio_db": 40.0, "r_over_sigma": 1.0},
    }
    assert "certified_accuracy_at_snr_db" not in summarise([row])


def test_the_report_is_the_summary_of_the_records(whole):
    report = json.loads((whole / "report.json").read_bytes())
    assert report["summary"] == summarise(read_records(whole))
    assert report["contract"] == json.loads((whole / "run.json").read_bytes())["contract"]
    for key, value in recomputed(records(whole)).items():
        assert report["summary"][key] == pytest.approx(value), key
