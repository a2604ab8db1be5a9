"""Inception-v4 for 299 × 299 images (C. Szegedy et al., AAAI 2017, figures 3 to 9): cells of parallel branches.

Every convolution has no bias and is followed by a batch norm of eps 1e-3 and a ReLU in place. There are 149 of them.
With a ``width_divisor`` d every width is max(2, width // d): the same graph, narrower.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from frugal.models.widths import narrowed

EPS = 1e-3

# A branch is a chain of these, (channels, kernel, stride, "same" or "valid"); a tuple of chains at its end is a fork
# whose ends are concatenated with the other branches. MAX and MEAN are 3×3 pools of stride 2 and 1.
Conv = tuple[int, int | tuple[int, int], int, str]
MAX, MEAN = "max", "mean"


def _same(width: int, kernel: int | tuple[int, int]) -> Conv:
    return (width, kernel, 1, "same")


STEM: tuple[Conv, ...] = ((32, 3, 2, "valid"), (32, 3, 1, "valid"), _same(64, 3))
# Figures 3 (the stem's three forks), 4, 7 with k, l, m, n = 192, 224, 256, 384 of table 1, 5, 8 and 6.
FORK1 = ((MAX,), ((96, 3, 2, "valid"),))
FORK2 = (
    (_same(64, 1), (96, 3, 1, "valid")),
    (_same(64, 1), _same(64, (1, 7)), _same(64, (7, 1)), (96, 3, 1, "valid")),
)
FORK3 = (((192, 3, 2, "valid"),), (MAX,))
CELL_A = (
    (_same(96, 1),),
    (_same(64, 1), _same(96, 3)),
    (_same(64, 1), _same(96, 3), _same(96, 3)),
    (MEAN, _same(96, 1)),
)
REDUCTION_A = (((384, 3, 2, "valid"),), (_same(192, 1), _same(224, 3), (256, 3, 2, "valid")), (MAX,))
CELL_B = (
    (_same(384, 1),),
    (_same(192, 1), _same(224, (1, 7)), _same(256, (7, 1))),
    (_same(192, 1), _same(192, (7, 1)), _same(224, (1, 7)), _same(224, (7, 1)), _same(256, (1, 7))),
    (MEAN, _same(128, 1)),
)
REDUCTION_B = (
    (_same(192, 1), (192, 3, 2, "valid")),
    (_same(256, 1), _same(256, (1, 7)), _same(320, (7, 1)), (320, 3, 2, "valid")),
    (MAX,),
)
ENDS = ((_same(256, (1, 3)),), (_same(256, (3, 1)),))
CELL_C = (
    (_same(256, 1),),
    (_same(384, 1), ENDS),
    (_same(384, 1), _same(448, (3, 1)), _same(512, (1, 3)), ENDS),
    (MEAN, _same(256, 1)),
)
CELLS = (FORK1, FORK2, FORK3, *[CELL_A] * 4, REDUCTION_A, *[CELL_B] * 7, REDUCTION_B, *[CELL_C] * 3)


class ConvUnit(nn.Module):
    """Convolution, batch norm, ReLU in place: [B, c_in, H, W] → [B, width, H', W']."""

    def __init__(self, c_in: int, width: int, kernel: int | tuple[int, int], stride: int, padding: str):
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        around = tuple(side // 2 for side in sides) if padding == "same" else 0
        self.conv = nn.Conv2d(c_in, width, kernel, stride, padding=around, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=EPS)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class InceptionCell(nn.Module):
    """Branches side by side, concatenated: [B, c_in, H, W] → [B, Σ of their widths, H', W']; `c_out` is the sum."""

    def __init__(self, branches: Sequence[Sequence], c_in: int, width_divisor: int):
        super().__init__()
        self.branches, self.c_out = nn.ModuleList(), 0
        for layers in branches:
            branch, channels = nn.Sequential(), c_in
            for layer in layers:
                if layer == MAX:
                    made: nn.Module = nn.MaxPool2d(3, stride=2)
                elif layer == MEAN:
                    made = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
                elif layer is ENDS:
                    made = InceptionCell(ENDS, channels, width_divisor)
                    channels = made.c_out
                else:
                    width, *geometry = layer
                    width = narrowed(width, width_divisor)
                    made = ConvUnit(channels, width, *geometry)
                    channels = width
                branch.append(made)
            self.branches.append(branch)
            self.c_out += channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class InceptionV4(nn.Module):
    """The stem, 17 cells, mean over the pixels, a classifier.

    Input [B, 3, H, W] float32 with H, W ≥ 75; output [B, num_classes] logits. dropout stands before the classifier (the
    paper drops a fifth).
    """

    def __init__(self, num_classes: int, width_divisor: int, dropout: float):
        super().__init__()
        self.stem, channels = nn.Sequential(), 3
        for width, *geometry in STEM:
            width = narrowed(width, width_divisor)
            self.stem.append(ConvUnit(channels, width, *geometry))
            channels = width
        self.cells = nn.Sequential()
        for branches in CELLS:
            cell = InceptionCell(branches, channels, width_divisor)
            self.cells.append(cell)
            channels = cell.c_out
        self.classifier = nn.Linear(channels, num_classes)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = self.cells(self.stem(x))
        x = torch.flatten(functional.avg_pool2d(x, x.shape[-2:]), 1)
        if self.dropout:
            x = functional.dropout(x, self.dropout, self.training)
        return self.classifier(x)


def inceptionv4(num_classes: int = 1001, width_divisor: int = 1, dropout: float = 0.0) -> InceptionV4:
    return InceptionV4(num_classes, width_divisor, dropout)
