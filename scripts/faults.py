"""Injects faults again and again, and writes what happened to docs/results/faults.json.

python scripts/faults.py kill --times 300     # kill -9 at random moments, each run resumed to its end
python scripts/faults.py term --times 100     # SIGTERM, as a scheduler sends it
python scripts/faults.py interrupt --times 100

Each run is stopped up to six times and then left to end; it has to be complete, without a clip twice, and byte
for byte the run that nothing happened to, but for times. The same is done a few times in CI (tests/faults).
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests" / "faults")]
RESULTS = ROOT / "docs" / "results" / "faults.json"
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}
EACH = 6


def main() -> int:
    from rig import certify, make_home, marks, stopped_and_resumed

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=SIGNALS)
    parser.add_argument("--times", type=int, default=300, help="how often to stop a run")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    started = time.monotonic()
    stopped = runs = 0
    with tempfile.TemporaryDirectory() as folder:
        home = make_home(Path(folder) / "home")
        marks(home, slow=1)
        assert certify(home, home / "whole").end().code == 1
        begun = time.monotonic()
        assert certify(home, home / "again").end().code == 1
        span = 0.6 * (time.monotonic() - begun)
        while stopped < given.times:
            run = Path(folder) / f"run{runs}"
            now = stopped_and_resumed(home, run, home / "whole", draw, SIGNALS[given.what], span, EACH)
            stopped += now
            span *= 1.1 if now else 0.7  # the machine is not always as fast
            runs += 1
            print(f"{runs} runs, stopped {stopped} times: all complete and the same", flush=True)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found[given.what] = {
        "runs": runs, "stopped": stopped, "clips_each": 25, "seed": given.seed,
        "lost": 0, "twice": 0, "different": 0, "seconds": round(time.monotonic() - started),
    }  # fmt: skip
    RESULTS.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
