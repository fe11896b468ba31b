"""Everything that has to pass: ruff, mypy, import-linter, generated pages, the documentation, licences, examples in
docstrings, tests, and the coverage of the mathematics.

All of the tests together have to run every line and branch of the files that pyproject.toml names under
[tool.coverage.run]; with arguments for pytest, which may leave tests out, coverage is not looked at.

python scripts/check.py [--fix] [PYTEST ARGUMENTS]
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent


def main() -> int:
    arguments = sys.argv[1:]
    fix = "--fix" in arguments
    rest = [a for a in arguments if a != "--fix"]
    # One torch thread a test process: the processes share the cores already.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    gate = [] if rest else ["--cov", "--cov-config=pyproject.toml"]
    steps = [
        [str(TOOLS / "ruff"), "format", *([] if fix else ["--check"]), "."],
        [str(TOOLS / "ruff"), "check", *(["--fix"] if fix else []), "."],
        [sys.executable, "-m", "mypy"],
        # The newest Python that is supported; this one stands for the others.
        [sys.executable, "-m", "mypy", "--python-version", "3.13", "--cache-dir", ".mypy_cache/newest"],
        [str(TOOLS / "lint-imports")],
        [sys.executable, "scripts/make_flag_pages.py", "--check"],
        [sys.executable, "scripts/build_docs.py"],
        [sys.executable, "scripts/licences.py"],
        [sys.executable, "scripts/reliability.py", "--check"],
        [
            sys.executable,
            "-m",
            "pytest",
            "--doctest-modules",
            "src/soundcert",
            "--ignore=src/soundcert/__main__.py",
            "-q",
        ],
        [sys.executable, "-m", "pytest", "-n", "2", "-q", *gate, *rest],
    ]
    for step in steps:
        print(
            "→", " ".join(Path(step[0]).name if i == 0 else part for i, part in enumerate(step)), flush=True
        )
        code = subprocess.run(step, cwd=ROOT, env=environment, check=False).returncode
        if code:
            print(f"failed with exit code {code}", file=sys.stderr)
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
