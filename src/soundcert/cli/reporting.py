"""The verb that shows a run: as a page, and in other forms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soundcert.cli.app import Json, app, print_json, reading
from soundcert.errors import ConfigError, did_you_mean

_OWN = {"html": "report.html", "md": "report.md"}


@app.command
def report(
    run: Annotated[Path, Parameter(help="Run directory of `soundcert certify`.")],
    *,
    out: Annotated[Path | None, Parameter(help="File to write; by default in the run.")] = None,
    form: Annotated[
        str,
        Parameter(
            name="--format",
            help="`html` or `md`; for papers and tables `latex`, `csv`, `parquet`, `svg` or `pdf`; `model-index` for a "
            "model card, `in-toto` for an attestation.",
        ),
    ] = "html",
    audio: Annotated[int, Parameter(help="How many clips can be heard on the page.")] = 12,
    data: Annotated[
        Path | None, Parameter(help="Where the clips are, if they have moved: a folder, or a manifest.")
    ] = None,
    base: Annotated[
        Path | None, Parameter(help="Where the config's relative paths start, if the data has moved.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Show a run as one self-contained page: the contract first, then the curve, the flags and every clip.

    Nothing is fetched when the page is opened. A run that is not finished, torn or newer than this version opens
    with a warning.

    Example: `soundcert report runs/kws --audio 20`
    """
    from soundcert.report.facts import readable
    from soundcert.report.html import write_report
    from soundcert.report.markdown import write_markdown
    from soundcert.runs import open_run

    if audio < 0:
        raise ConfigError(f"--audio must be from 0, got {audio}")
    forms = _forms()
    if form not in (*_OWN, *forms):
        known = (*_OWN, *forms)
        raise ConfigError(f"--format: expected {', '.join(known)}, got {form!r}{did_you_mean(form, known)}")
    with reading(run):
        opened = readable(open_run(run))
        for warning in opened.warnings:
            print(f"soundcert: {' '.join(warning.split())}", file=sys.stderr)
        missing: tuple[str, ...] = ()
        summary = opened.summary
        if form == "html":
            written = out or run / _OWN[form]
            sounds = write_report(opened, written, audio=audio, data=data, base=base)
            missing = sounds.missing
            for line in missing:
                print(f"soundcert: {' '.join(line.split())}", file=sys.stderr)
        elif form == "md":
            written = out or run / _OWN[form]
            write_markdown(opened, written)
        else:
            from soundcert.report.forms import write_form

            written = write_form(opened, form, out or run)
    if as_json:
        print_json(
            {
                "report": str(written),
                "format": form,
                "bytes": written.stat().st_size if written.is_file() else None,
                "warnings": list(opened.warnings),
                "without_audio": list(missing),
                "contract": dict(opened.contract),
                "summary": summary,
            }
        )
    else:
        print(written)
    return 0


def _forms() -> tuple[str, ...]:
    """Return the other forms that a run can be written in, where their module is installed."""
    try:
        from soundcert.report.forms import FORMS
    except ImportError:
        return ()
    return tuple(FORMS)
