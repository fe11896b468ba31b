"""`soundcert attack`: on a finished run, resumed, refused, and with a violation."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import IN_FEATURES, LOW, WAVEFORM, mistakes, tone, write, write_untrained, yaml_of
from soundcert.attack import Attacker
from soundcert.audio import load_clip
from soundcert.pipeline import Pipeline
from soundcert.report.sounds import listen
from soundcert.runs import open_run
from soundcert.runs.attack_run import stem_of
from soundcert.runs.attack_schema import attack_schema

QUICK = ("--steps", 4, "--restarts", 3, "--draws", 8, "--n", 60)


@pytest.fixture
def run(cli, home) -> Path:
    """A run on the waveform, four clips certified."""
    assert cli("certify", home / "kws.yaml", "--out", home / "run").code == 0
    return home / "run"


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "attacks.jsonl").read_text("utf-8").splitlines()]


def test_attack_a_run_with_every_goal(cli, run):
    ran = cli("attack", run, *QUICK, "--json")
    assert (ran.code, ran.err) == (0, "")
    rows = lines(run)
    assert [row["clip"] for row in rows] == ["high/0.wav", "high/1.wav", "low/0.wav", "low/1.wav"]
    assert not [mistake for row in rows for mistake in mistakes(row, attack_schema())]
    for row in rows:
        assert row["status"] == "attacked"
        assert row["proven"]["proven"] is True
        assert 1 - 1e-9 <= row["leave"]["ratio"] < 1.01, "a gain to an RMS is attained"
        assert row["flip"] is None or row["flip"]["norm"] >= row["proven"]["radius"]
        assert row["inside"]["violated"] is False
        assert "bypass" not in row, "the object is a waveform"
        assert len(row["deployed"]) == 3
    assert ran.json["clips"] == 4
    assert ran.json["leave"]["found"] == 4
    assert ran.json["violations"] == []
    kept = json.loads((run / "attacks.json").read_text("utf-8"))
    assert {key: kept[key] for key in ran.json} == ran.json
    assert kept["identity"] == json.loads((run / "run.json").read_text("utf-8"))["identity"]


def test_the_same_call_goes_on_and_other_settings_are_other_attacks(cli, run, monkeypatch):
    real = Attacker.attack
    calls = itertools.count(1)

    def interrupted(self, *arguments):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Attacker, "attack", interrupted)
    ran = cli("attack", run, "--goal", "leave", *QUICK)
    assert ran.code == 130
    assert "Go on with the same command" in ran.err
    assert len(lines(run)) == 2
    # A line that was torn by a power cut is cut off and written again.
    with (run / "attacks.jsonl").open("ab") as file:
        file.write(b'{"clip": "low/0.w')
    monkeypatch.setattr(Attacker, "attack", real)
    assert cli("attack", run, "--goal", "leave", *QUICK).code == 0
    assert [row["clip"] for row in lines(run)] == ["high/0.wav", "high/1.wav", "low/0.wav", "low/1.wav"]
    before = (run / "attacks.jsonl").read_bytes()
    assert cli("attack", run, "--goal", "leave", *QUICK).code == 0
    assert (run / "attacks.jsonl").read_bytes() == before
    assert cli("attack", run, "--goal", "leave", *QUICK, "--seed", 1, "--limit", 2).code == 0
    assert len(lines(run)) == 6


def test_limit_takes_a_sample_and_the_summary_is_for_people(cli, run):
    ran = cli("attack", run, "--goal", "leave", *QUICK, "--limit", 2)
    assert ran.code == 0
    assert "2 certified: 2 attacked, 0 failed" in ran.out
    assert "times what is proven" in ran.out
    assert "proves nothing" in ran.out
    assert len(lines(run)) == 2


@pytest.mark.parametrize(("limit", "total"), [((), 4), (("--limit", 3), 3), (("--limit", 9), 4)])
def test_the_bar_knows_how_many_clips_there_are_before_the_first_is_done(cli, run, monkeypatch, limit, total):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(Attacker, "attack", interrupted)
    ran = cli("attack", run, "--goal", "leave", *QUICK, *limit)
    assert ran.code == 130
    assert f"0/{total}" in re.sub(r"\x1b\[[0-9;]*m", "", ran.err)


def test_a_bypass_is_kept_as_files_that_leave_the_ball(cli, home):
    (home / "features.yaml").write_text(yaml_of(IN_FEATURES), encoding="utf-8")
    run = home / "run"
    assert cli("certify", home / "features.yaml", "--out", run).code == 0
    ran = cli("attack", run, "--goal", "bypass", *QUICK, "--wav", "--limit", 1)
    assert ran.code == 0
    assert "dB below what the norm ratio suggests" in " ".join(ran.out.split())
    (row,) = lines(run)
    assert not mistakes(row, attack_schema())
    pipe = Pipeline.from_yaml(home / "features.yaml")
    original = load_clip(run / "attacks" / f"{stem_of(row['clip'])}.original.wav")
    assert original.digest == row["digest"]
    for file in row["bypass"]["files"]:
        moved = pipe.object_of(load_clip(run / file["path"])) - pipe.object_of(original)
        assert float(torch.linalg.vector_norm(moved)) == pytest.approx(file["distance"])
        assert file["outside"] and file["distance"] > row["radius"]


def listed_anywhere(cli, home: Path, stages: list[str]) -> tuple[Path, list[str]]:
    """Certify recordings outside the list's folder; return the run, and the two names that the list gives them."""
    names = ["../recordings/low.wav", str(home / "recordings" / "high.wav")]
    (home / "recordings").mkdir()
    for name, source in zip(names, ("low/0.wav", "high/0.wav"), strict=True):
        (home / "recordings" / Path(name).name).write_bytes((home / "clips" / source).read_bytes())
    (home / "lists").mkdir()
    (home / "lists" / "mine.csv").write_text(f"file\n{names[0]}\n{names[1]}\n")
    text = yaml_of(stages, "{source: manifest, root: lists/mine.csv}")
    (home / "mine.yaml").write_text(text, encoding="utf-8")
    assert cli("certify", home / "mine.yaml", "--out", home / "run").code == 0
    return home / "run", names


