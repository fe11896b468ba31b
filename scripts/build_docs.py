"""Build the documentation as a site: the pages of docs/, the API from docstrings, links checked. No network.

python scripts/build_docs.py [--out site/docs]

The pages stay plain Markdown with relative links, as a forge shows them. A page or file that they link to outside
docs/ becomes a page of the site. Anything that mkdocs warns about, a link that leads nowhere, and anything that a
browser would fetch from elsewhere make it fail (exit code 1).
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
import shutil
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(?!#|[a-z]+:)([^)\s#]+)(#[^)\s]*)?(?=\))")
# iframe-worker 1.0.4, MIT: see its LICENSE.
WORKER = ROOT / "scripts" / "vendor" / "iframe-worker" / "shim.js"
WORKER_AWAY = "https://unpkg.com/iframe-worker/shim"
NAV: dict[str, list[str]] = {
    "Start": [
        "README.md",
        "guide.md",
        "gallery.md",
        "explore.md",
        "data.md",
        "bring-your-own.md",
        "long-recordings.md",
    ],
    "What is certified": [
        "contracts.md",
        "reading-a-certificate.md",
        "reporting-checklist.md",
        "flags/README.md",
    ],
    "Results": ["forms.md", "compare.md", "lint.md", "attack.md", "study.md", "results/study/README.md"],
    "Theory": [
        "theory.md",
        "sampling.md",
        "noise.md",
        "tightness.md",
        "what-limits.md",
        "validity.md",
        "contracts-compared.md",
        "paper-numbers.md",
    ],
    "Running": ["models.md", "cluster.md", "security.md", "reliability.md"],
}
#: Modules of the API pages, with what a page is called.
API = {
    "soundcert.pipeline": "Pipeline", "soundcert.stages": "Stages", "soundcert.spaces": "Spaces",
    "soundcert.contract": "Contract", "soundcert.certify": "Certify and predict", "soundcert.certificate": "Certificate",
    "soundcert.audit": "Audit", "soundcert.bounds": "Bounds", "soundcert.sequential": "Sequential tests",
    "soundcert.transport": "Transport", "soundcert.diagnostics": "Diagnostics", "soundcert.attack": "Attack",
    "soundcert.compare": "Compare", "soundcert.runs": "Runs", "soundcert.report.forms": "Forms", "soundcert.lint": "Lint",
    "soundcert.audio": "Audio", "soundcert.config": "Configuration", "soundcert.errors": "Errors",
}  # fmt: skip
STYLE = """
:root {
  --md-text-font: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  --md-code-font: ui-monospace, Menlo, Consolas, monospace;
}
.md-typeset table:not([class]) { font-size: .72rem; }
.md-typeset img { border: 1px solid var(--md-default-fg-color--lightest); border-radius: .3rem; }
"""
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "sh", ".json": "json", ".toml": "toml"}


def gather(source: Path) -> list[str]:
    """Copy docs/ and what it links to outside, and write the API's pages; return the files that became pages."""
    shutil.copytree(DOCS, source)
    outside: dict[Path, str] = {}
    waiting = sorted(source.rglob("*.md"))
    origin = {page: DOCS / page.relative_to(source) for page in waiting}
    while waiting:
        page = waiting.pop()
        here = origin[page].parent

        def moved(match: re.Match[str], page: Path = page, here: Path = here) -> str:
            target = (here / unquote(match[1])).resolve()
            if not target.is_relative_to(ROOT):
                sys.exit(f"{page.relative_to(source)}: {match[1]} leads out of the repository")
            if target.is_relative_to(DOCS) or not target.is_file():
                if target.is_relative_to(DOCS) and not origin[page].is_relative_to(DOCS):
                    return _relative(source / target.relative_to(DOCS), page.parent) + (match[2] or "")
                return match[0]  # mkdocs says what leads nowhere
            if target not in outside:
                name = target.relative_to(ROOT).as_posix()
                outside[target] = "benchmarks.md" if name == "benchmarks/README.md" else f"files/{name}.md"
                new = source / outside[target]
                new.parent.mkdir(parents=True, exist_ok=True)
                new.write_text(_as_page(target, name), "utf-8")
                origin[new] = target
                if target.suffix == ".md" and not name.startswith("examples/"):
                    waiting.append(new)
            return _relative(source / outside[target], page.parent) + (match[2] or "")

        text = LINK.sub(moved, page.read_text("utf-8"))
        # `python run` marks an example that the tests run; to a renderer it is Python.
        page.write_text(re.sub(r"^( *```\w+)[ \t]+\w.*$", r"\1", text, flags=re.M), "utf-8")
    (source / "api").mkdir()
    (source / "api" / "index.md").write_text(_api_index(), "utf-8")
    for module, title in API.items():
        (source / "api" / f"{module.removeprefix('soundcert.')}.md").write_text(
            f"# {title}\n\n::: {module}\n", "utf-8"
        )
    (source / "style.css").write_text(STYLE, "utf-8")
    return list(outside.values())


