"""Where the passes of a run are made: on this machine, or on the nodes of a Ray cluster.

An executor starts workers for a run and yields their records in the order of the data list, whichever
worker was first. The same seed gives the same certificates on every executor: noise is keyed by clip.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from soundcert.data import Item
from soundcert.errors import (
    ConfigError,
    MissingDependencyError,
    RunError,
    SoundcertError,
    StalledError,
    how_to_install,
)
from soundcert.pipeline import Pipeline
from soundcert.policies import Pilot
from soundcert.randomness import GPU_BLOCK, NOISE
from soundcert.runs.work import Share, Work, Worker

T = TypeVar("T")
# Clips that a remote worker is sent at once: enough to fill its micro-batches under `decide`, few enough to
# balance. Towards the end of the list it gets fewer.
_MOST_CLIPS = 16


class Workers(Protocol):
    """Workers that are ready. Both yield in the order of the items."""

    def certify(
        self, items: Sequence[Item], shares: Mapping[str, Share] | None
    ) -> Iterable[dict[str, Any]]: ...

    def pilots(self, items: Sequence[Item]) -> Iterable[tuple[str, Pilot]]: ...


class Executor(Protocol):
    def start(self, work: Work) -> AbstractContextManager[Workers]: ...


@dataclass(frozen=True)
class LocalExecutor:
    """Threads of this process, one torch thread each; by default one a core."""

    workers: int | None = None

    @contextmanager
    def start(self, work: Work) -> Iterator[Workers]:
        yield Worker(work, self.workers)


@dataclass(frozen=True)
class RayExecutor:
    """One actor a CPU of a Ray cluster, or a GPU with device cuda, each holding the model (extra `ray`).

    address: the cluster's, as `ray.init` takes it ("auto" finds the one of this node); without it
    $RAY_ADDRESS, and without that Ray starts on this machine. A Ray session that is connected already is
    used as it is. workers: actors, by default one a CPU, or GPU, of the cluster. Clips and weights must be readable
    under the same paths on every node.

    The clips of a lost worker or node are given to others. The run fails once the same clips have been
    lost more than `patience` times, or more than `patience` times as many workers as there should be were
    lost in a row without an answer.
    """

    address: str | None = None
    workers: int | None = None
    patience: int = 4

    @contextmanager
    def start(self, work: Work) -> Iterator[Workers]:
        ray = _ray()
        mine = not ray.is_initialized()
        if mine:
            _connect(ray, self.address, self.workers)
        try:
            pool = _RayWorkers(ray, work, self.workers or _places(ray, work.engine.device), self.patience)
            try:
                yield pool
            finally:
                pool.close()
        finally:
            if mine:
                ray.shutdown()


def _needs(device: str) -> dict[str, int]:
    """Return what an actor takes of its node. On a GPU it has the card to itself, and a few threads feed it."""
    return {"num_cpus": 1} if device == "cpu" else {"num_cpus": 1, "num_gpus": 1}


def _places(ray: Any, device: str) -> int:
    """Return how many actors a cluster has room for."""
    kind = "CPU" if device == "cpu" else "GPU"
    places = int(ray.cluster_resources().get(kind, 0))
    if not places and kind == "GPU":
        raise ConfigError(f"device {device!r} asked for, but the Ray cluster offers no GPU: use device: cpu")
    return max(1, places)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingDependencyError(
            f"the Ray executor needs Ray, which is not installed: {how_to_install('ray')}"
        ) from None
    return ray


def _connect(ray: Any, address: str | None, workers: int | None) -> None:
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS") or address or "local"
    # Ray started here takes as many CPUs as there shall be workers; a cluster has its own.
    own = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    try:
        place = re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", str(address))
        if place:  # Ray itself would try for minutes
            socket.create_connection((place[1], int(place[2])), timeout=10).close()
        with _own_signals():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = "Ray cannot start here" if address == "local" else f"no Ray cluster at {address!r}"
        reason = _first_line(error)
        if "InvalidAuthToken" in str(error.__cause__):
            reason = "it asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token to the token"
        raise ConfigError(f"{where}: {reason}") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's way to end on a signal: Ray puts its own in its place, which says nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Remote:
    """A worker as a Ray actor. What the config, a clip or the model brings about is returned, not raised."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def start(self) -> Any:
        try:
            self._worker = Worker(self._work, 1 if self._work.engine.device == "cpu" else None)
            return _facts(self._work)
        except SoundcertError as error:
            return error

    def certify(self, items: Sequence[Item], shares: Mapping[str, Share] | None) -> Any:
        try:
            return list(self._worker.certify(items, shares))
        except SoundcertError as error:
            return error

    def pilots(self, items: Sequence[Item], _: None) -> Any:
        try:
            return list(self._worker.pilots(items))
        except SoundcertError as error:
            return error


def _facts(work: Work) -> dict[str, str]:
    """Return what has to be equal on every node, so that a run has one meaning."""
    import torch

    from soundcert import __version__

    model = Pipeline.from_config(work.config, work.base, trust=work.trust).model
    return {
        "version of soundcert": __version__,
        "version of torch": str(torch.__version__),
        "definition of the noise": f"{NOISE}"
        if work.engine.device == "cpu"
        else f"{NOISE}, {GPU_BLOCK} on a GPU",
        "model": str(model.digest if model else None),
    }


