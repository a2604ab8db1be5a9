"""The convolution every kernel is compared with: float64, plain sums, no library."""

from __future__ import annotations

import numpy as np


def conv(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None, stride: int = 1) -> np.ndarray:
    """y[b, n, h, w] = bias[n] + sum of x[b, c, S·h + r - k//2, S·w + s - k//2] · w[n, c, r, s] over c, r, s.

    x: [B, C, H, W], w: [N, C, k, k], bias: [N] or None -> y: [B, N, Ho, Wo], computed and returned in float64.
    Zeros pad the image.
    """
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    k = w.shape[2]
    pad = k // 2
    height, width = x.shape[2:]
    padded = np.zeros((*x.shape[:2], height + 2 * pad, width + 2 * pad))
    padded[:, :, pad : pad + height, pad : pad + width] = x
    out_height, out_width = (height - 1) // stride + 1, (width - 1) // stride + 1
    y = np.zeros((x.shape[0], w.shape[0], out_height, out_width))
    for r in range(k):
        for s in range(k):
            rows = slice(r, r + (out_height - 1) * stride + 1, stride)
            cols = slice(s, s + (out_width - 1) * stride + 1, stride)
            y += np.einsum("bchw,nc->bnhw", padded[:, :, rows, cols], w[:, :, r, s])
    return y if bias is None else y + np.asarray(bias, np.float64)[None, :, None, None]
