"""Runs in processes of their own that can be killed, starved and left to hang, and what must hold afterwards.

The processes are forked from a server that has imported torch once, so that one costs a moment and not seconds.
The model is a Python function beside the config. Files beside it tell it what to do, at which call.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from helpers import HIGH, LOW, tone, without_times, write

MODEL = """
import os, time
from pathlib import Path
import numpy as np, torch

HERE = Path(__file__).parent
SAMPLES = 1600
T = np.arange(SAMPLES) / 16000
W = torch.tensor(np.stack([f(2 * np.pi * a * T) for a in (4000, 500) for f in (np.sin, np.cos)], axis=1) / 40).float()
calls = 0

def logits(x):
    global calls
    calls += 1
    for file in HERE.glob("at-*"):  # at-CALL-WHAT
        _, call, what = file.name.split("-", 2)
        if calls >= int(call):
            if what == "hang":
                while True:
                    time.sleep(0.1)
            if what == "memory":
                raise MemoryError
            if what == "allocate":
                torch.zeros(2 ** 44)
            if what == "slow":
                time.sleep(0.003)
    return (x @ W).square() @ torch.tensor([[1., 0], [1, 0], [0, 1], [0, 1]])
"""
CONFIG = """
data: {source: folder, root: clips}
pipeline:
  - mono
  - fit: {samples: 1600}
  - rms_normalize: {target: 1.0}
  - gaussian_noise: {sigma: 0.3}
  - model: {python: "faulty:logits", trust: true, labels: [high, low]}
certify: {n0: 16, n: 112, alpha: 0.001, seed: 0}
"""


def make_home(root: Path, clips: int = 24) -> Path:
    """Write clips, model and config; one clip is broken."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(clips // 2):
        write(root / "clips" / "low" / f"{i:02}.wav", tone(LOW, i))
        write(root / "clips" / "high" / f"{i:02}.wav", tone(HIGH, i))
    (root / "clips" / "high" / "broken.wav").write_bytes(b"RIFF")
    (root / "faulty.py").write_text(MODEL)
    (root / "kws.yaml").write_text(CONFIG)
    return root


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code (negative: minus the signal), stdout, stderr."""

    code: int
    out: str
    err: str

    def said(self, code: int, *words: str) -> None:
        """Hold it to an exit code, and to one line on stderr with these words."""
        assert (self.code, self.err.count("\n")) == (code, 1), self
        for word in words:
            assert word in self.err, self.err
        assert "Traceback" not in self.err + self.out


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "scipy.stats", "soundfile", "soundcert.cli", "soundcert.runs"])
    return context


def _main(arguments: list[str], files: tuple[str, str], limits: Mapping[int, int]) -> None:
    # What Python does at its end must be in the files too.
    for number, file in enumerate(files, start=1):
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    import torch

    from soundcert.cli import main

    # Whoever runs the tests may ignore signals (a shell's background jobs do), and what is ignored stays so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Models that other tests imported in the parent: their folders would come first.
    sys.path[:] = [folder for folder in sys.path if not Path(folder, "faulty.py").exists()]
    torch.set_num_threads(1)
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))
    Path(f"{files[0]}.ready").touch()
    main(arguments)


class Process:
    """`soundcert ARGUMENTS` in a process of its own. limits: resource limits by their kind."""

    def __init__(self, *arguments: object, logs: Path, limits: Mapping[int, int] | None = None) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        stem = f"{time.monotonic_ns()}"
        self._files = (logs / f"{stem}.out", logs / f"{stem}.err")
        self.process: BaseProcess = _context().Process(
            target=_main,
            args=([str(a) for a in arguments], tuple(str(f) for f in self._files), dict(limits or {})),
        )
        self.process.start()

    def send(self, number: int, delay: float = 0.0) -> bool:
        """Send a signal so many seconds after it has begun; whether the process was still alive."""
        while self.process.is_alive() and not Path(f"{self._files[0]}.ready").exists():
            time.sleep(0.001)
        self.process.join(delay)
        alive = self.process.is_alive()
        if alive and self.process.pid is not None:
            os.kill(self.process.pid, number)
        return alive

    def end(self, seconds: float = 120) -> Ended:
        """Wait until it has ended. A process that does not is killed, and an error here."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.send(signal.SIGKILL)
            self.process.join()
            raise AssertionError(f"the process did not end in {seconds:g} s")
        out, err = (file.read_text("utf-8") if file.exists() else "" for file in self._files)
        assert self.process.exitcode is not None
        return Ended(self.process.exitcode, out, err)


