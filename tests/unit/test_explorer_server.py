"""What the explorer's server answers, and what it refuses: other hosts, other sites, other paths, other bodies."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("uvicorn", reason="needs the extra `serve`")

from serving import Served, serving
from soundcert.explorer.clips import KEPT, MOST_BYTES
from synthetic import HOSTILE, many, record, write_run

PAGES = ("/", "/compare", "/build", "/audit")


def wav(seconds: float = 0.5, rate: int = 16_000, channels: int = 1) -> bytes:
    out = io.BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels))
    soundfile.write(out, samples, rate, format="WAV", subtype="PCM_16")
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outside = tmp_path_factory.mktemp("outside")
    write_run(outside / "secret", [record("SECRET-CLIP", 990)])
    (outside / "passwd").write_text('{"clip": "SECRET-LINE", "status": "failed", "reason": "x"}\n')
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "a", many(20))
    write_run(folder / "b", many(20))
    rows = [record(n, 1000 if i % 2 else 700, label=n, truth=n) for i, n in enumerate(HOSTILE)]
    write_run(folder / "<img src=x onerror=alert(1)>" / '"q" \' & \n\u202eline', rows, tail=b'{"clip": "to')
    write_run(folder / "newer", many(5), format=99)
    write_run(folder / "empty", [])
    (folder / "empty" / "certificates.jsonl").unlink()
    (folder / "torn").mkdir()
    (folder / "torn" / "run.json").write_text('{"format": 1,')
    write_run(folder / "strange", many(3), contract=[1, 2], config="x", clips="many", folder=7)
    (folder / "linked").symlink_to(outside / "secret")
    write_run(folder / "records-linked", many(3))
    (folder / "records-linked" / "certificates.jsonl").unlink()
    (folder / "records-linked" / "certificates.jsonl").symlink_to(outside / "passwd")
    write_run(folder / "attacks-linked", many(3))
    (folder / "attacks-linked" / "attacks.jsonl").symlink_to(outside / "passwd")
    write_run(folder / "pipe", many(3))
    (folder / "pipe" / "certificates.jsonl").unlink()
    os.mkfifo(folder / "pipe" / "certificates.jsonl")
    huge = {"source": "folder", "root": "clips"}
    stages = ["mono", {"fit": {"seconds": 5000}}, {"gaussian_noise": {"sigma": 0.1}}]
    write_run(folder / "huge", many(2), config={"data": huge, "pipeline": stages}, folder=str(folder))
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with serving(folder) as server:
        yield server


def cards(served: Served) -> dict[str, dict[str, object]]:
    return {c["name"]: c for c in served.ask("/api/runs").json["runs"]}


# --- pages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PAGES, "/api/runs"])
def test_every_answer_forbids_what_it_does_not_need(served: Served, path: str) -> None:
    answer = served.ask(path)
    assert answer.code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_page_names_nothing_that_is_elsewhere(served: Served) -> None:
    for path in PAGES:
        text = served.ask(path).text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "//cdn" not in text


def test_runs_that_are_torn_newer_or_strange_open_with_a_warning(served: Served) -> None:
    found = cards(served)
    assert found["a"]["warnings"] == []
    assert found["a"]["accuracy"]
    assert any("format 99" in w for w in found["newer"]["warnings"])
    assert any("certificates.jsonl is missing" in w for w in found["empty"]["warnings"])
    assert not found["torn"]["readable"] and "not JSON" in found["torn"]["warnings"][0]
    assert found["strange"]["readable"] and found["strange"]["warnings"]
    hostile = next(c for n, c in found.items() if n.startswith("<img"))
    assert any("torn" in w for w in hostile["warnings"])
    assert "\u202e" not in json.dumps(hostile, ensure_ascii=False)
    for name in ("a", "newer", "empty", "strange"):
        report = served.ask(f"/runs/{found[name]['id']}")
        assert report.code == 200
        assert ("Read this first" in report.text) == (name != "a")


def test_a_report_is_made_when_asked_for_and_leads_back(served: Served, folder: Path) -> None:
    key = cards(served)["a"]["id"]
    report = served.ask(f"/runs/{key}")
    assert 'href="/"' in report.text
    assert "script-src 'sha256-" in report.headers["content-security-policy"]
    with (folder / "a" / "certificates.jsonl").open("a") as file:
        file.write(json.dumps(record("LATE-CLIP", 990)) + "\n")
    assert "LATE-CLIP" not in report.text
    assert "LATE-CLIP" in served.ask(f"/runs/{key}").text


def test_nothing_below_the_folder_is_written(tmp_path: Path) -> None:
    write_run(tmp_path / "a", many(6))
    write_run(tmp_path / "b", many(6))

    def held() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in tmp_path.rglob("*")}

    before = held()
    with serving(tmp_path) as served:
        keys = [c["id"] for c in served.ask("/api/runs").json["runs"]]
        for path in (*PAGES, f"/runs/{keys[0]}"):
            assert served.ask(path).code == 200
        assert served.ask("/api/compare", [("run", k) for k in keys]).code == 200
    assert held() == before


# --- who may ask -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("localhost", 200), ("LOCALHOST:99", 200), ("127.0.0.1:8765", 200), ("[::1]:8765", 200), ("localhost.", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.nip.io", 421), ("evil.example:8765", 421),
        ("user@localhost", 421), ("localhost@evil.example", 421), ("localhost/..", 421), ("localhost:port", 421),
        ("[::1", 421), ("0.0.0.0", 421), ("2130706433", 421), ("", 421),
    ],
)  # fmt: skip
def test_other_hosts_are_refused(served: Served, host: str, code: int) -> None:
    for path in ("/", "/api/runs", "/runs/x"):
        answer = served.ask(path, headers={"Host": host})
        assert answer.code == (404 if code == 200 and path == "/runs/x" else code)
        assert code == 200 or "a" not in answer.headers.get("set-cookie", "")


def test_a_missing_or_doubled_host_is_refused(served: Served) -> None:
    assert b"421" in served.raw(b"GET / HTTP/1.0\r\n\r\n").splitlines()[0]
    twice = served.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
    assert twice.splitlines()[0].split()[1] in (b"400", b"421")
    # The target of a proxy request does not count in place of the header.
    proxy = served.raw(b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert proxy.splitlines()[0].split()[1] == b"421"


def test_a_name_can_be_allowed(tmp_path: Path) -> None:
    with serving(tmp_path, hosts=("Box.local",)) as served:
        assert served.ask("/", headers={"Host": "box.local:80"}).code == 200
        assert served.ask("/", headers={"Host": "box.locals"}).code == 421


def test_requests_of_other_sites_are_refused(served: Served) -> None:
    sent = wav()
    own = {"Origin": served.url}
    assert served.ask("/api/clips", method="POST", body=sent, headers=own).code == 200
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://127.0.0.1:{served.port + 1}"},
        {"Origin": f"http://127.0.0.1:{served.port}.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ):
        refused = served.ask("/api/clips", method="POST", body=sent, headers=headers)
        assert refused.code == 403, headers
    for path in ("/api/runs", "/api/build", "/"):
        assert (
            served.ask(path, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}).code
            == 403
        )
    # A link from elsewhere opens the page, as any link does; it opens no data.
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert served.ask("/", headers=link).code == 200
    assert served.ask("/api/runs", headers=link).code == 403
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        answer = served.ask("/api/clips", method=method, headers=own)
        assert answer.code == 405
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert served.ask("/", method="POST", headers=own).code == 405


# --- which files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/runs/../secret", "/runs/..%2f..%2fetc%2fpasswd", "/runs/%2e%2e", "/../../etc/passwd", "/etc/passwd",
        "/runs//etc/passwd", "/runs/a", "/runs/a/certificates.jsonl", "/static/../server.py", "/runs/%00", "/runs/",
        "/runs/linked", "/runs/0000000000000000",
    ],
)  # fmt: skip
def test_paths_lead_nowhere(served: Served, path: str) -> None:
    answer = served.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.split()[1] in (b"404", b"400"), answer[:200]
    assert b"root:" not in answer and b"SECRET" not in answer


def test_links_out_of_the_folder_are_not_followed(served: Served) -> None:
    found = cards(served)
    assert "linked" not in found
    for name, said in (
        ("records-linked", "a link to a place outside"),
        ("attacks-linked", "a link to a place outside"),
        ("pipe", "not a file"),
    ):
        assert not found[name]["readable"]
        assert said in found[name]["warnings"][0]
        refused = served.ask(f"/runs/{found[name]['id']}")
        assert refused.code == 422 and "SECRET" not in refused.text
    assert "SECRET" not in served.ask("/").text


# --- what is sent ----------------------------------------------------------------------------------


def test_a_clip_is_taken_audited_and_forgotten_in_turn(served: Served) -> None:
    told = served.ask("/api/clips", {"name": HOSTILE[9]}, method="POST", body=wav(0.5)).json
    assert told["rate"] == 16_000 and told["seconds"] == "0.50"
    assert "\u202e" not in told["name"]
    found = served.ask("/api/audit", {"clip": told["clip"], "recipe": "log-mel"}).json
    assert found["kind"] == "fixed-gain waveform smoothing"
    assert found["file"]["proven"] is True
    for _ in range(KEPT):
        assert served.ask("/api/clips", method="POST", body=wav(0.05)).code == 200
    gone = served.ask("/api/audit", {"clip": told["clip"], "recipe": "log-mel"})
    assert gone.code == 422 and "drop it again" in gone.json["error"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "got nothing"),
        (b"<html>not audio</html>", "not audio"),
        (b"\x00" * 5000, "not audio"),
        (b"#!/bin/sh\nreboot\n", "not audio"),
        (wav()[:500], "truncated"),
        (wav(121.0, 8000), "at most 120 s"),
        (wav(0.01, channels=9), "at most 8 channels"),
    ],
)  # fmt: skip
def test_what_is_no_audio_is_refused(served: Served, body: bytes, said: str) -> None:
    refused = served.ask("/api/clips", {"name": "x.wav"}, method="POST", body=body)
    assert refused.code == 422
    assert said in refused.json["error"]
    assert "/tmp" not in refused.json["error"]


def test_too_much_is_refused_with_and_without_its_length(served: Served) -> None:
    head = b"POST /api/clips HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    # Said beforehand, it is refused before a byte of it is read.
    told = served.raw(head + f"Content-Length: {MOST_BYTES + 1}\r\n\r\n".encode())
    assert told.split()[1] == b"413"
    size = 2**20
    chunk = f"{size:x}\r\n".encode() + bytes(size) + b"\r\n"
    try:
        told = served.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * (MOST_BYTES // size + 1))
    except ConnectionError:
        pass  # refused while it was still being sent
    else:
        assert told.split()[1] == b"413"
    assert served.ask("/api/runs").code == 200
    assert served.ask("/api/clips", method="POST", body=wav(), headers={"Content-Length": "-5"}).code == 400


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"sigma": "nan"}, "positive"), ({"sigma": "-1"}, "positive"), ({"sigma": "1e400"}, "positive"),
        ({"sigma": "much"}, "a number"), ({"extra": "rm -rf"}, "no such change"), ({"recipe": "../x"}, "no such run"),
        ({"clip": "../../etc/passwd"}, "drop it again"),
    ],
)  # fmt: skip
def test_a_wrong_question_is_one_line(served: Served, query: dict[str, str], said: str) -> None:
    good = {"recipe": "log-mel", "clip": "yes-us-m3", "extra": "none", "sigma": "0.5"}
    assert served.ask("/api/build", good).code == 200
    refused = served.ask("/api/build", {**good, **query})
    assert refused.code in (404, 422)
    assert said in refused.json["error"]


@pytest.mark.parametrize(
    "pipeline",
    [[1, 2], [{}], ["gaussian_noise"], [{"gaussian_noise": [3]}], [{"gaussian_noise": {"sigma": "x"}}], ["mono"], "mono",
     [{"fit": {"seconds": -1}}, {"gaussian_noise": {"sigma": 0.1}}], [["mono"], {"gaussian_noise": {"sigma": 1}}],
     [{"log_mel": {"n_fft": 0}}, {"gaussian_noise": {"sigma": 1}}]],
)  # fmt: skip
def test_a_strange_pipeline_of_a_run_is_said(tmp_path: Path, pipeline: object) -> None:
    write_run(tmp_path / "a", many(2), config={"pipeline": pipeline})
    write_run(tmp_path / "b", many(2))
    with serving(tmp_path) as served:
        keys = {c["name"]: c["id"] for c in served.ask("/api/runs").json["runs"]}
        for path in ("/api/build", "/api/audit"):
            answer = served.ask(path, {"recipe": keys["a"], "clip": "yes-us-m3"})
            if answer.code == 200:
                assert not any(place["ok"] for place in answer.json["places"])
            else:
                assert answer.code == 422 and answer.json["error"]
        assert served.ask("/api/compare", [("run", k) for k in keys.values()]).code in (200, 422)
        assert served.ask(f"/runs/{keys['a']}").code == 200


def test_a_pipeline_that_would_fill_the_memory_is_refused(served: Served) -> None:
    found = served.ask("/api/build", {"recipe": cards(served)["huge"]["id"], "clip": "yes-us-m3"})
    assert found.code == 200
    assert all("values" in p["reason"] for p in found.json["places"] if not p["ok"])
    assert not any(p["ok"] for p in found.json["places"])


# --- comparisons -----------------------------------------------------------------------------------


def test_comparisons_are_the_librarys(served: Served, folder: Path) -> None:
    from soundcert.compare import compare

    found = cards(served)
    keys = [("run", found["newer"]["id"]), ("run", found["b"]["id"])]
    told = served.ask("/api/compare", keys).json
    own = compare([folder / "newer", folder / "b"])
    assert told["comparable"] == own.comparable
    assert [s["name"] for s in told["sides"]] == ["newer", "b"]
    assert [p["sentence"] for p in told["pairs"][0]["points"]] == [
        p["sentence"] for p in own.to_dict()["pairs"][0]["points"]
    ]
    in_file = served.ask("/api/compare", [*keys, ("in", "file")]).json
    assert in_file["space"] == "file" and in_file["comparable"]


@pytest.mark.parametrize(
    ("query", "code", "said"),
    [
        ([], 422, "choose 2 to 6"), ([("run", "a")], 422, "choose 2"), ([("run", "x"), ("run", "y")], 404, "no such run"),
        ([("run", "x")] * 7, 422, "choose 2 to 6"),
    ],
)  # fmt: skip
def test_comparisons_that_cannot_be(
    served: Served, query: list[tuple[str, str]], code: int, said: str
) -> None:
    refused = served.ask("/api/compare", query)
    assert refused.code == code
    assert said in refused.json["error"]


def test_a_run_is_not_compared_with_itself(served: Served) -> None:
    key = cards(served)["b"]["id"]
    refused = served.ask("/api/compare", [("run", key), ("run", key)])
    assert refused.code == 422 and "given twice" in refused.json["error"]
