"""Ways to train one network on one size of image: SFT's own, the published schedule, and what a user would take today.

A method is a function `method(model, image_shape, setup, **settings)` that gives `forward`: x [N, C, H, W] → output,
with the model's own parameters, differentiable once. Images in main memory are what `from_host` makes of them: the
segmented methods (STREAMING) bring window after window to the device, all others the whole at the start of a step.

| method | settings | what it is |
|---|---|---|
| `vanilla` | | the network as it is |
| `checkpoint` | segments | torch.utils.checkpoint_sequential, non-reentrant: all segments but the last are recomputed |
| `checkpoint_blocks` | | each block of a residual network or of a U-Net is recomputed |
| `save_on_cpu` | | what autograd saves goes to main memory and comes back |
| `activation_budget` | budget | torch.compile under its activation memory budget, from 0 (recompute) to 1 (save) |
| `compile` | | torch.compile |
| `sft_artifact` | tiles | the published schedule, n × n tiles |
| `tiled_1seg` | tiles, stack, graphs, backend | one segment of n × n disjoint output tiles with a single halo |
| `tiled`, `strips`, `planned` | budget_bytes, host_budget_bytes, resident_bytes, input | the planner's schedule |

With batch norm in training mode the methods that recompute through torch change running statistics twice a step.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch._functorch import config as functorch
from torch.autograd.graph import save_on_cpu as saving_on_cpu
from torch.utils.checkpoint import checkpoint as checkpointed
from torch.utils.checkpoint import checkpoint_sequential

from frugal.models import build
from frugal.sft import artifact, pairs
from frugal.sft.errors import SftError
from frugal.sft.host import HostImage
from frugal.sft.meta import Autocast
from frugal.sft.parts import blocks_of, chained
from frugal.sft.plans import Plan
from frugal.sft.segments import SegmentedSequential
from frugal.timing.flags import flags

Forward = Callable[[Tensor | HostImage], Tensor]
Shape = tuple[int, int, int, int]

INPUTS = ("device", "host")
STREAMING = ("tiled_1seg", "tiled", "strips", "planned")  # methods that take a HostImage

# What autocast computes in (None: no autocast), and whether float32 products may use TF32.
PRECISIONS: Mapping[str, tuple[torch.dtype | None, bool]] = {
    "fp32": (None, False),
    "tf32": (None, True),
    "bf16": (torch.bfloat16, False),
}


@dataclass(frozen=True)
class Setup:
    """How a step computes: `precision` (of PRECISIONS) and the layout of the network and the image in memory.

    Raises SftError for another precision.
    """

    precision: str = "fp32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise SftError(f"precision {self.precision!r} is not known: take one of {', '.join(PRECISIONS)}")

    @property
    def autocast(self) -> torch.dtype | None:
        return PRECISIONS[self.precision][0]

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def flags(self) -> AbstractContextManager:
        """torch's numerical flags, for whatever a step does; cuDNN may try all its algorithms."""
        return flags(tf32=PRECISIONS[self.precision][1])

    def casting(self, device: str) -> AbstractContextManager:
        """Autocast, for the forward pass and the loss; `device` is a kind (cuda, cpu, meta)."""
        if device != "meta":
            return torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None)
        return nullcontext() if self.autocast is None else Autocast(self.autocast)  # torch has none for it


# ---- the methods -----------------------------------------------------------------------------------------------------


def vanilla(model: nn.Module, image_shape: Shape, setup: Setup) -> Forward:
    return model


def checkpoint(model: nn.Module, image_shape: Shape, setup: Setup, *, segments: int) -> Forward:
    """Raises SftError for a network that is no chain, or a number of segments that it cannot have."""
    parts = chained(model)
    if not 1 <= segments <= len(parts):
        raise SftError(f"segments = {segments}: this network can be cut into 1 to {len(parts)}")
    return lambda x: checkpoint_sequential(parts, segments, x, use_reentrant=False)


def checkpoint_blocks(model: nn.Module, image_shape: Shape, setup: Setup) -> Forward:
    """Raises SftError for a network without blocks."""
    blocks = blocks_of(model)

    def forward(x: Tensor) -> Tensor:
        with ExitStack() as after:
            for block in blocks:
                # Found before the class's own; the block is the same module again when the pass is over.
                block.forward = functools.partial(checkpointed, block.forward, use_reentrant=False)
                after.callback(delattr, block, "forward")
            return model(x)

    return forward


