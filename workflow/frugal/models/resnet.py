"""Residual networks for 224 × 224 images, in the two definitions whose weights are published; and for 32 × 32 ones.

* ``torchvision_v1.5``: the stride of a stage stands on its first 3×3 convolution, convolutions have no bias, batch norm
  has eps 1e-5. Parameter names and shapes are torchvision's, so that its files load unchanged.
* ``keras_v1``: as in the paper (K. He et al., CVPR 2016, table 1) and in Keras' applications: the stride stands on the
  first 1×1 convolution of a stage, every convolution has a bias, batch norm has eps 1.001e-5. Parameter names are
  torchvision's here too (frugal.models.keras translates).

``resnet32`` and ``resnet1202`` are the paper's networks for CIFAR-10 (section 4.2) as DTR trains them: a shortcut takes
every second pixel and fills the new channels with zeros (option A), so that it has no parameters.

With a ``width_divisor`` d every width is max(2, width // d): the same graph, narrower.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from frugal.models.widths import narrowed

BATCH_NORM_EPS = {"torchvision_v1.5": 1e-5, "keras_v1": 1.001e-5}
STAGE_WIDTHS = (64, 128, 256, 512)
CIFAR_WIDTHS = (16, 32, 64)


def conv(c_in: int, c_out: int, kernel: int, stride: int, definition: str) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1; with a bias in Keras' definition alone."""
    return nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=definition == "keras_v1")


def batch_norm(channels: int, definition: str) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS[definition])


def projection(c_in: int, c_out: int, stride: int, definition: str) -> nn.Sequential | None:
    """The 1×1 convolution of a shortcut whose block changes the size or the number of channels; else None."""
    if stride == 1 and c_in == c_out:
        return None
    return nn.Sequential(conv(c_in, c_out, 1, stride, definition), batch_norm(c_out, definition))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: [B, c_in, H, W] → [B, width, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int, definition: str):
        super().__init__()
        self.conv1 = conv(c_in, width, 3, stride, definition)
        self.bn1 = batch_norm(width, definition)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(width, width, 3, 1, definition)
        self.bn2 = batch_norm(width, definition)
        self.downsample = projection(c_in, width, stride, definition)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + shortcut)


class Bottleneck(nn.Module):
    """1×1 down, 3×3, 1×1 up to four widths, and a shortcut: [B, c_in, H, W] → [B, 4·width, H/stride, W/stride]."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int, definition: str):
        super().__init__()
        first, middle = (stride, 1) if definition == "keras_v1" else (1, stride)
        c_out = width * self.expansion
        if definition == "keras_v1":  # Keras numbers a block's shortcut first, torchvision last; layer indices follow
            self.downsample = projection(c_in, c_out, stride, definition)
        self.conv1 = conv(c_in, width, 1, first, definition)
        self.bn1 = batch_norm(width, definition)
        self.conv2 = conv(width, width, 3, middle, definition)
        self.bn2 = batch_norm(width, definition)
        self.conv3 = conv(width, c_out, 1, 1, definition)
        self.bn3 = batch_norm(c_out, definition)
        self.relu = nn.ReLU(inplace=True)
        if definition == "torchvision_v1.5":
            self.downsample = projection(c_in, c_out, stride, definition)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + shortcut)


class ResNet(nn.Module):
    """A 7×7 stem, four stages of residual blocks, mean over the pixels, a classifier.

    Input [B, 3, H, W] float32, normalised as its weights ask (WeightsInfo.preprocess); output [B, num_classes] logits.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        definition: str,
        num_classes: int,
        width_divisor: int = 1,
    ):
        super().__init__()
        widths = [narrowed(width, width_divisor) for width in STAGE_WIDTHS]
        self.conv1 = conv(3, widths[0], 7, 2, definition)
        self.bn1 = batch_norm(widths[0], definition)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        c_in, stages = widths[0], []
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(c_in, width, stride, definition))
                c_in = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(c_in, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """The last feature map, after its ReLU: [B, 3, H, W] → [B, C, H/32, W/32]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.avgpool(self.features(x)), 1))


def resnet18(definition: str = "torchvision_v1.5", num_classes: int = 1000, width_divisor: int = 1) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), definition, num_classes, width_divisor)


def resnet34(definition: str = "torchvision_v1.5", num_classes: int = 1000, width_divisor: int = 1) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), definition, num_classes, width_divisor)


def resnet50(definition: str = "torchvision_v1.5", num_classes: int = 1000, width_divisor: int = 1) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), definition, num_classes, width_divisor)


def resnet101(definition: str = "torchvision_v1.5", num_classes: int = 1000, width_divisor: int = 1) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 23, 3), definition, num_classes, width_divisor)


def resnet152(definition: str = "torchvision_v1.5", num_classes: int = 1000, width_divisor: int = 1) -> ResNet:
    return ResNet(Bottleneck, (3, 8, 36, 3), definition, num_classes, width_divisor)


class CifarBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without parameters: [B, c_in, H, W] → [B, width, H/stride, W/stride].

    dropout stands between the convolutions (S. Zagoruyko and N. Komodakis, BMVC 2016, section 2.4).
    """

    def __init__(self, c_in: int, width: int, stride: int, dropout: float):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.changes = stride > 1 or c_in != width
        self.before = (width - c_in) // 2  # channels of zeros on the two sides
        self.after = width - c_in - self.before
        self.stride, self.dropout = stride, dropout

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        if self.dropout:
            y = functional.dropout(y, self.dropout, self.training)
        y = self.bn2(self.conv2(y))
        if self.changes:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))
        return functional.relu(y + x)


class CifarResNet(nn.Module):
    """A 3×3 stem, three stages of `depth` blocks, mean over the pixels, a classifier: 6·depth + 2 layers.

    Input [B, 3, H, W] float32; output [B, num_classes] logits. Weights are drawn as K. He et al. (ICCV 2015) say.
    """

    def __init__(self, depth: int, num_classes: int, width_divisor: int, dropout: float):
        super().__init__()
        widths = [narrowed(width, width_divisor) for width in CIFAR_WIDTHS]
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        c_in, stages = widths[0], []
        for stage, width in enumerate(widths):
            blocks = []
            for index in range(depth):
                blocks.append(CifarBlock(c_in, width, 2 if stage > 0 and index == 0 else 1, dropout))
                c_in = width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(c_in, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(functional.avg_pool2d(x, x.shape[-2:]), 1))


def resnet32(num_classes: int = 10, width_divisor: int = 1, dropout: float = 0.0) -> CifarResNet:
    return CifarResNet(5, num_classes, width_divisor, dropout)


def resnet1202(num_classes: int = 10, width_divisor: int = 1, dropout: float = 0.0) -> CifarResNet:
    return CifarResNet(200, num_classes, width_divisor, dropout)
