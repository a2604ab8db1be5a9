"""Binds the steps of a network to kernels and to buffers that are allocated once: a forward pass is a list of calls.

Our convolutions do bias, residual sum, ReLU and a norm before them in the same launch. What torch computes (the stem,
poolings, the classifier, a convolution that a plan leaves to cuDNN) writes into the same buffers. On a CPU the CPU twin
takes the place of the kernels. Nothing waits for the device; torch allocates only its own temporaries, which a CUDA
graph keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from frugal.cusnn.fold import affine, folded
from frugal.cusnn.network_steps import Conv, Head, Place, Pool, Stem, Step
from frugal.cusnn.plans import DENSE, DENSE_TWIN, SPARSE, NetworkPlan, plan
from kernels.launch import Kernel
from kernels.sparse import ConvShape, Fused, Plan, UnsupportedShape, Workspace, arguments, pack_weights


class Kernels(Protocol):
    """Built kernels of one GPU, and the workspace that all launches on a stream share."""

    workspace: Workspace

    def kernel(self, variant: str) -> Kernel:
        """The loaded kernel of this name."""


@dataclass(frozen=True)
class Choice:
    """What computes a convolution: `backend` is `sparse`, `dense_twin`, or torch's own (frugal.cusnn.plans.DENSE).

    `launch`: of a kernel of ours; None on a CPU and for torch's own. `reason`: why it is not ours, or what a
    calibration said.
    """

    backend: str
    launch: Plan | None = None
    reason: str | None = None

    @property
    def is_ours(self) -> bool:
        """Whether a kernel of ours, or its CPU twin, computes it."""
        return self.backend in (SPARSE, DENSE_TWIN)


@dataclass(frozen=True)
class Operands:
    """A convolution's numbers on its device, norms folded in. float32.

    `weight`: [N, C, k, k] as torch takes it, or [C, k, k, Npad] for a kernel of ours; `bias`: [N]; `scale` and `shift`:
    [C], of the norm and ReLU before it.
    """

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    shift: Tensor | None


@dataclass
class Program:
    """One forward pass on tensors that stay where they are.

    `run()` reads the input that it was bound to and writes `features` [B, C, H, W] and `logits` [B, classes], which it
    returns. `choices`: what computes each convolution, by its name. `buffers`: all that a run writes, logits included.
    """

    logits: Tensor
    features: Tensor
    choices: Mapping[str, Choice]
    buffers: tuple[Tensor, ...] = field(repr=False)
    calls: list[Callable[[], object]] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers; weights are not counted."""
        return sum(buffer.nbytes for buffer in self.buffers)

    @torch.inference_mode()
    def run(self) -> Tensor:
        for call in self.calls:
            call()
        return self.logits


def choose(
    steps: Sequence[Step],
    batch: int,
    device: torch.device,
    *,
    policy: str = "auto",
    planned: NetworkPlan | None = None,
    deterministic: bool = True,
) -> dict[str, Choice]:
    """{convolution: what computes it} for so many images.

    policy `never`: the dense twins; `always`: the skipping kernels; `auto`: what is `planned` by a calibration for the
    same shape, else the skipping kernels. A shape without a kernel is left to torch, with the reason. deterministic: as
    `frugal.cusnn.plan` takes it.
    """
    found = {}
    for step in steps:
        if isinstance(step, Conv):
            shape = step.shape(batch)
            known = planned.of(step.name) if planned is not None and policy == "auto" else None
            if known is not None and known.shape == shape:
                found[step.name] = Choice(known.backend, known.plan.launch, known.reason)
            else:
                found[step.name] = _default(shape, device, policy, deterministic)
    return found


def _default(shape: ConvShape, device: torch.device, policy: str, deterministic: bool) -> Choice:
    try:
        found = plan(shape, device=device, policy=policy, deterministic=deterministic)
    except UnsupportedShape as problem:
        return Choice(DENSE[device.type], reason=str(problem))
    return Choice(found.backend, found.launch)


def operands(step: Conv, packed: bool, device: torch.device) -> Operands:
    """A convolution's numbers; `packed` for our kernels. Raises ValueError where weights for these are not finite."""
    weight, bias = folded(step.conv, step.after)
    scale, shift = (None, None) if step.before is None else (v.to(torch.float32) for v in affine(step.before))
    on_device = [None if value is None else value.to(device) for value in (bias, scale, shift)]
    weight = weight.to(device)
    return Operands(pack_weights(weight) if packed else weight, *on_device)


