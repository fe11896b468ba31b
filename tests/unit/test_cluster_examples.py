"""The cluster examples: a Slurm script that parses, a manifest that KubeRay takes, commands that exist."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers import mistakes
from soundcert.cli import app

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "cluster"
SLURM = (EXAMPLES / "slurm.sh").read_text(encoding="utf-8")
MANIFEST = yaml.safe_load((EXAMPLES / "kuberay.yaml").read_text(encoding="utf-8"))
SCHEMA = yaml.safe_load(Path(__file__).with_name("kuberay_rayjob.yaml").read_text(encoding="utf-8"))


def takes(command: str) -> None:
    app.parse_args(command.split()[1:], exit_on_error=False, print_error=False)


# --- Kubernetes ------------------------------------------------------------------------------------


def test_the_manifest_is_one_that_kuberay_takes() -> None:
    assert mistakes(MANIFEST, SCHEMA) == []


def _drop(path: str) -> Callable[[Any], None]:
    def change(manifest: Any) -> None:
        *way, last = (int(p) if p.isdigit() else p for p in path.split("."))
        for step in way:
            manifest = manifest[step]
        del manifest[last]

    return change


@pytest.mark.parametrize(
    "change",
    [
        _drop("apiVersion"),
        _drop("spec.entrypoint"),
        _drop("spec.rayClusterSpec.headGroupSpec"),
        _drop("spec.rayClusterSpec.workerGroupSpecs.0.groupName"),
        _drop("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers"),
        lambda m: m["spec"].update(entryPoint="a field that is none"),
        lambda m: m["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda m: m["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(replicas="4"),
    ],
)
def test_what_kuberay_would_refuse_is_noticed(change: Callable[[Any], None]) -> None:
    manifest = copy.deepcopy(MANIFEST)
    change(manifest)
    assert mistakes(manifest, SCHEMA)


def test_the_manifest_agrees_with_itself() -> None:
    cluster = MANIFEST["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    pods = [cluster["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]]
    assert pods[0]["volumes"] == pods[1]["volumes"]
    (head,), (worker,) = (pod["containers"] for pod in pods)
    assert (head["image"], head["volumeMounts"]) == (worker["image"], worker["volumeMounts"])
    cpus = workers["replicas"] * int(worker["resources"]["limits"]["cpu"])
    assert f"--workers {cpus} " in MANIFEST["spec"]["entrypoint"]
    places = {mount["mountPath"] for mount in head["volumeMounts"]}
    for path in re.findall(r" (/\S+)", MANIFEST["spec"]["entrypoint"]):
        assert any(path.startswith(place + "/") for place in places), path


def test_the_manifests_command_is_one_that_the_command_line_takes() -> None:
    takes(MANIFEST["spec"]["entrypoint"].split("||")[0])


# --- Slurm -----------------------------------------------------------------------------------------


def test_the_slurm_script_parses() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    subprocess.run([bash, "-n", str(EXAMPLES / "slurm.sh")], check=True)


def test_slurm_reads_its_options_before_the_first_command() -> None:
    lines = SLURM.splitlines()
    assert lines[0] == "#!/bin/bash"
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert options
    assert max(options) < first


def test_the_slurm_scripts_command_is_one_that_the_command_line_takes() -> None:
    command = SLURM.replace("\\\n", " ")[SLURM.replace("\\\n", " ").index('soundcert certify "$config"') :]
    for shell, value in (
        ('"$config"', "kws.yaml"),
        ('"$out"', "runs/kws"),
        ('"$address"', "node1:20001"),
        ('"$@"', "--limit 300"),
    ):
        assert shell in command
        command = command.replace(shell, value)
    takes(re.sub(r"\$\(\(.*?\)\)", "64", command))
