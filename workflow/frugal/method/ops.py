"""Operations whose implementation is fixed: what no tuner chooses anew in each process.

Forty of them, of sizes that a layer has. On a CPU the same operations are smaller, so that one takes about a
millisecond. The convolutions run without `cudnn.benchmark`: cuDNN then takes the algorithm that its heuristic names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Shapes = Mapping[str, tuple[int, ...]]
MB = 1 << 20


@dataclass(frozen=True)
class Op:
    """An operation on inputs of these shapes (standard normal). `run` maps the inputs, by name, to one new tensor."""

    name: str
    shapes: Shapes
    run: Callable[[Mapping[str, Tensor]], Tensor]
    dtype: str = "float32"
    tf32: bool = False
    autotune: bool = False
    flop: float | None = None

    @property
    def bytes_min(self) -> float:
        """What is read at least; the output of most is as large as one input, and is left out."""
        return float(sum(math.prod(shape) for shape in self.shapes.values()) * getattr(torch, self.dtype).itemsize)


def equal_ops(kind: str) -> list[Op]:
    """The forty operations for a device of this kind (`cpu` or `cuda`), in a fixed order."""
    big = kind == "cuda"
    sides = (512, 1024, 2048, 4096) if big else (64, 128, 192, 256)
    copies = (1, 4, 16, 64, 256) if big else (1, 2, 4, 8, 16)
    many = (16 if big else 1) * MB
    rows = 4096 if big else 256
    found = [matmul(n) for n in sides]
    found += [matmul(n, tf32=True) if big else matmul(n + 32) for n in sides]
    found += [matmul(n, dtype="float16") if big else matmul(n + 16) for n in sides[:3]]
    found += [copy(size * MB) for size in copies]
    found += [_elementwise(name, many) for name in ("relu", "exp", "sigmoid", "tanh", "neg", "abs")]
    found += [_binary(name, many) for name in ("add", "mul", "maximum")]
    found += [_rowwise(name, rows, 1024) for name in ("softmax", "layer_norm", "sum_rows", "sum_columns", "cumsum")]
    found += [_transpose(rows), _batched(8, sides[0]), _pool(8, 64, 56), _norm(many)]
    found += [conv(*shape) for shape in ((8, 64, 56, 64), (8, 128, 28, 128), (8, 256, 14, 256), (8, 512, 7, 512))]
    found += [conv(1, 128, 28, 32), conv(1, 256, 14, 256)]
    return found


def matmul(n: int, dtype: str = "float32", tf32: bool = False) -> Op:
    """n × n times n × n."""
    name = f"matmul {n} {'TF32' if tf32 else dtype}"
    shapes = {"a": (n, n), "b": (n, n)}
    return Op(name, shapes, lambda given: given["a"] @ given["b"], dtype, tf32, flop=2.0 * n**3)


def copy(size_bytes: int) -> Op:
    """So many bytes from one place to another."""
    return Op(f"copy {size_bytes // MB} MB", {"a": (size_bytes // 4,)}, lambda given: given["a"].clone())


def conv(batch: int, channels: int, side: int, filters: int, *, tf32: bool = False, autotune: bool = False) -> Op:
    """A 3×3 convolution with padding 1. Its FLOP are not known: the library may choose a fast algorithm."""
    flags = (" TF32" if tf32 else "") + (" autotuned" if autotune else "")
    return Op(
        f"conv {channels}→{filters} at {side}² B={batch}{flags}",
        {"x": (batch, channels, side, side), "w": (filters, channels, 3, 3)},
        lambda given: functional.conv2d(given["x"], given["w"], padding=1),
        tf32=tf32,
        autotune=autotune,
    )


def _elementwise(name: str, size: int) -> Op:
    call = getattr(torch, name)
    return Op(f"{name} {size // MB} M", {"a": (size,)}, lambda given: call(given["a"]))


def _binary(name: str, size: int) -> Op:
    call = getattr(torch, name)
    return Op(f"{name} {size // MB} M", {"a": (size,), "b": (size,)}, lambda given: call(given["a"], given["b"]))


def _rowwise(name: str, rows: int, columns: int) -> Op:
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        "softmax": lambda a: torch.softmax(a, -1),
        "layer_norm": lambda a: functional.layer_norm(a, (columns,)),
        "sum_rows": lambda a: a.sum(1),
        "sum_columns": lambda a: a.sum(0),
        "cumsum": lambda a: a.cumsum(1),
    }
    return Op(f"{name} {rows}×{columns}", {"a": (rows, columns)}, lambda given: calls[name](given["a"]))


def _transpose(n: int) -> Op:
    return Op(f"transpose {n}²", {"a": (n, n)}, lambda given: given["a"].t().contiguous())


def _batched(batch: int, n: int) -> Op:
    shapes = {"a": (batch, n, n), "b": (batch, n, n)}
    flop = 2.0 * batch * n**3
    return Op(f"batched matmul {batch}×{n}", shapes, lambda given: torch.bmm(given["a"], given["b"]), flop=flop)


def _pool(batch: int, channels: int, side: int) -> Op:
    shapes = {"a": (batch, channels, side, side)}
    return Op(f"max_pool {channels} at {side}²", shapes, lambda given: functional.max_pool2d(given["a"], 3, 2, 1))


def _norm(size: int) -> Op:
    # and not the mean: that of standard normal numbers is all but zero, and its relative error is not small
    run = torch.linalg.vector_norm
    return Op(f"norm {size // MB} M", {"a": (size,)}, lambda given: run(given["a"]).reshape(1))
