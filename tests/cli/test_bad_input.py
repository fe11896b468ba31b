"""Bad clips, bad configs, bad weights: each is told in one line, and a bad clip never ends a run."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

import soundcert as sc
from helpers import (
    HIGH,
    LOW,
    MODEL,
    NOISE,
    OPTIONS,
    RATE,
    WAVEFORM,
    folder_of_tones,
    records,
    tone,
    without_times,
    write,
    write_untrained,
    yaml_of,
)
from soundcert.cli import run
from soundcert.errors import ModelError
from soundcert.models import build_network
from soundcert.stages import GaussianNoise, Model

# Torch says so of pickles that it refuses.
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

# --- bad clips -------------------------------------------------------------------------------------


def empty(path: Path) -> None:
    path.write_bytes(b"")


def header_only(path: Path) -> None:
    write(path, np.zeros(0, np.int16))


def truncated_flac(path: Path) -> None:
    whole = write(
        path.with_suffix(".flac"), np.random.default_rng(0).integers(-9000, 9000, 16_000).astype(np.int16)
    )
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.unlink()


def truncated_wav(path: Path) -> None:
    write(path, tone(LOW))
    path.write_bytes(path.read_bytes()[:-100])


def text(path: Path) -> None:
    path.write_text("The quick brown fox.\n" * 20)


def with_a(value: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        samples = tone(LOW) / 2**15
        samples[37] = value
        write(path, samples, subtype="FLOAT")

    return make


def silent(path: Path) -> None:
    write(path, np.zeros(1600, np.int16))


def wav_header(rate: int, frames: int) -> bytes:
    """The 44 bytes of an 8-bit mono WAV of so many frames."""
    return (
        struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + frames, b"WAVE", b"fmt ", 16, 1, 1, rate, rate, 1, 8)
        + struct.pack("<4sI", b"data", frames)
    )  # fmt: skip


def two_hours(path: Path) -> None:
    """57.6 MB that take no room on the disk."""
    with path.open("wb") as file:
        file.write(wav_header(8000, 7200 * 8000))
        file.truncate(44 + 7200 * 8000)


def two_hours_claimed(path: Path) -> None:
    path.write_bytes(wav_header(8000, 7200 * 8000) + bytes(4000))


def two_hours_of_flac(path: Path) -> None:
    """The length stands in 36 bits of the STREAMINFO block."""
    whole = write(path.with_suffix(".flac"), tone(LOW))
    data = bytearray(whole.read_bytes())
    assert data[:4] == b"fLaC"
    total = 7200 * RATE
    data[21] = data[21] & 0xF0 | total >> 32
    data[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    path.write_bytes(data)
    whole.unlink()


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere.wav"))


def endless(path: Path) -> None:
    os.mkfifo(path)


BAD_CLIPS = {
    "empty": (empty, r"empty one \(0 bytes\)"),
    "header only": (header_only, "announces none"),
    "truncated FLAC": (truncated_flac, "truncated"),
    "truncated WAV": (truncated_wav, r"truncated: expected 3200 bytes.*got 3100"),
    "text": (text, "not audio"),
    "NaN": (with_a(np.nan), "1 NaN or infinite of 1600, the first at frame 37"),
    "infinity": (with_a(-np.inf), "1 NaN or infinite of 1600, the first at frame 37"),
    "silence": (silent, "rms_normalize: the clip is silent"),
    "two hours": (two_hours, r"at most 600 s, got 7200\.0 s"),
    "two hours claimed": (two_hours_claimed, "600 s|truncated"),
    "two hours of FLAC claimed": (two_hours_of_flac, r"at most 600 s, got 7200\.0 s"),
    "a link to nothing": (dangling, "there is no file"),
    "a pipe": (endless, "pipe or a device"),
}


@pytest.fixture
def never_more_than_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding more than a minute is an error here, so that a long clip is refused from its header."""
    read = soundfile.SoundFile.read

    def guarded(self: soundfile.SoundFile, *args: object, **kwargs: object) -> object:
        assert self.frames <= 60 * self.samplerate, "a clip of hours was decoded"
        return read(self, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", guarded)


@pytest.mark.usefixtures("never_more_than_the_header")
@pytest.mark.parametrize("kind", BAD_CLIPS)
def test_one_bad_clip_is_recorded_and_the_others_certified(cli, home, kind):
    make, reason = BAD_CLIPS[kind]
    make(home / "clips" / "high" / "0 bad.wav")
    make(home / "clips" / "low" / "1 bad.wav")
    ran = cli("certify", home / "kws.yaml", "--out", home / "run", "--json")
    assert ran.code == 1
    assert (ran.json["clips"], ran.json["certified"], ran.json["failed"]) == (6, 4, 2)
    assert ran.json["smoothed_accuracy"] == 1.0
    rows = records(home / "run")
    assert [row["clip"] for row in rows] == [
        "high/0 bad.wav", "high/0.wav", "high/1.wav", "low/0.wav", "low/1 bad.wav", "low/1.wav",
    ]  # fmt: skip
    for row in rows:
        if "bad" in row["clip"]:
            assert set(row) == {"clip", "status", "reason", "truth"}
            assert row["status"] == "failed"
            assert "\n" not in row["reason"]
            assert_matches(reason, row["reason"])
        else:
            assert row["label"] == row["truth"]
    # The good clips have the certificates that they have without the bad ones.
    for bad in ("high/0 bad.wav", "low/1 bad.wav"):
        (home / "clips" / bad).unlink()
    assert cli("certify", home / "kws.yaml", "--out", home / "good").code == 0
    assert without_times(home / "good") == [
        row for row in without_times(home / "run") if row["status"] != "failed"
    ]


def assert_matches(pattern: str, message: str) -> None:
    assert re.search(pattern, message), f"{message!r} does not say {pattern!r}"


@pytest.mark.usefixtures("never_more_than_the_header")
@pytest.mark.parametrize("kind", BAD_CLIPS)
def test_a_bad_clip_has_no_prediction_and_is_listed_by_the_audit(cli, home, kind):
    make, reason = BAD_CLIPS[kind]
    bad = home / "clips" / "high" / "bad.wav"
    make(bad)
    ran = cli("predict", home / "kws.yaml", home / "clips/high/0.wav", bad, "--n", 30, "--json")
    assert ran.code == 1
    assert [answer["status"] for answer in ran.json] == ["predicted", "failed"]
    assert_matches(reason, ran.json[1]["reason"])
    assert ran.err.count("\n") == 1
    assert_matches(reason, ran.err)
    ran = cli("audit", home / "kws.yaml", "--json")
    assert ran.code == 1
    assert set(ran.json["failed"]) == {"high/bad.wav"}
    assert_matches(reason, ran.json["failed"]["high/bad.wav"])
    assert len(ran.json["clips"]) == 4


def test_a_run_of_bad_clips_alone_says_so(cli, home):
    for name in ("a", "b"):
        text(write(home / "bad" / "low" / f"{name}.wav", tone(LOW)))
    ran = cli("certify", home / "kws.yaml", "--out", home / "run", "--data", home / "bad", "--json")
    assert ran.code == 1
    assert (ran.json["clips"], ran.json["failed"]) == (2, 2)
    assert "smoothed_accuracy" not in ran.json
    assert cli("audit", home / "kws.yaml", "--data", home / "bad").code == 1


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 96_000])
def test_other_rates_are_resampled(cli, home, rate):
    # 8 kHz cannot hold the high tone of 4 kHz.
    label, frequency = ("low", LOW) if rate < 11_000 else ("high", HIGH)
    write(home / "other" / label / "a.wav", tone(frequency, 3, rate=rate, seconds=0.12), rate)
    ran = cli(
        "certify", home / "kws.yaml", "--out", home / "run", "--data", home / "other", "--report-in", "file"
    )
    assert ran.code == 0
    (row,) = records(home / "run")
    assert row["label"] == label
    assert row["object_norm"] == pytest.approx(40.0)
    # Resampling scales norms by about the root of the rates' ratio; the bound is below the true one.
    chain = row["spaces"]["file"]["chain"]
    (step,) = [i for i, step in enumerate(chain) if step["stage"].startswith("resample")]
    ratio = chain[step]["radius"] / chain[step - 1]["radius"] / (rate / RATE) ** 0.5
    assert 0.4 < ratio < 1.01


