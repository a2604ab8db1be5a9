"""The CPU twin of the tiled kernels: the same two layers in float32, tile by tile, parallel over cores.

Its scheme stands in `kernels.tiled.cpu_loops`; here are its arguments.
"""

from __future__ import annotations

import numpy as np
import torch

from kernels.tiled import cpu_loops
from kernels.tiled.pack_mma import padded
from kernels.tiled.shape import PairShape, UnsupportedPair


def pair(
    shape: PairShape,
    x: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    b1: torch.Tensor | None = None,
    b2: torch.Tensor | None = None,
    *,
    slope: float = 0.1,
    fused: bool = True,
    out: torch.Tensor | None = None,
    times: int = 1,
) -> torch.Tensor:
    """Both layers on the CPU; fused=False is the twin that writes what lies between them to memory.

    x [N, C_in, H, W], w1 [C_mid, C_in, 3, 3], w2 [C_out, C_mid, 3, 3], b1 [C_mid] and b2 [C_out] or None, out
    [N, C_out, H_out, W_out] or None: float32 on the CPU, x and out contiguous. Any number of channels. times: how often
    it is computed, in compiled code: what a CUDA graph of as many launches is on a GPU. Returns out; the two twins give
    the same bits. Raises UnsupportedPair for tensors that do not fit the shape.
    """
    prepared = Prepared(shape, w1, w2, b1, b2, slope=slope, fused=fused)
    return prepared(x, out, times=times)


class Prepared:
    """A pair whose weights are laid out and whose memory between the layers is there: what is to be timed."""

    def __init__(self, shape: PairShape, w1, w2, b1=None, b2=None, *, slope: float = 0.1, fused: bool = True) -> None:
        if shape.activation == "leaky" and not 0 < slope <= 1:
            raise UnsupportedPair(f"slope = {slope}: the tiled kernels take one above 0 and at most 1.")
        b1 = torch.zeros(shape.C_mid) if b1 is None else b1
        b2 = torch.zeros(shape.C_out) if b2 is None else b2
        _check("w1", w1, (shape.C_mid, shape.C_in, 3, 3))
        _check("w2", w2, (shape.C_out, shape.C_mid, 3, 3))
        _check("b1", b1, (shape.C_mid,))
        _check("b2", b2, (shape.C_out,))
        self.shape, self.fused = shape, fused
        self._weights = [self._rows(w1), self._row(b1), self._rows(w2), self._row(b2)]
        between = 0 if fused else shape.N * shape.H_mid * shape.W_mid * len(self._weights[1])
        self._middle = torch.empty(between).numpy()
        # Without an activation values below zero are multiplied by one, which changes none.
        self._kind = (shape.activation == "relu", np.float32(slope if shape.activation == "leaky" else 1))

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None, *, times: int = 1) -> torch.Tensor:
        """The output of x, `times` times into out (a new tensor where that is None)."""
        shape = self.shape
        wanted = (shape.N, shape.C_out, shape.H_out, shape.W_out)
        out = torch.empty(wanted) if out is None else out
        _check("x", x, (shape.N, shape.C_in, shape.H, shape.W), dense=True)
        _check("out", out, wanted, dense=True)
        sizes = (shape.N, shape.C_in, shape.C_mid, shape.C_out, shape.H, shape.W)
        pools = (shape.q_mid, 2 if shape.pool_out else 1)
        flat = x.detach().reshape(-1).numpy(), out.detach().reshape(-1).numpy()
        cpu_loops.run(times, flat[0], *self._weights, self._middle, flat[1], sizes, pools, self._kind, self.fused)
        return out

    @staticmethod
    def _row(bias: torch.Tensor):
        return padded(bias.detach(), cpu_loops.CHANNELS).numpy()

    @staticmethod
    def _rows(w: torch.Tensor):
        """[N / 32, C, 9, 32], flat, N padded to a multiple of 32."""
        full = padded(w.detach(), cpu_loops.CHANNELS)
        return full.reshape(-1, cpu_loops.CHANNELS, w.shape[1], 9).permute(0, 2, 3, 1).reshape(-1).contiguous().numpy()


def _check(name: str, tensor: torch.Tensor, wanted: tuple[int, ...], *, dense: bool = False) -> None:
    right = tuple(tensor.shape) == wanted and tensor.dtype == torch.float32 and tensor.device.type == "cpu"
    if not right or (dense and not tensor.is_contiguous()):
        raise UnsupportedPair(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)} with strides {tensor.stride()} on {tensor.device}: "
            f"{'contiguous ' if dense else ''}float32 {wanted} on the CPU is needed."
        )
