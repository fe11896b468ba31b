"""Run the command line in this process, and check what holds for every call."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helpers import WAVEFORM, folder_of_tones, write, write_tone_model, yaml_of
from soundcert.cli import run


@dataclass(frozen=True)
class Ran:
    """What a call of the command line left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`cli("certify", config, "--out", folder)`: run it, and hold it to one line of error without a traceback."""

    def cli(*arguments: object) -> Ran:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        if code == 2:
            assert out == "", "a call that is wrong prints nothing on stdout"
            assert err.startswith("soundcert: ")
            assert err.count("\n") == 1, f"one line on stderr, got {err!r}"
            assert err.endswith("\n")
        return Ran(code, out, err)

    return cli


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tones.safetensors`, `clips/{low,high}/*.wav` and `even.wav`, which is abstained on; not to be written to."""
    root = tmp_path_factory.mktemp("tones")
    write(root / "even.wav", write_tone_model(root / "tones.safetensors"))
    folder_of_tones(root / "clips")
    return root


@pytest.fixture
def home(tones: Path, tmp_path: Path) -> Path:
    """A folder of one's own with the weights, the clips and `kws.yaml`."""
    shutil.copytree(tones, tmp_path, dirs_exist_ok=True)
    (tmp_path / "kws.yaml").write_text(yaml_of(WAVEFORM), encoding="utf-8")
    return tmp_path