def test_a_bypass_is_kept_in_the_run_wherever_the_list_says_the_recording_is(cli, home):
    run, names = listed_anywhere(cli, home, IN_FEATURES)
    before = sorted(p for p in home.rglob("*") if run not in p.parents)
    assert cli("attack", run, "--goal", "bypass", *QUICK, "--wav").code == 0
    rows = lines(run)
    assert sorted(row["clip"] for row in rows) == sorted(names)
    for row in rows:
        for file in row["bypass"]["files"]:
            assert (run / file["path"]).resolve().parent == (run / "attacks").resolve()
            assert load_clip(run / file["path"]).frames == 1600
    assert sorted(p for p in home.rglob("*") if run not in p.parents) == before
    heard = listen(open_run(run), names).clips
    assert [one.clip for one in heard] == names
    assert all("attack" in {version.key for version in one.versions} for one in heard), "a report plays them"


def test_evidence_is_kept_in_the_run_wherever_the_list_says_the_recording_is(cli, home):
    run, _ = listed_anywhere(cli, home, WAVEFORM)
    rows = [json.loads(line) for line in (run / "certificates.jsonl").read_text("utf-8").splitlines()]
    text = "".join(json.dumps({**row, "radius": 240.0 * row["sigma"]}) + "\n" for row in rows)
    (run / "certificates.jsonl").write_text(text, encoding="utf-8")
    before = sorted(p for p in home.rglob("*") if run not in p.parents)
    ran = cli("attack", run, "--goal", "inside", "--steps", 8, "--draws", 8, "--n", 200, "--json")
    assert ran.code == 1
    for violation in ran.json["violations"]:
        with np.load(run / violation["evidence"]) as evidence:
            assert evidence["inside_delta"].shape == (1600,)
    assert sorted(p for p in home.rglob("*") if run not in p.parents) == before


@pytest.mark.parametrize(
    "name",
    [
        "/abs/x.flac",
        "../x.flac",
        "..",
        "a/..",
        "/",
        "",
        "a\\b.wav",
        "C:\\x.wav",
        ".hidden",
        "é" * 300,
        "\ud800\0\n.wav",
    ],
)
def test_no_name_leads_out_of_a_folder(name, tmp_path):
    stem = stem_of(name)
    assert Path(stem).name == stem not in (".", "..")
    assert not stem.startswith(".")
    (tmp_path / f"{stem}.attacked-16-bits.wav").touch()


def test_stems_are_readable_and_told_apart():
    assert stem_of("low/0.wav").startswith("0.wav-")
    assert len({stem_of(name) for name in ("low/0.wav", "high/0.wav", "0.wav", "../0.wav")}) == 4


