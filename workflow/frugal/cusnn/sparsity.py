"""How many zeros reach each convolution, and how they lie.

Sparsity is the share of exact zeros among the elements of a convolution's input [B, C, H, W], padding not counted. From
batch norm alone, where a ReLU reads its output: a channel with scale γ and shift β is γ·z + β with z nearly standard
normal, so P(γ·z + β ≤ 0) = Φ(-β/|γ|), averaged over the channels.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frugal.errors import FrugalError
from frugal.models.trace import ConvSite, hooked, trace

BATCH = 2  # images in one pass while counting: little memory, and faster than 8 (fresh pages); changes no count
GROUPS = (8, 16, 32)


class SparsityError(FrugalError, ValueError):
    """Images or layers that cannot be measured."""


@dataclass(frozen=True, kw_only=True)
class ConvLayer:
    """A convolution's shape; index counts the network's convolutions from 0, in the order of its definition."""

    index: int
    name: str
    C: int
    H: int
    W: int
    N: int
    k: int
    stride: int
    pad: int
    macs: int
    """Multiply-accumulates for one image, padding counted as dense code does: N·C·k²·H_out·W_out."""


@dataclass(frozen=True, kw_only=True)
class LayerSparsity:
    """Zeros in one convolution's input. All shares are 0 to 1, means over the images unless said."""

    layer: ConvLayer
    images: int
    mean: float
    std: float
    """Standard deviation over the images of the share in one image (n in the denominator)."""
    min: float
    max: float
    zero_channels: float
    """Share of channels that are zero in every pixel of an image."""
    dead_channels: int
    """Channels that are zero in every pixel of every image."""
    zero_pixels: float
    """Share of pixels that are zero in every channel."""
    zero_groups: dict[int, float | None]
    """Group size (8, 16, 32) → share of aligned channel groups at a pixel that are all zero; null if C has a rest."""
    macs_kept: float
    """Share of multiply-accumulates that meet a non-zero element; those on padding are counted on neither side."""
    estimate: float | None
    """`estimate_sparsity` of the batch norm whose ReLU makes this input; null after a sum or a pooling."""


def conv_layers(model: nn.Module, input_shape: tuple[int, int, int, int] = (1, 3, 224, 224)) -> list[ConvLayer]:
    """List a network's convolutions for inputs [B, C, H, W]; on ``meta`` this costs no arithmetic."""
    return [_layer(index, site) for index, site in enumerate(trace(model, input_shape))]


def estimate_sparsity(gamma: Tensor, beta: Tensor) -> float:
    """Mean over the channels of Φ(-β/|γ|), from batch norm's scale and shift [C]; γ = 0 counts 1 if β ≤ 0, else 0."""
    gamma, beta = gamma.detach().double().abs(), beta.detach().double()
    # -β/0 would be NaN for β = 0, which ReLU maps to zero
    ratio = torch.where(beta == 0, torch.where(gamma == 0, torch.inf, 0.0), -beta / gamma)
    return torch.special.ndtr(ratio).mean().item()


@torch.inference_mode()
def measure(model: nn.Module, images: Tensor) -> list[LayerSparsity]:
    """Count the zeros in the input of each convolution on images [B, 3, H, W] float32, preprocessed as the weights ask.

    The model must be in evaluation mode (batch norm's running statistics); raises SparsityError otherwise.
    """
    _check(model, images)
    sites = trace(model, (1, *images.shape[1:]))
    counts = {site.name: _Counts(site) for site in sites}
    handles = [
        site.conv.register_forward_pre_hook(lambda module, args, c=counts[site.name]: c.add(args[0])) for site in sites
    ]
    with hooked(handles):
        for start in range(0, len(images), BATCH):
            model(images[start : start + BATCH])
    return [counts[site.name].result(index, model) for index, site in enumerate(sites)]


@torch.inference_mode()
def layer_inputs(model: nn.Module, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
    """Copy the inputs of the named convolutions on images [B, 3, H, W]: {name: [B, C, H, W] float32, contiguous}."""
    _check(model, images)
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    names = list(layers)
    if unknown := [name for name in names if name not in convolutions]:
        raise SparsityError(
            f"layer {unknown[0]!r} is no convolution of the network: take one of {', '.join(list(convolutions)[:4])}, …"
        )
    parts: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name):
        # a copy: the network may overwrite the tensor in place later in the pass
        return lambda module, args: parts[name].append(args[0].clone(memory_format=torch.contiguous_format))

    with hooked([convolutions[name].register_forward_pre_hook(keep(name)) for name in names]):
        for start in range(0, len(images), BATCH):
            model(images[start : start + BATCH])
    return {name: torch.cat(parts[name]) for name in names}


