"""An untiled step and a segmented one on the same weights and image, and how far apart they are."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from frugal.memory import LiveBytes
from frugal.sft.plans import Plan
from frugal.sft.segments import SegmentedSequential


def step(model: nn.Module, x: Tensor, seed: int = 1) -> dict[str, Tensor]:
    """{name: tensor}: the output, the gradients of the image (where it wants one) and of every parameter.

    The loss weighs each output with another number, so that no gradient vanishes by symmetry.
    """
    x = x.detach().requires_grad_(x.requires_grad)
    model.zero_grad(set_to_none=True)
    y = model(x)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(y.shape, generator=generator, dtype=torch.float64).to(y.device, y.dtype) + 0.5
    # a softmax's sum is constant: its logarithm has gradients that do not cancel
    ((y - y.detach().mean()) * weights).sum().backward()
    found = {"output": y.detach()}
    if x.requires_grad:
        found["image"] = x.grad
    found |= {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return found


def distances(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """max|a − b| ÷ max|b| of each tensor."""
    assert found.keys() == expected.keys()
    result = {}
    for name, b in expected.items():
        a = found[name]
        assert a is not None, f"{name}: no gradient"
        assert a.shape == b.shape
        scale = b.abs().max().item()
        apart = (a.double() - b.double()).abs().max().item()
        result[name] = apart / scale if scale else apart
    return result


def untiled(model: nn.Module) -> nn.Module:
    """A copy that nothing shares."""
    return copy.deepcopy(model)


def image(*shape: int, dtype: torch.dtype = torch.float64, grad: bool = True) -> Tensor:
    return (
        torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        .to(dtype)
        .requires_grad_(grad)
    )


def peak(model: nn.Module, plan: Plan, x: Tensor) -> int:
    """Live bytes at the worst moment of a second step, whose gradients are there already."""
    segmented = SegmentedSequential(model, plan)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with LiveBytes() as live:
        live.track([model, [p.grad for p in model.parameters()], x])
        y = segmented(x)
        y.backward(torch.ones_like(y))
        del y
    return live.peak_total
