"""DTR's networks at sizes that a test can pay for, with dropout, and a training step of each."""

from functools import partial

import torch
import torch.nn.functional as F

from frugal.models import NETWORKS as IMAGES
from frugal.models.gan import unrolled_gan
from frugal.models.recurrent import fused_gru, gru, lstm, treelstm
from frugal.models.transformer import transformer


def of_images(name, batch, height, width, width_divisor=1):
    options = {} if name.startswith("densenet") else {"width_divisor": width_divisor}
    if name != "densenet121":  # which has none
        options["dropout"] = 0.5
    model, images = IMAGES[name](**options), torch.randn(batch, 3, height, width)
    if name == "unet":
        mask = torch.randint(0, 2, (batch, 1, height, width)).float()
        return model, (images,), partial(F.binary_cross_entropy_with_logits, target=mask)
    loss = F.nll_loss if name == "densenet100" else F.cross_entropy
    return model, (images,), partial(loss, target=torch.randint(0, 10, (batch,)))


def of_loops(kind, in_dim, mem_dim, rows, steps):
    model = kind(in_dim, mem_dim, **({} if kind is fused_gru else {"dropout": 0.5}))
    return model, ([torch.randn(rows, in_dim) for _ in range(steps)],), torch.sum


def of_trees(depth):
    return treelstm(10, 16, dropout=0.5), ([torch.zeros(20, 10) for _ in range(2 ** (depth + 1) - 1)],), torch.sum


def of_translations():
    model = transformer(32, 4, 2, 2, 64, dropout=0.5)
    ones = torch.ones(6, 32, dtype=torch.int64)  # the class of each; the batch is read as the classes
    return model, (torch.randn(8, 3, 32), torch.randn(6, 3, 32)), partial(F.nll_loss, target=ones)


def of_points():
    model = unrolled_gan(16, 8, 3, dropout=0.5)
    return model, (torch.randn(32, 8), torch.randn(32, 2)), partial(F.binary_cross_entropy, target=torch.ones(32, 1))


NETWORKS = {
    "resnet32": partial(of_images, "resnet32", 4, 16, 16, 2),
    "resnet1202": partial(of_images, "resnet1202", 2, 8, 8, 8),
    "densenet100": partial(of_images, "densenet100", 2, 8, 8),
    "densenet121": partial(of_images, "densenet121", 4, 64, 64),
    "unet": partial(of_images, "unet", 1, 32, 48, 16),
    "inceptionv4": partial(of_images, "inceptionv4", 2, 107, 107, 16),
    "lstm": partial(of_loops, lstm, 8, 16, 4, 12),
    "gru": partial(of_loops, gru, 8, 16, 16, 12),
    "fused_gru": partial(of_loops, fused_gru, 8, 16, 16, 12),
    "treelstm": partial(of_trees, 4),
    "transformer": of_translations,
    "unrolled_gan": of_points,
}


def made(name, seed=0, device="cpu"):
    """(model, inputs, loss of the output), drawn from a seed on the CPU."""
    torch.manual_seed(seed)
    model, inputs, loss = NETWORKS[name]()
    if isinstance(loss, partial):
        loss = partial(loss.func, target=loss.keywords["target"].to(device))
    moved = [[part.to(device) for part in value] if isinstance(value, list) else value.to(device) for value in inputs]
    return model.to(device), tuple(moved), loss
