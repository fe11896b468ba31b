"""The kinds of model that soundcert did not make: one loader each, behind one registry."""

from soundcert.models.loaders import factory, hf, onnx_file, python, tflite, torch_files
from soundcert.models.loaders.adapt import Adapter, Outputs, looks_like, parse_layout, probe_rows
from soundcert.models.loaders.base import (
    PACKAGE,
    Loaded,
    Loader,
    Request,
    all_loaders,
    is_loader,
    known_loaders,
    load,
    loader_of,
    path_of,
    register_loader,
)

#: The kinds that come with soundcert: each is a field of the `model` stage.
BUILT_IN = ("python", "onnx", "torchscript", "exported", "tflite", "hf", "factory")

__all__ = [
    "BUILT_IN",
    "PACKAGE",
    "Adapter",
    "Loaded",
    "Loader",
    "Outputs",
    "Request",
    "all_loaders",
    "factory",
    "hf",
    "is_loader",
    "known_loaders",
    "load",
    "loader_of",
    "looks_like",
    "onnx_file",
    "parse_layout",
    "path_of",
    "probe_rows",
    "python",
    "register_loader",
    "tflite",
    "torch_files",
]