@dataclass
class _Chunk:
    number: int
    items: Sequence[Item]
    lost: int = 0


class _RayWorkers:
    def __init__(self, ray: Any, work: Work, size: int, patience: int) -> None:
        # A node's working directory is its own.
        work = replace(work, base=(work.base or Path()).absolute())
        if work.engine.device.startswith("cuda"):  # Ray shows an actor its own card alone, as the first
            work = replace(work, engine=replace(work.engine, device="cuda"))
        self._ray = ray
        self._facts = _facts(work)
        self._work = ray.put(work)
        self._actor = ray.remote(**_needs(work.engine.device), max_restarts=0)(_Remote)
        self._size = size
        self._patience = patience
        self._actors: list[Any] = []
        self._idle: list[Any] = []
        # Answers to come: of which actor, for which chunk; None for an actor that is only starting.
        self._running: dict[Any, tuple[Any, _Chunk | None]] = {}

    def certify(self, items: Sequence[Item], shares: Mapping[str, Share] | None) -> Iterator[dict[str, Any]]:
        yield from self._map("certify", items, self._ray.put(shares))

    def pilots(self, items: Sequence[Item]) -> Iterator[tuple[str, Pilot]]:
        yield from self._map("pilots", items, None)

    def close(self) -> None:
        for actor in list(self._actors):
            self._drop(actor)

    def _drop(self, actor: Any) -> None:
        """Forget an actor, and see that it holds no CPU: one that cannot be reached may be alive."""
        self._actors.remove(actor)
        with contextlib.suppress(Exception):
            self._ray.kill(actor)

    def _map(self, method: str, items: Sequence[Item], argument: Any) -> Iterator[Any]:
        """Run a method over chunks of items on the actors; yield what it gives, in the order of the items."""
        ray, running = self._ray, self._running
        items = [replace(item, path=item.path.absolute()) for item in items]
        chunks = deque(_Chunk(n, part) for n, part in enumerate(_chunks(items, self._size)))
        total = len(chunks)
        done: dict[int, list[Any]] = {}
        lost = number = 0
        while True:
            while len(self._actors) < min(self._size, total - number):
                actor = self._actor.remote(self._work)
                self._actors.append(actor)
                running[actor.start.remote()] = (actor, None)
            while self._idle and chunks:
                actor, chunk = self._idle.pop(), chunks.popleft()
                running[getattr(actor, method).remote(chunk.items, argument)] = (actor, chunk)
            while number in done:
                yield from done.pop(number)
                number += 1
            if number == total:
                return
            (answer,), _ = ray.wait(list(running), num_returns=1)
            actor, given = running.pop(answer)
            try:
                result = ray.get(answer)
            except ray.exceptions.RayError as error:
                _refuse_broken_node(ray, error)
                result = error
            if isinstance(result, ray.exceptions.RayError | StalledError):
                # The actor died, or its node, or hangs in a pass: its clips go to another.
                self._drop(actor)
                lost += 1
                if given:
                    given.lost += 1
                    chunks.appendleft(given)
                self._check_patience(lost, given, result)
                continue
            if isinstance(result, SoundcertError):
                raise result
            lost = 0
            self._idle.append(actor)
            if given:
                done[given.number] = result
            else:
                self._check_facts(result)

    def _check_facts(self, facts: Mapping[str, str]) -> None:
        for name, value in self._facts.items():
            if facts[name] != value:
                raise ConfigError(
                    f"a Ray worker has another {name} ({facts[name]}) than this process ({value}): install the same "
                    "packages, and put the same files under the same paths, on every node"
                )

    def _check_patience(self, lost: int, chunk: _Chunk | None, error: Exception) -> None:
        if chunk and chunk.lost > self._patience:
            names = chunk.items[0].name
            if len(chunk.items) > 1:
                names += f" to {chunk.items[-1].name}"
            what = f"{chunk.lost} Ray workers were lost one after another on the same clips, {names}"
        elif lost > self._patience * self._size:
            what = f"{lost} Ray workers in a row were lost without an answer"
        else:
            return
        raise RunError(
            f"{what} ({_first_line(error)}); what was recorded is kept, go on with --resume"
        ) from error


def _refuse_broken_node(ray: Any, error: Exception) -> None:
    """Raise what no other worker would mend: a package that is missing on a node, an error of the program."""
    missing = re.search(r"No module named '([^']+)'", str(error))
    if missing:
        raise MissingDependencyError(
            f"a Ray worker cannot import {missing[1]}: install soundcert and what it needs on every node, at the "
            "versions of this process"
        ) from error
    if isinstance(error, ray.exceptions.RayTaskError) or getattr(error, "actor_init_failed", False):
        raise error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _chunks(items: Sequence[T], workers: int) -> list[Sequence[T]]:
    """Cut into runs that grow shorter towards the end, so that workers finish at nearly the same time."""
    out = []
    start = 0
    while start < len(items):
        size = max(1, min(_MOST_CLIPS, (len(items) - start) // (2 * workers)))
        out.append(items[start : start + size])
        start += size
    return out
