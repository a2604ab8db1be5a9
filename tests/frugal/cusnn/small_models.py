"""Networks of frugal.models whose batch norms do something, and images small enough to be quick."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor, nn

from frugal.models import build


@functools.cache
def model(name: str, definition: str = "torchvision_v1.5") -> nn.Module:
    """In evaluation mode, random, float32. Shared between tests: not to be changed."""
    torch.manual_seed(len(name))
    made = build(name, definition, num_classes=50).eval().requires_grad_(False)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            # γ of either sign and shifts above 0: a norm before the padding would differ from one behind it
            nn.init.normal_(module.weight, mean=0.8, std=0.4)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return made


def images(count: int, height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def right(name: str, definition: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """(last feature map after its ReLU, logits) in float64."""
    wide = copy.deepcopy(model(name, definition)).to(x.device, torch.float64)
    features = wide.features(x.double())
    return features.relu() if name.startswith("densenet") else features, wide(x.double())


def distance(got: Tensor, want: Tensor) -> float:
    """Relative L2."""
    return ((got.double() - want).norm() / want.norm()).item()
