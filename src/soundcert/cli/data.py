"""`soundcert data`: what can be read, where it is on this disk, and `data get`, which fetches it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from soundcert.cli.app import Json, app, print_json
from soundcert.cli.ending import advising
from soundcert.errors import SoundcertError

data_app = App(name="data")
app.command(data_app)


@data_app.default
def data(*, as_json: Json = False) -> int:
    """List the kinds of data that can be read, how they are laid out, and where they are found on this disk.

    Looks in $SOUNDCERT_DATA, ./data and ../shared/data. `soundcert data get` fetches the known data sets.

    Example: `soundcert data`
    """
    from soundcert.data import known_sources
    from soundcert.report.terminal import print_view, sources_view

    found = [(info, _places(info.name)) for info in known_sources()]
    if as_json:
        print_json(
            [
                {
                    "name": i.name,
                    "what": i.summary,
                    "layout": i.layout,
                    "licence": i.licence,
                    "on_disk": places,
                }
                for i, places in found
            ]
        )
    else:
        print_view(sources_view(found, _roots()))
    return 0


@data_app.command
def get(
    name: Annotated[Literal["speech_commands", "esc50", "esc10"], Parameter(help="Which data set.")],
    *,
    out: Annotated[
        Path | None, Parameter(help="Folder of data sets; by default $SOUNDCERT_DATA, else ./data.")
    ] = None,
    url: Annotated[
        str | None,
        Parameter(help="Another address of the archive; file:///... for one that is here already."),
    ] = None,
    sha256: Annotated[
        str | None, Parameter(name="--sha256", help="The digest of that file, if it is packed otherwise.")
    ] = None,
    keep: Annotated[bool, Parameter(negative="", help="Keep the archive, in the same folder.")] = False,
    as_json: Json = False,
) -> int:
    """Fetch a data set: its official archive, checked and unpacked, with its licence beside it.

    An interrupted call goes on where it stopped. Proxies are those of the usual environment variables
    (https_proxy, no_proxy); $SOUNDCERT_MIRROR is a folder of mirrored archives under their official names.

    Example: `soundcert data get esc10 --out data`
    """
    from soundcert.data.archives import ARCHIVES, fetch

    folder = out or Path(os.environ.get("SOUNDCERT_DATA") or "data")
    if sys.stderr.isatty():
        print(f"{ARCHIVES[name].title}: {ARCHIVES[name].licence}", file=sys.stderr)
    with advising("the same command goes on from there"), _steps() as step:
        done = fetch(name, folder.expanduser(), url=url, sha256=sha256, keep=keep, progress=step)
    if as_json:
        print_json(done.to_dict())
        return 0
    if done.status == "present":
        print(f"{done.root}: already there, {done.clips} clips")
    else:
        how = {
            "published": "SHA-256 as published",
            "given": "SHA-256 as given",
            "content": "packed anew since its SHA-256 was recorded; table and clips as they should be",
        }[done.digest or ""]
        print(f"{done.root}: {done.clips} clips ({how})")
        print(f"Licence: {done.licence}; credit and source in {Path(done.root) / 'ATTRIBUTION.md'}")
    print(f"In a config: data: {{source: {name}, root: {done.root}}}")
    return 0


@contextmanager
def _steps() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar of bytes; nothing where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _what, _done, _total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        tasks = {}

        def step(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield step


def _roots() -> list[str]:
    """Return the folders that may hold data sets."""
    named = os.environ.get("SOUNDCERT_DATA")
    return list(dict.fromkeys([*([named] if named else []), "data", "../shared/data"]))


def _places(name: str) -> list[str]:
    if name in ("folder", "manifest"):
        return []
    from soundcert.data import DataConfig, load_items

    places = []
    for root in _roots():
        if (Path(root) / name).is_dir():
            try:
                count = len(load_items(DataConfig(source=name, root=Path(root) / name), Path.cwd()))
                places.append(f"{Path(root) / name} ({count} clips)")
            except SoundcertError as error:
                places.append(f"{Path(root) / name} (not readable: {error})")
    return places
