"""VGG networks (K. Simonyan and A. Zisserman, ICLR 2015, table 1, column D) as SFT's published experiments have them.

Definition ``sft`` (public artifact of CC 2022, HPCRL/SFT-CC2022-AE): convolutions without bias, and instead of the
three classifier layers a mean over all positions, one linear layer without bias and a softmax, so that any image of at
least 32 × 32 pixels will do. The convolutions cost 305,856 multiply-adds a pixel.

The modules stand in one flat nn.Sequential: its children are what torch.utils.checkpoint_sequential cuts between, and
names such as ``pool2`` are what plans name.
"""

from collections import OrderedDict

from torch import nn

from frugal.models.widths import narrowed

# (channels, convolutions) of the five blocks, each of which ends in a 2×2 maximum.
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def vgg16(num_classes: int = 1024, width_divisor: int = 1) -> nn.Sequential:
    """[B, 3, H, W] float32 with H, W ≥ 32 → [B, num_classes] probabilities; channels max(2, c // width_divisor)."""
    return _vgg(num_classes, width_divisor, batch_norm=False)


def vgg16_bn(num_classes: int = 1024, width_divisor: int = 1) -> nn.Sequential:
    """vgg16 with a batch norm after each convolution."""
    return _vgg(num_classes, width_divisor, batch_norm=True)


def _vgg(num_classes: int, width_divisor: int, batch_norm: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    c_in = 3
    for block, (width, depth) in enumerate(BLOCKS, start=1):
        c_out = narrowed(width, width_divisor)
        for place in range(1, depth + 1):
            layers[f"conv{block}_{place}"] = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
            if batch_norm:
                layers[f"bn{block}_{place}"] = nn.BatchNorm2d(c_out)
            layers[f"relu{block}_{place}"] = nn.ReLU(inplace=True)
            c_in = c_out
        layers[f"pool{block}"] = nn.MaxPool2d(2)
    layers["mean"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(c_in, num_classes, bias=False)
    layers["softmax"] = nn.Softmax(dim=1)
    return nn.Sequential(layers)
