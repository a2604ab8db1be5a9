"""Bytes that vanilla training keeps, and the distance of a segmented step from it."""

import pytest
import torch
from exactness import image
from torch import nn

from frugal.models.darknet import darknet19
from frugal.models.resnet import resnet18, resnet50
from frugal.models.vgg import vgg16, vgg16_bn
from frugal.sft import Plan, ShapeError, compare, saved_bytes

# Bytes a pixel in float32, counted by the bytes that survive a forward pass of torch 2.13.
GOLDEN = {vgg16: 1456, vgg16_bn: 2537, darknet19: 558, resnet18: 443, resnet50: 1718}


@pytest.mark.parametrize("make", GOLDEN)
def test_saved_bytes_a_pixel(make):
    # Head and batch statistics do not grow with the image: at 224 they are up to 0.3 % of the bytes.
    assert saved_bytes(make(), (3, 224, 224)) / 224**2 == pytest.approx(GOLDEN[make], rel=3e-3)


def test_saved_bytes_leave_parameters_out():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sigmoid())
    assert saved_bytes(model, (2, 3, 8, 8)) == 2 * (3 + 4) * 8 * 8 * 4  # the image and the sigmoid's result
    assert model[0].weight.device.type == "cpu"
    with pytest.raises(ShapeError):
        saved_bytes(model, (8, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compare(dtype):
    torch.manual_seed(0)
    model = vgg16(width_divisor=16).to(dtype)
    x = image(1, 3, 64, 96, dtype=dtype)
    plan = Plan.manual(model, x.shape, cuts=["pool2"], kinds=["tiles", "strips"], tiles=[(4, 3), (2, 1)])
    found = compare(model, x, plan)
    assert set(found) == {"output", "image", *(name for name, _ in model.named_parameters())}
    unit = torch.finfo(dtype).eps / 2
    # 13 layers of sums of up to 300 products and, for weights, over 6144 pixels: some hundred roundings at worst
    assert all(each.segmented < 1000 * unit for each in found.values())
    assert all(each.untiled == 0 for each in found.values()) == (dtype == torch.float64)
    assert any(each.segmented > 0 for each in found.values())
    assert model.conv1_1.weight.grad is None
