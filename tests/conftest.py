"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data(name)`: a data set's folder, or a skip where this machine has no copy.

    Looks in $SOUNDCERT_DATA, else in `shared/data` beside the checkout.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    data = Path(os.environ.get("SOUNDCERT_DATA", beside))

    def find(name: str) -> Path:
        folder = data / name
        if not folder.is_dir():
            pytest.skip(f"no data set {name!r}: set SOUNDCERT_DATA to the folder that holds it")
        return folder

    return find
