"""Fetch one file over HTTP: retried, gone on with where it broke off, never half there.

Conventions
-----------
The finished file appears under its name only when every byte is there. Until then its bytes are in `NAME.part`
and what is known of them in `NAME.part.json` (address, validator, length): a later call goes on from there, if
the server still holds the same file (`Range` with `If-Range`), and from the start otherwise. Whether the bytes
are the right ones is for a digest to say, which is the caller's. Proxies are those of the usual environment
variables (`https_proxy`, `no_proxy`, ...), as urllib reads them.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..errors import ConfigError, DownloadError

_CHUNK = 2**18
# Coming this much further shows that the line works, and failures are counted afresh.
_PROGRESS = 2**20
# Worth another try: the server is busy or restarting.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Patience:
    """How often to try in a row without coming further, and how long to wait, in seconds."""

    attempts: int = 6
    timeout: float = 30.0
    first_wait: float = 1.0
    longest_wait: float = 60.0


class _PassingError(Exception):
    """What another attempt may not meet again."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class _State:
    """What is known of a file that is partly there."""

    url: str
    validator: str | None
    length: int | None


def download(
    url: str,
    to: Path,
    *,
    size: int | None = None,
    limit: int,
    patience: Patience | None = None,
    progress: Progress | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Fetch `url` into `to`, whose folder exists. Raises `DownloadError`, one line.

    `size` in bytes is what the file must have, where that is known; `limit` is what it may have at most.
    """
    check_url(url)
    patience = patience or Patience()
    part, notes = partial(to)
    opener = urllib.request.build_opener(_Redirects())
    failures = 0
    while True:
        before = held(to)
        try:
            _attempt(opener, url, part, notes, size, limit, patience.timeout, progress)
            break
        except _PassingError as error:
            after = held(to)
            failures = 1 if after - before >= _PROGRESS else failures + 1
            if failures >= patience.attempts:
                kept = f"; {after} bytes are kept, and the same command goes on from there" if after else ""
                raise DownloadError(
                    f"{shown(url)}: {error}, {failures} times in a row; try again later, or name another "
                    f"address with --url{kept}"
                ) from None
            wait = patience.first_wait * 2 ** (failures - 1) if error.wait is None else error.wait
            sleep(min(wait, patience.longest_wait))
    try:
        os.replace(part, to)
        notes.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(to, error) from None


def partial(to: Path) -> tuple[Path, Path]:
    """Where the bytes of an unfinished `to` are, and where what is known of them."""
    return to.with_name(to.name + ".part"), to.with_name(to.name + ".part.json")


def held(to: Path) -> int:
    """Bytes of an unfinished `to` that are there."""
    try:
        return partial(to)[0].stat().st_size
    except OSError:
        return 0


def shown(url: str) -> str:
    """The address as it may be printed and stored: a query can be a key."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ConfigError("expected an address such as https://host/file, got one that is none") from None
    if not fits or any(ord(letter) <= 32 or letter == "\x7f" for letter in url):
        raise ConfigError(f"expected an address such as https://host/file, got {shown(url)!r}")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"expected an address without a password in it, got one for {parts.hostname!r}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to HTTP only, and never from HTTPS to what anyone on the way can change."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        schemes = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in schemes:
            raise DownloadError(f"{shown(req.full_url)}: refused to be sent on to {shown(newurl)!r}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _attempt(
    opener: urllib.request.OpenerDirector,
    url: str,
    part: Path,
    notes: Path,
    size: int | None,
    limit: int,
    timeout: float,
    progress: Progress | None,
) -> None:
    """Add to `part` until the file is whole, or raise `_PassingError` with what came kept."""
    state = _read_notes(notes, url)
    try:
        start = part.stat().st_size if state else 0
    except OSError:
        start = 0
    if state and start and start == state.length:
        return
    headers = {"User-Agent": "soundcert", "Accept-Encoding": "identity"}
    if state and state.validator and start:
        headers |= {"Range": f"bytes={start}-", "If-Range": state.validator}
    else:
        # Without a validator the rest could be that of another file.
        start = 0
    with _open(opener, urllib.request.Request(url, headers=headers), timeout, part) as response:
        if response.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
            raise DownloadError(
                f"{shown(url)}: expected the file as it is, got it encoded again; use another mirror"
            )
        length = _length(response)
        if response.status == 206 and start:
            length = _check_range(response.headers.get("Content-Range", ""), start, state, part)
        elif response.status == 200:
            start = 0
        else:
            raise DownloadError(f"{shown(url)}: expected the file, got HTTP {response.status}")
        if size is not None and length is not None and length != size:
            raise DownloadError(
                f"{shown(url)}: expected {size} bytes, but the server announces {length}: this is not the "
                "file; correct the address"
            )
        if length is not None and length > limit:
            raise DownloadError(f"{shown(url)}: expected at most {limit} bytes, got {length} announced")
        try:
            with part.open("ab" if start else "wb") as file:
                _write_notes(notes, _State(url, _validator(response), length))
                done = _copy(response, file, start, length, limit, url, progress)
        except OSError as error:
            raise _cannot_write(part, error) from None
    whole = size if length is None else length
    if whole is not None and done < whole:
        raise _PassingError(f"the connection ended after {done} of {whole} bytes")
    if whole is not None and done > whole:
        part.unlink(missing_ok=True)
        raise DownloadError(f"{shown(url)}: expected {whole} bytes, got more: this is not the file")


def _copy(
    response: Any, file: Any, done: int, length: int | None, limit: int, url: str, progress: Progress | None
) -> int:
    while True:
        try:
            block = response.read(_CHUNK)
        except http.client.IncompleteRead as error:
            file.write(error.partial)
            raise _PassingError("the connection ended early") from None
        except TimeoutError:
            raise _PassingError("nothing came any more") from None
        except (OSError, http.client.HTTPException) as error:
            raise _PassingError(f"the connection broke ({_reason(error)})") from None
        if not block:
            return done
        file.write(block)
        done += len(block)
        if done > limit:
            raise DownloadError(f"{shown(url)}: expected at most {limit} bytes, got more")
        if progress:
            progress(done, length)


def _open(
    opener: urllib.request.OpenerDirector, request: urllib.request.Request, timeout: float, part: Path
) -> Any:
    where = shown(request.full_url)
    try:
        return opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            part.unlink(missing_ok=True)
            raise _PassingError("the server could not go on from what is here") from None
        if error.code in _PASSING:
            wait = _retry_after(error.headers.get("Retry-After"))
            raise _PassingError(f"HTTP {error.code} {_reason(error.reason)}", wait) from None
        raise DownloadError(
            f"{where}: HTTP {error.code} {_reason(error.reason)}; correct the address, or name another with --url"
        ) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"{where}: the server's certificate is not trusted ({error.reason.verify_message}); behind a "
                "proxy of your own, set SSL_CERT_FILE"
            ) from None
        raise _PassingError(f"cannot be reached ({_reason(error.reason)})") from None
    except TimeoutError:
        raise _PassingError("no answer") from None
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(f"cannot be reached ({_reason(error)})") from None


