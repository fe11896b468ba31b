"""Audits: closed forms on real clips, the geometry of the published table, and every flag."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import soundcert as sc
from soundcert.audit import Audit
from soundcert.config import Decide
from soundcert.data import DataConfig, load_items
from soundcert.errors import ConfigError, InputError
from soundcert.flags import FLAGS, Flag
from soundcert.pipeline import Pipeline
from soundcert.report.terminal import audit_view
from soundcert.sequential import largest_ratio
from soundcert.stages import (
    Clip,
    Fit,
    FixedGain,
    GaussianNoise,
    Limiter,
    LogMel,
    Model,
    Mono,
    PeakNormalize,
    Quantize,
    Resample,
    RmsNormalize,
    Stage,
)

SIZE = 1600
REPOSITORY = Path(__file__).resolve().parents[2]


def clip(
    seed: int = 0, size: int = SIZE, *, rate: int = 16_000, name: str = "", level: float = 0.05
) -> sc.Clip:
    values = np.random.default_rng(seed).standard_normal(size) * level
    return sc.Clip.from_array(
        np.round(values.clip(-0.9, 0.9) * 2**15).astype(np.int16), rate, name or f"{seed}"
    )


def printed(audit: Audit) -> str:
    out = io.StringIO()
    Console(file=out, width=400).print(audit_view(audit))
    return out.getvalue()


# --- real clips ------------------------------------------------------------------------------------


def real_clips(root: Path, source: str, limit: int | None) -> list[sc.Clip]:
    chosen = {"split": "testing"} if source == "speech_commands" else {}
    items = load_items(DataConfig(source=source, root=root, limit=limit, **chosen))
    return [sc.load_clip(item.path, name=item.name) for item in items]


def unit_rms(seconds: float, *after: Stage, sigma: float = 0.0025) -> Pipeline:
    return Pipeline(
        [Mono(), Resample(16_000), Fit(seconds=seconds), RmsNormalize(), GaussianNoise(sigma), *after]
    )


@pytest.mark.parametrize(
    ("source", "seconds", "decibels", "up"),
    [("speech_commands", 1.0, 83.983, "83.99 dB"), ("esc10", 5.0, 90.973, "90.98 dB")],
)
def test_the_ceiling_of_real_clips_in_decibels(shared_data, source, seconds, decibels, up):
    clips = real_clips(shared_data(source), source, 8)
    found = sc.audit(unit_rms(seconds), clips, n=10_000, alpha=0.001)
    assert not found.failed
    assert len(found.clips) == 8
    for row in found.clips:
        assert row.ceiling == pytest.approx(0.00799644, abs=5e-9)
        assert row.object_norm == pytest.approx(math.sqrt(16_000 * seconds), rel=1e-12)
        assert row.views["snr_db"] == pytest.approx(decibels, abs=1e-3)
        # Neither of these grows with the clip's length.
        assert row.views["r_over_sigma"] == pytest.approx(3.198577, abs=1e-6)
        assert row.views["burst_20ms_db"] == pytest.approx(-66.993, abs=1e-3)
    text = printed(found)
    assert up in text
    assert "0.0079964" in text
    assert found.medians()["snr_db"] == pytest.approx(decibels, abs=1e-3)


def test_the_difference_of_the_published_decibels_is_the_clips_length(shared_data):
    """20·log10 of √d: five times the samples at one radius and one RMS."""
    one = sc.audit(unit_rms(1.0), real_clips(shared_data("speech_commands"), "speech_commands", 2))
    five = sc.audit(unit_rms(5.0), real_clips(shared_data("esc10"), "esc10", 2))
    difference = five.medians()["snr_db"] - one.medians()["snr_db"]
    assert difference == pytest.approx(10 * math.log10(5), abs=1e-9)
    assert five.medians()["burst_20ms_db"] == pytest.approx(one.medians()["burst_20ms_db"], abs=1e-9)


def displacements(clips: Sequence[sc.Clip], seconds: float, stage: Stage, draws: int) -> list[float]:
    pipe = unit_rms(seconds, stage)
    out = []
    for one in clips:
        try:
            out.append(sc.diagnostics.geometry_distortion(pipe, one, draws=draws).displacement)
        except InputError as error:  # a few recordings hold nothing but zeros
            if "silent" not in str(error):
                raise
    return out


STAGES = {"clip": Clip(-1.0, 1.0), "peak": PeakNormalize(1.0)}


@pytest.mark.parametrize(
    ("source", "seconds", "stage", "expected"),
    [
        ("speech_commands", 1.0, "clip", 269),
        ("speech_commands", 1.0, "peak", 350),
        ("esc10", 5.0, "clip", 226),
        ("esc10", 5.0, "peak", 350),
    ],
)
def test_displacement_on_a_sample_of_real_clips(shared_data, source, seconds, stage, expected):
    clips = real_clips(shared_data(source), source, 60 if source == "speech_commands" else 30)
    values = displacements(clips, seconds, STAGES[stage], draws=2)
    assert statistics.median(values) == pytest.approx(expected, rel=0.2)


@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "seconds", "clips", "clipped", "peak"),
    [("speech_commands", 1.0, 3644, 269, 350), ("esc10", 5.0, 400, 226, 350)],
)
def test_displacement_on_all_real_clips(shared_data, source, seconds, clips, clipped, peak):
    found = real_clips(shared_data(source), source, None)
    assert len(found) == clips
    for stage, expected in (("clip", clipped), ("peak", peak)):
        values = displacements(found, seconds, STAGES[stage], draws=4)
        assert statistics.median(values) == pytest.approx(expected, rel=0.03)


# --- geometry --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stage",
    [Clip(-1.0, 1.0), Clip(-0.2, 3.0), PeakNormalize(1.0), RmsNormalize(0.3), FixedGain(0.5)],
    ids=str,
)
def test_displacement_of_small_noise_tends_to_the_distance_that_the_stage_moves_the_clip(stage):
    one = clip(1)
    for sigma in (1e-4, 1e-6):
        pipe = Pipeline([RmsNormalize(), GaussianNoise(sigma), stage])
        v = pipe.object_of(one)
        moved = float(torch.linalg.vector_norm(v - stage(v.unsqueeze(0))[0]))
        found = sc.diagnostics.geometry_distortion(pipe, one, draws=16)
        assert found.displacement == pytest.approx(moved / (sigma * math.sqrt(SIZE)), rel=0.02)
        # 1/‖η‖ has the mean 1/(σ√d) to 1/d; what is left is the spread of sixteen draws.
        assert found.sensitivity <= 1.0 + 1e-9 or isinstance(stage, PeakNormalize)


def test_sensitivity_is_the_share_of_the_noise_that_is_left():
    one = clip(2)
    half = sc.diagnostics.geometry_distortion(Pipeline([GaussianNoise(0.1), FixedGain(0.5)]), one)
    assert half.sensitivity == pytest.approx(0.5, rel=1e-9)
    nothing = sc.diagnostics.geometry_distortion(Pipeline([GaussianNoise(0.1)]), one)
    assert (nothing.displacement, nothing.sensitivity) == (1.0, 1.0)
    wide = sc.diagnostics.geometry_distortion(Pipeline([GaussianNoise(0.1), Clip(-50.0, 50.0)]), one)
    assert (wide.displacement, wide.sensitivity) == pytest.approx((1.0, 1.0))


def test_an_audit_reports_the_geometry_of_its_clips():
    pipe = Pipeline([RmsNormalize(), GaussianNoise(0.01), Clip(-1.0, 1.0)])
    clips = [clip(i) for i in range(3)]
    found = sc.audit(pipe, clips, draws=16, seed=4)
    for row, one in zip(found.clips, clips, strict=True):
        expected = sc.diagnostics.geometry_distortion(pipe, one, draws=16, seed=4)
        assert row.contract.displacement == expected.displacement
        assert row.contract.sensitivity == expected.sensitivity
    assert found.medians()["displacement"] == statistics.median(r.contract.displacement for r in found.clips)
    assert found.contract is not None
    assert found.contract.kind == "post-processed waveform smoothing"
    assert "displacement" not in sc.audit(Pipeline([GaussianNoise(0.01)]), clips).medians()


# --- flags -----------------------------------------------------------------------------------------


def trained(sigma: str) -> Model:
    """A model whose weight file says with which noise it was trained."""
    said = ["mono()", "rms_normalize(target=1)", f"gaussian_noise(sigma={sigma})", "model(linear)"]
    return Model(module=nn.Linear(SIZE, 2).eval(), meta={"pipeline": said})


def full_scale(count: int) -> sc.Clip:
    values = np.round(np.random.default_rng(3).standard_normal(SIZE) * 3000).astype(np.int16)
    values[10 : 10 + count] = [32767, -32768, 32767, -32768][:count]
    return sc.Clip.from_array(values, 16_000, "loud")


def half_silent() -> sc.Clip:
    values = np.round(np.random.default_rng(4).standard_normal(SIZE) * 3000).astype(np.int16)
    values[SIZE // 2 :] = 0
    return sc.Clip.from_array(values, 16_000, "half")


def silent() -> sc.Clip:
    return sc.Clip.from_array(np.zeros(SIZE, np.int16), 16_000, "silent")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(SIZE, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


def mel(floor: float) -> LogMel:
    return LogMel(n_mels=8, n_fft=256, floor=floor)


NOISE = GaussianNoise(0.5)
ONE = [clip()]
Case = tuple[Callable[[], list[Stage]], Sequence[sc.Clip], int]


def case(*stages: Stage, clips: Sequence[sc.Clip] = ONE, n: int = 10_000) -> Case:
    return (lambda: list(stages), clips, n)


# What raises a flag, and the nearest thing that does not.
CASES: dict[str, tuple[Case, Case]] = {
    "per-clip-gain-before-noise": (case(RmsNormalize(), NOISE), case(FixedGain(2.0), NOISE)),
    "clip-after-unit-gain": (case(RmsNormalize(), NOISE, Clip()), case(NOISE, Clip())),
    "gain-after-noise": (case(NOISE, PeakNormalize()), case(PeakNormalize(), NOISE, FixedGain(2.0))),
    "quantise-after-noise": (case(NOISE, Quantize(bits=16)), case(Quantize(bits=16), NOISE)),
    "feature-not-waveform": (case(mel(1.0), NOISE), case(NOISE, mel(1.0))),
    "latent-not-waveform": (
        case(Model(module=net(), stop=1), NOISE, Model(module=net(), start=1)),
        case(NOISE, Model(module=net())),
    ),
    "log-floor": (
        case(mel(1e-10), GaussianNoise(0.01), clips=[half_silent()]),
        case(mel(10.0), GaussianNoise(0.01), clips=[half_silent()]),
    ),
    "below-quantisation": (case(GaussianNoise(1e-5)), case(GaussianNoise(1e-3))),
    "silent-clip": (case(NOISE, clips=[silent()]), case(NOISE, clips=[half_silent()])),
    "full-scale-clip": (case(NOISE, clips=[full_scale(4)]), case(NOISE, clips=[full_scale(3)])),
    "mostly-padding": (
        case(Fit(samples=SIZE), NOISE, clips=[clip(size=799)]),
        case(Fit(samples=SIZE), NOISE, clips=[clip(size=800)]),
    ),
    "cropped": (
        case(Fit(samples=SIZE), NOISE, clips=[clip(size=1601)]),
        case(Fit(samples=SIZE), NOISE, clips=[clip(size=1600)]),
    ),
    "lengths-differ": (
        case(NOISE, clips=[clip(0), clip(1, 1000)]),
        case(Fit(samples=SIZE), NOISE, clips=[clip(0), clip(1, 1000)]),
    ),
    "resampled-on-load": (
        case(Resample(16_000, method="soxr"), NOISE, clips=[clip(rate=8000)]),
        case(Resample(16_000), NOISE, clips=[clip(rate=8000)]),
    ),
    "trained-otherwise": (
        case(RmsNormalize(), NOISE, trained("0.3")),
        case(RmsNormalize(), NOISE, trained(f"{NOISE.sigma:g}")),
    ),
    "small-ceiling": (case(NOISE, n=20), case(NOISE, n=100)),
}


def raised(case: Case) -> dict[str, Flag]:
    stages, clips, n = case
    found = sc.audit(Pipeline(stages()), clips, n=n)
    assert not found.failed
    return {flag.id: flag for flag in found.flags}


def test_there_is_a_case_for_every_flag():
    assert set(CASES) == set(FLAGS)


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_is_raised_by_what_it_is_about_and_not_by_what_is_near_it(flag):
    guilty, innocent = CASES[flag]
    found = raised(guilty)
    assert flag in found
    assert found[flag].detail
    assert flag not in raised(innocent)


def test_a_soft_limiter_is_flagged_where_it_bends_the_clean_clip():
    found = raised(case(RmsNormalize(), NOISE, Limiter()))
    assert "limiter(threshold=0.8, ceiling=1) bends" in found["clip-after-unit-gain"].detail
    assert raised(case(NOISE, Limiter(threshold=2.0, ceiling=3.0))) == {}


def test_a_plain_pipeline_and_a_clean_clip_raise_nothing():
    assert raised(case(Fit(samples=SIZE), FixedGain(2.0), NOISE)) == {}


def test_a_rate_that_is_right_already_was_not_resampled_on_load():
    assert raised(case(Resample(16_000, method="soxr"), NOISE)) == {}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_has_its_page_and_its_texts(flag):
    kind = FLAGS[flag]
    assert kind.page == f"docs/flags/{flag}.md"
    page = " ".join((REPOSITORY / kind.page).read_text(encoding="utf-8").split())
    for text in (kind.title, kind.raised_if[1:], kind.meaning, kind.action):
        assert " ".join(text.split()) in page


def test_flags_of_a_list_say_how_many_clips_and_warnings_come_first():
    pipe = Pipeline([Fit(samples=SIZE), RmsNormalize(), NOISE, Clip()])
    clips = [clip(0), clip(1, 700, name="short"), clip(2, 1700, name="long"), clip(3, 700)]
    found = sc.audit(pipe, clips)
    by_id = {flag.id: flag.detail for flag in found.flags}
    assert by_id["mostly-padding"] == "2 of 4 clips: 700 samples to 1600"
    assert by_id["cropped"] == "1 of 4 clips: 1700 samples to 1600"
    assert by_id["per-clip-gain-before-noise"].startswith("4 of 4 clips: rms_normalize")
    assert by_id["clip-after-unit-gain"].startswith("4 of 4 clips; 0: ")
    levels = [flag.kind.level for flag in found.flags]
    assert levels == sorted(levels, key=("warning", "note").index)
    text = printed(found)
    assert all(flag.kind.title in text and flag.kind.action in text for flag in found.flags)


# --- clips that cannot be used ---------------------------------------------------------------------


def test_clips_that_cannot_be_used_are_listed_with_the_reason():
    pipe = Pipeline([RmsNormalize(), NOISE, mel(1.0)])
    stereo = sc.Clip.from_array(np.ones((2, SIZE)) * 0.1, 16_000, "stereo")
    broken = ("broken.wav", InputError("'broken.wav': it is torn"))
    found = sc.audit(pipe, [clip(0), broken, silent(), stereo, clip(1, rate=8000, name="slow")])
    assert [row.clip for row in found.clips] == ["0"]
    assert list(found.failed) == ["broken.wav", "silent", "stereo", "slow"]
    assert found.failed["broken.wav"] == "'broken.wav': it is torn"
    assert "silent" in found.failed["silent"]
    assert "mono" in found.failed["stereo"]
    assert "8000 Hz" in found.failed["slow"]
    assert found.passes == 1 * 10_100
    text = printed(found)
    assert "1 usable, 4 not" in text
    assert all(f"✗ {name}" in text for name in found.failed)
    assert found.to_dict()["failed"] == found.failed


def test_an_audit_of_nothing_usable_has_no_contract():
    found = sc.audit(Pipeline([RmsNormalize(), NOISE]), [silent()])
    assert found.contract is None
    assert found.medians() == {}
    assert found.flags == ()
    assert "0 usable, 1 not" in printed(found)
    assert found.to_dict()["contract"] is None


def test_a_long_list_of_failures_is_cut_for_people_and_whole_for_machines():
    broken = [(f"{i}.wav", InputError("torn")) for i in range(25)]
    found = sc.audit(Pipeline([NOISE]), broken)
    assert "and 15 more" in printed(found)
    assert len(found.to_dict()["failed"]) == 25


def test_a_budget_that_certifies_nothing_is_refused():
    with pytest.raises(ConfigError, match="n = 9 is too small"):
        sc.audit(Pipeline([NOISE]), ONE, n=9, alpha=0.001)


def test_the_cost_counts_the_passes_and_needs_a_model_for_a_time():
    without = sc.audit(Pipeline([NOISE]), [clip(i) for i in range(3)], n0=7, n=50)
    assert without.passes == 3 * 57
    assert without.minutes is None
    assert without.to_dict()["cost"] == {"passes": 171, "seconds_a_pass": None, "minutes": None}
    timed = sc.audit(Pipeline([NOISE, Model(module=net())]), [clip(i) for i in range(3)], n0=7, n=50)
    assert timed.minutes is not None
    assert timed.minutes > 0


def test_the_ceiling_under_lattice_noise_is_at_what_is_left_of_alpha():
    """At the full alpha it would be a radius that no count of votes certifies."""
    stages = [sc.stages.Quantize(log2_step=-15), sc.stages.LatticeNoise(sigma=0.1), lambda x: x]
    clip = sc.Clip.from_array(np.arange(-50, 50, dtype=np.int16) * 100, 16_000)
    (found,) = sc.audit(sc.Pipeline(stages), [clip], n=1000, alpha=1e-3).clips
    assert found.ceiling < sc.bounds.monte_carlo_ceiling(0.1, 1000, 1e-3)
    assert found.ceiling == pytest.approx(sc.bounds.monte_carlo_ceiling(0.1, 1000, 1e-3), rel=1e-6)


def test_under_decide_no_radius_beyond_what_is_asked_about_is_shown():
    pipe, clip = (
        sc.Pipeline([NOISE, lambda x: x]),
        sc.Clip.from_array(np.arange(-50, 50, dtype=np.int16) * 100, 16_000),
    )
    ceiling = sc.bounds.monte_carlo_ceiling(NOISE.sigma, 1000, 1e-3)
    for radii, expected in (((0.0, ceiling / 2), ceiling / 2), ((0.0,), 0.0)):
        (found,) = sc.audit(pipe, [clip], n=1000, policy=Decide(radii=radii)).clips
        assert found.ceiling == expected
        assert found.views["r_over_sigma"] == pytest.approx(expected / NOISE.sigma)
        assert "small-ceiling" not in {flag.id for flag in found.flags}
        assert found.to_dict()["ceiling"] == expected


def test_flags_judge_a_pipeline_by_what_its_draws_allow():
    """A small radius asked about is no fault of the pipeline: advice on floors or σ would cure nothing."""
    clip = sc.Clip.from_array((np.random.default_rng(0).normal(size=1600) * 3000).astype(np.int16), 16_000)
    waveform = [sc.stages.RmsNormalize(target=1.0), NOISE, lambda x: x]
    feature = [sc.stages.LogMel(n_mels=8, n_fft=256, floor=10.0), NOISE, lambda x: x.flatten(1)]
    for stages in (waveform, feature):
        pipe = sc.Pipeline(stages)
        fixed, decided = (
            {flag.id for flag in sc.audit(pipe, [clip], n=1000, policy=policy).clips[0].flags}
            for policy in (None, Decide(radii=(0.0, 1e-5)))
        )
        assert decided == fixed
        assert not decided & {"log-floor", "below-quantisation", "small-ceiling"}


def test_radii_above_what_lattice_noise_leaves_are_refused_clip_by_clip():
    """`decide` is checked at the level that is left for objects of each clip's length."""
    stages = [sc.stages.Quantize(log2_step=-15), sc.stages.LatticeNoise(sigma=0.1), lambda x: x]
    clip = sc.Clip.from_array(np.arange(-50, 50, dtype=np.int16) * 100, 16_000)
    most = largest_ratio(1000, 1e-3) * 0.1
    torn = ("torn", InputError("it ends within a sample"))
    found = sc.audit(sc.Pipeline(stages), [torn, clip], n=1000, policy=Decide(radii=(0.0, most)))
    assert not found.clips
    assert "can never be certified" in found.failed[clip.name]
    with pytest.raises(ConfigError, match=r"none of the clips fits .*can never be certified"):
        sc.audit(sc.Pipeline(stages), [clip], n=1000, policy=Decide(radii=(0.0, most)))
    found = sc.audit(sc.Pipeline(stages), [clip], n=1000, policy=Decide(radii=(0.0, most * (1 - 1e-6))))
    assert not found.failed


def test_a_clip_alone_is_a_list_of_one_and_anything_else_is_refused():
    pipe = sc.Pipeline([NOISE, Clip()])
    clip = sc.Clip.from_array(np.ones(SIZE, np.int16), 16_000, "ones")
    assert sc.audit(pipe, clip).contract == sc.audit(pipe, [clip]).contract is not None
    for entry in ("yes.wav", np.zeros(9), None, ("name", "error")):
        with pytest.raises(InputError, match="expected a Clip, got a"):
            sc.audit(pipe, [entry])
    for draws in (0, -1, 1.5, "a", True):
        with pytest.raises(ConfigError, match="draws must be a whole number from 1"):
            sc.audit(pipe, clip, draws=draws)


def test_a_pipeline_that_fits_no_clip_is_the_configs_fault():
    pipe = sc.Pipeline([Fit(seconds=1e12), NOISE])
    clip = sc.Clip.from_array(np.ones(SIZE, np.int16), 16_000, "ones")
    with pytest.raises(ConfigError, match="none of the clips fits the pipeline: stage 1: fit"):
        sc.audit(pipe, [clip, clip])
    assert sc.audit(pipe, [clip, ("torn", InputError("torn"))]).clips == ()
