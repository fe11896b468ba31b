"""Inference engines: ways to run a base classifier's network on a CPU, chosen by name and verified.

A network maps `(batch, *shape)` float32 to logits `(batch, classes)`. `prepare` makes an Engine of it:

- torch: the folded, channels-last copy of `optimise` in fp32; the same in bfloat16 as bf16;
- onnxruntime, fp32 (extra `onnx`);
- openvino, fp32 and bf16 (extra `openvino`).

Every call runs on the thread that makes it and on that thread alone, and calls from several threads run in
parallel. torch is the exception that it takes its number of threads from `torch.set_num_threads`, which the
caller sets. Networks are translated in memory: nothing is unpickled, downloaded, sent or written.

An fp32 engine computes the same classifier up to float32 rounding. bf16 keeps eight bits of every number, so
it is another classifier: a certificate made with it holds for it, and must be deployed with it.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import math
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from soundcert.errors import (
    ConfigError,
    MissingDependencyError,
    ModelError,
    SoundcertError,
    did_you_mean,
    how_to_install,
)
from soundcert.models import freeze, optimise
from soundcert.models.ensemble import Ensemble

EngineName = Literal["torch", "onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16"]
Run = Callable[[Tensor], Tensor]
K = TypeVar("K")

PRECISIONS: Mapping[EngineName, tuple[Precision, ...]] = {
    "torch": ("fp32", "bf16"),
    "onnxruntime": ("fp32",),  # its CPU kernels for convolutions know no bfloat16
    "openvino": ("fp32", "bf16"),
}
# What each engine imports, and the extra that brings it.
PACKAGES: Mapping[EngineName, tuple[str, ...]] = {
    "torch": (),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino",),
}
EXTRAS: Mapping[EngineName, str] = {"onnxruntime": "onnx", "openvino": "openvino"}

# Largest difference from the original's logits, as a share of their spread (see _verify). fp32 engines only
# reorder float32 operations, which costs around 1e-6. bfloat16 rounds to 2^-9 at every layer: small trained
# networks differ by up to a tenth; beyond a half it is rather a mistranslation than rounding.
TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-4, "bf16": 0.5}
FIXED_SIZES = 8  # batch sizes that OpenVINO compiles for; any further ones share one of free size
TURN = 0.03  # seconds that a candidate runs before the next one has its turn


class Engine:
    """A network made ready to run: maps `(batch, *shape)` float32 to logits `(batch, classes)`.

    engine, precision, version: what computes it. module: the torch module that is run, None for the other
    engines and for a callable that is not a module. Calls may come from several threads at once.
    """

    def __init__(
        self,
        run: Run,
        engine: EngineName = "torch",
        precision: Precision = "fp32",
        version: str = torch.__version__,
        module: nn.Module | None = None,
    ) -> None:
        self._run = run
        self.engine: EngineName = engine
        self.precision: Precision = precision
        self.version = str(version)
        self.module = module or (run if isinstance(run, nn.Module) else None)

    def __call__(self, x: Tensor) -> Tensor:
        with torch.inference_mode():  # folded weights refuse to run where gradients are recorded
            return self._run(x)

    def __repr__(self) -> str:
        return f"Engine({self.engine} {self.version}, {self.precision})"


def prepare(network: Run, example: Tensor, engine: str = "torch", precision: str = "fp32") -> Engine:
    """Return `network` on an engine, after comparing its logits with the network's own.

    network: an nn.Module in evaluation mode, which is left as it is; torch and fp32 take any callable.
    example: a micro-batch `(batch, *shape)` float32. The engine is fastest at its size and answers others.

    Raises ConfigError for an engine, precision or network that do not go together, MissingDependencyError
    for a package that is not installed, and ModelError where the engine cannot translate the network or
    its logits differ by more than TOLERANCES. The comparison covers the example at three gains and sizes:
    a network that branches on the values of its input may still be frozen on one branch.
    """
    name, bits = _check_pair(engine, precision)
    if isinstance(network, Ensemble):
        return _together(network, example, name, bits)
    if not isinstance(network, nn.Module):
        if (name, bits) != ("torch", "fp32"):
            raise ConfigError(
                f"engine {name!r} with {bits} needs an nn.Module to translate, got a "
                f"{type(network).__name__}: give a module, or use engine 'torch' with fp32"
            )
        return Engine(network)
    if (name, bits) == ("torch", "fp32"):
        fast = optimise(network, example)  # compares by itself, and so does freeze
        return Engine(freeze(fast, example) if fast is not network else fast, module=fast)
    if network.training:
        raise ModelError(f"engine {name!r} needs a model in evaluation mode: call model.eval() first")
    packages = _load(name)
    # Outside inference mode, whatever the caller's: tracing needs ordinary tensors.
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        try:
            made = _build(network, example.clone(), name, bits, packages)
        except SoundcertError:
            raise
        except Exception as error:  # a translator fails with whatever it likes
            raise ModelError(
                f"engine {name!r} cannot translate this network: {_first_line(error)}. Use engine 'torch'"
            ) from error
        _verify(network, made, example)
    return made


def available() -> list[tuple[EngineName, Precision]]:
    """Return the engines and precisions that are installed and that this CPU runs natively.

    bf16 is listed where the CPU multiplies bfloat16: avx512_bf16 or amx_bf16 on x86 (AMD Zen 4, Intel Cooper
    Lake, Sapphire Rapids and later), and bf16 on ARM, for torch alone. torch computes it elsewhere too, with
    detours that are slower than fp32.
    """
    pairs: list[tuple[EngineName, Precision]] = []
    for engine, precisions in PRECISIONS.items():
        if all(importlib.util.find_spec(package) is not None for package in PACKAGES[engine]):
            native = _native_bf16()
            pairs += [(engine, p) for p in precisions if p == "fp32" or engine in native]
    return pairs


def choose(
    network: Run, example: Tensor, *, seconds: float = 2.0, allow_bf16: bool = False
) -> tuple[EngineName, Precision, dict[tuple[EngineName, Precision], float]]:
    """Return the fastest available engine and precision for `network`, and every candidate's rate.

    The rates are rows per CPU-second at the batch of `example` `(batch, *shape)`, on one thread: candidates
    take turns for `seconds` altogether, after preparation, and the fastest turn counts, so that what else
    the machine does moves all alike. Candidates that cannot run the network are left out. bf16, which is
    another classifier, takes part only with `allow_bf16`.
    """
    pairs = [p for p in available() if allow_bf16 or p[1] == "fp32"]
    runs: dict[tuple[EngineName, Precision], Run] = {}
    for engine, precision in pairs:
        try:
            runs[engine, precision] = prepare(network, example, engine, precision)
        except (ConfigError, ModelError, MissingDependencyError):
            if (engine, precision) == ("torch", "fp32"):
                raise
    taken = _alternate({pair: (run, example.clone()) for pair, run in runs.items()}, seconds)
    rates = {pair: len(example) / duration for pair, duration in taken.items()}
    best = max(rates, key=lambda pair: rates[pair])
    return *best, rates


def choose_micro_batch(
    run: Run, shape: Sequence[int], sizes: Sequence[int] = (8, 16, 32), *, seconds: float = 1.0
) -> int:
    """Return the size among `sizes` at which `run` takes the least CPU time a row, measured as in `choose`.

    shape: one row's, without the batch.
    """
    if not sizes or min(sizes) < 1:
        raise ConfigError(f"sizes must be one or more positive batch sizes, got {list(sizes)}")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(max(sizes), *shape, generator=generator)
    taken = _alternate({size: (run, rows[:size].clone()) for size in sizes}, seconds)
    return min(sizes, key=lambda size: taken[size] / size)


# Checks


def _check_pair(engine: str, precision: str) -> tuple[EngineName, Precision]:
    """Raise ConfigError unless the engine is known and has the precision."""
    for name, bits in PRECISIONS.items():
        if name == engine:
            for known in bits:
                if known == precision:
                    return name, known
            if precision in get_args(Precision):
                raise ConfigError(
                    f"engine {name!r} runs {' and '.join(bits)}, not {precision}: use engine 'openvino' or 'torch'"
                )
            raise ConfigError(f"unknown precision {precision!r}{did_you_mean(precision, bits)}")
    raise ConfigError(f"unknown engine {engine!r}{did_you_mean(engine, PRECISIONS)}")


def _load(engine: EngineName) -> list[Any]:
    """Import the packages of an engine, in the order of PACKAGES; MissingDependencyError without one."""
    if engine == "openvino" and "openvino" not in sys.modules:
        # OpenVINO reports its use over the network on import, and leaves a client number in the home folder,
        # unless the package that sends is missing. A certifier sends nothing.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    modules = []
    for package in PACKAGES[engine]:
        try:
            modules.append(importlib.import_module(package))
        except ImportError as error:
            raise MissingDependencyError(
                f"engine {engine!r} needs the package {package!r}, which is not installed: "
                f"{how_to_install(EXTRAS[engine])}"
            ) from error
    return modules


@cache
def _native_bf16() -> tuple[EngineName, ...]:
    """Return the engines that this CPU serves in bfloat16, by the flags of Linux or, elsewhere, of torch."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        flags = {w for line in lines if line.lower().startswith(("flags", "features")) for w in line.split()}
    except OSError:
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        flags = {name for name, has in capabilities.items() if has is True}
    if flags & {"avx512_bf16", "amx_bf16"}:
        return ("torch", "openvino")
    return ("torch",) if "bf16" in flags else ()


