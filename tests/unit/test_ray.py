"""A run on a real Ray cluster is the run on this machine, whatever is lost on the way.

Everything that loads Ray does so in a process of its own: Ray's native part may end the process that used it, and
does so long after the use.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import soundcert
from helpers import WAVEFORM, folder_of_tones, records, without_times, write_tone_model, yaml_of
from soundcert.cli import run as command_line
from soundcert.config import Config, load_config
from soundcert.data import Item, load_items
from soundcert.runs import certify_run
from soundcert.runs.executors import Executor, LocalExecutor, RayExecutor, _RayWorkers

ODD = '''
import os
from dataclasses import dataclass
from soundcert.errors import ModelError
from soundcert.stages import Stage

@dataclass(frozen=True)
class Odd(Stage):
    """A stage that only works in the process that starts the run."""

    family = "other"

    def __call__(self, x):
        if os.environ["SOUNDCERT_TEST_DRIVER"] != str(os.getpid()):
            raise ModelError("the model is odd here")
        return x
'''


class Apart:
    """A process that calls functions of this module and answers with what they return."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,))
        self._process.start()
        theirs.close()

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        self._pipe.send((function, args))
        value, error = self._pipe.recv()
        if error is not None:
            raise error
        return value

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()  # ends it, once it has done what it does
        self._process.join(30)
        self._process.kill()
        self._process.join()


def _serve(pipe: Any) -> None:
    with contextlib.suppress(EOFError):
        while True:
            function, args = pipe.recv()
            try:
                pipe.send((function(*args), None))
            except Exception as error:
                pipe.send((None, AssertionError(f"{type(error).__name__}: {error}")))


# --- what is called there --------------------------------------------------------------------------

held: dict[str, Any] = {}  # the cluster, in the process that started it


def start_cluster() -> tuple[str, int]:
    """Two nodes of one CPU each, which notice soon that one of them is gone: their address, their parent."""
    from ray.cluster_utils import Cluster

    settings = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
    settings |= {"health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    made = held["cluster"] = Cluster(
        initialize_head=True, head_node_args={**small, "_system_config": settings}
    )
    made.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    made.wait_for_nodes()
    return made.address, os.getpid()


def nodes_of_workers() -> list[int]:
    """The processes of the node without the head: what dies with it."""
    (node,) = held["cluster"].worker_nodes
    return [process.process.pid for started in node.all_processes.values() for process in started]


def stop_cluster() -> None:
    held["cluster"].shutdown()


def configured(home: Path, name: str = "kws.yaml") -> tuple[Config, list[Item]]:
    config = load_config(home / name)
    assert config.data is not None
    return config, load_items(config.data, home)


def certify(home: Path, out: Path, executor: Executor, **kwargs: Any) -> list[dict[str, Any]]:
    certify_run(*configured(home), out, base=home, executor=executor, **kwargs)
    return without_times(out)


def at_first_record(act: Callable[[], None]) -> Callable[[Any], None]:
    return lambda progress: act() if progress.done == 1 else None


def busy_worker(parent: int) -> int:
    """The process of a worker that has clips, among those that `parent` started."""
    import psutil  # comes with Ray

    while True:
        for process in psutil.Process(parent).children(recursive=True):
            try:
                if process.name().startswith("ray::_Remote.ce") or process.cmdline()[0].startswith(
                    "ray::_Remote.certify"
                ):
                    return int(process.pid)
            except (psutil.Error, IndexError):
                continue


def certify_with_a_loss(
    home: Path, out: Path, address: str, parent: int, doomed: list[int]
) -> tuple[list[dict[str, Any]], int]:
    """A run in which `doomed`, or if none a busy worker, is killed at the first record: records, workers missed."""
    missed: list[int] = []
    check = _RayWorkers._check_patience

    def noted(self: _RayWorkers, lost: int, chunk: Any, error: Exception) -> None:
        missed.append(lost)
        check(self, lost, chunk, error)

    def lose() -> None:
        for pid in doomed or [busy_worker(parent)]:
            os.kill(pid, signal.SIGKILL)

    _RayWorkers._check_patience = noted  # type: ignore[method-assign]
    return certify(home, out, RayExecutor(address), progress=at_first_record(lose)), len(missed)


def resume(home: Path, out: Path, address: str) -> list[dict[str, Any]]:
    return certify(home, out, RayExecutor(address), resume=True)


def command(*call: str) -> tuple[int, str]:
    os.environ["SOUNDCERT_TEST_DRIVER"] = str(os.getpid())
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        code = command_line(list(call))
    return code, printed.getvalue()


