"""The verb `lint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from soundcert.cli.app import Json, app, print_json
from soundcert.errors import ConfigError


@app.command
def lint(
    reports: Annotated[
        list[Path], Parameter(help="Run directories, JSON, CSV of radii, YAML or Markdown cards.")
    ],
    *,
    given: Annotated[
        tuple[str, ...],
        Parameter(
            show_default=False, help="A field that stands elsewhere, such as `n=10000`; repeat for more."
        ),
    ] = (),
    ignore: Annotated[
        tuple[str, ...], Parameter(show_default=False, help="A rule to leave out; repeat for more.")
    ] = (),
    form: Annotated[
        Literal["text", "json", "junit", "github"],
        Parameter(
            name="--format", help="For people, for machines, for JUnit readers, for GitHub annotations."
        ),
    ] = "text",
    as_json: Json = False,
) -> int:
    """List what a report of certified audio leaves out, and what in it cannot be or is ambiguous.

    Each finding comes with the question to ask the authors. Exit code 0: nothing found, or notes only; 1: findings;
    2: a report cannot be read. Rules: docs/lint.md.

    Example: `soundcert lint paper.md --format github`
    """
    from soundcert.lint import lint_report
    from soundcert.lint.forms import as_dict, as_github, as_junit, failing, print_text

    if not reports:
        raise ConfigError("name at least one report: a run directory, or a JSON, CSV, YAML or Markdown file")
    fields = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not (sign and name.strip() and value.strip()):
            raise ConfigError(f"--given {text!r}: expected NAME=VALUE, such as n=10000")
        fields[name.strip()] = value.strip()
    linted = [lint_report(path, given=fields, ignore=ignore) for path in reports]
    if as_json or form == "json":
        print_json(as_dict(linted))
    elif form == "junit":
        print(as_junit(linted))
    elif form == "github":
        print(as_github(linted))
    else:
        print_text(linted)
    return 1 if any(failing(findings) for _, findings in linted) else 0
