"""The explorer as static files: what can be computed beforehand, and a word about what cannot.

Every page is one file that fetches nothing; the folder can be opened from the disk or put on any web server.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundcert.compare import compare
from soundcert.errors import ConfigError, InputError, RunError, SoundcertError
from soundcert.explorer import builder
from soundcert.explorer.clips import Clips
from soundcert.explorer.comparisons import comparison_words
from soundcert.explorer.pages import page
from soundcert.explorer.shelf import Place, Shelf
from soundcert.report.html import listen_and_render
from soundcert.runs import Run

MARK = "soundcert-site.txt"
_MARKED = "Written by `soundcert explore --export`, which may write here again.\n"
#: Pairs of runs that are compared beforehand, each in the certified object and in the file.
MOST_PAIRS = 45
SIGMAS = (0.0025, 0.05, 0.25, 0.5, 1.0)
_PAGES = ("index", "compare", "build")

Tick = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Written:
    """What was written. left_out: what is not on the site, in words."""

    index: Path
    reports: int
    comparisons: int
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "index": str(self.index),
            "reports": self.reports,
            "comparisons": self.comparisons,
            "left_out": list(self.left_out),
        }


def write_site(
    folder: Path,
    out: Path,
    *,
    audio: int = 0,
    sigmas: Sequence[float] = SIGMAS,
    progress: Tick | None = None,
) -> Written:
    """Write the site of all runs under a folder.

    audio: clips a report that can be heard: none by default, since recordings are not everybody's to publish.
    sigmas: noise levels of the contract builder.
    Raises ConfigError where `out` holds something else, InputError where it cannot be written.
    """
    shelf = Shelf(folder)
    try:
        _begin(out)
        return _write(shelf, out, audio, sigmas, progress or (lambda _done, _total, _what: None))
    except OSError as error:
        raise InputError(
            f"cannot write to {out}: {error.strerror or error}; choose another --export"
        ) from None


def _begin(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: --export takes a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise ConfigError(f"{out} holds other files: choose an empty folder, or one that --export wrote")
    (out / "reports").mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text(_MARKED, "utf-8")
    for old in (out / "reports").glob("*.html"):
        old.unlink()


def _write(shelf: Shelf, out: Path, audio: int, sigmas: Sequence[float], tick: Tick) -> Written:
    places = shelf.places()
    opened: list[tuple[Place, Run]] = []
    left_out = []
    for place in places:
        try:
            opened.append((place, shelf.open(place)))
        except SoundcertError as error:
            left_out.append(f"no report of {place.name}: {error}")
    pairs = list(itertools.combinations(opened, 2))
    if len(pairs) > MOST_PAIRS:
        left_out.append(
            f"{len(pairs) - MOST_PAIRS} of {len(pairs)} comparisons: {MOST_PAIRS} are computed beforehand"
        )
    pairs = pairs[:MOST_PAIRS]
    combinations = len(builder.STANDARD) * len(builder.EXTRAS) * len(sigmas)
    total, done = len(opened) + len(pairs) + combinations, itertools.count(1)

    for place, run in opened:
        text = listen_and_render(run, audio=audio, home="../index.html")
        _put(out / "reports" / f"{place.id}.html", text)
        tick(next(done), total, place.name)
    cards = shelf.cards()
    readable = {place.id for place, _ in opened}
    for card in cards:
        card["report"] = f"reports/{card['id']}.html" if card["id"] in readable else None
        card.pop("changed")
    name = shelf.folder.name
    _put(out / "index.html", page("index", name, {"runs": cards}, live=False, pages=_PAGES).text)

    ready = {}
    for a, b in pairs:
        for space in ("object", "file"):
            ready[f"{a[0].id} {b[0].id} {space}"] = _comparison((a, b), space)
        tick(next(done), total, f"{a[0].name}, {b[0].name}")
    chosen = [[a[0].id, b[0].id] for a, b in pairs]
    data = {"runs": cards, "ready": ready, "pairs": chosen}
    _put(out / "compare.html", page("compare", name, data, live=False, pages=_PAGES).text)

    clips = Clips()
    clip = clips.names[0]
    held = clips.get(clip)
    places_of = {}
    for recipe, extra, sigma in itertools.product(builder.STANDARD, builder.EXTRAS, sigmas):
        found = builder.slots(recipe.with_extra(extra), held, sigma=sigma)
        places_of[f"{recipe.key} {extra} {clip} {sigma:g}"] = found
        tick(next(done), total, f"{recipe.title}, σ = {sigma:g}")
    start = builder.STANDARD[0]
    choices: dict[str, Any] = {
        "recipes": [(r.key, r.title, f"{r.sigma:g}") for r in builder.STANDARD],
        "runs": [],
        "extras": [(key, title) for key, (title, _) in builder.EXTRAS.items()],
        "clips": [clip],
        "sigmas": list(sigmas),
        "first": places_of[
            f"{start.key} none {clip} {start.sigma if start.sigma in sigmas else sigmas[0]:g}"
        ],
        "ready": places_of,
    }
    _put(out / "build.html", page("build", name, choices, live=False, pages=_PAGES).text)
    return Written(out / "index.html", len(opened), len(ready), tuple(left_out))


def _comparison(sides: Sequence[tuple[Place, Run]], space: str) -> dict[str, Any]:
    """Return a comparison, or why there is none: without the paths of the machine that wrote it."""
    try:
        found = compare([run for _, run in sides], None if space == "object" else space)
    except RunError:
        return {
            "error": "The recordings, which carrying the radii needs, were not at hand when this was written."
        }
    except SoundcertError as error:
        return {"error": str(error)}
    return comparison_words(found, [place.name for place, _ in sides])


def _put(path: Path, text: str) -> None:
    """Write a page whole or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(path)