def test_another_rate_without_resampling_is_recorded_with_what_to_do(cli, home):
    write(home / "clips" / "low" / "slow.wav", tone(LOW, rate=8000), 8000)
    (home / "kws.yaml").write_text(yaml_of([s for s in WAVEFORM if "resample" not in s]))
    assert cli("certify", home / "kws.yaml", "--out", home / "run").code == 1
    (bad,) = [row for row in records(home / "run") if row["status"] == "failed"]
    assert bad["clip"] == "low/slow.wav"
    assert "8000 Hz" in bad["reason"]
    assert "resample: {rate: 16000}" in bad["reason"]


def test_eight_channels_with_mono(cli, home):
    write(home / "clips" / "low" / "eight.wav", np.stack([tone(LOW, i) for i in range(8)], axis=1))
    assert cli("certify", home / "kws.yaml", "--out", home / "run").code == 0
    (row,) = [row for row in records(home / "run") if row["clip"] == "low/eight.wav"]
    assert row["label"] == "low"


def test_eight_channels_without_mono(cli, home):
    write(home / "clips" / "low" / "eight.wav", np.stack([tone(LOW, i) for i in range(8)], axis=1))
    (home / "kws.yaml").write_text(yaml_of(WAVEFORM[1:]))
    ran = cli("certify", home / "kws.yaml", "--out", home / "run", "--json")
    assert ran.code == 1
    assert (ran.json["certified"], ran.json["failed"]) == (4, 1)
    (bad,) = [row for row in records(home / "run") if row["status"] == "failed"]
    assert bad["clip"] == "low/eight.wav"
    assert "has 8: put `mono` above it" in bad["reason"]
    assert "log_mel" in bad["reason"]


