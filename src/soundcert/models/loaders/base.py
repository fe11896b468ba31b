"""What every kind of model file shares: the request, what comes of it, and the registry of kinds.

Conventions
-----------
A loader turns a `Request` into a `Loaded`, whose `run` maps float32 rows `(batch, *row)` to whatever the model
returns, `(batch, classes)` or `(batch,)`; layout, batches of a fixed size and the reading of the outputs are
`adapt`'s. A loader runs no code from a file unless `request.trust` says so (`demand_trust`).
"""

from __future__ import annotations

import importlib
import importlib.util
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from soundcert.errors import ConfigError, MissingDependencyError, ModelError, did_you_mean, how_to_install

Run = Callable[[Tensor], Tensor]
ENTRY_POINTS = "soundcert.loaders"
#: Before the path of a file in an installed package, such as `package:silero_vad/data/silero_vad.onnx`.
PACKAGE = "package:"


@dataclass(frozen=True)
class Request:
    """What a config asks for. source: a path, or a dotted name. folder: where the config lies. weights: a file beside."""

    kind: str
    source: str
    folder: Path | None = None
    trust: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None

    @property
    def path(self) -> Path:
        return path_of(self.source)

    @property
    def name(self) -> str:
        """The source as a contract names it: never an absolute path."""
        return self.path.name


def path_of(source: str) -> Path:
    """Return where a model's file lies: a path, or `package:NAME/FILE` in an installed package (not imported)."""
    if not source.startswith(PACKAGE):
        return Path(source)
    name, _, rest = source[len(PACKAGE) :].partition("/")
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not rest or ".." in Path(rest).parts or not places:
        what = f"no package {name!r} is installed" if rest else "the file is missing"
        raise ConfigError(
            f"model: {source!r}: {what}; write `package:NAME/FILE`, a file in an installed package"
        )
    return next((Path(p, rest) for p in places if Path(p, rest).exists()), Path(places[0], rest))


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run, and what is known of it.

    run: rows `(batch, *row)` float32 to the model's own output. shape: a row as the file declares it, None for
    a dimension that is free, and None altogether where the file says nothing. batch: rows a pass where the file
    fixes them, None for any number. digest: BLAKE2b-128 of what was loaded, None where that is not known.
    name: as the contract names it; note: what it says beside that. runtime: what computes it, as the contract
    names it; None where it is a torch module that any engine may take over. labels, rate: where the file says.
    outputs: what the file says that its numbers are, None where it does not. gradients: whether autograd sees
    through. facts: more to tell a person.
    """

    run: Run
    name: str
    note: str = ""
    shape: tuple[int | None, ...] | None = None
    batch: int | None = None
    digest: str | None = None
    runtime: str | None = None
    labels: tuple[str, ...] | None = None
    rate: int | None = None
    outputs: str | None = None
    gradients: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def module(self) -> nn.Module | None:
        """The torch module, where an engine may take it over."""
        return self.run if isinstance(self.run, nn.Module) and self.runtime is None else None


@dataclass(frozen=True)
class Loader:
    """One kind of model. suffixes: of its files, for `soundcert inspect`. names_file: its source is a path."""

    name: str
    load: Callable[[Request], Loaded]
    summary: str
    suffixes: tuple[str, ...] = ()
    names_file: bool = True


_REGISTRY: dict[str, Loader] = {}


def register_loader(loader: Loader) -> Loader:
    """Make a kind of model a word of the `model` stage.

    Third parties declare an entry point in the group `soundcert.loaders` that names a Loader; it is imported the
    first time a config uses the word, which must be the Loader's name.
    """
    if loader.name in _REGISTRY and _REGISTRY[loader.name] is not loader:
        raise ConfigError(f"a loader named {loader.name!r} is registered already")
    _REGISTRY[loader.name] = loader
    return loader


def known_loaders() -> dict[str, Loader]:
    """Return every registered loader by name (entry points not yet imported are left out)."""
    return dict(sorted(_REGISTRY.items()))


def all_loaders() -> dict[str, Loader]:
    """Return every loader by name, those of entry points imported."""
    for point in entry_points(group=ENTRY_POINTS):
        loader_of(point.name)
    return known_loaders()


def is_loader(name: str) -> bool:
    """Whether a word names a kind of model, registered or by an entry point (which is not imported for it)."""
    return name in _REGISTRY or any(point.name == name for point in entry_points(group=ENTRY_POINTS))


def loader_of(name: str) -> Loader:
    """Return the loader of a kind; ConfigError names the nearest known one."""
    if name not in _REGISTRY:
        for point in entry_points(group=ENTRY_POINTS):
            if point.name == name:
                found = point.load()
                if not isinstance(found, Loader) or found.name != name:
                    raise ConfigError(f"entry point {name!r} in {ENTRY_POINTS} is not a Loader of that name")
                register_loader(found)
                break
        else:
            raise ConfigError(f"unknown kind of model {name!r}{did_you_mean(name, _REGISTRY)}")
    return _REGISTRY[name]


def load(request: Request) -> Loaded:
    """Load a model of any kind. SoundcertErrors say in one line what to do."""
    loader = loader_of(request.kind)
    if loader.names_file and not request.path.exists():
        raise ModelError(f"no model at {request.source}: correct the path of `{request.kind}`")
    return loader.load(request)


# What loaders share


def file_digest(*paths: Path) -> str:
    """BLAKE2b-128 over the bytes of files, each preceded by its length."""
    digest = blake2b(digest_size=16)
    for path in paths:
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def demand_trust(request: Request, why: str) -> None:
    """Raise ConfigError unless the user trusts the model's code."""
    if not request.trust:
        raise ConfigError(
            f"model: {request.name} ({request.kind}) {why}: if you trust whoever made it, call soundcert with --trust, and "
            f"in a config write `trust: true` beside `{request.kind}`"
        )


def need(package: str, extra: str, why: str) -> Any:
    """Import an optional package; MissingDependencyError names the `pip install` that brings it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        top = package.split(".", maxsplit=1)[0]
        raise MissingDependencyError(
            f"{why} needs the package {top!r}, which is not installed: {how_to_install(extra)}"
        ) from None


def check_options(request: Request, known: tuple[str, ...]) -> None:
    for option in request.options:
        if option not in known:
            raise ConfigError(f"model: {request.kind} has no option {option!r}{did_you_mean(option, known)}")


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:")[:300]


def refuse_pickle(path: Path, wanted: str) -> None:
    """Raise ModelError where a file is a pickle, bare or in torch's zip: reading one runs what is in it."""
    with path.open("rb") as handle:
        head = handle.read(4)
    pickled = head[:1] == b"\x80"
    if head == b"PK\x03\x04":
        members = zip_members(path)
        # TorchScript and torch.export archives hold pickles too, beside code or a model that names them.
        pickled = any(name.endswith("data.pkl") for name in members) and not is_torchscript(members)
    if pickled:
        raise ModelError(
            f"{path.name} is a pickle and not {wanted}: reading a pickle runs whatever is in it, so it is refused. "
            "Export the model to ONNX, or save its state_dict() with safetensors.torch.save_file"
        )


def zip_members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def is_torchscript(members: list[str]) -> bool:
    return any(name.endswith("constants.pkl") for name in members)


def is_exported(members: list[str]) -> bool:
    """Whether zip members are those of torch.export.save (one layout up to torch 2.7, another since)."""
    names = [name.split("/", 1)[-1] for name in members]
    return any(n == "serialized_exported_program.json" or n.startswith("models/") for n in names)
