"""The reference networks that need more than a glance at their shapes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from soundcert.errors import ConfigError
from soundcert.models import build_network

SCRIPT = Path(__file__).parents[2] / "scripts" / "speech_embedding.py"


@pytest.mark.parametrize("frames", [76, 77, 98, 101, 300])
def test_the_speech_embedding_takes_any_length_from_three_quarters_of_a_second(frames):
    network = build_network("speech_embedding", 7, {"frames": frames}).eval()
    assert network(torch.zeros(2, 32, frames)).shape == (2, 7)


def test_the_speech_embedding_refuses_what_is_too_short():
    with pytest.raises(ConfigError, match="cannot be built"):
        build_network("speech_embedding", 7, {"frames": 60})


def test_the_written_speech_embedding_is_the_published_model(tmp_path):
    """On features as real ones are: both sides of its two bends, in every layer."""
    pytest.importorskip("pyopen_wakeword", reason="needs pyopen-wakeword")
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
    out = tmp_path / "embedding.safetensors"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "equal to the wheel's" in done.stdout

    import pyopen_wakeword

    file = Path(str(pyopen_wakeword.__file__)).parent / "models" / "embedding_model.tflite"
    model = interpreter.Interpreter(str(file))
    model.allocate_tensors()
    network = build_network("speech_embedding", 2, {"frames": 76, "offset": 0.0}).eval()
    network.load_state_dict(load_file(out), strict=False)
    rng = np.random.default_rng(5)
    for level in (0.0, 3.0, 8.0):
        bels = rng.normal(level, 1.5, (32, 76)).astype(np.float32)
        model.set_tensor(model.get_input_details()[0]["index"], bels.T[None, :, :, None].copy())
        model.invoke()
        expected = model.get_tensor(model.get_output_details()[0]["index"]).ravel()
        with torch.inference_mode():
            got = network[:-4](torch.from_numpy(bels * np.log(10))[None].float()).ravel().numpy()
        assert np.abs(10 * got - expected).max() <= 1e-4 * np.abs(expected).max()
