"""Weights of v5 in the order in which lanes hold fragments of B, so that a lane reads them 16 bytes at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from kernels.tiled.mma_variant import MmaVariant
    from kernels.tiled.planning import Step


def fragments(w: torch.Tensor, eights: int, dtype: str) -> torch.Tensor:
    """Weights [N, K] float32 as words, flat, in float32's name: [N / (8·eights), steps, eights / 2, 32 lanes, 4].

    N is a multiple of 8·eights and K of a step (8 for tf32, 16 for bf16). A lane's four words are those of B for two
    neighbouring eights of channels, two each; see kernels.tiled.tensor for what a word holds.
    """
    import torch

    each = 1 if dtype == "tf32" else 2
    words = rounded_tf32(w) if dtype == "tf32" else w.to(torch.bfloat16)
    # channels: group, pair of eights, eight of it, lane's g; products: step, half, lane's t, number of the word
    split = words.reshape(-1, eights // 2, 2, 8, w.shape[1] // (8 * each), 2, 4, each)
    laid_out = split.permute(0, 4, 1, 3, 6, 2, 5, 7).contiguous()
    return laid_out.reshape(-1).view(torch.float32)


def rounded_tf32(w: torch.Tensor) -> torch.Tensor:
    """float32 with the 13 lowest bits of the significand rounded away, halves away from zero, as cvt.rna.tf32 does."""
    import torch

    return ((w.contiguous().view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)


def pack_step(step: Step, w1: torch.Tensor, b1: torch.Tensor, w2: torch.Tensor, b2: torch.Tensor) -> dict:
    """The weights of a v5 launch by the names of its parameters; b1 and b2 stay float32."""
    variant, packed = step.variant, {}
    if step.layer in ("pair", "first"):
        packed |= {"w1": _first(variant, w1), "b1": padded(b1, variant.mid)}
    if step.layer in ("pair", "second"):
        packed |= {"w2": _second(variant, w2), "b2": padded(b2, variant.cob)}
    return packed


def padded(tensor: torch.Tensor, multiple: int, dim: int = 0) -> torch.Tensor:
    """The tensor with zeros up to a multiple of so many along a dimension."""
    import torch

    missing = -tensor.shape[dim] % multiple
    room = [*tensor.shape[:dim], missing, *tensor.shape[dim + 1 :]]
    return torch.cat([tensor, tensor.new_zeros(room)], dim).contiguous()


def _first(variant: MmaVariant, w: torch.Tensor) -> torch.Tensor:
    """Product k is tap k // cin, channel k % cin."""
    full = padded(padded(w, variant.mid), variant.cin, 1)
    products = full.reshape(full.shape[0], variant.cin, 9).transpose(1, 2).reshape(full.shape[0], -1)
    return fragments(padded(products, variant.step, 1), variant.held, variant.dtype)


def _second(variant: MmaVariant, w: torch.Tensor) -> torch.Tensor:
    """Product k is tap k // mid, channel k % mid; one step more, which the kernel loads and does not use."""
    import torch

    full = padded(padded(w, variant.cob), variant.mid, 1)
    products = full.reshape(full.shape[0], variant.mid, 9).transpose(1, 2).reshape(full.shape[0], -1)
    laid_out = fragments(products, variant.cob // 8, variant.dtype)
    return torch.cat([laid_out, laid_out.new_zeros(variant.cob // 16 * 128)])
