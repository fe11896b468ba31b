"""Executors: a run on Ray is the run on this machine, whatever is lost on the way."""

from __future__ import annotations

import json
import random
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import WAVEFORM, folder_of_tones, write_tone_model, yaml_of
from soundcert.cli import run as command_line
from soundcert.data import Item
from soundcert.errors import ConfigError, MissingDependencyError, ModelError, RunError, StalledError
from soundcert.runs import executors
from soundcert.runs.executors import LocalExecutor, RayExecutor, _chunks, _RayWorkers
from soundcert.runs.work import Work

# --- the list, cut into chunks ---------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3, 16, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 100, 1001])
def test_chunks_are_the_list_in_its_order_and_grow_shorter(count, workers):
    chunks = _chunks(range(count), workers)
    assert [i for chunk in chunks for i in chunk] == list(range(count))
    sizes = [len(chunk) for chunk in chunks]
    assert sizes == sorted(sizes, reverse=True)
    assert all(1 <= size <= 16 for size in sizes)


@pytest.mark.parametrize("workers", [2, 4, 16])
@pytest.mark.parametrize("per_worker", [4, 20, 100])
def test_equal_workers_finish_within_a_clip_of_each_other(workers, per_worker):
    busy = [0] * workers
    for chunk in _chunks(range(workers * per_worker), workers):
        busy[busy.index(min(busy))] += len(chunk)
    assert max(busy) - min(busy) <= 1


# --- the driver, over a Ray that is made up --------------------------------------------------------


class RayError(Exception):
    pass


class ActorDiedError(RayError):
    actor_init_failed = False


class RayTaskError(RayError):
    pass


Judge = Callable[["FakeActor", str, Sequence[Any]], Exception | str | None]


class FakeActor:
    """An actor of this process. judge: what becomes of a call, an exception, "never" or None."""

    def __init__(self, ray: FakeRay, number: int, real: Any) -> None:
        self.ray, self.number, self.real, self.killed = ray, number, real, False

    def __getattr__(self, method: str) -> Any:
        def remote(*args: Any) -> object:
            reference = object()
            self.ray.calls[reference] = (self, method, args)
            self.ray.log.append((self.number, method, args))
            return reference

        return SimpleNamespace(remote=remote)