@torch.inference_mode()
def bind(
    steps: Sequence[Step],
    x: Tensor,
    choices: Mapping[str, Choice],
    operands_of: Callable[[Conv, bool], Operands],
    kernels: Kernels | None,
    *,
    fused: bool = True,
) -> Program:
    """The program of a network on images x [B, 3, H, W] float32, which each run reads anew.

    operands_of: a convolution's numbers, packed or not, kept by the caller, so that programs of several batch sizes
    share them. kernels: None on a CPU. fused False: norms, bias, residual sums and ReLUs are operations of their own,
    for comparison.
    """
    buffers = _allocate(steps, len(x), x.device, choices, fused)
    if kernels is not None:
        _reserve(kernels.workspace, choices)
    calls: list[Callable[[], object]] = []
    logits = features = None
    for step in steps:
        if isinstance(step, Conv):
            choice = choices[step.name]
            numbers = operands_of(step, choice.is_ours)
            calls += _conv(step, choice, numbers, len(x), buffers, kernels, fused)
        elif isinstance(step, Stem):
            calls.append(_stem(step, x, buffers))
        elif isinstance(step, Pool):
            calls.append(_pool(step, buffers))
        else:
            call, features, logits = _head(step, buffers)
            calls.append(call)
    assert logits is not None
    assert features is not None
    return Program(logits, features, dict(choices), (*buffers.memory.values(), logits), calls)


# ---- buffers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Buffers:
    batch: int
    memory: Mapping[str, Tensor]

    def at(self, place: Place) -> Tensor:
        """The tensor of a place: [B, C, H, W], each image dense."""
        whole = self.memory[place.buffer][: self.batch * place.width * place.H * place.W]
        return whole.view(self.batch, place.width, place.H, place.W)[:, place.start : place.start + place.C]

    def activated(self, place: Place) -> Tensor:
        """Room for the ReLU of a place's norm where that is an operation of its own."""
        room = self.memory["activated"][: self.batch * place.C * place.H * place.W]
        return room.view(self.batch, place.C, place.H, place.W)


def _allocate(
    steps: Sequence[Step], batch: int, device: torch.device, choices: Mapping[str, Choice], fused: bool
) -> _Buffers:
    """Each buffer as large as the largest tensor that it holds."""
    sizes: dict[str, int] = {}
    for step in steps:
        places = [] if isinstance(step, Head) else [step.y]
        for place in places:
            sizes[place.buffer] = max(sizes.get(place.buffer, 0), batch * place.width * place.H * place.W)
        if isinstance(step, Conv) and step.before is not None and not (fused and choices[step.name].is_ours):
            x = step.x
            sizes["activated"] = max(sizes.get("activated", 0), batch * x.C * x.H * x.W)
    memory = {name: torch.empty(size, dtype=torch.float32, device=device) for name, size in sizes.items()}
    return _Buffers(batch, memory)


def _reserve(workspace: Workspace, choices: Mapping[str, Choice]) -> None:
    """Before anything is bound, so that no launch keeps memory that a later one outgrows."""
    for choice in choices.values():
        if choice.launch is not None:
            workspace.reserve_for(choice.launch)


# ---- what torch computes ---------------------------------------------------------------------------------------------


def _stem(step: Stem, x: Tensor, buffers: _Buffers) -> Callable[[], object]:
    weight, bias = (value.to(x.device) for value in folded(step.conv, step.norm))
    y, pool = buffers.at(step.y), step.pool

    def run() -> None:
        z = functional.conv2d(x, weight, bias, step.conv.stride, step.conv.padding).relu_()
        y.copy_(functional.max_pool2d(z, pool.kernel_size, pool.stride, pool.padding))

    return run


def _pool(step: Pool, buffers: _Buffers) -> Callable[[], object]:
    x, y = buffers.at(step.x), buffers.at(step.y)
    activate = _activation(step.norm, x, x)

    def run() -> None:
        activate()
        torch.ops.aten.avg_pool2d.out(x, [2, 2], [2, 2], out=y)

    return run


