"""A run of very many clips: what it takes to make, resume, open and report it, in time and in memory.

python scripts/load_test.py --clips 100000          # clips certified by a trivial model, into one run
python scripts/load_test.py --clips 100000 --append # only their records, appended and flushed as a run does

Prints a table and writes docs/results/load.json. Each step is a process of its own, whose largest memory is told
beside what the program needs before it begins. tests/unit/test_load.py has a smaller version in CI.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
RESULTS = ROOT / "docs" / "results" / "load.json"
CONFIG = """
data: {source: manifest, root: list.csv}
pipeline:
  - gaussian_noise: {sigma: 0.1}
  - model: {python: "trivial:logits", trust: true, labels: [low, high]}
certify: {n0: 4, n: 12, alpha: 0.001}
"""
MODEL = """
import torch


def logits(x):
    level = x.mean(1, keepdim=True)
    return torch.cat([-level, level], 1)
"""


def make(folder: Path, clips: int) -> None:
    """Write `clips` recordings of 8 samples each in folders of a thousand, the list, the model and the config."""
    import numpy as np
    import soundfile

    draw = np.random.default_rng(0)
    lines = ["file,label"]
    for i in range(clips):
        name = f"{i // 1000:04}/{i:07}.wav"
        if i % 1000 == 0:
            (folder / name).parent.mkdir()
        high = i % 2
        soundfile.write(
            folder / name, (draw.integers(8000, 16000, 8) * (2 * high - 1)).astype(np.int16), 16_000
        )
        lines.append(f"{name},{('low', 'high')[high]}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    (folder / "trivial.py").write_text(MODEL)
    (folder / "kws.yaml").write_text(CONFIG)


def certify(folder: Path, resume: bool = False) -> None:
    from soundcert.cli import run

    call = [
        "certify",
        str(folder / "kws.yaml"),
        "--out",
        str(folder / "run"),
        "--trust",
        "--workers",
        "1",
        "--json",
    ]
    code = run([*call, *(["--resume"] if resume else [])])
    assert code == 0, code


def append(folder: Path, clips: int) -> None:
    """As many appends as a run of so many clips makes, each on the disk before the next."""
    from soundcert.runs import RunDirectory
    from synthetic import CONTRACT, record

    info = {"clips": clips, "contract": CONTRACT, "statement": "", "config": {}, "labels": ["yes", "no"]}
    rows = [record(f"{k}", k) for k in range(900, 1000)]
    with RunDirectory(folder / "run", {"data": "0"}, info, resume=False) as run:
        for i in range(clips):
            run.append({**rows[i % 100], "clip": f"{i // 1000:04}/{i:07}.wav"})


def resume_appended(folder: Path) -> None:
    from soundcert.runs import RunDirectory

    with RunDirectory(folder / "run", {"data": "0"}, {}, resume=True) as run:
        assert len(run.done) > 0


def opened(folder: Path) -> None:
    from soundcert.runs import open_run

    assert open_run(folder / "run").finished


def reported(folder: Path, form: str) -> None:
    from soundcert.cli import run

    assert run(["report", str(folder / "run"), "--format", form, "--audio", "0"]) == 0


def nothing(_: Path) -> None:
    import soundcert.cli
    import soundcert.report.html
    import soundcert.runs  # noqa: F401


def _inside(work: Callable[..., None], arguments: tuple[Any, ...], pipe: Any) -> None:
    import os

    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    begun, used = time.perf_counter(), time.process_time()
    work(*arguments)
    pipe.send(
        (
            time.perf_counter() - begun,
            time.process_time() - used,
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
    )


def _watch(process: Any, records: Path, growth: list[float]) -> None:
    """Wait for a process; put its memory in MB at the first and at the last growth of `records` into `growth`."""
    before = records.stat().st_size if records.exists() else 0
    while process.is_alive():
        process.join(0.1)
        size = records.stat().st_size if records.exists() else 0
        if size > before and process.is_alive():
            held = (
                int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                * resource.getpagesize()
                / 2**20
            )
            growth[1 if growth else 0 :] = [held]
        before = size


def measured(
    work: Callable[..., None], *arguments: Any, growth: list[float] | None = None
) -> tuple[float, float, float]:
    """Return seconds, seconds of a core and the largest memory in MB of a piece of work in a process of its own.

    growth: gets the memory when the first and when the last record was written, of work that writes any.
    """
    growth = [] if growth is None else growth
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_inside, args=(work, arguments, there))
    process.start()
    _watch(process, arguments[0] / "run" / "certificates.jsonl", growth)
    if process.exitcode:
        raise SystemExit(f"{work.__name__} ended with exit code {process.exitcode}")
    seconds, used, memory = here.recv()
    return seconds, used, memory


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--append", action="store_true", help="append records only, without clips and model")
    parser.add_argument(
        "--folder", help="where to make it; in memory (/dev/shm) the disk's own time is left out"
    )
    given = parser.parse_args()
    steps: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)

        def step(what: str, work: Callable[..., None], *arguments: Any) -> None:
            growth: list[float] = []
            seconds, used, memory = measured(work, *arguments, growth=growth)
            steps[what] = {
                "seconds": round(seconds, 1),
                "cpu_seconds": round(used, 1),
                "megabytes": round(memory),
            }
            if len(growth) == 2:
                steps[what]["megabytes_while_writing"] = [round(m) for m in growth]
            print(f"{what:28} {seconds:9.1f} s {used:9.1f} s of a core {memory:8.0f} MB", flush=True)

        step("the program alone", nothing, folder)
        if given.append:
            step("append", append, folder, given.clips)
            step("read for a resume", resume_appended, folder)
        else:
            make(folder, given.clips)
            step("certify", certify, folder)
            step("resume a finished run", certify, folder, True)
        step("open", opened, folder)
        for form in ("html", "md", "csv", "latex"):
            step(f"report as {form}", reported, folder, form)
        size = (folder / "run" / "certificates.jsonl").stat().st_size
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found["append" if given.append else "certify"] = {"clips": given.clips, "bytes": size, "steps": steps}
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
