"""The same small tone detector in every kind of model file: energy at two frequencies of 0.1 s at 16 kHz.

score_c = Σ_j (x·W_j)²·S_jc, with W the sines and cosines of the two tones. Classes: high, low.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers import HIGH, LOW, RATE, SECONDS

SAMPLES = round(RATE * SECONDS)
LABELS = ("high", "low")


def tables() -> tuple[np.ndarray, np.ndarray]:
    t = np.arange(SAMPLES) / RATE
    waves = [f(2 * np.pi * frequency * t) for frequency in (HIGH, LOW) for f in (np.sin, np.cos)]
    w = np.stack(waves, axis=1).astype(np.float32) / np.float32(np.sqrt(SAMPLES))
    s = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    return w, s


class Detector(nn.Module):
    def __init__(self, axis: bool = False) -> None:
        super().__init__()
        w, s = tables()
        self.w, self.s, self.axis = nn.Parameter(torch.tensor(w)), nn.Parameter(torch.tensor(s)), axis

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w).square() @ self.s


PYTHON = """
import numpy as np
import torch
from foreign import Detector

net = Detector().eval()


def logits(x):
    with torch.no_grad():
        return net(x)


def gradients(x):
    return net(x)


def arrays(x):
    assert isinstance(x, np.ndarray) and x.dtype == np.float32
    return net(torch.from_numpy(x)).detach().numpy()


def numbers(x):
    return logits(x).argmax(1)


def probabilities(x):
    return logits(x).softmax(1)


def sigmoids(x):
    return logits(x).sigmoid()


def one(x):
    e = logits(x)
    return (e[:, 1:] - e[:, :1]).sigmoid()


def nan(x):
    return logits(x) * float("nan")


def dropout(x):
    return logits(torch.nn.functional.dropout(x, 0.5, training=True)) - 1


def batch_statistics(x):
    e = logits(x)
    return e - 0.5 * e.mean(0)


def silent(x):
    return torch.zeros(len(x), 2)


def sequence(x):
    return logits(x)[:, :, None].expand(-1, -1, 5)


def words(x):
    return ["high"] * len(x)


def fewer(x):
    return logits(x)[:1]


def wrong_numbers(x):
    return logits(x).argmax(1) + 7


def fails(x):
    raise KeyError("who knows")