def save_on_cpu(model: nn.Module, image_shape: Shape, setup: Setup) -> Forward:
    """Into pinned memory where the network is on a GPU."""
    pinned = next(model.parameters()).device.type == "cuda"

    def forward(x: Tensor) -> Tensor:
        with saving_on_cpu(pin_memory=pinned):
            return model(x)

    return forward


def compile(model: nn.Module, image_shape: Shape, setup: Setup, *, backend: str = "inductor") -> Forward:
    """Compiled at the first call."""
    return torch.compile(model, backend=backend, dynamic=False)


def activation_budget(
    model: nn.Module, image_shape: Shape, setup: Setup, *, budget: float, backend: str = "inductor"
) -> Forward:
    """Compiled at the first call; compiled code stays in the process, which should be one for each budget.

    Raises SftError for a budget outside [0, 1].
    """
    if not 0 <= budget <= 1:
        raise SftError(f"budget = {budget}: torch's activation memory budget is from 0 (recompute) to 1 (save)")
    run = torch.compile(model, backend=backend, dynamic=False)

    def forward(x: Tensor) -> Tensor:
        with functorch.patch(activation_memory_budget=budget):
            return run(x)

    return forward


def sft_artifact(model: nn.Module, image_shape: Shape, setup: Setup, *, tiles: int) -> Forward:
    """Raises as `frugal.sft.artifact.sft_artifact` does, for the image's size already here."""
    artifact.artifact_macs(model, *image_shape[2:], tiles)
    return artifact.sft_artifact(model, tiles)


def tiled_1seg(
    model: nn.Module,
    image_shape: Shape,
    setup: Setup,
    *,
    tiles: int,
    stack: int = 1,
    graphs: bool = False,
    backend: str = "torch",
) -> Forward:
    """stack: tiles at once; graphs: as CUDA graphs; backend: `kernel`, with pairs of layers in one kernel.

    Raises PlanError for more tiles than rows or columns of the body's output, SftError without a GPU for graphs, and
    for a network, layout or type for which there is no kernel.
    """
    grid = [(tiles, tiles)]
    made = Plan.manual(model, image_shape, kinds=["tiles"], tiles=grid, stacks=[stack], backend=backend)
    first = next(model.parameters())
    if graphs and first.device.type != "cuda":
        raise SftError(f"graphs = {graphs}: there are no CUDA graphs on {first.device.type}; leave them out")
    if backend == "kernel":
        pairs.check(model, image_shape, first.device, setup.autocast or first.dtype, setup.channels_last)
    return SegmentedSequential(model, made, graphs=bool(graphs))


def planned(
    model: nn.Module,
    image_shape: Shape,
    setup: Setup,
    *,
    budget_bytes: int,
    host_budget_bytes: int = 0,
    resident_bytes: int = 0,
    input: str = "device",
    allow: Sequence[str] = ("store", "tiles", "strips"),
) -> Forward:
    """input: where the images are, on the `device`, within the budget, or in main memory (`host`). resident_bytes: of
    the budget, what else lives on the device, such as the optimiser's state.

    Raises BudgetError, with the smallest budget that works, where nothing fits, and SftError for another input.
    """
    from frugal.sft.planner import plan

    if input not in INPUTS:
        raise SftError(f"input {input!r} is not known: take one of {', '.join(INPUTS)}")
    found = plan(
        model,
        image_shape,
        budget_bytes,
        dtype=next(model.parameters()).dtype,
        autocast=setup.autocast,
        channels_last=setup.channels_last,
        image_on_device=input == "device",
        resident_bytes=resident_bytes,
        host_budget_bytes=host_budget_bytes,
        allow=tuple(allow),
    )
    return SegmentedSequential(model, found)


METHODS: Mapping[str, Callable[..., Forward]] = {
    "vanilla": vanilla,
    "checkpoint": checkpoint,
    "checkpoint_blocks": checkpoint_blocks,
    "save_on_cpu": save_on_cpu,
    "activation_budget": activation_budget,
    "compile": compile,
    "sft_artifact": sft_artifact,
    "tiled_1seg": tiled_1seg,
    "tiled": functools.partial(planned, allow=("tiles",)),
    "strips": functools.partial(planned, allow=("strips",)),
    "planned": planned,
}


