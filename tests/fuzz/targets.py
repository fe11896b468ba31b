"""What is fuzzed: each target takes bytes from a stranger, and may raise a SoundcertError of one line or nothing.

`python scripts/fuzz.py TARGET --seconds 300` lets coverage guide the bytes; tests/fuzz/test_fuzz.py runs the corpus
and mutations of it in CI.
"""

from __future__ import annotations

import atexit
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from soundcert.errors import SoundcertError

#: Between the files of a run directory: run.json, certificates.jsonl, attacks.jsonl.
CUT = b"\n=====\n"
PLACE = Path(
    tempfile.mkdtemp(prefix="soundcert-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
)


def _remove(owner: int) -> None:
    """Remove the folder at the end of the process that made it: a forked child's end is not the parent's."""
    if os.getpid() == owner:
        shutil.rmtree(PLACE, ignore_errors=True)


atexit.register(_remove, os.getpid())


def audio(data: bytes) -> None:
    from soundcert.audio import load_clip

    file = PLACE / "clip.wav"
    file.write_bytes(data)
    clip = load_clip(file)
    assert clip.samples.size > 0
    assert len(clip.digest) == 32


def config(data: bytes) -> None:
    from soundcert.config import load_config
    from soundcert.pipeline import Pipeline

    file = PLACE / "kws.yaml"
    file.write_bytes(data)
    Pipeline.from_config(load_config(file), PLACE)


def manifest(data: bytes) -> None:
    from soundcert.data import DataConfig, load_items

    suffix = (".csv", ".jsonl", ".txt")[data[0] % 3] if data else ".csv"
    file = PLACE / f"list{suffix}"
    file.write_bytes(data[1:])
    for item in load_items(DataConfig(source="manifest", root=file, limit=5)):
        assert item.name


def run(data: bytes) -> None:
    from soundcert.cli import run as command_line

    folder = PLACE / "run"
    folder.mkdir(exist_ok=True)
    parts = [*data.split(CUT, 2), b"", b""]
    for name, part in zip(("run.json", "certificates.jsonl", "attacks.jsonl"), parts, strict=False):
        (folder / name).write_bytes(part)
    for call in (
        ["report", str(folder), "--json"],
        *(
            ["report", str(folder), "--format", form]
            for form in ("md", "csv", "latex", "model-index", "in-toto")
        ),
        ["lint", str(folder)],
        ["verify", str(folder), "--records-only"],
        ["compare", str(folder), str(folder), "--resamples", "10"],
    ):
        quiet(lambda call=call: command_line(call))


def report(data: bytes) -> None:
    from soundcert.lint import lint_report
    from soundcert.lint.forms import as_dict, as_github, as_junit

    suffix = (".md", ".json", ".jsonl", ".yaml", ".csv", ".txt")[data[0] % 6] if data else ".md"
    file = PLACE / f"report{suffix}"
    file.write_bytes(data[1:])
    linted = [lint_report(file)]
    as_dict(linted), as_junit(linted), as_github(linted)


def quiet(work: Callable[[], object]) -> None:
    """Run it without its output, which must hold no traceback."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        work()
    assert "Traceback" not in err.getvalue()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "audio": audio, "config": config, "manifest": manifest, "run": run, "report": report,
}  # fmt: skip


def judge(target: str, data: bytes) -> None:
    """Raise whatever is no answer of soundcert's."""
    with suppress(SoundcertError):
        TARGETS[target](data)