def _check_range(header: str, start: int, state: _State | None, part: Path) -> int:
    """The whole length that an answer to `Range` names, if it goes on exactly where we are."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", header.strip())
    known = state.length if state else None
    if match:
        first, last, length = (int(number) for number in match.groups())
        if first == start and last == length - 1 and known in (None, length):
            return length
    part.unlink(missing_ok=True)
    raise _PassingError("the server went on with other bytes than those asked for")


def _validator(response: Any) -> str | None:
    """What `If-Range` may carry: a strong ETag, or else the date."""
    etag = response.headers.get("ETag")
    if etag and etag.startswith('"'):
        return str(etag)
    date = response.headers.get("Last-Modified")
    return None if etag or not date else str(date)


def _length(response: Any) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if re.fullmatch(r"\d{1,18}", value) else None


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    if re.fullmatch(r"\d{1,6}", value.strip()):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _read_notes(notes: Path, url: str) -> _State | None:
    try:
        value = json.loads(notes.read_text(encoding="utf-8"))
        state = _State(value["url"], value["validator"], value["length"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    kinds = isinstance(state.validator, str | None) and isinstance(state.length, int | None)
    return state if state.url == url and kinds else None


def _write_notes(notes: Path, state: _State) -> None:
    fresh = notes.with_name(notes.name + ".new")
    fresh.write_text(json.dumps(vars(state)), encoding="utf-8")
    os.replace(fresh, notes)


def _cannot_write(path: Path, error: OSError) -> DownloadError:
    return DownloadError(
        f"{str(path)!r} cannot be written: {_reason(error)}; make room, or choose another --out"
    )


def _reason(error: object) -> str:
    """One printable line, whatever a server put into it."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
    return "".join(letter for letter in text if letter.isprintable()) or type(error).__name__
