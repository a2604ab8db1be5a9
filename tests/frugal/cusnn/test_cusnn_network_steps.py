"""What a pass does: its convolutions are the network's, at their sizes; and batch norms folded into them are exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from frugal.cusnn.convolutions import convolutions
from frugal.cusnn.fold import affine, folded
from frugal.cusnn.network_steps import Conv, Head, Pool, Stem, UnknownGraph, steps
from frugal.models import build

NETWORKS = ("densenet121", "densenet169", "densenet201", "resnet50", "resnet101", "resnet152")
EACH = [(name, d) for name in NETWORKS for d in ("torchvision_v1.5", "keras_v1") if name[0] == "r" or d[0] == "t"]


def norm(channels: int, generator: torch.Generator, affine: bool = True) -> nn.BatchNorm2d:
    """A batch norm in evaluation mode whose every number is its own."""
    made = nn.BatchNorm2d(channels, affine=affine).eval()
    for tensor in (made.running_mean, *((made.bias, made.weight) if affine else ())):
        tensor.data.copy_(torch.randn(channels, generator=generator))
    made.running_var.copy_(torch.rand(channels, generator=generator) + 0.1)
    return made


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scales", [False, True])
def test_a_folded_norm_is_the_norm(bias: bool, scales: bool):
    generator = torch.Generator().manual_seed(0)
    conv, after = nn.Conv2d(5, 7, 3, padding=1, bias=bias), norm(7, generator, scales)
    x = torch.randn(2, 5, 6, 8, generator=generator, dtype=torch.float64)
    weight, shift = folded(conv, after)
    assert (weight.dtype, shift.dtype) == (torch.float32, torch.float32)
    want = after.double()(conv.double()(x))
    # one rounding to float32 of each weight and bias, and a sum of 45 products
    got = nn.functional.conv2d(x, weight.double(), shift.double(), padding=1)
    torch.testing.assert_close(got, want, rtol=0, atol=46 * 2**-24 * want.abs().max().item())


def test_a_convolution_without_a_norm_keeps_its_numbers():
    conv = nn.Conv2d(3, 4, 1)
    weight, bias = folded(conv, None)
    assert torch.equal(weight, conv.weight)
    assert torch.equal(bias, conv.bias)
    assert folded(nn.Conv2d(3, 4, 1, bias=False), None)[1] is None


@pytest.mark.parametrize("scales", [False, True])
def test_the_affine_form_of_a_norm(scales: bool):
    generator = torch.Generator().manual_seed(1)
    given = norm(6, generator, scales)
    x = torch.randn(3, 6, 2, 2, generator=generator, dtype=torch.float64)
    scale, shift = affine(given)
    torch.testing.assert_close(
        x * scale[:, None, None] + shift[:, None, None], given.double()(x), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(("name", "definition"), EACH)
def test_the_convolutions_of_a_pass_are_the_networks(name: str, definition: str):
    with torch.device("meta"):
        passes = steps(build(name, definition), 224, 224)
    assert isinstance(passes[0], Stem)
    assert isinstance(passes[-1], Head)
    found = {step.name: step.shape(1) for step in passes if isinstance(step, Conv)}
    known = {conv.layer: conv for conv in convolutions(name, definition)[1:]}  # the first one is the stem's
    assert set(found) == set(known)
    for layer, shape in found.items():
        conv = known[layer]
        # a transition pools first, so that its 1×1 meets a quarter of the pixels
        side = 2 if "transition" in layer else 1
        assert (shape.C, shape.H * side, shape.W * side, shape.N) == (conv.c, conv.h, conv.w, conv.n), layer
        assert (shape.k, shape.stride, shape.pad) == (conv.k, conv.stride, conv.pad), layer
    assert sum(isinstance(step, Pool) for step in passes) == (3 if name.startswith("densenet") else 0)


@pytest.mark.parametrize(("name", "definition"), [("densenet121", EACH[0][1]), *EACH[3:5], ("resnet18", EACH[0][1])])
def test_what_is_read_was_written_and_nothing_is_read_while_it_is_written(name: str, definition: str):
    """Each channel of a buffer remembers which view of the buffer it was written through; a read must find its own."""
    with torch.device("meta"):
        passes = steps(build(name, definition), 64, 96)
    written: dict[str, dict[int, tuple]] = {}
    for step in passes:
        reads = [place for place in (getattr(step, "x", None), getattr(step, "residual", None)) if place is not None]
        for place in reads:
            view, channels = (place.width, place.H, place.W), range(place.start, place.start + place.C)
            assert {written[place.buffer].get(channel) for channel in channels} == {view}, step
        if not isinstance(step, Head):
            y = step.y
            view, channels = (y.width, y.H, y.W), set(range(y.start, y.start + y.C))
            for place in reads:
                overlap = place.buffer == y.buffer and channels & set(range(place.start, place.start + place.C))
                assert not overlap, step
            kept = {c: known for c, known in written.get(y.buffer, {}).items() if known == view}
            written[y.buffer] = kept | dict.fromkeys(channels, view)


def test_another_network_is_refused():
    with pytest.raises(
        UnknownGraph, match=r"Sequential is no network of frugal\.models: .* call frugal\.cusnn\.sparsify"
    ):
        steps(nn.Sequential(nn.Conv2d(3, 4, 3)), 224, 224)
