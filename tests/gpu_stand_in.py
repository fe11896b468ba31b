"""A device that computes on the CPU, refuses to mix with it, and counts what would stall a GPU.

    python tests/gpu_stand_in.py        one JSON line a pipeline: are the counts the CPU's, and what went to and fro?

It rests on interfaces of torch that are not promised; tests/unit/test_gpu.py skips where they are not there. It knows
no streams, and its noise is the CPU's, so that counts can be compared.
"""

from __future__ import annotations

import collections
import json
import sys
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME, CPU = "standin", torch.device("cpu")
#: Copies to and from the device, and questions that wait for it, since it was last cleared.
TRAFFIC: collections.Counter[str] = collections.Counter()
_ASKS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item", "masked_select")


class OnDevice(Tensor):
    """A tensor of the device: `inner` holds its values, on the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        with torch.inference_mode(False):
            out: OnDevice = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
                device=torch.device(NAME, 0), requires_grad=False,
            )  # fmt: skip
        out.inner = inner
        return out

    @classmethod
    def __torch_dispatch__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Device(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _is_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _inner(x: Any) -> Any:
    if isinstance(x, OnDevice):
        return x.inner
    return CPU if isinstance(x, torch.device) and x.type == NAME else x


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = str(func.overloadpacket).removeprefix("aten.")
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    here = [x for x in tensors if isinstance(x, OnDevice)]
    there = [x for x in tensors if not isinstance(x, OnDevice) and x.dim() > 0]
    if name == "to":
        with Device():
            return func.decompose(*args, **kwargs)
    if name == "_to_copy":
        x, target = args[0], kwargs.get("device")
        onto = _is_device(target) or (target is None and bool(here))
        if isinstance(x, OnDevice) != onto:
            TRAFFIC["to the device" if onto else "from the device"] += 1
        rest = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking", "pin_memory")}
        y = func(_inner(x), **rest, device=CPU)
        return OnDevice(y) if onto else y
    if name in _ASKS and here:
        TRAFFIC["questions"] += 1
    if name == "copy_" and len(tensors) == 2 and len(here) == 1:
        TRAFFIC["to the device" if isinstance(tensors[0], OnDevice) else "from the device"] += 1
        _inner(tensors[0]).copy_(_inner(tensors[1]))
        return args[0]
    if here and there:
        if "index" not in name:
            raise RuntimeError(f"{func}: tensors on {NAME} and on the CPU")
        TRAFFIC["to the device"] += len(there)
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if not (here or _is_device(kwargs.get("device"))):
        return out
    if args and isinstance(args[0], OnDevice) and out is args[0].inner:
        return args[0]  # in place
    return tree_map(lambda o: OnDevice(o) if isinstance(o, Tensor) else o, out)


def _cases() -> Any:
    """Yield a name, a pipeline and its clip: what may stand below the noise."""
    import soundcert as sc
    from soundcert import stages as s
    from soundcert.config import load_config
    from soundcert.data import load_items
    from soundcert.demo import demo_folder
    from soundcert.models import build_network

    folder = demo_folder()
    for file in ("waveform.yaml", "features.yaml", "clipped.yaml", "peak.yaml"):
        config = load_config(folder / file)
        assert config.data is not None
        clip = load_items(config.data, folder)[0].load()
        pipe = sc.Pipeline.from_config(config, folder)
        yield file, pipe, clip
        if file == "waveform.yaml":
            front, model = pipe.stages[:2], pipe.stages[-1]
    noise, mel = s.GaussianNoise(0.5), s.LogMel(floor=1.0)
    labels = tuple("abcd")
    nets = [build_network("res_cnn", 4, {}).eval() for _ in range(3)]
    members = tuple(
        (s.LogMel(n_mels=40 + 8 * i, floor=1.0), s.Model(module=m, labels=labels)) for i, m in enumerate(nets)
    )
    apart = torch.nn.Sequential(torch.nn.Linear(16_000, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
    below: dict[str, tuple[Any, ...]] = {
        "standardised bands": (noise, mel, s.FeatureStandardize(mean=(0.1,) * 40, std=(2.0,) * 40), model),
        "resampled": (noise, s.Resample(8000), s.Resample(16_000), mel, model),
        "gain": (noise, s.RmsNormalize(), mel, model),
        "limited": (noise, s.Limiter(), s.Quantize(bits=8), mel, model),
        "windows": (noise, s.Windows(samples=8000, hop=4000), mel, model),
        "mfcc": (noise, s.Mfcc(n_mfcc=40), model),
        "two models": (noise, s.Model(module=apart, stop=1), s.Model(module=apart, start=1)),
        "ensemble": (noise, s.Model(members=members[:2])),
        "consensus": (noise, s.Model(members=members, consensus=2)),
    }
    for name, stages in below.items():
        yield name, sc.Pipeline([*front, *stages]), clip


def main() -> None:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)
    warnings.simplefilter("ignore")
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.set_num_threads(1)
    from soundcert import classifier, randomness, sampling
    from soundcert.randomness import NoiseKey
    from soundcert.sampling import Job, count_votes

    rows, batches = 32, 4
    classifier.MOST_VALUES = {**classifier.MOST_VALUES, NAME: 2**28}
    fill = randomness.NoiseStream.fill_

    def filled(stream: Any, out: Tensor) -> Tensor:
        fill(stream, _inner(out))
        return out

    randomness.NoiseStream.fill_ = filled  # type: ignore[method-assign]
    work = sampling._work

    def worker(queue: Any) -> None:
        with Device():
            work(queue)

    sampling._work = worker
    for precision in ("fp32", "bf16"):
        for name, pipe, clip in _cases():
            route = pipe.route(clip.space)
            v = route.noise.held(pipe.object_of(clip))
            key = NoiseKey(0, "estimation", clip.digest)
            plain = classifier.BaseClassifier(route, rows, precision=precision)
            expected = count_votes(plain, [Job(v, key, rows * batches)], workers=1)
            with Device():
                base = classifier.BaseClassifier(route, rows, device=NAME, precision=precision)
                base.check_rows(v, NoiseKey(0, "probe", clip.digest))
                held = v.to(base.device)
                TRAFFIC.clear()
                got = count_votes(base, [Job(held, key, rows * batches)], workers=1)
            facts = {
                "case": name,
                "precision": precision,
                "equal": bool((got == expected).all()),
                "batches": batches,
            }
            print(json.dumps({**facts, "traffic": dict(TRAFFIC)}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