def _verify(network: nn.Module, engine: Engine, example: Tensor) -> None:
    """Raise ModelError unless the engine's logits are the network's, to TOLERANCES of their spread."""
    middle = len(example) // 2
    # Other gains for what a trace may have frozen; other sizes since the engine must answer those too.
    probes = [example, 2.0 * example[: middle + 1], 0.25 * example[:1]]
    expected = [network(probe.clone()) for probe in probes]
    if any(not isinstance(e, Tensor) or e.dim() != 2 for e in expected):
        raise ModelError("the model must map (batch, ...) to logits (batch, classes)")
    try:
        got = [engine(probe.clone()) for probe in probes]
    except SoundcertError:
        raise
    except Exception as error:
        raise ModelError(
            f"engine {engine.engine!r} with {engine.precision} cannot run this network: {_first_line(error)}. "
            "Use engine 'torch' with fp32"
        ) from error
    shapes = [[tuple(logits.shape) for logits in side] for side in (got, expected)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"engine {engine.engine!r} returns logits of shapes {shapes[0]} where the network returns {shapes[1]}: "
            "use engine 'torch' with fp32"
        )
    typical = _spread(torch.cat(expected).double())
    tolerance = TOLERANCES[engine.precision]
    relative = 1e-5 if engine.precision == "fp32" else 2**-6
    for theirs, ours in zip((g.double() for g in got), (e.double() for e in expected), strict=True):
        # At another gain logits can be a hundred times as large, and what rounding does to them with them.
        spread = max(typical, _spread(ours))
        if not torch.isclose(theirs, ours, rtol=relative, atol=tolerance * spread, equal_nan=True).all():
            # Infinities and NaN that agree differ by NaN, which is not a difference.
            same = (theirs == ours) | (theirs.isnan() & ours.isnan())
            worst = float((theirs - ours).abs().nan_to_num(float("inf")).masked_fill(same, 0.0).max())
            raise ModelError(
                f"engine {engine.engine!r} with {engine.precision} computes another classifier: logits differ by up to "
                f"{worst:.3g}, expected at most {tolerance:g} of their spread {spread:.3g}. Use engine 'torch' with fp32"
            )


