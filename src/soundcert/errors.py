"""Errors that soundcert raises. Each message says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SoundcertError(Exception):
    """Root of every error that soundcert raises on purpose."""


class ConfigError(SoundcertError):
    """The call, the configuration or the pipeline cannot work as written."""


class InputError(SoundcertError):
    """A clip or a data list cannot be used (unreadable, empty, not finite, of the wrong shape)."""


class DownloadError(SoundcertError):
    """A data set cannot be fetched, or what came is not the data set."""


class ModelError(SoundcertError):
    """A model cannot be loaded, or does not behave as a fixed function of each row."""


class MissingDependencyError(SoundcertError):
    """An optional package is needed; the message names the `pip install` that brings it."""


class RunError(SoundcertError):
    """A run directory cannot be opened, resumed or written."""


class ResourceError(SoundcertError):
    """The machine has too little of something for the work as it is configured, such as memory."""


class StalledError(ResourceError):
    """Nothing was finished for longer than the watchdog waits."""


class TransportError(SoundcertError):
    """A radius was asked for in a space that it cannot be carried to."""


class AbstainedError(SoundcertError, AttributeError):
    """An abstained certificate was asked for something that only a certified one has.

    It is an AttributeError too, so that `hasattr(cert, "radius")` and
    `getattr(cert, "radius", default)` work.
    """


def how_to_install(extra: str) -> str:
    """Say how an extra is installed. There is no release: on a package index the name may be anybody's."""
    return f"pip install -c constraints.txt '.[{extra}]' in soundcert's checkout"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the nearest known word, or the list of what is known.

    >>> did_you_mean("resamle", ["mono", "resample"])
    " (did you mean 'resample'?)"
    >>> did_you_mean("x", ["mono", "resample"])
    ' (known: mono, resample)'
    """
    known = sorted(known)
    near = nearest(word, known)
    if near is not None:
        return f" (did you mean {near!r}?)"
    return f" (known: {', '.join(known)})" if known else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like this one, None where none is like it.

    >>> nearest("resamle", ["mono", "resample"])
    'resample'
    """
    return next(iter(difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)), None)
