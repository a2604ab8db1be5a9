"""Tensors under a budget: a subclass of torch.Tensor without memory of its own, above which autograd works as always.

What autograd saves for the backward pass is the wrapper, so that the real tensor beneath it can go and come back. The
two autograd functions are the doors: parameters and inputs come in, gradients and results go out as plain tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from frugal.dtr.errors import Unsupported

if TYPE_CHECKING:
    from frugal.dtr.policy import Node
    from frugal.dtr.runtime import Runtime

_make = torch.Tensor._make_wrapper_subclass  # type: ignore[attr-defined]


class Handle:
    """What a wrapper stands for; its death is the wrapper's, and releases the tensor. offset: in its storage."""

    __slots__ = ("__weakref__", "name", "node", "offset", "runtime")

    def __init__(self, runtime: Runtime, node: Node, name: int, offset: int) -> None:
        self.runtime = runtime
        self.node = node
        self.name = name
        self.offset = offset

    def __del__(self) -> None:
        self.runtime.drop(self.node, self.name)


class Managed(torch.Tensor):
    """A tensor that a Budget may evict and make again. Shape, strides, dtype and device never make it again."""

    handle: Handle
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> object:
        for value in args:
            if type(value) is Managed:
                return value.handle.runtime.dispatch(func, args, kwargs or {})
        found = first_managed((*args, *(kwargs or {}).values()))
        assert found is not None
        return found.handle.runtime.dispatch(func, args, kwargs or {})

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        return f"Managed({self.handle.runtime.peek(self)!r})"

    def numpy(self, *, force: bool = False) -> Any:
        """The values as an array: a copy, since the memory may be evicted. As torch: not of what requires grad."""
        if self.requires_grad and not force:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        return self.handle.runtime.peek(self).clone().numpy(force=force)

    def __array__(self, dtype: Any = None) -> Any:
        found = self.numpy()
        return found if dtype is None else found.astype(dtype, copy=False)

    def tolist(self) -> Any:
        return self.handle.runtime.peek(self).tolist()

    def data_ptr(self) -> int:
        raise Unsupported(
            "data_ptr() of a managed tensor: its memory may go at any time; take a plain tensor with Budget.release",
            op="data_ptr",
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.handle.runtime.peek(self).clone().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        return self.handle.runtime.peek(self).clone()


def wrapper(handle: Handle, shape: tuple, strides: tuple, dtype: torch.dtype, device: Any) -> Managed:
    """A new wrapper of a given geometry."""
    made = _make(
        Managed, shape, strides=strides, storage_offset=handle.offset, dtype=dtype, layout=torch.strided, device=device
    )
    made.handle = handle
    return made


def first_managed(values: Any) -> Managed | None:
    """The first wrapper among arguments and in lists among them."""
    for value in values:
        if type(value) is Managed:
            return value
        if isinstance(value, (list, tuple)) and (found := first_managed(value)) is not None:
            return found
    return None


class Enter(torch.autograd.Function):
    """Plain to managed; the gradient comes out plain again, in the layout that `.grad` has in PyTorch."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, runtime: Runtime) -> torch.Tensor:
        ctx.runtime = runtime
        ctx.like = tensor.shape, tensor.stride(), tensor.dtype, tensor.device
        return runtime.constant_wrapper(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        if type(gradient) is not Managed:
            return gradient, None
        shape, strides, dtype, _ = ctx.like
        if gradient.stride() != strides and _dense(shape, strides):
            laid_out = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
            if not torch.is_grad_enabled():  # else it must stay differentiable, and layout is no matter of results
                gradient = runtime_copy(gradient, laid_out)
        return Leave.apply(gradient, True), None


class Leave(torch.autograd.Function):
    """Managed to plain, and the gradient of what is done with it back in. own: nothing else may share its memory."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, own: bool) -> torch.Tensor:
        assert type(tensor) is Managed
        ctx.runtime = tensor.handle.runtime
        return tensor.handle.runtime.hand_out(tensor, own)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return Enter.apply(gradient, ctx.runtime), None


def runtime_copy(tensor: Managed, like: torch.Tensor) -> torch.Tensor:
    """The tensor with the strides of `like` (a meta tensor), as an operator of the graph."""
    made = torch.ops.aten.new_empty_strided.default(tensor, like.shape, like.stride())
    return made.copy_(tensor)


def _dense(shape: torch.Size, strides: tuple[int, ...]) -> bool:
    """Non-overlapping and dense: the layouts that AccumulateGrad keeps (torch/csrc/autograd/functions)."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True
