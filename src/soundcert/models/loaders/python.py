"""A Python function as a model: `{python: "package.module:function"}`, called with `(batch, *shape)` float32.

It may return a tensor or an array. It is a black box: called from one thread at a time.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from soundcert.errors import ConfigError, ModelError
from soundcert.models.loaders.base import (
    Loaded,
    Loader,
    Request,
    check_options,
    demand_trust,
    file_digest,
    first_line,
    register_loader,
)


class PythonFunction:
    """A function of tensors or arrays, one call at a time."""

    def __init__(self, function: Any, name: str, numpy: bool) -> None:
        self._function, self._name, self._numpy = function, name, numpy
        self._lock = threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        with self._lock:
            out = self._function(x.detach().cpu().numpy() if self._numpy else x)
        return as_tensor(out, self._name)


def as_tensor(out: object, name: str) -> Tensor:
    """Return a model's answer as a tensor; ModelError where it is none."""
    if isinstance(out, Tensor):
        return out
    try:
        array = np.asarray(out)
        if array.dtype.kind in "fiub":
            return torch.from_numpy(np.array(array))
    except (TypeError, ValueError):
        pass
    raise ModelError(
        f"the model {name} must return a tensor or an array (batch, classes), got {type(out).__name__}"
    )


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _module(request: Request, name: str) -> Any:
    top = name.split(".", maxsplit=1)[0]
    if not _found(name):
        folder = (request.folder or Path()).resolve()
        beside = (folder / f"{top}.py", folder / top / "__init__.py", folder / top)
        if not any(path.exists() for path in beside):
            raise ConfigError(f"model: no Python module {name!r} is installed, nor lies beside the config")
        sys.path.append(str(folder))
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ModelError(f"the Python module {name!r} cannot be imported: {first_line(error)}") from error


def found_by_name(request: Request, kind: str) -> Any:
    """Import what `package.module:name` names, of an installed module, or of one beside the config.

    Installed modules ask for trust too: importing one runs it, and what a config and its clips feed to any
    function that is installed (say, one that reads pickles) is not ours to foresee.
    """
    where, colon, attribute = request.source.partition(":")
    if not (where and colon and attribute):
        raise ConfigError(f"model: {kind} must be 'package.module:function', got {request.source!r}")
    demand_trust(request, "is Python code, which importing it runs")
    found: Any = _module(request, where)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"model: the Python module {where!r} has no {attribute!r}")
        found = getattr(found, part)
    return found


def source_of(found: Any) -> Path | None:
    """Return the source file of a function, a class or an object; None where there is none."""
    try:
        source = inspect.getsourcefile(
            found if inspect.isroutine(found) or inspect.isclass(found) else type(found)
        )
    except TypeError:  # built into Python, or an extension
        return None
    return Path(source) if source and Path(source).is_file() else None


def load_python(request: Request) -> Loaded:
    """Import a function, or a callable object; with trust."""
    check_options(request, ("numpy",))
    found = found_by_name(request, "python")
    if inspect.isclass(found) or not callable(found):
        raise ConfigError(
            f"model: {request.source} must be a function of a batch, or an object that can be called, "
            f"got {'a class' if inspect.isclass(found) else type(found).__name__}"
        )
    if isinstance(found, nn.Module) and found.training:
        raise ModelError(f"the model {request.source} is in training mode: call .eval() where it is made")
    source = source_of(found)
    digest = file_digest(source) if source else None
    seen = f"source file {digest[:8]}" if digest else "digest unknown"
    return Loaded(
        PythonFunction(found, request.source, bool(request.options.get("numpy"))),
        request.source,
        seen,
        digest=f"source:{digest}" if digest else None,
        runtime="a Python callable",
        gradients=not request.options.get("numpy"),
        facts={"digest is of": "its source file alone, not of what that imports or reads"} if digest else {},
    )


LOADER = register_loader(
    Loader("python", load_python, "a Python function, package.module:function", names_file=False)
)
