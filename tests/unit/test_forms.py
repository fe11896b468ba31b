"""A run's report in other forms: what each says, that it is valid, and that hostile names stay text."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from helpers import WAVEFORM, tone, write, write_tone_model, yaml_of
from soundcert.bounds import accuracy_interval
from soundcert.config import load_config
from soundcert.data import load_items
from soundcert.errors import ConfigError, MissingDependencyError, RunError
from soundcert.report.accuracy import accuracy_rows
from soundcert.report.attestation import STATE_DIGEST, statement
from soundcert.report.attestation_schema import REPORT_TYPE, report_schema
from soundcert.report.checklist import checklist
from soundcert.report.forms import FORMS, write_form
from soundcert.report.latex import escape
from soundcert.report.rows import FORMULA
from soundcert.report.tables import figure_rows
from soundcert.runs import Run, certify_run, open_run

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = (
    "<script>alert(1)</script>", 'a"b\'c.wav', "two\nlines\r\n---\nx: y", "../../etc/passwd", "😀 café.wav",
    "\u202egnp.wav", "\\input{/etc/passwd}", "50%_of^x~y$z#&{}", "=HYPERLINK(1)", "+1", "-2", "@SUM(A1)", "\t=1",
    "`x`|y|*z*", "$\\alpha$", "%\n\\end{document}",
)  # fmt: skip
#: What a paper asks each study to state, and what a reader needs beside it.
STATED = (
    "Certified object", "Perturbation location", "Gain policy", "Noise", "Post-noise changes", "Sampling", "Ceiling",
    "Raw radius", "Signal-relative scale", "Data", "Abstention", "Result", "Scope",
)  # fmt: skip
CONTRACT = {
    "kind": "fixed-gain waveform smoothing", "certified_object": "gain-normalised waveform (RMS 1 per clip)",
    "perturbation_location": "waveform after gain", "gain_policy": "per clip, before the noise: rms_normalize(target=1)",
    "norm": "l2", "unit": "RMS 1 per clip", "noise": "gaussian_noise", "sigma": 0.5, "dimension": 16000,
    "pre_noise": ["fit(seconds=1)", "rms_normalize(target=1)"], "post_noise": [],
    "post_noise_stages": ["log_mel(n_mels=40)"], "model": "model(ds_cnn)", "engine": "torch fp32",
}  # fmt: skip
FEATURE = {
    **CONTRACT, "kind": "feature-space smoothing", "certified_object": "log-mel features", "unit": "nats",
    "perturbation_location": "feature", "post_noise_stages": [],
}  # fmt: skip
CEILING = 0.9998829


def certified(clip: str, radius: float = 0.6, **more: Any) -> dict[str, Any]:
    return {
        "clip": clip, "status": "certified", "candidate": "yes", "label": "yes", "truth": "yes", "count": 290,
        "n": 300, "n0": 100, "alpha": 0.001, "seed": 0, "bound": "one-sided", "sigma": 0.5, "p_lower": 0.9,
        "policy": "fixed", "ceiling": CEILING, "saturated": radius == CEILING, "object_norm": 126.0, "radius": radius,
        "digest": clip, "views": {"r_over_sigma": 2 * radius, "snr_db": 46.445, "burst_20ms_db": -29.4}, **more,
    }  # fmt: skip


def abstained(clip: str, **more: Any) -> dict[str, Any]:
    out = certified(clip, **more)
    return {**{k: v for k, v in out.items() if k not in ("label", "radius", "views")}, "status": "abstained"}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Run]:
    """`make(records, tail=b"", **info)`: a run on the disk, read back."""

    def run(records: list[dict[str, Any]], tail: bytes = b"", *, name: str = "r", **info: Any) -> Run:
        path = tmp_path / name
        path.mkdir(parents=True)
        facts = {
            "format": 1, "soundcert": "0.1.0", "clips": len(records), "contract": CONTRACT,
            "statement": "Contract: x.\nNot claimed: y.", "labels": ["yes", "no"],
            "identity": {"config": "0" * 32, "data": "a" * 32, "model": "b" * 32},
            "config": {
                "certify": {"n0": 100, "n": 300, "alpha": 0.001, "bound": "one-sided", "seed": 0},
                "data": {"source": "speech_commands", "root": "/home/me/data", "split": "testing", "limit": 4},
                "pipeline": ["mono", {"model": {"weights": "kws.safetensors"}}],
            },
            **info,
        }  # fmt: skip
        (path / "run.json").write_text(json.dumps(facts), encoding="utf-8")
        lines = "".join(json.dumps(r) + "\n" for r in records).encode()
        (path / "certificates.jsonl").write_bytes(lines + tail)
        return open_run(path)

    return run


@pytest.fixture
def plain(make: Callable[..., Run]) -> Run:
    """Two certified and correct clips, one wrong, one abstained, one that failed."""
    return make(
        [
            certified("a"),
            certified("b", CEILING),
            certified("wrong", truth="no"),
            abstained("c"),
            {"clip": "d", "status": "failed", "reason": "it is empty"},
        ]
    )


@pytest.fixture
def hostile(make: Callable[..., Run]) -> Run:
    """A torn run in which everything that a user can name is hostile."""
    records = [certified(name, truth="=1+1", label="=1+1", candidate="=1+1") for name in HOSTILE]
    return make(
        [*records, {"clip": "\\input{x}%", "status": "failed"}],
        b'{"clip": "torn',
        name="\\input{run}%_^<b>",
        clips=99,
        labels=["=1+1", "\\end{document}"],
        contract={**CONTRACT, "model": "model(<b>$x_1^2%\\input{y}\n---\n)"},
        config={
            "certify": {"n0": 100, "n": 300, "alpha": 0.001, "bound": "one-sided", "seed": 0},
            "data": {"source": "manifest", "root": "/x/<i>&\\input{z}\n---\n%$.csv", "split": "---\n\\x"},
            "pipeline": [{"model": {"weights": "/secret/<b>\n---\n\\w_1.safetensors"}}],
        },
    )


def text_of(run: Run, kind: str, tmp_path: Path) -> str:
    return write_form(run, kind, tmp_path / "out" / kind).read_bytes().decode()


def needs(kind: str) -> None:
    package = {"parquet": "pyarrow", "svg": "matplotlib", "pdf": "matplotlib"}.get(kind)
    if package:
        pytest.importorskip(package)


# --- every form ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMS)
def test_each_form_is_written_and_is_the_same_twice(kind, plain, tmp_path):
    needs(kind)
    folder = tmp_path / "here"
    folder.mkdir()
    first = write_form(plain, kind, folder)
    second = write_form(plain, kind, tmp_path / "deep" / "down" / "file")
    assert first.parent == folder
    assert second.name == "file"
    assert first.read_bytes() == second.read_bytes()
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("kind", FORMS)
def test_hostile_names_of_a_torn_run_are_text_in_each_form(kind, hostile, tmp_path):
    needs(kind)
    content = write_form(hostile, kind, tmp_path / "form").read_bytes()
    if kind in ("pdf", "parquet"):
        return
    text = content.decode("utf-8")
    assert "torn" in text, "the run's warnings are in the form"
    assert "17 of 99" in text or "16 of 99" in text
    if kind == "svg":
        ElementTree.fromstring(text)
    if kind not in ("csv", "in-toto"):  # those are data, and hold names as they are
        assert "<b>" not in text.split("\n---\n")[-1]
        assert "\u202e" not in text


def test_an_unknown_form_or_a_place_that_cannot_be_written_is_one_clear_line(plain, tmp_path):
    with pytest.raises(ConfigError, match=r"no form 'latx' \(did you mean 'latex'"):
        write_form(plain, "latx", tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_form(plain, "csv", tmp_path / "file" / "x")


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [("parquet", "pyarrow", "parquet"), ("svg", "matplotlib", "figures"), ("pdf", "matplotlib", "figures")],
)
def test_a_missing_package_names_what_to_install(kind, package, extra, plain, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"{package}.*constraints.txt '\.\[{extra}\]'"):
        write_form(plain, kind, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", FORMS)
def test_a_run_without_a_usable_clip_says_so(kind, make, tmp_path):
    needs(kind)
    empty = make([], clips=3, contract=None, statement=None)
    if kind in ("latex", "in-toto"):
        assert "0 of 3 clips" in text_of(empty, kind, tmp_path)
    else:
        with pytest.raises(RunError, match=r"no record|no clip"):
            write_form(empty, kind, tmp_path / "x")


@pytest.mark.parametrize("kind", FORMS)
def test_a_contract_with_hardly_a_field_is_no_reason_to_fail(kind, make, tmp_path):
    needs(kind)
    write_form(
        make([certified("a")], contract={"perturbation_location": "waveform"}, config={}),
        kind,
        tmp_path / "x",
    )


# --- what a study must state -----------------------------------------------------------------------


def test_the_paragraph_states_everything_that_the_paper_asks_for(plain):
    said = dict(checklist(plain))
    assert list(said)[1:] == list(STATED)
    assert "16\u202f000 values" in said["Certified object"]
    assert "fixed-gain waveform smoothing" in said["Certified object"]
    assert "rms_normalize(target=1)" in said["Gain policy"]
    assert "σ\u00a0=\u00a00.5" in said["Noise"]
    for part in ("n₀\u00a0=\u00a0100", "n\u00a0=\u00a0300", "α\u00a0=\u00a00.001", "one-sided", "seed, 0"):
        assert part in said["Sampling"]
    assert "0.9998; 1 of 3 certificates (33.3\u00a0%) are saturated" in said["Ceiling"]
    assert "over the 2 certified and correct clips" in said["Raw radius"]
    assert "46.45\u00a0dB" in said["Signal-relative scale"], "rounded up from 46.445"
    assert "Speech Commands, testing split, 5 clips" in said["Data"]
    assert "/home/me" not in str(said)
    assert said["Abstention"].startswith(
        "1 of 4 usable clips abstained and count as errors; 1 could not be used"
    )
    low, high = accuracy_interval(2, 4, 0.05, 0.001)
    assert 100 * low - 0.1 <= float(re.search(r"interval ([\d.]+)", said["Result"])[1]) <= 100 * low
    assert 100 * high <= float(re.search(r"to ([\d.]+)", said["Result"])[1]) <= 100 * high + 0.1
    assert "smoothed accuracy: 2/4 (50.0\u00a0%" in said["Result"]


def test_a_median_at_the_ceiling_is_said_to_be_one(make):
    assert "it is the ceiling itself" in dict(checklist(make([certified("a", CEILING)])))["Raw radius"]
    spread = [
        certified(c, r, ceiling=r, saturated=True, policy="budget") for c, r in (("a", 0.5), ("b", 0.6))
    ]
    assert "at their own ceiling" in dict(checklist(make(spread, name="spread")))["Raw radius"]


def test_features_have_a_norm_ratio_and_never_an_snr(make, tmp_path):
    views = {"r_over_sigma": 1.2, "norm_ratio_db": 44.381}
    run = make([certified("a", views=views)], contract=FEATURE)
    said = dict(checklist(run))
    assert "norm ratio" in said["Signal-relative scale"]
    assert "44.39\u00a0dB" in said["Signal-relative scale"]
    assert "not an SNR" in said["Signal-relative scale"]
    assert "bounds no attacker who changes the waveform" in said["Scope"]
    assert list(accuracy_rows(run)) == ["radius"]
    assert "snr_db" not in text_of(run, "model-index", tmp_path)
    assert "snr_db" not in text_of(run, "csv", tmp_path)
    assert not any("SNR" in name and "not an SNR" not in name for name, _ in figure_rows(run))


def test_changes_after_the_noise_are_stated_with_their_distortion(make):
    run = make(
        [certified("a", displacement=230.4, sensitivity=0.5)],
        contract={**CONTRACT, "post_noise": ["clip(limit=1)"]},
    )
    said = dict(checklist(run))["Post-noise changes"]
    assert said.startswith("clip(limit=1). They belong to the base classifier")
    assert "displacement 230.4" in said


def test_a_budget_has_no_intervals_anywhere(make, tmp_path):
    run = make(
        [certified("a", policy="budget"), abstained("b", policy="budget")],
        config={
            "certify": {
                "n0": 100,
                "n": 300,
                "alpha": 0.001,
                "bound": "one-sided",
                "seed": 0,
                "budget": {"passes": 900},
            }
        },
    )
    assert all(row.interval is None for rows in accuracy_rows(run).values() for row in rows)
    said = dict(checklist(run))
    assert "policy budget: 900 passes" in said["Sampling"]
    assert "no intervals" in said["Result"]
    assert "95\u00a0% interval" not in said["Result"]
    front = yaml.safe_load(text_of(run, "model-index", tmp_path).split("---\n")[1])
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert {m["args"]["interval_95"] for m in metrics} == {None}
    assert metrics[0]["args"]["no_interval"] == "a budget ties the clips together"


def front_of(run: Run, tmp_path: Path) -> dict[str, Any]:
    front = yaml.safe_load(text_of(run, "model-index", tmp_path).split("---\n")[1])
    return front["model-index"][0]["results"][0]


def test_the_clips_of_a_card_are_those_that_its_shares_are_over(make, plain, tmp_path):
    """Found by a reviewer: failed clips counted among them, so that no share was a whole number of clips."""
    args = front_of(plain, tmp_path)["dataset"]["args"]
    assert (args["clips"], args["failed"], "without_label" in args) == (4, 1, False)
    run = make([certified("a"), certified("b", truth=None), certified("c", truth="no")], name="some", clips=9)
    result = front_of(run, tmp_path)
    args = result["dataset"]["args"]
    assert (args["clips"], args["without_label"], "failed" in args) == (2, 1, False)
    assert result["metrics"][0]["value"] == 1 / args["clips"]
    assert {m["args"].get("clips", 2) for m in result["metrics"]} == {args["clips"]}


def test_a_card_says_that_a_figure_does_not_exist(make, plain, tmp_path):
    args = front_of(make([certified("a", truth="no"), abstained("b")], name="none"), tmp_path)["metrics"][0][
        "args"
    ]
    assert args["median_radius"] == "none: no clip is certified and correct"
    assert args["signal_relative_scale"].startswith("none: ")
    args = front_of(plain, tmp_path)["metrics"][0]["args"]
    assert not {"median_radius", "signal_relative_scale"} & set(args)


def test_decide_is_about_the_radii_asked(make):
    run = make(
        [certified("a", 0.3, policy="decide", radii=[0.0, 0.3], ceiling=0.3, saturated=True),
         certified("b", 0.0, policy="decide", radii=[0.0, 0.3], ceiling=0.3, views={"r_over_sigma": 0.0})],
        config={"certify": {"n0": 9, "n": 300, "alpha": 0.001, "bound": "one-sided", "seed": 0,
                            "decide": {"radii": [0.0, 0.3]}}},
    )  # fmt: skip
    rows = accuracy_rows(run)
    assert [(r.level, r.count) for r in rows["radius"]] == [("0", 2), ("0.3", 1)]
    assert max(r.count for r in rows["snr_db"]) == 1, "a radius of 0 has no level"
    said = dict(checklist(run))
    assert "decide the radii 0, 0.3" in said["Sampling"]
    assert "largest radius asked about" in said["Ceiling"]
    assert "; 300 fresh draws were made for a clip" in said["Sampling"]


def test_without_labels_there_is_no_accuracy(make, tmp_path):
    records = [certified("a"), abstained("b")]
    for record in records:
        del record["truth"]
    run = make(records)
    assert "certified accuracy" not in text_of(run, "latex", tmp_path).lower()
    assert "certified at some radius: 1/2" in dict(checklist(run))["Result"]
    with pytest.raises(RunError, match="known label"):
        write_form(run, "model-index", tmp_path / "x")


# --- LaTeX -----------------------------------------------------------------------------------------


def document(fragment: str) -> str:
    return f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{fragment}\n\\end{{document}}\n"


def test_latex_escapes_what_it_is_given():
    assert escape("\\input{x}") == r"\textbackslash{}input\{x\}"
    assert escape("50% a_b^c~d$#&") == r"50\% a\_b\textasciicircum{}c\textasciitilde{}d\$\#\&"
    assert escape("two\nlines") == "two lines"
    assert escape("😀\u202e") == "[U+1F600][U+202E]"
    assert escape("a--b ''") == "a-{}-b '{}'"
    assert escape("ℓ2 ≤ σ") == r"$\ell_2$ $\le$ $\sigma$"


def test_latex_is_balanced_and_obeys_nothing_that_it_was_not_meant_to(hostile, plain, tmp_path):
    own = {
        "paragraph", "emph", "textbf", "begin", "end", "centering", "caption", "label", "toprule", "midrule",
        "bottomrule", "multicolumn", "raggedright", "tabularnewline", "linewidth", "sigma", "alpha", "ell", "le",
        "textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar", "textendash",
        "char",
    }  # fmt: skip
    for number, run in enumerate((hostile, plain)):
        text = text_of(run, "latex", tmp_path / str(number))
        body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        assert not re.search(r"(?<!\\)%", body)
        bare = re.sub(r"\\[{}\\]", "", body)
        assert bare.count("{") == bare.count("}")
        assert bare.count("$") % 2 == body.count(r"\$") % 2
        commands = set(re.findall(r"\\([a-zA-Z]+)", body.replace("\\\\", "")))
        assert commands <= own, commands - own
        assert set(re.findall(r"\\(?:begin|end)\{(\w+)\}", body)) == {"table", "tabular"}
        assert all(ord(c) < 0x250 for c in body)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
@pytest.mark.parametrize("which", ["plain", "hostile"])
def test_latex_compiles(which, request, tmp_path):
    fragment = text_of(request.getfixturevalue(which), "latex", tmp_path)
    (tmp_path / "x.tex").write_text(document(fragment), encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-draftmode", "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape", "x.tex"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


# --- tables ----------------------------------------------------------------------------------------


def test_csv_has_a_row_a_clip_with_its_contract_and_no_radius_for_an_abstention(plain, tmp_path):
    rows = list(csv.DictReader(io.StringIO(text_of(plain, "csv", tmp_path), newline="")))
    assert [r["clip"] for r in rows] == ["a", "b", "wrong", "c", "d"]
    assert {r["contract.certified_object"] for r in rows} == {CONTRACT["certified_object"]}
    assert float(rows[0]["radius"]) == 0.6
    assert rows[3]["status"] == "abstained"
    assert rows[3]["radius"] == rows[3]["views.snr_db"] == rows[3]["label"] == ""
    assert rows[4]["reason"] == "it is empty"
    assert rows[0]["views.burst_20ms_db"] == "-29.4", "a number is no formula"
    assert "run_warnings" not in rows[0]


def test_csv_cannot_start_a_formula_and_gives_names_back(hostile, tmp_path):
    rows = list(csv.reader(io.StringIO(text_of(hostile, "csv", tmp_path), newline="")))
    assert {len(row) for row in rows} == {len(rows[0])}
    number = re.compile(r"-?[\d.e+-]+|-?inf")
    assert not [c for row in rows for c in row if c.startswith(FORMULA) and not number.fullmatch(c)]
    names = [row[rows[0].index("clip")] for row in rows[1:]]
    assert [n.removeprefix("'") for n in names] == list(HOSTILE)
    assert all("torn" in row[rows[0].index("run_warnings")] for row in rows[1:])


def test_a_certificate_without_limit_is_inf_and_spaces_are_flattened(make, tmp_path):
    spaces = {
        "file": {"proven": True, "radius": None, "norm": 1.0, "chain": [{"stage": "x", "radius": None}]}
    }
    views = {"r_over_sigma": 1.2, "snr_db": 46.0, "file_radius": None, "file_snr_db": None}
    not_proven = {"file": {"proven": False, "reason": "nothing is proven"}}
    run = make([certified("a", views=views, spaces=spaces), certified("b", spaces=not_proven)])
    one, two = csv.DictReader(io.StringIO(text_of(run, "csv", tmp_path), newline=""))
    assert (one["views.file_radius"], one["views.file_snr_db"]) == ("inf", "-inf")
    assert (one["spaces.file.proven"], one["spaces.file.radius"]) == ("true", "inf")
    assert json.loads(one["spaces.file.chain"])[0]["stage"] == "x"
    assert (two["spaces.file.proven"], two["spaces.file.radius"]) == ("false", "")
    assert two["spaces.file.reason"] == "nothing is proven"


def test_parquet_reads_back_typed_with_nulls_and_the_contract(plain, hostile, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pq.read_table(write_form(plain, "parquet", tmp_path / "x.parquet"))
    rows = table.to_pylist()
    assert rows[3]["radius"] is None
    assert rows[0]["radius"] == 0.6
    assert rows[0]["n"] == 300
    assert rows[1]["saturated"] is True
    about = json.loads(table.schema.metadata[b"soundcert"])
    assert about["contract"]["certified_object"] == CONTRACT["certified_object"]
    assert about["warnings"] == []
    back = pq.read_table(write_form(hostile, "parquet", tmp_path / "y.parquet"))
    assert back["clip"].to_pylist() == list(HOSTILE), "a data frame runs no formulas: names are as they are"


# --- figures ---------------------------------------------------------------------------------------


def test_the_figure_says_what_it_shows(plain, tmp_path):
    pytest.importorskip("matplotlib")
    svg = text_of(plain, "svg", tmp_path)
    words = " ".join(
        "".join(e.itertext()) for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")
    )
    for part in ("raw radius (RMS 1 per clip)", "pointwise", "Monte-Carlo ceiling", "SNR", "2 of 4 clips"):
        assert part in words
    assert "dc:date" not in svg
    pdf = write_form(plain, "pdf", tmp_path / "x.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf


def test_the_figure_ignores_the_users_own_matplotlib_settings(plain, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    first = write_form(plain, "svg", tmp_path / "a").read_bytes()
    with matplotlib.rc_context({"font.size": 30.0, "text.usetex": True}):
        assert write_form(plain, "svg", tmp_path / "b").read_bytes() == first
        assert matplotlib.rcParams["font.size"] == 30.0


def test_a_long_staircase_never_shows_more_than_was_counted(make):
    from soundcert.report.curve import curves
    from soundcert.report.figures import staircase

    run = make([certified(str(i), 0.0002 * (i + 1), views={}) for i in range(2500)])
    curve = curves(run)[0]
    xs, counts = staircase(curve, 0.0, 1.0)
    assert len(xs) < 2100
    for i in range(0, len(xs) - 1, 2):  # level pieces, closed at their right end
        assert counts[i] == counts[i + 1] <= curve.count_at(xs[i + 1])
    assert counts[0] <= 2500


# --- model card ------------------------------------------------------------------------------------


def test_a_model_card_has_one_metric_for_each_certified_accuracy(plain, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(text_of(plain, "model-index", tmp_path), ignore_metadata_errors=False)
    results = card.data.eval_results
    assert card.data.model_name == "kws"
    assert results[0].metric_type == "smoothed_accuracy"
    assert results[0].metric_value == 0.5
    at = {
        r.metric_args["radius"]: r
        for r in results
        if r.metric_type == "certified_accuracy" and "radius" in r.metric_args
    }
    assert at[0.5].metric_value == 0.5
    assert at[0.5].metric_args["interval_95"] == list(accuracy_interval(2, 4, 0.05, 0.001))
    for result in results:
        assert {"sigma", "alpha", "n", "contract", "seed", "policy"} <= set(result.metric_args)
        assert result.metric_args["contract"]["certified_object"] == CONTRACT["certified_object"]
        assert (result.dataset_type, result.dataset_split) == ("speech_commands", "test")
    assert any(r.metric_args.get("snr_db") == 50 for r in results)
    hub.repocard_data.eval_results_to_model_index(card.data.model_name, results)


def test_a_hostile_name_cannot_end_the_front_matter(hostile, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    text = text_of(hostile, "model-index", tmp_path)
    card = hub.ModelCard(text, ignore_metadata_errors=False)
    assert card.data.pipeline_tag == "audio-classification"
    assert "<b>" not in card.text
    assert text.count("\n---\n") == 1
    assert any("torn" in w for w in card.data.eval_results[0].dataset_args["warnings"])


# --- in-toto ---------------------------------------------------------------------------------------


def validated(made: dict[str, Any]) -> dict[str, Any]:
    """Check a statement by jsonschema, by our own reading of the schema, and by in-toto's parser where it is."""
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(report_schema())
    jsonschema.Draft202012Validator(report_schema()).validate(made["predicate"])
    if importlib.util.find_spec("in_toto_attestation"):
        from google.protobuf import json_format
        from in_toto_attestation.v1 import statement_pb2
        from in_toto_attestation.v1.statement import Statement

        parsed = json_format.Parse(json.dumps(made), statement_pb2.Statement())
        Statement.copy_from_pb(parsed).validate()
    return made


