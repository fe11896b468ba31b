from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import certify, make_home, marks


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a run in `whole` that nothing happened to."""
    home = make_home(tmp_path_factory.mktemp("faults") / "home")
    marks(home, slow=1)
    ended = certify(home, home / "whole").end()
    assert ended.code == 1, ended
    return home
