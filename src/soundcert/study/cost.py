"""What a study will cost, before it starts: clips and passes counted, seconds from a short measurement.

Seconds are CPU-seconds of one thread on this machine. Passes under `decide` are an expectation over a range of
models (`_TYPICAL`), from the law of the sequential tests; the real ones depend on the clips.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn import functional as F

from soundcert.config import CertifyConfig
from soundcert.data import load_items
from soundcert.errors import ConfigError, InputError
from soundcert.pipeline import Pipeline
from soundcert.policies import rules
from soundcert.randomness import NoiseKey, noise_stream
from soundcert.stages import Model
from soundcert.study.cells import Fit, cells_of, fits_of, members_of
from soundcert.study.config import StudyConfig
from soundcert.study.joining import Elsewhere
from soundcert.study.keeping import refuse_changed
from soundcert.study.running import chosen_cells, finished

#: Probabilities of the top class in a trained model, over clips.
_TYPICAL = (0.5, 0.8, 0.95, 0.99, 0.999, 0.9999, 0.99999)
#: Share of rows for which a consensus asks everyone, about: the tables' passes are not counted by members.
_SELDOM = 0.1
_ROWS = 16


@dataclass(frozen=True)
class CellCost:
    """What is left to do of a cell. seconds: of training, of validation and of testing, on one thread."""

    cell: str
    fits: int
    to_train: int
    to_test: int
    testing_clips: int
    passes: float
    train_seconds: float
    choose_seconds: float
    test_seconds: float
    tests_if_chosen: bool

    @property
    def seconds(self) -> float:
        return self.train_seconds + self.choose_seconds + self.test_seconds


def plan(
    study: StudyConfig, base: Path, out: Path, only: Sequence[str] = (), elsewhere: Elsewhere | None = None
) -> list[CellCost]:
    """Return what each cell still costs, but for those done elsewhere. Cells of one shape and network are measured once.

    ConfigError where anything that is kept was made otherwise than the study now asks for, as when it is run.
    """
    wanted = [cell for cell in chosen_cells(study, only) if cell.name not in (elsewhere or {})]
    known: dict[str, tuple[float, float]] = {}
    costs = []
    # All cells are read before the first is measured: a mistake in the last costs no time.
    everything = [(cell, fits_of(study, cell, base, out)) for cell in wanted]
    kept = [cell for cell in cells_of(study) if cell.name not in (elsewhere or {})]
    refuse_changed(fit for cell in kept for fit in fits_of(study, cell, base, out))
    for cell, fits in everything:
        untrained = [f for f in fits if f.trains and not (f.folder / "train.json").exists()]
        untested = [f for f in fits if cell.block.test != "none" and not finished(f)]
        clips = tests = validating = 0
        for fit in untrained:
            clips += _training_clips(fit)
        for fit in untested:
            tests += len(load_items(fit.split.testing, base))
            looked = (fit.folder / "validation" / "report.json").exists()
            if cell.block.choose is not None and not looked:
                validating += len(load_items(fit.split.validation, base))
        step, one = 0.0, 0.0
        if untrained or untested:
            shape = f"{cell.data} {cell.pipeline} {cell.model}"
            if shape not in known:
                # An ensemble's pass is one of each of its members, or a part of one of those that are seldom asked.
                parts = [fits_of(study, c, base, out)[0] for c in members_of(study, cell)] or fits[:1]
                steps, passes = zip(*(measure(part) for part in parts), strict=True)
                first = study.models[cell.model].consensus or len(parts)
                known[shape] = (sum(steps), sum(passes[:first]) + _SELDOM * sum(passes[first:]))
            step, one = known[shape]
        settings = fits[0].config.certify
        draws = expected_draws(settings, cell.sigma)
        epochs = fits[0].config.train.epochs if fits[0].config.train else 0
        costs.append(
            CellCost(
                cell=cell.name,
                fits=len(fits),
                to_train=len(untrained),
                to_test=len(untested),
                testing_clips=tests,
                passes=tests * draws,
                train_seconds=clips * epochs * step,
                choose_seconds=validating * (cell.block.choose or 0) * one,
                test_seconds=tests * draws * one,
                tests_if_chosen=cell.block.test == "chosen",
            )
        )
    return costs


def expected_draws(settings: CertifyConfig, sigma: float) -> float:
    """Return the draws a clip: n0 + n, or under `decide` what the tests need on average over `_TYPICAL`."""
    if settings.decide is None:
        return float(settings.n0 + settings.n)
    return settings.n0 + _deciding(settings, sigma)


@lru_cache(maxsize=64)
def _deciding(settings: CertifyConfig, sigma: float) -> float:
    assert settings.decide is not None
    tests = rules(settings.decide, sigma, settings.n, settings.alpha)
    return sum(max(t.operating(p).samples for t in tests) for p in _TYPICAL) / len(_TYPICAL)


def measure(fit: Fit) -> tuple[float, float]:
    """Return CPU-seconds of one thread for a clip of a training step, and for a pass. No weights are needed."""
    config = fit.config
    assert config.data is not None
    pipe = Pipeline.from_config(config, fit.folder, training=True)
    items = load_items(config.data, fit.folder)
    v = base = None
    for item in items:
        try:
            clip = item.load()
        except InputError:
            continue
        v, base = pipe.object_of(clip).float(), pipe.route(clip.space).base
        break
    if v is None or base is None or pipe.model is None:
        raise InputError(f"study: no testing clip of {fit.name} can be read")
    net = pipe.model.built(len({i.label for i in items}))
    below = [s for s in base if not isinstance(s, Model)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:

        def forward() -> torch.Tensor:
            assert v is not None
            x = v + noise_stream(NoiseKey(0, "probe", "cost"), pipe.noise).fill_(torch.empty(_ROWS, *v.shape))
            for stage in below:
                x = stage(x)
            out: torch.Tensor = net(x)
            return out

        def step() -> None:
            net.zero_grad()
            loss = F.cross_entropy(forward(), torch.zeros(_ROWS, dtype=torch.long))
            loss.backward()  # type: ignore[no-untyped-call]

        net.train()
        try:
            step()
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"study: the network of {fit.cell.model!r} cannot take what {fit.cell.pipeline!r} gives it, "
                f"{tuple(v.shape)}: {str(error).splitlines()[0]}"
            ) from None
        training = _timed(step)
        net.eval()
        with torch.inference_mode():
            one = _timed(forward)
    finally:
        torch.set_num_threads(threads)
    return training / _ROWS, one / _ROWS


def _timed(work: Callable[[], object]) -> float:
    work()
    started, times = time.process_time(), 0
    while times < 3 or time.process_time() - started < 0.1:
        work()
        times += 1
    return (time.process_time() - started) / times


def _training_clips(fit: Fit) -> int:
    settings = fit.config.train
    assert settings is not None and settings.clips is not None
    return len(load_items(settings.clips, fit.folder)) + sum(
        len(load_items(e, fit.folder)) for e in settings.extra
    )
