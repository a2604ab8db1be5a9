"""What is known of a key (an operator with the geometry of its arguments): its outputs, their bytes, its cost.

Learned from a run, or predicted on fake tensors before the first run where a budget must be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from frugal.dtr.costs import CostTable, Roofline, Samples, key_text
from frugal.dtr.errors import DtrError
from frugal.dtr.policy import Node
from frugal.dtr.recipes import rebuild
from frugal.dtr.sizes import Fakes, rounded

Meta = tuple[tuple[int, ...], tuple[int, ...], torch.dtype, torch.device]


class Out(NamedTuple):
    """An output: bytes of its own (0 for a view), the input that it is a view of (-1: none), geometry by number."""

    size: int
    alias: int
    meta: int
    device: torch.device


class Spec:
    """outs: of each output tensor. total: Σ bytes. cost: ns. samples: of the cost, None where it is not measured.

    seen: it has run, so that sizes are facts. workspace: bytes that a kernel took beside its outputs (device scope).
    """

    __slots__ = ("cost", "key", "outs", "samples", "seen", "total", "workspace")

    def __init__(self, key: tuple, outs: list[Out], cost: int, samples: Samples | None) -> None:
        self.key = key
        self.outs = outs
        self.total = sum(out.size for out in outs)
        self.cost = cost
        self.samples = samples
        self.seen = False
        self.workspace = 0


class Specs:
    """All keys met so far; a Budget used again goes on with them."""

    def __init__(self, costs: CostTable | Roofline | None) -> None:
        self.known: dict[tuple, Spec] = {}
        self.geometries: list[Meta] = []
        self._numbers: dict[Meta, int] = {}
        self._costs = costs
        self.measured = costs is None
        self._fakes: Fakes | None = None

    def number(self, shape: tuple, strides: tuple, dtype: torch.dtype, device: torch.device) -> int:
        """The number of a geometry."""
        meta = (tuple(shape), strides, dtype, device)
        found = self._numbers.get(meta)
        if found is None:
            found = self._numbers[meta] = len(self.geometries)
            self.geometries.append(meta)
        return found

    def geometry(self, tensor: torch.Tensor) -> int:
        """The number of a real tensor's geometry."""
        return self.number(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)

    def learn(self, key: tuple, func: object, args: list, kwargs: dict, inputs: list[Node], outs: list) -> Spec:
        """The spec of a key that has just run on its inputs' values."""
        owners = {node.value.untyped_storage()._cdata: i for i, node in reversed(list(enumerate(inputs)))}
        made = []
        for out in outs:
            storage = out.untyped_storage()
            alias = owners.get(storage._cdata, -1)
            size = 0 if alias >= 0 else rounded(storage.nbytes(), out.device)
            made.append(Out(size, alias, self.geometry(out), out.device))
        return self._add(key, func, args, kwargs, inputs, made, seen=True)

    def predict(self, key: tuple, func: object, args: list, kwargs: dict, inputs: list[Node]) -> Spec | None:
        """The spec of a key that has not run; None where fake tensors cannot tell."""
        self._fakes = self._fakes or Fakes()
        outs = self._fakes.outputs(func, args, kwargs, self._real)
        if outs is None:
            return None
        made = []
        for shape, strides, dtype, device, size, alias in outs:
            own = 0 if alias >= 0 else rounded(size, device)
            made.append(Out(own, alias, self.number(shape, strides, dtype, device), device))
        return self._add(key, func, args, kwargs, inputs, made, seen=False)

    def given(self, key: tuple, func: object, args: list, kwargs: dict, inputs: list[Node], outs: list[Out]) -> Spec:
        """The spec of a key whose outputs are known without running it."""
        return self._add(key, func, args, kwargs, inputs, outs, seen=False)

    def table(self) -> CostTable:
        """The costs by key text."""
        return CostTable({self.text(spec.key): spec.cost for spec in self.known.values()})

    def text(self, key: tuple) -> str:
        """A key as text, with geometries spelled out."""
        name, parts = key
        return key_text(name, self._spelled(parts))

    def _spelled(self, parts: Sequence[object]) -> tuple:
        """Geometries are whole numbers in a key; other arguments stand behind an empty string."""
        if len(parts) == 2 and parts[0] == "":
            return (parts[1],)
        return tuple(
            self.geometries[part] if type(part) is int else self._spelled(part) if type(part) is tuple else part
            for part in parts
        )

    def _real(self, value: object) -> Meta | None:
        return self.geometries[value.meta] if type(value) is Node else None

    def _add(
        self, key: tuple, func: object, args: list, kwargs: dict, inputs: list[Node], outs: list[Out], seen: bool
    ) -> Spec:
        samples = None
        if self._costs is None:
            cost, samples = 1, Samples()
        elif isinstance(self._costs, Roofline):
            cost = self._modelled(func, args, kwargs, inputs, outs)
        else:
            cost = self._costs.get(self.text(key), -1)
            if cost < 0:
                raise DtrError(
                    f"the table of costs lacks {self.text(key)}: take it from a Budget that ran the same step "
                    '(Budget.costs()), or measure with cost="measured"'
                )
        spec = self.known[key] = Spec(key, outs, cost, samples)
        spec.seen = seen
        return spec

    def _modelled(self, func: object, args: list, kwargs: dict, inputs: list[Node], outs: list[Out]) -> int:
        assert isinstance(self._costs, Roofline)
        moved = sum(self._bytes(node.meta) for node in inputs) + sum(self._bytes(out.meta) for out in outs)
        shapes = rebuild(args, lambda node: list(self.geometries[node.meta][0]))
        named = dict(zip(kwargs, rebuild(kwargs.values(), lambda n: list(self.geometries[n.meta][0])), strict=True))
        results: list[list[int] | None] = [list(self.geometries[out.meta][0]) for out in outs]
        if getattr(func, "overloadpacket", None) is torch.ops.aten.convolution_backward:
            asked = iter(results)  # an output that is not asked for is None, which `outs` leaves out
            results = [next(asked) if wanted else None for wanted in args[-1]]
        return self._costs.ns(func, shapes, results[0] if len(results) == 1 else results, named, moved)

    def _bytes(self, meta: int) -> int:
        shape, _, dtype, _ = self.geometries[meta]
        count = dtype.itemsize
        for size in shape:
            count *= size
        return count
