"""The corpus of the fuzzer, and what hypothesis makes of it: no crash, no traceback, nothing slow or large.

`python scripts/fuzz.py TARGET --seconds 300` goes on from here, guided by coverage.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "faults")]

from rig import bounded  # noqa: E402
from targets import TARGETS, judge  # noqa: E402

CORPUS = {target: sorted((HERE / "corpus" / target).iterdir()) for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus(target: str):
    assert len(CORPUS[target]) >= 4
    for file in CORPUS[target]:
        with bounded(seconds=20):
            judge(target, file.read_bytes())


FORKS = """
import os, sys
import targets
print(targets.PLACE, flush=True)
child = os.fork()
if child:
    os.waitpid(child, 0)
    assert targets.PLACE.is_dir(), "the child's end removed it"
sys.exit(0)
"""


def test_the_folder_is_removed_at_the_end_and_not_by_a_child():
    made = subprocess.run(
        [sys.executable, "-c", FORKS], cwd=HERE, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert Path(made).name.startswith("soundcert-fuzz-")
    assert not Path(made).exists()


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with bytes changed, cut out, doubled or put in, some of them with a meaning."""
    data = draw(st.sampled_from(seeds))
    words = st.sampled_from([
        b"\0", b"\n", b'"', b"{", b"[", b"}", b"]", b":", b",", b"&a ",
        b"*a", b"<<: ", b"null", b"true", b"NaN",
        b"Infinity", b"-1", b"0", b"1e999", b"9" * 30, b"9" * 5000, b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff", b"\xff\xfe", b"\\ud800",
        b"[" * 2000, b"../", b"data", b"|", b"---", "σ".encode(), b"\r", b"\x1b[31m",
    ])  # fmt: skip
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 40)))
        middle = draw(st.one_of(st.just(b""), words, st.binary(max_size=8), st.just(data[at:end] * 2)))
        data = data[:at] + middle + data[end:]
    return data


@pytest.mark.parametrize(
    ("target", "examples"), [("audio", 150), ("config", 120), ("manifest", 150), ("report", 100), ("run", 25)]
)
def test_mutations_of_the_corpus(target: str, examples: int):
    seeds = [file.read_bytes() for file in CORPUS[target]]

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated(seeds))
    def check(data: bytes) -> None:
        with bounded(seconds=20):
            judge(target, data)

    check()
