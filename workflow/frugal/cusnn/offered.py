"""Which arms a kind of device has for one convolution layer, and in which regimes each is timed by default.

Read while planning: no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from frugal.cusnn.choices import ABLATIONS, RUNGS, SPARSE, TWIN
from kernels.sparse.shape import ConvShape

ON_GPU = ("cold", "graph", "graph_rotated", "wall")

OURS = {
    "cuda": {
        "sparse": ON_GPU,
        "dense_twin": ON_GPU,
        "paper_scheme": ON_GPU,
        "paper_dispatch": ("wall",),  # it waits for the device on the way: no graph and no full queue holds that
    },
    "cpu": dict.fromkeys(("sparse", "dense_twin"), ("cold", "graph", "wall")),
}
# A compiled loop of many runs is ours alone: torch's operations have no graph on a CPU.
BASELINES = {
    "cuda": dict.fromkeys(
        (
            "cudnn_fp32",
            "cudnn_fp32_cl",
            "cudnn_tf32",
            "cudnn_tf32_cl",
            "cudnn_fp16_cl",
            "torch_compile_fp32",
            "torch_compile_tf32",
            "gemm_fp32",
        ),
        ON_GPU,
    ),
    "cpu": dict.fromkeys(("onednn_fp32", "onednn_fp32_cl", "gemm_fp32"), ("cold", "wall")),
}
PAPER = ("paper_scheme", "paper_dispatch")
COMPILED = ("torch_compile_fp32", "torch_compile_tf32")
# max-autotune takes 10 to 20 s a convolution: on all of them it would take hours.
COMPILED_NETWORKS = ("densenet169", "resnet50")
COMPILED_BATCHES = (1, 8)
# The one regime of the experiments that ask for a time at many points.
ONE_REGIME = {"cuda": "graph", "cpu": "wall"}


def arms(wanted: Sequence[str], kind: str, shape: ConvShape, network: str | None = None) -> list[str]:
    """The wanted arms that a device of this kind (`cpu` or `cuda`) has for a convolution, ours first.

    The paper's scheme is for 3×3 with stride 1 and one image. torch_compile is measured on the 3×3 layers of
    COMPILED_NETWORKS (`network`: whose layer it is, None: nobody's) at COMPILED_BATCHES.
    """
    of_paper = (shape.k, shape.stride, shape.B) == (3, 1, 1)
    compiled = network in COMPILED_NETWORKS and shape.k == 3 and shape.B in COMPILED_BATCHES
    left_out = {*(() if of_paper else PAPER), *(() if compiled else COMPILED)}
    return [name for name in (*OURS[kind], *BASELINES[kind]) if name in wanted and name not in left_out]


def ladder(kind: str, shape: ConvShape) -> list[str]:
    """The arms of the ladder: a CPU has no rungs but its own kernel and its twin; the others get rows that say so."""
    names = (
        (*RUNGS, *ABLATIONS, "paper_scheme", "cudnn_fp32") if kind == "cuda" else (SPARSE, TWIN, *RUNGS, "onednn_fp32")
    )
    return [name for name in names if name not in PAPER or shape.B == 1]


def one_regime(wanted: Sequence[str], kind: str, shape: ConvShape) -> list[str]:
    """The arms of `arms` that are timed in the device's ONE_REGIME."""
    offered = OURS[kind] | BASELINES[kind]
    return [name for name in arms(wanted, kind, shape) if ONE_REGIME[kind] in offered[name]]
