"""Fuzz one target, guided by coverage, from the corpus in tests/fuzz/corpus (`pip install 'soundcert[fuzz]'`).

python scripts/fuzz.py {audio,config,manifest,run,report} --seconds 300 [--keep]

An input that crashes, takes longer than 5 s or more than 1 GB beyond the program itself ends it with exit code 1,
and is kept in tests/fuzz/found. --keep adds inputs that reach new code to the corpus. What was tried is written to
docs/results/fuzz.json.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUZZ = ROOT / "tests" / "fuzz"
RESULTS = ROOT / "docs" / "results" / "fuzz.json"
SEPARATE = "--inside"


def inside(target: str, arguments: list[str]) -> None:
    """Run libFuzzer in this process; it ends the process."""
    import atheris

    sys.path[:0] = [str(FUZZ), str(ROOT / "src")]
    # What torch and scipy do inside is not what is looked for, and instrumenting them takes minutes.
    import pydantic  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401

    with atheris.instrument_imports(include=["soundcert", "yaml"]):
        import targets

        import soundcert.cli
        import soundcert.compare
        import soundcert.lint
        import soundcert.pipeline
        import soundcert.report.html  # noqa: F401

    # What the first call imports is not the input's time.
    for file in sorted((FUZZ / "corpus" / target).iterdir()):
        targets.judge(target, file.read_bytes())
    atheris.Setup([sys.argv[0], *arguments], lambda data: targets.judge(target, data))
    atheris.Fuzz()


def main() -> int:
    if SEPARATE in sys.argv:
        at = sys.argv.index(SEPARATE)
        inside(sys.argv[at + 1], sys.argv[at + 2 :])
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=("audio", "config", "manifest", "run", "report"))
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--keep", action="store_true", help="add inputs that reach new code to the corpus")
    given = parser.parse_args()
    found = FUZZ / "found"
    found.mkdir(exist_ok=True)
    corpus = FUZZ / "corpus" / given.target
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "new"
        place.mkdir()
        limits = [f"-max_total_time={given.seconds}", "-timeout=5", "-rss_limit_mb=1800", "-max_len=20000"]
        call = [
            sys.executable,
            __file__,
            SEPARATE,
            given.target,
            *limits,
            f"-artifact_prefix={found}/{given.target}-",
        ]
        done = subprocess.run(
            [*call, str(place), str(corpus)], stderr=subprocess.PIPE, text=True, check=False
        )
        print(done.stderr[-3000:], file=sys.stderr)
        if given.keep:
            kept = sorted(place.iterdir(), key=lambda p: p.stat().st_size)[:40]
            for file in kept:
                shutil.copy(file, corpus / file.name[:12])
    ran = re.findall(r"stat::number_of_executed_units: (\d+)|Done (\d+) runs|#(\d+)\s", done.stderr)
    runs = max((int(n) for groups in ran for n in groups if n), default=0)
    coverage = [int(n) for n in re.findall(r"cov: (\d+)", done.stderr)]
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[given.target] = {
        "seconds": given.seconds, "inputs": runs, "edges": max(coverage, default=0), "ended_well": done.returncode == 0,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    return int(done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