def _relative(target: Path, start: Path) -> str:
    return posixpath.relpath(target.as_posix(), start.as_posix())


def _as_page(file: Path, name: str) -> str:
    text = file.read_text("utf-8")
    if file.suffix == ".md" and not name.startswith("examples/"):
        return text
    fence = "`" * (max([2, *(len(m) for m in re.findall(r"`+", text))]) + 1)
    return f"# `{name}`\n\n{fence}{_LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def _api_index() -> str:
    lines = [
        f"- [{title}]({module.removeprefix('soundcert.')}.md): `{module}`" for module, title in API.items()
    ]
    return (
        "# API\n\nFrom the docstrings. `import soundcert as sc` gives the names that most programs need; each is "
        "described in the module that makes it.\n\n" + "\n".join(lines) + "\n"
    )


def configuration(source: Path, out: Path, files: list[str]) -> dict[str, object]:
    listed = {page for pages in NAV.values() for page in pages}
    found = {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}
    flags = sorted(p for p in found if p.startswith("flags/") and p not in listed)
    if missing := sorted(found - listed - set(flags)):
        sys.exit(f"scripts/build_docs.py: NAV does not list {', '.join(missing)}")
    nav: list[object] = [{title: list(pages)} for title, pages in NAV.items()]
    section = next(i for i, title in enumerate(NAV) if title == "What is certified")
    titled = [{"Flags": page} if page == "flags/README.md" else page for page in NAV["What is certified"]]
    nav[section] = {"What is certified": [*titled, {"Each flag": flags}]}
    pages = [f"api/{module.removeprefix('soundcert.')}.md" for module in API]
    nav.append({"API": ["api/index.md", *pages]})
    nav.append({"Files": sorted(files)})
    handler = {
        "paths": [str(ROOT / "src")],
        "options": {
            "show_root_heading": False, "show_root_toc_entry": False, "heading_level": 2, "show_source": False,
            "members_order": "source", "show_signature_annotations": True, "separate_signature": True,
            "docstring_style": None, "filters": ["!^_"], "show_if_no_docstring": False, "line_length": 100,
        },
    }  # fmt: skip
    light = {
        "media": "(prefers-color-scheme: light)",
        "scheme": "default",
        "primary": "white",
        "accent": "deep orange",
    }
    dark = {
        "media": "(prefers-color-scheme: dark)",
        "scheme": "slate",
        "primary": "black",
        "accent": "deep orange",
    }
    light |= {"toggle": {"icon": "material/weather-night", "name": "Dark colours"}}
    dark |= {"toggle": {"icon": "material/weather-sunny", "name": "Light colours"}}
    return {
        "site_name": "soundcert",
        "site_url": "",
        "docs_dir": str(source),
        "site_dir": str(out),
        "strict": True,
        "use_directory_urls": False,
        "theme": {
            "name": "material", "font": False, "palette": [light, dark],
            "features": ["navigation.sections", "navigation.top", "toc.follow", "content.code.copy", "search.highlight"],
        },
        "extra_css": ["style.css"],
        "extra": {"generator": False},
        # `offline` puts the search index into a script, so that it works from the disk.
        "plugins": [{"offline": {}}, {"search": {}}, {"mkdocstrings": {"handlers": {"python": handler}}}],
        "markdown_extensions": [
            "tables", "attr_list", "pymdownx.superfences", "pymdownx.tasklist",
            {"pymdownx.highlight": {"use_pygments": True}},
            {"toc": {"permalink": True, "slugify": _slug}},
        ],
        "validation": {
            "nav": {"omitted_files": "warn", "not_found": "warn", "absolute_links": "warn"},
            "links": {"not_found": "warn", "anchors": "warn", "absolute_links": "warn", "unrecognized_links": "warn"},
        },
        "nav": nav,
    }  # fmt: skip