class FakeRay:
    """As much of Ray as the executor uses. Answers come in a random order."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, judge: Judge = lambda *_: None, seed: int = 0, cpus: float = 2) -> None:
        self.judge, self.random, self.cpus = judge, random.Random(seed), cpus
        self.actors: list[FakeActor] = []
        self.calls: dict[object, tuple[FakeActor, str, tuple[Any, ...]]] = {}
        self.log: list[tuple[int, str, tuple[Any, ...]]] = []
        self.sessions: list[Any] = []

    def is_initialized(self) -> bool:
        return bool(self.sessions) and self.sessions[-1] is not None

    def init(self, **options: Any) -> None:
        self.sessions.append(options)

    def shutdown(self) -> None:
        self.sessions.append(None)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus, "memory": 1e9} if self.cpus else {"memory": 1e9}

    def put(self, value: Any) -> Any:
        return value

    def remote(self, **_: Any) -> Any:
        def of(cls: type) -> Any:
            def make(*args: Any) -> FakeActor:
                self.actors.append(FakeActor(self, len(self.actors), cls(*args)))
                return self.actors[-1]

            return SimpleNamespace(remote=make)

        return of

    def wait(self, references: list[object], num_returns: int) -> tuple[list[object], list[object]]:
        assert num_returns == 1
        coming = [r for r in references if self.judge(*self.calls[r]) != "never"]
        assert coming, "the driver waits for what never comes"
        return [self.random.choice(coming)], []

    def get(self, reference: object) -> Any:
        actor, method, args = self.calls[reference]
        verdict = self.judge(actor, method, args)
        if isinstance(verdict, Exception):
            raise verdict
        return getattr(actor.real, method)(*args)

    def kill(self, actor: FakeActor) -> None:
        actor.killed = True


class FakeWorker:
    """Answers a clip with its name; some names are trouble."""

    def __init__(self, work: Any, threads: int) -> None:
        assert threads == 1
        if work.config == "broken":
            raise ModelError("the weights are torn")

    def certify(self, items: Sequence[Item], shares: Any) -> Iterator[dict[str, Any]]:
        for item in items:
            if item.name == "torn":
                raise ModelError("the model changes its mind")
            yield {"clip": item.name, "shares": shares}

    def pilots(self, items: Sequence[Item]) -> Iterator[tuple[str, str]]:
        for item in items:
            yield item.name, "pilot"


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "Worker", FakeWorker)
    monkeypatch.setattr(executors, "_facts", lambda _: {"version of soundcert": "1", "model": "m"})


WORK = Work("config", None, SimpleNamespace(device="cpu"))  # type: ignore[arg-type]


def clips(count: int) -> list[Item]:
    return [Item(f"{i:03}", Path(f"clips/{i}.wav"), None) for i in range(count)]


def fake_run(ray: FakeRay, count: int, size: int, patience: int = 4) -> list[str]:
    pool = _RayWorkers(ray, WORK, size, patience)
    try:
        return [record["clip"] for record in pool.certify(clips(count), None)]
    finally:
        pool.close()
        assert all(actor.killed for actor in ray.actors), "an actor is left behind"


def dies(*_: Any) -> ActorDiedError:
    return ActorDiedError("The actor died unexpectedly.\nMore lines.")


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("size", [1, 2, 7])
def test_records_come_in_the_order_of_the_list_whichever_worker_is_first(size, seed):
    ray = FakeRay(seed=seed)
    assert fake_run(ray, 50, size) == [item.name for item in clips(50)]
    assert len(ray.actors) == size


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("seed", range(20))
def test_lost_workers_cost_no_clip_and_no_clip_comes_twice(seed):
    draw = random.Random(seed)
    fates: dict[tuple[int, int], bool] = {}

    def judge(actor: FakeActor, _: str, args: Sequence[Any]) -> Exception | None:
        # Every call has one fate, and what died stays dead.
        if actor.killed:
            return dies()
        return dies() if fates.setdefault((actor.number, id(args)), draw.random() < 0.2) else None

    ray = FakeRay(judge, seed)
    assert fake_run(ray, 60, 3, patience=30) == [item.name for item in clips(60)]
    lost = sum(fates.values())
    assert lost
    assert len(ray.actors) <= 3 + lost


@pytest.mark.usefixtures("made_up")
def test_a_worker_that_hangs_is_replaced_and_its_clips_go_to_another(monkeypatch):
    stalled: list[str] = []
    certify = FakeWorker.certify

    def once(self: FakeWorker, items: Sequence[Item], shares: Any) -> Iterator[dict[str, Any]]:
        if any(item.name == "007" for item in items) and not stalled:
            stalled.append("007")
            raise StalledError("no forward pass was finished")
        yield from certify(self, items, shares)

    monkeypatch.setattr(FakeWorker, "certify", once)
    ray = FakeRay()
    assert fake_run(ray, 50, 2) == [item.name for item in clips(50)]
    assert stalled
    assert len(ray.actors) == 3


@pytest.mark.usefixtures("made_up")
def test_a_node_with_many_workers_may_be_lost_at_once():
    gone: list[bool] = []

    def judge(actor: FakeActor, method: str, _: Sequence[Any]) -> Exception | None:
        if method == "certify" and len(ray.actors) == 64:
            gone.append(True)
        return dies() if gone and actor.number < 60 else None

    ray = FakeRay(judge)
    assert fake_run(ray, 500, 64) == [item.name for item in clips(500)]
    assert len(ray.actors) > 64


@pytest.mark.usefixtures("made_up")
def test_workers_that_never_start_are_not_waited_for():
    ray = FakeRay(lambda actor, *_: "never" if actor.number >= 2 else None)
    assert fake_run(ray, 30, 5) == [item.name for item in clips(30)]


@pytest.mark.usefixtures("made_up")
def test_clips_that_kill_their_workers_are_named():
    def judge(_: FakeActor, method: str, args: Sequence[Any]) -> Exception | None:
        return dies() if method == "certify" and any(i.name == "010" for i in args[0]) else None

    ray = FakeRay(judge)
    with pytest.raises(
        RunError, match=r"4 Ray workers .* same clips, 0.. to 0.. \(The actor died .*--resume"
    ):
        fake_run(ray, 40, 2, patience=3)
    given = [args[0] for _, method, args in ray.log if method == "certify"]
    assert sum(any(i.name == "010" for i in items) for items in given) == 4


@pytest.mark.usefixtures("made_up")
def test_one_clip_is_named_alone():
    def judge(_: FakeActor, method: str, __: Sequence[Any]) -> Exception | None:
        return dies() if method == "certify" else None

    with pytest.raises(
        RunError, match=r"same clips, 000 \(The actor died unexpectedly\.\); what was recorded"
    ):
        fake_run(FakeRay(judge), 2, 2, patience=1)


@pytest.mark.usefixtures("made_up")
def test_workers_that_never_live_end_the_run():
    ray = FakeRay(dies)
    with pytest.raises(RunError, match="7 Ray workers in a row were lost without an answer"):
        fake_run(ray, 10, 3, patience=2)
    assert len(ray.actors) == 9


@pytest.mark.usefixtures("made_up")
def test_a_lost_worker_is_killed_since_it_may_only_be_out_of_reach():
    ray = FakeRay(lambda actor, *_: dies() if actor.number == 0 else None)
    pool = _RayWorkers(ray, WORK, 1, 4)
    list(pool.certify(clips(3), None))
    assert [actor.killed for actor in ray.actors] == [True, False]
    pool.close()
    assert [actor.killed for actor in ray.actors] == [True, True]


@pytest.mark.usefixtures("made_up")
def test_an_error_of_a_clip_or_of_the_model_is_that_of_one_machine():
    pool = _RayWorkers(FakeRay(), WORK, 2, 4)
    items = [*clips(20), Item("torn", Path("torn.wav"), None)]
    with pytest.raises(ModelError, match="the model changes its mind"):
        list(pool.certify(items, None))
    broken = _RayWorkers(FakeRay(), Work("broken", None, SimpleNamespace(device="cpu")), 2, 4)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="the weights are torn"):
        list(broken.certify(clips(3), None))


@pytest.mark.usefixtures("made_up")
def test_an_error_of_the_program_is_not_tried_again():
    error = RayTaskError("ray::certify() ...\nZeroDivisionError")
    ray = FakeRay(lambda _, method, __: error if method == "certify" else None)
    with pytest.raises(RayTaskError, match="ZeroDivisionError"):
        fake_run(ray, 10, 1)
    assert len(ray.actors) == 1
    never_made = ActorDiedError("The actor died because of an error raised in its creation task")
    never_made.actor_init_failed = True
    with pytest.raises(ActorDiedError, match="creation task"):
        fake_run(FakeRay(lambda *_: never_made), 10, 1)


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("kind", [RayTaskError, ActorDiedError])
def test_a_node_without_soundcert_is_named_in_one_line(kind):
    error = kind("failed to import\n  File ...\nModuleNotFoundError: No module named 'soundcert'")
    with pytest.raises(MissingDependencyError, match=r"cannot import soundcert: install .* on every node"):
        fake_run(FakeRay(lambda *_: error), 10, 1)


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("name", ["model", "version of soundcert"])
def test_a_node_with_another_model_or_version_is_refused(name, monkeypatch):
    ray = FakeRay()
    pool = _RayWorkers(ray, WORK, 2, 4)
    there = {"version of soundcert": "1", "model": "m", name: "another"}
    monkeypatch.setattr(executors, "_facts", lambda _: there)
    with pytest.raises(ConfigError, match=rf"another {name} \(another\) than this process"):
        list(pool.certify(clips(5), None))
    assert [method for _, method, _ in ray.log if method == "certify"] == []


@pytest.mark.usefixtures("made_up")
def test_workers_get_absolute_paths_and_the_shares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ray = FakeRay()
    pool = _RayWorkers(ray, Work("config", Path("here"), SimpleNamespace(device="cpu")), 1, 4)  # type: ignore[arg-type]
    assert list(pool.pilots(clips(2))) == [("000", "pilot"), ("001", "pilot")]
    assert [r["shares"] for r in pool.certify(clips(1), {"digest": "share"})] == [{"digest": "share"}]  # type: ignore[dict-item]
    assert ray.actors[0].real._work.base == tmp_path / "here"
    sent = [item.path for _, method, args in ray.log if method != "start" for item in args[0]]
    assert sent == [tmp_path / "clips" / f"{i}.wav" for i in (0, 1, 0)]
    assert list(pool.certify([], None)) == []
    assert len(ray.actors) == 1, "workers are kept from the pilots to the certificates"


@pytest.mark.usefixtures("made_up")
def test_the_session_that_was_begun_is_ended_and_no_other(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray = FakeRay(cpus=3)
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]

    def begun(executor: RayExecutor) -> tuple[Any, int]:
        with executor.start(WORK) as pool:
            assert isinstance(pool, _RayWorkers)
            options, size = ray.sessions[-1], pool._size
        return options, size

    own = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    assert begun(RayExecutor()) == ({"address": "local", "num_cpus": None, **own}, 3)
    assert begun(RayExecutor(workers=5)) == ({"address": "local", "num_cpus": 5, **own}, 5)
    assert begun(RayExecutor("auto")) == ({"address": "auto", **quiet}, 3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert begun(RayExecutor()) == ({"address": address, **quiet}, 3)
        assert begun(RayExecutor("auto")) == ({"address": address, **quiet}, 3)
        assert begun(RayExecutor("local"))[0]["address"] == "local"
    assert ray.sessions[1::2] == [None] * 6
    with pytest.raises(KeyError), RayExecutor("local").start(WORK):
        raise KeyError
    assert ray.sessions[-1] is None
    ray.sessions, ray.cpus = ["that of somebody else"], 0
    assert begun(RayExecutor("auto")) == ("that of somebody else", 1)
    assert ray.sessions == ["that of somebody else"]


def test_a_cluster_that_cannot_be_joined_says_why(monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]

    def refuse(**_: Any) -> None:
        error = ConnectionError("Failed to connect.")
        raise error from RuntimeError("Last error: Traceback ...\nInvalidAuthToken: token is missing")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(
        ConfigError, match=r"no Ray cluster at 'auto': it asks for its token: set RAY_AUTH_MODE="
    ):
        RayExecutor("auto").start(WORK).__enter__()

    def fail(**_: Any) -> None:
        raise RuntimeError("no space for the object store\nand more")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(ConfigError, match=r"^Ray cannot start here: no space for the object store$"):
        RayExecutor("local").start(WORK).__enter__()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips that are certified and one that fails."""
    root = tmp_path_factory.mktemp("executors")
    write_tone_model(root / "tones.safetensors")
    folder_of_tones(root / "clips", 6)
    (root / "clips" / "high" / "broken.wav").write_bytes(b"RIFF")
    (root / "kws.yaml").write_text(yaml_of(WAVEFORM, n=12_000))
    return root


def test_what_ray_prints_is_not_among_the_results(home, tmp_path, monkeypatch, capsys):
    @contextmanager
    def start(_: RayExecutor, work: Work) -> Iterator[Any]:
        with LocalExecutor(1).start(work) as workers:
            print("(raylet) a node was lost")
            yield workers

    monkeypatch.setattr(RayExecutor, "start", start)
    call = ["certify", str(home / "kws.yaml"), "--out", str(tmp_path / "run"), "--executor", "ray", "--json"]
    assert command_line([*call, "--n", "100"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["clips"] == 13
    assert "(raylet)" in printed.err


def test_without_ray_the_error_names_the_package_to_install(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    call = ["certify", str(home / "kws.yaml"), "--out", str(tmp_path / "run"), "--executor", "ray"]
    assert command_line(call) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install -c constraints.txt '.[ray]'" in line
