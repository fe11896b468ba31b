"""The command line: verbs over the library. Importing a module of verbs adds them to the app."""

from soundcert.cli import (
    comparing,
    data,
    exploring,
    inspecting,
    linting,
    reporting,
    studying,
    verbs,
    verifying,
)
from soundcert.cli.app import app, main, run

__all__ = [
    "app",
    "comparing",
    "data",
    "exploring",
    "inspecting",
    "linting",
    "main",
    "reporting",
    "run",
    "studying",
    "verbs",
    "verifying",
]
