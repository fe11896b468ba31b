"""The verb that looks at a model which soundcert did not make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from soundcert.cli.app import Json, Trust, app, print_json
from soundcert.errors import ConfigError


@app.command
def inspect(
    model: Annotated[
        str,
        Parameter(
            help="An .onnx, .tflite, .pt or .pt2 file, a folder or hub name, or package.module:function."
        ),
    ],
    *,
    trust: Trust = False,
    labels: Annotated[
        str | None, Parameter(help="Names of the classes in order, with commas; or a text file, one a line.")
    ] = None,
    rate: Annotated[
        int | None, Parameter(help="Sampling rate that the model was trained on, in hertz.")
    ] = None,
    seconds: Annotated[float | None, Parameter(help="Length of a clip, where the model takes any.")] = None,
    shape: Annotated[
        str | None, Parameter(help="A row that it takes, where the file does not say, as 16000 or 40,101.")
    ] = None,
    data: Annotated[
        Path | None, Parameter(help="Folder of recordings, one folder a class, for the config.")
    ] = None,
    weights: Annotated[
        str | None, Parameter(help="Safetensors file, where MODEL is a function that makes the network.")
    ] = None,
    options: Annotated[
        str | None, Parameter(help="The model's own options as YAML, such as '{chunk: 512, state: {h: hn}}'.")
    ] = None,
    out: Annotated[Path | None, Parameter(help="Write a starting config to this file.")] = None,
    as_json: Json = False,
) -> int:
    """Say what a model takes and gives, whether it can be certified, and write a starting config.

    Exit code 1: it is not deterministic, and cannot be certified as it is.

    Example: `soundcert inspect kws.onnx --labels yes,no,other --data recordings --out kws.yaml`
    """
    from soundcert.inspection import inspect_model, write_config

    if rate is not None and rate < 1:
        raise ConfigError(f"--rate must be a positive number of hertz, got {rate}")
    if seconds is not None and not 0 < seconds < 3600:
        raise ConfigError(f"--seconds must be from 0 to 3600, got {seconds:g}")
    if data is not None and not data.is_dir():
        raise ConfigError(f"--data: no folder at {data}")
    found = inspect_model(
        model, trust=trust, labels=_labels(labels), rate=rate, seconds=seconds, shape=_shape(shape),
        options=_options(options), weights=weights,
    )  # fmt: skip
    contract = write_config(found, out, data) if out is not None and found.deterministic else None
    if as_json:
        print_json({**found.to_dict(), "config": str(out) if contract else None, "contract": contract})
    else:
        lines = found.lines()
        width = max(len(name) for name, _ in lines)
        for name, value in lines:
            print(f"{name:{width}}  {value}")
        if contract:
            print(f"\nThe config: {out} ({contract})")
            print(f"Lines with `# ?` are guesses. Next: soundcert audit {out}{' --trust' if trust else ''}")
        elif not found.deterministic:
            print("\nNo config: a certificate needs a fixed function. Look for dropout, or other randomness.")
    return 0 if found.deterministic else 1


def _labels(given: str | None) -> tuple[str, ...]:
    if given is None:
        return ()
    if "," not in given and Path(given).is_file():
        try:
            lines = Path(given).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise ConfigError(f"--labels: {given} is not UTF-8 text") from None
        return tuple(line.strip() for line in lines if line.strip())
    return tuple(part.strip() for part in given.split(",") if part.strip())


def _options(given: str | None) -> dict[str, Any]:
    if given is None:
        return {}
    import yaml

    try:
        values = yaml.safe_load(given)
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict):
        raise ConfigError(f"--options must be a YAML mapping, as '{{chunk: 512}}', got {given!r}")
    return values


def _shape(given: str | None) -> tuple[int, ...]:
    if given is None:
        return ()
    try:
        sizes = tuple(int(part) for part in given.strip("() ").split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1 or len(sizes) > 4:
        raise ConfigError(f"--shape must be whole numbers with commas, as 16000 or 40,101, got {given!r}")
    return sizes
