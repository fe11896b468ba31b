"""The work of a study: train, look at validation clips, choose, certify testing clips; each as far as it is not done.

A fit's folder holds `config.yaml` (what `soundcert certify` reads), `model.safetensors`, `train.json`, `validation/`
(a run with few draws: estimates to choose by, no claims), `clean.json` and `run/` (the run directory of the testing
clips). Nothing that is finished is done again; a folder that was made with another config is refused.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from soundcert.classifier import votes
from soundcert.config import Config
from soundcert.data import load_items
from soundcert.errors import ConfigError, InputError
from soundcert.pipeline import Pipeline
from soundcert.runs import certify_run
from soundcert.runs.directory import read_json, write_json
from soundcert.runs.executors import LocalExecutor
from soundcert.study.cells import Cell, Fit, cells_of, fits_of
from soundcert.study.choosing import chosen_folders
from soundcert.study.config import StudyConfig
from soundcert.study.joining import Elsewhere, weights_are_here
from soundcert.study.keeping import refuse_changed
from soundcert.train import split_items, train

Tell = Callable[[str], None]


def run_study(
    study: StudyConfig,
    base: Path,
    out: Path,
    *,
    only: Sequence[str] = (),
    jobs: int = 1,
    elsewhere: Elsewhere | None = None,
    tell: Tell = lambda _: None,
) -> None:
    """Do what of a study is not done yet.

    base: where the study's relative paths start. out: the study's folder. only: names of blocks to work on, all by
    default. jobs: fits at a time, each in a process of its own; where fewer are left to sample, each has more workers,
    with which it gives the same certificates. elsewhere: cells that other results tell of: they compete for the
    targets, and nothing is done for them. tell: called with a line for each thing done.
    """
    elsewhere = elsewhere or {}
    here = [cell for cell in chosen_cells(study, only) if cell.name not in elsewhere]
    fits = {cell.name: fits_of(study, cell, base, out) for cell in here}
    kept = [cell for cell in cells_of(study) if cell.name not in elsewhere]
    # Of the whole study, before any work: what is kept of it takes part in choices and tables.
    refuse_changed(fit for cell in kept for fit in fits.get(cell.name) or fits_of(study, cell, base, out))
    for cell in here:
        if not all(map(finished, fits[cell.name])):
            weights_are_here(study, cell, elsewhere)
    everything = [fit for group in fits.values() for fit in group]
    for fit in everything:
        _prepare(fit)
    with _workers(jobs) as submit:
        ensembles = [fit for fit in everything if not fit.trains]
        _all([submit(train_fit, fit) for fit in everything if fit.trains], tell)
        refuse_changed(ensembles)  # members that were gone may be there now
        share = _share(jobs, [fit for fit in ensembles if not _certified(fit.folder / "validation")])
        _all([submit(train_fit, fit, share) for fit in ensembles], tell)
    # Among all cells that were looked at, in whatever call: a part of the grid must not choose by itself.
    wanted = chosen_folders(study, cells_of(study), out, elsewhere)
    testing = [fit for fit in everything if fit.cell.block.test == "all" or fit.folder in wanted]
    share = _share(jobs, [fit for fit in testing if not finished(fit)])
    with _workers(jobs) as submit:
        _all([submit(test_fit, fit, share) for fit in testing], tell)


def chosen_cells(study: StudyConfig, only: Sequence[str] = ()) -> list[Cell]:
    """Return the grid's cells, or those of the named blocks. ConfigError for a block that is not there."""
    known = [block.name for block in study.grid]
    for name in only:
        if name not in known:
            raise ConfigError(f"study: there is no block {name!r}; the blocks are {', '.join(known)}")
    return [cell for cell in cells_of(study) if not only or cell.block.name in only]


def train_fit(fit: Fit, workers: int = 1) -> str:
    """Train a fit, if it is no ensemble, and look at its validation clips; return what was done, in a line.

    workers: for the validation clips; a training has one thread.
    """
    done = []
    if fit.trains and not (fit.folder / "train.json").exists():
        training = fit.weights.with_suffix(".training")
        # Weights without their record: killed between the two; the training folder holds all that is needed.
        if fit.weights.exists() and training.exists():
            fit.weights.unlink()
        refuse_tested(fit)
        result = train(fit.config, base=fit.folder, resume=training.exists())
        record = {
            "epoch": result.epoch,
            "epochs_run": result.epochs_run,
            "validation_accuracy_under_noise": result.score,
            "seconds": _logged_seconds(training),
            "skipped": list(result.skipped),
        }
        write_json(fit.folder / "train.json", record)
        done.append(
            f"trained {result.epochs_run} epochs, {result.score:.1%} of validation draws right in epoch {result.epoch}"
        )
    if fit.cell.block.choose is not None and _run(
        fit.choosing(), fit.folder / "validation", fit.folder, workers
    ):
        done.append("validation clips sampled")
    return f"{fit.name}: {'; '.join(done) or 'trained before'}"


