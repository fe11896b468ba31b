"""What a long run costs, by counting: bytes kept and lines parsed, never seconds.

`python scripts/load_test.py --clips 100000` measures it in full; docs/reliability.md has the figures.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from soundcert.report import rows
from soundcert.report.stated import stated
from soundcert.runs import RunDirectory, open_run, read_records, summarise
from soundcert.sampling import _MOST_RESULTS, Draw, Task, run_tasks
from synthetic import many, write_run


def appended(path: Path, clips: int) -> None:
    rows = many(100)
    with RunDirectory(path, {"data": "0"}, {"clips": clips}, resume=False) as run:
        for i in range(clips):
            run.append({**rows[i % 100], "clip": f"{i:06}.wav"})


def grown(work: Callable[[], object]) -> tuple[int, object]:
    tracemalloc.start()
    try:
        kept = work()
        return tracemalloc.get_traced_memory()[0], kept
    finally:
        tracemalloc.stop()


@pytest.fixture
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.mark.usefixtures("no_disk")
def test_a_run_under_way_keeps_names_and_not_records(tmp_path: Path):
    def work() -> RunDirectory:
        run = RunDirectory(tmp_path / "run", {}, {}, resume=False)
        for i, row in enumerate(many(3000)):
            run.append({**row, "clip": f"{i:06}.wav"})
        return run

    size, run = grown(work)
    assert isinstance(run, RunDirectory)
    run.close()
    assert size / 3000 < 250, "bytes a clip: a name in a set"


@pytest.mark.usefixtures("no_disk")
def test_resuming_and_opening_parse_each_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    appended(tmp_path / "run", 2000)
    parsed = 0
    loads = json.loads

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal parsed
        parsed += 1
        return loads(*args, **kwargs)

    monkeypatch.setattr(json, "loads", counted)
    size, run = grown(lambda: RunDirectory(tmp_path / "run", {"data": "0"}, {}, resume=True))
    assert isinstance(run, RunDirectory)
    run.close()
    assert parsed == 2001
    assert size / 2000 < 250
    parsed = 0
    open_run(tmp_path / "run")
    assert parsed == 2001
    parsed = 0
    summarise(read_records(tmp_path / "run"))
    assert parsed == 2000


def test_a_summary_holds_less_than_the_records(tmp_path: Path):
    run = write_run(tmp_path / "run", many(3000))
    records, _ = grown(lambda: list(read_records(run)))

    tracemalloc.start()
    summarise(read_records(run))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.8 * records


def test_opened_records_share_their_names(tmp_path: Path):
    run = write_run(tmp_path / "run", many(1000))
    records = open_run(run).records
    first, last = ({id(name) for name in record["views"]} for record in (records[0], records[-1]))
    assert first == last


def test_a_table_words_the_list_once_and_not_for_each_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = open_run(write_run(tmp_path / "run", many(50)))
    worded = []
    monkeypatch.setattr(rows, "stated", lambda given: worded.append(given) or stated(given))
    assert len(rows.table(run)[1]) == 50
    assert len(worded) == 1


def test_results_that_nobody_takes_do_not_pile_up():
    """A slow disk: the workers wait for it, and no more clips are read."""
    read = 0

    def plan(number: int) -> Iterator[Draw]:
        return number
        yield  # a plan that asks for nothing

    def tasks() -> Iterator[Task[int]]:
        nonlocal read
        for i in range(20_000):
            read += 1
            yield Task(None, None, 0, "", plan(i))  # type: ignore[arg-type]

    results = run_tasks(tasks(), workers=2)
    for expected in range(100):
        assert next(results) == expected
        assert read <= expected + 2 * _MOST_RESULTS
    assert list(results) == list(range(100, 20_000))
