"""Configurations and weight files: what is wrong with one is told in one line, and nothing in it runs."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import soundcert as sc
from soundcert.config import (
    MAX_CONFIG_BYTES,
    CertifyConfig,
    Config,
    config_schema,
    load_config,
    stage_schemas,
)
from soundcert.errors import ConfigError, ModelError, SoundcertError
from soundcert.models import build_network, load_weights, save_weights
from soundcert.stages import known_stages

ROOT = Path(__file__).resolve().parents[2]
# Studies are configs of another kind: tests/unit/test_study.py reads those.
CONFIGS = sorted(p for p in (ROOT / "configs").glob("*.yaml") if not p.name.startswith("study"))
CONFIGS += sorted((ROOT / "src").rglob("*.yaml"))

NOISE = "  - gaussian_noise: {sigma: 0.5}\n"
MODEL = "  - model: {network: ds_cnn, labels: [a, b]}\n"
GOOD = "pipeline:\n" + NOISE + MODEL


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def built(folder: Path, text: str) -> sc.Pipeline:
    return sc.Pipeline.from_yaml(written(folder, text))


def refusal(folder: Path, text: str) -> str:
    """Return the message with which a configuration is refused: one line, of a readable length."""
    with pytest.raises(ConfigError) as caught:
        built(folder, text)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


# --- typos -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "pipeline:\n  - gausian_noise: {sigma: 1}\n",
            r"stage 1: unknown stage 'gausian_noise' .*'gaussian_noise'",
        ),
        ("pipeline:\n  - mono\n  - logmel\n", r"stage 2: unknown stage 'logmel' .*'log_mel'"),
        ("pipeline:\n  - Clip\n", r"unknown stage 'Clip' .*'clip'"),
        ("pipeline:\n  - rms_normalise: {target: 1}\n", r"unknown stage 'rms_normalise' .*'rms_normalize'"),
        (
            "pipeline:\n  - gaussian_noise: {sigmma: 1}\n",
            r"\(gaussian_noise\): unknown field 'sigmma' .*'sigma'",
        ),
        ("pipeline:\n  - log_mel: {n_mel: 40}\n", r"\(log_mel\): unknown field 'n_mel' .*'n_mels'"),
        ("pipeline:\n  - model: {weight: a}\n", r"\(model\): unknown field 'weight' .*'weights'"),
        ("pipline:\n" + NOISE, r"unknown field 'pipline' .*'pipeline'"),
        (GOOD + "certfy: {n: 10}\n", r"unknown field 'certfy' .*'certify'"),
        (GOOD + "certify: {aplha: 0.1}\n", r"unknown field 'certify\.aplha' .*'alpha'"),
        (GOOD + "certify: {n_0: 10}\n", r"unknown field 'certify\.n_0' .*'n0'"),
        (GOOD + "certify: {micro_bach: 10}\n", r"unknown field 'certify\.micro_bach' .*'micro_batch'"),
        (GOOD + "train: {epoch: 10}\n", r"unknown field 'train\.epoch' .*'epochs'"),
        (GOOD + "data: {sorce: folder, root: .}\n", r"unknown field 'data\.sorce' .*'source'"),
        (GOOD + "data: {source: foldr, root: .}\n", r"data\.source.*'foldr' .*'folder'"),
        (GOOD + "train: {validation: {sorce: folder}}\n", r"'train\.validation\.sorce' .*'source'"),
        (
            GOOD + "certify: {bound: one-sidd}\n",
            r"certify\.bound.*'one-sided' or 'two-class', got 'one-sidd'",
        ),
    ],
)
def test_a_typo_names_the_nearest_word_in_one_line(tmp_path, text, expected):
    assert re.search(expected, refusal(tmp_path, text))


def test_a_word_like_nothing_known_gets_the_list(tmp_path):
    message = refusal(tmp_path, "pipeline:\n  - xyzzy\n")
    assert "did you mean" not in message
    assert "gaussian_noise" in message
    assert "log_mel" in message


def test_the_line_says_which_file(tmp_path):
    assert str(tmp_path / "config.yaml") in refusal(tmp_path, "pipline: []\n")
    assert str(tmp_path / "config.yaml") in refusal(tmp_path, GOOD + "certify: {alpha: 2}\n")


# --- types and values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pipeline:\n  - gaussian_noise: {sigma: abc}\n", r"\(gaussian_noise\): sigma: .*number.*'abc'"),
        ("pipeline:\n  - gaussian_noise: {sigma: [1]}\n", r"sigma: .*number.*\[1\]"),
        ("pipeline:\n  - gaussian_noise: {sigma: null}\n", r"sigma: .*number.*None"),
        ("pipeline:\n  - gaussian_noise\n", r"\(gaussian_noise\): sigma: Field required"),
        ("pipeline:\n  - gaussian_noise: {sigma: -1}\n", r"sigma must be positive and finite, got -1"),
        ("pipeline:\n  - gaussian_noise: {sigma: .nan}\n", r"sigma must be positive and finite, got nan"),
        ("pipeline:\n  - gaussian_noise: {sigma: .inf}\n", r"sigma must be positive and finite, got inf"),
        ("pipeline:\n  - log_mel: {n_mels: 40.5}\n", r"n_mels: .*integer.*40\.5"),
        ("pipeline:\n  - log_mel: {floor: 0}\n", r"log_mel: floor must be positive and finite"),
        ("pipeline:\n  - log_mel: {log: dB}\n", r"log: should be 'ln' or 'db', got 'dB'"),
        (
            "pipeline:\n  - log_mel: {win_length: 600}\n",
            r"win_length must be from 1 to n_fft \(512\), got 600",
        ),
        ("pipeline:\n  - log_mel: {f_max: 9000}\n", r"f_max must be at most half the rate \(8000 Hz\)"),
        ("pipeline:\n  - fit: {}\n", r"fit: give exactly one of seconds and samples"),
        ("pipeline:\n  - fit: {seconds: 1, samples: 5}\n", r"give exactly one of seconds and samples"),
        ("pipeline:\n  - resample: {rate: 0}\n", r"rate must be a positive number"),
        ("pipeline:\n  - model: {}\n", r"model: give weights"),
        ("pipeline:\n  - model: {network: ds_cnn, labels: [a, a]}\n", r"labels must differ"),
        ("pipeline:\n  - model: {network: ds_cnn, labels: [yes, no]}\n", r"labels\.0: .*string, got True"),
        ("pipeline:\n  - model: {module: os.system}\n", r"unknown field 'module'"),
        ("pipeline:\n  - model: {digest: abc, network: ds_cnn}\n", r"unknown field 'digest'"),
        ("pipeline:\n  - gaussian_noise: 0.5\n", r"stage 1: write one stage a line"),
        ("pipeline:\n  - 5\n", r"stage 1: write one stage a line"),
        ("pipeline:\n  - gaussian_noise:\n      sigma: 1\n    mono:\n", r"stage 1: write one stage a line"),
        ("pipeline: 5\n", r"pipeline: should be a valid list, got 5"),
        ("pipeline: {mono: {}}\n", r"pipeline: should be a valid list"),
        ("certify: {}\n", r"`pipeline` is missing"),
        (GOOD + "certify: 5\n", r"certify: .*got 5"),
        (GOOD + "certify: {n: 10.5}\n", r"certify\.n: .*integer.*10\.5"),
        (GOOD + "certify: {n: 1e4}\n", r"certify\.n: write 10000 \(YAML takes 1e4 for text\)$"),
        (GOOD + "certify: {n0: 1.5e1}\n", r"certify\.n0: write 15 "),
        (GOOD + "certify: {n: 1e-4}\n", r"certify\.n: .*integer.*'1e-4'"),
        (GOOD + "certify: {n: 1e999}\n", r"certify\.n: .*integer.*'1e999'"),
        ("pipeline:\n  - log_mel: {n_mels: 4e1}\n", r"\(log_mel\): n_mels: write 40 "),
        (GOOD + "data: rec\n", r"data: expected a mapping such as \{source: folder, root: rec\}, got 'rec'$"),
        (GOOD + "data: my/list.CSV\n", r"such as \{source: manifest, root: my/list\.CSV\}, got"),
        (GOOD + "data: [rec]\n", r"such as \{source: folder, root: recordings\}, got \['rec'\]"),
        (
            GOOD + "certify: {decide: 0.5}\n",
            r"certify\.decide: .*such as \{radii: …, futility: …\}, got 0\.5",
        ),
        (GOOD + "train: {extra: [rec]}\n", r"train\.extra\.0: expected a mapping, got 'rec'"),
        (GOOD + "certify: {n: 0}\n", r"certify\.n: .*greater than or equal to 1, got 0"),
        (GOOD + "certify: {alpha: 1}\n", r"certify\.alpha: .*less than 1, got 1"),
        (GOOD + "certify: {alpha: 0}\n", r"certify\.alpha: .*greater than 0, got 0"),
        (GOOD + "certify: {seed: -1}\n", r"certify\.seed: .*got -1"),
        (GOOD + "certify: {micro_batch: 5000}\n", r"certify\.micro_batch: .*4096"),
        ("- a\n", r"must hold a mapping with `pipeline`, got list"),
        ("", r"must hold a mapping with `pipeline`, got NoneType"),
        (
            "pipeline: [a\n",
            r"config\.yaml is not valid YAML: .* at line 2, column 1 \(while parsing a flow sequence\)$",
        ),
        ("pipeline:\n\t- a\n", r"is not valid YAML: .* at line 2, column 1"),
        ("a: \x00\n", r"is not valid YAML: unacceptable character .* at position 3$"),
        ("1: 2\npipeline: []\n", r"unknown field 1"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, text, expected):
    assert re.search(expected, refusal(tmp_path, text))


# --- several mistakes ------------------------------------------------------------------------------


def test_all_mistakes_of_a_config_are_told_at_once(tmp_path):
    text = (
        "pipeline:\n  - mon\n"
        + NOISE
        + MODEL
        + "certfy: {}\ncertify: {aplha: 0.1, n: 0}\ndata: {source: foldr, root: .}\n"
    )
    told = refusal(tmp_path, text).removeprefix(f"{tmp_path / 'config.yaml'}: ").split("; ")
    assert told == [
        "unknown field 'certfy' (did you mean 'certify'?)",
        "unknown field 'certify.aplha' (did you mean 'alpha'?)",
        "certify.n: should be greater than or equal to 1, got 0",
        "data.source: expected a known source, got 'foldr' (did you mean 'folder'?)",
        "pipeline, stage 1: unknown stage 'mon' (did you mean 'mono'?)",
    ]


def test_five_mistakes_are_told_and_the_others_counted(tmp_path):
    fields = ", ".join(f"field{i}: 1" for i in range(8))
    told = refusal(tmp_path, GOOD + f"certify: {{{fields}}}\n").split("; ")
    assert len(told) == 6
    assert told[-1] == "and 3 more"
    assert sum("(known: alpha, " in one for one in told) == 1, "what is known is told once"


def test_a_word_that_is_missing_is_not_told_beside_the_typo_that_explains_it(tmp_path):
    assert "required" not in refusal(tmp_path, GOOD + "data: {sorce: folder, root: .}\n")
    assert "`pipeline` is missing" not in refusal(tmp_path, "pipline: []\n")
    both = refusal(tmp_path, GOOD + "data: {surprise: folder, root: .}\n")
    assert "'data.surprise'" in both
    assert "data.source: Field required" in both


def test_a_policy_made_in_python_tells_all_its_mistakes():
    with pytest.raises(ConfigError, match=r"Decide: unknown field 'radius' .*'radii'.*; futility: "):
        sc.Decide(radius=[1], futility=2)


def test_mistakes_of_several_stages_are_told_at_once(tmp_path):
    text = (
        "pipeline:\n  - mon\n  - log_mel: {n_mel: 40, flor: 1}\n  - fit: {}\n  - quantize: {bits: many}\n"
        "  - gaussian_noise: {sigma: yes}\n" + MODEL
    )
    told = refusal(tmp_path, text).split("; ")
    assert [one.split(":")[0] for one in told[:5]] == [
        "pipeline, stage 1",
        "pipeline, stage 2 (log_mel)",
        "pipeline, stage 2 (log_mel)",
        "pipeline, stage 5 (gaussian_noise)",
        "pipeline, stage 3",
    ]
    assert told[5] == "and 1 more"


def test_a_model_is_not_read_for_a_pipeline_that_is_wrong(tmp_path):
    text = "pipeline:\n  - quantize: {bits: many}\n" + NOISE + "  - model: {weights: none.safetensors}\n"
    assert "bits" in refusal(tmp_path, text)


def test_thousands_of_mistakes_are_counted_soon(tmp_path):
    text = GOOD + "certify: {" + ", ".join(f"a{i}: 1" for i in range(10_000)) + "}\n"
    assert refusal(tmp_path, text).endswith("; and 9995 more")


@pytest.mark.parametrize(
    "text",
    [
        "pipeline:\n  - gaussian_noise: {sigma: yes}\n" + MODEL,
        GOOD + "certify: {n: true}\n",
        GOOD + "certify: {seed: on}\n",
    ],
)
def test_a_truth_value_is_no_number(tmp_path, text):
    with pytest.raises(ConfigError):
        built(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "pipeline:\n  - gaussian_noise: {sigma: 0.5, sigma: 0.25}\n" + MODEL,
        GOOD + GOOD,
        GOOD + "certify: {seed: 1}\ncertify: {seed: 2}\n",
    ],
)
def test_a_key_given_twice_is_refused(tmp_path, text):
    with pytest.raises(ConfigError):
        built(tmp_path, text)


def test_a_typo_in_a_networks_name_is_told_when_the_config_is_read(tmp_path):
    message = refusal(tmp_path, "pipeline:\n" + NOISE + "  - model: {network: ds_cn, labels: [a, b]}\n")
    assert "'ds_cnn'" in message


def test_a_missing_a_binary_and_a_huge_config_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no config at"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"no config at .*: it is a folder; give a YAML file"):
        load_config(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_bytes(b"pipeline: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)
    path.write_text(GOOD + "#" * MAX_CONFIG_BYTES)
    with pytest.raises(ConfigError, match="larger than a config can be"):
        load_config(path)


# --- the order of stages ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pipeline: []\n", r"exactly one noise stage, got 0: put `gaussian_noise`"),
        ("pipeline:\n  - mono\n" + MODEL, r"exactly one noise stage, got 0"),
        ("pipeline:\n" + NOISE + NOISE + MODEL, r"exactly one noise stage, got 2"),
        (
            "pipeline:\n" + NOISE + MODEL + "  - clip\n",
            r"the model must be the last stage, but clip stands below",
        ),
        ("pipeline:\n" + MODEL + NOISE, r"the model must be the last stage, but gaussian_noise stands below"),
    ],
)
def test_an_order_that_cannot_work_is_refused(tmp_path, text, expected):
    assert re.search(expected, refusal(tmp_path, text))


def test_a_good_config_is_read_as_it_is_written(tmp_path):
    text = (
        "pipeline:\n  - mono\n  - fit: {seconds: 1}\n  - clip:\n  - quantize: {bits: 16}\n"
        + "  - log_mel: {n_mels: 8}\n  - feature_standardize: {mean: [1, 2, 3, 4, 5, 6, 7, 8], std: 2}\n"
        + NOISE
        + MODEL
        + "certify: {n: 500, alpha: 0.01, seed: 3}\n"
    )
    config = load_config(written(tmp_path, text))
    assert (config.certify.n, config.certify.alpha, config.certify.seed, config.certify.n0) == (
        500,
        0.01,
        3,
        100,
    )
    pipe = sc.Pipeline.from_config(config, tmp_path)
    names = [stage.name for stage in pipe.stages]
    assert names == [
        "mono",
        "fit",
        "clip",
        "quantize",
        "log_mel",
        "feature_standardize",
        "gaussian_noise",
        "model",
    ]
    assert pipe.stages[5].mean == (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
    assert (pipe.noise.sigma, pipe.labels) == (0.5, ("a", "b"))
    again = sc.Pipeline.from_specs(pipe.to_specs())
    assert again.stages == pipe.stages
    assert yaml.safe_load(yaml.safe_dump(pipe.to_specs())) == json.loads(json.dumps(pipe.to_specs()))


# --- nothing in a config runs ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {trace}']",
        "!!python/object/new:os.system ['touch {trace}']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object:soundcert.stages.Clip {{}}",
        "!custom {{a: 1}}",
    ],
)
def test_tags_that_make_objects_are_refused(tmp_path, value):
    trace = tmp_path / "trace"
    message = refusal(tmp_path, GOOD + f"data: {value.format(trace=trace)}\n")
    assert "not valid YAML" in message
    assert not trace.exists()
    if "apply" in value:  # the control: an unsafe reader would have run it
        yaml.unsafe_load(f"data: {value.format(trace=trace)}\n")
        assert trace.exists()


# --- the schema ------------------------------------------------------------------------------------


def mistakes(value: object, schema: dict, root: dict) -> list[str]:
    """Check a value against the part of JSON Schema that `config_schema` uses."""
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return mistakes(value, target, root)
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            found = [mistakes(value, option, root) for option in schema[choice]]
            return [] if any(not f for f in found) else min(found, key=len)
    out = []
    kinds = {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "null": value is None,
        "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
    }
    allowed = schema.get("type", list(kinds))
    if not any(kinds[kind] for kind in ([allowed] if isinstance(allowed, str) else allowed)):
        return [f"{value!r} is no {allowed}"]
    if "enum" in schema and value not in schema["enum"]:
        out.append(f"{value!r} is none of {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        out.append(f"{value!r} is not {schema['const']}")
    if isinstance(value, int | float):
        out += [f"{value} too small" for key in ("minimum",) if value < schema.get(key, value)]
        out += [f"{value} too large" for key in ("maximum",) if value > schema.get(key, value)]
        out += [f"{value} too small" for k in ("exclusiveMinimum",) if k in schema and value <= schema[k]]
        out += [f"{value} too large" for k in ("exclusiveMaximum",) if k in schema and value >= schema[k]]
    if isinstance(value, dict):
        out += [f"{key} is missing" for key in schema.get("required", ()) if key not in value]
        for key, inner in value.items():
            if key in schema.get("properties", {}):
                out += mistakes(inner, schema["properties"][key], root)
            elif schema.get("additionalProperties") is False:
                out.append(f"{key} is unknown")
            elif isinstance(schema.get("additionalProperties"), dict):
                out += mistakes(inner, schema["additionalProperties"], root)
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        out += [m for item in value for m in mistakes(item, schema["items"], root)]
    return out


def schema_mistakes(text: str) -> list[str]:
    value, schema = yaml.safe_load(text), config_schema()
    found = mistakes(value, schema, schema)
    try:
        import jsonschema
    except ImportError:
        return found
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    assert validator.is_valid(value) == (not found)
    return found


def test_there_are_configs_to_check():
    assert len(CONFIGS) >= 2
    assert (ROOT / "configs" / "kws-waveform.yaml") in CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_the_schema_and_the_reader_accept_the_configs_of_the_repository(path):
    assert schema_mistakes(path.read_text()) == []
    config = load_config(path)
    if config.train is not None:
        assert sc.Pipeline.from_config(config, path.parent, training=True).noise.sigma > 0


@pytest.mark.parametrize(
    "text",
    [
        GOOD + "certify: {aplha: 0.1}\n",
        GOOD + "certify: {alpha: 1.5}\n",
        GOOD + "certify: {n: 0}\n",
        GOOD + "certify: {bound: both}\n",
        GOOD + "surprise: 1\n",
        "certify: {}\n",
        "pipeline:\n  - gaussian_noise\n" + MODEL,
        "pipeline:\n  - gaussian_noise: {}\n" + MODEL,
        "pipeline:\n  - gaussian_noise: {sigmma: 1}\n" + MODEL,
        "pipeline:\n  - gaussian_noise: {sigma: high}\n" + MODEL,
        "pipeline:\n  - gausian_noise: {sigma: 1}\n" + MODEL,
        "pipeline:\n  - log_mel: {log: dB}\n" + NOISE + MODEL,
        "pipeline:\n  - model: {module: os.system}\n" + NOISE,
        "pipeline: 5\n",
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(tmp_path, text):
    assert schema_mistakes(text)
    refusal(tmp_path, text)


def test_the_schema_accepts_every_way_to_write_a_stage(tmp_path):
    text = (
        "pipeline:\n  - mono\n  - clip:\n  - resample: {rate: 16000}\n  - rms_normalize: {target: 1}\n"
        "  - log_mel: {f_max: null, win_length: 400}\n"
        "  - feature_standardize: {mean: [0.5, 1], std: 2.0}\n" + NOISE + MODEL
    )
    assert schema_mistakes(text) == []
    load_config(written(tmp_path, text))


def test_the_schema_tells_every_registered_stage_with_its_fields_and_defaults():
    schemas = stage_schemas()
    assert set(schemas) == set(known_stages())
    assert schemas["gaussian_noise"]["required"] == ["sigma"]
    assert schemas["log_mel"]["properties"]["n_mels"]["default"] == 40
    assert "module" not in schemas["model"]["properties"]
    assert all(schema["description"] for schema in schemas.values())
    assert json.loads(json.dumps(config_schema())) == config_schema()
    fields = config_schema()["$defs"]["CertifyConfig"]["properties"]
    assert all("description" in field for field in fields.values())
    assert set(config_schema()["properties"]) == set(Config.model_fields)


# --- weights ---------------------------------------------------------------------------------------

OPTIONS = {"width": 4, "blocks": 1}
NAMED = {"network": "ds_cnn", "options": OPTIONS, "labels": ["a", "b"]}


def network(seed: int = 0, classes: int = 2, **options) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return build_network("ds_cnn", classes, OPTIONS | options).eval()


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def test_weights_come_back_with_network_labels_and_recipe(tmp_path):
    path = tmp_path / "deep" / "w.safetensors"
    save_weights(path, network(), network="ds_cnn", labels=["a", "b"], options=OPTIONS, meta={"epoch": 3})
    loaded = load_weights(path)
    assert same(loaded.module, network())
    assert not same(loaded.module, network(1))
    assert (loaded.labels, loaded.network, loaded.options, loaded.meta) == (
        ("a", "b"),
        "ds_cnn",
        OPTIONS,
        {"epoch": 3},
    )
    assert not loaded.module.training
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]
    x = torch.randn(3, 8, 10)
    assert torch.equal(loaded.module(x), network()(x))


def test_the_digest_is_of_the_weights_alone(tmp_path):
    digests = []
    for seed, labels in ((0, ["a", "b"]), (0, ["c", "d"]), (1, ["a", "b"])):
        path = tmp_path / f"{len(digests)}.safetensors"
        save_weights(path, network(seed), network="ds_cnn", labels=labels, options=OPTIONS)
        digests.append(load_weights(path).digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_config_finds_weights_beside_itself(tmp_path):
    save_weights(
        tmp_path / "w" / "k.safetensors", network(), network="ds_cnn", labels=["x", "y"], options=OPTIONS
    )
    pipe = built(tmp_path, "pipeline:\n" + NOISE + "  - model: {weights: w/k.safetensors}\n")
    assert pipe.labels == ("x", "y")
    message = "no weights at .*train them"
    with pytest.raises(ModelError, match=message):
        built(tmp_path, "pipeline:\n" + NOISE + "  - model: {weights: w/none.safetensors}\n")
    assert re.search(
        "no bundled model 'none'", refusal(tmp_path, GOOD.replace("network: ds_cnn", "weights: bundled:none"))
    )


def test_a_plain_state_dict_of_torch_is_accepted_with_its_names_in_the_config(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(network().state_dict(), path)
    assert same(load_weights(path, **NAMED).module, network())
    with pytest.raises(ConfigError, match="give `network` and `labels`"):
        load_weights(path)
    text = (
        "pipeline:\n"
        + NOISE
        + "  - model: {weights: w.pt, network: ds_cnn, labels: [a, b], options: {width: 4, blocks: 1}}\n"
    )
    assert built(tmp_path, text).labels == ("a", "b")


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"width": 8, "blocks": 1}},
        {"options": {"width": 4, "blocks": 2}},
        {"labels": ["a", "b", "c"]},
    ],
)
def test_weights_of_another_shape_are_refused_in_one_line(tmp_path, change):
    path = tmp_path / "w.pt"
    torch.save(network().state_dict(), path)
    with pytest.raises(ModelError, match="do not fit network 'ds_cnn'") as caught:
        load_weights(path, **(NAMED | change))
    assert "\n" not in str(caught.value)


def test_a_header_that_contradicts_the_config_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, network(), network="ds_cnn", labels=["a", "b"], options=OPTIONS)
    with pytest.raises(ConfigError, match=r"made with labels \['a', 'b'\], but the config says \['b', 'a'\]"):
        load_weights(path, labels=["b", "a"])
    with pytest.raises(ConfigError, match="made with network 'ds_cnn'"):
        load_weights(path, network="event_cnn")


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


def write_pickle(path: Path, writer: str, trace: Path) -> None:
    if writer == "pickle":
        path.write_bytes(pickle.dumps({"a": Payload(trace)}))
    elif writer == "torch":
        torch.save({"a": Payload(trace)}, path)
    else:
        torch.save(network(), path)


WRITERS = ["pickle", "torch", "whole model"]


@pytest.mark.parametrize("writer", WRITERS)
def test_pickled_objects_are_refused_and_do_not_run(tmp_path, writer):
    path, trace = tmp_path / "w.pt", tmp_path / "trace"
    write_pickle(path, writer, trace)
    with pytest.raises(ModelError, match="pickled objects run code when read and are refused") as caught:
        load_weights(path, **NAMED)
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    if writer == "pickle":  # the control: it would have run
        pickle.loads(path.read_bytes())
        assert trace.exists()


@pytest.mark.parametrize("writer", WRITERS)
def test_pickled_objects_by_another_name_do_not_run_either(tmp_path, writer):
    for name in ("w.safetensors", "w.bin", "w"):
        path, trace = tmp_path / name, tmp_path / "trace"
        write_pickle(path, writer, trace)
        with pytest.raises(Exception, match=r"."):
            load_weights(path, **NAMED)
        assert not trace.exists()


@pytest.mark.parametrize("writer", WRITERS)
def test_pickled_objects_that_are_called_safetensors_are_refused_in_our_words(tmp_path, writer):
    path = tmp_path / "w.safetensors"
    write_pickle(path, writer, tmp_path / "trace")
    with pytest.raises(ModelError, match="pickled objects run code when read and are refused"):
        load_weights(path, **NAMED)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(3), {"a": {"b": torch.zeros(2)}}])
def test_a_file_of_something_else_than_tensors_by_name_is_refused(tmp_path, content):
    path = tmp_path / "w.pt"
    torch.save(content, path)
    with pytest.raises(ModelError, match="dictionary of tensors"):
        load_weights(path, **NAMED)


def test_damaged_and_truncated_weights_are_refused_in_our_words(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(network().state_dict(), path)
    whole = path.read_bytes()
    for content in (
        b"",
        b"abc",
        b"\x80\x02abc",
        whole[:50],
        whole[: len(whole) // 2],
        whole[:-1],
        b"PK\x03\x04",
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError):
            load_weights(path, **NAMED)


def test_truncated_safetensors_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, network(), network="ds_cnn", labels=["a", "b"], options=OPTIONS)
    whole = path.read_bytes()
    for keep in (8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(ModelError):
            load_weights(path)


@pytest.mark.parametrize(
    "header",
    [
        "{bad",
        "[1]",
        "3",
        '{"format": 1, "network": 5, "labels": ["a", "b"]}',
        '{"format": 1, "network": "ds_cnn", "labels": 3}',
        '{"format": 1, "network": "ds_cnn", "labels": "ab", "options": {"width": 4, "blocks": 1}}',
        '{"format": 1, "network": "ds_cnn", "labels": ["a", "b"], "options": {"width": "x"}}',
        '{"format": 1, "network": "ds_cnn", "labels": ["a", "b"], "options": {"width": 0}}',
        '{"format": 1, "network": "ds_cnn", "labels": ["a", "b"], "options": [1]}',
    ],
)
def test_a_header_that_is_not_ours_is_refused_in_our_words(tmp_path, header):
    path = tmp_path / "w.safetensors"
    save_file(network().state_dict(), path, metadata={"soundcert": header})
    with pytest.raises(SoundcertError):
        load_weights(path)


def test_another_format_and_a_foreign_header_are_told(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(network().state_dict(), path, metadata={"soundcert": '{"format": 99}'})
    with pytest.raises(ModelError, match="has format 99; this version reads 1"):
        load_weights(path)
    save_file(network().state_dict(), path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="does not name its network and labels"):
        load_weights(path)
    assert same(load_weights(path, **NAMED).module, network())


def test_the_best_of_many_needs_a_level_below_one():
    assert CertifyConfig(alpha=0.001, tries=3).tries == 3
    with pytest.raises(
        ValueError, match=r"the best of 1000 certificates at alpha = 0\.001 each holds at no level below 1"
    ):
        CertifyConfig(alpha=0.001, tries=1000)