def test_a_clip_too_short_for_a_frame_is_recorded(cli, home):
    write(home / "clips" / "low" / "short.wav", tone(LOW, seconds=0.005))
    stages = [stage for stage in WAVEFORM if not stage.startswith("fit")]
    stages = [stage.replace("n_fft: 256", "n_fft: 256, pad_mode: none") for stage in stages]
    (home / "kws.yaml").write_text(yaml_of(stages))
    assert cli("certify", home / "kws.yaml", "--out", home / "run").code == 1
    (bad,) = [row for row in records(home / "run") if row["status"] == "failed"]
    assert bad["clip"] == "low/short.wav"
    assert "put `fit` above it" in bad["reason"]


# --- bad data lists --------------------------------------------------------------------------------


def refused(cli, *call: object) -> str:
    ran = cli(*call)
    assert ran.code == 2
    return ran.err


def test_a_folder_without_audio(cli, home):
    (home / "papers" / "low").mkdir(parents=True)
    (home / "papers" / "low" / "notes.txt").write_text("no audio")
    error = refused(cli, "certify", home / "kws.yaml", "--out", home / "run", "--data", home / "papers")
    assert "expected audio files" in error
    assert not (home / "run").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "nothing of that name"),
        ("nowhere.csv", "nothing of that name"),
        ("even.wav", "got a file"),
    ],
)
def test_data_that_is_not_there(cli, home, name, words):
    assert words in refused(cli, "certify", home / "kws.yaml", "--out", home / "run", "--data", home / name)


