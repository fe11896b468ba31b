"""ONNX files, run by onnxruntime on the CPU: `{onnx: file.onnx}` (extra `onnx`)."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soundcert.errors import ConfigError, ModelError, did_you_mean
from soundcert.models.loaders import stream
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
from soundcert.models.loaders.quantised import OPTIONS, affine

TYPES = {"float": "float32", "float16": "float16", "double": "float64"}
LABEL_KEYS = ("labels", "classes", "class_names", "names", "id2label")
RATE_KEYS = ("sample_rate", "sampling_rate", "samplerate", "rate")


def load_onnx(request: Request) -> Loaded:
    """Load an ONNX file. Its quantisation is read from the graph's first and last nodes.

    It has one input, or others that `stream` describes: a state that goes from chunk to chunk, constants.
    """
    check_options(request, ("output", *OPTIONS, *stream.OPTIONS))
    ort = need("onnxruntime", "onnx", "a model in ONNX")
    onnx = need("onnx", "onnx", "a model in ONNX")
    path, name = request.path, request.name
    refuse_pickle(path, "an ONNX file")
    try:
        model = onnx.load(str(path), load_external_data=False)
        graph = model.graph
    except Exception as error:
        raise ModelError(f"{name} is not an ONNX file, or damaged: {first_line(error)}") from error
    beside = _external(model, path)
    if hasattr(ort, "disable_telemetry_events"):
        ort.disable_telemetry_events()  # on by default on Windows
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{name} cannot be run by onnxruntime: {first_line(error)}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    known = [o.name for o in outputs]
    flow = stream.stream_of(request.options, len(inputs[0].shape) - 1)
    source, others = _signal(inputs, outputs, flow, name)
    wanted = request.options.get("output", known[0])
    if wanted not in known:
        raise ConfigError(f"model: {name} has no output {wanted!r}{did_you_mean(str(wanted), known)}")
    target = outputs[known.index(wanted)]
    into = affine("input", _dtype(source.type, name), _scale(graph, source.name, "in"), request.options, name)
    out_of = affine(
        "output", _dtype(target.type, name), _scale(graph, target.name, "out"), request.options, name
    )
    dtype = _dtype(source.type, name)
    dims = [n if isinstance(n, int) and n > 0 else None for n in source.shape]
    bare = len(dims) == 1  # no batch: one row of samples

    def start(batch: int) -> stream.State:
        assert flow is not None
        return {
            other.name: np.full(
                [n if isinstance(n, int) and n > 0 else batch for n in other.shape],
                flow.constants.get(other.name, 0),
                _dtype(other.type, name),
            )
            for other in others
        }

    def step(x: Tensor, state: stream.State) -> tuple[Tensor, stream.State]:
        assert flow is not None
        array = x.detach().cpu().numpy()
        array = into.quantise(array) if into else array.astype(dtype, copy=False)
        out, *after = session.run([wanted, *flow.state.values()], {source.name: array, **state})
        out = out_of.real(out) if out_of else out
        answer = torch.from_numpy(np.array(out)).float()
        return answer, {**state, **dict(zip(flow.state, after, strict=True))}

    def run(x: Tensor) -> Tensor:
        if flow is not None:
            return flow.run(x, start(len(x)), step)
        array = x.detach().cpu().numpy()
        array = into.quantise(array) if into else array.astype(dtype, copy=False)
        (out,) = session.run([wanted], {source.name: array[0] if bare else array})
        out = out_of.real(out) if out_of else out
        return torch.from_numpy(np.array(out[None] if bare and out.ndim < 2 else out))

    meta = dict(session.get_modelmeta().custom_metadata_map)
    eight = any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") or "Integer" in node.op_type
                for node in graph.node)  # fmt: skip
    facts = {
        "input": f"{source.name} {source.type} {_words(source.shape)}",
        "output": ", ".join(f"{o.name} {o.type} {_words(o.shape)}" for o in outputs),
    }
    if into:
        facts["input quantisation"] = f"scale {into.scale:g}, zero point {into.zero_point}"
    if out_of:
        facts["output quantisation"] = f"scale {out_of.scale:g}, zero point {out_of.zero_point}"
    if any(node.op_type == "DynamicQuantizeLinear" for node in graph.node):
        facts["dynamic quantisation"] = "scales come from the whole batch: rows may influence each other"
    shape = tuple(dims) if bare else tuple(dims[1:]) if dims else None
    return Loaded(
        run,
        name,
        flow.words() if flow else "",
        shape=(None, *shape[1:]) if flow and shape else shape,
        batch=1 if bare else dims[0] if dims else None,
        digest=file_digest(path, *beside),
        runtime=f"onnxruntime {'int8' if eight else 'fp32'}",
        labels=_labels(meta),
        rate=next((int(meta[k]) for k in RATE_KEYS if meta.get(k, "").isdigit()), None),
        facts=facts,
    )


def _signal(
    inputs: list[Any], outputs: list[Any], flow: stream.Stream | None, name: str
) -> tuple[Any, list[Any]]:
    """Return the input that takes the sound, and the others, which a stream has to name."""
    named = {*flow.state, *flow.constants} if flow else set()
    known = [i.name for i in inputs]
    for one in sorted(named):
        if one not in known:
            raise ConfigError(f"model: {name} has no input {one!r}{did_you_mean(one, known)}")
    results = [o.name for o in outputs]
    for after in flow.state.values() if flow else ():
        if after not in results:
            raise ConfigError(f"model: {name} has no output {after!r}{did_you_mean(after, results)}")
    rest = [i for i in inputs if i.name not in named]
    if len(rest) == 1:
        return rest[0], [i for i in inputs if i.name in named]
    if not rest:
        raise ConfigError(
            f"model: all inputs of {name} are said to be state or constants: one takes the sound"
        )
    raise ModelError(
        f"{name} has {len(rest)} inputs ({', '.join(i.name for i in rest)}) and one takes the sound. If it has a state, "
        f"name each with the output that is its next value, as `options: {_guess(rest[1:], results[1:])}`; else wrap it "
        "in a Python function and use `python`"
    )


def _guess(others: list[Any], results: list[str]) -> str:
    """Return the options of a stream as the names of a file suggest them."""
    state = {
        i.name: (get_close_matches(i.name, results, 1, 0.0) or ["OUTPUT"])[0]
        for i in others
        if len(i.shape) > 1
    }
    constants = [i.name for i in others if i.name not in state]
    parts = [
        ", ".join(f"{a}: {b}" for a, b in state.items()).join(("state: {", "}")) if state else "",
        ", ".join(f"{a}: NUMBER" for a in constants).join(("constants: {", "}")) if constants else "",
        "chunk: SAMPLES",
    ]
    return "{" + ", ".join(part for part in parts if part) + "}"


def _dtype(kind: str, name: str) -> np.dtype[Any]:
    inner = kind.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype(TYPES.get(inner, inner))
    except TypeError:
        raise ModelError(f"the model {name} has values of type {kind}, which are no numbers") from None


def _words(shape: list[Any]) -> str:
    return "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"


def _messages(message: Any) -> Iterator[Any]:
    """Yield a protobuf message and every message inside it: tensors also stand in nodes, subgraphs and functions."""
    waiting = [message]
    while waiting:
        here = waiting.pop()
        yield here
        for descriptor, value in here.ListFields():
            if descriptor.message_type is not None:
                waiting += [value] if hasattr(value, "ListFields") else list(value)


def _external(model: Any, path: Path) -> list[Path]:
    """Return the files that hold weights beside the graph; they belong to the digest."""
    folder = path.resolve().parent
    places = set()
    for message in _messages(model):
        if message.DESCRIPTOR.name == "TensorProto":
            places |= {entry.value for entry in message.external_data if entry.key == "location"}
    out = []
    for place in sorted(places):
        try:
            file = (folder / place).resolve()
        except (OSError, ValueError, RuntimeError):  # a NUL in it, a loop of links
            file = Path()
        if not file.is_relative_to(folder):
            raise ModelError(f"{path.name} asks for weights outside its own folder ({place!r}): refused")
        if not file.is_file():
            raise ModelError(f"{path.name} keeps weights in {place!r}, which is not beside it")
        out.append(file)
    return out


def _scale(graph: Any, name: str, side: str) -> tuple[float, int] | None:
    """Return scale and zero point of the node that reads an integer input, or that writes an output."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        inside = side == "in" and node.op_type == "DequantizeLinear" and node.input[0] == name
        outside = side == "out" and node.op_type == "QuantizeLinear" and node.output[0] == name
        if (inside or outside) and node.input[1] in constants:
            scale = numpy_helper.to_array(constants[node.input[1]])
            zero = 0
            if len(node.input) > 2 and node.input[2] in constants:
                zero = int(numpy_helper.to_array(constants[node.input[2]]).reshape(-1)[0])
            if scale.size == 1:
                return float(scale.reshape(-1)[0]), zero
    return None


def _labels(meta: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return label names from the file's own notes: JSON or Python's own notation, or separated by commas."""
    text = next((meta[key] for key in LABEL_KEYS if meta.get(key)), None)
    if text is None:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict):
            try:
                value = [value[key] for key in sorted(value, key=int)]
            except (TypeError, ValueError):
                return None
        return tuple(str(v) for v in value) if isinstance(value, list | tuple) and value else None
    return tuple(part.strip() for part in text.split(",")) if "," in text else None


LOADER = register_loader(Loader("onnx", load_onnx, "an ONNX file, run by onnxruntime", (".onnx", ".ort")))
