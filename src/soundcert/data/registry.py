"""Sources that packages add: a data set plugs in under a name, as stages and kinds of model do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from ..errors import ConfigError, did_you_mean
from .items import Item

ENTRY_POINTS = "soundcert.data"


@dataclass(frozen=True)
class SourceInfo:
    """What `soundcert data` says of a source."""

    name: str
    summary: str
    layout: str
    licence: str


@dataclass(frozen=True)
class Source:
    """A way to read data: `items` lists the clips under `root`, which is a folder or a file; nothing is decoded."""

    info: SourceInfo
    items: Callable[[Path], Sequence[Item]]


_REGISTRY: dict[str, Source] = {}


def register_source(source: Source) -> Source:
    """Make a data set a word of `data: {source: …}`.

    Third parties declare an entry point in the group `soundcert.data` that names a Source; it is imported the first
    time a config uses the word, which must be the Source's own name.
    """
    name = source.info.name
    if _REGISTRY.get(name, source) is not source:
        raise ConfigError(f"a data source named {name!r} is registered already")
    _REGISTRY[name] = source
    return source


def source_of(name: str) -> Source:
    """Return a source by name; ConfigError names the nearest known one."""
    if name not in _REGISTRY:
        for point in entry_points(group=ENTRY_POINTS):
            if point.name == name:
                found = point.load()
                if not isinstance(found, Source) or found.info.name != name:
                    raise ConfigError(f"entry point {name!r} in {ENTRY_POINTS} is not a Source of that name")
                return register_source(found)
        raise ConfigError(
            f"data.source: expected a known source, got {name!r}{did_you_mean(name, source_names())}"
        )
    return _REGISTRY[name]


def source_names() -> list[str]:
    """Return the names of all sources, those of entry points without importing them."""
    return [*_REGISTRY, *(p.name for p in entry_points(group=ENTRY_POINTS) if p.name not in _REGISTRY)]


def all_sources() -> list[Source]:
    """Return every source, those of entry points imported."""
    return [source_of(name) for name in source_names()]