def certify(home: Path, run: Path, *more: object, limits: Mapping[int, int] | None = None) -> Process:
    call = ["certify", home / "kws.yaml", "--out", run, "--trust", "--workers", 1, *more]
    return Process(*call, logs=home / "logs", limits=limits)


def wait_for_lines(process: Process, run: Path, lines: int) -> None:
    """Wait until so many clips are recorded, or the process has ended."""
    file = run / "certificates.jsonl"
    while process.process.is_alive() and (file.read_bytes().count(b"\n") if file.exists() else 0) < lines:
        time.sleep(0.002)


def check_same(run: Path, whole: Path) -> None:
    """The run is complete and unique, and byte for byte the one that nothing happened to, but for times."""
    names = [json.loads(line)["clip"] for line in (run / "certificates.jsonl").read_bytes().splitlines()]
    assert len(names) == len(set(names)), "a clip is recorded twice"
    assert without_times(run) == without_times(whole)
    assert (run / "report.json").read_bytes() == (whole / "report.json").read_bytes()
    facts = [json.loads((place / "run.json").read_bytes()) for place in (run, whole)]
    for fact in facts:
        fact.pop("started")
    assert facts[0] == facts[1]
    assert not list(run.glob("*.part")), "an unfinished file is left"


def stopped_and_resumed(
    home: Path, run: Path, whole: Path, draw: random.Random, number: int, span: float, times: int
) -> int:
    """Stop a run at random moments until it has ended, `times` times at most; then let it end and check it.

    number: the signal. span: seconds from which the moments are drawn. Returns how often it was stopped under way.
    """
    stopped = 0
    while stopped < times:
        process = certify(home, run, "--resume")
        alive = process.send(number, draw.uniform(0, span))
        ended = process.end()
        assert "Traceback" not in ended.err, ended
        if ended.code == 1:  # done, and one clip is broken
            break
        assert alive, ended
        # Before the program has begun, a signal ends the process as it does any other.
        assert ended.code in ((-9,) if number == signal.SIGKILL else (128 + number, -number)), ended
        assert ended.err.count("\n") <= 1, ended
        stopped += 1
        if (run / "certificates.jsonl").exists():
            kept = [json.loads(line) for line in (run / "certificates.jsonl").read_bytes().split(b"\n")[:-1]]
            for record in kept:
                record.pop("seconds", None)
            assert kept == without_times(whole)[: len(kept)], "what was recorded before is not right"
    ended = certify(home, run, "--resume").end()
    assert ended.code == 1, ended
    check_same(run, whole)
    return stopped


def marks(home: Path, **calls: int) -> None:
    """Tell the model what to do from which call on: `marks(home, hang=20)`; nothing clears it."""
    for file in home.glob("at-*"):
        file.unlink()
    for what, call in calls.items():
        (home / f"at-{call}-{what}").touch()


def copied(home: Path, to: Path) -> Path:
    return Path(shutil.copytree(home, to, ignore=shutil.ignore_patterns("logs", "whole")))


@contextlib.contextmanager
def bounded(seconds: int = 20, gigabytes: float = 1.0) -> Iterator[None]:
    """Fail here, and not hang, what takes longer or more memory than that beyond what this process has."""
    have = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)

    def late(_: int, __: object) -> None:
        raise AssertionError(f"it takes more than {seconds} s")

    handler = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (have + int(gigabytes * 2**30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