def _spread(logits: Tensor) -> float:
    """Return the median distance of finite logits from their median; a masked class does not widen it."""
    finite = logits[torch.isfinite(logits)]
    return float((finite - finite.median()).abs().median()) if finite.numel() else 0.0


# Engines


def _together(ensemble: Ensemble, example: Tensor, engine: EngineName, precision: Precision) -> Engine:
    """Return an ensemble whose members' networks are each on the engine; features stay in torch, like any."""
    seen = ensemble.seen(example)
    parts = [
        prepare(network, y, engine, precision) for network, y in zip(ensemble.networks, seen, strict=True)
    ]
    modules = [part.module for part in parts if part.module is not None]
    whole = len(modules) == len(parts)
    together = list(zip(ensemble.features, modules, strict=True)) if whole else []
    module = Ensemble(together, ensemble.consensus) if whole else None
    return Engine(lambda x: ensemble.mean(x, parts), engine, precision, parts[0].version, module)


def _build(
    network: nn.Module, example: Tensor, engine: EngineName, precision: Precision, packages: list[Any]
) -> Engine:
    """Translate a module, outside inference mode and without gradients; any exception is a refusal."""
    if engine == "onnxruntime":
        runtime = packages[0]
        return Engine(_onnxruntime(network, example, runtime), engine, precision, runtime.__version__)
    if engine == "openvino":
        openvino = packages[0]
        run = _OpenVino(openvino, _converted(network, example, openvino), precision, len(example))
        return Engine(run, engine, precision, openvino.__version__)
    module = copy.deepcopy(optimise(network, example)).to(torch.bfloat16)  # optimise may return the original

    def cast(x: Tensor) -> Tensor:
        out: Tensor = module(x.to(torch.bfloat16))
        return out.float()

    return Engine(cast, engine, precision, torch.__version__, module)


