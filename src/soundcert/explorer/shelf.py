"""The runs under a folder: found, told apart by an opaque id, and read with whatever is wrong as a warning.

A page names a run by its id and never by a path, so that no request can lead out of the folder. Files that are
links to places outside, too large, or no files at all, are not opened.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from soundcert.errors import ConfigError, RunError, SoundcertError
from soundcert.explorer.progress import state_of
from soundcert.report.curve import intervals_of
from soundcert.report.facts import readable
from soundcert.report.shares import percent, percents
from soundcert.report.terminal import VIEWS
from soundcert.report.words import length, view_text, visible
from soundcert.runs import Run, find_runs, open_run
from soundcert.runs.directory import RECORDS, RUN
from soundcert.runs.reading import ATTACKS, name_of

MOST_RUNS = 1000
#: Bytes of one file of a run that a page is made of.
MOST_BYTES = 200_000_000
SPARK = 33
SPARK_SIGMAS = 4.0


@dataclass(frozen=True)
class Place:
    """A run directory: its id, its path, and the path from the folder as text that hides nothing."""

    id: str
    path: Path
    name: str


class Shelf:
    """All runs under a folder. Reading the same files twice costs nothing; a changed run is read again."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(
                f"expected a folder with runs below it, got {folder}: soundcert certify makes runs"
            )
        self.folder = folder.resolve()
        self._read: dict[str, tuple[object, Run | SoundcertError]] = {}
        self._cards: dict[str, tuple[object, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def places(self) -> list[Place]:
        """Return where runs are, in the natural order of their names."""
        found = find_runs(self.folder, MOST_RUNS)
        return sorted((self._place(path) for path in found), key=lambda p: natural(p.name))

    def _place(self, path: Path) -> Place:
        inside = path.relative_to(self.folder)
        name = inside.as_posix() if inside.parts else self.folder.name
        key = blake2b(str(inside).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        return Place(key, path, visible(name))

    def find(self, key: str) -> Place:
        """Return the run of an id; RunError where there is none (any more)."""
        for place in self.places():
            if place.id == key:
                return place
        raise RunError("there is no such run in this folder (any more)")

    def open(self, place: Place) -> Run:
        """Read a run. RunError where it cannot be shown at all; everything less is among its warnings."""
        mark = self._mark(place)
        with self._lock:
            held = self._read.get(place.id)
        if held is None or held[0] != mark:
            held = (mark, self._open(place))
            with self._lock:
                self._read[place.id] = held
                while len(self._read) > 64:  # reports of very many runs are not all kept
                    self._read.pop(next(iter(self._read)))
        if isinstance(held[1], SoundcertError):
            raise held[1]
        return held[1]

    def _open(self, place: Place) -> Run | SoundcertError:
        try:
            self.check(place)
            run = readable(open_run(place.path))
            _ = run.summary  # whatever cannot be summed up shows here, and not on the page
        except SoundcertError as error:
            return RunError(str(error).replace(f"{self.folder}/", ""))
        except Exception as error:  # one strange folder must not take all others from the page
            return _unreadable(error)
        return run

    def check(self, place: Place) -> None:
        """Raise RunError where a file of the run is not a plain file inside the folder, or is too large."""
        for name in (RUN, RECORDS, ATTACKS):
            file = place.path / name
            if not file.exists() and not file.is_symlink():
                continue
            try:
                real = file.resolve(strict=True)
            except (OSError, RuntimeError):
                raise RunError(f"{name} is a link that leads nowhere: it is not opened") from None
            if not real.is_relative_to(self.folder):
                raise RunError(f"{name} is a link to a place outside the folder: it is not opened")
            if not real.is_file():
                raise RunError(f"{name} is not a file: it is not opened")
            if real.stat().st_size > MOST_BYTES:
                raise RunError(f"{name} is larger than {MOST_BYTES // 10**6} MB: it is not opened here")

    def _mark(self, place: Place) -> object:
        out: list[tuple[int, int, int] | None] = []
        for name in (RUN, RECORDS, ATTACKS):
            try:
                status = (place.path / name).stat()
            except OSError:
                out.append(None)
            else:
                out.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(out)

    def cards(self) -> list[dict[str, Any]]:
        """Return what the list shows of every run, as JSON values."""
        return [self.card(place) for place in self.places()]

    def card(self, place: Place) -> dict[str, Any]:
        mark = self._mark(place)
        held = self._cards.get(place.id)
        if held is None or held[0] != mark:
            held = self._cards[place.id] = (mark, self._made_card(place))
        told = held[1]
        try:
            state = state_of(place.path, told)
        except Exception as error:  # as in `_open`: the other runs are still shown
            told = _no_card(_unreadable(error))
            state = state_of(place.path, told)
        short = visible(name_of(place.path))
        group = place.name.removesuffix(short).rstrip("/") if place.name.endswith(short) else ""
        return {
            "id": place.id,
            "name": place.name,
            "group": group,
            "short": short,
            **told,
            **state.to_dict(),
        }

    def _made_card(self, place: Place) -> dict[str, Any]:
        try:
            return _card(self.open(place))
        except SoundcertError as error:
            return _no_card(error)
        except Exception as error:  # as in `_open`: the other runs are still shown
            return _no_card(_unreadable(error))


def _unreadable(error: Exception) -> RunError:
    return RunError(f"it cannot be read by this version ({type(error).__name__}: {error})")


def _no_card(error: SoundcertError) -> dict[str, Any]:
    """The card of a run that cannot be shown."""
    return {"warnings": [visible(error)], "readable": False}


def natural(name: str) -> list[tuple[int, float, str]]:
    """A key that sorts `run-2` before `run-10`, and `sigma=0.25` before `sigma=0.5`."""
    parts = re.findall(r"[0-9]+(?:\.[0-9]+)?|[^0-9]+", name)
    return [(0, float(p), p) if p[0] in "0123456789" else (1, 0.0, p.casefold()) for p in parts]


def _card(run: Run) -> dict[str, Any]:
    contract, summary = run.contract, run.summary
    location = contract.get("perturbation_location")
    out: dict[str, Any] = {
        "readable": True,
        "kind": visible(contract.get("kind") or "no contract is recorded"),
        "object": visible(contract.get("certified_object") or ""),
        "space": _space(contract),
        "location": visible(location or ""),
        "unit": visible(contract.get("unit") or ""),
        "model": visible(contract.get("model") or ""),
        "sigma": _number(contract.get("sigma")),
        "n": _number(run.certify.get("n")),
        "alpha": _number(run.certify.get("alpha")),
        "done": len(run.records),
        "total": run.total,
        "counts": [summary["certified"], summary["abstained"], summary["failed"]],
        "attacked": len(run.attacks),
        "started": visible(run.info.get("started") or ""),
        "seconds": _seconds(run.records),
        # An unfinished run is no fault of it while it goes on: the state says that.
        "warnings": [visible(w) for w in run.warnings if not w.startswith("the run is not finished")],
    }
    if "smoothed_accuracy" in summary:
        over = summary["smoothed_accuracy_over"]
        good = round(summary["smoothed_accuracy"] * over)
        interval = intervals_of(run).at(good)
        out["accuracy"] = percent(good, over)
        out["accuracy_value"] = good / over
        out["accuracy_more"] = f"{good} of {over} clips" + (
            f"; 95 % interval {' to '.join(percents(interval))}" if interval else ""
        )
    if "median_radius" in summary:
        out["radius"] = length(summary["median_radius"])
        for view in ("snr_db", "norm_ratio_db"):
            if f"median_{view}" in summary:
                out["level"] = f"{view_text(view, summary[f'median_{view}'])} dB {VIEWS[view][0]}"
        if "median_file_snr_db" in summary:
            out["file_level"] = f"{view_text('file_snr_db', summary['median_file_snr_db'])} dB"
        out["saturated"] = percent(*_saturated(run))
    out["spark"] = _spark(run)
    return out


def _space(contract: Mapping[str, Any]) -> str:
    """Return which colour a contract has: file, waveform, post, feature or latent."""
    location = contract.get("perturbation_location")
    if location in ("feature", "latent"):
        return str(location)
    if contract.get("post_noise"):
        return "post"
    return "waveform" if location else "none"


def _saturated(run: Run) -> tuple[int, int]:
    certified = [r for r in run.usable if r["status"] == "certified"]
    return sum(bool(r["saturated"]) for r in certified), len(certified)


def _number(value: object) -> str | None:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else None


def _seconds(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the mean seconds a clip of the last ones, for the time that is left."""
    last = [r["seconds"] for r in records[-20:] if isinstance(r.get("seconds"), int | float)]
    return sum(last) / len(last) if last else None


def _spark(run: Run) -> list[float] | None:
    """Return the certified-accuracy curve over R/σ from 0 to SPARK_SIGMAS: small, for the eye."""
    labelled = [r for r in run.usable if r.get("truth") is not None]
    rows = labelled or list(run.usable)
    if not rows:
        return None
    good = [r["radius"] / r["sigma"] for r in run.good if not labelled or r.get("truth") is not None]
    points = [SPARK_SIGMAS * k / (SPARK - 1) for k in range(SPARK)]
    return [round(sum(g >= x for g in good) / len(rows), 3) for x in points]
