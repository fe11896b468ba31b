"""The explorer's real server on a free port of this machine, and bare requests to it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import uvicorn

from soundcert.explorer.server import make_app


@dataclass(frozen=True)
class Answer:
    """What came back."""

    code: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        path: str,
        query: Any = (),
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            target = f"{path}?{urlencode(query)}" if query else path
            connection.request(method, target, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def raw(self, request: bytes) -> bytes:
        """Send bytes as they are, and return what came back until the server closed or fell silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as there:
            there.sendall(request)
            out = b""
            try:
                while part := there.recv(65536):
                    out += part
                    if b"\r\n\r\n" in out:
                        there.settimeout(0.5)
            except (TimeoutError, ConnectionError):
                pass
            return out


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = uvicorn.Config(
            make_app(folder, **options), log_level="error", access_log=False, lifespan="off"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Served(taken.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(timeout=20)
