"""examples/plugin: installed with pip into a folder of its own, and used from the command line by its words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import HIGH, LOW, RATE, tone, write
from soundcert.data import registry
from soundcert.models.loaders import base as loaders
from soundcert.stages import base as stages

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip installs it; the source stays as it is."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 builds the package")
    work = tmp_path_factory.mktemp("plugin")
    shutil.copytree(
        EXAMPLE, work / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--quiet",
               "--target", work / "site", work / "source"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)
    return work / "site"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for i in range(2):
        write(tmp_path / "recordings" / f"low-{i}.wav", tone(LOW, i))
        write(tmp_path / "recordings" / f"high-{i}.wav", tone(HIGH, i))
    t = np.arange(1600) / RATE
    waves = np.stack([np.sin(2 * np.pi * f * t) for f in (HIGH, LOW)])
    with (tmp_path / "tones.templates").open("wb") as file:
        np.savez(file, templates=waves, labels=np.array(["high", "low"]), rate=RATE)
    shutil.copy(EXAMPLE / "tones.yaml", tmp_path)
    return tmp_path


@pytest.fixture
def plugged(site: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the installed package one of this process, and forget it afterwards."""
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(site))
    for module in (stages, loaders, registry):
        monkeypatch.setattr(module, "_REGISTRY", dict(module._REGISTRY))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "soundcert_example"]:
        del sys.modules[name]


def test_its_words_are_words_of_a_config(site, home) -> None:
    """In a process of its own, as a user calls it."""
    path = os.pathsep.join([str(ROOT / "src"), str(site)])
    command = [
        sys.executable,
        "-m",
        "soundcert",
        "certify",
        "tones.yaml",
        "--out",
        "run",
        "--report-in",
        "file",
        "--json",
    ]
    ran = subprocess.run(
        command, cwd=home, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["smoothed_accuracy"] == 1.0
    facts = json.loads((home / "run" / "run.json").read_text())
    contract = facts["contract"]
    assert contract["pre_noise"][-1] == "soft_limit(ceiling=0.5)"
    assert contract["model"] == "model(templates tones.templates)"
    assert contract["engine"] == "templates, torch fp32"
    assert "squashed to within ±0.5" in facts["statement"]
    rows = [json.loads(line) for line in (home / "run" / "certificates.jsonl").read_text().splitlines()]
    assert [r["clip"] for r in rows] == ["high-0.wav", "high-1.wav", "low-0.wav", "low-1.wav"]
    assert all(r["spaces"]["file"]["proven"] for r in rows), "its own proof carries radii"


@pytest.mark.usefixtures("plugged")
def test_inspect_and_data_know_it(cli, home) -> None:
    found = cli("inspect", "tones.templates", "--data", "recordings", "--out", "mine.yaml", "--json").json
    assert (found["kind"], found["labels"], found["rate"], found["samples"]) == (
        "templates",
        ["high", "low"],
        RATE,
        1600,
    )
    assert "templates: tones.templates" in (home / "mine.yaml").read_text()
    assert "named_files" in [source["name"] for source in cli("data", "--json").json]


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("ceiling: 0.5", "ceiling: -1"), "soft_limit: ceiling must be positive, got -1"),
        (("ceiling", "ceilling"), "did you mean 'ceiling'"),
        (("tones.templates", "tones.yaml"), "tones.yaml is not a file of templates"),
        (("named_files", "named_file"), "did you mean 'named_files'"),
        (("seconds: 0.1", "seconds: 0.2"), "put `fit: {samples: 1600}` above it"),
    ],
)
def test_its_mistakes_are_one_line_like_all_others(cli, home, change, said) -> None:
    (home / "tones.yaml").write_text((home / "tones.yaml").read_text().replace(*change))
    ran = cli("certify", "tones.yaml", "--out", "run")
    assert ran.code == 2
    assert said in ran.err
    assert not (home / "run").exists()


def test_without_the_package_its_words_are_unknown(cli, home) -> None:
    ran = cli("audit", home / "tones.yaml")
    assert ran.code == 2
    assert "expected a known source, got 'named_files'" in ran.err
