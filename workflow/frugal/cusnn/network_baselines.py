"""What a user would run today for a whole network: torch with its batch norms folded, each arm with its flags stated.

Folding is torch's own (`torch.nn.utils.fusion`), of every batch norm that reads a convolution's output; others stay.
TF32 is torch's default for convolutions: the fp32 arms switch it off.

`torch_compile_*` is Inductor with max-autotune but without its own CUDA graphs: the harness captures every arm in the
same kind of graph (regime `graph`), and measures it without one (`wall`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from frugal.models.trace import trace
from frugal.provenance import source_hash
from frugal.timing import Arm, Inputs, Prepared
from frugal.timing.flags import flags

# A float32 arm that used TF32 unasked would stand at 1e-4 or more. Ten times what ours is allowed, since Winograd's
# transforms lose a digit.
FP32_NORM = 5e-5

# dtype, TF32, channels-last, compiled
ARMS = {
    "cudnn_fp32": (torch.float32, False, False, False),
    "cudnn_fp32_cl": (torch.float32, False, True, False),
    "cudnn_tf32": (torch.float32, True, False, False),
    "cudnn_tf32_cl": (torch.float32, True, True, False),
    "cudnn_fp16_cl": (torch.float16, False, True, False),
    "torch_compile_fp32": (torch.float32, False, False, True),
    "torch_compile_tf32": (torch.float32, True, False, True),
    "onednn_fp32": (torch.float32, False, False, False),
    "onednn_fp32_cl": (torch.float32, False, True, False),
}


def without_norms(model: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode whose convolutions hold the batch norms that read their output."""
    model = copy.deepcopy(model)
    for site in trace(model):
        if site.norm_after is not None:
            fused = fuse_conv_bn_eval(model.get_submodule(site.name), model.get_submodule(site.norm_after))
            _replace(model, site.name, fused)
            _replace(model, site.norm_after, nn.Identity())
    return model


def arm(
    name: str,
    folded: Callable[[], nn.Module],
    device: torch.device,
    regimes: Sequence[str],
    *,
    flop: float,
    bytes_min: float,
) -> Arm:
    """The baseline `name` (one of ARMS) of a network.

    folded: gives the network without norms, on the CPU in float32, which is copied; it is called when the arm is first
    prepared. flop, bytes_min: of one dense float32 pass.
    """
    dtype, tf32, channels_last, compiled = ARMS[name]
    made: list[Callable] = []

    def prepare(inputs: Inputs) -> Prepared:
        if not made:
            made.append(_module(folded(), dtype, channels_last, compiled, device))
        forward = made[0]
        x = inputs["x"].to(dtype).contiguous(memory_format=_format(channels_last))
        return Prepared(run=torch.inference_mode()(lambda: forward(x)), keep=(x,))

    is_exact = dtype == torch.float32 and not tf32
    return Arm(
        name=name,
        role="baseline",
        prepare=prepare,
        dtype=str(dtype).removeprefix("torch."),
        tf32=tf32 if device.type == "cuda" else None,
        layout="nhwc" if channels_last else "nchw",
        compiled=compiled,
        regimes=tuple(regimes),
        flop=flop,
        bytes_min=bytes_min * dtype.itemsize / 4,
        source_hash=source_hash("frugal.cusnn.network_baselines"),
        context=lambda: flags(tf32=tf32),
        norm_bound=FP32_NORM if is_exact else None,
    )


def _module(
    model: nn.Module, dtype: torch.dtype, channels_last: bool, compiled: bool, device: torch.device
) -> Callable:
    own = copy.deepcopy(model).to(device, dtype, memory_format=_format(channels_last))
    if not compiled:
        return own
    return torch.compile(own, mode="max-autotune-no-cudagraphs", dynamic=False)


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
