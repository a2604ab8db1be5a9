"""A small network whose every layer is known, and the description of its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frugal.models.weights import RANDOM, WeightsInfo


class Small(nn.Module):
    """A strided 3×3; `same` 3×3 layers of one shape; a strided 3×3; one 3×3 of another shape; a 1×1.

    The shifts of the batch norms differ, so that no two inputs of the layers of one shape have as many zeros.
    """

    def __init__(self, same: int = 3) -> None:
        super().__init__()
        shifts = [0.0, 1.0, -1.0, 0.5][:same]
        sizes = [(3, 8, 3, 2, 0.3), *((8, 8, 3, 1, shift) for shift in shifts), (8, 16, 3, 2, 0.2), (16, 12, 3, 1, 0.0)]
        steps: list[nn.Module] = []
        for c, n, k, stride, shift in [*sizes, (12, 4, 1, 1, 0.0)]:
            conv = nn.Conv2d(c, n, k, stride=stride, padding=k // 2, bias=False)
            norm = nn.BatchNorm2d(n)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.constant_(norm.bias, shift)
            steps += [conv, norm, nn.ReLU()]
        self.steps = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x)


def small(same: int = 3) -> Small:
    torch.manual_seed(0)
    return Small(same).eval()


def photographs(count: int, size: int = 20) -> Tensor:
    return torch.randn(count, 3, size, size + 4, generator=torch.Generator().manual_seed(1))


def info(origin: str = RANDOM) -> WeightsInfo:
    return WeightsInfo(
        network="resnet50",
        definition="torchvision_v1.5",
        origin=origin,
        source_sha256=None,
        preprocess="torchvision",
        drawn=(),
        recalibrated=(),
        seed=None,
        images=0,
        sha256="0" * 64,
    )
