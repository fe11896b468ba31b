"""What is wrong with a configuration, in words: one line, with what was expected, what came, and the nearest words."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self

import pydantic
from pydantic import BaseModel

from soundcert.data import LIST_SUFFIXES, DataConfig
from soundcert.errors import did_you_mean, nearest

MAX_TOLD = 5  # mistakes that one line puts into words


class Mistakes:
    """What is wrong, for one line: the first few in words, and how many more there are."""

    def __init__(self) -> None:
        self._words: list[str] = []
        self._more = 0

    def __bool__(self) -> bool:
        return bool(self._words)

    def __str__(self) -> str:
        return "; ".join([*self._words, *([f"and {self._more} more"] if self._more else [])])

    def add(self, say: str | Callable[[], str]) -> None:
        """Add a mistake; a file can hold thousands, so words that take time are asked for where there is room."""
        if len(self._words) == MAX_TOLD:
            self._more += 1
            return
        words = say if isinstance(say, str) else say()
        start, hint, known = words.partition(" (known: ")
        # The list of all that is known is long, and told once.
        told = hint and any(before.endswith(hint + known) for before in self._words)
        self._words.append(start if told else words)

    def unknown(self, field: object, known: Iterable[str], where: str = "", place: object = None) -> None:
        """Add a field that there is not; place: its full name."""
        name = field if place is None else place
        self.add(lambda: f"{where}unknown field {name!r}{did_you_mean(str(field), known)}")

    def add_all(
        self, error: pydantic.ValidationError, model: type[BaseModel] | None = None, where: str = ""
    ) -> Self:
        """Add what pydantic found. An unknown word explains a missing one that it is like, and is told in its place."""
        found = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
        meant = set()
        for one in found:
            place = ".".join(str(part) for part in one["loc"])
            owner = _owner(model, one["loc"][:-1])
            if one["type"] == "extra_forbidden":
                known = owner.model_fields if owner else ()
                if len(self._words) < MAX_TOLD:
                    meant.add((*one["loc"][:-1], nearest(str(one["loc"][-1]), known)))
                self.unknown(one["loc"][-1], known, where, place)
            elif one["type"] != "missing" or one["loc"] not in meant:
                start = f"{where}{place}: " if place else where
                self.add(partial(_words_of, one, _owner(model, one["loc"]), start))
        return self


def _words_of(mistake: Any, owner: type[BaseModel] | None, start: str) -> str:
    """Say what was expected and what came; owner: the model that should stand there."""
    kind, given = mistake["type"], mistake["input"]
    if kind == "missing":
        return f"{start}{mistake['msg']}"
    if kind == "int_parsing" and (number := _whole(given)) is not None:
        return f"{start}write {number} (YAML takes {given} for text)"
    if kind == "model_type":
        return f"{start}expected a mapping{_example(owner, given)}, got {brief(given)}"
    message = mistake["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{start}{message}, got {brief(given)}"


def _example(owner: type[BaseModel] | None, given: object) -> str:
    """Show how the fields of a model are written, for data with the place that was given alone."""
    if owner is None:
        return ""
    if owner is not DataConfig:
        return f" such as {{{', '.join(f'{name}: …' for name in list(owner.model_fields)[:2])}}}"
    root = given if isinstance(given, str) and 0 < len(given) <= 100 else "recordings"
    source = "manifest" if root.lower().endswith(LIST_SUFFIXES) else "folder"
    return f" such as {{source: {source}, root: {root}}}"


def _whole(given: object) -> int | None:
    """Return the whole number that text such as 1e4 means, None for other values."""
    try:
        number = float(given) if isinstance(given, str) else math.nan
    except ValueError:
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else None


def brief(value: object) -> str:
    # Not repr of the whole: YAML's aliases can make a small file hold an endless value.
    text = reprlib.repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _owner(model: type[BaseModel] | None, path: Iterable[int | str]) -> type[BaseModel] | None:
    for part in path:
        if model is None or not isinstance(part, str) or part not in model.model_fields:
            return None
        inner = model.model_fields[part].annotation
        options = [inner, *getattr(inner, "__args__", ())]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return model