# --- the tests -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed package with a stage of its own."""
    root = tmp_path_factory.mktemp("packages")
    (root / "odd.py").write_text(ODD)
    (root / "odd-1.dist-info").mkdir()
    (root / "odd-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\n")
    (root / "odd-1.dist-info" / "entry_points.txt").write_text("[soundcert.stages]\nodd = odd:Odd\n")
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips that are certified and one that fails, with a budget that takes each a moment."""
    root = tmp_path_factory.mktemp("ray")
    write_tone_model(root / "tones.safetensors")
    folder_of_tones(root / "clips", 6)
    (root / "clips" / "high" / "broken.wav").write_bytes(b"RIFF")
    (root / "kws.yaml").write_text(yaml_of(WAVEFORM, n=12_000))
    (root / "odd.yaml").write_text(yaml_of([*WAVEFORM[:-2], "odd", *WAVEFORM[-2:]]))
    return root


@pytest.fixture(scope="module")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What this machine says without Ray."""
    out = certify(home, tmp_path_factory.mktemp("local") / "run", LocalExecutor())
    assert {record["status"] for record in out} == {"certified", "failed"}
    return out


@pytest.fixture(scope="module")
def environment(packages: Path) -> Iterator[None]:
    """What the processes of a cluster, and those that call it, are started with."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'soundcert[ray]'")
    source = Path(soundcert.__file__).parents[1]
    with pytest.MonkeyPatch.context() as patch:
        # Workers take the environment of their node, and must find soundcert, installed or not; `Apart` takes the path.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(source), str(packages)]))
        patch.syspath_prepend(str(packages))
        patch.setenv("SOUNDCERT_TEST_DRIVER", "another")
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield


@pytest.fixture(scope="module")
def cluster(environment: None) -> Iterator[tuple[Apart, str, int]]:  # noqa: ARG001
    """The process that holds the cluster, the cluster's address, and that process's number."""
    with Apart() as holder:
        address, pid = holder(start_cluster)
        try:
            yield holder, address, pid
        finally:
            holder(stop_cluster)


def test_a_killed_worker_changes_nothing(cluster, home, whole, tmp_path):
    _, address, parent = cluster
    run = tmp_path / "run"
    with Apart() as driver:
        out, missed = driver(certify_with_a_loss, home, run, address, parent, [])
    assert missed
    assert out == whole
    assert all("seconds" in record for record in records(run) if record["status"] != "failed")


def test_a_run_begun_here_is_resumed_on_a_cluster(cluster, home, whole, tmp_path):
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    with pytest.raises(StopError):
        certify(home, tmp_path / "run", LocalExecutor(), progress=at_first_record(stop))
    assert without_times(tmp_path / "run") == whole[:1]
    with Apart() as driver:
        assert driver(resume, home, tmp_path / "run", cluster[1]) == whole


def test_an_error_of_the_model_in_a_worker_is_one_line(cluster, home, tmp_path):
    call = ["certify", str(home / "odd.yaml"), "--out", str(tmp_path / "run")]
    with Apart() as driver:
        code, printed = driver(command, *call, "--executor", "ray", "--address", cluster[1])
    assert code == 2
    (line,) = printed.splitlines()
    assert line == "soundcert: the model is odd here"


@pytest.fixture(scope="module")
def caller(environment: None) -> Iterator[Apart]:  # noqa: ARG001
    with Apart() as process:
        yield process


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("[::1]:1", ""),
        ("nowhere.invalid:6379", ""),
        ("127.0.0.1:70000", ""),
        ("nonsense", "Invalid address format: nonsense"),
    ],
)
def test_a_cluster_that_is_none_is_one_line(caller, home, tmp_path, address, reason):
    call = ["certify", str(home / "kws.yaml"), "--out", str(tmp_path / "run"), "--executor", "ray"]
    code, printed = caller(command, *call, "--address", address)
    assert code == 2
    (line,) = printed.splitlines()
    assert line.startswith(f"soundcert: no Ray cluster at {address!r}: ")
    assert reason in line


def test_a_lost_node_changes_nothing(cluster, home, whole, tmp_path):
    """The last one: it leaves a cluster of one node."""
    holder, address, parent = cluster
    doomed = holder(nodes_of_workers)
    assert doomed
    with Apart() as driver:
        out, missed = driver(certify_with_a_loss, home, tmp_path / "run", address, parent, doomed)
    assert missed
    assert out == whole
