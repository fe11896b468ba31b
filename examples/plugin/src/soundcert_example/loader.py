"""A kind of model: templates in a .templates file (a NumPy .npz), the label of the most similar one wins."""

from __future__ import annotations

import zipfile

import numpy as np
import torch
from torch import Tensor

from soundcert.errors import ModelError
from soundcert.models.loaders import Loaded, Loader, Request
from soundcert.models.loaders.base import check_options, file_digest, first_line


def load(request: Request) -> Loaded:
    """Read `templates` (classes, samples), `labels` and `rate`. A file runs no code, so that no trust is asked for."""
    check_options(request, ())
    try:
        with np.load(request.path, allow_pickle=False) as held:
            templates, labels, rate = held["templates"], held["labels"].tolist(), int(held["rate"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{request.name} is not a file of templates (templates, labels, rate): {first_line(error)}"
        ) from error
    w = torch.from_numpy(templates / np.linalg.norm(templates, axis=1, keepdims=True)).float()

    def run(x: Tensor) -> Tensor:
        """Rows `(batch, samples)` to each template's similarity at its best shift, up to half its length."""
        shift = w.shape[1] // 2
        padded = torch.nn.functional.pad(x, (shift, shift)).unsqueeze(1)
        return torch.nn.functional.conv1d(padded, w.unsqueeze(1)).amax(dim=2)

    return Loaded(
        run,
        request.name,
        shape=(w.shape[1],),
        digest=file_digest(request.path),
        runtime="templates, torch fp32",
        labels=tuple(labels),
        rate=rate,
        outputs="logits",
        gradients=True,
        facts={"templates": f"{len(labels)} of {w.shape[1]} samples"},
    )


LOADER = Loader("templates", load, "templates that a clip is compared with", suffixes=(".templates",))
