"""What an untiled step keeps, and how far a segmented step's results are from it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frugal.sft.graph import checked_shape
from frugal.sft.plans import Plan
from frugal.sft.segments import SegmentedSequential


@dataclass(frozen=True)
class Errors:
    """max|a − b| ÷ max|b| of one tensor against the untiled step in float64: segmented, and untiled."""

    segmented: float
    untiled: float


def saved_bytes(model: nn.Module, shape: Sequence[int]) -> int:
    """Bytes that autograd keeps between the forward and the backward pass of the untiled model, for images [N, C, H, W]
    or [C, H, W] of the parameters' type; parameters and buffers do not count, the image does where it is kept.

    Found on the meta device: no memory is needed for it. Raises ShapeError.
    """
    model = copy.deepcopy(model).to("meta")
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    x = torch.zeros(checked_shape(shape), dtype=dtype, device="meta")
    ours = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(x)
    del y
    return sum(storage.nbytes() for address, storage in kept.items() if address not in ours)


def compare(model: nn.Module, x: Tensor, plan: Plan) -> dict[str, Errors]:
    """{`output`, `image` where x requires a gradient, each parameter: its errors}, of one step on copies of the model.

    x: [N, C, H, W], small enough for the untiled step in float64. Each output weighs another random number in the loss,
    so that no gradient vanishes by symmetry. Raises as `SegmentedSequential` does.
    """
    exact = _step(copy.deepcopy(model).double(), x.double())
    untiled = _step(copy.deepcopy(model), x)
    segmented = _step(SegmentedSequential(copy.deepcopy(model), plan), x)
    return {name: Errors(_distance(segmented[name], b), _distance(untiled[name], b)) for name, b in exact.items()}


def _step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.detach().requires_grad_(x.requires_grad)
    model.zero_grad(set_to_none=True)
    y = model(x)
    weights = torch.rand(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (y * weights.to(y.device, y.dtype)).sum().backward()
    image = {"image": x.grad} if x.grad is not None else {}
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"output": y.detach(), **image, **grads}


def _distance(a: Tensor, b: Tensor) -> float:
    apart, scale = (a.double() - b).abs().max().item(), b.abs().max().item()
    return apart / scale if scale else apart
