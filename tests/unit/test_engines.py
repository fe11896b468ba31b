"""Inference engines: the same logits from each, at any batch size and on any thread, or a refusal."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from soundcert import engines
from soundcert.engines import PACKAGES, Engine, available, choose, choose_micro_batch, prepare
from soundcert.errors import ConfigError, MissingDependencyError, ModelError
from soundcert.models import build_network

BATCH, BANDS, FRAMES = 6, 12, 20
PAIRS = [(engine, precision) for engine, known in engines.PRECISIONS.items() for precision in known]
FP32 = [pair for pair in PAIRS if pair[1] == "fp32"]


def ready(engine: str, precision: str = "fp32") -> None:
    """Skip where the engine cannot be run on this machine."""
    missing = [package for package in PACKAGES[engine] if find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    if engine == "openvino" and precision == "bf16" and ("openvino", "bf16") not in available():
        pytest.skip("this CPU has no bfloat16, so that OpenVINO offers none")


def features(rows: int = BATCH, seed: int = 0) -> Tensor:
    return torch.randn(rows, BANDS, FRAMES, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Sequential:
    """A small DS-CNN whose batch normalisation does something."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = build_network("ds_cnn", 5, {"width": 8, "blocks": 3, "halve": 2})
        for layer in made.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0.0, 0.2)
                layer.running_var.uniform_(0.5, 2.0)
        return made.eval()


def wave_network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(
            nn.Unflatten(1, (1, -1)),
            nn.Conv1d(1, 8, 16, stride=4),
            nn.BatchNorm1d(8),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        ).eval()