def test_a_statement_is_valid_and_says_what_it_is_about(plain, hostile, tmp_path):
    made = validated(json.loads(text_of(plain, "in-toto", tmp_path)))
    assert made["_type"] == "https://in-toto.io/Statement/v1"
    assert made["predicateType"] == REPORT_TYPE == report_schema()["$id"]
    assert [s["name"] for s in made["subject"]] == ["model weights kws", "data list Speech Commands"]
    assert made["subject"][0]["digest"] == {STATE_DIGEST: "b" * 32}
    predicate = made["predicate"]
    assert predicate["certify"]["policy"] == "fixed"
    assert predicate["not_claimed"]
    assert set(predicate["run"]["evidence"]) == {"run.json", "certificates.jsonl"}
    assert any("no SHA-256" in w for w in predicate["warnings"])
    assert "/home/me" not in json.dumps(made)

    torn = validated(json.loads(text_of(hostile, "in-toto", tmp_path / "2")))["predicate"]
    assert torn["run"]["finished"] is False
    assert any("torn" in w for w in torn["warnings"])
    assert "/secret" not in json.dumps(torn)


def test_sha256_is_given_for_a_weight_file_that_still_holds_the_parameters(tmp_path):
    labels = write_tone_model(tmp_path / "tones.safetensors")
    write(tmp_path / "clips" / "low" / "a.wav", labels)
    write(tmp_path / "clips" / "high" / "b.wav", tone(4000.0))
    (tmp_path / "c.yaml").write_text(yaml_of(WAVEFORM))
    config = load_config(tmp_path / "c.yaml")
    certify_run(config, load_items(config.data, tmp_path), tmp_path / "run", base=tmp_path)
    run = open_run(tmp_path / "run")
    made = validated(statement(run))
    import hashlib

    weights = tmp_path / "tones.safetensors"
    assert made["subject"][0]["digest"] == {
        STATE_DIGEST: run.info["identity"]["model"],
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    assert made["predicate"]["warnings"] == []
    write_tone_model(weights, ("low", "high"))
    weights.write_bytes(b"x")
    gone = statement(run)
    assert "sha256" not in gone["subject"][0]["digest"]
    assert "no SHA-256" in gone["predicate"]["warnings"][0]


def test_a_model_without_a_digest_is_no_subject(make):
    run = make([certified("a")], identity={"data": "a" * 32, "model": "a callable without digest"})
    made = validated(statement(run))
    assert [s["name"] for s in made["subject"]] == ["data list Speech Commands"]
    assert any("without digest" in w for w in made["predicate"]["warnings"])
    with pytest.raises(RunError, match="no digest of its data list"):
        statement(make([certified("a")], name="none", identity={}))


def test_the_predicate_is_checked_by_its_schema(plain):
    good = statement(plain)["predicate"]
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(report_schema())
    for broken in (
        {k: v for k, v in good.items() if k != "warnings"},
        {**good, "more": 1},
        {**good, "contract": {**good["contract"], "perturbation_location": "elsewhere"}},
        {**good, "summary": {**good["summary"], "smoothed_accuracy": 1.2}},
    ):
        assert not checker.is_valid(broken)


def test_the_published_schema_is_the_one_in_the_code():
    published = ROOT / "docs" / "schemas" / "report-v1.json"
    assert json.loads(published.read_text(encoding="utf-8")) == report_schema(), (
        "run scripts/make_report_schema.py"
    )
