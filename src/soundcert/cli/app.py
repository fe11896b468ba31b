"""What every verb of the command line shares: the app, options, progress, and how it ends.

Exit codes: 0 done; 1 the answer is no, or some clips failed; 2 the call or the config is wrong, or the machine
does not let it be done; 130, 143 and 129 ended by Ctrl-C, SIGTERM and SIGHUP. Errors are one line on stderr.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, ArgumentCollection, CycloptsError, MissingArgumentError, Parameter

from soundcert.cli.ending import advising, check_stopped, leave, stopped, stopping_on_signals
from soundcert.errors import ConfigError, InputError, RunError, SoundcertError, nearest

if TYPE_CHECKING:
    from soundcert.config import Config
    from soundcert.data import DataConfig, Item


def _whole_numbers(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse 100.7 where a whole number is asked for, which cyclopts would round."""
    for argument in arguments:
        if argument.hint not in (int, int | None):
            continue
        for token in argument.tokens:
            try:
                int(token.value, 10 if token.value.lstrip("+-").isdecimal() else 0)
            except ValueError:
                name = token.keyword or argument.name
                raise ConfigError(f"{name}: expected a whole number, got {token.value!r}") from None


app = App(
    name="soundcert",
    config=[_whole_numbers],
    help="Certify audio classifiers against adversarial perturbations, and say what each certificate covers.",
    help_format="markdown",
    default_parameter=Parameter(negative_iterable=()),  # an empty list is one that is not given
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # it would end with 130 whatever the signal, and say nothing
)

ConfigFile = Annotated[Path, Parameter(help="Configuration file.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON document on stdout.")]
Resume = Annotated[bool, Parameter(negative="", help="Go on with a run that was interrupted.")]
Limit = Annotated[int | None, Parameter(help="At most this many clips: an unbiased sample by name.")]
Data = Annotated[
    Path | None, Parameter(help="Clips in place of the config's: a folder, or a .csv, .jsonl or .txt list.")
]
N0 = Annotated[int | None, Parameter(help="Draws that select the class; by default the config's.")]
N = Annotated[int | None, Parameter(help="Fresh draws that bound its probability; by default the config's.")]
Alpha = Annotated[
    float | None,
    Parameter(help="Probability that one certificate is wrong, at most; by default the config's."),
]
Trust = Annotated[
    bool,
    Parameter(
        negative="", help="Run the code that a model's file brings, where the config says `trust: true` too."
    ),
]


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Say in one line that files which somebody else may have written hold what soundcert does not write."""
    try:
        yield
    except SoundcertError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        kind = f"{type(error).__name__}: {str(error)[:200]}"
        raise RunError(
            f"{what} holds values that soundcert does not write ({kind}): make the run again"
        ) from error


def print_json(values: object) -> None:
    text = json.dumps(values, ensure_ascii=False, indent=2, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a terminal of another encoding, or a file name that is not valid Unicode
        text = json.dumps(values, indent=2, allow_nan=False)
    print(text)


def load(config: Path, data: Path | None, limit: int | None, **certify: Any) -> tuple[Config, list[Item]]:
    """Read the config with the command line's own values, and its list of clips."""
    from soundcert.config import CertifyConfig, load_config, validate
    from soundcert.data import load_items

    settings = load_config(config)
    given = {key: value for key, value in certify.items() if value is not None}
    if given:
        values = {**settings.certify.model_dump(), **given}
        settings = settings.model_copy(
            update={"certify": validate(CertifyConfig, values, "the command line")}
        )
    if data is not None:
        chosen = _named(data, settings.data)
    elif settings.data is not None:
        chosen = settings.data
    else:
        raise ConfigError(f"{config} has no `data`: add it, or give --data a folder or a manifest")
    if limit is not None:
        if limit < 1:
            raise ConfigError(f"--limit must be at least 1, got {limit}")
        chosen = chosen.model_copy(update={"limit": limit})
    settings = settings.model_copy(update={"data": chosen})
    items = load_items(chosen, config.parent)
    training = sum(item.split == "training" for item in items)
    if training and chosen.split is None:
        print(
            f"soundcert: note: {training} of the {len(items)} clips are marked as training clips, since `data` names no "
            "split: add `split: testing` if the model has learnt from them",
            file=sys.stderr,
        )
    return settings, items


#: What the official forms of known data sets, and the form with a list, have in their folder.
_MARKS = ("meta.csv", "testing_list.txt", "validation_list.txt", "meta/esc50.csv")


