"""Batch norm in evaluation mode as part of a convolution beside it, folded in float64.

With γ, β, μ, σ² and ε of the norm, bn(v) = a·v + b per channel, where a = γ / √(σ² + ε) and b = β - a·μ. After a
convolution it scales the filters: bn(w∗x + c) = (a·w)∗x + (a·c + b). Before one (with a ReLU between) it stays a
prologue. One rounding to float32 at the end is all that is lost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(a, b) of bn(v) = a·v + b, each [C] float64."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -scale * norm.running_mean.double()
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    """(weight [N, C, k, k], bias [N] or None), float32, of a convolution with the batch norm that reads its output."""
    weight = conv.weight.detach().double()
    bias = None if conv.bias is None else conv.bias.detach().double()
    if norm is not None:
        scale, shift = affine(norm)
        weight = weight * scale[:, None, None, None]
        bias = shift if bias is None else scale * bias + shift
    return weight.to(torch.float32), None if bias is None else bias.to(torch.float32)
