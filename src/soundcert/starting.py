"""Ctrl-C while the command line is being imported, which takes seconds: it ends in one line, as later.

`soundcert/__init__.py` imports this before all else. In a library's process it does nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from itertools import pairwise
from types import FrameType


def is_command(script: str, words: Sequence[str]) -> bool:
    """Say whether a process is the command line: the script of that name, or `python -m soundcert`.

    script: sys.argv[0], which is -m until the module is found. words: all of the command.
    """
    if script != "-m":
        return os.path.basename(script).removesuffix(".exe") == "soundcert"
    return ("-m", "soundcert") in pairwise(words)


def _end(number: int, _: FrameType | None) -> None:
    # Nothing has begun, and what is raised inside the import of an extension may come out as another error.
    os.write(2, b"soundcert: interrupted\n")
    os._exit(128 + number)


if (
    is_command(sys.argv[0] if sys.argv else "", sys.orig_argv)
    and threading.current_thread() is threading.main_thread()
    and "--multiprocessing-fork" not in sys.orig_argv  # a worker of it, which has its parent's name
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it is ignored
):
    signal.signal(signal.SIGINT, _end)  # until `cli.ending` takes over
