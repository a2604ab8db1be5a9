"""The two layers every kernel is compared with, in float64, and how far float32 or shorter numbers may be from them."""

from __future__ import annotations

import numpy as np

from kernels.sparse.reference import conv

# Unit roundoff of the types that a kernel multiplies in; each sums in float32.
ROUNDOFF = {"f32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}


def layer(x: np.ndarray, w: np.ndarray, bias: np.ndarray, activation: str, slope: float, pool: bool) -> np.ndarray:
    """x [B, C, H, W], w [N, C, 3, 3], bias [N] -> [B, N, Ho, Wo] in float64: convolution, bias, activation, maximum."""
    y = activated(conv(x, w, bias), activation, slope)
    return pooled(y) if pool else y


def activated(y: np.ndarray, activation: str, slope: float) -> np.ndarray:
    """relu, leaky (negative values times slope) or none; NaN stays NaN."""
    factor = {"relu": 0.0, "leaky": slope, "none": 1.0}[activation]
    return y if activation == "none" else np.where(y < 0, 0.0 if factor == 0 else y * factor, y)


def pooled(y: np.ndarray) -> np.ndarray:
    """The maximum of each 2×2; an odd last row or column is dropped; NaN wins."""
    rows, cols = y.shape[2] // 2, y.shape[3] // 2
    blocks = y[:, :, : 2 * rows, : 2 * cols].reshape(*y.shape[:2], rows, 2, cols, 2)
    return blocks.max(axis=(3, 5))


def pair(x, w1, b1, w2, b2, *, pool_mid: bool, pool_out: bool, activation: str, slope: float) -> np.ndarray:
    """Both layers in float64."""
    middle = layer(x, w1, b1, activation, slope, pool_mid)
    return layer(middle, w2, b2, activation, slope, pool_out)


def bound(x, w1, b1, w2, b2, *, pool_mid: bool, pool_out: bool, dtype: str = "f32") -> np.ndarray:
    """How far each output may be from `pair`: an a-priori bound of rounding errors, no estimate.

    A sum of n products in float32 with operands rounded to unit roundoff u is off by at most
    ((n + 2)·2^-24 + 2u)·Σ|w||x| (Higham, Accuracy and Stability, §3.1; 2u is 0 for float32). The second layer carries
    the first one's error through its |w|, and rounds its inputs to u once more. Activations (slope at most 1) and
    maxima do not enlarge errors: the maximum of bounds bounds the error of a maximum.
    """
    u = 0.0 if dtype == "f32" else ROUNDOFF[dtype]
    x, w1, b1, w2, b2 = (np.abs(np.asarray(value, np.float64)) for value in (x, w1, b1, w2, b2))

    def rounding(channels: int) -> float:
        # A matrix instruction may also cut a product's sum off instead of rounding it: two units instead of one.
        return (9 * channels + 2) * 2.0**-24 * (1 if dtype == "f32" else 2) + 2 * u + u * u

    size = conv(x, w1, b1)
    error = rounding(x.shape[1]) * size
    size, error = (pooled(size), pooled(error)) if pool_mid else (size, error)
    carried = conv(error * (1 + u) + u * size, w2)
    total = carried + rounding(w2.shape[1]) * (conv(size, w2, b2) + carried)
    total = pooled(total) if pool_out else total
    return total * (1 + u) + u * output_size(size, w2, b2, pool_out) if dtype == "bf16" else total


def output_size(size: np.ndarray, w2: np.ndarray, b2: np.ndarray, pool_out: bool) -> np.ndarray:
    """An upper bound of the outputs' size, which rounding to a stored type is relative to."""
    y = conv(size, np.abs(w2), np.abs(b2))
    return pooled(y) if pool_out else y
