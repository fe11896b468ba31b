"""A server on loopback for the tests of downloads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loopback import Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, and no proxy of this machine between it and us."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serving() as server:
        yield server