def test_a_label_that_the_model_does_not_name(cli, home, monkeypatch):
    monkeypatch.setattr(Model, "__call__", no_pass)
    (home / "clips" / "high").rename(home / "clips" / "hihg")
    error = refused(cli, "certify", home / "kws.yaml", "--out", home / "run")
    assert "label 'hihg'" in error
    assert "did you mean 'high'?" in error
    assert "label_map" in error
    assert not (home / "run").exists()


def no_pass(*_: object, **__: object) -> Tensor:
    raise AssertionError("the model was run")


# --- bad configs -----------------------------------------------------------------------------------


def edited(home: Path, old: str, new: str) -> Path:
    text = yaml_of(WAVEFORM, more="train: {epochs: 1}")
    assert old in text
    path = home / "edited.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rms_normalize", "rms_normalise", ("stage 4", "'rms_normalise'", "did you mean 'rms_normalize'?")),
        ("gaussian_noise", "gausian_noise", ("stage 5", "did you mean 'gaussian_noise'?")),
        ("sigma:", "sgima:", ("stage 5", "'sgima'", "did you mean 'sigma'?")),
        ("n_mels:", "n_mel:", ("log_mel", "did you mean 'n_mels'?")),
        ("weights:", "weight:", ("model", "did you mean 'weights'?")),
        ("pipeline:", "pipline:", ("'pipline'", "did you mean 'pipeline'?")),
        ("certify:", "certfy:", ("'certfy'", "did you mean 'certify'?")),
        ("n0:", "n_0:", ("certify.n_0", "did you mean 'n0'?")),
        ("alpha:", "aplha:", ("certify.aplha", "did you mean 'alpha'?")),
        ("epochs:", "epoch:", ("train.epoch", "did you mean 'epochs'?")),
        ("source:", "sourse:", ("data.sourse", "did you mean 'source'?")),
        ("folder", "foler", ("data.source", "did you mean 'folder'?")),
        ("sigma: 0.15", "sigma: 0", ("sigma must be positive and finite, got 0",)),
        ("sigma: 0.15", "sigma: -0.5", ("sigma must be positive and finite, got -0.5",)),
        ("sigma: 0.15", "sigma: .nan", ("sigma must be positive and finite, got nan",)),
        ("sigma: 0.15", "sigma: .inf", ("sigma must be positive and finite, got inf",)),
        ("sigma: 0.15", "sigma: loud", ("stage 5", "number", "'loud'")),
        ("{sigma: 0.15}", "", ("stage 5", "sigma", "required")),
        ("target: 1.0", "target: 0", ("target must be positive",)),
        ("seconds: 0.1", "seconds: -1", ("seconds must be positive",)),
        ("alpha: 0.001", "alpha: 1.5", ("certify.alpha", "less than 1", "1.5")),
        ("seed: 0", "seed: -1", ("certify.seed", "-1")),
        ("  - gaussian_noise: {sigma: 0.15}\n", "", ("exactly one noise stage, got 0",)),
        ("  - mono\n", "  - mono\n  - gaussian_noise: {sigma: 1.0}\n", ("exactly one noise stage, got 2",)),
        ("  - mono\n", "  - {mono: , resample: {rate: 8000}}\n", ("stage 1", "one stage a line")),
        ("pipeline:", "pipeline: [", ("not valid YAML",)),
        ("log_mel: {", "log_mel: {rate: 8000, ", ("stage 6", "8000 Hz")),
        ("source: folder", "source: folder, split: test", ("data.split",)),
        ("source: folder", "source: folder, limit: 0", ("data.limit",)),
        ("source: folder", "source: folder, labels: [low, yes]", ("put quotes",)),
    ],
)
def test_a_mistake_in_a_config_is_named_with_the_nearest_word(cli, home, old, new, words):
    path = edited(home, old, new)
    ran = cli("certify", path, "--out", home / "run")
    if ran.code == 1:  # a stage that fits no clip is each clip's own failure
        reasons = {row["reason"] for row in records(home / "run")}
        assert len(reasons) == 1
        error = reasons.pop()
    else:
        assert ran.code == 2
        assert not (home / "run").exists()
        error = ran.err
    for word in words:
        assert word in error, error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "mapping with `pipeline`"),
        (b"- mono\n", "got list"),
        (b"data: {source: folder, root: clips}\n", "`pipeline` is missing"),
        (b"pipeline: 5\n", "pipeline"),
        (b"pipeline: \xff\xfe\n", "UTF-8"),
        (b"!!python/object/apply:os.system ['touch owned']\n", "not valid YAML"),
        (b"x" * 1_000_001, "larger than a config can be"),
        (b"[" * 500, "not valid YAML"),
    ],
    ids=[
        "empty",
        "list",
        "no pipeline",
        "number",
        "not UTF-8",
        "python object",
        "large",
        "deep",
    ],
)
def test_a_file_that_is_no_config(cli, home, content, words, monkeypatch):
    monkeypatch.chdir(home)
    (home / "kws.yaml").write_bytes(content)
    for call in (("certify", "--out", "run"), ("audit",), ("predict", home / "even.wav"), ("train",)):
        verb, *rest = call
        assert words in refused(cli, verb, home / "kws.yaml", *rest)
    assert not (home / "owned").exists()
    assert not (home / "run").exists()