def test_a_violation_is_exit_code_one_with_its_evidence(cli, run):
    rows = [json.loads(line) for line in (run / "certificates.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        row["radius"] = 240.0 * row["sigma"]
    (run / "certificates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    call = ("attack", run, "--goal", "inside", "--steps", 8, "--draws", 8, "--n", 200)
    ran = cli(*call, "--json")
    assert ran.code == 1
    assert ran.json["violations"]
    for violation in ran.json["violations"]:
        with np.load(run / violation["evidence"]) as evidence:
            assert evidence["inside_delta"].shape == (1600,)
            record = json.loads(str(evidence["record"]))
        assert record["violations"] == violation["what"]
        assert (
            record["identity"]["model"]
            == json.loads((run / "run.json").read_text("utf-8"))["identity"]["model"]
        )
        assert record["certificate"]["clip"] == violation["clip"]
    assert not [m for row in lines(run) for m in mistakes(row, attack_schema())]
    assert "Evidence" in cli(*call).out


def test_a_clip_that_is_gone_failed_and_the_rest_is_attacked(cli, run, home):
    (home / "clips" / "low" / "0.wav").write_bytes(b"RIFF")
    ran = cli("attack", run, "--goal", "leave", *QUICK, "--json")
    assert ran.code == 1
    assert (ran.json["clips"], ran.json["failed"]) == (4, 1)
    (failed,) = (row for row in lines(run) if row["status"] == "failed")
    assert not mistakes(failed, attack_schema())
    # It is tried again, and the last line counts.
    write(home / "clips" / "low" / "0.wav", tone(LOW, 10))
    assert cli("attack", run, "--goal", "leave", *QUICK).code == 0
    assert len(lines(run)) == 5


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--space", "fiel"), "did you mean 'file'"),
        (("--limit", 0), "limit must be at least 1"),
        (("--steps", 0), "steps must be a whole number"),
        (("--n", 3), "every prediction would abstain"),
        (("--goal", "everything"), "everything"),
        (("--base", "elsewhere"), "elsewhere"),
    ],
)
def test_a_call_that_is_wrong_is_refused_in_one_line(cli, run, more, words):
    ran = cli("attack", run, *more)
    assert ran.code == 2
    assert words in ran.err
    assert not (run / "attacks.jsonl").exists()


def test_another_model_or_recording_than_the_runs_is_refused(cli, run, home):
    weights = (home / "tones.safetensors").read_bytes()
    write_untrained(home / "tones.safetensors", ("high", "low"))
    ran = cli("attack", run, *QUICK)
    assert ran.code == 2
    assert "was made with another model" in ran.err
    (home / "tones.safetensors").write_bytes(weights)
    clip = home / "clips" / "low" / "0.wav"
    write(clip, tone(LOW, 99))
    ran = cli("attack", run, *QUICK)
    assert ran.code == 2
    assert "is another recording than" in ran.err
    clip.unlink()
    ran = cli("attack", run, *QUICK)
    assert ran.code == 2
    assert "no longer holds" in ran.err


def test_what_is_no_run_is_refused(cli, home, run):
    assert "missing or not JSON" in cli("attack", home / "nothing").err
    (home / "empty").mkdir()
    (home / "empty" / "run.json").write_text("{}")
    assert "is not a run of" in cli("attack", home / "empty").err
    (run / "certificates.jsonl").write_text("")
    ran = cli("attack", run)
    assert ran.code == 2
    assert "no certified clip" in ran.err


@pytest.mark.usefixtures("run")
def test_a_run_whose_data_has_moved_is_found_by_its_base(cli, home, tmp_path_factory):
    place = tmp_path_factory.mktemp("moved") / "home"
    home.rename(place)
    try:
        assert cli("attack", place / "run", "--goal", "leave", *QUICK).code == 2
        assert cli("attack", place / "run", "--goal", "leave", *QUICK, "--base", place).code == 0
    finally:
        place.rename(home)


def test_a_run_that_nothing_is_proven_for_in_the_file_is_attacked_too(cli, home):
    for i in range(2):
        write(home / "slow" / "low" / f"{i}.wav", tone(LOW, i, rate=8000), 8000)
    stages = [stage.replace("rate: 16000", "rate: 16000, method: soxr") for stage in WAVEFORM]
    (home / "soxr.yaml").write_text(yaml_of(stages, "{source: folder, root: slow}"), encoding="utf-8")
    assert cli("certify", home / "soxr.yaml", "--out", home / "run").code == 0
    ran = cli("attack", home / "run", "--goal", "leave", "--goal", "deployed", *QUICK, "--json")
    assert ran.code == 0
    for row in lines(home / "run"):
        assert row["proven"]["proven"] is False
        assert "ratio" not in row["leave"]
        assert "resampled by sinc" in [d["variant"] for d in row["deployed"]]


@pytest.mark.parametrize(
    "place", ["attacks", "attacks/0.wav-x.original.wav", "attacks.jsonl", "attacks.json.part", ".lock"]
)
def test_nothing_is_written_through_a_link_that_a_run_holds(cli, run, tmp_path, place):
    target = tmp_path / "elsewhere"
    target.mkdir()
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).unlink(missing_ok=True)
    (run / place).symlink_to(target)
    ran = cli("attack", run, *QUICK, "--limit", 1, "--wav")
    assert ran.code == 2
    assert "is a symbolic link" in ran.err
    assert list(target.iterdir()) == []
