"""Our arms for one 3×3 layer: the sparse kernel and its dense twin; cubins on a GPU, compiled loops on a CPU.

The twin is the same code with the test for zeros left out, so the two together show where a gain comes from: the
kernel, or the zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from frugal.cusnn.offered import OURS as OFFERED
from frugal.provenance import source_hash
from frugal.timing import Arm, Inputs, Prepared, Unsupported
from kernels import launch
from kernels.build import read_report
from kernels.sparse import ConvShape, Plan, Workspace, arguments, cpu, pack_weights, plan

# arm: (rung of the ladder, skips zeros)
RUNGS = {
    "sparse": ("v3_ballot", True),
    "dense_twin": ("v3_ballot", False),
    "v2_dense": ("v2_dense", False),
    "v1_naive": ("v1_naive", False),
}


class Kernels:
    """The cubins of one capability: loaded when first used, once a process, with one workspace for all layers.

    `prefixes`: paths without suffix, as the rule `build_kernel` wrote them.
    """

    def __init__(self, prefixes: Sequence[Path], sm_count: int) -> None:
        reports = [(read_report(prefix), prefix) for prefix in prefixes]
        self.reports = {report.variant: report for report, _ in reports}
        self.sm_count = sm_count
        self.workspace = Workspace(torch.device("cuda"))
        self._prefixes = {report.variant: prefix for report, prefix in reports}
        self._loaded: dict[str, launch.Kernel] = {}

    def kernel(self, variant: str) -> launch.Kernel:
        """The loaded kernel; Unsupported where it was not built."""
        if variant not in self._prefixes:
            raise Unsupported(f"kernel {variant} was not built for this device: run the rule build_kernel for it")
        if variant not in self._loaded:
            self._loaded[variant] = launch.load(self._prefixes[variant])
        return self._loaded[variant]


def arm(name: str, shape: ConvShape, kernels: Kernels | None, *, flop: float, bytes_min: float) -> Arm:
    """Our arm `name` (one of OFFERED) for a layer; kernels None: on a CPU.

    flop: its own, multiply-adds on zeros left out where it skips them; bytes_min: input, weights and output once.
    """
    common = {
        "name": name,
        "role": "ours",
        "tf32": False,
        "layout": "nchw",
        "compiled": True,
        "flop": flop,
        "bytes_min": bytes_min,
    }
    if kernels is None:
        source = source_hash("frugal.cusnn.ours", "kernels.sparse.cpu")
        return Arm(prepare=_prepare_cpu(name), regimes=OFFERED["cpu"][name], source_hash=source, **common)
    rung, skip = RUNGS[name]
    chosen = plan(shape, kernels.sm_count, skip=skip, rung=rung)
    report = kernels.reports.get(chosen.variant.name)
    return Arm(
        prepare=_prepare_cuda(shape, chosen, kernels),
        regimes=OFFERED["cuda"][name],
        source_hash=source_hash("frugal.cusnn.ours", "kernels.launch", "kernels.sparse"),
        binary_hash=report.cubin_sha256 if report else None,
        registers=report.registers if report else None,
        spill_bytes=report.local_bytes if report else None,
        shared_bytes=report.shared_bytes if report else None,
        settings={"variant": chosen.variant.name, "splits": chosen.splits},
        **common,
    )


def _prepare_cuda(shape: ConvShape, chosen: Plan, kernels: Kernels) -> Callable[[Inputs], Prepared]:
    def prepare(inputs: Inputs) -> Prepared:
        x, w = inputs["x"], pack_weights(inputs["w"])
        y = torch.empty((shape.B, shape.N, shape.H_out, shape.W_out), dtype=torch.float32, device=x.device)
        kernel = kernels.kernel(chosen.variant.name)
        bound = kernel.bind(chosen.grid, chosen.block, arguments(chosen, x, w, y, kernels.workspace))
        return Prepared(run=bound, outputs=(y,), keep=(x, w, kernels.workspace))

    return prepare


def _prepare_cpu(name: str) -> Callable[[Inputs], Prepared]:
    skip = RUNGS[name][1]

    def prepare(inputs: Inputs) -> Prepared:
        x, w = inputs["x"], pack_weights(inputs["w"])
        y = torch.empty((x.shape[0], inputs["w"].shape[0], *x.shape[2:]), dtype=torch.float32)
        return Prepared(
            run=lambda: cpu.conv(x, w, out=y, skip=skip),
            outputs=(y,),
            loop=lambda times: cpu.loop(times, x, w, out=y, skip=skip),
        )

    return prepare
