"""Our arms for one layer: the sparse kernel, its dense twin and the ladder; cubins on a GPU, compiled loops on a CPU.

The twin is the same code with the test for zeros left out, so the two together show where a gain comes from: the
kernel, or the zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from frugal.cusnn import choices
from frugal.cusnn.offered import ON_GPU
from frugal.cusnn.offered import OURS as OFFERED
from frugal.provenance import source_hash
from frugal.timing import Arm, Inputs, Prepared, Unsupported
from kernels import launch
from kernels.build import read_report
from kernels.sparse import ConvShape, Plan, UnsupportedShape, Workspace, arguments, cpu, pack_weights


class Kernels:
    """The cubins of one capability: loaded when first used, once a process, with one workspace for all layers.

    prefixes: paths without suffix, as the rule `build_kernel` wrote them. deterministic: whether blocks that share a
    tile add up in a fixed order. more: names of kernels that may be chosen beside the default ones.
    """

    def __init__(
        self, prefixes: Sequence[Path], sm_count: int, *, deterministic: bool = True, more: Sequence[str] = ()
    ) -> None:
        self.deterministic, self.more = deterministic, tuple(more)
        reports = [(read_report(prefix), prefix) for prefix in prefixes]
        self.reports = {report.variant: report for report, _ in reports}
        self.sm_count = sm_count
        self.capability = next((report.capability for report, _ in reports), "9.0")  # nothing built: nothing to exclude
        self.workspace = Workspace(torch.device("cuda"))
        self._prefixes = {report.variant: prefix for report, prefix in reports}
        self._loaded: dict[str, launch.Kernel] = {}

    def kernel(self, variant: str) -> launch.Kernel:
        """The loaded kernel; Unsupported where it was not built."""
        if variant not in self._prefixes:
            raise Unsupported(f"kernel {variant} was not built for this device: its target is {self.target(variant)}")
        if variant not in self._loaded:
            self._loaded[variant] = launch.load(self._prefixes[variant])
        return self._loaded[variant]

    def target(self, variant: str) -> str:
        """The file to ask the workflow for, to have a kernel built for this device."""
        return f"results/kernels/sparse/{variant}.sm_{self.capability.replace('.', '')}.json"


def arm(name: str, shape: ConvShape, kernels: Kernels | None, *, sparsity: float, bytes_min: float) -> Arm | None:
    """Our arm `name` for a layer: `sparse`, `dense_twin`, a rung, or an ablation (frugal.cusnn.choices).

    kernels None: on a CPU. sparsity: the share of zeros in the input, by which an arm that skips them has less FLOP;
    bytes_min: input, weights and output once. What no kernel computes is an arm whose rows say `unsupported`; None for
    an ablation that changes nothing here.
    """
    common = {"name": name, "role": "ours", "tf32": False, "layout": "nchw", "compiled": True, "bytes_min": bytes_min}
    dense = 2.0 * shape.macs
    if kernels is None:
        source = source_hash("frugal.cusnn.ours", "kernels.sparse.cpu")
        if name not in OFFERED["cpu"]:
            reason = f"{name} is a kernel for a GPU, and this machine measures on its CPU"
            return Arm(prepare=_refuse(reason), regimes=("wall",), source_hash=source, **common)
        skips = name == choices.SPARSE
        return Arm(
            prepare=_prepare_cpu(shape, skips),
            regimes=OFFERED["cpu"][name],
            source_hash=source,
            flop=dense * (1 - sparsity) if skips else dense,
            settings={"variant": "cpu", "backend": name},
            **common,
        )
    source = source_hash("frugal.cusnn.ours", "kernels.launch", "kernels.sparse")
    try:
        chosen = choices.choose(name, shape, kernels.sm_count, deterministic=kernels.deterministic, more=kernels.more)
    except UnsupportedShape as problem:
        return Arm(prepare=_refuse(str(problem)), regimes=ON_GPU, source_hash=source, **common)
    if chosen is None:
        return None
    report = kernels.reports.get(chosen.variant.name)
    return Arm(
        prepare=_prepare_cuda(shape, chosen, kernels),
        regimes=ON_GPU,
        source_hash=source,
        flop=dense * (1 - sparsity) if chosen.variant.skip else dense,
        binary_hash=report.cubin_sha256 if report else None,
        registers=report.registers if report else None,
        spill_bytes=report.local_bytes if report else None,
        shared_bytes=report.shared_bytes if report else None,
        settings={
            "variant": chosen.variant.name,
            "splits": chosen.splits,
            "backend": choices.SPARSE if chosen.variant.skip else choices.TWIN,
        },
        **common,
    )


def _refuse(reason: str) -> Callable[[Inputs], Prepared]:
    def prepare(inputs: Inputs) -> Prepared:
        raise Unsupported(reason)

    return prepare


def _prepare_cuda(shape: ConvShape, chosen: Plan, kernels: Kernels) -> Callable[[Inputs], Prepared]:
    def prepare(inputs: Inputs) -> Prepared:
        x, w = inputs["x"], pack_weights(inputs["w"])
        y = torch.empty((shape.B, shape.N, shape.H_out, shape.W_out), dtype=torch.float32, device=x.device)
        kernel = kernels.kernel(chosen.variant.name)
        given = arguments(chosen, x, w, y, kernels.workspace)
        bound = kernel.bind(chosen.grid, chosen.block, given, cluster=chosen.cluster, overlap=chosen.overlap)
        return Prepared(run=bound, outputs=(y,), keep=(x, w, kernels.workspace))

    return prepare


def _prepare_cpu(shape: ConvShape, skip: bool) -> Callable[[Inputs], Prepared]:
    if shape.k not in (1, 3) or shape.stride not in (1, 2) or shape.pad != shape.k // 2:
        return _refuse("the CPU twin computes filters of size 1 and 3 with stride 1 or 2: leave this layer to torch")

    def prepare(inputs: Inputs) -> Prepared:
        x, w = inputs["x"], pack_weights(inputs["w"])
        y = torch.empty((shape.B, shape.N, shape.H_out, shape.W_out), dtype=torch.float32)
        return Prepared(
            run=lambda: cpu.conv(x, w, stride=shape.stride, out=y, skip=skip),
            outputs=(y,),
            loop=lambda times: cpu.loop(times, x, w, stride=shape.stride, out=y, skip=skip),
        )

    return prepare
