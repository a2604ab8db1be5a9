"""What PyTorch's meta device lacks, so that a step there allocates what it does elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# What autocast casts to its type, among what networks of images use.
CAST = {
    torch.conv2d, torch.conv_transpose2d, torch.matmul, functional.conv2d, functional.conv_transpose2d,
    functional.linear,
}  # fmt: skip


class Autocast(TorchFunctionMode):
    """Autocast: casts what it casts on other devices. As every mode of its kind it is off within a backward pass."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    @staticmethod
    def now() -> torch.dtype | None:
        """The type of the innermost one that is entered, or None."""
        modes = [mode for mode in _get_current_function_mode_stack() if isinstance(mode, Autocast)]
        return modes[-1].dtype if modes else None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in CAST:
            args = tuple(self._cast(each) for each in args)
            kwargs = {name: self._cast(each) for name, each in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))

    def _cast(self, value: Any) -> Any:
        known = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(self.dtype) if known else value


class FrozenNorm(TorchDispatchMode):
    """Batch norm by given statistics as kernels do it: a map forward, a map and two vectors backward.

    PyTorch's meta device runs a decomposition instead, which has a dozen temporary maps and takes milliseconds.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is aten.native_batch_norm.default and args[0].is_meta and not args[5]:
            return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
        if func is aten.native_batch_norm_backward.default and args[0].is_meta and not args[7]:
            return tuple(
                torch.empty_like(x) if wanted else None
                for x, wanted in zip((args[1], args[2], args[2]), args[9], strict=True)
            )
        return func(*args, **(kwargs or {}))
