"""Write docs/schemas/report-v1.json from soundcert.report.attestation_schema.

python scripts/make_report_schema.py [--check]     (--check writes nothing; exit code 1 where the file is out of date)
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from soundcert.report.attestation_schema import report_schema

FILE = Path(__file__).resolve().parents[1] / "docs" / "schemas" / "report-v1.json"


def text() -> str:
    return json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        fresh = FILE.is_file() and FILE.read_text(encoding="utf-8") == text()
        if not fresh:
            print(f"{FILE} is out of date: python scripts/make_report_schema.py", file=sys.stderr)
        return 0 if fresh else 1
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text(), encoding="utf-8")
    print(FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
