"""What stands before every request: who may ask, and what an answer may do in the browser.

The page serves files of one user to the same user. A web site elsewhere must not read it (so other names in the
Host header are refused, which is what DNS rebinding needs, and no answer allows another origin), must not make
it work (so requests that the browser marks as coming from another site are refused), and must not send it more
than it takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")
#: Nothing is allowed; pages bring their own policy with the digests of their style and script.
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class TooLargeError(Exception):
    """A body was longer than is taken."""


class Guard:
    """ASGI middleware. hosts: names under which the page answers. limit: bytes that a body may have."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str], limit: int) -> None:
        self.app = app
        self.hosts = frozenset(h.lower() for h in (*LOOPBACK, *hosts))
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refused = self._refused(scope)
        if refused:
            await PlainTextResponse(refused[1] + "\n", refused[0])(scope, receive, _with_headers(send))
            return
        await self.app(scope, _limited(receive, self.limit), _with_headers(send))

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or host_name(hosts[0]) not in self.hosts:
            return 421, "this page does not answer to that name: open it as localhost or 127.0.0.1"
        reading = scope["method"] in ("GET", "HEAD")
        if not reading and scope["method"] != "POST":
            return 405, "GET and POST only"
        origin = headers.get("origin")
        if origin is not None and not _same(origin, hosts[0]):
            return 403, "requests of other sites are refused"
        asked_by = headers.get("sec-fetch-site", "none")
        to_a_page = (
            reading and not scope["path"].startswith("/api/") and headers.get("sec-fetch-mode") == "navigate"
        )
        if asked_by not in ("same-origin", "none") and not to_a_page:
            return 403, "requests of other sites are refused"
        length = headers.get("content-length")
        if length is not None and (not length.isascii() or not length.isdigit()):
            return 400, "the length of the body is no number"
        if length is not None and int(length) > self.limit:
            return 413, f"at most {self.limit // 2**20} MiB are taken"
        return None


def host_name(host: str) -> str:
    """Return the name in a Host header without its port, in lower case; empty where it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return ""
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return ""
    return (parts.hostname or "").rstrip(".")


def _same(origin: str, host: str) -> bool:
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _limited(receive: Receive, limit: int) -> Receive:
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > limit:
                raise TooLargeError
        return message

    return counted


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("content-security-policy", NOTHING)
            headers["x-content-type-options"] = "nosniff"
            headers["x-frame-options"] = "DENY"
            headers["referrer-policy"] = "no-referrer"
            headers["cross-origin-resource-policy"] = "same-origin"
            headers["cross-origin-opener-policy"] = "same-origin"
            headers["cache-control"] = "no-store"
        await send(message)

    return sending