def _slug(text: str, separator: str) -> str:
    """A heading's anchor as forges make it."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", separator)


class _Page(HTMLParser):
    """The links, the anchors and the things that a browser would fetch of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") in (
            "stylesheet",
            "icon",
            "preconnect",
            "preload",
            "modulepreload",
        ):
            self.fetched.append(values.get("href", ""))
        elif tag in ("script", "img", "iframe", "audio", "video", "source") and "src" in values:
            self.fetched.append(values["src"])


def check(out: Path) -> list[str]:
    """Return what is wrong with a built site: links that lead nowhere, and what would be fetched from elsewhere."""
    pages = {page: _Page(page.read_text("utf-8")) for page in sorted(out.rglob("*.html"))}
    wrong = []
    for page, found in pages.items():
        if page.name == "404.html":
            continue  # its links are those of the server's root
        name = page.relative_to(out)
        for target in [*found.links, *found.fetched]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in found.fetched and parts.scheme != "data":
                    wrong.append(f"{name}: would fetch {target}")
                continue
            there = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if there.is_dir():
                there = there / "index.html"
            if not there.is_file():
                wrong.append(f"{name}: {target} leads nowhere")
            elif parts.fragment and there in pages and unquote(parts.fragment) not in pages[there].anchors:
                wrong.append(f"{name}: there is no {target}")
    for style in out.rglob("*.css"):
        for target in re.findall(
            r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)", style.read_text("utf-8")
        ):
            wrong.append(f"{style.relative_to(out)}: would fetch {target}")
    return wrong


def own_worker(out: Path) -> None:
    """Put the vendored script in place of the one that the theme's search fetches when a page is opened from the disk."""
    shutil.copy(WORKER, out / "assets" / "iframe-worker.js")
    for page in out.rglob("*.html"):
        text = page.read_text("utf-8")
        if WORKER_AWAY in text:
            own = _relative(out / "assets" / "iframe-worker.js", page.parent)
            page.write_text(text.replace(WORKER_AWAY, own), "utf-8")


def build(out: Path) -> int:
    """Build the site into a folder and return the exit code."""
    os.environ.setdefault("DISABLE_MKDOCS_2_WARNING", "true")
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    with tempfile.TemporaryDirectory() as held:
        source = Path(held) / "docs"
        files = gather(source)
        anchor = Path(held) / "mkdocs.yml"
        anchor.write_text("site_name: soundcert\n", "utf-8")
        config = load_config(str(anchor), **configuration(source, out.resolve(), files))
        try:
            config.plugins.run_event("startup", command="build", dirty=False)
            mkdocs_build(config)
        except Abort as error:
            print(f"the documentation could not be built: {error}", file=sys.stderr)
            return 1
        finally:
            config.plugins.run_event("shutdown")
    own_worker(out)
    wrong = check(out.resolve())
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{out}: {len(list(out.rglob('*.html')))} pages, {len(wrong)} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    rest = sys.argv[1:]
    sys.exit(build(Path(rest[rest.index("--out") + 1]) if "--out" in rest else ROOT / "site" / "docs"))
