"""Which networks a campaign measures whole, which arms a kind of device has for them, and in which regimes.

Read while planning: no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

ON_GPU = ("graph", "wall")
ON_CPU = ("wall",)  # a CPU has no graphs, and what a network moves exceeds its caches by far

OURS = {
    "cuda": dict.fromkeys(("sparse", "dense_twin", "unfused"), ON_GPU),
    "cpu": dict.fromkeys(("sparse", "dense_twin", "unfused"), ON_CPU),
}
BASELINES = {
    "cuda": dict.fromkeys(
        (
            "cudnn_fp32", "cudnn_fp32_cl", "cudnn_tf32", "cudnn_tf32_cl", "cudnn_fp16_cl",
            "torch_compile_fp32", "torch_compile_tf32",
        ),
        ON_GPU,
    ),
    "cpu": dict.fromkeys(("onednn_fp32", "onednn_fp32_cl"), ON_CPU),
}  # fmt: skip
# torch.compile with max-autotune takes minutes a network and batch.
COMPILED_NETWORKS = ("densenet169", "resnet50")
COMPILED_BATCHES = (1, 8)
SMOKE_ARMS = ("sparse", "onednn_fp32", "cudnn_fp32")
SMOKE_IMAGES = 2


def measured(preset: str, networks: Sequence[str], batch_sizes: Sequence[int]) -> list[tuple[str, int]]:
    """(network, batch size) of each case; in `smoke` the first network at the smallest batch."""
    if preset == "smoke":
        return [(networks[0], min(batch_sizes))]
    return [(network, batch) for network in networks for batch in batch_sizes]


def offered(
    kind: str, preset: str, wanted: Sequence[str], network: str, batch: int
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """({arm of ours: its regimes}, {baseline: its regimes}) of one case, of the arms that the configuration names.

    kind: `cpu` or `cuda`. `unfused` comes with `sparse`, whose fusion it measures.
    """
    names = {*wanted, *(["unfused"] if "sparse" in wanted else [])}
    if (network not in COMPILED_NETWORKS) or batch not in COMPILED_BATCHES:
        names -= {"torch_compile_fp32", "torch_compile_tf32"}
    if preset == "smoke":
        names &= set(SMOKE_ARMS)
    found = [{name: regimes for name, regimes in arms[kind].items() if name in names} for arms in (OURS, BASELINES)]
    return found[0], found[1]
