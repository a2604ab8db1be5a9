"""Weights as the kernels read them: made once for a plan, used by every launch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernels.tiled.pack_mma import pack_step, padded
from kernels.tiled.shape import UnsupportedPair

if TYPE_CHECKING:
    import torch

    from kernels.tiled.planning import Plan, Step


def pack(
    plan: Plan,
    w1: torch.Tensor,
    w2: torch.Tensor,
    b1: torch.Tensor | None = None,
    b2: torch.Tensor | None = None,
) -> tuple[dict[str, torch.Tensor], ...]:
    """The weights of each step of a plan by the names of its kernel's parameters.

    w1 [C_mid, C_in, 3, 3], w2 [C_out, C_mid, 3, 3], b1 [C_mid], b2 [C_out] float32, or None for no bias. Raises
    UnsupportedPair for tensors that are not the plan's.
    """
    import torch

    shape = plan.shape
    wanted = {"w1": (shape.C_mid, shape.C_in, 3, 3), "w2": (shape.C_out, shape.C_mid, 3, 3)}
    b1 = torch.zeros(shape.C_mid, device=w1.device) if b1 is None else b1
    b2 = torch.zeros(shape.C_out, device=w2.device) if b2 is None else b2
    given = {"w1": w1, "w2": w2, "b1": b1, "b2": b2}
    wanted |= {"b1": (shape.C_mid,), "b2": (shape.C_out,)}
    for name, tensor in given.items():
        if tuple(tensor.shape) != wanted[name] or tensor.dtype != torch.float32:
            raise UnsupportedPair(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}: this plan was made for float32 {wanted[name]}; "
                "plan anew."
            )
    return tuple(_step(step, {name: tensor.detach() for name, tensor in given.items()}) for step in plan.steps)


def _step(step: Step, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    variant = step.variant
    if variant.rung == "v5_pair_mma":
        return pack_step(step, **given)
    if variant.rung == "v1_naive":
        number = "1" if step.layer == "first" else "2"
        return {"w": given["w" + number].contiguous().reshape(-1), "bias": given["b" + number].contiguous()}
    if variant.rung == "v2_tile":
        number = "1" if step.layer == "first" else "2"
        return {"w2": _rows(variant, given["w" + number]), "b2": padded(given["b" + number], variant.cob)}
    packed = {}
    if step.layer in ("pair", "first"):
        packed |= {"w1": _chunks(variant, given["w1"]), "b1": padded(given["b1"], variant.chunk)}
    if step.layer in ("pair", "second"):
        packed |= {"w2": _rows(variant, given["w2"]), "b2": padded(given["b2"], variant.cob)}
    return packed


def _chunks(variant, w: torch.Tensor) -> torch.Tensor:
    """w1 as [chunks, C_in, 9, chunk], flat: what a chunk needs stands together."""
    full = padded(w, variant.chunk)
    return full.reshape(-1, variant.chunk, w.shape[1], 9).permute(0, 2, 3, 1).reshape(-1).contiguous()


def _rows(variant, w: torch.Tensor) -> torch.Tensor:
    """w2 as [C padded to chunk, 9, N padded to cob], flat: a tap's output channels stand together."""
    full = padded(padded(w, variant.cob), variant.chunk, 1)
    return full.reshape(full.shape[0], -1, 9).permute(1, 2, 0).reshape(-1).contiguous()