def test_a_stage_with_a_bare_value_is_told_how_stages_are_written(cli, home):
    error = refused(
        cli, "audit", edited(home, "gaussian_noise: {sigma: 0.15}", "gaussian_noise: 0.15"), "--limit", 1
    )
    assert "stage 5" in error
    assert "- name: {field: value}" in error


def test_a_message_stays_short_enough_to_read(cli, home):
    lines = ["train:", "  extra:", "  - &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in ("ab", "bc", "cd", "de"):
        lines.append(f"  - &{name} [{', '.join([f'*{before}'] * 9)}]")
    (home / "kws.yaml").write_text("\n".join([*lines, "pipeline: [*e]"]) + "\n")
    assert len(refused(cli, "audit", home / "kws.yaml")) < 1000


def test_a_config_that_is_not_there(cli, home):
    assert "no config at" in refused(cli, "certify", home / "nothing.yaml", "--out", home / "run")
    for call in (("audit", home), ("certify", home / "clips", "--out", home / "run"), ("train", home)):
        assert "it is a folder" in refused(cli, *call)


def test_mistakes_are_told_all_at_once_in_one_line(cli, home):
    path = edited(home, "n0:", "n_0:")
    path.write_text(path.read_text().replace("sigma:", "sgima:").replace("source:", "sourse:"))
    error = refused(cli, "certify", path, "--out", home / "run")
    for word in ("n0", "source", "sigma"):
        assert f"did you mean '{word}'?" in error


@pytest.mark.parametrize("bound", ["one-sided", "two-class"])
def test_n_too_small_for_alpha_is_refused_before_any_pass(cli, home, monkeypatch, bound):
    monkeypatch.setattr(Model, "__call__", no_pass)
    monkeypatch.setattr(nn.Module, "__call__", no_pass)
    path = edited(home, "seed: 0", f"seed: 0, bound: {bound}")
    for call in (("certify", path, "--out", home / "run"), ("audit", path)):
        error = refused(cli, *call, "--n", 5)
        assert "n = 5 is too small for alpha = 0.001" in error
        assert "use n ≥ 1" in error
    assert not (home / "run").exists()


def test_a_run_directory_that_cannot_be_written(cli, home):
    assert "cannot write to" in refused(cli, "certify", home / "kws.yaml", "--out", home / "even.wav")
    assert "cannot write to" in refused(cli, "certify", home / "kws.yaml", "--out", home / "even.wav" / "run")


# --- bad weights -----------------------------------------------------------------------------------


def weights(home: Path, fields: str) -> Path:
    return edited(home, MODEL, f"model: {{{fields}}}")


def test_weights_that_are_missing(cli, home):
    error = refused(cli, "certify", weights(home, "weights: nothing.safetensors"), "--out", home / "run")
    assert "no weights at" in error
    assert "soundcert train" in error
    assert "no bundled model 'nothing'" in refused(cli, "audit", weights(home, "weights: 'bundled:nothing'"))
    error = refused(cli, "certify", weights(home, "network: ds_cnn"), "--out", home / "run")
    assert "no weights" in error


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("options: {width: 3, blocks: 1}", ("do not fit network 'ds_cnn'", "size mismatch")),
        ("options: {width: 2, blocks: 2}", ("do not fit network 'ds_cnn'",)),
        ("options: {widht: 2}", ("did you mean 'width'?",)),
        ("network: event_cnn", ("was made with network 'ds_cnn'",)),
        ("network: ds_cn", ("ds_cnn",)),
        ("labels: [low, high]", ("was made with labels ['high', 'low']",)),
        ("labels: [high, low, other]", ("was made with labels",)),
        ("start: 9", ("do not fit 6 layers",)),
    ],
)
def test_weights_of_another_shape(cli, home, fields, words):
    error = refused(
        cli, "certify", weights(home, f"weights: tones.safetensors, {fields}"), "--out", home / "run"
    )
    for word in words:
        assert word in error


