"""Names of the Hugging Face hub: from the cache, from a hub on loopback, and in one line where there is neither."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import soundcert as sc
from loopback import send
from soundcert.errors import ModelError
from soundcert.inspection import inspect_model, write_config
from soundcert.models.loaders.hf import is_hub_name
from soundcert.stages import Model

transformers = pytest.importorskip("transformers", reason="the extra `hf` is not installed")
hub = pytest.importorskip("huggingface_hub", reason="the extra `hf` is not installed")

NAME, COMMIT = "someone/tones", "0123456789abcdef0123456789abcdef01234567"
OLD = "f" * 40


@dataclass
class Hub:
    """The part of the hub's interface that a download uses, over the files of a folder.

    revisions: other ones than the newest by their name, with their commit and folder.
    """

    files: Path
    url: str = ""
    asked: list[str] = field(default_factory=list)
    revisions: dict[str, tuple[str, Path]] = field(default_factory=dict)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.asked.append(f"{request.command} {path}")
        parts = path.split("/")
        others = (held for name, held in self.revisions.items() if name in parts or held[0] in parts)
        commit, files = next(others, (COMMIT, self.files))
        if path.startswith(f"/api/models/{NAME}"):
            names = sorted(p.name for p in files.iterdir())
            body = {"id": NAME, "sha": commit, "siblings": [{"rfilename": n} for n in names], "private": False,
                    "tags": [], "downloads": 0, "likes": 0}  # fmt: skip
            if "/tree/" in path:
                body = [
                    {"type": "file", "path": n, "size": (files / n).stat().st_size, "oid": "0"} for n in names
                ]
            self._send(request, json.dumps(body).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/{NAME}/resolve/"):
            held = (files / path.rpartition("/")[2]).read_bytes()
            etag = hashlib.sha256(held).hexdigest()
            self._send(request, held, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})
        else:
            code = {"X-Error-Code": "RepoNotFound", "Content-Length": "0"}
            send(request, 404, code)

    def _send(self, request: BaseHTTPRequestHandler, body: bytes, headers: dict[str, str]) -> None:
        send(
            request,
            200,
            {**headers, "Content-Length": str(len(body))},
            b"" if request.command == "HEAD" else body,
        )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_kernel=(10, 8), conv_stride=(5, 4), num_feat_extract_layers=2, num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, classifier_proj_size=8, id2label={0: "high", 1: "low"},
    )  # fmt: skip
    transformers.Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80 a pickle, which nobody fetches")
    (folder / "modeling.py").write_text("raise SystemExit('code, which nobody fetches')")
    return folder


@pytest.fixture
def served(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub(saved)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.answer(self)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    for proxy in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    monkeypatch.setenv("HF_ENDPOINT", found.url)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    yield found
    server.shutdown()
    server.server_close()


def test_a_name_is_fetched_once_and_then_taken_from_the_cache(served, saved) -> None:
    stage = Model(hf=NAME)
    assert stage.labels == ("high", "low")
    assert stage.describe() == f"model(hf {NAME}, revision {COMMIT[:8]})"
    fetched = {one.rpartition("/")[2] for one in served.asked if one.startswith("GET") and "/resolve/" in one}
    assert {"config.json", "model.safetensors"} <= fetched
    assert not fetched & {"pytorch_model.bin", "modeling.py"}, "neither pickles nor code are fetched"
    assert stage.digest == Model(hf=str(saved)).digest
    count = len(served.asked)
    assert Model(hf=NAME).digest == stage.digest
    assert len(served.asked) == count, "no second request"


@pytest.mark.usefixtures("served")
def test_inspect_writes_a_config_with_the_name(tmp_path) -> None:
    found = inspect_model(NAME)
    assert (found.kind, found.labels, found.rate) == ("hf", ("high", "low"), 16_000)
    write_config(found, tmp_path / "c.yaml")
    text = (tmp_path / "c.yaml").read_text()
    assert f"hf: {NAME}" in text
    assert "standardize" in text
    pipe = sc.Pipeline.from_yaml(tmp_path / "c.yaml")
    assert pipe.model.hf == NAME, "a name is no path beside the config"


def test_inspect_reads_the_extractor_of_the_revision_that_the_weights_are_of(served, saved, tmp_path) -> None:
    """The hub has two revisions: the newer one's feature extractor leaves the samples as they are."""
    served.files = shutil.copytree(saved, tmp_path / "newer")
    told = json.loads((served.files / "preprocessor_config.json").read_text())
    (served.files / "preprocessor_config.json").write_text(json.dumps({**told, "do_normalize": False}))
    served.revisions = {"old": (OLD, saved)}
    found = inspect_model(NAME, options={"revision": "old"})
    write_config(found, tmp_path / "c.yaml")
    assert "standardize" in (tmp_path / "c.yaml").read_text()
    assert "revision: old" in (tmp_path / "c.yaml").read_text()
    write_config(inspect_model(NAME), tmp_path / "newest.yaml")
    assert "standardize" not in (tmp_path / "newest.yaml").read_text()


def test_a_broken_download_is_not_taken_for_a_model(served, tmp_path) -> None:
    Model(hf=NAME)
    (snapshot,) = (tmp_path / "cache").glob("models--*/snapshots/*")
    (snapshot / "model.safetensors").unlink()
    count = len(served.asked)
    assert Model(hf=NAME).labels == ("high", "low")
    assert len(served.asked) > count


@pytest.mark.usefixtures("served")
def test_a_name_that_nobody_has_is_one_line() -> None:
    with pytest.raises(ModelError, match="no public model of that name") as error:
        Model(hf="someone/else")
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("served")
def test_without_a_network_there_is_one_line(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.chdir(tmp_path)
    specs = [{"gaussian_noise": {"sigma": 0.1}}, {"model": {"hf": NAME}}]
    with pytest.raises(
        ModelError, match=r"no folder here, and not in the local cache.*cannot be reached.*hf download"
    ) as error:
        sc.Pipeline.from_specs(specs, tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_a_name() -> None:
    assert is_hub_name("MIT/ast-finetuned-speech-commands-v2")
    assert not any(is_hub_name(s) for s in ("folder", "/abs/folder", "../up", "a/b/c", "./a", "a/", "a b/c"))
