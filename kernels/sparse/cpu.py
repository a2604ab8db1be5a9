"""The CPU twin of the sparse kernels: the same scheme, parallel over cores, vectors over output channels.

A task is (image, band of output rows, block of 32 output channels); its sums fit the first-level cache. For each
input channel the band's window is listed once: values and places of the non-zeros or, without skipping, of all
positions inside the image. Each entry adds value · weights[3 taps of a row][32 channels] to the outputs that it
feeds: one contiguous run of 96 numbers a tap row, which LLVM turns into vector multiply-adds. A row of outputs is
stored one column wider at each side, so that taps past the image's edge need no test; those two columns are dropped
at the end.

Work of an entry: 9·32 multiply-adds, each with one load and one store of a sum, so the stores bound it. The dense
twin does the same for every position: the two differ in the zeros alone (one machine code, one flag).
"""

from __future__ import annotations

import numba
import numpy as np
import torch

BLOCK = 32  # output channels of a task
CACHE_FLOATS = 6144  # sums of a task: 24 KB of a 32 KB first-level cache
CHAIN = 64  # input channels summed in one chain of float32: longer ones lose digits (4608 terms reach 1e-6 relative)

_ARRAYS = "float32[:, :, :, :], float32[:, :, :, ::1], float32[::1], float32[:, :, :, :]"


@numba.njit("float32[::1](int64)", error_model="numpy", cache=True)
def _aligned(count):
    """Zeros that begin at a cache line: a vector across two lines costs twice and is not forwarded from its store."""
    room = np.zeros(count + 16, np.float32)
    skipped = (64 - room.ctypes.data % 64) // 4 % 16
    return room[skipped : skipped + count]


@numba.njit(f"void({_ARRAYS}, int64, boolean)", parallel=True, error_model="numpy", fastmath={"contract"}, cache=True)
def _conv(x, w, bias, y, rows, skip):
    """y = conv3x3(x, w) + bias, `rows` rows a task. `contract` fuses multiply and add, NaN and -0 stay."""
    images, channels, height, width = x.shape
    blocks = w.shape[3] // BLOCK
    bands = (height + rows - 1) // rows
    pitch = (width + 2) * BLOCK
    for task in numba.prange(images * bands * blocks):
        first = task % blocks * BLOCK
        image = task // (blocks * bands)
        top = task // blocks % bands * rows
        high = min(rows, height - top)
        above, below = max(top - 1, 0), min(top + high + 1, height)
        sums = _aligned(high * pitch)
        totals = _aligned(high * pitch)
        taps = _aligned(9 * BLOCK)
        values = np.empty((rows + 2) * width, np.float32)
        places = np.empty((rows + 2) * width, np.int64)
        for c in range(channels):
            count = 0
            for i in range(above, below):
                for j in range(width):
                    value = x[image, c, i, j]
                    values[count] = value
                    places[count] = (i - top) * pitch + j * BLOCK
                    count += (value != 0) | (not skip)  # no branch: whether a value is zero cannot be predicted
            if c % CHAIN == 0:
                totals += sums
                sums[:] = 0
            if count == 0:
                continue
            for r in range(3):
                for s in range(3):
                    at = (r * 3 + 2 - s) * BLOCK
                    taps[at : at + BLOCK] = w[c, r, s, first : first + BLOCK]
            for entry in range(count):
                value = values[entry]
                for r in range(3):
                    start = places[entry] + (1 - r) * pitch
                    if 0 <= start < high * pitch:
                        for n in range(3 * BLOCK):
                            sums[start + n] += value * taps[r * 3 * BLOCK + n]
        totals += sums
        for n in range(min(BLOCK, y.shape[1] - first)):
            for a in range(high):
                for b in range(width):
                    y[image, first + n, top + a, b] = totals[a * pitch + (b + 1) * BLOCK + n] + bias[first + n]


@numba.njit(f"void(int64, {_ARRAYS}, int64, boolean)", error_model="numpy", cache=True)
def _loop(times, x, w, bias, y, rows, skip):
    for _ in range(times):
        _conv(x, w, bias, y, rows, skip)


def conv3x3(
    x: torch.Tensor,
    w_packed: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
    skip: bool = True,
) -> torch.Tensor:
    """3×3 convolution, stride 1, padding 1, on the CPU, exact float32; skip=False is the dense twin.

    x: [B, C, H, W] float32, any strides; w_packed: [C, 3, 3, Npad] from `pack_weights`; bias: [N] or None; out:
    [B, N, H, W] float32 or None (then N = len(bias), or Npad without a bias). Returns out.
    Raises ValueError where shapes do not fit.
    """
    out = _output(x, w_packed, bias, out)
    _conv(*_arguments(x, w_packed, bias, out, skip))
    return out


def loop(
    times: int, x: torch.Tensor, w_packed: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, skip: bool = True
) -> None:
    """`conv3x3` into out, `times` times in compiled code: what a CUDA graph of as many launches is on a GPU."""
    _output(x, w_packed, bias, out)
    _loop(times, *_arguments(x, w_packed, bias, out, skip))


def band_rows(shape: tuple[int, int, int, int], n: int, threads: int) -> int:
    """Output rows of a task: as many as the cache holds, fewer where there would be less than two tasks a thread."""
    images, _, height, width = shape
    rows = max(1, min(height, CACHE_FLOATS // ((width + 2) * BLOCK)))
    blocks = -(-n // BLOCK)
    while rows > 2 and images * -(-height // rows) * blocks < 2 * threads:
        rows = -(-rows // 2)
    return rows


def _output(x, w_packed, bias, out):
    if x.dim() != 4 or x.dtype != torch.float32 or x.device.type != "cpu":
        raise ValueError(
            f"x is {x.dtype} {tuple(x.shape)} on {x.device}: a float32 [B, C, H, W] tensor on the CPU is needed."
        )
    if w_packed.dim() != 4 or w_packed.shape[:3] != (x.shape[1], 3, 3) or w_packed.shape[3] % BLOCK:
        raise ValueError(
            f"packed weights of shape {tuple(w_packed.shape)} for {x.shape[1]} input channels: [C, 3, 3, Npad] with "
            f"Npad a multiple of {BLOCK} is needed; call pack_weights."
        )
    n = out.shape[1] if out is not None else len(bias) if bias is not None else w_packed.shape[3]
    if out is None:
        out = torch.empty((x.shape[0], n, *x.shape[2:]), dtype=torch.float32)
    wanted = (x.shape[0], n, *x.shape[2:])
    if (
        tuple(out.shape) != wanted
        or -(-n // BLOCK) * BLOCK != w_packed.shape[3]
        or (bias is not None and len(bias) != n)
    ):
        raise ValueError(
            f"out {tuple(out.shape)}, bias {None if bias is None else len(bias)} and Npad {w_packed.shape[3]} do not "
            f"fit together: out must be {wanted}, bias [N], and Npad N rounded up to {BLOCK}."
        )
    return out


def _arguments(x, w_packed, bias, out, skip):
    n = out.shape[1]
    bias = np.zeros(n, np.float32) if bias is None else bias.detach().numpy()
    rows = band_rows(tuple(x.shape), n, numba.get_num_threads())
    return x.detach().numpy(), w_packed.detach().numpy(), bias, out.numpy(), rows, skip
