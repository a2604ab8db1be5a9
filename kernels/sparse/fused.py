"""What a convolution does to its input and output in the same launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BIAS, RESIDUAL, POST_RELU, PRE_AFFINE, PRE_RELU = 1, 2, 4, 8, 16  # bits of a launch's `flags`


@dataclass(frozen=True)
class Fused:
    """y = post(conv(pre(x)) + bias + residual), where pre and post are what the fields say (nothing by default).

    pre(v) = v·pre_scale[c] + pre_shift[c], then ReLU if `pre_relu`; the padding is zero after it, as where a batch norm
    and its ReLU precede the convolution. Both ReLUs keep NaN.
    """

    pre_scale: torch.Tensor | None = None
    """[C] float32; together with `pre_shift` or not at all."""
    pre_shift: torch.Tensor | None = None
    """[C] float32."""
    pre_relu: bool = False
    residual: torch.Tensor | None = None
    """[B, N, H_out, W_out] float32, each image dense, any batch stride."""
    post_relu: bool = False

    def __post_init__(self) -> None:
        if (self.pre_scale is None) != (self.pre_shift is None):
            raise ValueError("fused: pre_scale and pre_shift belong together: give both or neither.")
