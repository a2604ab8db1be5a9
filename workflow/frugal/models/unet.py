"""U-Nets (O. Ronneberger et al., MICCAI 2015): a contracting path, an expanding one, and copies between them.

Both pad with zeros, so that the output has the input's size.

* ``unet_small`` (SFT's): three halvings from 16 channels on, no batch norm, transposed convolutions on the way up.
* ``unet`` (DTR's): four halvings from 64 channels on, batch norm, bilinear interpolation on the way up.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from frugal.models.widths import narrowed

WIDTHS = (16, 32, 64, 128)  # of unet_small's levels, the coarsest last
BILINEAR_WIDTHS = (64, 128, 256, 512, 512)  # of unet's


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


class NormedConv(nn.Sequential):
    """Twice a 3×3 convolution, batch norm and ReLU: [B, c_in, H, W] → [B, c_out, H, W]."""

    def __init__(self, c_in: int, between: int, c_out: int):
        super().__init__(
            nn.Conv2d(c_in, between, 3, padding=1),
            nn.BatchNorm2d(between),
            nn.ReLU(inplace=True),
            nn.Conv2d(between, c_out, 3, padding=1),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        )


class BilinearUNet(nn.Module):
    """[B, 3, H, W] float32 → [B, num_classes, H, W] logits.

    On the way up a map is interpolated to the size of the copy that it meets: twice its own where H and W are multiples
    of 16. dropout stands at the end of the contracting path (section 3.1).
    """

    def __init__(self, widths: tuple[int, ...], num_classes: int, dropout: float):
        super().__init__()
        self.down = nn.ModuleList(
            NormedConv(c_in, c_out, c_out) for c_in, c_out in zip((3, *widths), widths, strict=False)
        )
        self.up, c_in = nn.ModuleList(), widths[-1]
        outputs = (*reversed(widths[:-2]), widths[0])
        for copied, c_out in zip(reversed(widths[:-1]), outputs, strict=True):
            both = copied + c_in
            self.up.append(NormedConv(both, both // 2, c_out))
            c_in = c_out
        self.classes = nn.Conv2d(c_in, num_classes, 1)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        copies = []
        for block in self.down:
            x = block(functional.max_pool2d(x, 2) if copies else x)
            copies.append(x)
        copies.pop()
        if self.dropout:
            x = functional.dropout(x, self.dropout, self.training)
        for block in self.up:
            copy = copies.pop()
            x = functional.interpolate(x, size=copy.shape[-2:], mode="bilinear", align_corners=True)
            x = block(torch.cat([copy, x], 1))
        return self.classes(x)


def unet(num_classes: int = 1, width_divisor: int = 1, dropout: float = 0.0) -> BilinearUNet:
    """DTR's U-Net; channels max(2, c // width_divisor)."""
    return BilinearUNet(tuple(narrowed(width, width_divisor) for width in BILINEAR_WIDTHS), num_classes, dropout)
