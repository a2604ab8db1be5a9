"""Two layers in one kernel to be timed: experiment `kernels`, the first two layers of VGG-16 and of Darknet-19.

Every arm computes convolution, bias, activation and the maxima of both layers. Ours are the rungs of kernels.tiled and
their dense twins, which write what lies between the layers to memory; beside them torch's chains, as they are and
compiled. Random images and weights: neither the time nor the error depends on what is in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from frugal.provenance import source_hash
from frugal.sft import stems
from frugal.timing import Arm, Case, Device, Inputs, Prepared, Reference, Unsupported
from frugal.timing.flags import flags
from kernels import launch
from kernels.build import read_report
from kernels.tiled import PairShape, UnsupportedPair, arguments, bind, cpu, pack

Say = Callable[[str], None]

# Relative L2 of ours against float64: five times and more what rounding to these types was seen to do.
NORM = {"f32": 5e-6, "tf32": 3e-3, "bf16": 3e-2}
DTYPES = {"f32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
GRAPHS = ("graph", "wall")


class Kernels:
    """The cubins of one capability, loaded when first used. prefixes: paths without suffix, as `build_kernel` wrote."""

    def __init__(self, prefixes: Sequence[Path], capability: str) -> None:
        self.capability = capability
        self._prefixes = {prefix.name.partition(".sm_")[0]: prefix for prefix in prefixes}
        self.reports = {name: read_report(prefix) for name, prefix in self._prefixes.items()}
        self._loaded: dict[str, launch.Kernel] = {}

    def __call__(self, variant: object) -> launch.Kernel:
        """The loaded kernel of a variant; Unsupported where it was not built."""
        name = variant.name
        if name not in self._prefixes:
            raise Unsupported(f"kernel {name} was not built for compute capability {self.capability}")
        if name not in self._loaded:
            self._loaded[name] = launch.load(self._prefixes[name])
        return self._loaded[name]


def cases(
    machine: Device,
    record: Mapping[str, object],
    say: Say,
    *,
    sft: Mapping[str, object],
    kernels: Sequence[str],
) -> Iterator[tuple[Case, list[Arm]]]:
    """Both stems at each size (frugal.jobs.Job.cases). kernels: reports of built kernels, those of family `tiled`."""
    built = None
    if machine.kind == "cuda":
        prefixes = [Path(path).with_suffix("") for path in kernels if Path(path).parent.name == "tiled"]
        built = Kernels(prefixes, str(record["capability"]))
    for stem, precision, shape in stems.pairs(sft["preset"], machine.kind):
        names = stems.arms(precision, machine.kind)
        yield case(stem, precision, shape, machine.kind), [arm(name, shape, built) for name in names]


def case(stem: str, precision: str, shape: PairShape, device: str) -> Case:
    """A pair of layers as a timing case."""

    def inputs(seed: int, phase: str) -> Inputs:
        draw = torch.Generator(device).manual_seed(seed)

        def normal(*size: int, scale: float = 1.0) -> Tensor:
            return scale * torch.randn(size, generator=draw, device=device)

        # What a layer hands on has about the size of what it was given.
        scales = [1 / math.sqrt(4.5 * channels) for channels in (shape.C_in, shape.C_mid)]
        return {
            "x": normal(shape.N, shape.C_in, shape.H, shape.W),
            "w1": normal(shape.C_mid, shape.C_in, 3, 3, scale=scales[0]),
            "b1": normal(shape.C_mid, scale=0.3),
            "w2": normal(shape.C_out, shape.C_mid, 3, 3, scale=scales[1]),
            "b2": normal(shape.C_out, scale=0.3),
        }

    def reference(given: Inputs) -> Reference:
        return Reference(y=Chain(shape)(*(given[name].double() for name in ("x", "w1", "b1", "w2", "b2"))))

    return Case(
        system="sft",
        experiment="kernels",
        axes={"stem": stem, "precision": precision, "batch": shape.N, "h": shape.H, "w": shape.W},
        inputs=inputs,
        reference=reference,
        network=stem,
        columns={
            "n": shape.N, "c": shape.C_in, "h": shape.H, "w": shape.W, "k": shape.C_out, "r": 3, "s": 3, "stride": 1,
            "pad": 1, "flop_dense_equiv": 2.0 * sum(shape.macs),
        },
    )  # fmt: skip


class Chain(nn.Module):
    """Both layers in torch's operations."""

    def __init__(self, shape: PairShape) -> None:
        super().__init__()
        self.pools, self.activation = (shape.pool_mid, shape.pool_out), shape.activation

    def forward(self, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        return self.layer(self.layer(x, w1, b1, self.pools[0]), w2, b2, self.pools[1])

    def layer(self, x: Tensor, w: Tensor, b: Tensor, pool: bool) -> Tensor:
        y = functional.conv2d(x, w, b, padding=1)
        if self.activation == "relu":
            y = functional.relu(y, inplace=True)
        elif self.activation == "leaky":
            y = functional.leaky_relu(y, stems.SLOPE, inplace=True)
        return functional.max_pool2d(y, 2) if pool else y


def arm(name: str, shape: PairShape, built: Kernels | None) -> Arm:
    """An arm of a pair; built: the kernels of a GPU, None on a CPU."""
    if name in stems.CHAINS:
        return _chain(name, shape)
    if built is None:
        return _on_cpu(name, shape)
    return _ours(name, shape, built)


def _common(name: str, role: str, shape: PairShape, element: int, between: bool) -> dict:
    """Fields of any arm: its work, the bytes that must move, and those between the layers if they lie in memory."""
    moved = shape.bytes(element)
    extra = moved.pop("middle")
    return {
        "name": name, "role": role, "flop": 2.0 * sum(shape.macs),
        "bytes_min": float(sum(moved.values()) + (2 * extra if between else 0)),
        "tolerance": "norm",
    }  # fmt: skip


def _ours(name: str, shape: PairShape, built: Kernels) -> Arm:
    source = source_hash("frugal.sft.bench_kernels", "kernels.launch", "kernels.tiled")
    try:
        made = stems.chosen(name, shape, built.capability)
    except UnsupportedPair as problem:
        reason = str(problem)

        def refuse(inputs: Inputs) -> Prepared:
            raise Unsupported(reason)

        return Arm(prepare=refuse, regimes=GRAPHS, source_hash=source, **_common(name, "ours", shape, 4, True))
    kind = made.steps[0].variant.dtype
    dtype = DTYPES[kind]
    report = built.reports.get(made.steps[-1].variant.name)

    def prepare(inputs: Inputs) -> Prepared:
        x = inputs["x"].to(dtype)
        packed = pack(made, *(inputs[key] for key in ("w1", "w2", "b1", "b2")))
        y = torch.empty((shape.N, shape.C_out, shape.H_out, shape.W_out), dtype=dtype, device=x.device)
        size = (shape.N, shape.C_mid, shape.H_mid, shape.W_mid)
        middle = None if made.fused else torch.empty(size, dtype=dtype, device=x.device)
        launches = bind(made, built, arguments(made, packed, x, y, middle, stems.SLOPE))

        def run() -> None:
            for each in launches:
                each()

        return Prepared(run=run, outputs=(y,), keep=(x, packed, middle))

    extra = 0 if made.fused else shape.bytes(dtype.itemsize)["middle"]
    return Arm(
        prepare=prepare,
        dtype=str(dtype).removeprefix("torch."),
        tf32=kind == "tf32",
        layout="nchw",
        compiled=True,
        regimes=GRAPHS,
        norm_bound=NORM[kind],
        source_hash=source,
        binary_hash=report.cubin_sha256 if report else None,
        registers=report.registers if report else None,
        spill_bytes=report.local_bytes if report else None,
        shared_bytes=made.steps[-1].variant.source(built.capability).dynamic_shared_bytes,
        settings={
            "variants": [step.variant.name for step in made.steps], "extra_bytes": extra,
            "redundancy": made.redundancy,
        },
        **_common(name, "ours", shape, dtype.itemsize, not made.fused),
    )  # fmt: skip


def _on_cpu(name: str, shape: PairShape) -> Arm:
    fused = name == "cpu_pair"

    def prepare(inputs: Inputs) -> Prepared:
        weights = (inputs[key] for key in ("w1", "w2", "b1", "b2"))
        ready = cpu.Prepared(shape, *weights, slope=stems.SLOPE, fused=fused)
        x, y = inputs["x"], torch.empty((shape.N, shape.C_out, shape.H_out, shape.W_out))
        return Prepared(
            run=lambda: ready(x, y), outputs=(y,), loop=lambda times: ready(x, y, times=times) and None, keep=(x, ready)
        )

    return Arm(
        prepare=prepare,
        tf32=False,
        layout="nchw",
        compiled=True,
        regimes=("wall",),
        norm_bound=NORM["f32"],
        source_hash=source_hash("frugal.sft.bench_kernels", "kernels.tiled.cpu"),
        settings={"extra_bytes": 0 if fused else shape.bytes()["middle"]},
        **_common(name, "ours", shape, 4, not fused),
    )


def _chain(name: str, shape: PairShape) -> Arm:
    kind, tf32, channels_last = stems.CHAINS[name]
    dtype = getattr(torch, kind)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    compiled = name.startswith(stems.COMPILED)
    made: list[Callable] = []

    def prepare(inputs: Inputs) -> Prepared:
        given = [inputs[key].to(dtype) for key in ("x", "w1", "b1", "w2", "b2")]
        given = [each.contiguous(memory_format=memory_format) if each.dim() == 4 else each for each in given]
        if not made:
            chain = Chain(shape)
            # A traced module has code of its own: nothing that torch keeps for another arm is taken for it.
            made.append(_compiled(fx.symbolic_trace(chain)) if compiled else chain)
        run = torch.inference_mode()(lambda: made[0](*given))
        if compiled:
            from torch._dynamo.exc import BackendCompilerFailed  # a second and more, for whoever compiles

            try:
                run()
            except BackendCompilerFailed as problem:
                raise Unsupported(f"torch.compile cannot compile the chain here: {_short(problem)}") from None
        return Prepared(run=run, keep=tuple(given))

    return Arm(
        prepare=prepare,
        dtype=kind,
        tf32=tf32,
        layout="nhwc" if channels_last else "nchw",
        compiled=compiled,
        regimes=("wall",) if name.startswith("onednn") else GRAPHS,
        source_hash=source_hash("frugal.sft.bench_kernels"),
        settings={"extra_bytes": shape.bytes(dtype.itemsize)["middle"]},
        context=lambda: flags(tf32=tf32),
        **_common(name, "baseline", shape, dtype.itemsize, True),
    )


def _compiled(chain: nn.Module) -> Callable:
    options = {"max_autotune": True, "coordinate_descent_tuning": True, "fx_graph_cache": False}
    return torch.compile(chain, dynamic=False, options=options)


def _short(problem: Exception) -> str:
    return " ".join(str(problem).split())[:200]  # torch appends pages of advice
