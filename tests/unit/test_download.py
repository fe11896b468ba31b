"""Downloads from a server on loopback that breaks in every way a server can; the network is never touched."""

from __future__ import annotations

import json
import os
import socket
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from loopback import BODY, ETAG, Server, dropped, send, status
from soundcert.data.download import Patience, check_url, download, held, partial, shown
from soundcert.errors import ConfigError, DownloadError


@pytest.fixture
def get(server: Server, tmp_path: Path):
    """`get()`: download from the server; `get.waits` are the seconds it would have slept."""
    to = tmp_path / "archive.zip"
    waits: list[float] = []

    def get(url: str | None = None, **kwargs: object) -> bytes:
        kwargs = {"limit": 10**6, "patience": Patience(attempts=3, timeout=5), **kwargs}
        download(url or server.url, to, sleep=waits.append, **kwargs)  # type: ignore[arg-type]
        assert not any(path.exists() for path in partial(to))
        return to.read_bytes()

    get.waits, get.to = waits, to  # type: ignore[attr-defined]
    return get


def refused(get, pattern: str, **kwargs: object) -> str:
    with pytest.raises(DownloadError, match=pattern) as caught:
        get(**kwargs)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not get.to.exists()
    return str(caught.value)


def test_a_file_comes_whole_and_its_progress_is_told(get, server):
    seen: list[tuple[int, int | None]] = []
    assert get(size=len(BODY), progress=lambda done, of: seen.append((done, of))) == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert server.ranges == [None]
    assert get.waits == []


def test_a_dropped_connection_is_gone_on_with(get, server):
    server.script = [dropped(100_000), dropped(0)]
    server.script[1] = status(503)
    assert get() == BODY
    assert server.ranges == [None, "bytes=100000-", "bytes=100000-"]
    assert server.asked[1][1]["if-range"] == ETAG
    assert get.waits == [1, 2]


def test_a_later_call_goes_on_where_an_earlier_one_was_killed(get, server):
    server.script = [dropped(200_000), *[status(500)] * 2]
    message = refused(get, "HTTP 500 .*3 times in a row")
    assert "200000 bytes are kept" in message
    assert held(get.to) == 200_000
    assert get() == BODY
    assert server.ranges[-1] == "bytes=200000-"


def test_everything_there_but_not_yet_named(get, server):
    part, notes = partial(get.to)
    part.write_bytes(BODY)
    notes.write_text(json.dumps({"url": server.url, "validator": ETAG, "length": len(BODY)}))
    assert get() == BODY
    assert server.asked == []


def test_a_date_serves_where_there_is_no_etag(get, server):
    date = "Wed, 11 Apr 2018 19:41:55 GMT"
    server.script = [dropped(1000, etag=None, date=date)]
    server.etag = date  # what If-Range must carry
    assert get() == BODY
    assert server.asked[1][1]["if-range"] == date


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_nothing_is_joined_without_a_strong_validator(get, server, etag):
    server.script = [dropped(1000, etag=etag)]
    assert get() == BODY
    assert server.ranges == [None, None]


def test_a_file_that_changed_meanwhile_is_fetched_anew(get, server):
    server.script = [dropped(100_000)]
    server.etag, server.body = '"two"', BODY[::-1]
    assert get() == BODY[::-1]
    assert server.ranges == [None, "bytes=100000-"]


def test_a_server_without_ranges_starts_again(get, server):
    server.script = [
        dropped(100_000),
        lambda request: send(request, 200, {"Content-Length": str(len(BODY))}, BODY),
    ]
    assert get() == BODY


@pytest.mark.parametrize(
    "header", ["bytes 0-511999/512000", "bytes 100000-511999/*", "bytes 100000-511999/9", ""]
)
def test_other_bytes_than_asked_for_are_not_joined(get, server, header):
    def wrong(request: BaseHTTPRequestHandler) -> None:
        send(request, 206, {"Content-Length": "3", "Content-Range": header}, b"bad")

    server.script = [dropped(100_000), wrong]
    assert get() == BODY
    assert server.ranges == [None, "bytes=100000-", None]


def test_a_range_that_cannot_be_satisfied_starts_again(get, server):
    server.script = [dropped(100_000), status(416)]
    assert get() == BODY
    assert server.ranges == [None, "bytes=100000-", None]


def test_another_address_starts_again(get, server):
    server.script = [dropped(1000), *[status(500)] * 2]
    refused(get, "HTTP 500")
    assert get(server.url + "?mirror") == BODY
    assert server.ranges[-1] is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 1}', '{"url": "x", "validator": 3, "length": "y"}'])
def test_broken_notes_start_again(get, server, text):
    part, notes = partial(get.to)
    part.write_bytes(b"whatever")
    notes.write_text(text)
    assert get() == BODY
    assert server.ranges == [None]


@pytest.mark.parametrize("code", [500, 502, 503, 504, 429, 408])
def test_passing_trouble_is_waited_out(get, server, code):
    server.script = [status(code), status(code)]
    assert get() == BODY
    assert get.waits == [1, 2]