def test_an_option_of_another_type(cli, home):
    path = weights(home, "weights: tones.safetensors, options: {width: wide}")
    assert "width" in refused(cli, "certify", path, "--out", home / "run")


def test_tensors_without_a_header_need_the_network_and_the_labels(cli, home):
    net = build_network("ds_cnn", 2, OPTIONS)
    torch.save(net.state_dict(), home / "plain.pt")
    error = refused(cli, "certify", weights(home, "weights: plain.pt"), "--out", home / "run")
    assert "`network` and `labels`" in error
    fields = "weights: plain.pt, network: ds_cnn, options: {width: 2, blocks: 1, dropout: 0.0}, labels: [high, low]"
    assert cli("certify", weights(home, fields), "--out", home / "run").code == 0


class Payload:
    """Its pickle makes a file when it is read by whoever trusts it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


def pickles(home: Path) -> dict[str, bytes]:
    mark = home / "owned"
    torch.save({"weight": Payload(mark)}, home / "zip")
    torch.save({"weight": Payload(mark)}, home / "legacy", _use_new_zipfile_serialization=False)
    torch.save(build_network("ds_cnn", 2, OPTIONS), home / "module")
    return {
        "a pickle": pickle.dumps(Payload(mark)),
        "a zip of torch": (home / "zip").read_bytes(),
        "an old file of torch": (home / "legacy").read_bytes(),
        "a whole module": (home / "module").read_bytes(),
        "a list": pickle.dumps([1, 2]),
        "text": b"not weights",
        "nothing": b"",
        "noise": np.random.default_rng(0).bytes(1000),
    }


KINDS = (
    "a pickle",
    "a zip of torch",
    "an old file of torch",
    "a whole module",
    "a list",
    "text",
    "nothing",
    "noise",
)
HARMFUL = KINDS[:3]


def test_the_payloads_do_run_where_they_are_trusted(home):
    for kind in HARMFUL:
        (home / "trusted").write_bytes(pickles(home)[kind])
        try:
            torch.load(home / "trusted", weights_only=False)
        except Exception:  # the legacy reader wants more than the payload gives
            with (home / "trusted").open("rb") as file:
                pickle.load(file)
        assert (home / "owned").exists(), kind
        (home / "owned").unlink()


@pytest.mark.parametrize("suffix", [".pt", "", ".safetensors"])
@pytest.mark.parametrize("kind", HARMFUL)
def test_a_payload_in_weights_never_runs(home, kind, suffix):
    """Whatever else the call does: this stands apart from how the refusal reads."""
    (home / f"model{suffix}").write_bytes(pickles(home)[kind])
    for fields in ("", ", network: ds_cnn, labels: [high, low]"):
        path = weights(home, f"weights: model{suffix}{fields}")
        for call in (
            ("certify", path, "--out", home / "run"),
            ("audit", path),
            ("predict", path, home / "even.wav"),
        ):
            with contextlib.suppress(Exception):
                assert run([str(argument) for argument in call]) == 2
    assert not (home / "owned").exists()


@pytest.mark.parametrize("suffix", [".pt", "", ".safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_weights_is_refused(cli, home, kind, suffix):
    (home / f"model{suffix}").write_bytes(pickles(home)[kind])
    path = weights(home, f"weights: model{suffix}, network: ds_cnn, labels: [high, low]")
    error = refused(cli, "certify", path, "--out", home / "run")
    assert f"model{suffix}" in error
    assert any(words in error for words in ("refused", "dictionary of tensors"))
    assert not (home / "run").exists()


@pytest.mark.parametrize("cut", [4, 100, -1])
def test_a_torn_weight_file_is_refused(cli, home, cut):
    (home / "torn.safetensors").write_bytes((home / "tones.safetensors").read_bytes()[:cut])
    assert "torn.safetensors" in refused(cli, "audit", weights(home, "weights: torn.safetensors"))


def test_a_weight_file_of_a_later_format_is_refused(cli, home):
    from safetensors.torch import load_file, save_file

    state = load_file(home / "tones.safetensors")
    save_file(state, home / "later.safetensors", metadata={"soundcert": json.dumps({"format": 2})})
    error = refused(cli, "certify", weights(home, "weights: later.safetensors"), "--out", home / "run")
    assert "format 2" in error


@pytest.mark.parametrize("header", ["[1]", "5", '"x"'])
def test_a_weight_file_with_another_header_is_refused(cli, home, header):
    from safetensors.torch import load_file, save_file

    save_file(load_file(home / "tones.safetensors"), home / "odd.safetensors", metadata={"soundcert": header})
    refused(cli, "certify", weights(home, "weights: odd.safetensors"), "--out", home / "run")


def test_weights_of_nan_are_refused(cli, home):
    write_untrained(home / "nan.safetensors", ["high", "low"])
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    state = load_file(home / "nan.safetensors")
    with safe_open(home / "nan.safetensors", framework="pt") as file:
        metadata = file.metadata()
    state = {
        key: value * float("nan") if value.is_floating_point() else value for key, value in state.items()
    }
    save_file(state, home / "nan.safetensors", metadata=metadata)
    said = refused(cli, "certify", weights(home, "weights: nan.safetensors"), "--out", home / "run")
    assert "not finite" in (
        said or cli("certify", weights(home, "weights: nan.safetensors"), "--out", home / "run").err
    )
    assert not (home / "run").exists()


def test_a_pipeline_without_a_model_is_one_line(cli, home):
    text = (home / "kws.yaml").read_text()
    (home / "bare.yaml").write_text("\n".join(line for line in text.splitlines() if "model:" not in line))
    ran = cli("certify", home / "bare.yaml", "--out", home / "run")
    assert (ran.code, ran.out) == (2, "")
    assert "no model below the noise: add `model`" in ran.err
    assert not (home / "run").exists()


def test_an_engine_that_is_not_there_leaves_no_run_behind(cli, home, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (home / "other.yaml").write_text(
        (home / "kws.yaml").read_text().replace("certify: {", "certify: {engine: onnxruntime, ")
    )
    ran = cli("certify", home / "other.yaml", "--out", home / "run")
    assert ran.code == 2
    assert "pip install -c constraints.txt '.[onnx]'" in ran.err
    assert not (home / "run").exists()


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("clip: {low: 0.0, high: .inf}", "clip: high must be finite"),
        ("fixed_gain: {db: 1.0e+9}", "db must be from -1000 to 1000"),
        ("fixed_gain: {factor: 1.0e+40}", "more than 1e+12"),
    ],
)
def test_a_number_beyond_all_measure_is_one_line(cli, home, stage, words):
    text = (home / "kws.yaml").read_text()
    assert NOISE in text
    (home / "odd.yaml").write_text(text.replace(f"- {NOISE}", f"- {stage}\n  - {NOISE}"))
    for verb in (["audit", home / "odd.yaml"], ["certify", home / "odd.yaml", "--out", home / "run"]):
        ran = cli(*verb)
        told = ran.err + ran.out if words.startswith("more") else ran.err
        assert ran.code == (1 if words.startswith("more") else 2), ran
        assert words in told.replace("\n", " ")


def test_a_schema_takes_json_like_every_verb(cli):
    assert cli("schema", "--json").json == cli("schema").json


# --- models from Python ----------------------------------------------------------------------------


def clip() -> sc.Clip:
    return sc.Clip.from_array(tone(LOW), RATE)


class OverTheBatch(nn.Module):
    """Centres by the mean of the batch, as a layer without stored statistics does."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(dim=0))[:, :3] * 100


