"""One row a clip, views and spaces flattened: CSV for spreadsheets and scripts, Parquet for data frames.

Conventions
-----------
Each row says what its radius is about, so that no column of radii stands alone. A field that a clip has not is
empty (CSV) or null (Parquet): an abstention has no radius. A length without limit is inf, and so is a decibel
figure without limit, as −inf where smaller is stronger. Numbers are the records' own, at full precision.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from soundcert.certificate import FALLING
from soundcert.errors import RunError
from soundcert.report.accuracy import some_warnings
from soundcert.report.forms import optional
from soundcert.report.stated import channels_of, clock_of, sizes_of, stated
from soundcert.report.terminal import VIEWS
from soundcert.runs import Run
from soundcert.runs.schema import record_schema

#: What a spreadsheet takes for the start of a formula; the wide forms count in some languages.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_ABOUT = (
    "kind",
    "certified_object",
    "perturbation_location",
    "gain_policy",
    "unit",
    "norm",
    "noise",
    "post_noise",
)
_NESTED = ("views", "spaces")


def table(run: Run) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Return the columns with their types (string, number, integer, boolean, numbers), and a row a clip."""
    if not run.records:
        raise RunError(f"{run.path} has no record of a clip yet: there is nothing to put in a table")
    fields = record_schema()["properties"]
    views = {name for r in run.records for name in r.get("views") or ()}
    spaces = sorted({name for r in run.records for name in r.get("spaces") or ()})
    columns = {"run": "string", "clip": "string", "status": "string"}
    columns |= {f"contract.{key}": "string" for key in _ABOUT}
    said = _of_all(run)
    columns |= dict.fromkeys(said, "string")
    used = {key for r in run.records for key in r}
    columns |= {
        key: _kind(schema)
        for key, schema in fields.items()
        if key in used and key not in _NESTED and key not in columns
    }
    columns |= {f"views.{name}": "number" for name in (*VIEWS, *sorted(views - set(VIEWS))) if name in views}
    for name in spaces:
        columns |= {f"spaces.{name}.proven": "boolean", f"spaces.{name}.radius": "number"}
        columns |= {f"spaces.{name}.chain": "string", f"spaces.{name}.reason": "string"}
    if run.warnings:
        columns["run_warnings"] = "string"
        said["run_warnings"] = " | ".join(some_warnings(run, 20))
    rows = [{**_row(record, columns), **said} for record in run.records]
    if run.about_waveform and len(sizes_of(run)) > 1 and (rate := clock_of(run)[0]):
        for row in rows:
            a_second = rate * channels_of(run)
            row["clip.length"] = f"{row['dimension'] / a_second:g} s" if "dimension" in row else ""
    return columns, rows


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "string")
    return "numbers" if kind == "array" else str(kind)


def _row(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return what the record of a clip says."""
    row: dict[str, Any] = {key: record[key] for key in columns if key in record}
    for name, value in (record.get("views") or {}).items():
        falling = name in FALLING
        row[f"views.{name}"] = (float("-inf") if falling else float("inf")) if value is None else value
    for name, there in (record.get("spaces") or {}).items():
        row[f"spaces.{name}.proven"] = there["proven"]
        if there["proven"]:
            row[f"spaces.{name}.radius"] = float("inf") if there["radius"] is None else there["radius"]
            row[f"spaces.{name}.chain"] = json.dumps(there["chain"], ensure_ascii=False)
        else:
            row[f"spaces.{name}.reason"] = there.get("reason")
    return row


def _of_all(run: Run) -> dict[str, str]:
    """Return what every row says: the run, its contract, and the whole list of clips as far as the run tells it."""
    said = dict(stated(run))
    names = {
        "data.dataset": "Data set",
        "data.split": "Split",
        "clip.rate": "Sampling rate",
        "clip.length": "Clip length",
    }
    out = {"run": run.name}
    out |= {f"contract.{key}": _words(run.contract[key]) for key in _ABOUT if key in run.contract}
    out |= {column: said[name] for column, name in names.items() if name in said}
    return out


def _words(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


# --- CSV -------------------------------------------------------------------------------------------


def csv_bytes(run: Run) -> bytes:
    """Return RFC 4180 text in UTF-8. Text that a spreadsheet would run as a formula gets an apostrophe."""
    columns, rows = table(run)
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow([_cell(name) for name in columns])
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return out.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(FORMULA) else text


# --- Parquet ---------------------------------------------------------------------------------------


def parquet_bytes(run: Run) -> bytes:
    """Return a Parquet file; the contract, the statement and the settings stand in its metadata too."""
    pa, pq = optional("pyarrow", "parquet", "parquet"), optional("pyarrow.parquet", "parquet", "parquet")
    types = {
        "string": pa.string(),
        "number": pa.float64(),
        "integer": pa.int64(),
        "boolean": pa.bool_(),
        "numbers": pa.list_(pa.float64()),
    }
    columns, rows = table(run)

    def column(name: str, kind: str) -> Any:
        values = [row.get(name) for row in rows]
        if kind != "string":
            try:
                return pa.array(values, types[kind])
            except (pa.ArrowException, OverflowError, TypeError, ValueError):
                pass  # a seed of more than 63 bits, or a record that somebody edited: kept as text
        return pa.array([None if v is None else _utf8(v) for v in values], pa.string())

    about = {
        "soundcert": run.info.get("soundcert"),
        "run": run.name,
        "contract": dict(run.contract),
        "statement": run.statement,
        "certify": dict(run.certify),
        "identity": run.info.get("identity"),
        "warnings": list(run.warnings),
    }
    made = pa.table({name: column(name, kind) for name, kind in columns.items()})
    made = made.replace_schema_metadata({"soundcert": json.dumps(about)})
    out = io.BytesIO()
    pq.write_table(made, out, compression="zstd")
    return out.getvalue()


def _utf8(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()