def expected(net: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return net(x.clone())


@pytest.fixture(scope="module")
def made() -> dict[tuple[str, str], Engine]:
    """Engines of `network()` by engine and precision, prepared once."""
    return {}


def engine_of(made: dict[tuple[str, str], Engine], pair: tuple[str, str]) -> Engine:
    ready(*pair)
    if pair not in made:
        made[pair] = prepare(network(), features(), *pair)
    return made[pair]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("rows", [BATCH, 1, BATCH // 2, 11])
def test_logits_are_the_networks_at_any_batch_size(made, pair, rows):
    engine = engine_of(made, pair)
    x = features(rows, seed=5)
    kept = x.clone()
    want, got = expected(network(), x), engine(x)
    assert (engine.engine, engine.precision) == pair and engine.version
    assert got.dtype == torch.float32 and got.shape == want.shape
    atol = 1e-5 if pair[1] == "fp32" else 0.1
    torch.testing.assert_close(got, want, rtol=0.0, atol=atol * float((want - want.mean()).abs().max()))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_result_outlives_the_next_call(made, pair):
    engine = engine_of(made, pair)
    first = engine(features(seed=1))
    kept = first.clone()
    engine(features(seed=2))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_many_threads_give_what_one_gives(made, pair):
    engine = engine_of(made, pair)

    def run(seed: int) -> Tensor:
        torch.set_num_threads(1)
        return engine(features((BATCH, 1, 3)[seed % 3], seed))

    alone = [run(seed) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, range(24)))
    for got, want in zip(together, alone, strict=True):
        torch.testing.assert_close(got, want, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("pair", FP32, ids="-".join)
def test_waveform_networks_run_too(pair):
    ready(*pair)
    net, x = wave_network(), torch.randn(BATCH, 400, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prepare(net, x, *pair)(x), expected(net, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_preparing_works_inside_inference_mode_and_leaves_the_network_alone(pair):
    ready(*pair)
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = features(1)  # a single row is not taken for a fixed size
    with torch.inference_mode():
        engine = prepare(net, x, *pair)
        assert engine(features()).shape == (BATCH, 5)
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(value.dtype == before[name].dtype for name, value in after.items())


def test_more_batch_sizes_than_are_compiled_for(monkeypatch):
    ready("openvino")
    monkeypatch.setattr(engines, "FIXED_SIZES", 2)
    engine = prepare(network(), features(), "openvino")
    for rows in range(1, 6):
        x = features(rows)
        torch.testing.assert_close(engine(x), expected(network(), x), rtol=1e-4, atol=1e-5)


def test_torch_runs_the_folded_network():
    engine = prepare(network(), features())
    assert any(isinstance(layer, nn.Identity) for layer in engine.module.modules())
    assert "torch" in repr(engine) and "fp32" in repr(engine)


def test_a_callable_runs_with_torch_fp32_and_nothing_else():
    def net(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3]

    assert torch.equal(prepare(net, features())(features()), net(features()))
    for engine, precision in PAIRS:
        if (engine, precision) != ("torch", "fp32"):
            with pytest.raises(ConfigError, match=r"nn\.Module.*function.*engine 'torch'"):
                prepare(net, features(), engine, precision)


@pytest.mark.parametrize(
    ("engine", "precision", "said"),
    [
        ("onnx", "fp32", "unknown engine 'onnx'"),
        ("torch", "bf61", "unknown precision 'bf61'.*did you mean 'bf16'"),
        ("onnxruntime", "bf16", "runs fp32, not bf16"),
    ],
)
def test_unknown_names_are_refused(engine, precision, said):
    with pytest.raises(ConfigError, match=said):
        prepare(network(), features(), engine, precision)


@pytest.mark.parametrize(
    ("engine", "package", "extra"),
    [
        ("onnxruntime", "onnxruntime", "onnx"),
        ("onnxruntime", "onnxscript", "onnx"),
        ("openvino", "openvino", "openvino"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, engine, package, extra):
    for name in PACKAGES[engine]:
        monkeypatch.setitem(sys.modules, name, torch)  # a stand-in: only the import is tried
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"{package}.*constraints.txt '\.\[{extra}\]'"):
        prepare(network(), features(), engine)
    assert engine not in [name for name, _ in available()]


def test_an_engine_that_computes_something_else_is_refused(monkeypatch):
    def wrong(net, _example, engine, precision, _packages):
        return Engine(lambda x: expected(net, x) * 1.01, engine, precision)

    monkeypatch.setattr(engines, "_build", wrong)
    monkeypatch.setattr(engines, "_load", lambda _: [])
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(ModelError, match="another classifier: logits differ by up to"):
            prepare(network(), features(), engine)
    assert prepare(network(), features(), "openvino", "bf16").precision == "bf16"  # within its tolerance


class Steep(nn.Module):
    """Logits that are a thousand times as large at twice the input."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * x.abs().amax(dim=(1, 2)).unsqueeze(1) ** 10


@pytest.mark.parametrize(("error", "refused"), [(0.02, False), (2.0, True)])
def test_large_logits_at_another_gain_may_differ_by_as_much_more(monkeypatch, error, refused):
    """Rounding costs a share of what is computed: where logits grow, so may their difference, and no further."""
    quiet = float(features().abs().max())

    def rounded(net, *_):
        return Engine(lambda x: net(x) * (1 + error * (x.abs().max() > 1.5 * quiet)), "openvino", "bf16")

    monkeypatch.setattr(engines, "_load", lambda _: [])
    monkeypatch.setattr(engines, "_build", rounded)
    steep = Steep().eval()
    if refused:
        with pytest.raises(ModelError, match="another classifier"):
            prepare(steep, features(), "openvino", "bf16")
    else:
        assert prepare(steep, features(), "openvino", "bf16").precision == "bf16"


def test_another_number_of_classes_is_refused(monkeypatch):
    monkeypatch.setattr(engines, "_load", lambda _: [])
    monkeypatch.setattr(
        engines, "_build", lambda net, *_: Engine(lambda x: expected(net, x)[:, :2], "openvino")
    )
    with pytest.raises(ModelError, match="returns logits of shapes"):
        prepare(network(), features(), "openvino")


class Masked(nn.Module):
    """Logits of which one class is ruled out."""

    def __init__(self, value: float, gain: float = 1.0) -> None:
        super().__init__()
        self.net, self.value, self.gain = network(), value, gain

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x) * self.gain
        out[:, 2] = self.value
        return out


@pytest.mark.parametrize("value", [-1e9, -float("inf")])
def test_a_masked_class_is_compared_as_it_is_and_hides_no_difference(monkeypatch, value):
    monkeypatch.setattr(engines, "_load", lambda _: [])
    for gain in (1.0, 1.01):
        built = Engine(Masked(value, gain).eval(), "openvino")
        monkeypatch.setattr(engines, "_build", lambda *_, built=built: built)
        if gain == 1.0:
            assert prepare(Masked(value).eval(), features(), "openvino") is built
        else:
            with pytest.raises(ModelError, match="another classifier"):
                prepare(Masked(value).eval(), features(), "openvino")


class Branching(nn.Module):
    """Takes another way for loud batches: no fixed graph has both."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        return -out if float(x.abs().max()) > 1.5 * float(features().abs().max()) else out


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_network_that_branches_on_its_input_is_refused(engine):
    ready(engine)
    with pytest.raises(ModelError, match=f"{engine}.*[Uu]se engine 'torch'"):
        prepare(Branching().eval(), features(), engine)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair != ("torch", "fp32")], ids="-".join)
def test_training_mode_is_refused(pair):
    ready(*pair)
    with pytest.raises(ModelError, match=r"model\.eval\(\)"):
        prepare(network().train(), features(), *pair)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_batch_of_another_shape_is_a_model_error(made, engine):
    run = engine_of(made, (engine, "fp32"))
    with pytest.raises(ModelError, match=r"cannot run a batch of shape \(6, 12\)"):
        run(torch.zeros(BATCH, BANDS))


def test_available_lists_torch_and_only_what_is_known():
    pairs = available()
    assert pairs[0] == ("torch", "fp32")
    assert set(pairs) <= set(PAIRS) and len(pairs) == len(set(pairs))


def test_bf16_is_listed_where_the_cpu_has_it(monkeypatch):
    monkeypatch.setattr(engines, "_native_bf16", lambda: ())
    assert all(precision == "fp32" for _, precision in available())
    monkeypatch.setattr(engines, "_native_bf16", lambda: ("torch", "openvino"))
    assert ("torch", "bf16") in available()


@pytest.mark.parametrize("allow_bf16", [False, True])
def test_choose_returns_a_measured_pair(monkeypatch, allow_bf16):
    monkeypatch.setattr(engines, "available", lambda: [("torch", "fp32"), ("torch", "bf16")])
    engine, precision, rates = choose(network(), features(), seconds=0.0, allow_bf16=allow_bf16)
    assert (engine, precision) in rates
    assert rates[engine, precision] == max(rates.values())
    assert all(rate > 0 for rate in rates.values())
    assert set(rates) == {("torch", "fp32"), ("torch", "bf16")} if allow_bf16 else {("torch", "fp32")}


def test_choose_leaves_out_what_cannot_run_the_network(monkeypatch):
    monkeypatch.setattr(engines, "available", lambda: list(FP32))
    engine, precision, rates = choose(lambda x: x.flatten(1)[:, :3], features(), seconds=0.0)
    assert (engine, precision) == ("torch", "fp32")
    assert list(rates) == [("torch", "fp32")]


def test_choose_micro_batch_returns_one_of_the_sizes():
    seen = []

    def run(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return x.flatten(1)

    assert choose_micro_batch(run, (BANDS, FRAMES), (2, 4), seconds=0.0) in (2, 4)
    assert set(seen) == {(2, BANDS, FRAMES), (4, BANDS, FRAMES)}
    for sizes in ((), (0, 4)):
        with pytest.raises(ConfigError, match="positive batch sizes"):
            choose_micro_batch(run, (BANDS, FRAMES), sizes)


def test_the_number_of_torch_threads_is_put_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        choose_micro_batch(lambda x: x, (3,), (2,), seconds=0.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_importing_engines_imports_no_engine():
    code = (
        "import sys, soundcert.engines; "
        "print([m for m in ('onnx', 'onnxruntime', 'onnxscript', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_openvino_is_kept_from_reporting_its_use():
    ready("openvino")
    code = (
        "import sys; from soundcert import engines; engines._load('openvino'); "
        "print(sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
