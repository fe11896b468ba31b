"""The verbs that make results: each a few lines over the library."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from soundcert.cli.app import (
    N0,
    Alpha,
    ConfigFile,
    Data,
    Json,
    Limit,
    N,
    Resume,
    Trust,
    app,
    bar,
    clips_of,
    load,
    one_line,
    print_json,
    reading,
)
from soundcert.cli.ending import advising
from soundcert.errors import ConfigError, InputError, SoundcertError

if TYPE_CHECKING:
    from soundcert.runs.certify_run import Progress


#: Failed clips whose reasons `certify` prints; run directory and report have them all.
_REASONS = 5


def _told(clip: str, reason: str) -> str:
    """A clip's reason in one line, which names it."""
    return one_line(reason if repr(clip) in reason else f"{clip!r}: {reason}")


@app.command
def demo(
    *,
    out: Annotated[Path, Parameter(help="Folder for the page.")] = Path("soundcert-demo"),
    n: Annotated[int, Parameter(help="Noisy draws a clip and contract.")] = 1000,
    seed: Annotated[int, Parameter(help="Seed of the noise.")] = 0,
    as_json: Json = False,
) -> int:
    """Certify bundled keyword spotters on bundled clips through four pipelines, and compare what each covers.

    Nothing is downloaded. Writes `index.html` into the folder.

    Example: `soundcert demo --out /tmp/demo`
    """
    from soundcert.demo import run_demo, write_page
    from soundcert.report.demo import demo_view
    from soundcert.report.terminal import print_view

    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)  # now, and not after the work
    try:
        with bar("certifying") as tick:
            result = run_demo(n=n, seed=seed, progress=tick)
    except BaseException:
        if made:
            out.rmdir()
        raise
    page = write_page(result, out)
    if as_json:
        print_json(result.to_dict())
    else:
        print_view(demo_view(result))
        print(f"\nThe page: {page}")
    return 0


@app.command
def audit(
    config: ConfigFile,
    *,
    data: Data = None,
    limit: Limit = None,
    n0: N0 = None,
    n: N = None,
    alpha: Alpha = None,
    trust: Trust = False,
    as_json: Json = False,
) -> int:
    """Say what a certificate would mean, without Monte Carlo: contract, ceiling in every view, cost, flags.

    Example: `soundcert audit kws.yaml --limit 100`
    """
    from soundcert.audit import audit as run_audit
    from soundcert.classifier import computed_by
    from soundcert.pipeline import Pipeline
    from soundcert.report.terminal import audit_view, print_view

    settings, items = load(config, data, limit, n0=n0, n=n, alpha=alpha)
    pipe = Pipeline.from_config(settings, config.parent, trust=trust)
    budget = settings.certify
    runtime = pipe.model.runtime if pipe.model else None
    engine = computed_by(budget.named_engine, budget.precision, budget.device, runtime)
    with bar("auditing") as tick:
        clips = clips_of(items, tick)
        result = run_audit(
            pipe, clips, n0=budget.n0, n=budget.n, alpha=budget.alpha, bound=budget.bound,
            policy=budget.policy, engine=engine, seed=budget.seed,
        )  # fmt: skip
    if as_json:
        print_json(result.to_dict())
    else:
        # The view begins each line with the clip's name, as many reasons do.
        reasons = {name: reason.removeprefix(f"{name!r}: ") for name, reason in result.failed.items()}
        print_view(audit_view(dataclasses.replace(result, failed=reasons)))
    return 1 if result.failed else 0


