"""The explorer's server: a few addresses over `Shelf`, `builder` and `compare`.

Everything slow runs in a thread; of comparisons and reports one at a time, so that a page left open does not take
the machine from a run that goes on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from soundcert.audit import audit
from soundcert.compare import compare
from soundcert.errors import ConfigError, RunError, SoundcertError
from soundcert.explorer import builder
from soundcert.explorer.clips import MOST_BYTES, Clips
from soundcert.explorer.comparisons import comparison_words
from soundcert.explorer.guard import Guard, TooLargeError
from soundcert.explorer.pages import Html, page
from soundcert.explorer.shelf import Shelf
from soundcert.pipeline import Pipeline
from soundcert.report.html import listen_and_render, page_policy
from soundcert.report.words import visible

_REPORTS = 8
_MOST_RUNS = 6


class Explorer:
    """What the addresses answer from."""

    def __init__(self, folder: Path, *, audio: int = 12) -> None:
        self.shelf = Shelf(folder)
        self.clips = Clips()
        self.audio = audio
        self._reports: OrderedDict[str, tuple[object, str]] = OrderedDict()
        self._slow = Lock()

    # --- pages -------------------------------------------------------------------------------------

    def _page(self, name: str, **data: Any) -> Html:
        return page(name, str(self.shelf.folder), data, live=True)

    def index(self) -> Html:
        return self._page("index", runs=self.shelf.cards())

    def compare_page(self) -> Html:
        return self._page("compare", runs=self.shelf.cards())

    def build_page(self) -> Html:
        start = builder.STANDARD[0]
        first = self.clips.names[0]
        return self._page(
            "build",
            **self._choices(),
            sigmas=list(builder.SIGMAS),
            first=self.slots(start.key, first, "none", start.sigma),
        )

    def audit_page(self) -> Html:
        return self._page("audit", **self._choices(), most_bytes=MOST_BYTES)

    def _choices(self) -> dict[str, Any]:
        runs = [(card["id"], card["name"], card["sigma"]) for card in self.shelf.cards() if card["readable"]]
        standard = [(r.key, r.title, f"{r.sigma:g}") for r in builder.STANDARD]
        return {
            "recipes": standard,
            "runs": runs,
            "extras": [(key, title) for key, (title, _) in builder.EXTRAS.items()],
            "clips": self.clips.names,
        }

    def report(self, key: str) -> str:
        """Return the report of a run, made when it is asked for, and kept until the run changes."""
        place = self.shelf.find(key)
        run = self.shelf.open(place)
        with self._slow:
            mark = (id(run), len(run.records))
            held = self._reports.get(key)
            if held is None or held[0] != mark:
                held = (mark, listen_and_render(run, audio=self.audio, home="/"))
                self._reports[key] = held
                while len(self._reports) > _REPORTS:
                    self._reports.popitem(last=False)
        return held[1]

    # --- answers -----------------------------------------------------------------------------------

    def recipe(self, key: str) -> builder.Recipe:
        for recipe in builder.STANDARD:
            if recipe.key == key:
                return recipe
        place = self.shelf.find(key)
        return builder.recipe_of_run(key, place.name, self.shelf.open(place))

    def slots(self, recipe: str, clip: str, extra: str, sigma: float) -> dict[str, Any]:
        chosen = self.recipe(recipe).with_extra(extra)
        with self._slow:
            return builder.slots(chosen, self.clips.get(clip), sigma=sigma)

    def audit(self, recipe: str, clip: str) -> dict[str, Any]:
        """Say what a certificate of one clip would mean under a pipeline, where its own noise stands."""
        chosen = self.recipe(recipe)
        held = self.clips.get(clip)
        pipe = Pipeline.from_specs(chosen.with_noise(chosen.home, chosen.sigma), chosen.folder)
        builder.sound(pipe, held)
        with self._slow:
            result = audit(pipe, [held])
            if not result.clips:
                raise ConfigError(result.failed[held.name])
            words = builder.place_words(pipe, held, result.clips[0])
        stages = [visible(stage.describe()) for stage in pipe.stages]
        return {**words, "stages": stages, "noise": pipe.noise_index, "n": result.n, "alpha": f"{result.alpha:g}",
                "sigma": f"{chosen.sigma:g}", "clip": _clip_words(held)}  # fmt: skip

    def compare(self, keys: Sequence[str], space: str) -> dict[str, Any]:
        if not 2 <= len(keys) <= _MOST_RUNS:
            raise ConfigError(f"choose 2 to {_MOST_RUNS} runs")
        places = [self.shelf.find(key) for key in keys]
        runs = [self.shelf.open(place) for place in places]
        with self._slow:
            found = compare(runs, None if space == "object" else space)
        return comparison_words(found, [place.name for place in places])

    def add(self, content: bytes, name: str) -> dict[str, Any]:
        token, clip = self.clips.add(content, name)
        return {"clip": token, **_clip_words(clip)}


def _clip_words(clip: Any) -> dict[str, Any]:
    return {
        "name": visible(clip.name),
        "seconds": f"{clip.seconds:.2f}",
        "rate": clip.rate,
        "channels": int(clip.samples.shape[0]),
        "bits": clip.bits,
    }


Handler = Callable[[Request], Awaitable[Response]]


def make_app(folder: Path, *, hosts: Sequence[str] = (), audio: int = 12) -> Starlette:
    """Return the ASGI app over a folder. hosts: names it answers to beside the loopback ones."""
    explorer = Explorer(folder, audio=audio)

    def html(make: Callable[[], Html]) -> Handler:
        async def handler(_request: Request) -> Response:
            made = await run_in_threadpool(make)
            return HTMLResponse(made.text, headers={"content-security-policy": _header(made.policy)})

        return handler

    async def report(request: Request) -> Response:
        try:
            text = await run_in_threadpool(_said, explorer.report, request.path_params["key"])
        except SoundcertError as error:
            return PlainTextResponse(f"This run cannot be shown: {visible(error)}\n", _code(error))
        body = text.encode("utf-8", "replace")
        return HTMLResponse(body, headers={"content-security-policy": _header(page_policy())})

    async def runs(_request: Request) -> Response:
        return JSONResponse({"runs": await run_in_threadpool(explorer.shelf.cards)})

    async def comparing(request: Request) -> Response:
        asked = request.query_params
        found = await run_in_threadpool(
            _said, explorer.compare, asked.getlist("run"), asked.get("in", "object")
        )
        return JSONResponse(found)

    async def building(request: Request) -> Response:
        asked = request.query_params
        try:
            sigma = float(asked.get("sigma", "0.5"))
        except ValueError:
            raise ConfigError("sigma must be a number") from None
        recipe, clip, extra = (
            asked.get("recipe", "log-mel"),
            asked.get("clip", ""),
            asked.get("extra", "none"),
        )
        return JSONResponse(await run_in_threadpool(_said, explorer.slots, recipe, clip, extra, sigma))

    async def auditing(request: Request) -> Response:
        asked = request.query_params
        return JSONResponse(
            await run_in_threadpool(
                _said, explorer.audit, asked.get("recipe", "log-mel"), asked.get("clip", "")
            )
        )

    async def adding(request: Request) -> Response:
        content = await request.body()
        name = request.query_params.get("name", "clip")[:200]
        return JSONResponse(await run_in_threadpool(_said, explorer.add, content, name))

    return Starlette(
        routes=[
            Route("/", html(explorer.index)),
            Route("/compare", html(explorer.compare_page)),
            Route("/build", html(explorer.build_page)),
            Route("/audit", html(explorer.audit_page)),
            Route("/runs/{key}", report),
            Route("/api/runs", runs),
            Route("/api/compare", comparing),
            Route("/api/build", building),
            Route("/api/audit", auditing),
            Route("/api/clips", adding, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, hosts=tuple(hosts), limit=MOST_BYTES)],
        exception_handlers={
            SoundcertError: _told,
            TooLargeError: _too_large,
            HTTPException: _plain,
        },
    )


def _header(allowed: str) -> str:
    return f"{allowed}; frame-ancestors 'none'"


T = TypeVar("T")


def _said(make: Callable[..., T], *arguments: Any) -> T:
    """Return what `make` gives. What a strange run's values break inside the library is said, and breaks no server."""
    try:
        return make(*arguments)
    except SoundcertError:
        raise
    except Exception as error:
        raise ConfigError(f"this cannot be computed ({type(error).__name__}: {error})") from error


def _code(error: Exception) -> int:
    return 404 if isinstance(error, RunError) and "no such run" in str(error) else 422


async def _told(_request: Request, error: Exception) -> Response:
    """Answer a mistake with its one line; a run that is gone with 404."""
    return JSONResponse({"error": visible(" ".join(str(error).split()))}, _code(error))


async def _too_large(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": f"at most {MOST_BYTES // 2**20} MiB are taken"}, 413)


async def _plain(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code)


def serve(
    folder: Path, *, host: str, port: int, hosts: Sequence[str], audio: int, ready: Callable[[str], None]
) -> None:
    """Serve until interrupted. ready: is called with the address once the port is taken."""
    import socket

    import uvicorn

    app = make_app(folder, hosts=(*hosts, *(() if host in ("0.0.0.0", "::") else (host,))), audio=audio)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        taken = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; give another --port"
        ) from None
    with taken:
        address = f"[{host}]" if ":" in host else host
        ready(f"http://{address}:{taken.getsockname()[1]}/")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, lifespan="off"
        )
        uvicorn.Server(config).run(sockets=[taken])