def forward_of(method: str, model: nn.Module, image_shape: Shape, setup: Setup, **settings: object) -> Forward:
    """The method of that name. Raises SftError for a name that is not in METHODS, and what the method itself raises."""
    if method not in METHODS:
        near = difflib.get_close_matches(str(method), METHODS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise SftError(f"method {method!r} is not known{hint}: take one of {', '.join(METHODS)}")
    return METHODS[method](model, image_shape, setup, **settings)


# ---- a step ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One step of training, whole or in its three parts, which run in this order."""

    forward: Callable[[], Tensor]
    """The image to the loss, a scalar."""
    backward: Callable[[Tensor], None]
    update: Callable[[], None]
    """The optimiser's step; the gradients are gone after it."""

    def __call__(self) -> Tensor:
        loss = self.forward()
        self.backward(loss)
        self.update()
        return loss.detach()


def step(
    model: nn.Module,
    forward: Forward,
    image: Callable[[], Tensor | HostImage],
    target: Tensor,
    setup: Setup,
    optimiser: torch.optim.Optimizer,
) -> Step:
    """A step of `forward` (a method's) on what `image()` gives, with the mean squared error to `target` as its loss.

    `image()` is called within the step, so that moving an image from main memory belongs to it.
    """
    device = target.device.type

    def loss() -> Tensor:
        with setup.casting(device):
            return nn.functional.mse_loss(forward(image()), target)

    def update() -> None:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return Step(loss, torch.Tensor.backward, update)


def from_host(
    method: str,
    images: np.ndarray,
    device: torch.device | str,
    setup: Setup,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    prefetch: int = 2,
) -> Callable[[], Tensor | HostImage]:
    """Images in main memory, [H, W, 3] or [N, H, W, 3], uint8 or floating point from 0 to 1, as what a step of a method
    begins with.

    Of a STREAMING method that is a HostImage, with so many windows under way; of another one what `uploaded` gives.
    """
    if method not in STREAMING:
        return uploaded(images, device, setup, mean, std)
    held = HostImage(images, "HWC" if images.ndim == 3 else "NHWC", mean, std, prefetch=prefetch)
    return lambda: held


def uploaded(
    images: np.ndarray,
    device: torch.device | str,
    setup: Setup,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
) -> Callable[[], Tensor]:
    """Images in main memory, [H, W, 3] or [N, H, W, 3], uint8 or float32 from 0 to 1, as a function that moves them to
    the device, whole, at each call.

    It gives float32 [N, 3, H, W] in the setup's layout: (pixel − mean) ÷ std, of bytes pixel ÷ 255. They wait in pinned
    memory where the device is a GPU.
    """
    host = torch.from_numpy(np.array(images if images.ndim == 4 else images[None]))
    if torch.device(device).type == "cuda":
        host = host.pin_memory()
    middle, scale = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))

    def moved() -> Tensor:
        pixels = host.to(device, non_blocking=True).permute(0, 3, 1, 2)
        x = pixels / 255 if pixels.dtype == torch.uint8 else pixels
        return ((x - middle) / scale).contiguous(memory_format=setup.memory_format)

    return moved


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """SGD(0.01, momentum 0.9) whose state exists already: zeros, with which the first step is what it always is."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return optimiser


def target_of(model: nn.Module, image_shape: Shape, seed: int = 0) -> Tensor:
    """What the output should be: random numbers from [0, 1), of the output's shape, on the model's device; float32."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        output = torch.func.functional_call(model, on_meta, (torch.empty(image_shape, dtype=dtype, device="meta"),))
    drawn = torch.rand(output.shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(next(model.parameters()).device)


def network(
    name: str,
    device: torch.device | str,
    setup: Setup,
    *,
    width_divisor: int = 1,
    num_classes: int | None = None,
    frozen_norms: bool = False,
    seed: int = 0,
) -> nn.Module:
    """A network of frugal.models in training mode, float32, with PyTorch's own initialisation from a seed.

    frozen_norms: batch norms use, and keep, their running statistics. Raises frugal.models.UnknownNetwork.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build(name, num_classes=num_classes, width_divisor=width_divisor)
    for module in model.modules():
        if frozen_norms and isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model.to(device, memory_format=setup.memory_format)
