"""Measure what a second node brings on a Ray cluster, and what losing one costs; print JSON.

    python benchmarks/ray_scaling.py                       # about six minutes on two idle cores
    python benchmarks/ray_scaling.py --n 300 --rounds 1    # a rough look

The bundled keyword spotter (waveform contract) certifies the bundled clips

- on a Ray cluster of one node of one CPU on this machine;
- on two such nodes;
- on two such nodes, one of which is removed as soon as the first certificate is there;
- in one plain process on one thread, and in two independent ones at the same time that do the same work
  twice: what a second CPU of this machine is worth at all, since cores share their caches, their clock and,
  as hyperthreads, their arithmetic.

Workers are started and warmed up before the clock runs. The runs alternate over some rounds, and medians
are reported. Certificates are compared with those of the plain process. `section` writes the result as
Markdown, for README.md here.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import soundcert
from soundcert.classifier import MICRO_BATCH, Fastest
from soundcert.config import load_config
from soundcert.data import Item
from soundcert.demo import demo_folder
from soundcert.runs.executors import LocalExecutor, RayExecutor, Workers
from soundcert.runs.work import Work

STORE = 80 * 2**20


def task(n: int) -> tuple[Work, list[Item]]:
    config = load_config(demo_folder() / "waveform.yaml")
    config = config.model_copy(update={"certify": config.certify.model_copy(update={"n": n})})
    with (demo_folder() / "meta.csv").open() as rows:
        items = [Item(row["file"], demo_folder() / row["file"], row["label"]) for row in csv.DictReader(rows)]
    return Work(config, demo_folder(), Fastest("torch", "fp32", MICRO_BATCH, {})), items


def timed(
    workers: Workers, items: Sequence[Item], at_first: Callable[[], object] = lambda: None
) -> tuple[float, list[dict[str, Any]]]:
    """Return the seconds and the records without theirs."""
    records = []
    started = time.perf_counter()
    for record in workers.certify(items, None):
        records.append({key: value for key, value in record.items() if key != "seconds"})
        if len(records) == 1:
            at_first()
    return time.perf_counter() - started, records


def on_ray(nodes: int, n: int, *, lose_one: bool = False) -> tuple[float, list[dict[str, Any]]]:
    from ray.cluster_utils import Cluster

    work, items = task(n)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False},
    )
    try:
        others = [cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(nodes - 1)]
        cluster.wait_for_nodes()
        with RayExecutor(cluster.address).start(work) as pool:
            while len(pool._idle) < nodes:  # type: ignore[attr-defined]
                list(pool.certify(items[:nodes], None))

            def lose() -> None:
                if lose_one:
                    cluster.remove_node(others[0], allow_graceful=False)

            return timed(pool, items, lose)
    finally:
        cluster.shutdown()


def plain(processes: int, n: int) -> tuple[float, list[dict[str, Any]]]:
    """Run the whole work in each of some processes at the same time; return the longest time."""
    command = [sys.executable, __file__, "--plain", "--n", str(n)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    try:
        for process in running:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [json.loads(process.communicate()[0]) for process in running]
    finally:
        for process in running:
            process.kill()
    return max(seconds for seconds, _ in answers), answers[0][1]


def plain_process(n: int) -> None:
    work, items = task(n)
    with LocalExecutor(1).start(work) as workers:
        list(workers.certify(items[:1], None))
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(timed(workers, items)))


def measure(n: int, rounds: int) -> dict[str, Any]:
    """Return the figures: medians over rounds, in which the runs take turns."""
    source = str(Path(soundcert.__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    os.environ["OMP_NUM_THREADS"] = "1"
    runs = {
        "one plain process": lambda: plain(1, n),
        "two plain processes, the work twice": lambda: plain(2, n),
        "Ray, one node": lambda: on_ray(1, n),
        "Ray, two nodes": lambda: on_ray(2, n),
        "Ray, two nodes, one lost": lambda: on_ray(2, n, lose_one=True),
    }
    every: dict[str, list[float]] = {name: [] for name in runs}
    expected, equal = None, True
    for _ in range(rounds):
        for name, run in runs.items():
            taken, records = run()
            every[name].append(taken)
            expected = expected or records
            equal = equal and records == expected
            print(f"{name}: {taken:.1f} s", file=sys.stderr, flush=True)
    assert expected
    seconds = {name: statistics.median(values) for name, values in every.items()}
    one, two, lost = (seconds[f"Ray, {name}"] for name in ("one node", "two nodes", "two nodes, one lost"))
    return {
        "clips": len(expected),
        "n": n,
        "rounds": rounds,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "all seconds": {name: [round(value, 2) for value in values] for name, values in every.items()},
        "two nodes against one": round(one / two, 3),
        "two processes against one": round(
            2 * seconds["one plain process"] / seconds["two plain processes, the work twice"], 3
        ),
        "two nodes, one lost, against one": round(one / lost, 3),
        "equal certificates": equal,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} logical CPUs",
    }


def section(result: Mapping[str, Any]) -> str:
    """Return the figures as a section of a Markdown page."""
    ratio, limit = result["two nodes against one"], result["two processes against one"]
    lines = [
        "## A Ray cluster",
        "",
        f"Written by `python benchmarks/ray_scaling.py`. The bundled keyword spotter on {result['clips']} bundled "
        f"clips at n = {result['n']}; nodes of one CPU each on one machine ({result['machine']}), workers started "
        f"beforehand, medians of {result['rounds']} alternating rounds.",
        "",
        "| | seconds |",
        "|---|---:|",
        *(f"| {name} | {value:.1f} |" for name, value in result["seconds"].items()),
        "",
        f"Two nodes are **{ratio:.2f} times** as fast as one. Two independent processes make {limit:.2f} times the "
        f"passes of one here, so the cluster reaches {ratio / limit:.0%} of what this machine's second CPU gives.",
        "With one of the two nodes lost after the first certificate, the run is "
        f"{result['two nodes, one lost, against one']:.2f} times as fast as on one node.",
        "Certificates are equal in all runs." if result["equal certificates"] else "CERTIFICATES DIFFER.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=2000, help="noisy draws a clip")
    parser.add_argument("--rounds", type=int, default=3, help="how often each run is made")
    parser.add_argument("--plain", action="store_true", help="be one of the plain processes")
    options = parser.parse_args()
    if options.plain:
        plain_process(options.n)
    else:
        with contextlib.redirect_stdout(sys.stderr):  # Ray reports the lost node on stdout
            result = measure(options.n, options.rounds)
        print(json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
