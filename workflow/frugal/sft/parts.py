"""What a network is made of, for torch.utils.checkpoint: the parts of a chain, and blocks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from frugal.models.resnet import ResNet
from frugal.models.unet import UNet
from frugal.sft.errors import SftError


def chained(model: nn.Module) -> list[Callable[[Tensor], Tensor]]:
    """The parts of a chain, between any two of which it may be cut.

    A module that works in place stays with the one before it: at the head of a segment it would overwrite the input
    that the segment is recomputed from. Raises SftError for a network that is no chain.
    """
    if isinstance(model, ResNet):
        stages = (model.layer1, model.layer2, model.layer3, model.layer4)
        blocks = [block for stage in stages for block in stage]
        modules = [model.conv1, model.bn1, model.relu, model.maxpool, *blocks, model.avgpool, nn.Flatten(), model.fc]
    elif isinstance(model, nn.Sequential):
        modules = list(model)
    else:
        raise SftError(f"method checkpoint: {type(model).__name__} is no chain of modules: take checkpoint_blocks")
    parts: list[list[nn.Module]] = []
    for module in modules:
        if parts and getattr(module, "inplace", False):
            parts[-1].append(module)
        else:
            parts.append([module])
    return [nn.Sequential(*part) for part in parts]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a residual network or of a U-Net. Raises SftError for a network without blocks."""
    if isinstance(model, ResNet):
        return [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    if isinstance(model, UNet):
        return [*model.down, model.bottom, *model.up]
    raise SftError(f"method checkpoint_blocks: {type(model).__name__} has no blocks: take checkpoint")
