"""Which ReLU makes the input of which convolution: seen in one forward pass, whatever the network is."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class ConvSite:
    """A convolution and what stands before it."""

    name: str
    conv: nn.Conv2d
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    relu_call: int | None
    """The last call of a ReLU before it, counted from 0 in the order of the pass; null before the first."""
    norm: str | None
    """The batch norm called last before that ReLU: what is added to its output is added to the ReLU's input."""
    direct: bool
    """Whether nothing stands between that batch norm, the ReLU and the convolution (no sum, no pooling)."""
    pooled: nn.MaxPool2d | None
    """The max pooling between the ReLU and the convolution, if any."""
    norm_after: str | None
    """The batch norm that reads the convolution's output itself."""


@contextmanager
def hooked(handles: list):
    """Remove the hooks at the end, whatever happens between."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def trace(model: nn.Module, input_shape: tuple[int, int, int, int] = (1, 3, 224, 224)) -> list[ConvSite]:
    """Run the model once on zeros [B, C, H, W] (on its own device, ``meta`` included) and list its convolutions.

    The order is that of ``model.named_modules()``. The model's mode and state are left as they were.
    """
    norm_output = relu_output = conv_output = norm_name = conv_name = pool = relu_norm = None
    calls, direct, sites, norms_after, handles = 0, False, {}, {}, []

    def after_norm(name):
        def hook(module, args, output):
            nonlocal norm_output, norm_name
            norm_output, norm_name = output, name
            if args[0] is conv_output:
                norms_after[conv_name] = name

        return hook

    def before_relu(module, args):
        nonlocal direct, relu_norm
        direct, relu_norm = args[0] is norm_output, norm_name

    def after_relu(module, args, output):
        nonlocal relu_output, calls, pool
        relu_output, calls, pool = output, calls + 1, None

    def after_pool(module, args, output):
        nonlocal pool
        pool = module

    def after_conv(name):
        def hook(module, args, output):
            nonlocal conv_output, conv_name
            conv_output, conv_name = output, name
            sites[name] = {
                "conv": module,
                "input_shape": tuple(args[0].shape),
                "output_shape": tuple(output.shape),
                "relu_call": calls - 1 if calls else None,
                "norm": relu_norm,
                "direct": direct and args[0] is relu_output,
                "pooled": pool,
            }

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_hook(after_norm(name)))
        elif isinstance(module, nn.ReLU):
            handles.append(module.register_forward_pre_hook(before_relu))
            handles.append(module.register_forward_hook(after_relu))
        elif isinstance(module, nn.MaxPool2d):
            handles.append(module.register_forward_hook(after_pool))
        elif isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_conv(name)))
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with hooked(handles):
            model(torch.zeros(input_shape, device=next(model.parameters()).device))
    finally:
        for module, mode in training.items():
            module.training = mode
    in_order = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return [ConvSite(name=name, **sites[name], norm_after=norms_after.get(name)) for name in in_order]
