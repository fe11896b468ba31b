"""Hugging Face audio classifiers: the extractor as stages equals the extractor itself, to 1e-4.

Networks are small and randomly initialised; they are written to a folder with save_pretrained and read back.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import soundcert as sc
from soundcert.config import build_stages
from soundcert.errors import ConfigError, ModelError
from soundcert.inspection import inspect_model, write_config
from soundcert.models.loaders import hf
from soundcert.stages import DynamicRange, FitFrames, KaldiFbank, Model, Stage

transformers = pytest.importorskip("transformers", reason="the extra `hf` is not installed")

RATE = 16_000
LABELS = {0: "dog", 1: "rain", 2: "siren"}
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "id2label": LABELS,
}


def clip(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """Quiet at first and loud in the end, at 16 bits; not of zero mean."""
    rng = np.random.default_rng(seed)
    n = round(RATE * seconds)
    x = 0.02 + rng.standard_normal(n) * np.linspace(0.001, 0.3, n)
    return (np.round(x.clip(-1, 0.999) * 2**15) / 2**15).astype(np.float32)


def wav2vec2(kind: str) -> tuple:
    conv = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (5, 4), "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8}  # fmt: skip
    if kind == "wav2vec2":
        network = transformers.Wav2Vec2ForSequenceClassification(transformers.Wav2Vec2Config(**SMALL, **conv))
    else:
        network = transformers.HubertForSequenceClassification(transformers.HubertConfig(**SMALL, **conv))
    return network, transformers.Wav2Vec2FeatureExtractor(do_normalize=True)


def ast(frames: int) -> tuple:
    config = transformers.ASTConfig(**SMALL, max_length=frames, num_mel_bins=32, patch_size=16)
    extractor = transformers.ASTFeatureExtractor(max_length=frames, num_mel_bins=32, mean=-6.5, std=3.5)
    return transformers.ASTForAudioClassification(config), extractor


def whisper() -> tuple:
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, decoder_layers=1, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=80, max_source_positions=100, id2label=LABELS,
        classifier_proj_size=8, vocab_size=20, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return transformers.WhisperForAudioClassification(config), transformers.WhisperFeatureExtractor(
        chunk_length=2
    )


MODELS = {
    "wav2vec2": lambda: wav2vec2("wav2vec2"),
    "hubert": lambda: wav2vec2("hubert"),
    "ast, cropped": lambda: ast(64),
    "ast, filled up": lambda: ast(128),
    "whisper": whisper,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, object, object]]:
    made = {}
    for name, make in MODELS.items():
        torch.manual_seed(0)
        network, extractor = make()
        folder = tmp_path_factory.mktemp("hf") / name.split(",")[0]
        network.save_pretrained(folder)
        extractor.save_pretrained(folder)
        made[name] = folder, network.eval(), extractor
    return made


def front(folder: Path) -> list[Stage]:
    stages = build_stages(hf.front_of(str(folder)))
    space = sc.Space("file", "waveform", (RATE,), RATE)
    bound = []
    for stage in stages:
        bound.append(stage.bind(space))
        space = bound[-1].space(space)
    return bound


@pytest.mark.parametrize("name", MODELS)
def test_the_stages_equal_the_extractor(folders, name) -> None:
    folder, network, extractor = folders[name]
    x = clip()
    theirs = extractor(x, sampling_rate=RATE, return_tensors="pt")
    (inputs,) = [theirs[key] for key in ("input_values", "input_features") if key in theirs]
    for dtype in (torch.float32, torch.float64):
        ours = torch.tensor(x, dtype=dtype)[None]
        for stage in front(folder):
            ours = stage(ours)
        got = ours.transpose(1, 2) if name.startswith("ast") else ours
        assert got.shape == inputs.shape
        assert float((got - inputs).abs().max()) < 1e-4
    with torch.no_grad():
        expected = network(inputs).logits
        logits = Model(hf=str(folder))(ours.float())
    assert float((logits - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_noise_stands_anywhere_and_the_contract_names_each_step(folders, name) -> None:
    folder = folders[name][0]
    steps = hf.front_of(str(folder))
    recording = sc.Clip.from_array(clip(), RATE)
    kinds = set()
    for place in range(len(steps) + 1):
        specs = [
            *steps[:place],
            {"gaussian_noise": {"sigma": 0.01}},
            *steps[place:],
            {"model": {"hf": str(folder)}},
        ]
        pipe = sc.Pipeline.from_specs(specs)
        contract = sc.contract.read_contract(pipe.route(recording.space))
        named = [s.split("(")[0] for s in (*contract.pre_noise, *contract.post_noise_stages)]
        assert named == [next(iter(s)) for s in steps]
        assert contract.model == f"model(hf {folder.name})"
        kinds.add(contract.kind)
        if "standardize" in named:
            assert "standardize" in contract.gain_policy
    expected = {"fixed-gain waveform smoothing", "post-processed waveform smoothing"}
    expected |= {"feature-space smoothing"} if name not in ("wav2vec2", "hubert") else set()
    assert kinds == expected


@pytest.mark.parametrize("name", ["wav2vec2", "ast, filled up", "whisper"])
def test_a_certificate(folders, name) -> None:
    folder = folders[name][0]
    steps = hf.front_of(str(folder))
    specs = [*steps, {"gaussian_noise": {"sigma": 0.001}}, {"model": {"hf": str(folder)}}]
    pipe = sc.Pipeline.from_specs(specs)
    assert pipe.labels == tuple(LABELS.values())
    cert = sc.certify(pipe, sc.Clip.from_array(clip(), RATE), n0=5, n=20)
    assert cert.status == "certified"
    assert cert.label in LABELS.values()


@pytest.mark.parametrize("name", ["hubert", "ast, filled up", "whisper"])
def test_inspect_writes_the_steps_down(folders, tmp_path, name) -> None:
    folder = folders[name][0]
    found = inspect_model(str(folder))
    assert (found.kind, found.labels, found.rate) == ("hf", tuple(LABELS.values()), RATE)
    assert (found.deterministic, found.rows_independent, found.gradients) == (True, True, True)
    contract = write_config(found, tmp_path / "c.yaml")
    assert contract.startswith("fixed-gain waveform smoothing")
    pipe = sc.Pipeline.from_yaml(tmp_path / "c.yaml")
    named = [next(iter(s)) for s in pipe.to_specs()]
    assert [n for n in named if n not in ("mono", "fit", "gaussian_noise", "model")] == [
        next(iter(s)) for s in hf.front_of(str(folder)) if "fit" not in s
    ]
    audit = sc.audit(pipe, [sc.Clip.from_array(clip(), RATE)])
    assert not audit.failed
    assert audit.seconds_a_pass


def test_gradients_reach_the_samples(folders) -> None:
    x = torch.tensor(clip())[None].requires_grad_()
    Model(hf=str(folders["wav2vec2"][0]))(x)[0, 0].backward()
    assert float(x.grad.abs().max()) > 0


def test_the_digest_covers_weights_and_config(folders, tmp_path) -> None:
    import shutil

    folder = folders["ast, cropped"][0]
    first = Model(hf=str(folder)).digest
    shutil.copytree(folder, tmp_path / "copy")
    assert Model(hf=str(tmp_path / "copy")).digest == first
    text = (tmp_path / "copy" / "config.json").read_text()
    (tmp_path / "copy" / "config.json").write_text(text.replace("dog", "cat"))
    assert Model(hf=str(tmp_path / "copy")).digest != first


# --- refusals --------------------------------------------------------------------------------------


def test_pickled_weights_and_code_of_its_own_are_refused(folders, tmp_path) -> None:
    import json
    import shutil

    folder = folders["wav2vec2"][0]
    shutil.copytree(folder, tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").rename(tmp_path / "a" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickles \(pytorch_model.bin\), which run code"):
        Model(hf=str(tmp_path / "a"))
    shutil.copytree(folder, tmp_path / "b")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForAudioClassification": "evil.Model"}
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="code of its own"):
        Model(hf=str(tmp_path / "b"))


def test_a_network_without_its_head_is_refused(tmp_path) -> None:
    network, _ = wav2vec2("wav2vec2")
    network.wav2vec2.save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="lacks weights"):
        Model(hf=str(tmp_path / "bare"))


def test_an_extractor_that_is_not_known_is_said(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text('{"feature_extractor_type": "ClapFeatureExtractor"}')
    with pytest.raises(ConfigError, match="ClapFeatureExtractor is not known"):
        hf.front_of(str(tmp_path))
    text = '{"feature_extractor_type": "WhisperFeatureExtractor", "dither": 0.1}'
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ConfigError, match="noise of its own"):
        hf.front_of(str(tmp_path))


def test_a_wrong_number_of_bands_is_told_before_any_draw(folders) -> None:
    specs = ["mono", {"log_mel": {"n_mels": 40}}, {"gaussian_noise": {"sigma": 0.1}}]
    pipe = sc.Pipeline.from_specs([*specs, {"model": {"hf": str(folders["ast, cropped"][0])}}])
    with pytest.raises(ModelError, match=r"takes \(batch, 32, 64\) but receives \(batch, 40, 101\)"):
        pipe.route(sc.Space("file", "waveform", (RATE,), RATE))


# --- the stages ------------------------------------------------------------------------------------


def test_stages_say_what_they_are() -> None:
    before = sc.Space("file", "waveform", (RATE,), RATE)
    space = KaldiFbank(n_mels=32).space(before)
    assert (space.shape, space.kind, space.unit) == ((32, 98), "feature", "nats")
    assert FitFrames(120).space(space).shape == (32, 120)
    x = torch.randn(2, 32, 98, generator=torch.Generator().manual_seed(0)) * 100
    assert torch.equal(FitFrames(50)(x), x[..., :50])
    assert FitFrames(100, -1.0)(x)[..., 98:].unique().tolist() == [-1.0]
    limited = DynamicRange(80.0)(x)
    assert torch.allclose(limited.flatten(1).amin(1), x.flatten(1).amax(1) - 80)
    assert DynamicRange(80.0).pull_back(x, torch.ones(2)) is None
    with pytest.raises(ConfigError, match="waveform"):
        KaldiFbank().space(space)
    with pytest.raises(ConfigError, match="resample"):
        KaldiFbank(rate=8000).space(before)


def test_rows_of_a_filter_bank_do_not_meet() -> None:
    x = torch.tensor(np.stack([clip(0.2, 1), clip(0.2, 2)]))
    both = KaldiFbank()(x)
    assert torch.allclose(both[:1], KaldiFbank()(x[:1]), atol=1e-5)
