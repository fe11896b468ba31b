"""How a call ends that is cut short: by the user, by a scheduler, by the machine.

Ctrl-C (SIGINT) ends with exit code 130, SIGTERM with 143, SIGHUP with 129: 128 and the signal's number, as a
shell tells it. Each unwinds the program, so that files and locks are given back; a second one ends it at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_NAMED = {"SIGINT": "interrupted", "SIGTERM": "ended by SIGTERM", "SIGHUP": "ended by SIGHUP"}


_AGAIN = 0.01  # seconds
#: The signal that has asked the call to end, if one has.
_asked: list[int] = []


class Stopped(KeyboardInterrupt):
    """A signal that asks the program to end. advice: how to go on."""

    def __init__(self, number: int = signal.SIGINT, advice: str = "") -> None:
        self.number, self.advice = number, advice


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Raise Stopped in the main thread for SIGINT, SIGTERM and SIGHUP, once; signals that are ignored stay so.

    Python raises it wherever the main thread happens to be. Where that is a destructor, or code of an extension
    that cannot raise, it would be printed and lost; it is then raised again a moment later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    unraisable = sys.unraisablehook

    def stop(number: int, _: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_DFL)
        _asked.append(number)
        raise Stopped(number)

    def again(_: int, __: FrameType | None) -> None:
        check_stopped()

    def lost(what: sys.UnraisableHookArgs) -> None:
        if not isinstance(what.exc_value, Stopped):
            unraisable(what)
        elif hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, again)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)

    for name in _NAMED:
        number = getattr(signal, name, None)  # SIGHUP is not everywhere
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, stop)
    sys.unraisablehook = lost
    try:
        yield
    finally:
        _asked.clear()
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, handler)


def check_stopped() -> None:
    """Raise Stopped if a signal has asked to end, and something on the way has swallowed the exception."""
    if _asked:
        raise Stopped(_asked[0])


@contextlib.contextmanager
def advising(advice: str = "") -> Iterator[None]:
    """Say how to go on, should a signal end the call in here.

    What an extension was doing then may end as an error of its own: that, too, is the signal's.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        if advice:
            raise Stopped(getattr(stop, "number", signal.SIGINT), advice) from None
        raise
    except Exception as error:
        if _asked:
            raise Stopped(_asked[0], advice) from error
        raise


def stopped(stop: KeyboardInterrupt) -> int:
    """Say on stderr, in one line, that a signal ended the call and how to go on; return the exit code."""
    number = signal.Signals(getattr(stop, "number", signal.SIGINT))
    advice = getattr(stop, "advice", "")
    print(f"soundcert: {_NAMED[number.name]}{'; ' if advice else ''}{advice}", file=sys.stderr)
    return 128 + number


def leave(code: int) -> None:
    """End the process with this exit code, also where a worker hangs in a model or a file."""
    sampling = sys.modules.get("soundcert.sampling")
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"soundcert: cannot write the output: {error.strerror or error}", file=sys.stderr)
        # What is left in the buffer would be tried again at the end, and fail with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 2
    if sampling is not None and sampling.hanging():
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
