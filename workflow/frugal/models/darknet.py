"""Darknet-19 (J. Redmon and A. Farhadi, CVPR 2017, table 6): as published with SFT, and as it really is.

* ``darknet19``: SFT's (public artifact of CC 2022, HPCRL/SFT-CC2022-AE) has neither activation nor batch norm nor bias:
  a linear network, which costs 55,624 multiply-adds a pixel.
* ``darknet19_bn``: batch norm and leaky ReLU of slope 0.1 after each convolution but the last, which has a bias (the
  authors' darknet19.cfg).

The classes are the channels of the last convolution; a mean over all positions and a softmax follow. As in
`frugal.models.vgg` the modules stand in one flat nn.Sequential.
"""

from collections import OrderedDict

from torch import nn

from frugal.models.widths import narrowed

# Stages of (channels, kernel) with a 2×2 maximum between them; the last convolution, 1×1 to the classes, is not in it.
STAGES = (
    ((32, 3),),
    ((64, 3),),
    ((128, 3), (64, 1), (128, 3)),
    ((256, 3), (128, 1), (256, 3)),
    ((512, 3), (256, 1), (512, 3), (256, 1), (512, 3)),
    ((1024, 3), (512, 1), (1024, 3), (512, 1), (1024, 3)),
)


def darknet19(num_classes: int = 1000, width_divisor: int = 1) -> nn.Sequential:
    """[B, 3, H, W] float32 with H, W ≥ 32 → [B, num_classes] probabilities; channels max(2, c // width_divisor)."""
    return _darknet(num_classes, width_divisor, batch_norm=False)


def darknet19_bn(num_classes: int = 1000, width_divisor: int = 1) -> nn.Sequential:
    """darknet19 with batch norm and leaky ReLU."""
    return _darknet(num_classes, width_divisor, batch_norm=True)


def _darknet(num_classes: int, width_divisor: int, batch_norm: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    c_in, place = 3, 0
    for stage, convolutions in enumerate(STAGES):
        if stage > 0:
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
        for width, kernel in convolutions:
            place += 1
            c_out = narrowed(width, width_divisor)
            layers[f"conv{place}"] = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
            if batch_norm:
                layers[f"bn{place}"] = nn.BatchNorm2d(c_out)
                layers[f"relu{place}"] = nn.LeakyReLU(0.1, inplace=True)
            c_in = c_out
    layers[f"conv{place + 1}"] = nn.Conv2d(c_in, num_classes, 1, bias=batch_norm)
    layers["mean"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["softmax"] = nn.Softmax(dim=1)
    return nn.Sequential(layers)
