"""The verb that runs a whole study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soundcert.cli.app import Json, app, print_json
from soundcert.cli.ending import advising


@app.command
def study(
    config: Annotated[Path, Parameter(help="The study's file.")],
    *,
    out: Annotated[Path, Parameter(help="The study's folder: weights and run directories.")],
    results: Annotated[
        Path | None, Parameter(help="Write tables and figures here; by default into OUT/results.")
    ] = None,
    only: Annotated[
        tuple[str, ...],
        Parameter(show_default=False, help="Work on this block of the grid; may be repeated."),
    ] = (),
    join: Annotated[
        tuple[Path, ...],
        Parameter(
            show_default=False,
            help="A results.json: cells that are not begun in OUT are taken from it, done on another machine or at another "
            "time. May be repeated; the first that has a cell counts.",
        ),
    ] = (),
    jobs: Annotated[
        int, Parameter(help="Fits at a time, each on one core; where fewer are sampled, on more.")
    ] = 1,
    plan: Annotated[
        bool, Parameter(negative="", help="Say what is left to do and what it costs, and stop.")
    ] = False,
    write_only: Annotated[
        bool, Parameter(negative="", help="Write tables and figures of what is finished, and stop.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Run a grid of data sets, contracts, σ and models: train, choose on validation clips, certify, write tables.

    What is finished is kept: the same command goes on after an interruption, and does only what a grown grid adds.

    Example: `soundcert study configs/study-small.yaml --out runs/study-small --plan`
    """
    from soundcert.errors import ConfigError
    from soundcert.report.terminal import print_view
    from soundcert.study import collect, load_study, run_study, write_study
    from soundcert.study import plan as plan_of
    from soundcert.study.joining import done_elsewhere
    from soundcert.study.terminal import plan_view
    from soundcert.study.writing import check_joined

    if jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {jobs}")
    settings = load_study(config)
    base = config.parent
    elsewhere = done_elsewhere(settings, base, out, join, only)
    if elsewhere:
        check_joined(collect(settings, base, out, elsewhere), join)
    if not write_only:
        costs = plan_of(settings, base, out, only, elsewhere)
        if plan:
            if as_json:
                print_json([{**vars(c), "seconds": c.seconds} for c in costs])
            else:
                print_view(plan_view(costs, jobs))
            return 0
        if not as_json:
            print_view(plan_view(costs, jobs))
        with advising("the same command goes on where it stopped"):
            run_study(
                settings, base, out, only=only, jobs=jobs, elsewhere=elsewhere,
                tell=lambda line: print(line, file=sys.stderr, flush=True),
            )  # fmt: skip
    found = collect(settings, base, out, elsewhere)
    files = write_study(found, results or out / "results", f"soundcert study {config.as_posix()}")
    if as_json:
        print_json(found)
    else:
        print("\n".join(str(file) for file in files))
        for name in found["unfinished"]:
            print(f"soundcert: not finished, so left out: {name}", file=sys.stderr)
    return 1 if found["unfinished"] else 0
