"""From a plan and tensors to the arguments of a launch, and the memory that launches share."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from kernels.sparse.fused import BIAS, POST_RELU, PRE_AFFINE, PRE_RELU, RESIDUAL, Fused
from kernels.sparse.shape import UnsupportedShape

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    import torch

    from kernels.sparse.planning import Plan


class Workspace:
    """Partial sums and tickets of all launches on one stream; launches on two streams need two workspaces.

    It grows on demand. Launches bound before keep the memory that they were bound to alive, and tickets return to zero
    at the end of every launch, so old and new memory stay valid. After a failed launch make a new workspace: its
    tickets may be left anywhere.
    """

    def __init__(self, device: torch.device | str) -> None:
        import torch

        self.device = torch.device(device)
        cuda = self.device.type == "cuda"
        self._clusters = cuda and torch.cuda.get_device_capability(self.device) >= (9, 0)
        self.slots = torch.empty(1, dtype=torch.float32, device=self.device)
        self.sums = torch.zeros(1, dtype=torch.float32, device=self.device)
        self.tickets = torch.zeros(1, dtype=torch.int32, device=self.device)

    def reserve(self, slot_floats: int, tickets: int, *, atomic: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """(slots float32, tickets int32), flat, at least so long; tickets are zero, and the slots of `atomic`."""
        import torch

        if atomic and self.sums.numel() < slot_floats:
            self.sums = torch.zeros(slot_floats, dtype=torch.float32, device=self.device)
        if not atomic and self.slots.numel() < slot_floats:
            self.slots = torch.empty(slot_floats, dtype=torch.float32, device=self.device)
        if self.tickets.numel() < tickets:
            self.tickets = torch.zeros(tickets, dtype=torch.int32, device=self.device)
        return (self.sums if atomic else self.slots), self.tickets

    def reserve_for(self, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
        """(slots, tickets) for a launch: none where the blocks of a cluster read each other's shared memory."""
        return self.reserve(*self._needed(plan), atomic=plan.variant.reduce == "atomic")

    def has_room_for(self, plan: Plan) -> bool:
        """Whether `reserve_for` would allocate nothing."""
        slot_floats, tickets = self._needed(plan)
        slots = self.sums if plan.variant.reduce == "atomic" else self.slots
        return slots.numel() >= slot_floats and self.tickets.numel() >= tickets

    def _needed(self, plan: Plan) -> tuple[int, int]:
        if plan.variant.reduce == "cluster" and self._clusters:
            return 0, 0
        return plan.slot_floats, plan.tickets

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 4 * (self.slots.numel() + self.sums.numel() + self.tickets.numel())


