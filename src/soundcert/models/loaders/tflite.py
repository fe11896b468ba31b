"""TFLite (LiteRT) files, run by ai-edge-litert on the CPU: `{tflite: file.tflite}` (`soundcert[tflite]`).

An interpreter holds its tensors, so each thread has one of its own. Rows are fed one by one, or as many as
the file's first dimension says.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soundcert.errors import ConfigError, ModelError
from soundcert.models.loaders.base import (
    Loaded,
    Loader,
    Request,
    check_options,
    file_digest,
    first_line,
    need,
    refuse_pickle,
    register_loader,
)
from soundcert.models.loaders.quantised import OPTIONS, Affine, affine
from soundcert.models.loaders.stream import stream_of


def _found(details: Any) -> tuple[float, int] | None:
    scale, zero = details["quantization"]
    return (float(scale), int(zero)) if scale else None


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep LiteRT from telling on stderr, past Python, that it has made its delegate; it does so once."""
    try:
        kept = os.dup(2)
    except OSError:  # no stderr, nothing to keep clean
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


# Operations that write to variables, or that keep a state of their own.
STATEFUL = frozenset(
    ("ASSIGN_VARIABLE", "SVDF", "RNN", "LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "UNIDIRECTIONAL_SEQUENCE_LSTM",
     "BIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_LSTM")
)  # fmt: skip


def _has_state(interpreter: Any) -> bool:
    """Whether a file keeps something from one pass to the next; taken to be so where that cannot be seen."""
    try:
        used = {str(op["op_name"]) for op in interpreter._get_ops_details()}
    except (AttributeError, KeyError, TypeError):
        return True
    return bool(used & STATEFUL)


def load_tflite(request: Request) -> Loaded:
    """Load a TFLite file with one input.

    One that keeps a state in variables begins anew with every pass, so that a row depends on nothing before it;
    `chunk` feeds a longer row in parts, between which the state is kept.
    """
    check_options(request, ("output", *OPTIONS, "chunk", "context", "vote"))
    litert = need("ai_edge_litert.interpreter", "tflite", "a model in TFLite")
    path, name = request.path, request.name
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        refuse_pickle(path, "a TFLite file")
        raise ModelError(f"{name} is not a TFLite file (it does not begin as one)")

    def interpreter() -> Any:
        made = litert.Interpreter(model_content=data, num_threads=1)
        made.allocate_tensors()
        return made

    try:
        with _without_chatter():
            first = interpreter()
        inputs, outputs = first.get_input_details(), first.get_output_details()
    except Exception as error:
        raise ModelError(f"{name} cannot be run by LiteRT: {first_line(error)}") from error
    if len(inputs) != 1:
        raise ModelError(
            f"{name} has {len(inputs)} inputs ({', '.join(i['name'] for i in inputs)}), one is supported: wrap it in a "
            "Python function and use `python`"
        )
    number = request.options.get("output", 0)
    if not isinstance(number, int) or not 0 <= number < len(outputs):
        raise ConfigError(f"model: {name} has outputs 0 … {len(outputs) - 1}, got output {number!r}")
    source, target = inputs[0], outputs[number]
    dtype = np.dtype(source["dtype"])
    into: Affine | None = affine("input", dtype, _found(source), request.options, name)
    out_of: Affine | None = affine("output", np.dtype(target["dtype"]), _found(target), request.options, name)
    dims = [int(n) for n in source["shape"]]
    free = [int(n) for n in source.get("shape_signature", dims)]
    bare = len(dims) == 1
    stateful = _has_state(first)
    flow = stream_of(request.options, len(dims) - 1)
    local = threading.local()

    def run(x: Tensor) -> Tensor:
        if stateful or flow is not None:
            mine = interpreter()
            return flow.run(x, {}, lambda part, state: (once(mine, part), state)) if flow else once(mine, x)
        local.interpreter = getattr(local, "interpreter", None) or interpreter()
        return once(local.interpreter, x)

    def once(mine: Any, x: Tensor) -> Tensor:
        array = x.detach().cpu().numpy()
        array = into.quantise(array) if into else array.astype(dtype, copy=False)
        array = array[0] if bare else array
        if tuple(array.shape) != tuple(mine.get_input_details()[0]["shape"]):
            mine.resize_tensor_input(source["index"], array.shape)
            mine.allocate_tensors()
        mine.set_tensor(source["index"], array)
        mine.invoke()
        out = mine.get_tensor(target["index"])
        out = out_of.real(out) if out_of else out
        return torch.from_numpy(np.array(out[None] if bare and out.ndim < 2 else out))

    shape = free if bare else free[1:]
    shape = [-1, *shape[1:]] if flow else shape
    facts = {
        "input": f"{source['name']} {dtype} {tuple(free)}",
        "output": ", ".join(
            f"{o['name']} {np.dtype(o['dtype'])} {tuple(map(int, o['shape']))}" for o in outputs
        ),
    }
    if into:
        facts["input quantisation"] = f"scale {into.scale:g}, zero point {into.zero_point}"
    if out_of:
        facts["output quantisation"] = f"scale {out_of.scale:g}, zero point {out_of.zero_point}"
    if stateful:
        facts["state"] = "kept in variables: begun anew with every row" + (
            "" if flow else "; `chunk` feeds a row in parts"
        )
    return Loaded(
        run,
        name,
        flow.words() if flow else "state reset for each row" if stateful else "",
        shape=tuple(n if n > 0 else None for n in shape),
        batch=1 if bare else (free[0] if free[0] > 0 else None),
        digest=file_digest(path),
        runtime=f"litert {'int8' if into or out_of else 'fp32'}",
        facts=facts,
    )


LOADER = register_loader(Loader("tflite", load_tflite, "a TFLite file, run by ai-edge-litert", (".tflite",)))
