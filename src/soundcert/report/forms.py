"""A run's report in the forms that others read: papers, spreadsheets, figures, model cards, attestations.

`write_form` is the one way in. Every form is made from the records, carries the run's warnings, and is the same
bytes for the same run and the same versions of what writes it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soundcert.errors import ConfigError, MissingDependencyError, RunError, did_you_mean, how_to_install
from soundcert.runs import Run


def _latex(run: Run) -> bytes:
    from soundcert.report.latex import latex

    return latex(run).encode()


def _csv(run: Run) -> bytes:
    from soundcert.report.rows import csv_bytes

    return csv_bytes(run)


def _parquet(run: Run) -> bytes:
    from soundcert.report.rows import parquet_bytes

    return parquet_bytes(run)


def _svg(run: Run) -> bytes:
    from soundcert.report.figures import figure

    return figure(run, "svg")


def _pdf(run: Run) -> bytes:
    from soundcert.report.figures import figure

    return figure(run, "pdf")


def _card(run: Run) -> bytes:
    from soundcert.report.card import card

    return card(run).encode()


def _attestation(run: Run) -> bytes:
    from soundcert.report.attestation import statement_bytes

    return statement_bytes(run)


# kind: what makes it, and the name that it has in a folder.
_FORMS: dict[str, tuple[Callable[[Run], bytes], str]] = {
    "latex": (_latex, "report.tex"),
    "csv": (_csv, "clips.csv"),
    "parquet": (_parquet, "clips.parquet"),
    "svg": (_svg, "curve.svg"),
    "pdf": (_pdf, "curve.pdf"),
    "model-index": (_card, "model-index.md"),
    "in-toto": (_attestation, "report.intoto.json"),
}

FORMS: tuple[str, ...] = tuple(_FORMS)


def optional(module: str, form: str, extra: str) -> Any:
    """Import a module of an optional package; MissingDependencyError, with what to install, without it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"the form {form!r} needs the package {module.partition('.')[0]!r}, which is not installed: "
            f"{how_to_install(extra)}"
        ) from error


def write_form(run: Run, kind: str, out: Path) -> Path:
    """Write one form of a run's report and return the file; whole or not at all.

    out: the file, or a folder that is there, in which the form has its usual name. Raises ConfigError for a kind
    that is not in FORMS, MissingDependencyError where a package is missing, and RunError where the run has nothing
    to put into the form or the file cannot be written.
    """
    if kind not in _FORMS:
        raise ConfigError(f"no form {kind!r}{did_you_mean(kind, FORMS)}")
    make, name = _FORMS[kind]
    path = out / name if out.is_dir() else out
    content = make(run)
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None
    return path
