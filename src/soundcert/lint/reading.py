"""Opens any report: says which form it has, and reads it within limits. Every failure is one InputError."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from soundcert.errors import InputError
from soundcert.lint.building import Builder
from soundcert.lint.fields import FIELDS, resolve
from soundcert.lint.markdown import read_markdown
from soundcert.lint.numbers import clean
from soundcert.lint.report import Report
from soundcert.lint.tables import looks_like_table, read_table
from soundcert.lint.trees import read_tree, tree_of_json, tree_of_yaml

MAX_TABLE = 512 * 2**20
MAX_JSON = 64 * 2**20
MAX_CARD = 2**20
_PROGRAMS = (
    ".py", ".pyi", ".ipynb", ".js", ".ts", ".c", ".h", ".cc", ".cpp", ".cu", ".rs", ".go", ".java", ".kt", ".swift",
    ".sh", ".r", ".m", ".jl", ".lua", ".rb", ".pl",
)  # fmt: skip
_TABLES, _JSON, _YAML, _MARKDOWN = (".csv", ".tsv"), (".json",), (".yaml", ".yml"), (".md", ".markdown")


def read_report(path: str | Path, given: Mapping[str, str] | None = None) -> Report:
    """Read a report of any form. given: fields that stand elsewhere, such as {"n": "10000"}.

    InputError where the file cannot be read; RunError for a directory that is no run.
    """
    path = Path(path)
    name = clean(str(path))
    out = read_run_or_file(path, name)
    known = out.report()
    if not any(r.fields or r.curve or r.rows is not None for r in known.results):
        prose = f" (its text, such as {known.unread[0]!r}, is not read)" if known.passed else ""
        raise InputError(
            f"{name} states nothing that is known as a field of a report{prose}: see docs/lint.md"
        )
    for label, value in (given or {}).items():
        found = resolve(label)
        if found is None:
            raise InputError(f"unknown field {label!r} (known: {', '.join(FIELDS)})")
        if not known.has(found[0]):
            out.put(found[0], f"given {label}", value)
    return out.report()


def read_run_or_file(path: Path, name: str) -> Builder:
    if path.is_dir():
        return _read_run(path, name.rstrip("/"))
    if not path.is_file():
        raise InputError(f"no report at {name}")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from None
    if b"\0" in head:
        raise InputError(f"{name} is binary: a report is text (JSON, CSV, YAML or Markdown)")
    first = head.decode("utf-8", errors="replace").partition("\n")[0]
    suffix = path.suffix.lower()
    if suffix in _PROGRAMS or first.startswith("#!"):
        raise InputError(
            f"{name} is a program, in which no field of a report is looked for: see docs/lint.md"
        )
    form = _form(suffix, first)
    limit = {"table": MAX_TABLE, "json": MAX_JSON, "records": MAX_TABLE}.get(form, MAX_CARD)
    if size > limit:
        raise InputError(f"{name} has {size} bytes, and a report of this form at most {limit}")
    try:
        return _read(path, name, form)
    except UnicodeDecodeError:
        raise InputError(f"{name} is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from None


def _read_run(path: Path, name: str) -> Builder:
    from soundcert.lint.own import read_run

    try:
        for file in path.glob("*.json*"):
            if file.stat().st_size > MAX_TABLE:
                raise InputError(f"{clean(str(file))} is larger than {MAX_TABLE} bytes")
        return read_run(path, name)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{name} has records that are not soundcert's: {clean(repr(error))}") from None


def _form(suffix: str, first: str) -> str:
    if suffix in (".jsonl", ".ndjson"):
        return "records"
    if suffix in _TABLES or (suffix not in _JSON + _YAML + _MARKDOWN and looks_like_table(first)):
        return "table"
    if suffix in _JSON or first.lstrip().startswith("{"):
        return "json"
    if suffix in _YAML:
        return "yaml"
    return "markdown"


def _read(path: Path, name: str, form: str) -> Builder:
    if form == "table":
        out = Builder(name, "a table of radii")
        with path.open(encoding="utf-8", newline="") as file:
            read_table(file, out)
        return out
    if form == "records":
        from soundcert.lint.own import take_records

        out = Builder(name, "records of soundcert")
        out.own = True
        try:
            take_records(list(_records(path, name)), name, out)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{name} has records that are not soundcert's: {clean(repr(error))}") from None
        return out
    text = path.read_text(encoding="utf-8")
    if form == "json":
        out = Builder(name, "JSON")
        out.own = '"contract"' in text and '"summary"' in text
        read_tree(tree_of_json(text, name), out)
    elif form == "yaml":
        out = Builder(name, "a YAML card")
        read_tree(tree_of_yaml(text, name), out)
    else:
        out = Builder(name, "a Markdown card")
        read_markdown(text, out)
    return out


def _records(path: Path, name: str) -> Iterator[dict[str, Any]]:
    from soundcert.runs.values import missing_field

    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                raise InputError(f"{name}, line {number}, is not JSON") from None
            if (
                not isinstance(record, dict)
                or not isinstance(record.get("clip"), str)
                or missing_field(record)
            ):
                raise InputError(f"{name}, line {number}, is not a record of soundcert")
            yield record
