"""`soundcert compare`: what it prints and how it ends."""

from __future__ import annotations

import json
import shutil

import pytest

from helpers import IN_FEATURES, yaml_of


@pytest.fixture
def runs(cli, home):
    """`a` and `b` under one contract with two seeds, `f` in features."""
    (home / "f.yaml").write_text(yaml_of(IN_FEATURES), encoding="utf-8")
    for config, out, seed in (("kws", "a", 0), ("kws", "b", 1), ("f", "f", 0)):
        assert cli("certify", home / f"{config}.yaml", "--out", home / out, "--seed", seed).code == 0
    return home


def test_runs_of_one_contract_stand_side_by_side(cli, runs):
    ran = cli("compare", runs / "a", runs / "b", "--at", 60, 50)
    assert (ran.code, ran.err) == (0, "")
    text = " ".join(ran.out.split())
    assert "Compared in the certified object" in text
    assert "no difference shown" in text
    assert "differ in the seed alone differ by Monte-Carlo error alone" in text
    assert max(map(len, ran.out.splitlines())) <= 100
    for never in ("better", "wins", "\x1b"):
        assert never not in ran.out


def test_contracts_that_differ_are_refused_with_code_1_and_rank_in_the_file(cli, runs):
    ran = cli("compare", runs / "a", runs / "f")
    assert ran.code == 1
    assert "A ranking would mislead" in ran.out
    assert "→ --in file" in ran.out
    ran = cli("compare", runs / "a", runs / "f", "--in", "file", "--json")
    assert ran.code == 0
    found = ran.json
    assert found["comparable"] is True
    assert found["space"] == "file"
    assert found["pairs"][0]["points"][0]["sentence"]
    by_radius = cli(
        "compare", runs / "a", runs / "f", "--in", "file", "--by", "radius", "--at", 0.01, "--json"
    ).json
    assert (by_radius["axis"], by_radius["unit"], by_radius["grid"]) == ("radius", "full scale", [0.01])


def test_torn_runs_are_shown_with_their_warnings(cli, runs):
    file = runs / "b" / "certificates.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    ran = cli("compare", runs / "a", runs / "b")
    assert ran.code == 0
    text = " ".join(ran.out.split())
    assert "is torn and left out" in text
    assert "B is not finished" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a"], "2 to 12 runs"),
        (["a", "a"], "given twice"),
        (["a", "clips"], "not a run directory"),
        (["a", "f", "--by", "snr"], "not an SNR"),
        (["a", "b", "--at", "nan"], "finite"),
        (["a", "b", "--in", "files"], "no space 'files'"),
        (["a", "b", "--resamples", "5"], "at least 2000"),
        (["a", "b", "--alpha", "3"], "alpha"),
    ],
)
def test_bad_calls_are_one_line_with_code_2(cli, runs, arguments, words):
    ran = cli("compare", *(runs / a if a in ("a", "b", "f", "clips") else a for a in arguments))
    assert ran.code == 2
    assert words in ran.err


def test_a_run_whose_json_is_broken_is_one_line(cli, runs):
    shutil.copytree(runs / "a", runs / "c")
    (runs / "c" / "run.json").write_text("{")
    assert cli("compare", runs / "a", runs / "c").code == 2
    assert json.loads((runs / "a" / "run.json").read_text())["format"] == 1
