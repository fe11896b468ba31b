"""`soundcert explore` as a person calls it: served, exported, ended, refused."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from synthetic import many, write_run

pytest.importorskip("uvicorn", reason="needs the extra `serve`")


def test_it_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    write_run(tmp_path / "a", many(4))
    call = [sys.executable, "-m", "soundcert", "explore", str(tmp_path), "--port", "0", "--json"]
    # A shell's background jobs ignore the signal, and what is ignored stays so.
    unignored = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(call, preexec_fn=unignored, **pipes) as process:  # noqa: PLW1509
        assert process.stdout and process.stderr
        lines = [process.stdout.readline() for _ in range(4)]
        address = json.loads("".join(lines))["address"]
        assert address.startswith("http://127.0.0.1:")
        connection = http.client.HTTPConnection(address.split("/")[2], timeout=60)
        connection.request("GET", "/api/runs")
        answer = connection.getresponse()
        assert answer.status == 200
        assert [run["name"] for run in json.loads(answer.read())["runs"]] == ["a"]
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_port_that_is_taken_is_said(cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = cli("explore", tmp_path, "--port", taken.getsockname()[1])
    assert ran.code == 2
    assert "give another --port" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "expected a folder"), (["--port", "70000"], "--port must be"), (["--audio", "-1"], "--audio must be"),
        (["--host", "not.a.host.invalid"], "cannot listen"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_one_line(cli, tmp_path: Path, monkeypatch, arguments: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    ran = cli("explore", *arguments)
    assert ran.code == 2
    assert said in ran.err


def test_without_the_server_it_says_what_to_install(cli, tmp_path: Path, monkeypatch) -> None:
    for name in ("soundcert.explorer.server", "soundcert.explorer.guard", "uvicorn", "starlette"):
        monkeypatch.setitem(sys.modules, name, None)
    ran = cli("explore", tmp_path)
    assert ran.code == 2
    assert "pip install -c constraints.txt '.[serve]'" in ran.err


def test_the_export_needs_no_server(cli, tmp_path: Path, monkeypatch) -> None:
    write_run(tmp_path / "runs" / "a", many(4))
    for name in ("uvicorn", "starlette"):
        monkeypatch.setitem(sys.modules, name, None)
    ran = cli("explore", tmp_path / "runs", "--export", tmp_path / "site", "--json")
    assert ran.code == 0
    assert ran.json["reports"] == 1
    assert Path(ran.json["index"]).is_file()
