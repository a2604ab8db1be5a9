"""torch's numerical flags as an arm states them: set while the arm does anything, and restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flags(tf32: bool, autotune: bool = True) -> Iterator[None]:
    """Allow or forbid TF32, in convolutions and in matrix products alike; let cuDNN try all its algorithms, or none.

    torch's own defaults differ (TF32 on in convolutions, off in matrix products), so that an arm that states nothing
    would not say what it measures.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.benchmark_limit
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.benchmark_limit = tf32, tf32, autotune, 0
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.benchmark_limit = before
