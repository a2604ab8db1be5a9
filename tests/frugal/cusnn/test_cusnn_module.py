"""`SparseConv2d` beside the torch modules that it stands for, and all that it is refused for."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from frugal.cusnn import NotDifferentiable, SparseConv2d, UnsupportedInput, UnsupportedShape
from frugal.cusnn.plans import Plan, plan
from kernels.sparse import ConvShape

# As in test_cusnn_ops: 9·6 products of order 1.
TOLERANCE = 1e-5


def norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm whose every number differs from what it begins with."""
    made = nn.BatchNorm2d(channels, eps=1e-3).eval()
    for tensor in (made.weight, made.bias, made.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(made.running_var, 0.5, 2)
    return made


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def zeros(*shape: int) -> torch.Tensor:
    """An input of which half is zero."""
    return torch.randn(shape).clamp_min(0)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize(("k", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (3, 1, "same")])
def test_it_computes_what_the_modules_compute(k, stride, padding, with_norm: bool, relu: bool):
    conv = nn.Conv2d(6, 9, k, stride=stride, padding=padding).eval()
    bn = norm(9) if with_norm else None
    ours = SparseConv2d.from_conv(conv, bn=bn, relu=relu)
    x = zeros(2, 6, 8, 7)
    with torch.inference_mode():
        found = ours(x)
        wide = nn.Sequential(*copy.deepcopy([m for m in (conv, bn, nn.ReLU() if relu else None) if m])).double()
        wanted = wide(x.double())
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=TOLERANCE * wanted.abs().max().item())


def test_a_convolution_without_bias_has_none():
    conv = nn.Conv2d(6, 9, 3, padding=1, bias=False)
    assert SparseConv2d.from_conv(conv).bias is None
    assert SparseConv2d.from_conv(conv, bn=norm(9)).bias is not None


def test_it_is_a_copy_in_evaluation_mode_without_parameters():
    conv = nn.Conv2d(6, 9, 3, padding=1)
    ours = SparseConv2d.from_conv(conv)
    x = zeros(1, 6, 5, 5)
    with torch.inference_mode():
        before = ours(x)
        conv.weight.zero_()
        conv.bias.zero_()
        assert torch.equal(ours(x), before)
    assert not ours.training
    assert list(ours.parameters()) == []
    assert set(ours.state_dict()) == {"weight", "bias"}
    assert repr(ours) == "SparseConv2d(6, 9, kernel_size=3, stride=1, bias=True, relu=False, policy=auto)"