constant = 3
"""


def write_onnx(
    path: Path,
    *,
    batch: int | str = "batch",
    axis: bool = False,
    quantised: bool = False,
    samples: int | str = SAMPLES,
    metadata: dict[str, str] | None = None,
    softmax: bool = False,
    scales: tuple[float, float] = (0.03, 1.0),
) -> Path:
    """Write the detector as ONNX by hand. axis: (batch, 1, samples). quantised: int8 in, uint8 out."""
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper as n

    w, s = tables()
    constants = [n.from_array(w, "w"), n.from_array(s, "s")]
    nodes = []
    x = "x"
    if quantised:
        constants += [
            n.from_array(np.array(scales[0], np.float32), "sx"),
            n.from_array(np.array(2, np.int8), "zx"),
            n.from_array(np.array(scales[1], np.float32), "sy"),
            n.from_array(np.array(3, np.uint8), "zy"),
        ]
        nodes.append(h.make_node("DequantizeLinear", ["x", "sx", "zx"], ["xf"]))
        x = "xf"
    if axis:
        constants.append(n.from_array(np.array([1], np.int64), "one"))
        nodes.append(h.make_node("Squeeze", [x, "one"], ["flat"]))
        x = "flat"
    nodes += [
        h.make_node("MatMul", [x, "w"], ["p"]),
        h.make_node("Mul", ["p", "p"], ["e"]),
        h.make_node("MatMul", ["e", "s"], ["z"]),
    ]
    last = "z"
    if softmax:
        nodes.append(h.make_node("Softmax", ["z"], ["soft"], axis=1))
        last = "soft"
    if quantised:
        nodes.append(h.make_node("QuantizeLinear", [last, "sy", "zy"], ["q"]))
        last = "q"
    shape = [batch, 1, samples] if axis else [batch, samples]
    graph = h.make_graph(
        nodes,
        "detector",
        [h.make_tensor_value_info("x", T.INT8 if quantised else T.FLOAT, shape)],
        [h.make_tensor_value_info(last, T.UINT8 if quantised else T.FLOAT, [batch, 2])],
        constants,
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def write_features_onnx(path: Path, shape: tuple[int | str, ...], weights: np.ndarray) -> Path:
    """A linear model on features of any layout: flattened and multiplied with `weights` (values, classes)."""
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper as n

    nodes = [h.make_node("Flatten", ["x"], ["f"], axis=1), h.make_node("MatMul", ["f", "w"], ["z"])]
    graph = h.make_graph(
        nodes,
        "linear",
        [h.make_tensor_value_info("x", T.FLOAT, ["batch", *shape])],
        [h.make_tensor_value_info("z", T.FLOAT, ["batch", weights.shape[1]])],
        [n.from_array(weights.astype(np.float32), "w")],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


DECAY = 0.7


def write_stateful_onnx(path: Path, batch: int | str = "batch") -> Path:
    """A leaky sum over chunks: h' = a·h + Σ x; output (h', −h'·gain), with gain an input that never changes."""
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper as n

    constants = [
        n.from_array(np.array([DECAY], np.float32), "a"),
        n.from_array(np.array([1], np.int64), "axis"),
    ]
    nodes = [
        h.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1),
        h.make_node("Mul", ["h", "a"], ["kept"]),
        h.make_node("Add", ["kept", "sum"], ["hn"]),
        h.make_node("Mul", ["hn", "gain"], ["scaled"]),
        h.make_node("Neg", ["scaled"], ["minus"]),
        h.make_node("Concat", ["hn", "minus"], ["y"], axis=1),
    ]
    graph = h.make_graph(
        nodes, "leaky",
        [
            h.make_tensor_value_info("x", T.FLOAT, [batch, "samples"]),
            h.make_tensor_value_info("h", T.FLOAT, [batch, 1]),
            h.make_tensor_value_info("gain", T.FLOAT, []),
        ],
        [h.make_tensor_value_info("y", T.FLOAT, [batch, 2]), h.make_tensor_value_info("hn", T.FLOAT, [batch, 1])],
        constants,
    )  # fmt: skip
    path.write_bytes(
        h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return path


def write_tflite(
    path: Path, weights: np.ndarray, scales: tuple[tuple[float, int], tuple[float, int]] | None = None
) -> Path:
    """One fully connected layer, (1, n) to (1, classes), in float32, or in int8 with (scale, zero point) in and out."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as s

    w = np.ascontiguousarray(weights.T)
    model = s.ModelT()
    model.version, model.description = 3, "test"
    op = s.OperatorCodeT()
    op.builtinCode = op.deprecatedBuiltinCode = s.BuiltinOperator.FULLY_CONNECTED
    op.version = 4 if scales else 1
    model.operatorCodes = [op]
    step = float(np.abs(w).max() / 127)
    stored = np.round(w / step).astype(np.int8) if scales else w.astype(np.float32)
    empty, held = s.BufferT(), s.BufferT()
    held.data = np.frombuffer(stored.tobytes(), np.uint8)
    model.buffers = [empty, held]

    def tensor(shape: tuple[int, ...], buffer: int, name: str, q: tuple[float, int] | None) -> Any:
        out = s.TensorT()
        out.shape, out.buffer, out.name = list(shape), buffer, name
        out.type = s.TensorType.INT8 if q else s.TensorType.FLOAT32
        if q:
            out.quantization = s.QuantizationParametersT()
            out.quantization.scale, out.quantization.zeroPoint = [q[0]], [q[1]]
        return out

    inside, outside = weights.shape
    graph = s.SubGraphT()
    graph.tensors = [
        tensor((1, inside), 0, "x", scales and scales[0]),
        tensor((outside, inside), 1, "w", scales and (step, 0)),
        tensor((1, outside), 0, "y", scales and scales[1]),
    ]
    graph.inputs, graph.outputs = [0], [2]
    layer = s.OperatorT()
    layer.opcodeIndex, layer.inputs, layer.outputs = 0, [0, 1, -1], [2]
    layer.builtinOptionsType = s.BuiltinOptions.FullyConnectedOptions
    layer.builtinOptions = s.FullyConnectedOptionsT()
    graph.operators = [layer]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