def origins(layers: Sequence[ConvLayer], drawn: Collection[str], everything_random: bool) -> dict[str, str]:
    """{name: `trained` or `random`} of a network's convolutions, given the tensors that its published file lacks.

    From the first convolution whose weights were drawn, all are `random`: what reaches the later ones is made by it.
    """
    found, random = {}, everything_random
    for layer in layers:
        random = random or f"{layer.name}.weight" in drawn
        found[layer.name] = "random" if random else "trained"
    return found


class _Counts:
    """Zero counts of one layer, gathered over the batches."""

    def __init__(self, site: ConvSite):
        self.site = site
        self.uses = _uses(site)
        self.shares, self.zero_channels, self.zero_pixels, self.kept = [], [], [], []
        self.zero_groups = {size: [] for size in GROUPS if site.conv.in_channels % size == 0}
        self.alive = False

    def add(self, x: Tensor) -> None:
        # Counts as float32, which adds faster than bool and is exact below 2²⁴: far above C and H·W.
        nonzero = (x != 0).to(torch.float32)
        channels = nonzero.flatten(2).sum(2)  # non-zero pixels of each channel [B, C]
        pixels = nonzero.sum(1)  # non-zero channels at each pixel [B, H, W]
        self.alive = self.alive | (channels > 0).any(0)
        self.shares.append(1 - channels.double().sum(1) / x[0].numel())
        self.zero_channels.append((channels == 0).double().mean(1))
        self.zero_pixels.append((pixels == 0).flatten(1).double().mean(1))
        self.kept.append((pixels * self.uses.double()).flatten(1).sum(1) / (x.shape[1] * self.uses.sum()))
        for size, shares in self.zero_groups.items():
            groups = nonzero.unflatten(1, (-1, size)).sum(2)
            shares.append((groups == 0).flatten(1).double().mean(1))

    def result(self, index: int, model: nn.Module) -> LayerSparsity:
        shares = torch.cat(self.shares)
        norm = model.get_submodule(self.site.norm) if self.site.direct else None
        return LayerSparsity(
            layer=_layer(index, self.site),
            images=len(shares),
            mean=shares.mean().item(),
            std=shares.std(correction=0).item(),
            min=shares.min().item(),
            max=shares.max().item(),
            zero_channels=torch.cat(self.zero_channels).mean().item(),
            dead_channels=int((~self.alive).sum()),
            zero_pixels=torch.cat(self.zero_pixels).mean().item(),
            zero_groups={
                size: torch.cat(self.zero_groups[size]).mean().item() if size in self.zero_groups else None
                for size in GROUPS
            },
            macs_kept=torch.cat(self.kept).mean().item(),
            estimate=None if norm is None else estimate_sparsity(norm.weight, norm.bias),
        )


def _layer(index: int, site: ConvSite) -> ConvLayer:
    conv, (_, c, h, w), (_, n, h_out, w_out) = site.conv, site.input_shape, site.output_shape
    return ConvLayer(
        index=index,
        name=site.name,
        C=c,
        H=h,
        W=w,
        N=n,
        k=conv.kernel_size[0],
        stride=conv.stride[0],
        pad=conv.padding[0],
        macs=n * conv.weight[0].numel() * h_out * w_out,
    )


def _uses(site: ConvSite) -> Tensor:
    """Count, for each input pixel, the (output pixel, tap) pairs that read it: int64 [H, W]."""
    conv, ones = site.conv, []
    for axis in (0, 1):
        size, outputs = site.input_shape[2 + axis], site.output_shape[2 + axis]
        taps = torch.arange(conv.kernel_size[axis]) * conv.dilation[axis] - conv.padding[axis]
        read = (torch.arange(outputs)[:, None] * conv.stride[axis] + taps).flatten()
        ones.append(torch.bincount(read[(read >= 0) & (read < size)], minlength=size))
    return torch.outer(*ones).to(conv.weight.device)


def _check(model: nn.Module, images: Tensor) -> None:
    if images.ndim != 4 or len(images) == 0:
        raise SparsityError(f"images have shape {list(images.shape)}: [B, 3, H, W] with B >= 1 is needed")
    if model.training:
        raise SparsityError(
            "the network is in training mode, where batch norm follows the batch: call model.eval() first"
        )
