"""The CPU twin of the sparse kernels: the same convolution, exact float32, zeros skipped; parallel over cores.

Its scheme stands in `kernels.sparse.cpu_loops`; here are its arguments and how the work is divided.
"""

from __future__ import annotations

import numba
import torch

from kernels.sparse.cpu_loops import conv as _conv
from kernels.sparse.cpu_loops import loop as _loop
from kernels.sparse.fused import Fused
from kernels.sparse.shape import UnsupportedShape

POSITIONS = 400  # output positions of a task, at most: its window, words and sums stay in a second-level cache
TASKS = 2  # at least, a thread: images are not equally sparse everywhere


def conv(
    x: torch.Tensor,
    w_packed: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: int = 1,
    fused: Fused | None = None,
    out: torch.Tensor | None = None,
    skip: bool = True,
) -> torch.Tensor:
    """Convolution of filter size 1 or 3, stride 1 or 2, padding k // 2, on the CPU; skip=False is the dense twin.

    x: [B, C, H, W] float32, each image dense, any batch stride; w_packed: [C, k, k, Npad] from `pack_weights`; bias:
    [N] float32 or None; fused: its tensors on the CPU; out: [B, N, H_out, W_out] float32, each image dense, any batch
    stride, or None (then N is that of bias or residual, else Npad). Returns out. The two twins give the same bits.
    Raises UnsupportedShape for another filter size or stride, ValueError where tensors do not fit.
    """
    fused = fused or Fused()
    out = _output(x, w_packed, bias, stride, fused, out)
    _conv(*_arguments(x, w_packed, bias, stride, fused, out, skip))
    return out


def loop(
    times: int,
    x: torch.Tensor,
    w_packed: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: int = 1,
    fused: Fused | None = None,
    out: torch.Tensor,
    skip: bool = True,
) -> None:
    """`conv` into out, `times` times in compiled code: what a CUDA graph of as many launches is on a GPU."""
    fused = fused or Fused()
    _output(x, w_packed, bias, stride, fused, out)
    _loop(times, *_arguments(x, w_packed, bias, stride, fused, out, skip))


def division(
    images: int, height: int, width: int, padded: int, k: int, stride: int, threads: int
) -> tuple[int, int, int]:
    """Rows of outputs and output channels of a task, and output channels of a run, for an output of height × width.

    A run is as long as the vector registers allow (96 or 128 numbers); a task has as many channels as leave `TASKS`
    tasks a thread, since each task marks its window anew, and where channels are too few for one task a thread, fewer
    rows, though then neighbours mark and gather the same again.
    """
    block = (128 if padded > 64 else 64) if k == 1 else 32 * stride
    bands = -(-height // max(1, min(height, POSITIONS // width)))
    parts, group = -(-padded // block), -(-padded // block)
    while group > 1 and images * bands * -(-parts // group) < TASKS * threads:
        group = -(-group // 2)
    while bands < height // 2 and images * bands * -(-parts // group) < threads:
        bands = min(2 * bands, height // 2)
    return -(-height // bands), group * block, block


def _output(x, w_packed, bias, stride, fused, out):
    """out, or a new one; raises where anything does not fit."""
    _check("x", x, (None,) * 4)
    if w_packed.dim() != 4 or w_packed.shape[1] not in (1, 3) or w_packed.shape[1] != w_packed.shape[2]:
        raise UnsupportedShape(
            f"packed weights of shape {tuple(w_packed.shape)}: [C, k, k, Npad] with k of 1 or 3 is needed; "
            "call pack_weights."
        )
    if stride not in (1, 2):
        raise UnsupportedShape(f"stride = {stride!r}: 1 or 2 is allowed.")
    images, channels, height, width = x.shape
    padded = w_packed.shape[3]
    right = w_packed.dtype == torch.float32 and w_packed.device.type == "cpu" and w_packed.is_contiguous()
    if not right or w_packed.shape[0] != channels or padded % 32:
        raise ValueError(
            f"packed weights {w_packed.dtype} {tuple(w_packed.shape)} on {w_packed.device} for {channels} channels: "
            "contiguous float32 [C, k, k, Npad] on the CPU with Npad a multiple of 32 is needed; call pack_weights."
        )
    given = [t for t in (out, fused.residual, bias) if t is not None]
    n = padded if not given else len(given[0]) if given[0].dim() == 1 else given[0].shape[1]
    wanted = (images, n, (height - 1) // stride + 1, (width - 1) // stride + 1)
    if -(-n // 32) * 32 != padded:
        raise ValueError(f"{n} output channels and Npad = {padded} do not fit: Npad is N rounded up to 32.")
    if out is None:
        out = torch.empty(wanted, dtype=torch.float32)
    _check("out", out, wanted)
    if fused.residual is not None:
        _check("fused.residual", fused.residual, wanted)
    if bias is not None:
        _check("bias", bias, (n,))
    if fused.pre_scale is not None:
        _check("fused.pre_scale", fused.pre_scale, (channels,))
        _check("fused.pre_shift", fused.pre_shift, (channels,))
    return out


def _check(name, tensor, wanted):
    """ValueError unless the tensor is float32 on the CPU, of the wanted sizes (None: any), each image of it dense."""
    sizes = tuple(tensor.shape)
    fits = len(sizes) == len(wanted) and all(s and w in (None, s) for s, w in zip(sizes, wanted, strict=True))
    dense = fits and (tensor if len(sizes) == 1 else tensor[0]).is_contiguous()
    if not (dense and tensor.dtype == torch.float32 and tensor.device.type == "cpu"):
        asked = ", ".join("any" if size is None else str(size) for size in wanted)
        raise ValueError(
            f"{name} is {tensor.dtype} {sizes} with strides {tensor.stride()} on {tensor.device}: float32 [{asked}] on "
            "the CPU, each image dense, is needed; call .float().contiguous()."
        )


def _arguments(x, w_packed, bias, stride, fused, out, skip):
    images, channels, height, width = x.shape
    n, tall, wide = out.shape[1:]
    flat, ones = torch.zeros(n) if bias is None else bias, torch.ones(channels)
    scale, shift = (ones, torch.zeros(channels)) if fused.pre_scale is None else (fused.pre_scale, fused.pre_shift)
    residual = torch.empty(0) if fused.residual is None else _flat(fused.residual)
    apart = 0 if fused.residual is None else fused.residual.stride(0)
    arrays = [_flat(x), w_packed, flat, _flat(out), residual, scale, shift]
    sizes = (images, height, width, n, stride, x.stride(0), out.stride(0), apart)
    tasks = division(images, tall, wide, w_packed.shape[3], w_packed.shape[1], stride, numba.get_num_threads())
    return *(array.detach().numpy() for array in arrays), sizes, tasks, (fused.pre_relu, fused.post_relu, skip)


def _flat(tensor):
    """All elements from the first to the last, those between two images included, as one row."""
    image = tensor[0].numel()
    return tensor.as_strided(((len(tensor) - 1) * tensor.stride(0) + image,), (1,))