def _named(place: Path, before: DataConfig | None) -> DataConfig:
    """Return what --data names: a list or a folder, with what the config says of its own data as far as it fits."""
    from soundcert.config import validate
    from soundcert.data import LIST_SUFFIXES, DataConfig, load_items

    kind = "manifest" if place.suffix.lower() in LIST_SUFFIXES else "folder"
    root = place.resolve()
    chosen = validate(DataConfig, {"source": kind, "root": root}, "--data")
    if before is None:
        return chosen
    known = before.source not in ("folder", "manifest") and any((root / mark).exists() for mark in _MARKS)
    if known:  # the same data set in another place: all that the config says of it holds
        return before.model_copy(update={"root": root, "limit": None})
    items = load_items(chosen) if before.label_map or before.split or before.folds else []
    # How recordings are cut is part of what is certified; of the table of labels what these data have.
    present = {item.label for item in items}
    table = {theirs: ours for theirs, ours in before.label_map.items() if theirs in present}
    kept: dict[str, Any] = {"cut": before.cut, "label_map": table}
    for field, asked, has in (
        ("split", before.split, any(item.split is not None for item in items)),
        ("folds", before.folds, any(item.fold is not None for item in items)),
    ):
        if asked and has:  # clips of others were trained on; where these are missing, that is an error
            kept[field] = asked
        elif asked:
            print(
                f"soundcert: --data: {place} has no {field}, of which the config asks for {asked}: all clips are taken",
                file=sys.stderr,
            )
    return chosen.model_copy(update=kept)


Tick = Callable[[int, int, str], None]


def clips_of(items: Sequence[Item], tick: Tick) -> Iterator[Any]:
    for number, item in enumerate(items, start=1):
        try:
            yield item.load()
        except InputError as error:
            yield (item.name, error)
        tick(number, len(items), item.name)


@contextmanager
def bar(what: str, total: Callable[[], int | None] = lambda: None) -> Iterator[Tick]:
    """A progress bar with clips/s and time left; nothing where stderr is not a terminal.

    total: how many clips there will be, asked for before the first of them is done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done, _total, _name: check_stopped()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[clip]}", style="dim", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total(), clip="", speed="")

        def tick(done: int, total: int, name: str) -> None:
            check_stopped()
            speed = progress.tasks[0].speed
            rate = f"{speed:.2f} clips/s" if speed else ""
            progress.update(task, completed=done, total=total, clip=name[-40:], speed=rate)

        yield tick


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    leave(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    with stopping_on_signals():
        try:
            with advising():
                result = app(
                    arguments,
                    exit_on_error=False,
                    print_error=False,
                    result_action="return_value",
                )
        except CycloptsError as error:
            return _refused(f"{_missing(error) or error} See `{_verb(error)} --help`")
        except SoundcertError as error:
            return _refused(str(error))
        except BrokenPipeError:
            # The reader of a pipe has gone; nothing is left to be told.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            where = f" {str(error.filename)!r}" if error.filename is not None else ""
            return _refused(f"cannot read or write{where}: {error.strerror or error}")
        except MemoryError:
            return _refused("out of memory: use fewer or shorter clips, or give the job more memory")
        except KeyboardInterrupt as stop:
            return stopped(stop)
    return result if isinstance(result, int) else 0


def _missing(error: CycloptsError) -> str | None:
    """Say which option or argument a call was made without; None for other errors."""
    if not isinstance(error, MissingArgumentError) or error.argument is None or error.argument.tokens:
        return None
    what = (error.argument.parameter.help or "").rstrip(".")
    why = f" ({what[0].lower()}{what[1:]})" if what else ""
    return "; ".join([*_unknown_options(error), f"`{_verb(error)}` needs {error.argument.name}{why}."])


def _unknown_options(error: MissingArgumentError) -> list[str]:
    """Name options that the verb does not have: one of them may be what is missing, written otherwise."""
    arguments = (
        error.app.assemble_argument_collection(default_parameter=app.default_parameter) if error.app else ()
    )
    known = [name for argument in arguments for name in argument.names]
    given = [token.partition("=")[0] for token in error.unused_tokens or () if re.match("--?[a-zA-Z]", token)]
    out = []
    for name in dict.fromkeys(given):
        if name not in known:
            near = nearest(name, known)
            out.append(f"unknown option {name}{f' (did you mean {near}?)' if near else ''}")
    return out


def _verb(error: CycloptsError) -> str:
    return " ".join(("soundcert", *(error.command_chain or ())))


def _refused(reason: str) -> int:
    """Say why a call is refused."""
    print(f"soundcert: {one_line(reason)}", file=sys.stderr)
    return 2


def one_line(text: str) -> str:
    """Return text as one line that any terminal and log can hold, whatever names are in it."""
    line = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
