"""The verb that puts runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from soundcert.cli.app import Json, app, bar, print_json, reading


@app.command
def compare(
    runs: Annotated[
        list[Path], Parameter(help="Run directories; the first is compared with each other one.")
    ],
    *,
    space: Annotated[
        str | None,
        Parameter(
            name="--in", help="Compare on radii proven in this space, such as `file`; by default the object."
        ),
    ] = None,
    at: Annotated[
        list[float] | None,
        Parameter(
            help="SNRs in dB, or radii: fixed before the results are seen.",
            consume_multiple=True,
        ),
    ] = None,
    by: Annotated[
        Literal["snr", "radius"] | None,
        Parameter(help="What the curves run over; by default SNR for waveforms."),
    ] = None,
    alpha: Annotated[
        float | None, Parameter(help="Compute all radii at this α, from the recorded counts.")
    ] = None,
    base: Annotated[
        Path | None, Parameter(help="Where configs' relative paths start, for runs that did not record it.")
    ] = None,
    resamples: Annotated[int, Parameter(help="Resamples of the bootstrap.")] = 4000,
    seed: Annotated[int, Parameter(help="Seed of the bootstrap.")] = 0,
    as_json: Json = False,
) -> int:
    """Compare runs on the clips that all of them have, or say why a ranking would mislead (exit code 1).

    Paired over the clips: counts, McNemar's test with Holm's correction, bootstrap intervals of the difference.

    Example: `soundcert compare runs/waveform runs/features --in file --at 60 50 40`
    """
    from soundcert.compare import compare as compare_runs
    from soundcert.compare.terminal import ComparisonView
    from soundcert.report.terminal import print_view

    axis: Literal["snr_db", "radius"] | None = None if by is None else ("snr_db" if by == "snr" else "radius")
    with reading(" or ".join(map(str, runs))), bar("carrying radii") as tick:
        result = compare_runs(
            runs,
            space,
            at=at,
            axis=axis,
            alpha=alpha,
            base=base,
            resamples=resamples,
            seed=seed,
            progress=tick,
        )
    if as_json:
        print_json(result.to_dict())
    else:
        print_view(ComparisonView(result))
    return 0 if result.comparable else 1
