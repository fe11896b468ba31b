# ruff: noqa: E402, E501 (what is imported lies beside this script; files are written as they stand)
"""Writes tests/fuzz/corpus: small, synthetic, one file for each form that a target reads."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import soundfile

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent / "src")]

from targets import CUT

from helpers import IN_FEATURES, WAVEFORM, tone, yaml_of
from synthetic import CONTRACT, many, record, write_run


def put(target: str, name: str, data: bytes) -> None:
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def main() -> None:
    samples = tone(500)[:200]
    for form, subtype in (
        ("WAV", "PCM_16"), ("WAV", "PCM_U8"), ("WAV", "FLOAT"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64", "PCM_16"),
        ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"),
        ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"), ("VOC", "PCM_16"),
    ):  # fmt: skip
        held = io.BytesIO()
        soundfile.write(held, samples, 16_000, format=form, subtype=subtype)
        put("audio", f"{form}-{subtype}".lower(), held.getvalue())
    held = io.BytesIO()
    soundfile.write(held, np.stack([samples] * 3, axis=1), 8000, format="WAV")
    put("audio", "wav-3-channels", held.getvalue())

    put("config", "waveform.yaml", yaml_of(WAVEFORM).encode())
    put("config", "features.yaml", yaml_of(IN_FEATURES).encode())
    rest = [
        "mono",
        "remove_offset",
        "peak_normalize: {target: 0.5}",
        "gaussian_noise: {sigma: 0.1}",
        "clip",
        "quantize: {bits: 8}",
    ]
    data = '{source: manifest, root: a.csv, labels: [a], label_map: {"a": b}, limit: 3}'
    put(
        "config",
        "others.yaml",
        yaml_of(rest, data, more="train: {epochs: 1, extra: [{source: folder, root: x}]}").encode(),
    )
    policy = yaml_of(WAVEFORM).replace("n0: 5", "n0: 5, decide: {radii: [0, 0.1]}")
    put("config", "decide.yaml", policy.encode())
    put(
        "config",
        "json",
        b'{"pipeline": ["mono", {"gaussian_noise": {"sigma": 0.5}}, {"mfcc": null}], "certify": {"n": 9}}',
    )
    put(
        "config",
        "anchors.yaml",
        b"x: &a {n_mels: 8}\npipeline: [&n {gaussian_noise: {sigma: 1}}, {log_mel: {<<: *a}}]\n",
    )
    for kind in (
        "python: 'a:b'",
        "onnx: a.onnx",
        "torchscript: a.pt, trust: true",
        "hf: folder",
        "tflite: a.tflite",
    ):
        put(
            "config",
            kind.split(":")[0] + ".yaml",
            f"pipeline:\n  - gaussian_noise: {{sigma: 1}}\n  - model: {{{kind}}}\n".encode(),
        )

    put("manifest", "csv", b'\x00file,label,split,fold\na.wav,yes,train,1\n"b, c.wav",no,test,2\n')
    put(
        "manifest",
        "jsonl",
        b'\x01{"file": "a.wav", "label": "yes", "fold": 3}\n{"file_name": "../b.wav", "split": "val"}\n',
    )
    put("manifest", "txt", b"\x02a.wav\tyes\nfolder/b.flac\tno\n")
    put("manifest", "several", b"\x00file,label\na.wav,dog;rain\nb.wav,\"['x', 'y']\"\n")

    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        for name, rows in (("many", many(8)), ("one", [record("a.wav", 990)]), ("none", [])):
            place = write_run(Path(folder) / name, rows)
            parts = [(place / file).read_bytes() for file in ("run.json", "certificates.jsonl")]
            put("run", name, CUT.join(parts))
    attack = {"clip": "a.wav", "status": "attacked", "space": "file", "settings": {}, "violations": []}
    put(
        "run",
        "attacked",
        CUT.join(
            [parts[0], json.dumps(record("a.wav", 999)).encode() + b"\n", json.dumps(attack).encode() + b"\n"]
        ),
    )

    card = "# Robustness\n\nSigma 0.5, n = 1000, alpha = 0.001.\n\n| radius | certified accuracy |\n|---|---|\n| 0.25 | 71 % |\n| 0.5 | 60 % |\n"
    put("report", "md", b"\x00" + card.encode())
    put(
        "report",
        "json",
        b"\x01" + json.dumps({"contract": CONTRACT, "summary": {"median_radius": 0.5, "n": 1000}}).encode(),
    )
    put("report", "jsonl", b"\x02" + json.dumps(record("a.wav", 990)).encode() + b"\n")
    put(
        "report",
        "yaml",
        b"\x03sigma: 0.5\nn: 1000\ncurve: {0.25: 71 %, 0.5: 60 %}\nmodel-index: [{name: x, results: []}]\n",
    )
    put("report", "csv", b"\x04clip,radius,label\na.wav,0.25,yes\nb.wav,0.5,no\n")
    put("report", "tsv", b"\x05idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.5\t1\t0:00:01\n")


if __name__ == "__main__":
    main()
