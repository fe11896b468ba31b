"""Killed, interrupted and ended by a scheduler, at random moments and at chosen ones."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rig import certify, check_same, copied, stopped_and_resumed, wait_for_lines

from soundcert.cli.app import bar
from soundcert.cli.ending import Stopped, advising, stopped, stopping_on_signals
from soundcert.starting import is_command

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_at_random_moments_nothing_is_lost_and_nothing_is_twice(whole: Path, tmp_path: Path, number):
    """`python scripts/faults.py kills` does it hundreds of times."""
    draw = random.Random(number)
    wanted = 15 if number == signal.SIGKILL else 4
    runs = stopped = 0
    while stopped < wanted:
        assert runs < 10 * wanted, "signals come too late, or are ignored"
        place = tmp_path / f"{runs}"
        stopped += stopped_and_resumed(whole, place, whole / "whole", draw, number, 0.6, wanted - stopped)
        runs += 1


@pytest.mark.parametrize("number", CODES)
def test_a_signal_ends_the_run_cleanly_and_says_how_to_go_on(whole: Path, tmp_path: Path, number):
    home = copied(whole, tmp_path / "home")
    run = tmp_path / "run"
    process = certify(home, run)
    wait_for_lines(process, run, 3)
    assert process.send(number)
    process.end().said(CODES[number], "every finished clip is in", str(run), "--resume")
    assert certify(home, run, "--resume").end().code == 1
    check_same(run, certify_whole(home))


def certify_whole(home: Path) -> Path:
    """The copied home is another place, which run.json names: its own whole run."""
    assert certify(home, home / "whole").end().code == 1
    return home / "whole"


def test_a_signal_that_comes_in_a_destructor_is_not_lost(capsys: pytest.CaptureFixture[str]):
    """Python prints and forgets what is raised there, and so do parts of extensions (`Exception ignored in`)."""

    class Late:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def work() -> None:
        late = Late()
        del late
        time.sleep(30)

    with pytest.raises(Stopped) as caught, stopping_on_signals():
        work()
    assert caught.value.number == signal.SIGTERM
    assert capsys.readouterr().err == ""


def test_a_signal_that_is_swallowed_stops_at_the_next_clip(capsys: pytest.CaptureFixture[str]):
    def work() -> None:
        with bar("certifying") as tick:
            with contextlib.suppress(BaseException):
                signal.raise_signal(signal.SIGTERM)
            tick(1, 2, "clip")
            raise AssertionError("the run goes on")

    with pytest.raises(Stopped), stopping_on_signals():
        work()
    with stopping_on_signals(), bar("the next call") as tick:
        tick(1, 2, "clip")
    assert capsys.readouterr().err == ""


def test_an_error_that_an_extension_makes_of_a_signal_is_the_signal(capsys: pytest.CaptureFixture[str]):
    """pydantic, building a validator, reports whatever was raised meanwhile as a fault of the schema."""

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise ValueError(f"no valid schema: {error!r}") from None

    with pytest.raises(Stopped) as caught, stopping_on_signals(), advising("do it again"):
        work()
    assert stopped(caught.value) == 143
    assert capsys.readouterr().err == "soundcert: ended by SIGTERM; do it again\n"
    with pytest.raises(ValueError, match="an error of its own"), stopping_on_signals(), advising():
        raise ValueError("an error of its own")


def interrupted_in_imports(tmp_path: Path, *command: str) -> tuple[int, bytes]:
    """Send Ctrl-C to a process that is importing torch; return its exit code and what it says."""
    (tmp_path / "torch.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    source = Path(sys.modules["soundcert"].__file__ or "").parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{source}"}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, *command], env=environment, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=50)
    return process.returncode, told


def test_a_signal_during_the_imports_is_told_in_one_line(tmp_path: Path):
    assert interrupted_in_imports(tmp_path, "-m", "soundcert", "data") == (130, b"soundcert: interrupted\n")
    script = tmp_path / "bin" / "soundcert"
    script.parent.mkdir()
    script.write_text("from soundcert.cli import main\nmain()\n")
    assert interrupted_in_imports(tmp_path, str(script), "data") == (130, b"soundcert: interrupted\n")


def test_a_signal_during_the_imports_of_another_program_is_its_own(tmp_path: Path):
    _, told = interrupted_in_imports(tmp_path, "-c", "import soundcert")
    assert told.endswith(b"KeyboardInterrupt\n")


def test_a_worker_of_the_command_is_ended_by_the_command():
    code = (
        "import sys, signal; sys.argv[0] = '/bin/soundcert'; sys.orig_argv = ['python', '-c', 'x', *sys.argv[1:]];"
        "import soundcert.starting; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    for more, its_own in (([], b"False"), (["--multiprocessing-fork"], b"True")):
        ran = subprocess.run([sys.executable, "-c", code, *more], capture_output=True, check=True)
        assert ran.stdout.strip() == its_own


@pytest.mark.parametrize(
    ("script", "words", "is_it"),
    [
        ("/usr/bin/soundcert", ["python", "/usr/bin/soundcert", "data"], True),
        ("soundcert.exe", ["soundcert.exe"], True),
        ("-m", ["python", "-X", "dev", "-m", "soundcert", "data"], True),
        ("-m", ["python", "-m", "pytest", "soundcert"], False),
        ("/bin/pytest", ["python", "/bin/pytest", "-m", "soundcert"], False),
        ("", [], False),
    ],
)
def test_only_the_command_line_is_taken_for_it(script, words, is_it):
    assert is_command(script, words) is is_it
