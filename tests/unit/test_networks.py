"""The reference networks that need more than a glance at their shapes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from soundcert.engines import prepare
from soundcert.errors import ConfigError
from soundcert.models import build_network
from soundcert.models.moonshine import HEADS, ROTATED, WIDTH, Attention

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


# --- Moonshine -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "layers"), [(895, 1), (16000, 2), (16001, 6)])
def test_moonshine_hears_waveforms_from_895_samples(samples, layers):
    network = build_network("moonshine", 7, {"samples": samples, "layers": layers}).eval()
    assert network(torch.randn(2, samples)).shape == (2, 7)


def test_moonshine_refuses_less_than_one_frame():
    with pytest.raises(ConfigError, match="at least 895"):
        build_network("moonshine", 7, {"samples": 894})


def test_moonshines_attention_turns_neighbours_by_their_frames_angle():
    """Against complex numbers: a pair of neighbours is one, turned by exp(i·frame·10000^(−2k/32))."""
    torch.manual_seed(0)
    attention = Attention(9).double()
    x = torch.randn(2, 9, WIDTH, dtype=torch.float64)

    def turned(part: torch.nn.Module) -> torch.Tensor:
        heads = part(x).reshape(2, 9, HEADS, -1)
        pairs = torch.view_as_complex(heads[..., :ROTATED].reshape(2, 9, HEADS, -1, 2))
        frames, speeds = torch.arange(9.0), 10000.0 ** -(torch.arange(0, ROTATED, 2) / ROTATED)
        turn = torch.exp(1j * frames[:, None].double() * speeds.double())[None, :, None]
        return torch.cat([torch.view_as_real(pairs * turn).flatten(-2), heads[..., ROTATED:]], -1)

    scores = torch.einsum("bqhd,bkhd->bhqk", turned(attention.query), turned(attention.key)) / 6  # √36
    heard = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), attention.value(x).reshape(2, 9, HEADS, -1))
    torch.testing.assert_close(attention(x), attention.out(heard.flatten(-2)), rtol=0, atol=1e-6)


def test_moonshine_refuses_another_length_and_other_layers():
    network = build_network("moonshine", 5, {"samples": 895, "layers": 1}).eval()
    with pytest.raises(ValueError, match="frames, the network was built for 1"):
        network(torch.zeros(1, 16000))
    for layers in (0, 7):
        with pytest.raises(ConfigError, match="layers must be from 1 to 6"):
            build_network("moonshine", 5, {"layers": layers})


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_every_engine_runs_moonshine(engine):
    pytest.importorskip(engine, reason=f"needs {engine}")
    torch.manual_seed(0)
    network = build_network("moonshine", 5, {"samples": 4000, "layers": 2}).eval()
    x = torch.randn(4, 4000)
    with torch.inference_mode():
        got = prepare(network, x, engine)(x.clone())
        torch.testing.assert_close(got, network(x), rtol=1e-4, atol=1e-4)
