"""Models with a state from PyPI wheels, as functions of whole clips: the state is reset for each.

Each function maps float32 arrays `(batch, samples)` at 16 kHz, full scale 1, to the probability of an event
`(batch, 1)`: the largest that the wheel's own streaming code gives while the clip is played to it. What is certified
is the answer of this code as a whole, its conversion to 16 bits included.

The wheels (11, 2 and 7 MB) bring their weights: pip install silero-vad pymicro-wakeword pyopen-wakeword
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

RATE = 16_000


def speech(x: np.ndarray) -> np.ndarray:
    """silero-vad as TorchScript: speech in any chunk of 512 samples. Its own `audio_forward` resets the state."""
    import torch

    with torch.inference_mode():
        chances = _silero().audio_forward(torch.from_numpy(x), RATE)
    return chances.amax(dim=1, keepdim=True).numpy()


@cache
def _silero() -> Any:
    from silero_vad import load_silero_vad

    return load_silero_vad()


def alexa_micro(x: np.ndarray) -> np.ndarray:
    """pymicro-wakeword's "Alexa": TFLite in int8 with the state inside; reset loads it anew."""
    detector, features = _micro()
    out = []
    for row in x:
        detector.reset()
        features.reset()
        chances = (detector.process_streaming_prob(frame) for frame in features.process_streaming(_pcm(row)))
        out.append(max(chances, default=0.0))
    return np.array(out, np.float32)[:, None]


@cache
def _micro() -> tuple[Any, Any]:
    from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

    return MicroWakeWord.from_builtin(Model.ALEXA), MicroWakeWordFeatures()


def alexa_open(x: np.ndarray) -> np.ndarray:
    """pyopen-wakeword's "Alexa": three TFLite models behind buffers that begin with eight seconds of silence.

    These are heard once, and every row begins with the buffers as they are after them.
    """
    detector, features, silence = _open()
    out = []
    for row in x:
        for thing, state in zip((detector, features), silence, strict=True):
            vars(thing).update({name: np.copy(value) if isinstance(value, np.ndarray) else value
                                for name, value in state.items()})  # fmt: skip
        out.append(max(_heard(detector, features, _pcm(row)), default=0.0))
    return np.array(out, np.float32)[:, None]


@cache
def _open() -> tuple[Any, Any, tuple[dict[str, Any], ...]]:
    from pyopen_wakeword import Model, OpenWakeWord, OpenWakeWordFeatures

    detector, features = OpenWakeWord.from_builtin(Model.ALEXA), OpenWakeWordFeatures.from_builtin()
    for _ in _heard(detector, features, bytes(2 * 1280)):
        pass
    buffers = ("embeddings", "new_embeddings"), ("audio", "new_audio_samples", "mels", "new_mels")
    kept = tuple(
        {name: np.copy(vars(thing)[name]) if isinstance(vars(thing)[name], np.ndarray) else vars(thing)[name]
         for name in names}
        for thing, names in zip((detector, features), buffers, strict=True)
    )  # fmt: skip
    return detector, features, kept


def _heard(detector: Any, features: Any, sound: bytes) -> Iterator[float]:
    """Yield the chance after each step of 80 ms."""
    for at in range(0, len(sound), 2 * 1280):
        for embedding in features.process_streaming(sound[at : at + 2 * 1280]):
            yield from detector.process_streaming(embedding)


def _pcm(row: np.ndarray) -> bytes:
    return np.clip(np.round(row * 2.0**15), -(2**15), 2**15 - 1).astype("<i2").tobytes()
