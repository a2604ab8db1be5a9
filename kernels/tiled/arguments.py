"""From a plan and tensors to the arguments of its launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kernels.tiled.shape import UnsupportedPair

if TYPE_CHECKING:
    import torch

    from kernels.launch import Kernel, Launch
    from kernels.tiled.mma_variant import MmaVariant
    from kernels.tiled.planning import Plan, Step
    from kernels.tiled.variant import Variant


def arguments(
    plan: Plan,
    packed: Sequence[dict[str, torch.Tensor]],
    x: torch.Tensor,
    y: torch.Tensor,
    middle: torch.Tensor | None = None,
    slope: float = 0.1,
) -> list[list[Any]]:
    """What `kernels.launch.Kernel.bind(step.grid, step.block, ...)` takes for each step, in the kernel's order.

    packed: from `pack`. x [N, C_in, H, W] and y [N, C_out, H_out, W_out] are contiguous, and so is middle
    [N, C_mid, H_mid, W_mid], which a plan that does not fuse needs; all float32, or bfloat16 for a plan in bf16.
    slope: of the leaky activation, above 0 and at most 1. Raises UnsupportedPair.
    """
    shape = plan.shape
    if shape.activation == "leaky" and not 0 < slope <= 1:
        raise UnsupportedPair(f"slope = {slope}: the fused kernels take one above 0 and at most 1; leave it to torch.")
    _check(plan, "x", x, (shape.N, shape.C_in, shape.H, shape.W))
    _check(plan, "y", y, (shape.N, shape.C_out, shape.H_out, shape.W_out))
    if not plan.fused:
        if middle is None:
            raise UnsupportedPair(f"this plan has {len(plan.steps)} launches: give the tensor between them as middle.")
        _check(plan, "middle", middle, (shape.N, shape.C_mid, shape.H_mid, shape.W_mid))
    given = []
    for step, weights in zip(plan.steps, packed, strict=True):
        source = middle if step.layer == "second" else x
        target = middle if step.layer == "first" else y
        given.append(_of_step(step, plan, weights, source, target, slope))
    return given


def bind(
    plan: Plan, kernels: Callable[[Variant | MmaVariant], Kernel], given: Sequence[Sequence[Any]]
) -> tuple[Launch, ...]:
    """The plan's launches, to be called in order. kernels: the loaded kernel of a variant; given: from `arguments`."""
    pairs = zip(plan.steps, given, strict=True)
    return tuple(kernels(step.variant).bind(step.grid, step.block, values) for step, values in pairs)


def _of_step(step: Step, plan: Plan, weights: dict, source: torch.Tensor, target: torch.Tensor, slope: float) -> list:
    shape, second = plan.shape, step.layer == "second"
    channels = shape.C_mid if second else shape.C_in
    values = {
        "x": _flat(source),
        "y": _flat(target),
        "C": channels,
        "N": shape.C_mid if step.layer == "first" else shape.C_out,
        "C_in": shape.C_in,
        "C_mid": shape.C_mid,
        "C_out": shape.C_out,
        "H": shape.H_mid if second else shape.H,
        "W": shape.W_mid if second else shape.W,
        "tiles_w": step.tiles_w,
        "slope": slope,
        **weights,
    }
    if step.variant.part == "layer":  # the text of the second layer, whichever layer it computes
        values |= {"C_mid": channels, "C_out": values["N"]}
    return [values[name] for name, _ in step.variant.parameters]


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """All of it in one row; bf16 by its bits, since neither Numba nor NumPy has the type."""
    import torch

    flat = tensor.detach().reshape(-1)
    return flat.view(torch.uint16) if tensor.dtype == torch.bfloat16 else flat


def _check(plan: Plan, name: str, tensor: torch.Tensor, wanted: tuple[int, ...]) -> None:
    import torch

    dtype = torch.bfloat16 if plan.steps[0].variant.dtype == "bf16" else torch.float32
    if tuple(tensor.shape) != wanted or tensor.dtype != dtype:
        raise UnsupportedPair(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}: this plan was made for {dtype} {wanted}; plan anew."
        )
    if not tensor.is_contiguous():
        raise UnsupportedPair(f"{name} has strides {tensor.stride()}: NCHW without gaps is needed; call .contiguous().")
