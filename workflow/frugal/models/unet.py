"""U-Nets (O. Ronneberger et al., MICCAI 2015): a contracting path, an expanding one, and copies between them.

``unet_small``: three halvings from 16 channels on, no batch norm, and zero padding, so that the output has the input's
size.
"""

import torch
from torch import Tensor, nn

from frugal.models.widths import narrowed

WIDTHS = (16, 32, 64, 128)  # of the levels, the coarsest last


def double_conv(c_in: int, c_out: int) -> nn.Sequential:
    """Twice a 3×3 convolution and ReLU: [B, c_in, H, W] → [B, c_out, H, W]."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(c_out, c_out, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """[B, 3, H, W] float32 with H, W ≥ 2^(levels − 1) → [B, num_classes, H, W] logits.

    A side that is odd is halved downwards; on the way up the transposed convolution is told the size of the copy that
    it meets (``output_size``), so that no size has to be a multiple of anything.
    """

    def __init__(self, widths: tuple[int, ...], num_classes: int):
        super().__init__()
        self.down = nn.ModuleList()
        c_in = 3
        for width in widths[:-1]:
            self.down.append(double_conv(c_in, width))
            c_in = width
        self.pool = nn.MaxPool2d(2)
        self.bottom = double_conv(c_in, widths[-1])
        self.widen, self.up = nn.ModuleList(), nn.ModuleList()
        c_in = widths[-1]
        for width in reversed(widths[:-1]):
            self.widen.append(nn.ConvTranspose2d(c_in, width, 2, stride=2))
            self.up.append(double_conv(2 * width, width))
            c_in = width
        self.classes = nn.Conv2d(c_in, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        copies = []
        for block in self.down:
            x = block(x)
            copies.append(x)
            x = self.pool(x)
        x = self.bottom(x)
        for widen, block in zip(self.widen, self.up, strict=True):
            copy = copies.pop()
            x = block(torch.cat([copy, widen(x, output_size=copy.shape[-2:])], 1))
        return self.classes(x)


def unet_small(num_classes: int = 2, width_divisor: int = 1) -> UNet:
    """SFT's U-Net; channels max(2, c // width_divisor)."""
    return UNet(tuple(narrowed(width, width_divisor) for width in WIDTHS), num_classes)