def refuse_tested(fit: Fit) -> None:
    """Raise ConfigError where a clip that is to be tested trains or chooses, by its file."""
    config = fit.testing()
    assert config.data is not None and config.train is not None
    tested = {item.path.resolve() for item in load_items(config.data, fit.folder)}
    for items, use in zip(
        split_items(config.data, config.train, fit.folder), ("trains", "validates"), strict=True
    ):
        if both := tested & {item.path.resolve() for item in items}:
            raise ConfigError(
                f"{fit.name}: {len(both)} of its testing clips are among what it {use} with, such as {min(both)}"
            )


def test_fit(fit: Fit, workers: int) -> str:
    """Certify a fit's testing clips; return what was done, in a line."""
    clean = fit.folder / "clean.json"
    # Of the clips and weights that the run is of: whoever removes the run asks for both anew.
    if not clean.exists() or not (fit.folder / "run" / "run.json").exists():
        write_json(clean, clean_accuracy(fit))
    done = _run(fit.testing(), fit.folder / "run", fit.folder, workers)
    return f"{fit.name}: {'testing clips certified' if done else 'certified before'}"


def clean_accuracy(fit: Fit) -> dict[str, int]:
    """Count testing clips that the base classifier names rightly without noise."""
    config = fit.testing()
    assert config.data is not None
    pipe = Pipeline.from_config(config, fit.folder)
    assert pipe.labels is not None
    right = total = 0
    with torch.inference_mode():
        for item in load_items(config.data, fit.folder):
            try:
                clip = item.load()
                x = pipe.object_of(clip).float().unsqueeze(0)
            except InputError:
                continue
            for stage in pipe.route(clip.space).base:
                x = stage(x)
            total += 1
            winner = int(votes(x)[0])
            right += winner >= 0 and pipe.labels[winner] == item.label
    return {"right": right, "total": total}


def _prepare(fit: Fit) -> None:
    """Write a fit's config. Other testing settings may follow the same training."""
    values = fit.config.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    fit.folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    partial = fit.folder / "config.part"
    partial.write_text(text, encoding="utf-8")
    partial.replace(fit.folder / "config.yaml")


def _run(config: Config, out: Path, base: Path, workers: int) -> bool:
    """Certify into a run directory as far as that is not done; return whether there was anything to do."""
    assert config.data is not None
    if _certified(out):
        return False
    items, begun = load_items(config.data, base), (out / "run.json").exists()
    certify_run(config, items, out, base=base, resume=begun, executor=LocalExecutor(workers=workers))
    return True


def _certified(run: Path) -> bool:
    return (run / "run.json").exists() and (run / "report.json").exists()


def _share(jobs: int, left: Sequence[Fit]) -> int:
    """Return the workers that each of the fits that are left may have."""
    return max(1, jobs // max(1, len(left)))


def _logged_seconds(training: Path) -> float:
    log = training / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return round(float(sum(json.loads(line)["seconds"] for line in lines)), 1)


@contextmanager
def _workers(jobs: int) -> Iterator[Callable[..., Future[str]]]:
    if jobs == 1:
        yield _now
        return
    # spawn: a forked child would inherit torch's thread pool in whatever state it is in.
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker
    ) as pool:
        try:
            yield pool.submit
        except KeyboardInterrupt:  # a training would otherwise be waited for to its end
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def _begin_worker() -> None:
    """One thread a worker; and none outlives the process that gives it work, however that ends."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _now(work: Callable[..., str], *args: Any) -> Future[str]:
    out: Future[str] = Future()
    out.set_result(work(*args))
    return out


def _all(futures: Sequence[Future[str]], tell: Tell) -> None:
    """Tell each result as it comes. The first failure is raised once what is running has ended."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            if future.exception() is not None:
                for other in waiting:
                    other.cancel()
            tell(future.result())


def finished(fit: Fit) -> bool:
    """Whether a fit's testing clips are certified."""
    return _certified(fit.folder / "run")


def training_record(fit: Fit) -> dict[str, Any]:
    """What was written of a fit's training; empty before it."""
    file = fit.folder / "train.json"
    return read_json(file) if file.exists() else {}
