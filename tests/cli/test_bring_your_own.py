"""docs/bring-your-own.md: the five commands and every row of its table, run as written."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import soundcert as sc
from foreign import (
    PYTHON,
    SAMPLES,
    Detector,
    write_features_onnx,
    write_onnx,
    write_stateful_onnx,
    write_tflite,
)
from helpers import folder_of_tones
from soundcert.demo import demo_folder
from soundcert.models import bundled, load_weights
from soundcert.stages.mel import mel_filters

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "bring-your-own.md").read_text(encoding="utf-8")
CONFIGS = dict(re.findall(r"^```yaml (\S+\.yaml)\n(.*?)^```$", PAGE, re.S | re.M))
TABLE = PAGE.partition("<!-- begin: kinds -->\n")[2].partition("<!-- end: kinds -->")[0]
ROWS = {
    re.match(r"\[(.*?)\]", row[0])[1]: row
    for row in ([cell.strip() for cell in line.strip("|\n ").split("|")] for line in TABLE.splitlines()[2:])
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models that the page speaks of, with recordings; not to be written to."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    home = tmp_path_factory.mktemp("own")
    folder_of_tones(home / "recordings", each=1)
    (home / "my_package").mkdir()
    (home / "my_package" / "__init__.py").write_text("")
    functions = PYTHON.replace(
        "def numbers(x):\n    return logits(x)", "def numbers(x):\n    return arrays(x)"
    )
    functions = functions.replace("with torch.no_grad():", "with torch.set_grad_enabled(True):")
    (home / "my_package" / "models.py").write_text(functions)
    write_onnx(home / "waveform.onnx")
    write_onnx(home / "int8.onnx", batch=1, quantised=True)
    (home / "my_package" / "nets.py").write_text(
        "from foreign import Detector\n\n\ndef make(tones):\n    assert tones == 2\n    return Detector()\n"
    )
    save_file(Detector().state_dict(), home / "detector.safetensors")
    write_stateful_onnx(home / "state.onnx")
    w = np.random.default_rng(0).normal(size=(88, 2)).astype(np.float32)
    write_features_onnx(home / "features.onnx", (11, 8), w)
    net = Detector().eval()
    torch.jit.save(torch.jit.trace(net, torch.zeros(2, SAMPLES)), home / "script.pt")
    free = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(
        torch.export.export(net, (torch.zeros(2, SAMPLES),), dynamic_shapes=free), home / "program.pt2"
    )
    return home


def hugging_face(home: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `hf` is not installed")
    if (home / name).exists():
        return
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
             "id2label": {0: "high", 1: "low"}}  # fmt: skip
    torch.manual_seed(0)
    if name == "wav2vec2":
        config = transformers.Wav2Vec2Config(
            **small, conv_dim=(8, 8), conv_kernel=(10, 8), conv_stride=(5, 4), num_feat_extract_layers=2,
            num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, classifier_proj_size=8,
        )  # fmt: skip
        network, extractor = (
            transformers.Wav2Vec2ForSequenceClassification(config),
            transformers.Wav2Vec2FeatureExtractor(),
        )
    elif name == "ast":
        network = transformers.ASTForAudioClassification(
            transformers.ASTConfig(**small, max_length=64, num_mel_bins=32)
        )
        extractor = transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=32, mean=-6.5, std=3.5)
    else:
        config = transformers.WhisperConfig(
            d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, max_source_positions=100,
            decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, classifier_proj_size=8, vocab_size=20,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, id2label={0: "high", 1: "low"},
        )  # fmt: skip
        network = transformers.WhisperForAudioClassification(config)
        extractor = transformers.WhisperFeatureExtractor(chunk_length=2)
    network.save_pretrained(home / name)
    extractor.save_pretrained(home / name)


def test_every_row_has_its_config_and_every_config_its_row() -> None:
    assert set(ROWS) == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_row_of_the_table(zoo, cli, monkeypatch, tmp_path, name) -> None:
    _, _, takes, noise_on, black_box, gradients, rows, computed, engines, needs = ROWS[name]
    assert black_box == "yes", "which the certificates below show"
    if name in ("wav2vec2.yaml", "ast.yaml", "whisper.yaml"):
        hugging_face(zoo, name.removesuffix(".yaml"))
    if name == "tflite.yaml":
        pytest.importorskip("ai_edge_litert", reason="the extra `tflite` is not installed")
        w = np.random.default_rng(0).normal(size=(SAMPLES, 2)).astype(np.float32)
        write_tflite(zoo / "int8.tflite", w, ((0.01, 0), (0.5, 0)))
    monkeypatch.syspath_prepend(str(zoo))
    config = zoo / name
    config.write_text(CONFIGS[name], encoding="utf-8")
    specs = yaml.safe_load(CONFIGS[name])["pipeline"]
    trust = ["--trust"] if "with trust" in ROWS[name][1] else []
    assert bool(trust) == bool(specs[-1]["model"].get("trust"))
    if trust:
        assert cli("audit", config).code == 2

    words = name in ("weights.yaml", "windows.yaml")
    clips = ["--limit", 1] if words else []
    options = [*trust, *clips]
    if words:  # its labels
        shutil.copytree(demo_words(tmp_path), tmp_path / "recordings", dirs_exist_ok=True)
        options += ["--data", tmp_path / "recordings"]
    assert cli("audit", config, *options).code == 0
    assert cli("certify", config, *options, "--out", tmp_path / "run").code == 0
    facts = yaml.safe_load((tmp_path / "run" / "run.json").read_text())
    assert facts["contract"]["engine"] == computed
    assert str(zoo) not in str(facts["contract"]) + facts["statement"]

    pipe = sc.Pipeline.from_yaml(config, trust=bool(trust))
    loaded = pipe.model.loaded
    assert gradients == ("yes" if loaded is None or loaded.gradients else "no")
    assert rows == ("any" if loaded is None or loaded.batch is None else str(loaded.batch))
    extra = re.search(r"soundcert\[(\w+)\]", needs)
    if extra:
        assert f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text()

    # Another engine takes over what is a torch module; the rest is refused before a run is begun.
    assert engines == ("any" if loaded is None or loaded.module is not None else "none")
    if engines == "none":
        other = zoo / f"engine-{name}"
        other.write_text(
            CONFIGS[name].replace("certify: {", "certify: {engine: onnxruntime, "), encoding="utf-8"
        )
        ran = cli("certify", other, *options, "--out", tmp_path / "other")
        assert (ran.code, "cannot take over" in ran.err) == (2, True)

    # The noise anywhere above the model.
    kinds = set()
    front = [s for s in specs[:-1] if not (isinstance(s, dict) and "gaussian_noise" in s)]
    cut = next((i for i, s in enumerate(front) if isinstance(s, dict) and "windows" in s), len(front))
    for place in range(cut + 1):
        moved = [*front[:place], {"gaussian_noise": {"sigma": 0.01}}, *front[place:], specs[-1]]
        bound = sc.Pipeline.from_specs(moved, zoo, trust=bool(trust))
        route = bound.route(sc.Space("file", "waveform", (16_000,), 16_000))
        kinds.add(route.object.kind)
        if loaded is not None and gradients == "yes":
            x = torch.zeros(1, *route.object.shape).normal_(generator=torch.Generator().manual_seed(0))
            y = route.run(x.requires_grad_())
            assert torch.autograd.grad(y[0, 0], x)[0].isfinite().all()
    if "windows" in CONFIGS[name]:  # of waveforms here; windows of frames stand below noise on features
        assert kinds == {"waveform"}
    else:
        assert kinds == ({"waveform", "feature"} if takes == "features" else {"waveform"})
        assert noise_on == ("waveform, features" if takes == "features" else "waveform")
    for module in ("models", "nets"):
        sys.modules.pop(f"my_package.{module}", None)


def demo_words(folder: Path) -> Path:
    """Copy the bundled clips into folders of their words."""
    import csv

    for row in csv.DictReader((demo_folder() / "meta.csv").open()):
        place = folder / "words" / row["label"]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo_folder() / row["file"], place)
    return folder / "words"


class Spotter(nn.Module):
    """The bundled keyword spotter from the waveform on: RMS 1, log-mel by a convolution, the network."""

    def __init__(self) -> None:
        super().__init__()
        loaded = load_weights(bundled("kws-waveform"))
        self.network, self.labels = loaded.module, loaded.labels
        n = np.arange(512)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 512)
        angles = 2 * np.pi * np.outer(np.arange(257), n) / 512
        waves = np.concatenate([np.cos(angles), np.sin(angles)]) * window
        self.register_buffer("waves", torch.tensor(waves[:, None], dtype=torch.float32))
        filters = np.concatenate([mel_filters(16_000, 512, 40, 0.0, None, "htk", None)] * 2, axis=1)
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        x = x / x.square().mean(dim=1, keepdim=True).sqrt()
        parts = F.conv1d(x.unsqueeze(1), self.waves, stride=160, padding=256).square()
        return self.network(torch.log(torch.matmul(self.filters, parts) + 1.0))


def test_five_commands_from_install_to_certificate(tmp_path, monkeypatch, cli) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    spotter = Spotter().eval()
    program = torch.onnx.export(
        spotter, (torch.randn(2, 16_000),), dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )  # fmt: skip
    program.save(str(tmp_path / "kws.onnx"))
    demo_words(tmp_path).rename(tmp_path / "recordings")
    monkeypatch.chdir(tmp_path)
    block = re.search(r"^```sh\n(pip install.*?)^```$", PAGE, re.S | re.M)[1]
    install, *commands = block.splitlines()
    assert len(commands) == 4
    extra = re.fullmatch(r"pip install -c constraints.txt '\.\[(\w+)\]'", install)[1]
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
    printed = {}
    for command in commands:
        words = shlex.split(command)
        assert words.pop(0) == "soundcert"
        ran = cli(*words)
        assert ran.code == 0, ran.err
        printed[words[0]] = ran.out
    assert "kws.onnx (onnx)" in printed["inspect"]
    assert "fixed-gain waveform smoothing" in printed["audit"]
    assert "3 certified" in printed["certify"]
    assert "yes" in printed["predict"]
    # The page's excerpt is what was written.
    (excerpt,) = re.findall(r"^```text\n(data: .*?)^```$", PAGE, re.S | re.M)
    written = (tmp_path / "kws.yaml").read_text(encoding="utf-8")
    assert written.endswith(excerpt)
