"""Random weights that leave as many zeros as trained ones: for a machine with neither network nor mirror.

Convolutions are He-normal (K. He et al., ICCV 2015, eq. 10: variance 2 / fan_in), batch norm has γ = 1, and the running
statistics are those of one pass over images. The zeros are set by β. Where a ReLU reads a standard normal z + β
directly, a share s of its output is zero for β = -Φ⁻¹(s). Pre-activations of real images are not quite normal, and some
ReLUs read a sum with a shortcut or feed a max pooling; so β is taken as minus the s-quantile of what the pass finds
there, which for a normal z is the same number.

A channel's share s_c is drawn around the layer's target with standard deviation .25 and clipped to [.02, .98]; the
centre is moved so that the clipped shares still average the target. Targets (target_sparsity.csv) are the input
sparsities of Keras' DenseNet-169 and -201 and ResNet-50 and -152 (``kind`` measured: on 32 photographs; bn_estimate:
Φ(-β/|γ|), where a weight was missing). ``borrowed`` rows repeat the nearest layer with the same part in the same stage:
of the same network, or at the same relative depth of the larger sibling (121 ← 169, 101 ← 152, 18 and 34 ← 50).
"""

import csv
import zlib
from functools import cache
from importlib import resources

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from frugal.models.errors import WeightsError
from frugal.models.trace import ConvSite, hooked, trace

SPREAD = 0.25
LOWEST, HIGHEST = 0.02, 0.98
CALIBRATION_IMAGES = 16
QUANTILE_SAMPLES = (
    2048  # pixels a channel's quantile is taken from: an error of .011 at most, averaged over the channels
)


def draw(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Draw one tensor of a state dict, float32, from a stream of its own (the order of drawing does not matter).

    Weights with two or more dimensions are He-normal; a vector named ``weight`` or ``running_var`` is 1, all others 0.
    """
    if len(shape) >= 2:
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        deviation = (2 / np.prod(shape[1:])) ** 0.5
        return torch.from_numpy(random.standard_normal(shape, np.float32) * np.float32(deviation))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    return torch.ones(shape) if name.endswith((".weight", ".running_var")) else torch.zeros(shape)


@cache
def _table() -> dict[str, dict[str, float]]:
    """Read target_sparsity.csv as {network: {convolution: share of zeros in its input}}."""
    table: dict[str, dict[str, float]] = {}
    with resources.files("frugal.models").joinpath("target_sparsity.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            table.setdefault(row["network"], {})[row["layer"]] = float(row["sparsity"])
    return table


def targets(network: str) -> dict[str, float]:
    """Give the share of zeros (0 to 1) to aim at in the input of each convolution of a network but its first.

    Raises WeightsError for a network without a table.
    """
    if network not in _table():
        raise WeightsError(
            f"there is no table of sparsities to make synthetic weights of {network}: "
            f"take one of {', '.join(_table())}, or give a weights file"
        )
    return _table()[network]


def channel_shares(target: float, channels: int, random: np.random.Generator) -> np.ndarray:
    """Draw the share of zeros of each channel: float64 [channels] in [.02, .98] that average the target."""
    spread = random.normal(0.0, SPREAD, channels)
    low, high = -2.0, 3.0
    for _ in range(50):  # bisection: the mean of the clipped shares grows with the centre
        centre = (low + high) / 2
        low, high = (centre, high) if np.clip(centre + spread, LOWEST, HIGHEST).mean() < target else (low, centre)
    return np.clip(centre + spread, LOWEST, HIGHEST)


def _shift(values: Tensor, shares: np.ndarray, random: np.random.Generator) -> Tensor:
    """Find what to add to each channel of [B, C, H, W] so that its share of values ≤ 0 is near shares[c]: float32 [C].

    Zero falls halfway between two values: where many are equal (what pooling a ReLU's zeros leaves) all of them end on
    one side, whichever is nearer to the share, and rounding cannot move them across.
    """
    flat = values.transpose(0, 1).flatten(1)
    if flat.shape[1] > QUANTILE_SAMPLES:
        flat = flat[:, torch.from_numpy(random.integers(0, flat.shape[1], QUANTILE_SAMPLES))]
    rows = flat.contiguous().sort(dim=1).values
    count = rows.shape[1]
    wanted = torch.from_numpy(np.clip(np.rint(shares * count), 1, count).astype(np.int64))[:, None]
    value = rows.gather(1, wanted - 1)
    below, through = torch.searchsorted(rows, value), torch.searchsorted(rows, value, right=True)
    zeros = torch.where(wanted - below < through - wanted, below, through)
    ends = torch.cat([rows[:, :1] - 1, rows, rows[:, -1:] + 1], 1)
    return -(ends.gather(1, zeros) + ends.gather(1, zeros + 1))[:, 0] / 2


@torch.no_grad()
def recalibrate(model: nn.Module, norms: list[str], images: Tensor, hooks: list | None = None) -> None:
    """Replace running mean and variance of these batch norms by those of one pass over images [B, 3, H, W].

    All other layers run as in inference; the model is left in evaluation mode.
    """
    model.eval()
    modules = [model.get_submodule(name) for name in norms]
    momenta = [module.momentum for module in modules]
    for module in modules:
        module.train()
        module.momentum = 1.0  # one batch: its statistics are the running ones
    try:
        with hooked(hooks or []):
            model(images)
    finally:
        for module, momentum in zip(modules, momenta, strict=True):
            module.eval()
            module.momentum = momentum
            module.num_batches_tracked.zero_()


def synthetic(model: nn.Module, goals: dict[str, float], images: Tensor, seed: int) -> nn.Module:
    """Fill a network, in place, with random weights whose convolution inputs have the given shares of zeros on images.

    goals: {convolution: share of zeros, 0 to 1}; images [B, 3, H, W] float32, preprocessed; the first 16 are used.
    Deterministic for one machine and thread count (sums of floats are taken in the order that its BLAS takes).
    """
    if not torch.isfinite(images).all():
        raise WeightsError("images for synthetic weights must be finite: convert them again with `frugal image-to-bin`")
    state = {name: draw(name, tuple(tensor.shape), seed) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    images = images[:CALIBRATION_IMAGES]
    readers: dict[int, ConvSite] = {}
    for site in trace(model, (1, *images.shape[1:])):
        if site.name in goals and site.relu_call is not None:
            readers.setdefault(site.relu_call, site)
    calls = 0

    def before_relu(module, args):
        nonlocal calls
        site, x = readers.get(calls), args[0]
        calls += 1
        if site is None:
            return None
        random = np.random.default_rng([seed, zlib.crc32(site.name.encode()), 1])
        seen = x if site.pooled is None else _pool(x, site.pooled)
        shift = _shift(seen, channel_shares(goals[site.name], x.shape[1], random), random)
        model.get_submodule(site.norm).bias += shift
        return (x + shift[:, None, None],)

    handles = [m.register_forward_pre_hook(before_relu) for m in model.modules() if isinstance(m, nn.ReLU)]
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    recalibrate(model, norms, images, handles)
    return model


def _pool(x: Tensor, pool: nn.MaxPool2d) -> Tensor:
    """Pool before the ReLU: the order does not matter, since both keep order and a constant added to a channel."""
    return functional.max_pool2d(x, pool.kernel_size, pool.stride, pool.padding)
