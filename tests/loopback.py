"""A server on loopback that breaks in the ways that servers break; no test touches the network."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = bytes(range(256)) * 2000  # 512 000 bytes
ETAG = '"one"'


@dataclass
class Server:
    """Answers each request with the next of `script`; then with the file, ranges and all."""

    url: str = ""
    body: bytes = BODY
    etag: str | None = ETAG
    script: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append((request.path, {key.lower(): value for key, value in request.headers.items()}))
        if self.script:
            self.script.pop(0)(request)
        else:
            self.whole(request)

    def whole(self, request: BaseHTTPRequestHandler) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and request.headers.get("If-Range", self.etag) == self.etag else 0
        headers = {"Content-Length": str(len(self.body) - start)}
        if self.etag:
            headers["ETag"] = self.etag
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"
        send(request, 206 if start else 200, headers, self.body[start:])

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.asked]


def send(request: BaseHTTPRequestHandler, code: int, headers: dict[str, str], body: bytes = b"") -> None:
    request.send_response(code)
    for key, value in headers.items():
        request.send_header(key, value)
    request.end_headers()
    request.wfile.write(body)


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    lines = {key.replace("_", "-"): value for key, value in headers.items()}
    return lambda request: send(request, code, {"Content-Length": "0", **lines})


def dropped(
    after: int, etag: str | None = ETAG, date: str | None = None
) -> Callable[[BaseHTTPRequestHandler], None]:
    """The first bytes of the file, and then the connection goes."""

    def drop(request: BaseHTTPRequestHandler) -> None:
        headers = {"Content-Length": str(len(BODY))}
        headers |= {"ETag": etag} if etag else {}
        headers |= {"Last-Modified": date} if date else {}
        send(request, 200, headers, BODY[:after])
        request.wfile.flush()
        request.connection.shutdown(socket.SHUT_RDWR)

    return drop


@contextmanager
def serving() -> Iterator[Server]:
    plan = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            plan.answer(self)

        def log_message(self, *_: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    plan.url = f"http://127.0.0.1:{http.server_address[1]}/archive.zip"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield plan
    finally:
        http.shutdown()
        http.server_close()