def _onnxruntime(network: nn.Module, example: Tensor, runtime: Any) -> Run:
    """Return a session of one thread and free batch size, which is as fast here as a fixed one."""
    if hasattr(runtime, "disable_telemetry_events"):
        runtime.disable_telemetry_events()  # on by default on Windows
    if len(example) == 1:
        example = example.repeat(2, *([1] * (example.dim() - 1)))  # a size of one would be taken as fixed
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        verbose=False,
    )
    assert program is not None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(None, {name: _array(x)})[0])  # sessions are thread-safe
        except Exception as error:
            raise _refusal("onnxruntime", x, error) from error

    return run


def _converted(network: nn.Module, example: Tensor, openvino: Any) -> Any:
    """Return OpenVINO's model of a module, of free batch size."""
    # Traced here: convert_model's own trace is checked for equal graphs, which a network that asks whether
    # gradients are wanted does not give. _verify compares what matters, the logits.
    traced = torch.jit.trace(network, (example,), check_trace=False)  # type: ignore[no-untyped-call]
    shape = openvino.PartialShape([-1, *example.shape[1:]])
    return openvino.convert_model(traced, example_input=example, input=[shape])


class _OpenVino:
    """A pool of compiled models, as many a batch size as calls that have run at once.

    Requests of one compiled model of one stream wait for each other, and a model of several streams hands
    its work to threads of its own; so that a call runs on the caller's thread, in parallel with others,
    each has a compiled model to itself while it runs. Compiling takes tenths of a second.
    """

    def __init__(self, openvino: Any, model: Any, precision: Precision, size: int) -> None:
        self._openvino = openvino
        self._core = openvino.Core()
        self._model = model
        self._hint = {"fp32": "f32", "bf16": "bf16"}[precision]
        self._free: dict[int, list[Any]] = {}  # requests at rest, by batch size; 0 is any other
        self._lock = threading.Lock()
        self._give_back(size, self._compile(size))

    def _compile(self, size: int) -> Any:
        model = self._model.clone()
        if size:  # a fixed shape is a few per cent faster
            model.reshape([size, *model.input(0).partial_shape[1:]])
        options = {
            "INFERENCE_PRECISION_HINT": self._hint,  # unasked, fp32 would be bf16 where that is native
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": 1,
            "ENABLE_CPU_PINNING": False,  # models would all be pinned to the same core
        }
        compiled = self._core.compile_model(model, "CPU", options)
        got = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if got != self._hint:
            raise ConfigError(f"OpenVINO runs {got} on this CPU where {self._hint} was asked for: use fp32")
        return compiled.create_infer_request()

    def _take(self, size: int) -> tuple[int, Any]:
        with self._lock:
            if size not in self._free and len(self._free) >= FIXED_SIZES:
                size = 0
            free = self._free.setdefault(size, [])
            return size, free.pop() if free else self._compile(size)

    def _give_back(self, size: int, request: Any) -> None:
        with self._lock:
            self._free.setdefault(size, []).append(request)

    def __call__(self, x: Tensor) -> Tensor:
        array = _array(x)
        try:
            size, request = self._take(len(x))
            try:
                request.set_input_tensor(self._openvino.Tensor(array, shared_memory=True))
                request.infer()
                return torch.from_numpy(request.get_output_tensor(0).data.copy())
            finally:
                self._give_back(size, request)
        except SoundcertError:
            raise
        except Exception as error:
            raise _refusal("openvino", x, error) from error


def _array(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def _refusal(engine: EngineName, x: Tensor, error: Exception) -> ModelError:
    return ModelError(f"engine {engine!r} cannot run a batch of shape {tuple(x.shape)}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    """Return the first line of what went wrong; torch's exporter puts its own advice in front of the cause."""
    said = str(error.__cause__ or error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:")[:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep translators from printing graphs, and warnings of what is none of the user's business."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# Measurement


def _alternate(candidates: Mapping[K, tuple[Run, Tensor]], seconds: float) -> dict[K, float]:
    """Return each candidate's CPU seconds a call: the least over turns taken for `seconds` altogether."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    least = dict.fromkeys(candidates, math.inf)
    calls = {}
    try:
        with torch.inference_mode():
            for key, (run, x) in candidates.items():
                run(x.clone())  # the first call compiles or allocates
                calls[key] = max(1, round(TURN / max(_cpu_seconds(run, x, 1), 1e-6)))
            deadline = time.monotonic() + seconds
            while True:
                for key, (run, x) in candidates.items():
                    least[key] = min(least[key], max(_cpu_seconds(run, x, calls[key]), 1e-9))
                if time.monotonic() >= deadline:
                    return least
    finally:
        torch.set_num_threads(threads)


def _cpu_seconds(run: Run, x: Tensor, calls: int) -> float:
    started = time.process_time()
    for _ in range(calls):
        run(x)
    return (time.process_time() - started) / calls
