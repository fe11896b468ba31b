"""The command line: verbs over the library. Importing a module of verbs adds them to the app."""

from soundcert.cli import verbs
from soundcert.cli.app import app, main, run

__all__ = ["app", "main", "run", "verbs"]
