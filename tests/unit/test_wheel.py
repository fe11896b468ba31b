"""The wheel, built and installed where nothing else of this project is, and tried from there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USED = """
import sys
from importlib.resources import files
from pathlib import Path

import soundcert as sc

home = Path(sc.__file__).parent
assert home.is_relative_to(sys.prefix), home
data = files("soundcert") / "data" / "demo"
pipe = sc.Pipeline.from_yaml(str(data / "waveform.yaml"))
clip = sc.load_clip(str(data / "yes-us-m3.flac"))
certificate = sc.certify(pipe, clip, n0=5, n=20, alpha=0.01)
assert certificate.status in ("certified", "abstained")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it from what git knows, in a copy: a build leaves files beside the source."""
    pytest.importorskip("setuptools", reason="setuptools builds the wheel")
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "src", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            (source / name).write_bytes((ROOT / name).read_bytes())
    call = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(source),
    ]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_holds_what_the_package_reads_and_nothing_else(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {n.removeprefix("soundcert/") for n in names if n.startswith("soundcert/")}
    package = ROOT / "src" / "soundcert"
    listed = subprocess.run(
        ["git", "ls-files", "."], cwd=package, capture_output=True, text=True, check=True
    ).stdout.split()
    assert sorted(set(listed) - inside) == []
    assert {n.split("/")[0] for n in names} == {
        "soundcert",
        next(n.split("/")[0] for n in names if ".dist-info" in n),
    }


def test_the_wheel_works_in_an_environment_of_its_own(wheel: Path, tmp_path: Path):
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = str(place / "bin" / "python")
    site = Path(subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True,
    ).stdout.strip())  # fmt: skip
    call = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(call, check=True)
    # What it needs is this environment's; links to a checkout that stand there do not count in a second place.
    (site / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["OMP_NUM_THREADS"] = "1"

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [python, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "used.py").write_text(USED)
    run("used.py")
    assert '"pipeline"' in run("-m", "soundcert", "schema")
    assert "certify" in run("-m", "soundcert", "--help")
    demo = site / "soundcert" / "data" / "demo"
    (tmp_path / "clips").mkdir()
    for name in ("yes-us-m3.flac", "no-gb-f2.flac"):
        (tmp_path / "clips" / name).write_bytes((demo / name).read_bytes())
    config = str(demo / "waveform.yaml")
    run(
        "-m",
        "soundcert",
        "certify",
        config,
        "--data",
        "clips",
        "--out",
        "run",
        "--n",
        "40",
        "--n0",
        "5",
        "--json",
    )
    run("-m", "soundcert", "report", "run")
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000