def _head(step: Head, buffers: _Buffers) -> tuple[Callable[[], object], Tensor, Tensor]:
    x, linear = buffers.at(step.x), step.linear
    weight = linear.weight.detach().t().contiguous().to(x.device)
    bias = linear.bias.detach().to(x.device)
    mean, logits = x.new_empty(x.shape[:2]), x.new_empty((len(x), linear.out_features))
    activate = None if step.norm is None else _activation(step.norm, x, x)

    def run() -> None:
        if activate is not None:
            activate()
        torch.mean(x, (2, 3), out=mean)
        torch.addmm(bias, mean, weight, out=logits)

    return run, x, logits


def _activation(norm: torch.nn.BatchNorm2d, x: Tensor, out: Tensor) -> Callable[[], object]:
    scale, shift = (value.to(x.device, torch.float32)[:, None, None] for value in affine(norm))
    return _activated(x, scale, shift, out)


def _activated(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Callable[[], object]:
    def run() -> None:
        torch.addcmul(shift, x, scale, out=out)
        out.relu_()

    return run


# ---- convolutions ----------------------------------------------------------------------------------------------------


def _conv(
    step: Conv,
    choice: Choice,
    numbers: Operands,
    batch: int,
    buffers: _Buffers,
    kernels: Kernels | None,
    fused: bool,
) -> list[Callable[[], object]]:
    x, y = buffers.at(step.x), buffers.at(step.y)
    residual = None if step.residual is None else buffers.at(step.residual)
    if choice.is_ours and fused:
        work = Fused(numbers.scale, numbers.shift, numbers.scale is not None, residual, step.relu)
        return [_ours(step.shape(batch), choice, numbers, numbers.bias, x, y, work, kernels)]
    calls: list[Callable[[], object]] = []
    if numbers.scale is not None and numbers.shift is not None:
        room = buffers.activated(step.x)
        calls.append(_activated(x, numbers.scale[:, None, None], numbers.shift[:, None, None], room))
        x = room
    if not choice.is_ours:
        return [*calls, _by_torch(step, numbers, x, y, residual)]
    calls.append(_ours(step.shape(batch), choice, numbers, None, x, y, Fused(), kernels))
    return [*calls, *_after(numbers.bias, residual, step.relu, y)]


def _ours(
    shape: ConvShape,
    choice: Choice,
    numbers: Operands,
    bias: Tensor | None,
    x: Tensor,
    y: Tensor,
    work: Fused,
    kernels: Kernels | None,
) -> Callable[[], object]:
    """One launch of a kernel, or one call of the CPU twin."""
    if kernels is None:
        from kernels.sparse import cpu  # Numba compiles what it holds: not for a GPU

        skip = choice.backend == SPARSE
        return lambda: cpu.conv(x, numbers.weight, bias, stride=shape.stride, fused=work, out=y, skip=skip)
    launch = choice.launch
    assert launch is not None
    given = arguments(launch, x, numbers.weight, y, kernels.workspace, bias=bias, fused=work)
    kernel = kernels.kernel(launch.variant.name)
    return kernel.bind(launch.grid, launch.block, given, cluster=launch.cluster, overlap=launch.overlap)


def _by_torch(step: Conv, numbers: Operands, x: Tensor, y: Tensor, residual: Tensor | None) -> Callable[[], object]:
    """cuDNN's convolution (oneDNN's on a CPU), then as few operations as write y."""
    conv = step.conv

    def run() -> None:
        z = functional.conv2d(x, numbers.weight, numbers.bias, conv.stride, conv.padding)
        if residual is not None:
            torch.add(z, residual, out=y)
            if step.relu:
                y.relu_()
        elif step.relu:
            torch.clamp_min(z, 0, out=y)  # keeps NaN, as relu does, and takes `out`
        else:
            y.copy_(z)

    return run


def _after(bias: Tensor | None, residual: Tensor | None, relu: bool, y: Tensor) -> list[Callable[[], object]]:
    """What an epilogue does, each part an operation of its own."""
    calls: list[Callable[[], object]] = []
    if bias is not None:
        per_channel = bias[:, None, None]
        calls.append(lambda: y.add_(per_channel))
    if residual is not None:
        calls.append(lambda: y.add_(residual))
    if relu:
        calls.append(y.relu_)
    return calls
