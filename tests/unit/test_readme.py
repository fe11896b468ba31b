"""The README's promises: its example runs, and CI runs its test command."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from soundcert.demo import demo_folder

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_five_line_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 5
    (config,) = blocks("yaml")
    (tmp_path / "kws.yaml").write_text(config)
    shutil.copy(demo_folder() / "yes-us-m3.flac", tmp_path / "yes.wav")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "certified 'yes' within radius" in printed
    assert "Not claimed:" in printed


def test_the_first_two_commands_are_set_up_and_demo_then_set_up_and_test() -> None:
    commands = blocks("")
    assert commands[0].strip().endswith("soundcert demo")
    test_command = commands[1].strip()
    assert test_command.endswith("scripts/check.py")
    assert test_command.replace("pip install", "pip install -q") in (ROOT / ".ci" / "run").read_text()
