"""The layout of weights that all sparse kernels read: [C, k, k, Npad], Npad = N rounded up to 32, zero filled.

The output channel runs fastest, so that a warp's lanes load neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pack_weights(w: torch.Tensor) -> torch.Tensor:
    """[N, C, k, k] float32 or float16 -> [C, k, k, Npad] float32, contiguous, on the same device.

    Raises ValueError if w is not four-dimensional, square in its last two, float32 or float16, or not finite (a zero
    that is skipped would hide an infinite weight: 0·inf is NaN in a dense convolution).
    """
    import torch  # here, so that the package can be imported to name kernels without torch

    if w.dim() != 4 or w.shape[2] != w.shape[3]:
        raise ValueError(f"weights of shape {tuple(w.shape)}: [N, C, k, k] is needed, as nn.Conv2d.weight has it.")
    if w.dtype not in (torch.float32, torch.float16):
        raise ValueError(f"weights of dtype {w.dtype}: float32 or float16 is allowed; call .float() first.")
    if not torch.isfinite(w).all():
        raise ValueError(
            "weights hold NaN or infinity: skipping zeros is exact for finite weights only; mend the checkpoint."
        )
    n, c, k, _ = w.shape
    packed = torch.zeros((c, k, k, -(-n // 32) * 32), dtype=torch.float32, device=w.device)
    packed[..., :n] = w.detach().permute(1, 2, 3, 0)
    return packed
