"""Densely connected networks for 224 × 224 images (G. Huang et al., CVPR 2017, table 1; BC form, growth 32).

Keras' and torchvision's graphs are the same and no convolution has a bias; the definitions differ in batch norm's eps
alone (``torchvision_v1.5`` 1e-5, ``keras_v1`` 1.001e-5). Parameter names and shapes are torchvision's.

``densenet100`` is the paper's DenseNet-BC with growth 12 for 32 × 32 images (section 4.2, table 2), as DTR trains it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from frugal.models.resnet import BATCH_NORM_EPS

GROWTH = 32
BOTTLENECK = 4  # channels between the 1×1 and the 3×3 convolution of a layer, in growths
STEM = 64
CIFAR_GROWTH = 12


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 1×1, batch norm, ReLU, 3×3: [B, c_in, H, W] → the new channels [B, growth, H, W].

    dropout: of the new channels (section 4.2).
    """

    def __init__(self, c_in: int, eps: float, growth: int = GROWTH, dropout: float = 0.0):
        super().__init__()
        between = BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(c_in, eps=eps)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(c_in, between, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(between, eps=eps)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(between, growth, 3, padding=1, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.relu1(self.norm1(x)))
        x = self.conv2(self.relu2(self.norm2(x)))
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x


class DenseBlock(nn.Module):
    """Layers that each read all channels before them: [B, c_in, H, W] → [B, c_in + growth·depth, H, W]."""

    def __init__(self, depth: int, c_in: int, eps: float, growth: int = GROWTH, dropout: float = 0.0):
        super().__init__()
        for index in range(depth):
            self.add_module(f"denselayer{index + 1}", DenseLayer(c_in + index * growth, eps, growth, dropout))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.children():
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


class Transition(nn.Module):
    """Halves the channels and the size: [B, c_in, H, W] → [B, c_in/2, H/2, W/2]."""

    def __init__(self, c_in: int, eps: float):
        super().__init__()
        self.norm = nn.BatchNorm2d(c_in, eps=eps)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(c_in, c_in // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(self.relu(self.norm(x))))


class DenseNet(nn.Module):
    """A 7×7 stem, four dense blocks with transitions between them, mean over the pixels, a classifier.

    Input [B, 3, H, W] float32, normalised as its weights ask (WeightsInfo.preprocess); output [B, num_classes] logits.
    """

    def __init__(self, depths: tuple[int, ...], definition: str, num_classes: int):
        super().__init__()
        eps = BATCH_NORM_EPS[definition]
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, STEM, 7, stride=2, padding=3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(STEM, eps=eps))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
        channels = STEM
        for stage, depth in enumerate(depths, start=1):
            self.features.add_module(f"denseblock{stage}", DenseBlock(depth, channels, eps))
            channels += depth * GROWTH
            if stage < len(depths):
                self.features.add_module(f"transition{stage}", Transition(channels, eps))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels, eps=eps))
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = functional.relu(self.features(x), inplace=True)
        return self.classifier(torch.flatten(functional.adaptive_avg_pool2d(features, (1, 1)), 1))


def densenet121(definition: str = "torchvision_v1.5", num_classes: int = 1000) -> DenseNet:
    return DenseNet((6, 12, 24, 16), definition, num_classes)


def densenet169(definition: str = "torchvision_v1.5", num_classes: int = 1000) -> DenseNet:
    return DenseNet((6, 12, 32, 32), definition, num_classes)


def densenet201(definition: str = "torchvision_v1.5", num_classes: int = 1000) -> DenseNet:
    return DenseNet((6, 12, 48, 32), definition, num_classes)


class CifarDenseNet(nn.Module):
    """A 3×3 stem, three dense blocks of 16 layers with transitions between them, mean over the pixels, a classifier.

    Input [B, 3, H, W] float32; output [B, num_classes] logarithms of probabilities.
    """

    def __init__(self, num_classes: int, dropout: float):
        super().__init__()
        eps, channels = BATCH_NORM_EPS["torchvision_v1.5"], 2 * CIFAR_GROWTH
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, channels, 3, padding=1, bias=False))
        for stage in (1, 2, 3):
            self.features.add_module(f"denseblock{stage}", DenseBlock(16, channels, eps, CIFAR_GROWTH, dropout))
            channels += 16 * CIFAR_GROWTH
            if stage < 3:
                self.features.add_module(f"transition{stage}", Transition(channels, eps))
                channels //= 2
        self.features.add_module("norm", nn.BatchNorm2d(channels, eps=eps))
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = functional.relu(self.features(x), inplace=True)
        pooled = functional.avg_pool2d(features, features.shape[-2:])
        return functional.log_softmax(self.classifier(torch.flatten(pooled, 1)), 1)


def densenet100(num_classes: int = 10, dropout: float = 0.0) -> CifarDenseNet:
    return CifarDenseNet(num_classes, dropout)
