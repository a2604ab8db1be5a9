"""What a user would pick today for one convolution layer: cuDNN and oneDNN through torch, each with its flags stated.

torch's own default lets convolutions use TF32: the fp32 arms switch it off, and their error against float64 proves it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx
from torch._dynamo.exc import BackendCompilerFailed
from torch.nn import functional

from frugal.cusnn.offered import BASELINES as OFFERED
from frugal.cusnn.offered import ON_GPU
from frugal.provenance import source_hash
from frugal.timing import Arm, Inputs, Prepared, Unsupported
from frugal.timing.flags import flags
from kernels.sparse import ConvShape

# dtype, TF32, channels-last
CUDNN = {
    "cudnn_fp32": (torch.float32, False, False),
    "cudnn_fp32_cl": (torch.float32, False, True),
    "cudnn_tf32": (torch.float32, True, False),
    "cudnn_tf32_cl": (torch.float32, True, True),
    "cudnn_fp16_cl": (torch.float16, False, True),
}
# TF32
COMPILED = {"torch_compile_fp32": False, "torch_compile_tf32": True}
# What mode max-autotune-no-cudagraphs means (the regimes capture graphs of their own), and nothing from disk: the keys
# of what lies there do not hold cuDNN's TF32 flag.
INDUCTOR = {
    "max_autotune": True,
    "coordinate_descent_tuning": True,
    "fx_graph_cache": False,
    "autotune_local_cache": False,
}
ONEDNN = {"onednn_fp32": False, "onednn_fp32_cl": True}


def arm(name: str, shape: ConvShape, *, bytes_min: float) -> Arm:
    """The baseline `name` (one of OFFERED) of a layer; bytes_min: the dense float32 layer's."""
    common = {
        "name": name,
        "role": "baseline",
        "flop": 2.0 * shape.macs,
        "source_hash": source_hash("frugal.cusnn.baselines"),
    }
    if name == "gemm_fp32":
        return Arm(
            prepare=_gemm(shape),
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
            prepare=_conv(torch.float32, channels_last, shape),
            layout="nhwc" if channels_last else "nchw",
            regimes=OFFERED["cpu"][name],
            bytes_min=bytes_min,
            **common,
        )
    if name in COMPILED:
        tf32 = COMPILED[name]
        return Arm(
            prepare=compiled(shape),
            tf32=tf32,
            layout="nchw",
            compiled=True,
            context=lambda: flags(tf32=tf32),
            regimes=ON_GPU,
            bytes_min=bytes_min,
            settings=INDUCTOR,
            **common,
        )
    dtype, tf32, channels_last = CUDNN[name]
    return Arm(
        prepare=_conv(dtype, channels_last, shape),
        dtype=str(dtype).removeprefix("torch."),
        tf32=tf32,
        layout="nhwc" if channels_last else "nchw",
        context=lambda: flags(tf32=tf32),
        regimes=ON_GPU,
        bytes_min=bytes_min * dtype.itemsize / 4,
        **common,
    )


def _conv(dtype: torch.dtype, channels_last: bool, shape: ConvShape) -> Callable[[Inputs], Prepared]:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    options = {"stride": shape.stride, "padding": shape.pad}

    def prepare(inputs: Inputs) -> Prepared:
        x = inputs["x"].to(dtype).contiguous(memory_format=memory_format)
        w = inputs["w"].to(dtype).contiguous(memory_format=memory_format)
        return Prepared(run=torch.inference_mode()(lambda: functional.conv2d(x, w, **options)), keep=(x, w))

    return prepare


def compiled(shape: ConvShape) -> Callable[[Inputs], Prepared]:
    """torch.compile with max-autotune, tuned at the first call and kept; a machine that cannot compile has no such arm.

    What is compiled is a traced module: it has code of its own, so that what torch keeps for one arm in this process is
    not taken for another's, whose shape or TF32 flag differs.
    """
    made: list[Callable] = []

    def prepare(inputs: Inputs) -> Prepared:
        x, w = inputs["x"], inputs["w"]
        if not made:
            made.append(torch.compile(fx.symbolic_trace(_Conv(shape)), dynamic=False, options=dict(INDUCTOR)))
        run = torch.inference_mode()(lambda: made[0](x, w))
        try:
            run()
        except BackendCompilerFailed as problem:
            cause = " ".join(str(problem).split())[:200]  # torch appends pages of advice
            raise Unsupported(f"torch.compile cannot compile a convolution here: {cause}") from None
        return Prepared(run=run, keep=(x, w))

    return prepare


class _Conv(torch.nn.Module):
    def __init__(self, shape: ConvShape) -> None:
        super().__init__()
        self.options = {"stride": shape.stride, "padding": shape.pad}

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, w, **self.options)


def _gemm(shape: ConvShape) -> Callable[[Inputs], Prepared]:
    """im2col and one matrix product: a stand-in for the GEMM class of algorithms, which torch cannot pin."""

    def prepare(inputs: Inputs) -> Prepared:
        x, w = inputs["x"], inputs["w"]
        flat = w.flatten(1)

        @torch.inference_mode()
        def run() -> torch.Tensor:
            columns = functional.unfold(x, w.shape[2:], padding=shape.pad, stride=shape.stride)
            return (flat @ columns).unflatten(2, (shape.H_out, shape.W_out))

        return Prepared(run=run, keep=(x, flat))

    return prepare
