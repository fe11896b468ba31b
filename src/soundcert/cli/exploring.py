"""The verb that shows all runs under a folder, as a local page or as static files."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soundcert.cli.app import Json, app, bar, print_json
from soundcert.errors import ConfigError, MissingDependencyError, how_to_install

_PORT = 8765


@app.command
def explore(
    folder: Annotated[Path, Parameter(help="Folder with runs below it.")] = Path("runs"),
    *,
    export: Annotated[
        Path | None, Parameter(help="Write static files into this folder, and serve nothing.")
    ] = None,
    port: Annotated[int, Parameter(help="Port to listen on; 0 for any that is free.")] = _PORT,
    host: Annotated[
        str, Parameter(help="Address to listen on. Any but a loopback one shows the runs to the network.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        tuple[str, ...], Parameter(show_default=False, help="Another name that the page answers to.")
    ] = (),
    audio: Annotated[
        int | None, Parameter(help="Clips a report that can be heard: 12 served, none exported, unless said.")
    ] = None,
    open_browser: Annotated[bool, Parameter(name="--open", negative="", help="Open the page.")] = False,
    as_json: Json = False,
) -> int:
    """Explore all runs under a folder on a local page: progress, reports, comparisons, contracts, audits.

    The page is served on this machine alone and changes nothing in the folder. With `--export` the same is written
    as static files; what needs a server is left out.

    Example: `soundcert explore runs`

    Example: `soundcert explore runs --export site`
    """
    if audio is not None and audio < 0:
        raise ConfigError(f"--audio must be from 0, got {audio}")
    if not 0 <= port < 2**16:
        raise ConfigError(f"--port must be from 0 to 65535, got {port}")
    if not folder.is_dir():
        raise ConfigError(f"expected a folder with runs below it, got {folder}: soundcert certify makes runs")
    if export is not None:
        from soundcert.explorer.site import write_site

        with bar("writing") as tick:
            written = write_site(folder, export, audio=audio or 0, progress=tick)
        if as_json:
            print_json(written.to_dict())
        else:
            print(written.index)
            for line in written.left_out:
                print(f"soundcert: {line}", file=sys.stderr)
        return 0
    try:
        from soundcert.explorer.guard import LOOPBACK
        from soundcert.explorer.server import serve
    except ImportError as error:
        raise MissingDependencyError(
            f"explore needs the package {error.name!r}, which is not installed: {how_to_install('serve')} "
            "(--export needs nothing more)"
        ) from None

    def ready(address: str) -> None:
        if host not in LOOPBACK:
            print(
                f"soundcert: {host} is no loopback address: whoever reaches this machine can read these runs",
                file=sys.stderr,
            )
        if as_json:
            print_json({"address": address, "folder": str(folder)})
        else:
            print(f"{address}  (ends with Ctrl-C)", flush=True)
        sys.stdout.flush()
        if open_browser:
            import webbrowser

            webbrowser.open(address)

    with contextlib.suppress(KeyboardInterrupt):  # the way in which it ends
        serve(
            folder,
            host=host,
            port=port,
            hosts=allow_host,
            audio=12 if audio is None else audio,
            ready=ready,
        )
    return 0