@pytest.mark.parametrize(
    ("conv", "sentence"),
    [
        (nn.Conv2d(6, 9, 5, padding=2), r"kernel_size = \(5, 5\): \(1, 1\) or \(3, 3\) is allowed"),
        (nn.Conv2d(6, 9, (1, 3), padding=(0, 1)), r"kernel_size = \(1, 3\)"),
        (nn.Conv2d(6, 9, 3, stride=3, padding=1), r"stride = \(3, 3\): \(1, 1\) or \(2, 2\) is allowed"),
        (nn.Conv2d(6, 9, 3, stride=(1, 2), padding=1), r"stride = \(1, 2\)"),
        (nn.Conv2d(6, 9, 3), r"padding = \(0, 0\): \(1, 1\) is allowed"),
        (nn.Conv2d(6, 9, 1, padding=1), r"padding = \(1, 1\): \(0, 0\) is allowed"),
        (nn.Conv2d(6, 9, 3, padding="valid"), "padding = 'valid'"),
        (nn.Conv2d(6, 9, 3, padding=1, dilation=2), r"dilation = \(2, 2\): \(1, 1\) is allowed"),
        (nn.Conv2d(6, 9, 3, padding=1, groups=3), "groups = 3: 1 is allowed"),
        (nn.Conv2d(6, 9, 3, padding=1, padding_mode="reflect"), "padding_mode = 'reflect': zeros is allowed"),
        (nn.ConvTranspose2d(6, 9, 3, padding=1), "module = ConvTranspose2d: nn.Conv2d is allowed"),
        (nn.Conv1d(6, 9, 3, padding=1), "module = Conv1d: nn.Conv2d is allowed"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)  # fmt: skip
def test_a_convolution_that_it_cannot_be_names_field_value_and_what_is_allowed(conv: nn.Module, sentence: str):
    with pytest.raises(UnsupportedShape, match=sentence):
        SparseConv2d.from_conv(conv)


def test_dtypes_weights_and_policies_that_it_does_not_take():
    with pytest.raises(UnsupportedInput, match=r"weight is torch.float64: .* call conv.float\(\)"):
        SparseConv2d.from_conv(nn.Conv2d(6, 9, 3, padding=1).double())
    broken = nn.Conv2d(6, 9, 3, padding=1)
    broken.weight.data[0, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="NaN or infinity"):
        SparseConv2d.from_conv(broken)
    with pytest.raises(ValueError, match="policy = 'often'"):
        SparseConv2d.from_conv(nn.Conv2d(6, 9, 3, padding=1), policy="often")


def test_norms_that_cannot_be_folded():
    conv = nn.Conv2d(6, 9, 3, padding=1)
    with pytest.raises(UnsupportedInput, match="no running statistics"):
        SparseConv2d.from_conv(conv, bn=nn.BatchNorm2d(9, track_running_stats=False).eval())
    with pytest.raises(UnsupportedInput, match="bn has 8 channels, conv gives 9"):
        SparseConv2d.from_conv(conv, bn=nn.BatchNorm2d(8).eval())
    with pytest.raises(NotDifferentiable, match=r"call bn.eval\(\) first"):
        SparseConv2d.from_conv(conv, bn=nn.BatchNorm2d(9))


def test_training_and_gradients_are_refused():
    ours = SparseConv2d.from_conv(nn.Conv2d(6, 9, 3, padding=1))
    x = zeros(1, 6, 5, 5)
    with pytest.raises(NotDifferentiable, match=r"torch.inference_mode\(\)"):
        ours.train()(x)
    with pytest.raises(NotDifferentiable, match=r"torch.inference_mode\(\)"):
        ours.eval()(x.clone().requires_grad_())
    assert ours(x).shape == (1, 9, 5, 5)  # nothing requires a gradient here


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.zeros(1, 5, 4, 4), "x has 5 channels: this convolution takes 6"),
        (torch.zeros(6, 4, 4), "four dimensions"),
        (torch.zeros(1, 6, 4, 4).half(), r"call x.float\(\)"),
        (torch.zeros(1, 6, 4, 4).to(memory_format=torch.channels_last), "x is channels-last"),
    ],
)
def test_an_input_that_would_be_converted_is_refused(x: torch.Tensor, sentence: str):
    with pytest.raises(UnsupportedInput, match=sentence):
        SparseConv2d.from_conv(nn.Conv2d(6, 9, 3, padding=1))(x)


def test_a_plan_is_made_once_for_each_size_and_a_given_one_is_used():
    ours = SparseConv2d.from_conv(nn.Conv2d(6, 9, 3, padding=1), policy="never")
    small, large = zeros(1, 6, 5, 5), zeros(2, 6, 5, 5)
    shape = ConvShape(1, 6, 5, 5, 9)
    assert ours.plan(small) is ours.plan(small)
    assert ours.plan(small) == plan(shape, device="cpu", policy="never")
    ours.use(Plan(shape, "onednn_fp32"))
    assert ours.plan(small).backend == "onednn_fp32"
    assert ours.plan(large).backend == "dense_twin"
    with torch.inference_mode():
        torch.testing.assert_close(ours(small), ours(small.expand(2, -1, -1, -1).contiguous())[:1], rtol=0, atol=1e-5)
    with pytest.raises(UnsupportedShape, match="this convolution is 6, 9"):
        ours.use(Plan(replace(shape, N=8), "sparse"))
