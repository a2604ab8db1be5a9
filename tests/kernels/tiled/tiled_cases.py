"""Small pairs of layers for tests, and how a plan runs on arrays with guards around its output."""

from __future__ import annotations

import numpy as np
import torch

from kernels.tiled import PairShape, Plan, arguments, pack, reference

SLOPE = 0.125  # exact in float32


def integers(shape: PairShape, *, low: int = -3) -> tuple[np.ndarray, ...]:
    """x, w1, b1, w2, b2: integers so small that every sum is below 2^24: float32 is exact in any order."""
    rng = np.random.default_rng(shape.C_mid * 1000 + shape.H * 10 + shape.W)
    sizes = (
        (shape.N, shape.C_in, shape.H, shape.W), (shape.C_mid, shape.C_in, 3, 3), (shape.C_mid,),
        (shape.C_out, shape.C_mid, 3, 3), (shape.C_out,),
    )  # fmt: skip
    return tuple(rng.integers(low, 4 if low < 0 else 0, size).astype(np.float32) for size in sizes)


def normals(shape: PairShape, seed: int = 0) -> tuple[np.ndarray, ...]:
    """x, w1, b1, w2, b2 with a normal distribution, weights scaled so that no layer grows."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((shape.N, shape.C_in, shape.H, shape.W))
    w1 = rng.standard_normal((shape.C_mid, shape.C_in, 3, 3)) / np.sqrt(4.5 * shape.C_in)
    w2 = rng.standard_normal((shape.C_out, shape.C_mid, 3, 3)) / np.sqrt(4.5 * shape.C_mid)
    biases = (rng.standard_normal(n) for n in (shape.C_mid, shape.C_out))
    b1, b2 = biases
    return tuple(value.astype(np.float32) for value in (x, w1, b1, w2, b2))


def wanted(shape: PairShape, data: tuple[np.ndarray, ...]) -> np.ndarray:
    """The pair in float64."""
    return reference.pair(
        *data, pool_mid=shape.pool_mid, pool_out=shape.pool_out, activation=shape.activation, slope=SLOPE
    )


def bf16(values: np.ndarray) -> np.ndarray:
    """The nearest bf16, as float32."""
    return torch.from_numpy(values).bfloat16().float().numpy()


def guarded(plan: Plan, data: tuple[np.ndarray, ...]) -> tuple[list[list], torch.Tensor, list[torch.Tensor]]:
    """Each step's arguments as arrays, the output, and what no launch may write: guards around output and middle."""
    shape, short = plan.shape, plan.steps[0].variant.dtype == "bf16"
    dtype = torch.bfloat16 if short else torch.float32
    x, w1, b1, w2, b2 = (torch.from_numpy(value) for value in data)
    sizes = [(shape.N, shape.C_out, shape.H_out, shape.W_out)]
    if not plan.fused:
        sizes.append((shape.N, shape.C_mid, shape.H_mid, shape.W_mid))
    rooms = [torch.full((int(np.prod(size)) + 64,), float("nan"), dtype=dtype) for size in sizes]
    y, *middle = (room[32:-32].view(size) for room, size in zip(rooms, sizes, strict=True))
    given = arguments(plan, pack(plan, w1, w2, b1, b2), x.to(dtype), y, middle[0] if middle else None, SLOPE)
    arrays = [[v.numpy() if isinstance(v, torch.Tensor) else v for v in values] for values in given]
    return arrays, y, [edge for room in rooms for edge in (room[:32], room[-32:])]
