"""What a user would pick today for one convolution layer: cuDNN and oneDNN through torch, each with its flags stated.

torch's own default lets convolutions use TF32: the fp32 arms switch it off, and their error against float64 proves it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from frugal.cusnn.offered import BASELINES as OFFERED
from frugal.cusnn.offered import ON_GPU
from frugal.provenance import source_hash
from frugal.timing import Arm, Inputs, Prepared
from frugal.timing.flags import flags

# dtype, TF32, channels-last
CUDNN = {
    "cudnn_fp32": (torch.float32, False, False),
    "cudnn_fp32_cl": (torch.float32, False, True),
    "cudnn_tf32": (torch.float32, True, False),
    "cudnn_tf32_cl": (torch.float32, True, True),
    "cudnn_fp16_cl": (torch.float16, False, True),
}
ONEDNN = {"onednn_fp32": False, "onednn_fp32_cl": True}


def arm(name: str, pad: int, *, flop: float, bytes_min: float) -> Arm:
    """The baseline `name` (one of OFFERED) of a stride-1 convolution; flop and bytes are the dense float32 layer's."""
    common = {"name": name, "role": "baseline", "flop": flop, "source_hash": source_hash("frugal.cusnn.baselines")}
    if name == "gemm_fp32":
        return Arm(
            prepare=_gemm(pad),
            tf32=False,
            layout="nchw",
            context=lambda: flags(tf32=False),
            regimes=ON_GPU,
            bytes_min=bytes_min,
            **common,
        )
    if name in ONEDNN:
        channels_last = ONEDNN[name]
        return Arm(
            prepare=_conv(torch.float32, channels_last, pad),
            layout="nhwc" if channels_last else "nchw",
            regimes=OFFERED["cpu"][name],
            bytes_min=bytes_min,
            **common,
        )
    dtype, tf32, channels_last = CUDNN[name]
    return Arm(
        prepare=_conv(dtype, channels_last, pad),
        dtype=str(dtype).removeprefix("torch."),
        tf32=tf32,
        layout="nhwc" if channels_last else "nchw",
        context=lambda: flags(tf32=tf32),
        regimes=ON_GPU,
        bytes_min=bytes_min * dtype.itemsize / 4,
        **common,
    )


def _conv(dtype: torch.dtype, channels_last: bool, pad: int) -> Callable[[Inputs], Prepared]:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def prepare(inputs: Inputs) -> Prepared:
        x = inputs["x"].to(dtype).contiguous(memory_format=memory_format)
        w = inputs["w"].to(dtype).contiguous(memory_format=memory_format)
        return Prepared(run=torch.inference_mode()(lambda: functional.conv2d(x, w, padding=pad)), keep=(x, w))

    return prepare


def _gemm(pad: int) -> Callable[[Inputs], Prepared]:
    """im2col and one matrix product: a stand-in for the GEMM class of algorithms, which torch cannot pin."""

    def prepare(inputs: Inputs) -> Prepared:
        x, w = inputs["x"], inputs["w"]
        flat = w.flatten(1)

        @torch.inference_mode()
        def run() -> torch.Tensor:
            columns = functional.unfold(x, w.shape[2:], padding=pad)
            return (flat @ columns).unflatten(2, x.shape[2:])

        return Prepared(run=run, keep=(x, flat))

    return prepare
