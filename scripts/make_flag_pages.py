"""Write docs/flags from the texts in soundcert.flags: a page a flag, and their index.

python scripts/make_flag_pages.py [--check]     (--check writes nothing; exit code 1 where a page is out of date)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from soundcert.flags import FLAGS, FlagKind

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "flags"
NOTICE = "<!-- Written by scripts/make_flag_pages.py from src/soundcert/flags.py: edit it there. -->\n"


def page(kind: FlagKind) -> str:
    raised = kind.raised_if[0].upper() + kind.raised_if[1:]
    return (
        f"{NOTICE}# {kind.title}\n\n"
        f"`{kind.id}` · {kind.level}\n\n"
        f"**Raised if.** {raised}\n\n"
        f"**What it means.** {kind.meaning}\n\n"
        f"**What to do.** {kind.action}\n\n"
        "[All flags](README.md)\n"
    )


def index() -> str:
    rows = []
    for level in ("warning", "note"):
        rows += [
            f"| [{k.title}]({k.id}.md) | {level} | `{k.id}` |" for k in FLAGS.values() if k.level == level
        ]
    return (
        f"{NOTICE}# Flags\n\n"
        "`soundcert audit` raises a flag where something deserves a second look before a certificate is "
        "quoted. A *warning* says that the figure is easily read as more than it is; a *note* says what to "
        "report beside it. A flag never changes a certificate.\n\n"
        "| flag | level | id |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def pages() -> dict[Path, str]:
    """Return every page by its path."""
    out = {FOLDER / f"{kind.id}.md": page(kind) for kind in FLAGS.values()}
    out[FOLDER / "README.md"] = index()
    return out


def out_of_date() -> list[str]:
    """Return what differs from the flags: pages to be written, and pages of flags that are gone."""
    wanted = pages()
    stale = [
        f"{path.name} is out of date"
        for path, text in wanted.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    extra = [f"{path.name} belongs to no flag" for path in sorted(FOLDER.glob("*.md")) if path not in wanted]
    return stale + extra


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/flags from the texts in soundcert.flags.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 where a page is out of date"
    )
    if parser.parse_args().check:
        found = out_of_date()
        for line in found:
            print(f"docs/flags: {line}; run python scripts/make_flag_pages.py", file=sys.stderr)
        return 1 if found else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for path in FOLDER.glob("*.md"):
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    print(f"{len(wanted)} pages in {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
