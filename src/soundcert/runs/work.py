"""The work of a run, as one worker does it, wherever it runs: clips in, records out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundcert.audio import Clip
from soundcert.certificate import Certificate, json_number
from soundcert.certify import Sampling, SmoothedClassifier
from soundcert.classifier import Fastest
from soundcert.config import Config
from soundcert.data import Item
from soundcert.errors import ConfigError, InputError, ModelError, SoundcertError
from soundcert.pipeline import Pipeline
from soundcert.policies import Pilot
from soundcert.sampling import WATCHDOG

#: A clip's pilot, and the fresh draws that a budget gives it.
Share = tuple[Pilot, int]


@dataclass(frozen=True)
class Work:
    """What a worker needs to know. Files that the config names must be readable where it runs."""

    config: Config
    base: Path | None
    engine: Fastest
    report_in: tuple[str, ...] = ()
    trust: bool = False
    watchdog: float | None = WATCHDOG


class Worker:
    """Certifies clips of a run. threads: by default one a core."""

    def __init__(self, work: Work, threads: int | None = None) -> None:
        self._sampling = Sampling.of(work.config.certify)
        self._report_in = work.report_in
        self._classifier = SmoothedClassifier(
            Pipeline.from_config(work.config, work.base, trust=work.trust),
            micro_batch=work.engine.micro_batch,
            workers=threads,
            engine=work.engine.engine,
            precision=work.engine.precision,
            device=work.engine.device,
            watchdog=work.watchdog,
        )

    def certify(self, items: Sequence[Item], shares: Mapping[str, Share] | None) -> Iterator[dict[str, Any]]:
        """Yield each clip's record, in the order of the list; what cannot be used is recorded as failed."""
        failed: dict[str, str] = {}
        clips = _read(items, failed)
        rest = iter(items)
        before = time.perf_counter()
        for certificate in self._classifier.certify_stream(clips, self._sampling, shares, failed):
            for item in rest:
                if item.name == certificate.clip:
                    now = time.perf_counter()
                    yield self._record(item, certificate, now - before)
                    before = now
                    break
                yield _failure(item, failed)
        for item in rest:
            yield _failure(item, failed)

    def pilots(self, items: Sequence[Item]) -> Iterator[tuple[str, Pilot]]:
        """Yield digest and pilot of each usable clip."""
        failed: dict[str, str] = {}
        yield from self._classifier.pilot_stream(_read(items, failed), self._sampling, failed)

    def _record(self, item: Item, certificate: Certificate, seconds: float) -> dict[str, Any]:
        record = {**certificate.to_dict(), "seconds": round(seconds, 4)}
        if certificate.status == "certified" and self._report_in:
            record["spaces"] = {name: in_space(certificate, name) for name in self._report_in}
        return _labelled(item, record)


def _read(items: Sequence[Item], failed: dict[str, str]) -> Iterator[Clip]:
    for item in items:
        try:
            clip = item.load()
        except ModelError:
            raise
        except (InputError, ConfigError) as error:
            failed[item.name] = str(error)
            continue
        yield clip


def _failure(item: Item, failed: Mapping[str, str]) -> dict[str, Any]:
    return _labelled(item, {"clip": item.name, "status": "failed", "reason": failed[item.name]})


def _labelled(item: Item, record: dict[str, Any]) -> dict[str, Any]:
    extra = {"truth": item.label, "recording": item.recording}
    return {**record, **{key: value for key, value in extra.items() if value is not None}}


def in_space(certificate: Certificate, name: str) -> dict[str, Any]:
    """Return a radius carried to a space as a record keeps it: the chain, or why nothing is proven."""
    try:
        there = certificate.in_space(name)
    except SoundcertError as error:
        return {"proven": False, "reason": str(error)}
    chain = [{"stage": s.stage, "space": s.space, "radius": json_number(s.radius)} for s in there.chain]
    return {"proven": True, "radius": json_number(there.radius), "norm": there.norm, "chain": chain}
