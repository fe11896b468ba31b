"""Audio classifiers of Hugging Face transformers: `{hf: folder}`, or `{hf: owner/name}` (`soundcert[hf]`).

The folder is what `save_pretrained` writes: config.json, safetensors, preprocessor_config.json. Only the network
is loaded here; its feature extractor becomes stages of the pipeline (`front_of`), where the contract sees it.
A name of the hub is taken from the local cache, and fetched only where it is not there: these files and no others.
No code of the folder is run, and weights that are pickled are refused.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from soundcert.errors import ConfigError, ModelError
from soundcert.models.loaders.base import (
    Loaded,
    Loader,
    Request,
    check_options,
    file_digest,
    first_line,
    need,
    register_loader,
)

#: What is fetched of a model on the hub: no code, no pickles.
FETCHED = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")
WAVEFORM, AST, WHISPER = "waveform", "ast", "whisper"


class HfClassifier(nn.Module):
    """The network: a waveform `(batch, samples)`, or features `(batch, bands, frames)`, to logits."""

    def __init__(self, model: Any, takes: str) -> None:
        super().__init__()
        self.model = model
        self.takes = takes

    def forward(self, x: Tensor) -> Tensor:
        if self.takes == WHISPER:
            out = self.model(input_features=x)
        elif self.takes == AST:
            out = self.model(input_values=x.transpose(1, 2))
        else:
            out = self.model(input_values=x)
        logits: Tensor = out.logits
        return logits


def read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder.name}/{name} cannot be read: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{folder.name}/{name} must hold a JSON object")
    return values


def is_hub_name(source: str) -> bool:
    """Whether a source may be a name of the hub, owner/name."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source) is not None


def folder_of(source: str, revision: str | None = None) -> Path:
    """Return a model's folder: itself, or that of a name of the hub in the local cache, fetched if need be."""
    folder = Path(source)
    if folder.is_dir() or not is_hub_name(source):
        if not (folder / "config.json").is_file():
            what = "has no config.json" if folder.is_dir() else "is no folder"
            raise ModelError(
                f"{folder.name if folder.is_absolute() else source} {what}: `hf` takes a folder that save_pretrained "
                "wrote, or a name of the hub, owner/name"
            )
        return folder
    return _from_hub(source, revision)


def _from_hub(name: str, revision: str | None) -> Path:
    hub = need("huggingface_hub", "hf", "a name of the Hugging Face hub")
    errors = need("huggingface_hub.errors", "hf", "a name of the Hugging Face hub")
    asked = {"revision": revision, "allow_patterns": list(FETCHED)}
    try:
        folder = Path(hub.snapshot_download(name, local_files_only=True, **asked))
        if _complete(folder):
            return folder
    except (errors.LocalEntryNotFoundError, FileNotFoundError):
        pass
    by_hand = f"or fetch it elsewhere with `hf download {name} --local-dir FOLDER` and name the folder"
    what = f"{name} is no folder here, and not in the local cache of the Hugging Face hub"
    try:
        with quiet(bars=sys.stderr.isatty()):
            folder = Path(hub.snapshot_download(name, endpoint=os.environ.get("HF_ENDPOINT"), **asked))
    except errors.GatedRepoError:
        raise ModelError(
            f"{name} is gated: agree to its terms on the hub and log in (`hf auth login`), {by_hand}"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(
            f"{name} has no revision {revision!r} on the hub: correct `options: {{revision: …}}`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{what}; the hub has no public model of that name: correct it, or log in (`hf auth login`)"
        ) from None
    except Exception as error:  # whatever a network fails with
        off = isinstance(error, errors.OfflineModeIsEnabled) or hub.constants.HF_HUB_OFFLINE
        state = "is switched off (HF_HUB_OFFLINE)" if off else "cannot be reached"
        raise ModelError(f"{what}; the hub {state}: go online once, {by_hand}") from None
    return folder


def _complete(folder: Path) -> bool:
    """Whether a cached snapshot has all that is asked for: a broken download leaves some of it."""
    if not (folder / "config.json").is_file():
        return False
    indexes = list(folder.glob("*.safetensors.index.json"))
    if not indexes:
        return any(folder.glob("*.safetensors"))
    needed = {
        str(part)
        for index in indexes
        for part in read_json(folder, index.name).get("weight_map", {}).values()
    }
    return all((folder / part).is_file() for part in needed)


def takes(config: dict[str, Any]) -> str:
    """Say what a model takes: a waveform, or which features."""
    kind = config.get("model_type")
    return {"audio-spectrogram-transformer": AST, "whisper": WHISPER}.get(str(kind), WAVEFORM)


def load_hf(request: Request) -> Loaded:
    """Load an audio classifier from a local folder, in evaluation mode."""
    check_options(request, ("revision",))
    revision = request.options.get("revision")
    folder = folder_of(request.source, None if revision is None else str(revision))
    hub = not Path(request.source).is_dir()
    title = request.source if hub else folder.resolve().name
    config = read_json(folder, "config.json")
    transformers = need("transformers", "hf", "a model of Hugging Face transformers")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = ", ".join(sorted(p.name for p in folder.glob("*.bin")))
        raise ModelError(
            f"{folder.name} has no safetensors{f', only pickles ({pickled}), which run code when read' if pickled else ''}: "
            "save it with save_pretrained(safe_serialization=True)"
        )
    if config.get("auto_map"):
        raise ModelError(f"{folder.name} needs code of its own (auto_map), which is not run")
    with quiet():
        try:
            model, told = transformers.AutoModelForAudioClassification.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )  # fmt: skip
        except Exception as error:
            raise ModelError(
                f"{folder.name} cannot be loaded as an audio classifier ({config.get('model_type')}): {first_line(error)}"
            ) from error
    missing = sorted(told.get("missing_keys", ()))
    if missing:
        raise ModelError(
            f"{folder.name} lacks weights ({missing[0]}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}), "
            "which would be random: it is no trained classifier"
        )
    what = takes(config)
    names = model.config.id2label
    shape: tuple[int | None, ...] = (None,)
    if what == AST:
        shape = (model.config.num_mel_bins, model.config.max_length)
    elif what == WHISPER:
        shape = (model.config.num_mel_bins, 2 * model.config.max_source_positions)
    rate = None
    if (folder / "preprocessor_config.json").is_file():
        rate = read_json(folder, "preprocessor_config.json").get("sampling_rate")
    return Loaded(
        HfClassifier(model, what).eval(),
        title,
        f"revision {folder.name[:8]}" if hub else "",
        shape=shape,
        digest=file_digest(folder / "config.json", *weights),
        labels=tuple(str(names[i]) for i in sorted(names)),
        rate=rate if isinstance(rate, int) else None,
        outputs="logits",
        gradients=True,
        facts={"network": f"{type(model).__name__}, {sum(p.numel() for p in model.parameters())} parameters"},
    )


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Keep transformers from warning of what is none of the user's business, and from drawing bars but for `bars`."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    from transformers.utils import logging as hf_logging

    drawn = hf_logging.is_progress_bar_enabled()
    if not bars:
        hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        if drawn:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def front_of(source: str, revision: str | None = None) -> list[dict[str, dict[str, Any]]]:
    """Return a feature extractor as stages of a pipeline, from the rate to the network's input.

    revision: that of the weights, for a name of the hub: another one may have another extractor. The clip's length is
    the user's: an extractor of waveforms takes any.
    """
    folder = folder_of(source, revision)
    told = read_json(folder, "preprocessor_config.json")
    kind = str(told.get("feature_extractor_type") or told.get("processor_class"))
    rate = int(told.get("sampling_rate", 16_000))
    if kind == "Wav2Vec2FeatureExtractor":
        return wav2vec2_front(told, rate)
    if kind == "ASTFeatureExtractor":
        return ast_front(told, rate)
    if kind == "WhisperFeatureExtractor":
        return whisper_front(told, rate)
    raise ConfigError(
        f"{folder.name}: the feature extractor {kind} is not known to soundcert: write its steps as stages yourself"
    )


