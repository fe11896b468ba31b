"""TorchScript files and torch.export archives: both run code that the file brings, so both ask for trust."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from soundcert.errors import ModelError
from soundcert.models.loaders.base import (
    Loaded,
    Loader,
    Request,
    check_options,
    demand_trust,
    file_digest,
    first_line,
    is_exported,
    is_torchscript,
    refuse_pickle,
    register_loader,
    zip_members,
)


def load_torchscript(request: Request) -> Loaded:
    """Load a TorchScript file, in evaluation mode."""
    check_options(request, ())
    members = zip_members(request.path)
    if is_exported(members):
        raise ModelError(f"{request.name} is a torch.export archive: write `exported: {request.name}`")
    refuse_pickle(request.path, "a TorchScript file (torch.jit.save)")
    if not is_torchscript(members):
        raise ModelError(f"{request.name} is not a TorchScript file: write one with torch.jit.save")
    demand_trust(request, "is a program that torch runs as it stands")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of the format, which is not the user's choice
            module = torch.jit.load(str(request.path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ModelError(f"{request.name} cannot be read as TorchScript: {first_line(error)}") from error
    module.eval()

    def run(x: Tensor) -> Any:
        return module(x)

    return Loaded(
        run,
        request.name,
        digest=file_digest(request.path),
        runtime="torch fp32, TorchScript",
        gradients=True,
    )


def load_exported(request: Request) -> Loaded:
    """Load a torch.export archive (.pt2)."""
    check_options(request, ())
    members = zip_members(request.path)
    if is_torchscript(members) and not is_exported(members):
        raise ModelError(f"{request.name} is a TorchScript file: write `torchscript: {request.name}`")
    if not is_exported(members):
        refuse_pickle(request.path, "a torch.export archive (torch.export.save)")
        raise ModelError(f"{request.name} is not a torch.export archive: write one with torch.export.save")
    demand_trust(request, "holds pickled constants and a program, and reading it can run code")
    try:
        program = torch.export.load(str(request.path))
        module = program.module()
    except Exception as error:
        raise ModelError(
            f"{request.name} cannot be read as a torch.export archive: {first_line(error)}"
        ) from error
    dims: list[int | None] = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
            dims = [n if isinstance(n, int) else None for n in node.meta["val"].shape]
            break

    def run(x: Tensor) -> Any:
        return module(x)

    return Loaded(
        run,
        request.name,
        shape=tuple(dims[1:]) if dims else None,
        batch=dims[0] if dims else None,
        digest=file_digest(request.path),
        runtime="torch fp32, torch.export",
        gradients=True,
    )


LOADERS = (
    register_loader(
        Loader("torchscript", load_torchscript, "a TorchScript file, with trust", (".pt", ".pth", ".ts"))
    ),
    register_loader(Loader("exported", load_exported, "a torch.export archive, with trust", (".pt2",))),
)
