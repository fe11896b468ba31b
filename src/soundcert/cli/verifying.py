"""The verb that checks a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from soundcert.cli.app import Json, Trust, app, bar, print_json, reading

if TYPE_CHECKING:
    from soundcert.runs.verifying import Verification


@app.command
def verify(
    run: Annotated[Path, Parameter(help="Run directory.")],
    *,
    sample: Annotated[int, Parameter(help="Clips to certify again, chosen at random.")] = 5,
    sample_seed: Annotated[
        int | None, Parameter(help="Choose the clips by this seed; by default by chance.")
    ] = None,
    records_only: Annotated[
        bool, Parameter(negative="", help="Read nothing but the run directory: no model, no audio.")
    ] = False,
    base: Annotated[
        Path | None, Parameter(help="Where the config's relative paths start, if the run was made elsewhere.")
    ] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> int:
    """Check a run: bounds from counts, digests of config, model and recordings, and clips certified again.

    Exit code 1: something disagrees. 2: nothing does, but the model or the data could not be read.

    Example: `soundcert verify runs/kws --sample 10`
    """
    from soundcert.runs.verifying import lines, verify_run

    with reading(run), bar("verifying") as tick:
        found = verify_run(
            run, sample=sample, sample_seed=sample_seed, records_only=records_only, base=base, trust=trust,
            progress=tick,
        )  # fmt: skip
    if as_json:
        print_json(found.to_dict())
    else:
        for line in lines(found):
            print(line)
        print(f"\n{_verdict(found)}")
    return 0 if found.agrees else 1 if found.contradicted else 2


def _verdict(found: Verification) -> str:
    if found.agrees:
        return "The run agrees."
    if found.contradicted:
        return "The run does NOT agree with itself or with its files."
    return (
        "What could be checked agrees, but the model or the data could not be read: --base names the folder that the "
        "config's paths start from, --records-only asks for nothing more."
    )