def wav2vec2_front(told: dict[str, Any], rate: int) -> list[dict[str, dict[str, Any]]]:
    """Resampling, and with do_normalize (x − mean)/√(variance + 1e-7) over the clip."""
    stages: list[dict[str, dict[str, Any]]] = [{"resample": {"rate": rate}}]
    if told.get("do_normalize", True):
        stages.append({"standardize": {"floor": 1e-7**0.5, "floor_mode": "sqrt"}})
    return stages


def ast_front(told: dict[str, Any], rate: int) -> list[dict[str, dict[str, Any]]]:
    """Kaldi's filter bank, frames filled up with zeros *before* (x − mean)/(2·std).

    No `fit` stands above them: a short clip's frames are filled up with zeros, which are loud, and not with those
    of silence.
    """
    frames = int(told.get("max_length", 1024))
    stages: list[dict[str, dict[str, Any]]] = [
        {"resample": {"rate": rate}},
        {
            "kaldi_fbank": {
                "n_mels": int(told.get("num_mel_bins", 128)),
                **({} if rate == 16_000 else {"rate": rate}),
            }
        },
        {"fit_frames": {"frames": frames}},
    ]
    if told.get("do_normalize", True):
        mean, std = float(told.get("mean", -4.2677393)), float(told.get("std", 4.5689974))
        stages.append({"feature_standardize": {"mean": mean, "std": 2 * std}})
    return stages


def whisper_front(told: dict[str, Any], rate: int) -> list[dict[str, dict[str, Any]]]:
    """30 s from the start, log-mel in dB (10·log10), 80 dB below the clip's largest value, (x + 40)/40."""
    if told.get("dither"):
        raise ConfigError(
            "the feature extractor dithers, which is noise of its own: set `dither` to 0 in its config"
        )
    hop, n_fft = int(told.get("hop_length", 160)), int(told.get("n_fft", 400))
    samples = int(told.get("chunk_length", 30)) * rate
    mel: dict[str, Any] = {
        "n_mels": int(told.get("feature_size", 80)), "n_fft": n_fft, "hop": hop, "f_max": 8000.0, "mel_scale": "slaney",
        "mel_norm": "slaney", "floor": 1e-10, "floor_mode": "max", "log": "db", "pad_mode": "reflect",
    }  # fmt: skip
    if rate != 16_000:
        mel["rate"] = rate
    return [
        {"resample": {"rate": rate}},
        {"fit": {"samples": samples, "place": "start"}},
        {"log_mel": mel},
        {"fit_frames": {"frames": samples // hop}},
        {"dynamic_range": {"range": 80.0}},
        {"feature_standardize": {"mean": -40.0, "std": 40.0}},
    ]


LOADER = register_loader(
    Loader(
        "hf",
        load_hf,
        "an audio classifier of Hugging Face transformers, a folder or owner/name",
        names_file=False,
    )
)
