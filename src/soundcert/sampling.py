"""The hot loop: votes of a base classifier under keyed noise, for many clips at once.

What to draw is said by *plans*, one a clip: a plan is a generator that asks for rows of noise of one
purpose, is sent their votes, and returns its result. Rows that the plans ask for are packed into
micro-batches of one fixed shape, whichever clips they belong to; a clip that is finished makes room for the
next. A plan sees votes in the order of its rows and nothing else, so that its result depends neither on the
packing nor on the number of workers, up to the model's own floating-point differences. Memory does not grow
with the number of draws.
"""

from __future__ import annotations

import ctypes
import heapq
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from soundcert.classifier import BaseClassifier, votes
from soundcert.errors import ResourceError, StalledError
from soundcert.randomness import NoiseKey, NoiseStream, Purpose, noise_stream

T = TypeVar("T")
#: Most rows that one Draw asks for: their votes are kept until all are there.
CHUNK = 16_384
# Tasks are read ahead until so many micro-batches a worker are waiting, or so many tasks are under way.
_READ_AHEAD, _MOST_TASKS = 4, 512
# Results that nobody has taken yet: no more clips are read, so that a slow disk does not fill the memory.
_MOST_RESULTS = 512
#: Seconds without a finished forward pass, or a clip read, after which workers are taken to hang.
WATCHDOG = 600.0
_GRACE = 5.0  # seconds that a worker gets to finish its micro-batch when a run ends early
_LOOK = 0.5  # seconds between two looks at whether anything was finished
_NAME = "soundcert worker"
# Shapes of object for which a worker keeps its rows: recordings may all differ in length.
_MOST_PLACES = 4
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True)
class Draw:
    """The votes of the next `need` rows of one purpose; up to `upto` where a micro-batch has places to spare."""

    purpose: Purpose
    need: int
    upto: int = 0


#: Asks for draws, is sent their votes (int32, in the order of the rows, −1 for none), returns its result.
Plan = Generator[Draw, np.ndarray, T]


@dataclass(frozen=True)
class Task(Generic[T]):
    """A plan, and the object `v` `(*shape)` whose noisy copies it draws under keys of `seed` and `digest`.

    v is as the noise is added to it: see `NoiseStage.held`.
    """

    base: BaseClassifier
    v: Tensor
    seed: int
    digest: str
    plan: Plan[T]
    first: int = 0


@dataclass(frozen=True)
class Job:
    """Count votes of `n` noisy copies of the held object `v` `(*shape)`, noise rows `start` … under `key`."""

    v: Tensor
    key: NoiseKey
    n: int
    start: int = 0


def count_votes(base: BaseClassifier, jobs: Sequence[Job], *, workers: int | None = None) -> np.ndarray:
    """Return votes per job and class, `(jobs, classes)` int64."""
    tasks = (
        Task(base, j.v, j.key.seed, j.key.digest, counting(j.key.purpose, j.n, base.classes), j.start)
        for j in jobs
    )
    rows = list(run_tasks(tasks, workers=workers))
    return np.array(rows, dtype=np.int64).reshape(len(rows), base.classes)


def counting(purpose: Purpose, n: int, classes: int) -> Plan[np.ndarray]:
    """Plan: n votes, counted `(classes,)`; rows that vote for no class are left out."""
    counts = np.zeros(classes, dtype=np.int64)
    while n:
        seen = yield Draw(purpose, min(n, CHUNK))
        counts += tally(seen, classes)
        n -= len(seen)
    return counts


def tally(seen: np.ndarray, classes: int) -> np.ndarray:
    """Return votes per class, `(classes,)`, of rows that voted for one."""
    counts: np.ndarray = np.bincount(seen[seen >= 0], minlength=classes)
    return counts


