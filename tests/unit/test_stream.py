"""ONNX models with a state: fed in chunks, the state reset for every row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import soundcert as sc
from foreign import DECAY, write_stateful_onnx
from helpers import RATE
from soundcert.classifier import BaseClassifier
from soundcert.errors import ConfigError, ModelError
from soundcert.randomness import NoiseKey
from soundcert.stages import Model

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

CHUNK, CONTEXT = 8, 3


def by_hand(row: np.ndarray, vote: str) -> np.ndarray:
    padded = np.concatenate([np.zeros(CONTEXT), row, np.zeros(-len(row) % CHUNK)])
    state, answers = 0.0, []
    for at in range(0, len(padded) - CONTEXT, CHUNK):
        state = DECAY * state + padded[at : at + CONTEXT + CHUNK].sum()
        answers.append([state, -2 * state])
    return {"any": np.max, "mean": np.mean, "last": lambda a, _: np.array(a)[-1]}[vote](answers, 0)


STREAM = {"state": {"h": "hn"}, "constants": {"gain": 2.0}, "chunk": CHUNK, "context": CONTEXT}


@pytest.mark.parametrize("vote", ["any", "mean", "last"])
@pytest.mark.parametrize("batch", ["batch", 1])
@pytest.mark.parametrize("samples", [5, 8, 50])
def test_every_row_begins_anew(tmp_path, vote, batch, samples) -> None:
    stage = Model(onnx=str(write_stateful_onnx(tmp_path / "m.onnx", batch)), options={**STREAM, "vote": vote})
    x = torch.randn(3, samples, generator=torch.Generator().manual_seed(0))
    expected = np.stack([by_hand(row.numpy().astype(float), vote) for row in x])
    for _ in range(2):
        assert np.allclose(stage(x).numpy(), expected, atol=1e-5)
    assert np.allclose(stage(x[1:2]).numpy(), expected[1:2], atol=1e-5)


def test_the_contract_says_how_it_is_fed_and_the_check_of_rows_passes(tmp_path) -> None:
    stage = Model(onnx=str(write_stateful_onnx(tmp_path / "m.onnx")), options=STREAM)
    pipe = sc.Pipeline([sc.stages.GaussianNoise(0.1), stage])
    clip = sc.Clip.from_array(np.linspace(-0.1, 0.3, 77), RATE)
    cert = sc.certify(pipe, clip, n0=10, n=100)
    assert (cert.label, cert.count) == ("0", 100)
    assert cert.contract.model == (
        "model(onnx m.onnx, in chunks of 8 samples after 3 of context, state reset for each clip, largest over the chunks)"
    )
    base = BaseClassifier(pipe.route(clip.space))
    base.check_rows(pipe.object_of(clip).float(), NoiseKey(0, "probe", clip.digest))


def test_a_state_that_is_kept_between_passes_is_found_out() -> None:
    kept = torch.zeros(1)

    def remembers(x: torch.Tensor) -> torch.Tensor:
        kept.add_(x.sum())
        return torch.cat([x[:, :1], x[:, 1:2] + kept], dim=1)

    pipe = sc.Pipeline([sc.stages.GaussianNoise(0.1), remembers])
    with pytest.raises(ModelError, match="changes when the same batch is run twice"):
        sc.certify(pipe, sc.Clip.from_array(np.linspace(0, 1, 20), RATE), n0=5, n=20)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {},
            r"has 3 inputs \(x, h, gain\).*\{state: \{h: hn\}, constants: \{gain: NUMBER\}, chunk: SAMPLES\}",
        ),
        ({"state": {"h": "hn"}, "chunk": 8}, r"has 2 inputs \(x, gain\)"),
        ({**STREAM, "state": {"x": "hn", "h": "hn"}}, "one takes the sound"),
        ({**STREAM, "state": {"g": "hn"}}, r"no input 'g'"),
        ({**STREAM, "state": {"h": "hm"}}, r"no output 'hm'"),
        ({**STREAM, "state": ["h"]}, "state must be a table"),
        ({**STREAM, "constants": {"gain": "two"}}, "constants must be a table"),
        ({**STREAM, "chunk": 0}, "a stream needs `chunk`"),
        ({**STREAM, "chunk": True}, "a stream needs `chunk`"),
        ({"state": {"h": "hn"}}, "a stream needs `chunk`"),
        ({**STREAM, "context": -1}, "context must be"),
        ({**STREAM, "vote": "lats"}, "did you mean 'last'"),
        ({**STREAM, "step": 3}, "has no option 'step'"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, options, said) -> None:
    path = write_stateful_onnx(tmp_path / "m.onnx")
    with pytest.raises((ModelError, ConfigError), match=said) as error:
        Model(onnx=str(path), options=options)
    assert "\n" not in str(error.value)


def test_features_are_no_samples(tmp_path) -> None:
    stage = Model(onnx=str(write_stateful_onnx(tmp_path / "m.onnx")), options=STREAM)
    with pytest.raises(ModelError):
        stage.space(sc.Space("log-mel", "feature", (4, 6), RATE, "nats"))
