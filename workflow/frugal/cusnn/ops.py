"""`sparse_conv2d`: one convolution, on a GPU by our kernels, on a CPU by their twin.

What is asked for besides (bias, norm and ReLU before, residual and ReLU after) is done in the same launch where the
kernel can, and by torch around it where it cannot: the result is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from frugal.cusnn.errors import NotDifferentiable, UnsupportedInput
from frugal.cusnn.kernel_store import KernelStore, NotReady, capturing, store_of
from frugal.cusnn.plans import DENSE, Plan, check_shape
from frugal.cusnn.plans import plan as default_plan
from frugal.timing.flags import flags
from kernels.sparse import ConvShape, Fused, UnsupportedShape, Workspace, arguments, weights_are_ready

if TYPE_CHECKING:
    from kernels.sparse import Plan as Launch
    from kernels.sparse import Variant

NOTHING = Fused()


def sparse_conv2d(
    x: Tensor,
    w_packed: Tensor,
    bias: Tensor | None = None,
    *,
    plan: Plan | None = None,
    stride: int = 1,
    padding: int | None = None,
    out: Tensor | None = None,
    fused: Fused = NOTHING,
    workspace: Workspace | None = None,
    kernels: KernelStore | None = None,
) -> Tensor:
    """The convolution of x with w, exact in float32, in which zeros of x cost nothing.

    x: [B, C, H, W] float32, each image dense in memory (NCHW), any batch stride, so that a channel slice of a wider
    buffer will do; w_packed: [C, k, k, Npad] from `pack_weights`, k 1 or 3; bias: [N]; out: [B, N, H_out, W_out] as x,
    apart from x in memory, or None for a new tensor. N is that of `plan`, `out`, `bias` or `fused.residual`; with none
    of them all Npad channels are computed. stride: 1 or 2. padding: k // 2, which None stands for. plan: from
    `frugal.cusnn.plan`, else the default one. workspace: for launches that run beside others on another stream; else
    the stream's own. kernels: else those of the user's cache folder, built on first use.

    Returns out. NaN and infinity in x reach what they reach in a dense convolution. Raises UnsupportedInput for another
    dtype or layout of a tensor, UnsupportedShape for sizes, NotDifferentiable where a gradient would be needed, and
    NotReady where a CUDA graph is captured before the same call was made once.
    """
    shape = _shape(x, w_packed, bias, plan, stride, padding, out, fused)
    needing = [t for t in (x, w_packed, bias, *_tensors(fused)) if t is not None and t.requires_grad]
    if needing and torch.is_grad_enabled():
        raise NotDifferentiable(
            "the convolution computes no gradients, and an input requires one: call it under torch.inference_mode()"
        )
    if plan is None:
        plan = default_plan(shape, device=x.device, fused=fused)
    elif plan.shape != shape:
        raise UnsupportedShape(f"the plan was made for {plan.shape}, this call has {shape}: plan anew.")
    if out is None:
        out = torch.empty((shape.B, shape.N, shape.H_out, shape.W_out), dtype=torch.float32, device=x.device)
    with torch.no_grad():
        bind(plan, x, w_packed, bias, out, fused=fused, workspace=workspace, kernels=kernels)()
    return out


def bind(
    plan: Plan,
    x: Tensor,
    w_packed: Tensor,
    bias: Tensor | None,
    out: Tensor,
    *,
    fused: Fused = NOTHING,
    workspace: Workspace | None = None,
    kernels: KernelStore | None = None,
) -> Callable[[], object]:
    """What computes `out` from these very tensors each time it is called; they are checked and packed here, once.

    Arguments as for `sparse_conv2d`, with a plan for their sizes. On a GPU a call may be captured in a CUDA graph.
    """
    if plan.backend in DENSE.values():
        weight = unpack_weights(w_packed, plan.shape.N)
        convolve = _torch_convolution(plan.shape, weight, out)
        return _around(convolve, x, bias, out, fused)
    if on_cpu(x):
        from kernels.sparse import cpu  # Numba compiles what it holds: not for a GPU

        stride, skip = plan.shape.stride, plan.skips
        return lambda: cpu.conv(x, w_packed, bias, stride=stride, fused=fused, out=out, skip=skip)
    launch = plan.launch
    if launch is None:
        raise UnsupportedShape("the plan was made for a CPU, x is on a GPU: plan with device=x.device.")
    kernels = kernels or store_of(x.device)
    kernel = kernels.kernel(launch.variant.name)
    workspace = workspace or kernels.workspace
    _check_ready(launch, w_packed, workspace)
    within, bias_within, around, bias_around = _shared_out(launch.variant, bias, fused)

    def launched(x: Tensor) -> Callable[[], object]:
        given = arguments(launch, x, w_packed, out, workspace, bias_within, within)
        return kernel.bind(launch.grid, launch.block, given, cluster=launch.cluster, overlap=launch.overlap)

    return _around(launched, x, bias_around, out, around)


def on_cpu(x: Tensor) -> bool:
    """Whether the CPU twin computes."""
    return x.device.type == "cpu"


def unpack_weights(w_packed: Tensor, n: int) -> Tensor:
    """[C, k, k, Npad] from `pack_weights` -> [N, C, k, k], contiguous: what torch's convolution takes."""
    return w_packed[..., :n].permute(3, 0, 1, 2).contiguous()


