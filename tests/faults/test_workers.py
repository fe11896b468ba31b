"""Workers that run out of memory, hang in the model, or hang while they read."""

from __future__ import annotations

import resource
import signal
import threading
from pathlib import Path

import pytest
from rig import Process, certify, check_same, copied, marks, wait_for_lines

from helpers import without_times
from soundcert.audio import Clip, load_clip
from soundcert.config import load_config
from soundcert.data import load_items
from soundcert.errors import ResourceError, RunError, StalledError
from soundcert.runs import certify_run
from soundcert.sampling import explained, hanging, within


def resumed(home: Path, run: Path) -> None:
    """Nothing was lost: what was recorded is right, and the run ends as if nothing had happened."""
    marks(home)
    whole = certify(home, home / "whole").end()
    assert whole.code == 1, whole
    kept = without_times(run)
    assert kept == without_times(home / "whole")[: len(kept)]
    assert certify(home, run, "--resume").end().code == 1
    check_same(run, home / "whole")


@pytest.mark.parametrize("how", ["memory", "allocate"])
def test_out_of_memory_in_a_worker(whole: Path, tmp_path: Path, how: str):
    home, run = copied(whole, tmp_path / "home"), tmp_path / "run"
    marks(home, **{how: 60})
    certify(home, run).end().said(
        2, "ran out of memory", "certify.micro_batch", "what was recorded is kept", "--resume"
    )
    assert without_times(run)
    resumed(home, run)


def test_a_limit_on_memory_is_no_traceback(whole: Path, tmp_path: Path):
    """A clip of 400 MB decoded, in a process that may have 3 GB of addresses: whatever fails first, one line says it."""
    home, run = copied(whole, tmp_path / "home"), tmp_path / "run"
    text = (home / "kws.yaml").read_text().replace("n0: 16", "micro_batch: 4096, n0: 16")
    text = text.replace("samples: 1600", "samples: 400000")
    (home / "kws.yaml").write_text(text)
    (home / "faulty.py").write_text("def logits(x):\n    return x[:, :2] * 1.0\n")
    ended = certify(home, run, limits={resource.RLIMIT_AS: 3 * 2**30}).end()
    ended.said(2, "memory")


def test_names_of_a_lack_of_memory():
    for error in (
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ):
        assert isinstance(explained(error), ResourceError)
    wrapped = RuntimeError("the model fails")
    wrapped.__cause__ = MemoryError()
    assert isinstance(explained(wrapped), ResourceError)
    other = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert explained(other) is other


def test_a_model_that_hangs_ends_the_run(whole: Path, tmp_path: Path):
    home, run = copied(whole, tmp_path / "home"), tmp_path / "run"
    marks(home, hang=60)
    ended = certify(home, run, "--watchdog", 1).end(60)
    ended.said(2, "no forward pass was finished and no clip read", "what was recorded is kept", "--resume")
    assert without_times(run)
    resumed(home, run)


def test_a_model_that_hangs_at_its_first_pass(whole: Path, tmp_path: Path):
    home = copied(whole, tmp_path / "home")
    marks(home, hang=1)
    certify(home, tmp_path / "run", "--watchdog", 1).end(60).said(
        2, "the first forward pass was not finished in 1 s"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_whose_model_hangs(whole: Path, tmp_path: Path, number: int):
    home, run = copied(whole, tmp_path / "home"), tmp_path / "run"
    marks(home, hang=60)
    process = certify(home, run)
    wait_for_lines(process, run, 3)
    process.send(number, 0.5)
    process.end(60).said(128 + number, "every finished clip is in", "--resume")
    resumed(home, run)


def test_a_file_that_cannot_be_read_to_its_end_ends_the_run(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on a server that has gone: the read neither fails nor returns. Another worker waits for the same lock."""
    home, run = copied(whole, tmp_path / "home"), tmp_path / "run"
    config = load_config(home / "kws.yaml")
    assert config.data is not None
    items = load_items(config.data, home)
    gone = threading.Event()

    def load(path: Path, *, name: str) -> Clip:
        if name == "low/03.wav":
            gone.wait()
        return load_clip(path, name=name)

    monkeypatch.setattr("soundcert.data.items.load_clip", load)
    try:
        with pytest.raises(RunError, match=r"no clip read for \d+ s.*--resume"):
            certify_run(config, items, run, base=home, trust=True, watchdog=0.5)
        assert hanging() >= 1
    finally:
        gone.set()
    monkeypatch.undo()
    resumed(home, run)


def test_what_is_slow_but_moves_is_left_alone(whole: Path, tmp_path: Path):
    """The whole run takes longer than the watchdog waits; no pass does."""
    assert certify(whole, tmp_path / "run", "--watchdog", 0.3).end().code == 1
    check_same(tmp_path / "run", whole / "whole")


def test_within_gives_what_comes_in_time():
    assert within(10, lambda: 3) == 3
    with pytest.raises(KeyError):
        within(10, lambda: {}[1])
    never = threading.Event()
    with pytest.raises(StalledError):
        within(0.05, never.wait)
    never.set()


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_a_watchdog_that_is_no_time_is_refused(whole: Path, tmp_path: Path, value: str):
    certify(whole, tmp_path / "run", f"--watchdog={value}").end().said(2, "--watchdog must be seconds from 0")


def test_a_first_line_is_not_needed_to_stop(whole: Path, tmp_path: Path):
    """SIGTERM while the weights are read and the model is tried."""
    process = Process(
        "certify", whole / "kws.yaml", "--out", tmp_path / "run", "--trust", logs=whole / "logs"
    )
    process.send(signal.SIGTERM, 0.05)
    ended = process.end()
    assert ended.code in (143, -signal.SIGTERM), ended
    assert "Traceback" not in ended.err
