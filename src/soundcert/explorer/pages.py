"""The explorer's pages: one shell, its own style and script inside, its data as a JSON block.

The same pages are served and written as files. A script makes elements of text nodes alone, so that no name of
a run or a clip can become markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from soundcert.report.html import embed, piece, policy_of
from soundcert.report.words import visible

#: The pages: name, title in the navigation, and what is written in the window's title.
PAGES = {
    "index": ("Runs", "runs"),
    "compare": ("Compare", "compare runs"),
    "build": ("Contract builder", "contract builder"),
    "audit": ("Audit", "audit a clip"),
}


@dataclass(frozen=True)
class Html:
    """A page, and the policy that lets its own style and script run and nothing else."""

    text: str
    policy: str


@cache
def _piece(name: str) -> str:
    return (files("soundcert.explorer") / "templates" / name).read_text("utf-8")


@cache
def _style() -> str:
    return piece("report.css") + _piece("explore.css")


def page(
    name: str, folder: str, data: Mapping[str, Any], *, live: bool, pages: tuple[str, ...] = tuple(PAGES)
) -> Html:
    """Return one of PAGES. live: a server answers; otherwise all that it needs is in `data`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("soundcert.explorer"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    style, script = _style(), piece("page.js") + _piece("common.js") + _piece(f"{name}.js")
    allowed = policy_of(style, script, live=live)
    links = [(key, PAGES[key][0], _address(key, live)) for key in pages]
    text = environment.get_template("explore.html.j2").render(
        name=name,
        title=PAGES[name][1],
        folder=visible(folder),
        links=links,
        live=live,
        policy=allowed,
        style=Markup(style),
        script=Markup(script),
        data=Markup(embed({"live": live, **data})),
    )
    return Html(text, allowed)


def _address(name: str, live: bool) -> str:
    if live:
        return "/" if name == "index" else f"/{name}"
    return f"{name}.html"
