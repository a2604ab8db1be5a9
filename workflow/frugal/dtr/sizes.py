"""Bytes: what a budget says, what an allocator hands out, and what an operator will need before it runs.

Outputs are predicted by running the operator on fake tensors (`torch._subclasses.FakeTensorMode`), which have shapes
and no memory. Where the size depends on data, an upper bound holds by the operator's definition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from math import prod

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

CUDA_GRAIN = 512  # bytes that PyTorch's CUDA allocator rounds a request up to (c10/cuda/CUDACachingAllocator)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_ALLOWED = 'a positive number of bytes (2_000_000_000), a string with a unit ("6GiB", "1.5 GB", "6e9"), or None'


def parse_bytes(budget: int | float | str | None) -> int | None:
    """A budget in bytes; None is unlimited. ValueError for what is no positive number of bytes."""
    if budget is None:
        return None
    if isinstance(budget, str):
        found = re.fullmatch(r"\s*([0-9_.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", budget)
        unit = _UNITS.get(found[2].lower()) if found else None
        try:
            number = float(found[1]) * unit if found and unit else math.nan
        except ValueError:
            number = math.nan
        if found and unit and found[1].isdigit():
            number = int(found[1]) * unit
    else:
        number = budget if isinstance(budget, (int, float)) and not isinstance(budget, bool) else math.nan
    if not (number >= 1 and math.isfinite(number)):
        raise ValueError(f"budget_bytes = {budget!r}: it must be {_ALLOWED}")
    return int(number)


def rounded(size: int, device: torch.device) -> int:
    """What the allocator hands out for `size` bytes."""
    return -(-size // CUDA_GRAIN) * CUDA_GRAIN if device.type == "cuda" else size


def text(size: int) -> str:
    """Bytes for a sentence: exact below 10 kB, else in three digits."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= 10 * scale or (size >= scale and unit != "kB"):
            return f"{size / scale:.3g} {unit}"
    return f"{size} bytes"


class Fakes:
    """Shapes without memory: runs operators on fake tensors to know their outputs beforehand."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=False)

    def outputs(
        self,
        run: Callable[..., object],
        args: Sequence[object],
        kwargs: dict[str, object],
        real: Callable[[object], tuple | None],
    ) -> list[tuple[tuple, tuple, torch.dtype, torch.device, int, int]] | None:
        """(shape, strides, dtype, device, bytes of its storage, the input that it is a view of or -1) of each output.

        None where fake tensors cannot run the operator.

        real(argument): (shape, strides, dtype, device) of an argument that stands for a tensor, None for others.
        """
        storages: dict[int, int] = {}

        def faked(value: object) -> object:
            if isinstance(value, (list, tuple)):
                return type(value)(faked(part) for part in value)
            found = real(value)
            if found is None:
                return value
            shape, strides, dtype, device = found
            fake = torch.empty_strided(shape, strides, dtype=dtype, device=device)
            storages.setdefault(fake.untyped_storage()._cdata, len(storages))
            return fake

        generators = any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values()))
        if generators:
            args = [None if isinstance(value, torch.Generator) else value for value in args]
            kwargs = {name: None if isinstance(v, torch.Generator) else v for name, v in kwargs.items()}
        try:
            with self._mode, torch.no_grad():
                result = run(*[faked(value) for value in args], **{name: faked(v) for name, v in kwargs.items()})
        except Exception:  # whatever a meta kernel refuses: the operator itself will say what is wrong
            return None
        found = []
        for out in flat(result):
            storage = out.untyped_storage()
            alias = storages.get(storage._cdata, -1)
            found.append((tuple(out.shape), out.stride(), out.dtype, out.device, storage.nbytes(), alias))
        return found


def flat(result: object) -> list[torch.Tensor]:
    """The tensors of an operator's result, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [part for part in result if isinstance(part, torch.Tensor)] if isinstance(result, (tuple, list)) else []


def bound(name: str, inputs: Sequence[tuple[tuple[int, ...], int]]) -> int | None:
    """Bytes that an operator whose outputs depend on data can need at most; None where no rule is known.

    name: `aten.nonzero.default`. inputs: (shape, bytes an element) of its tensors.
    """
    if not inputs:
        return None
    shape, element = inputs[0]
    count = prod(shape)
    packet = name.split(".")[1]
    if packet == "nonzero":
        return count * len(shape) * 8  # an int64 index for each dimension of each element
    if packet in ("masked_select", "index"):
        return max(prod(s) for s, _ in inputs) * element
    if packet in ("unique_dim", "_unique", "_unique2", "unique_consecutive", "unique_dim_consecutive"):
        return count * (element + 16)  # the values, and int64 for inverse and counts
    return None