@app.command
def certify(
    config: ConfigFile,
    *,
    out: Annotated[Path, Parameter(help="Run directory to write.")],
    data: Data = None,
    limit: Limit = None,
    resume: Resume = False,
    n0: N0 = None,
    n: N = None,
    alpha: Alpha = None,
    seed: Annotated[
        int | None,
        Parameter(help="Seed of the noise, chosen before any result is seen; by default the config's."),
    ] = None,
    report_in: Annotated[
        tuple[str, ...],
        Parameter(
            show_default=False, help="Also carry each radius to this space, such as `file`; may be repeated."
        ),
    ] = (),
    executor: Annotated[
        Literal["local", "ray"], Parameter(help="This machine, or the nodes of a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None, Parameter(help="Threads, or Ray actors; by default one a core of the machine or cluster.")
    ] = None,
    address: Annotated[
        str | None, Parameter(help="The Ray cluster's address, such as `auto`; without it Ray starts here.")
    ] = None,
    watchdog: Annotated[
        float,
        Parameter(help="Seconds without a finished forward pass after which the run ends; 0 for never."),
    ] = 600.0,
    trust: Trust = False,
    as_json: Json = False,
) -> int:
    """Certify clips into a run directory: one line a clip, flushed, resumable.

    Clips that cannot be used are recorded with the reason and the run goes on; the exit code is then 1.

    Example: `soundcert certify kws.yaml --out runs/kws --limit 300 --report-in file`
    """
    from soundcert.report.terminal import print_view, summary_view
    from soundcert.runs import certify_run
    from soundcert.runs.directory import RUN, read_json
    from soundcert.runs.executors import LocalExecutor, RayExecutor

    if workers is not None and workers < 1:
        raise ConfigError(f"--workers must be from 1, got {workers}")
    if not 0 <= watchdog < float("inf"):
        raise ConfigError(f"--watchdog must be seconds from 0, got {watchdog:g}")
    if address is not None and executor != "ray":
        raise ConfigError("--address is the Ray cluster's: add --executor ray")
    settings, items = load(config, data, limit, n0=n0, n=n, alpha=alpha, seed=seed)
    reasons: list[str] = []

    def seen(progress: Progress) -> None:
        if progress.record["status"] == "failed":
            reasons.append(_told(progress.record["clip"], progress.record["reason"]))
        tick(progress.done, progress.total, str(progress.record["clip"]))

    where = RayExecutor(address, workers) if executor == "ray" else LocalExecutor(workers)
    # Ray reports lost nodes on stdout, which is the result's.
    with (
        advising(f"every finished clip is in {out}. Go on with the same command and --resume"),
        redirect_stdout(sys.stderr),
        bar("certifying", lambda: len(items)) as tick,
    ):
        summary = certify_run(
            settings,
            items,
            out,
            base=config.parent,
            resume=resume,
            report_in=report_in,
            executor=where,
            trust=trust,
            watchdog=watchdog or None,
            progress=seen,
        )
    for reason in reasons[:_REASONS]:
        print(f"soundcert: failed: {reason}", file=sys.stderr)
    if len(reasons) > _REASONS:
        print(f"soundcert: and {len(reasons) - _REASONS} more: see {out}/certificates.jsonl", file=sys.stderr)
    contract = read_json(out / RUN).get("contract") or {}
    if otherwise := contract.get("trained_otherwise"):
        print(
            f"soundcert: note: the model was {otherwise} (see trained-otherwise in docs/flags)",
            file=sys.stderr,
        )
    if as_json:
        print_json(summary)
    else:
        print_view(summary_view(summary, contract, asked=settings.certify.decide is not None))
        print(f"\nThe run: {out}")
    return 1 if summary["failed"] else 0


@app.command
def attack(
    run: Annotated[Path, Parameter(help="Run directory of `soundcert certify`.")],
    *,
    limit: Limit = None,
    goal: Annotated[
        tuple[Literal["leave", "flip", "inside", "bypass", "deployed"], ...],
        Parameter(
            show_default=False,
            help="What to look for, may be repeated; by default everything that the model allows.",
        ),
    ] = (),
    space: Annotated[
        str, Parameter(help="Where the perturbation is added: `file`, `object`, or a space above the noise.")
    ] = "file",
    steps: Annotated[int, Parameter(help="Gradient steps of each search.")] = 30,
    restarts: Annotated[
        int, Parameter(help="Starts of the geometry search, and a descent to another label for each 8.")
    ] = 16,
    draws: Annotated[int, Parameter(help="Noisy copies a gradient.")] = 32,
    n: Annotated[int, Parameter(help="Fresh draws that verify what is said.")] = 1000,
    level: Annotated[float, Parameter(help="Probability that a label change is wrong, at most.")] = 0.001,
    seed: Annotated[int, Parameter(help="Seed of starts and noise.")] = 0,
    wav: Annotated[
        bool, Parameter(negative="", help="Keep the clips of a bypass in the run's `attacks`.")
    ] = False,
    base: Annotated[
        Path | None, Parameter(help="Where the config's relative paths start, if the data has moved.")
    ] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> int:
    """Attack the certified clips of a run: the smallest perturbations found, beside what is proven.

    An attack bounds the robustness from above and proves nothing. Writes `attacks.jsonl`, one line a clip, and
    `attacks.json` into the run; the same command goes on after an interruption. Exit code 1: a violation was
    found, or clips failed.

    Example: `soundcert attack runs/kws --limit 20 --goal leave --goal bypass --wav`
    """
    from soundcert.attack import GOALS, Settings
    from soundcert.report.terminal import attack_view, print_view
    from soundcert.runs import attack_run

    settings = Settings(space, goal or GOALS, steps, restarts, draws, n, level, seed)
    with (
        reading(run),
        advising(f"every finished clip is in {run}. Go on with the same command"),
        bar("attacking", lambda: _to_attack(run, limit)) as tick,
    ):
        summary = attack_run(
            run, settings, limit=limit, wav=wav, base=base, trust=trust,
            skip=None if goal else lambda what: print(f"soundcert: {what}", file=sys.stderr),
            progress=lambda p: tick(p.done, p.total, str(p.record["clip"])),
        )  # fmt: skip
    if as_json:
        print_json(summary)
    else:
        print_view(attack_view(summary))
        print(f"\nThe attacks: {run / 'attacks.jsonl'}")
    return 1 if summary["failed"] or summary["violations"] else 0


def _to_attack(run: Path, limit: int | None) -> int | None:
    """Return how many clips an attack takes on; None where the run cannot say, as the attack will."""
    from soundcert.runs import read_records

    with contextlib.suppress(SoundcertError, OSError):
        certified = sum(1 for record in read_records(run) if record.get("status") == "certified")
        return certified if limit is None else min(limit, certified)
    return None


@app.command
def predict(
    config: ConfigFile,
    clips: Annotated[list[Path], Parameter(help="Audio files.")],
    *,
    n: Annotated[int, Parameter(help="Noisy draws a clip.")] = 1000,
    alpha: Annotated[float, Parameter(help="Probability of a wrong answer, at most.")] = 0.001,
    seed: Annotated[
        int | None,
        Parameter(help="Only to replay a prediction: without it the noise is fresh, as it must be."),
    ] = None,
    trust: Trust = False,
    as_json: Json = False,
) -> int:
    """Ask the deployed smoothed classifier, which may abstain (exit code 1 if it does, or if some files are bad).

    Example: `soundcert predict kws.yaml yes.wav no.wav`
    """
    from soundcert.certify import SmoothedClassifier, check_prediction
    from soundcert.config import load_config
    from soundcert.data import clips_of_file
    from soundcert.pipeline import Pipeline

    settings = load_config(config)
    check_prediction(n, alpha)
    # What is deployed has to be what is certified: bf16 is another classifier. Among fp32 engines any will do.
    named = settings.certify
    deployed = SmoothedClassifier(
        Pipeline.from_config(settings, config.parent, trust=trust),
        engine=named.named_engine,
        precision=named.precision,
        device=named.device,
    )
    records: list[dict[str, Any]] = []
    items = [
        item for path in clips for item in clips_of_file(path, settings.data.cut if settings.data else None)
    ]
    for item in items:
        try:
            answer = deployed.predict(item.load(), n=n, alpha=alpha, seed=seed)
        except (InputError, ConfigError) as error:
            if len(items) == 1:
                raise
            records.append({"clip": item.name, "status": "failed", "reason": str(error)})
            print(f"soundcert: {_told(item.name, str(error))}", file=sys.stderr)
            continue
        records.append(answer.to_dict())
        if not as_json:
            print(answer)
    if as_json:
        print_json(records)
    return 0 if all(r["status"] == "predicted" for r in records) else 1


@app.command
def train(
    config: ConfigFile,
    *,
    out: Annotated[Path | None, Parameter(help="Weight file to write; by default the model stage's.")] = None,
    resume: Resume = False,
    as_json: Json = False,
) -> int:
    """Train the model with the certifying pipeline, the noise in its own place.

    Example: `soundcert train kws.yaml --resume`
    """
    from soundcert.config import load_config
    from soundcert.train import train as run_training

    settings = load_config(config)

    def report(record: dict[str, Any]) -> None:
        print(
            f"epoch {record['epoch']}/{record['epochs']}  loss {record['loss']:.4f}  validation under noise "
            f"{record['validation_accuracy']:.2%} (best {record['best']:.2%})  {record['seconds']} s",
            file=sys.stderr,
            flush=True,
        )

    with advising("go on with the same command and --resume"):
        result = run_training(settings, base=config.parent, out=out, resume=resume, progress=report)
    for reason in result.skipped:
        print(f"soundcert: skipped: {reason}", file=sys.stderr)
    facts = {
        "weights": str(result.weights),
        "labels": list(result.labels),
        "epoch": result.epoch,
        "epochs_run": result.epochs_run,
        "validation_accuracy_under_noise": result.score,
        "seconds": round(result.seconds, 1),
        "skipped": list(result.skipped),
    }
    if as_json:
        print_json(facts)
    else:
        print(f"{result.weights}: epoch {result.epoch}, validation accuracy under noise {result.score:.2%}")
    return 0


@app.command
def schema(
    what: Annotated[Literal["config", "results", "attacks"], Parameter(help="Which document.")] = "config",
    *,
    as_json: Json = False,  # noqa: ARG001  it is JSON anyway, and every verb takes it
) -> int:
    """Print the JSON Schema of configs, or of the lines of a run's results or attacks.

    Example: `soundcert schema results > results.schema.json`
    """
    from soundcert.config import config_schema
    from soundcert.runs.attack_schema import attack_schema
    from soundcert.runs.schema import record_schema

    print_json({"config": config_schema, "results": record_schema, "attacks": attack_schema}[what]())
    return 0