def run_tasks(
    tasks: Iterable[Task[T]], *, workers: int | None = None, watchdog: float | None = WATCHDOG
) -> Iterator[T]:
    """Yield each task's result, in the order of the tasks, which are read as places become free.

    workers: threads that each run whole micro-batches on one torch thread; by default one a core.
    What a task or a plan raises is raised here, and ends the rest; a lack of memory as ResourceError.
    watchdog: seconds without a finished micro-batch or a clip read after which StalledError is raised; None
    waits for ever. A thread that hangs cannot be ended: it is left behind (`hanging`), and dies with the process.
    """
    _keep_freed_memory()
    workers = workers or cpu_count()
    queue = _Queue(iter(tasks), workers, watchdog)
    # Daemons, since Python would wait at its end for a thread that hangs.
    threads = [threading.Thread(target=_work, args=(queue,), name=_NAME, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield from queue.results()
    finally:
        queue.stop()
        deadline = time.monotonic() + _GRACE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def within(seconds: float | None, work: Callable[[], T]) -> T:
    """Return what `work` returns, done by a worker; StalledError after so many seconds."""
    done: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=_NAME, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise explained(errors[0])
    if not done:
        raise StalledError(
            f"the first forward pass was not finished in {seconds:g} s: the model hangs, or the watchdog's time is "
            "too short for this model"
        )
    return done[0]


def hanging() -> int:
    """Return how many workers go on although their run has ended: the process should end without them."""
    return sum(thread.name == _NAME and thread.is_alive() for thread in threading.enumerate())


@dataclass
class _Active(Generic[T]):
    """A task under way: its open request, and how far the rows of it are given out and answered."""

    task: Task[T]
    number: int
    draw: Draw
    seen: np.ndarray
    given: int = 0
    answered: int = 0
    places: dict[Purpose, int] = field(default_factory=dict)
    streams: dict[Purpose, NoiseStream] = field(default_factory=dict)

    def ask(self, draw: Draw) -> None:
        self.draw, self.given, self.answered = draw, 0, 0
        self.seen = np.empty(max(draw.need, draw.upto), dtype=np.int32)

    @property
    def waiting(self) -> int:
        return max(0, self.draw.need - self.given)


@dataclass(frozen=True)
class _Part:
    """Rows of one micro-batch that belong to one task: `count` from place `at` of its request on."""

    active: _Active[Any]
    purpose: Purpose
    at: int
    count: int
    stream: NoiseStream


class _Queue(Generic[T]):
    """Hands out micro-batches to workers and takes their votes. `results` is for one thread, the rest for all.

    Clips are read under the lock, by whichever worker needs one. So `results` and `stop` never wait for it: a
    file that cannot be read to its end must not keep anyone from stopping.
    """

    def __init__(self, tasks: Iterator[Task[T]], workers: int, watchdog: float | None) -> None:
        self._tasks: Iterator[Task[T]] | None = tasks
        self._workers = workers
        self._watchdog = watchdog
        self._beat = time.monotonic()  # when something was finished last
        self._changed = threading.Condition()
        self._news = threading.Event()  # for `results`
        self._waiting: list[tuple[int, _Active[T]]] = []  # a heap: earlier tasks first
        self._rows = 0
        self._active = 0
        self._read = 0
        self._finished: dict[int, T] = {}
        self._error: BaseException | None = None
        self._stopped = False

    def results(self) -> Iterator[T]:
        """Yield results in order, until there are no more tasks or one failed."""
        number = 0
        while True:
            # Time that the consumer took is not the workers'.
            self._beat = time.monotonic()
            while True:
                self._news.clear()
                if number in self._finished:
                    break
                if self._error is not None:
                    raise explained(self._error)
                if self._stopped or (self._tasks is None and number >= self._read):
                    return
                if not self._news.wait(_LOOK):
                    self._look_for_life()
            full = len(self._finished) >= _MOST_RESULTS
            result = self._finished.pop(number)
            if full:
                with self._changed:
                    self._changed.notify_all()
            yield result
            number += 1

    def _look_for_life(self) -> None:
        silent = time.monotonic() - self._beat
        if self._watchdog is not None and silent > self._watchdog:
            raise StalledError(
                f"no forward pass was finished and no clip read for {silent:.0f} s: the model or the disk hangs, "
                "or the watchdog's time is too short for this model"
            )

    def stop(self) -> None:
        self._stopped = True
        self._news.set()
        # A worker that hangs while it reads has the lock. It wakes the others itself, should it ever go on.
        if self._changed.acquire(timeout=_LOOK):
            self._changed.notify_all()
            self._changed.release()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._stopped = True
            self._changed.notify_all()
            self._news.set()

    def take(self) -> list[_Part] | None:
        """Return the parts of the next micro-batch, all of one base classifier; None when all is done."""
        with self._changed:
            while not self._stopped:
                with self._failing():
                    self._read_ahead()
                if self._waiting:
                    return self._pack()
                if self._tasks is None and not self._active:
                    return None
                self._changed.wait()
            self._changed.notify_all()
            return None

    def answer(self, parts: Sequence[_Part], winners: np.ndarray) -> None:
        """Take the votes of a micro-batch, and go on with the plans that have all that they asked for."""
        with self._changed:
            self._beat = time.monotonic()
            at = 0
            for part in parts:
                active = part.active
                active.seen[part.at : part.at + part.count] = winners[at : at + part.count]
                active.streams[part.purpose] = part.stream
                active.answered += part.count
                at += part.count
                if not active.waiting and active.answered == active.given:
                    with self._failing():
                        self._go_on(active)
            self._changed.notify_all()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        # Before the lock is let go: to another worker, a generator that raised is merely at its end.
        try:
            yield
        except BaseException as error:
            self.fail(error)
            raise

    def _read_ahead(self) -> None:
        while (
            self._tasks is not None
            and not self._stopped
            and self._active < _MOST_TASKS
            and len(self._finished) < _MOST_RESULTS
        ):
            size = self._waiting[0][1].task.base.micro_batch if self._waiting else 1
            if self._waiting and self._rows >= _READ_AHEAD * self._workers * size:
                return
            task = next(self._tasks, None)
            self._beat = time.monotonic()
            if task is None:
                self._tasks = None
                self._changed.notify_all()
                self._news.set()
                return
            number, self._read = self._read, self._read + 1
            self._active += 1
            active = _Active(task, number, Draw("selection", 0), np.empty(0))
            self._go_on(active)

    def _go_on(self, active: _Active[T]) -> None:
        """Send a plan its votes (none at its start); queue what it asks for next, or keep its result."""
        draw, given = active.draw, active.given
        active.places[draw.purpose] = active.places.get(draw.purpose, active.task.first) + given
        try:
            asked = active.task.plan.send(active.seen[:given]) if given else next(active.task.plan)
        except StopIteration as end:
            self._finished[active.number] = end.value
            self._active -= 1
            self._changed.notify_all()
            self._news.set()
            return
        active.ask(asked)
        self._rows += asked.need
        heapq.heappush(self._waiting, (active.number, active))

    def _pack(self) -> list[_Part]:
        base = self._waiting[0][1].task.base
        size = base.micro_batch
        parts: list[_Part] = []
        others = []
        ending: list[tuple[int, _Active[T]]] = []
        while self._waiting and size:
            entry = heapq.heappop(self._waiting)
            active = entry[1]
            if active.task.base is not base:
                others.append(entry)
                continue
            count = min(active.waiting, size)
            parts.append(self._part(active, count))
            self._rows -= count
            size -= count
            if active.waiting:
                others.append(entry)
            else:
                ending.append((len(parts) - 1, active))
        for entry in others:
            heapq.heappush(self._waiting, entry)
        # Places to spare go to rows that a plan would take too: a padded row costs as much.
        for place, active in ending:
            more = min(size, max(0, active.draw.upto - active.given))
            parts[place] = replace(parts[place], count=parts[place].count + more)
            active.given += more
            size -= more
        return parts

    def _part(self, active: _Active[T], count: int) -> _Part:
        purpose = active.draw.purpose
        row = active.places.get(purpose, active.task.first) + active.given
        stream = active.streams.pop(purpose, None)
        if stream is None or stream.next != row:
            task = active.task
            stream = noise_stream(NoiseKey(task.seed, purpose, task.digest), task.base.noise, row)
        part = _Part(active, purpose, active.given, count, stream)
        active.given += count
        return part


def explained(error: BaseException) -> BaseException:
    """Return what to raise for a worker's error: a lack of memory has many names."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    if not any(_lacks_memory(cause) for cause in causes):
        return error
    out = ResourceError(
        "a worker ran out of memory: lower certify.micro_batch or --workers, use shorter clips, or give the job more "
        "memory"
    )
    out.__cause__ = error
    return out


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("can't allocate memory", "out of memory", "bad_alloc", "bad allocation", "alloc_failed")
    return isinstance(error, RuntimeError) and any(part in str(error).lower() for part in words)


def _work(queue: _Queue[Any]) -> None:
    torch.set_num_threads(1)  # the setting belongs to the thread; small batches gain nothing from more
    places: dict[BaseClassifier, _Place] = {}
    streams: dict[torch.device, Any] = {}  # one a device: each stream has memory of its own on a GPU
    try:
        with torch.inference_mode():
            while (parts := queue.take()) is not None:
                base: BaseClassifier = parts[0].active.task.base
                if base.device.type == "cuda" and base.device not in streams:
                    streams[base.device] = torch.cuda.Stream(base.device)  # type: ignore[no-untyped-call]
                place = places.pop(base, None) or _Place(base, streams.get(base.device))
                places[base] = place  # the last of them is the latest
                if len(places) > _MOST_PLACES:
                    del places[next(iter(places))]
                queue.answer(parts, place.run(parts))
    except BaseException as error:
        queue.fail(error)


class _Place:
    """Where one worker runs one base classifier: its rows, and on a GPU its stream."""

    def __init__(self, base: BaseClassifier, stream: Any) -> None:
        self.base, self.stream = base, stream
        with self._on_stream():
            # Made where it is used: of work on other streams that still goes on in this memory nobody here would know.
            self.rows = torch.empty(base.micro_batch, *base.shape, device=base.device)

    def _on_stream(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self.stream) if self.stream is not None else nullcontext()

    def run(self, parts: Sequence[_Part]) -> np.ndarray:
        """Return the votes of a micro-batch, `(rows,)`.

        On a GPU, reading them waits for this worker's own stream, while other workers' batches keep it busy.
        """
        with self._on_stream():
            filled = 0
            for part in parts:
                end = filled + part.count
                part.stream.noisy_(self.rows[filled:end], part.active.task.v)
                filled = end
            if filled < len(self.rows):
                self.rows[filled:] = self.rows[
                    0
                ]  # not zeros: a gain after the noise has no value for silence
            winners: np.ndarray = votes(self.base(self.rows)).cpu().numpy()
        return winners[:filled]


@cache
def _keep_freed_memory() -> None:
    """Ask glibc to keep freed activations instead of returning their pages after every layer.

    Getting the pages back costs a fault each, a quarter of a pass (benchmarks/). Elsewhere nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def cpu_count() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def single_threaded() -> Iterator[None]:
    """Run torch on one thread a worker: small micro-batches gain nothing from splitting an operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
