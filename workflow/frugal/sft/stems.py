"""The pairs of layers of experiment `kernels`, their arms, and which kernels are built for them.

Read while planning: no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kernels.tiled import PairShape, Plan, UnsupportedPair, plan

# What the first two layers of each network are, but for the size of the image.
STEMS = {
    "vgg16": {"C_in": 3, "C_mid": 64, "C_out": 64, "pool_out": True, "activation": "relu"},
    "darknet19": {"C_in": 3, "C_mid": 32, "C_out": 64, "pool_mid": True, "pool_out": True, "activation": "leaky"},
}
SLOPE = 0.1  # of Darknet's leaky activation
# Arm → rung and type of a kernel; `_twin` is the same with what lies between the layers in memory.
RUNGS = {
    "v1_naive": ("v1_naive", "f32"),
    "v2_tile": ("v2_tile", "f32"),
    "v3_pair": ("v3_pair", "f32"),
    "v4_pair_reg": ("v4_pair_reg", "f32"),
    "v5_pair_mma_tf32": ("v5_pair_mma", "tf32"),
    "v5_pair_mma_bf16": ("v5_pair_mma", "bf16"),
}
FUSED = ("v3_pair", "v4_pair_reg", "v5_pair_mma_tf32", "v5_pair_mma_bf16")
TWIN = "_twin"
# Baseline → type, TF32, channels-last; the compiled ones are chains of the same type.
CHAINS = {
    "cudnn_fp32": ("float32", False, False),
    "cudnn_tf32": ("float32", True, False),
    "cudnn_fp16_cl": ("float16", False, True),
    "cudnn_bf16_cl": ("bfloat16", False, True),
    "torch_compile_fp32": ("float32", False, False),
    "torch_compile_tf32": ("float32", True, False),
    "torch_compile_bf16": ("bfloat16", False, True),
    "onednn_fp32": ("float32", False, False),
}
COMPILED = "torch_compile_"
# Precision, an axis of a case → its arms: a case has twelve at most, and cuDNN in float32 is in both.
ON_GPU = {
    "fp32": (
        "v1_naive", "v2_tile", "v3_pair", "v4_pair_reg", "v3_pair_twin", "v4_pair_reg_twin", "cudnn_fp32",
        "torch_compile_fp32",
    ),
    "reduced": (
        "v5_pair_mma_tf32", "v5_pair_mma_bf16", "v5_pair_mma_tf32_twin", "v5_pair_mma_bf16_twin", "cudnn_fp32",
        "cudnn_tf32", "cudnn_fp16_cl", "cudnn_bf16_cl", "torch_compile_tf32", "torch_compile_bf16",
    ),
}  # fmt: skip
ON_CPU = {"fp32": ("cpu_pair", "cpu_twin", "onednn_fp32")}
# (images, side) of a case.
SIZES = {
    "cpu": {"smoke": ((1, 256),), "quick": ((1, 512), (1, 1024))},
    "cuda": {"smoke": ((1, 512),), "quick": ((1, 512), (1, 2048))},
}
SIZES_MORE = {
    "cpu": ((1, 224), (1, 512), (1, 1024)),
    "cuda": ((1, 224), (8, 224), (1, 512), (1, 1024), (1, 2048), (1, 4096)),
}


def pairs(preset: str, kind: str) -> list[tuple[str, str, PairShape]]:
    """(stem, precision, sizes) of each case."""
    arms = ON_GPU if kind == "cuda" else ON_CPU
    sizes = SIZES[kind].get(preset, SIZES_MORE[kind])
    return [
        (stem, precision, PairShape(N=batch, H=side, W=side, **shape))
        for stem, shape in STEMS.items()
        for batch, side in sizes
        for precision in arms
    ]


def arms(precision: str, kind: str) -> Sequence[str]:
    """The arms of a case."""
    return (ON_GPU if kind == "cuda" else ON_CPU)[precision]


def chosen(arm: str, shape: PairShape, capability: str) -> Plan:
    """The launches of an arm of ours. Raises UnsupportedPair for what its kernels do not compute."""
    rung, dtype = RUNGS[arm.removesuffix(TWIN)]
    return plan(shape, rung=rung, dtype=dtype, fused=not arm.endswith(TWIN), capability=capability)


def builds(
    sft: Mapping[str, object], capabilities: Sequence[str], device: Mapping[str, object]
) -> list[tuple[str, str]]:
    """(variant, capability) of each kernel to build, given the machine that measures (its device file).

    sft: that section of the configuration (frugal.config.sft). A GPU gets all that its arms launch. A machine without
    one builds what `capabilities` names, so that the build itself is shown; in `smoke` one kernel for the last of them.
    """
    if "kernels" not in sft["experiments"]:
        return []
    if device["device_kind"] == "cuda":
        return _variants((*RUNGS, *(name + TWIN for name in FUSED)), str(device["capability"]))
    if sft["preset"] == "smoke":
        return _variants(("v4_pair_reg",), str(capabilities[-1]))[:1]
    return [pair for capability in capabilities for pair in _variants(FUSED, str(capability))]


def _variants(names: Sequence[str], capability: str) -> list[tuple[str, str]]:
    found: dict[tuple[str, str], None] = {}
    for shape in STEMS.values():
        for name in names:
            try:
                made = chosen(name, PairShape(N=1, H=1024, W=1024, **shape), capability)
            except UnsupportedPair:
                continue  # its rows say why
            found |= {(step.variant.name, capability): None for step in made.steps}
    return list(found)
