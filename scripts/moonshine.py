"""Write Moonshine tiny's published encoder as weights for the network `moonshine`, to begin a training with.

pip download --no-deps moonshine-voice==0.0.73      # MIT; this wheel brings tiny-en/encoder_model.ort
pip install onnxruntime flatbuffers
python scripts/moonshine.py moonshine_voice-0.0.73-*.whl --out build/moonshine.safetensors

Then `train: {start: build/moonshine.safetensors}` with `model: {network: moonshine}`. The wheel's matrices are of 8 bits
with one scale each; they are written as what they stand for. The copy is compared with the wheel's model on noise: that
rounds what it multiplies to 8 bits too, which is the 5 % of its answer that the two are apart.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soundcert.models import build_network

_MODEL = "moonshine_voice/assets/tiny-en/encoder_model.ort"
_TYPES = {1: np.float32, 2: np.uint8, 3: np.int8}


def graph_of(model: bytes) -> Any:
    """The graph of a model in ONNX Runtime's own format."""
    import onnxruntime

    sys.path.insert(0, str(Path(onnxruntime.__file__).parent / "tools" / "ort_format_model"))
    from ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    return InferenceSession.GetRootAsInferenceSession(bytearray(model), 0).Model().Graph()


def tensors_of(graph: Any) -> dict[str, np.ndarray]:
    """The graph's stored tensors by name."""
    out = {}
    for i in range(graph.InitializersLength()):
        t = graph.Initializers(i)
        if t.DataType() in _TYPES:
            shape = [t.Dims(k) for k in range(t.DimsLength())]
            out[t.Name().decode()] = t.RawDataAsNumpy().view(_TYPES[t.DataType()]).reshape(shape)
    return out


def matrices_of(tensors: dict[str, np.ndarray]) -> list[torch.Tensor]:
    """The matrices that the graph multiplies by, `(outputs, inputs)`, as its exporter numbered them: by their use."""
    out = []
    stems = [name.removesuffix("_quantized") for name in tensors if name.endswith("_quantized")]
    for stem in sorted(stems, key=lambda name: int(name.rpartition("_")[2])):
        zero = tensors[f"{stem}_zero_point"].astype(np.float32)
        matrix = (tensors[f"{stem}_quantized"].astype(np.float32) - zero) * tensors[f"{stem}_scale"]
        out.append(torch.from_numpy(matrix.T.copy()))
    return out


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with zipfile.ZipFile(args.wheel) as archive:
        model = archive.read(_MODEL)
    graph = graph_of(model)
    tensors = tensors_of(graph)
    network = build_network("moonshine", 2, {"gain": 1.0}).eval()
    own = dict(network.named_parameters())
    for place, name in ((1, "conv1"), (4, "conv2"), (6, "conv3")):
        for kind in ("weight", "bias"):
            stored = tensors.get(f"{name}.{kind}", tensors.get(f"{name}.{kind}_add_tensor"))
            if stored is not None:
                own[f"{place}.{kind}"].data = torch.from_numpy(stored.copy())
    for kind, name in (("weight", "onnx::Mul_2080"), ("bias", "onnx::Add_2081")):
        own[f"3.{kind}"].data = torch.from_numpy(tensors[name].ravel().copy())
    own["15.weight"].data = torch.from_numpy(tensors["layer_norm.weight"].copy())
    matrices = iter(matrices_of(tensors))
    for i in range(6):
        for norm, theirs in (("before", "input"), ("between", "post_attention")):
            stored = tensors[f"layers.{i}.{theirs}_layernorm.weight"]
            own[f"{9 + i}.{norm}.weight"].data = torch.from_numpy(stored.copy())
        for part in (
            "attention.query",
            "attention.key",
            "attention.value",
            "attention.out",
            "wide.0",
            "wide.2",
        ):
            own[f"{9 + i}.{part}.weight"].data = next(matrices)
        for part, theirs in (("wide.0", "fc1"), ("wide.2", "fc2")):
            own[f"{9 + i}.{part}.bias"].data = torch.from_numpy(
                tensors[f"layers.{i}.mlp.{theirs}.bias"].copy()
            )

    import onnxruntime

    seen = (0.1 * np.random.default_rng(0).standard_normal((1, 16000))).astype(np.float32)
    session = onnxruntime.InferenceSession(model)
    (expected,) = session.run(
        None, {"input_values": seen, "attention_mask": np.ones((1, 16000), dtype=np.int64)}
    )
    with torch.inference_mode():
        got = network[:-3](torch.from_numpy(seen)).numpy()
    apart = float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
    if apart > 0.1:
        raise SystemExit(f"the copy differs from the wheel's model by {apart:.2g} of its norm")

    from safetensors.torch import save_file

    state = {k: v.contiguous() for k, v in network.state_dict().items() if not k.startswith("18.")}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, args.out, metadata={"source": f"{args.wheel.name}, Moonshine tiny-en, MIT"})
    print(f"{args.out}: {sum(v.numel() for v in state.values())} parameters, the wheel's within {apart:.1g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
