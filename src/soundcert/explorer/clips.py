"""Clips that somebody dropped on the page: decoded, kept in memory under a random name, and forgotten in turn."""

from __future__ import annotations

import secrets
import tempfile
from collections import OrderedDict
from pathlib import Path
from threading import Lock

from soundcert.audio import Clip, Limits, load_clip
from soundcert.errors import InputError
from soundcert.explorer.builder import demo_clips

MOST_BYTES = 20 * 2**20
LIMITS = Limits(max_seconds=120.0, max_channels=8, max_rate=192_000, max_bytes=64 * 2**20)
KEPT = 8


class Clips:
    """The bundled clips by name, and the last few dropped ones by a random token."""

    def __init__(self) -> None:
        self._demo = {path.stem: path for path in demo_clips()}
        self._dropped: OrderedDict[str, Clip] = OrderedDict()
        self._lock = Lock()

    @property
    def names(self) -> list[str]:
        return list(self._demo)

    def add(self, content: bytes, name: str) -> tuple[str, Clip]:
        """Decode what was dropped and return its token; InputError for what is not a whole audio file."""
        if not content:
            raise InputError("expected an audio file, got nothing")
        with tempfile.TemporaryDirectory(prefix="soundcert-") as folder:
            # The file's own name never becomes a path.
            path = Path(folder) / "clip"
            path.write_bytes(content)
            clip = load_clip(path, name=name, limits=LIMITS)
        token = secrets.token_urlsafe(12)
        with self._lock:
            self._dropped[token] = clip
            while len(self._dropped) > KEPT:
                self._dropped.popitem(last=False)
        return token, clip

    def get(self, key: str) -> Clip:
        """Return a bundled clip by its name or a dropped one by its token."""
        if key in self._demo:
            return load_clip(self._demo[key], name=key)
        with self._lock:
            clip = self._dropped.get(key)
        if clip is None:
            raise InputError("the clip is not held any more: drop it again")
        return clip