def test_the_server_may_say_how_long_to_wait(get, server):
    server.script = [status(429, Retry_After="7"), status(503, Retry_After="999999")]
    assert get() == BODY
    assert get.waits == [7, 60]
    server.script = [
        status(503, Retry_After="Wed, 11 Apr 2018 19:41:55 GMT"),
        status(503, Retry_After="soon"),
    ]
    assert get() == BODY
    assert get.waits[2:] == [0, 2]


def test_tries_are_counted_afresh_when_it_comes_further(server, tmp_path):
    body = os.urandom(5 * 2**20)

    def part(request: BaseHTTPRequestHandler) -> None:
        start = int((request.headers.get("Range") or "bytes=0-")[6:-1])
        headers = {"Content-Length": str(len(body) - start), "ETag": ETAG}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        send(request, 206 if start else 200, headers, body[start : start + 2**20])
        request.wfile.flush()
        request.connection.shutdown(socket.SHUT_RDWR)

    server.script = [part] * 5
    waits: list[float] = []
    download(server.url, tmp_path / "x", limit=10**8, patience=Patience(attempts=2), sleep=waits.append)
    assert (tmp_path / "x").read_bytes() == body
    assert waits == [1] * 4


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 501])
def test_lasting_trouble_is_said_at_once(get, server, code):
    server.script = [status(code)]
    assert "--url" in refused(get, f"HTTP {code}")
    assert get.waits == []


def test_a_wrong_length_is_said_before_anything_comes(get):
    refused(get, "expected 12 bytes, but the server announces 512000", size=12)
    refused(get, "at most 1000 bytes, got 512000 announced", limit=1000)
    assert held(get.to) == 0


def test_without_a_length_the_end_is_checked_all_the_same(get, server):
    bare = [lambda request: send(request, 200, {}, BODY)]
    server.script = bare * 1
    assert get() == BODY
    get.to.unlink()
    server.script = bare * 3
    refused(get, "ended after 512000 of 600000 bytes, 3 times in a row", size=600_000)
    server.script = bare * 1
    refused(get, "expected 400000 bytes, got more", size=400_000)
    server.script = bare * 1
    refused(get, "at most 300000 bytes, got more", limit=300_000)


def test_a_page_that_is_compressed_on_the_way_is_refused(get, server):
    server.script = [lambda request: send(request, 200, {"Content-Encoding": "gzip"}, b"x")]
    refused(get, "encoded again")


def test_a_server_that_falls_silent(get, server):
    def silent(request: BaseHTTPRequestHandler) -> None:
        send(request, 200, {"Content-Length": "100"}, b"x")
        time.sleep(0.5)

    server.script = [silent, lambda _request: time.sleep(0.5)]
    refused(get, "2 times in a row", patience=Patience(attempts=2, timeout=0.2))


def test_a_server_that_speaks_no_http(get, server):
    server.script = [lambda request: request.wfile.write(b"220 welcome\r\n")] * 3
    refused(get, "cannot be reached")


def test_nobody_listens(get):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused(get, "cannot be reached", url=f"http://127.0.0.1:{port}/x")


def test_a_disk_that_cannot_be_written_to(get):
    part, _ = partial(get.to)
    part.mkdir()  # cannot be opened as a file
    refused(get, "cannot be written")


def test_redirects_are_followed_to_http_only(get, server):
    server.script = [status(302, Location=server.url + "?key=secret")]
    assert get() == BODY
    get.to.unlink()
    for place in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"):
        server.script = [status(302, Location=place)]
        refused(get, "refused to be sent on|not allowed")
    server.script = [status(302, Location=server.url)] * 50
    refused(get, "HTTP 302")


def test_https_is_not_left_for_http():
    from urllib.request import Request

    from soundcert.data.download import _Redirects

    with pytest.raises(DownloadError, match="refused"):
        _Redirects().redirect_request(Request("https://a/x"), None, 302, "", {}, "http://a/x")
    assert _Redirects().redirect_request(Request("http://a/x"), None, 302, "", {}, "https://a/x")


def test_ranges_survive_a_redirect(get, server):
    server.script = [dropped(1000), status(302, Location=server.url + "?elsewhere")]
    assert get() == BODY
    assert server.ranges == [None, "bytes=1000-", "bytes=1000-"]


def test_a_proxy_of_the_environment_is_used(get, server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.rpartition("/")[0])
    assert get("http://data.invalid/archive.zip") == BODY
    assert server.asked[-1][0] == "http://data.invalid/archive.zip"
    monkeypatch.setenv("no_proxy", "data.invalid")
    get.to.unlink()
    refused(get, "cannot be reached", url="http://data.invalid/archive.zip")


def test_secrets_of_an_address_are_not_repeated(get, server):
    server.script = [status(404)]
    assert "secret" not in refused(get, "404", url=server.url + "?key=secret")
    assert shown("https://me:secret@host/a/b?key=secret#x") == "https://host/a/b"


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://host/x", "file:///etc/passwd", "http://", "http://host:x/", "http://a b/", "http://[/"],
)
def test_addresses_that_are_none(url):
    with pytest.raises(ConfigError, match="expected an address"):
        check_url(url)


def test_a_password_does_not_belong_into_an_address():
    with pytest.raises(ConfigError, match="without a password") as caught:
        check_url("https://me:secret@host/x")
    assert "secret" not in str(caught.value)
