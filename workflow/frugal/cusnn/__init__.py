"""cuSNN: exact fp32 convolution that skips the zeros ReLU leaves (L. Xiang et al., PACT 2022), beside dense ones.

For a network of your own: `sparsify`. For one of ours: `Network`. What they are made of: `SparseConv2d`,
`sparse_conv2d`, `pack_weights`, `plan`. What is imported from here is loaded on first use; torch is not loaded before.
"""

from importlib import import_module

# name -> the module that has it
_PLACES = {
    "ConvShape": "kernels.sparse",
    "Fused": "kernels.sparse",
    "GraphRunner": "frugal.cusnn.network",
    "KernelStore": "frugal.cusnn.kernel_store",
    "Network": "frugal.cusnn.network",
    "NetworkPlan": "frugal.cusnn.plans",
    "NotDifferentiable": "frugal.cusnn.errors",
    "SparseConv2d": "frugal.cusnn.module",
    "UnsupportedInput": "frugal.cusnn.errors",
    "UnsupportedShape": "kernels.sparse",
    "break_even": "frugal.cusnn.break_even_table",
    "build_variant": "frugal.cusnn.kernel_store",
    "estimate_sparsity": "frugal.cusnn.sparsity",
    "load_plan": "frugal.cusnn.plans",
    "measure_sparsity": "frugal.cusnn.sparsity_table",
    "pack_weights": "kernels.sparse",
    "plan": "frugal.cusnn.plans",
    "sparse_conv2d": "frugal.cusnn.ops",
    "sparsify": "frugal.cusnn.conversion",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
