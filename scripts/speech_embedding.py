"""Write Google's published speech embedding as weights for the network `speech_embedding`, to begin a training with.

pip install pyopen-wakeword ai-edge-litert      # the wheel brings embedding_model.tflite, Apache-2.0
python scripts/speech_embedding.py --out build/speech_embedding.safetensors

Then `train: {start: build/speech_embedding.safetensors}` with `model: {network: speech_embedding}`. The copy is compared
with the model in the wheel before it is written.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soundcert.models import build_network

#: The embedding's values go up to 50; divided by this, a new linear layer learns on them at once.
SCALE = 10.0


def published() -> Any:
    """The model in the wheel, ready to run."""
    from ai_edge_litert.interpreter import Interpreter

    spec = find_spec("pyopen_wakeword")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install pyopen-wakeword ai-edge-litert first")
    model = Interpreter(str(Path(spec.origin).parent / "models" / "embedding_model.tflite"))
    model.allocate_tensors()
    return model


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    model = published()
    filters = [
        [torch.from_numpy(model.get_tensor(i).copy()) for i in step["inputs"][1:]]
        for step in model._get_ops_details()
        if step["op_name"] == "CONV_2D"
    ]
    network = build_network("speech_embedding", 2, {"frames": 76}).eval()
    own = {name: part for name, part in network.named_modules() if isinstance(part, torch.nn.Conv2d)}
    state = {}
    for (name, part), (weight, bias) in zip(own.items(), filters, strict=True):
        scale = SCALE if part is network[-5] else 1.0
        state[f"{name}.weight"] = (weight.permute(0, 3, 1, 2) / scale).contiguous()
        state[f"{name}.bias"] = bias / scale
    network.load_state_dict(state, strict=False)

    seen = np.random.default_rng(0).normal(1.0, 2.0, (1, 76, 32, 1)).astype(np.float32)
    model.set_tensor(model.get_input_details()[0]["index"], seen)
    model.invoke()
    expected = model.get_tensor(model.get_output_details()[0]["index"]).ravel()
    trunk = network[1:-4]  # from what Level makes to the last convolution
    with torch.inference_mode():
        got = trunk(torch.from_numpy(seen).permute(0, 3, 1, 2)).ravel().numpy() * SCALE
    apart = float(np.abs(got - expected).max() / np.abs(expected).max())
    if apart > 1e-4:
        raise SystemExit(f"the copy differs from the wheel's model by {apart:.2g} of its largest value")

    from safetensors.torch import save_file

    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, out, metadata={"source": f"pyopen-wakeword {version('pyopen-wakeword')}, Apache-2.0"})
    print(
        f"{out}: {sum(v.numel() for v in state.values())} parameters, equal to the wheel's within {apart:.1g}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