class ByChance(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.randn(len(x), 3)


def test_a_model_in_training_mode_is_refused():
    net = nn.Sequential(nn.Linear(1600, 4), nn.Dropout(0.5)).train()
    with pytest.raises(ModelError, match=r"training mode.*model\.eval\(\)"):
        sc.certify(sc.Pipeline([GaussianNoise(0.1), net]), clip(), n0=5, n=30)
    net.eval()
    net[1].train()
    with pytest.raises(ModelError, match=r"layer '1' \(Dropout\)"):
        sc.certify(sc.Pipeline([GaussianNoise(0.1), net]), clip(), n0=5, n=30)
    net.eval()
    assert sc.certify(sc.Pipeline([GaussianNoise(0.1), net]), clip(), n0=5, n=30).n == 30


@pytest.mark.parametrize("net", [OverTheBatch(), nn.BatchNorm1d(1600, track_running_stats=False), ByChance()])
def test_a_model_that_looks_at_its_neighbours_or_at_chance_is_refused(net):
    with pytest.raises(ModelError, match="function of each row"):
        sc.certify(sc.Pipeline([GaussianNoise(0.1), net.eval()]), clip(), n0=5, n=30)
    with pytest.raises(ModelError, match="function of each row"):
        sc.predict(sc.Pipeline([GaussianNoise(0.1), net.eval()]), clip(), n=30)


def test_a_model_that_does_not_take_the_object_is_refused_with_its_shape():
    with pytest.raises(ModelError, match=r"\(1600,\)"):
        sc.certify(sc.Pipeline([GaussianNoise(0.1), nn.Linear(1601, 4).eval()]), clip(), n0=5, n=30)


def test_the_tones_of_these_tests_are_what_they_say(cli, tmp_path, tones):
    """Every test above that expects a certificate rests on this."""
    folder_of_tones(tmp_path / "more", 3)
    (tmp_path / "kws.yaml").write_text(
        yaml_of(WAVEFORM).replace("tones.safetensors", f"{tones}/tones.safetensors")
    )
    assert NOISE in (tmp_path / "kws.yaml").read_text()
    ran = cli(
        "certify", tmp_path / "kws.yaml", "--data", tmp_path / "more", "--out", tmp_path / "run", "--json"
    )
    assert ran.code == 0
    assert ran.json["smoothed_accuracy"] == 1.0


def test_a_config_that_fits_no_clip_is_one_line_before_any_run(cli, home) -> None:
    """The features are set for another rate than the clips are brought to: no clip's fault."""
    text = yaml_of([stage.replace("rate: 16000", "rate: 8000") for stage in WAVEFORM])
    (home / "kws.yaml").write_text(text, encoding="utf-8")
    ran = cli("certify", home / "kws.yaml", "--out", home / "run")
    assert ran.code == 2
    assert "none of the" in ran.err
    assert "receives 8000 Hz" in ran.err
    assert not (home / "run").exists()
