"""Run directories: append-only, flushed per clip, resumable, one writer at a time."""

from soundcert.runs.attack_run import attack_run
from soundcert.runs.certify_run import certify_run
from soundcert.runs.directory import RunDirectory, read_records
from soundcert.runs.reading import Run, find_runs, open_run
from soundcert.runs.summary import summarise
from soundcert.runs.verifying import Verification, verify_run

__all__ = [
    "Run",
    "RunDirectory",
    "Verification",
    "attack_run",
    "certify_run",
    "find_runs",
    "open_run",
    "read_records",
    "summarise",
    "verify_run",
]