def check_tensor(name: str, tensor: Tensor) -> None:
    """Raises UnsupportedInput for what is no float32 [B, C, H, W] tensor with dense images."""
    if tensor.dtype != torch.float32:
        raise UnsupportedInput(f"{name} is {tensor.dtype}: the convolution is exact in float32; call {name}.float()")
    if tensor.dim() != 4:
        raise UnsupportedInput(f"{name} has shape {tuple(tensor.shape)}: four dimensions [B, C, H, W] are needed")
    if tensor.layout != torch.strided or tensor.device.type not in DENSE:
        raise UnsupportedInput(f"{name} is {tensor.layout} on {tensor.device}: a dense tensor on a CPU or a CUDA GPU")
    if tensor.numel() and not tensor[0].is_contiguous():
        layout = "channels-last" if tensor.is_contiguous(memory_format=torch.channels_last) else "not NCHW in memory"
        raise UnsupportedInput(f"{name} is {layout} (strides {tensor.stride()}): call {name}.contiguous()")


def _shape(
    x: Tensor,
    w_packed: Tensor,
    bias: Tensor | None,
    plan: Plan | None,
    stride: int,
    padding: int | None,
    out: Tensor | None,
    fused: Fused,
) -> ConvShape:
    """The sizes of the call, which the tensors are checked against."""
    check_tensor("x", x)
    _check_weights(w_packed, x)
    channels, k, _, padded = w_packed.shape
    maps = {"out": out, "fused.residual": fused.residual}
    for name, tensor in maps.items():
        if tensor is not None:
            check_tensor(name, tensor)
    known = (
        None if plan is None else plan.shape.N,
        None if out is None else out.shape[1],
        None if bias is None else bias.numel(),
        None if fused.residual is None else fused.residual.shape[1],
        padded,
    )
    n = next(count for count in known if count is not None)
    if not padded - 32 < n <= padded:
        raise UnsupportedShape(f"N = {n}: w_packed holds {padded - 31} to {padded} output channels.")
    shape = ConvShape(*x.shape, n, k=k, stride=stride, pad=k // 2 if padding is None else padding)
    check_shape(shape)
    wanted = (shape.B, shape.N, shape.H_out, shape.W_out)
    for name, tensor in maps.items():
        if tensor is not None and tuple(tensor.shape) != wanted:
            raise UnsupportedShape(f"{name} has shape {tuple(tensor.shape)}: {wanted} is needed for {shape}.")
    if out is not None and out.data_ptr() == x.data_ptr():
        raise UnsupportedInput("out is x's own memory, which is read until the end: give another tensor, or None")
    vectors = {"bias": (bias, n), "fused.pre_scale": (fused.pre_scale, channels)}
    vectors["fused.pre_shift"] = fused.pre_shift, channels
    for name, (tensor, length) in vectors.items():
        if tensor is not None and (tuple(tensor.shape) != (length,) or tensor.dtype != torch.float32):
            raise UnsupportedInput(f"{name} is {tensor.dtype} {tuple(tensor.shape)}: float32 [{length}] is needed")
    placed = {"w_packed": w_packed, **maps, **{name: tensor for name, (tensor, _) in vectors.items()}}
    for name, tensor in placed.items():
        if tensor is not None and tensor.device != x.device:
            raise UnsupportedInput(f"{name} is on {tensor.device}, x on {x.device}: move it with .to(x.device)")
    return shape


def _check_weights(w_packed: Tensor, x: Tensor) -> None:
    """Raises UnsupportedInput for what `pack_weights` did not make, or not for this many channels."""
    good = w_packed.dim() == 4 and w_packed.dtype == torch.float32 and w_packed.is_contiguous()
    if not good or w_packed.shape[1] != w_packed.shape[2] or w_packed.shape[3] % 32:
        raise UnsupportedInput(
            f"w_packed is {w_packed.dtype} {tuple(w_packed.shape)}: what pack_weights makes, [C, k, k, Npad], is needed"
        )
    if w_packed.shape[0] != x.shape[1]:
        raise UnsupportedInput(f"x has {x.shape[1]} channels, w_packed is for {w_packed.shape[0]}: they must agree")
    if 0 in x.shape:
        raise UnsupportedInput(f"x has shape {tuple(x.shape)}: an image at least, and none empty, is needed")


def _tensors(fused: Fused) -> tuple[Tensor | None, ...]:
    return fused.pre_scale, fused.pre_shift, fused.residual


def _check_ready(launch: Launch, w_packed: Tensor, workspace: Workspace) -> None:
    """Memory that is allocated while a graph is captured would be the graph's own, and filled by its replays only."""
    if not capturing():
        return
    if not workspace.has_room_for(launch):
        raise NotReady(
            "the workspace would have to grow while a CUDA graph is captured: make the same call once before, with the "
            "workspace that the capture uses (a stream has its own unless you give one)"
        )
    if not weights_are_ready(launch, w_packed):
        raise NotReady(
            "the weights would have to be laid out for the kernel while a CUDA graph is captured: make the same call "
            "once before, with the same tensor of weights"
        )


def _shared_out(
    variant: Variant, bias: Tensor | None, fused: Fused
) -> tuple[Fused, Tensor | None, Fused, Tensor | None]:
    """(what the launch fuses, its bias, what torch does around it, the bias added there)."""
    if "flags" not in dict(variant.parameters):
        return NOTHING, None, fused, bias
    if getattr(variant, "prologue", True):
        return fused, bias, NOTHING, None
    after = Fused(residual=fused.residual, post_relu=fused.post_relu)
    return after, bias, Fused(fused.pre_scale, fused.pre_shift, fused.pre_relu), None


def _torch_convolution(shape: ConvShape, weight: Tensor, out: Tensor) -> Callable[..., Callable[[], object]]:
    def launched(x: Tensor) -> Callable[[], object]:
        def run() -> None:
            with flags(tf32=False):
                out.copy_(functional.conv2d(x, weight, None, shape.stride, shape.pad))

        return run

    return launched


def _around(
    launched: Callable[[Tensor], Callable[[], object]], x: Tensor, bias: Tensor | None, out: Tensor, fused: Fused
) -> Callable[[], object]:
    """A convolution that fuses nothing, with torch's operations before and after it. ReLU keeps NaN."""
    before: list[Callable[[], object]] = []
    given = x
    if fused.pre_scale is not None and fused.pre_shift is not None:
        given, scale, shift = torch.empty_like(x), *(v[:, None, None] for v in (fused.pre_scale, fused.pre_shift))
        before.append(lambda: torch.addcmul(shift, x, scale, out=given))
    if fused.pre_relu and given is x:
        given = torch.empty_like(x)
        before.append(lambda: given.copy_(x))
    if fused.pre_relu:
        before.append(lambda: given.relu_())
    convolve = launched(given)
    if not before and bias is None and fused.residual is None and not fused.post_relu:
        return convolve

    def run() -> None:
        for step in before:
            step()
        convolve()
        if bias is not None:
            out.add_(bias[:, None, None])
        if fused.residual is not None:
            out.add_(fused.residual)
        if fused.post_relu:
            out.relu_()

    return run