def arguments(
    plan: Plan,
    x: torch.Tensor,
    w_packed: torch.Tensor,
    y: torch.Tensor,
    workspace: Workspace,
    bias: torch.Tensor | None = None,
    fused: Fused | None = None,
) -> list[torch.Tensor | int]:
    """What `kernels.launch.Kernel.bind(plan.grid, plan.block, ...)` takes, in the kernel's order.

    x: [B, C, H, W] float32, w_packed: [C, k, k, Npad] float32 from `pack_weights`, y: [B, N, H_out, W_out] float32,
    bias: [N] float32 or None. x, y and a residual may be channel slices of larger tensors: any batch stride, each image
    dense. Raises UnsupportedShape, also for a kernel that cannot fuse what is asked.
    """
    fused = fused or Fused()
    shape = plan.shape
    padded = -(-shape.N // 32) * 32
    _check("x", x, (shape.B, shape.C, shape.H, shape.W))
    _check("y", y, (shape.B, shape.N, shape.H_out, shape.W_out))
    _check("w_packed", w_packed, (shape.C, shape.k, shape.k, padded))
    if shape.B * max(x.stride(0), y.stride(0)) >= 2**31:
        raise UnsupportedShape("the batch spans 2^31 elements or more: the kernels index fewer; split the batch.")
    slots, tickets = workspace.reserve_for(plan)
    tiles_w = -(-shape.W_out // plan.variant.tw)
    flags = _flags(bias, fused)
    if flags and "flags" not in dict(plan.variant.parameters):
        raise UnsupportedShape(f"kernel {plan.variant.name} fuses nothing: plan with a v6_fused or pointwise kernel.")
    if flags & (PRE_AFFINE | PRE_RELU) and not getattr(plan.variant, "prologue", True):
        raise UnsupportedShape(
            f"kernel {plan.variant.name} takes its input as it is: build the variant with prologue=True."
        )
    weights = _weights(plan, w_packed)
    nothing = weights  # stands in for what the flags leave unread
    if bias is not None:
        _check_vector("bias", bias, shape.N)
    if fused.pre_scale is not None:
        _check_vector("pre_scale", fused.pre_scale, shape.C)
        _check_vector("pre_shift", fused.pre_shift, shape.C)
    if fused.residual is not None:
        _check("residual", fused.residual, (shape.B, shape.N, shape.H_out, shape.W_out))
        if shape.B * fused.residual.stride(0) >= 2**31:
            raise UnsupportedShape(
                "the residual spans 2^31 elements or more: the kernels index fewer; split the batch."
            )
    values = {
        "x": _flat(x),
        "w": weights,
        "y": _flat(y),
        "slots": slots,
        "tickets": tickets,
        "B": shape.B,
        "C": shape.C,
        "H": shape.H,
        "W": shape.W,
        "N": shape.N,
        "Np": padded,
        "groups": -(-padded // (32 * plan.variant.outputs_per_lane)),
        "tiles_w": tiles_w,
        "tiles": tiles_w * -(-shape.H_out // plan.variant.rows),
        "tiles_h": -(-shape.H_out // plan.variant.rows),
        "splits": plan.splits,
        "steps": plan.channels_per_warp,
        "share": -(-plan.variant.cells // plan.splits),
        "x_batch": x.stride(0),
        "y_batch": y.stride(0),
        "bias": nothing if bias is None else bias.detach(),
        "residual": nothing if fused.residual is None else _flat(fused.residual),
        "scale": nothing if fused.pre_scale is None else fused.pre_scale.detach(),
        "shift": nothing if fused.pre_shift is None else fused.pre_shift.detach(),
        "r_batch": 0 if fused.residual is None else fused.residual.stride(0),
        "flags": flags,
    }
    return [values[name] for name, _ in plan.variant.parameters]


def weights_are_ready(plan: Plan, w_packed: torch.Tensor) -> bool:
    """Whether `arguments` finds these weights laid out: else it copies them and waits, which no CUDA graph captures."""
    return plan.variant.rung != "v6_fused" or _found(w_packed, plan.variant.outputs_per_lane) is not None


def _weights(plan: Plan, w_packed: torch.Tensor) -> torch.Tensor:
    """The packed weights, flat; for v6_fused [C, groups of 32·o channels, k·k, 32·o]: all at fixed distances.

    Channels that fill up the last group are zero. That copy is kept as long as w_packed lives and is not written to.
    """
    import torch

    outputs = plan.variant.outputs_per_lane
    if plan.variant.rung != "v6_fused":
        return w_packed.detach().reshape(-1)
    found = _found(w_packed, outputs)
    if found is not None:
        return found
    packed = torch.nn.functional.pad(w_packed.detach(), (0, -w_packed.shape[3] % (32 * outputs)))
    packed = packed.reshape(plan.shape.C, plan.shape.k**2, -1, 32 * outputs)
    laid_out = packed.transpose(1, 2).contiguous().reshape(-1)
    if laid_out.is_cuda:
        # A launch that overlaps reads weights before it waits for the launch ahead of it, which may be this copy.
        torch.cuda.current_stream(laid_out.device).synchronize()
    _laid_out().setdefault(w_packed, {})[outputs] = _version(w_packed), laid_out
    return laid_out


def _found(w_packed: torch.Tensor, outputs: int) -> torch.Tensor | None:
    version, laid_out = _laid_out().get(w_packed, {}).get(outputs, (None, None))
    return laid_out if version == _version(w_packed) else None


@functools.cache
def _laid_out() -> MutableMapping[torch.Tensor, dict[int, tuple[int, torch.Tensor]]]:
    """Packed weights → outputs a lane → (their version then, the copy)."""
    from torch.utils.weak import WeakTensorKeyDictionary

    return WeakTensorKeyDictionary()


def _version(tensor: torch.Tensor) -> int:
    """Rises with each write to the tensor; what inference mode made tells none, and is taken as never written to."""
    return -1 if tensor.is_inference() else tensor._version


def _flags(bias: torch.Tensor | None, fused: Fused) -> int:
    """The launch's choices, as the kernels read them."""
    return (
        (BIAS if bias is not None else 0)
        | (RESIDUAL if fused.residual is not None else 0)
        | (POST_RELU if fused.post_relu else 0)
        | (PRE_AFFINE if fused.pre_scale is not None else 0)
        | (PRE_RELU if fused.pre_relu else 0)
    )


def _check_vector(name: str, tensor: torch.Tensor, length: int) -> None:
    import torch

    if tuple(tensor.shape) != (length,) or tensor.dtype != torch.float32 or not tensor.is_contiguous():
        raise UnsupportedShape(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}: contiguous float32 [{length}] is needed for this plan."
        )


def _check(name: str, tensor: torch.Tensor, wanted: tuple[int, ...]) -> None:
    import torch

    if tuple(tensor.shape) != wanted or tensor.dtype != torch.float32:
        raise UnsupportedShape(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}: this plan was made for float32 {wanted}; plan anew."
        )
    if not tensor[0].is_contiguous() or tensor.stride(0) < 0:
        raise UnsupportedShape(
            f"{name} has strides {tensor.stride()}: each image must be dense in memory (NCHW); call .contiguous()."
        )


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """The memory from the first image's first to the last image's last element, gaps between images included."""
    span = (tensor.shape[0] - 1) * tensor.stride(0) + tensor[0].numel()
    return tensor.detach().as_strided((span,), (1,))
