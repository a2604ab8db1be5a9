"""Two layers of a segment in one kernel (kernels.tiled), where no gradient is wanted.

A pair is convolution, activation, pooling, convolution, activation, pooling, of which nobody else reads anything but
the end; poolings may be missing. The kernel pads with zeros on all sides, as the layers do. Of a window within the
image it therefore computes a border of wrong results, which reach no further than the layers look: those that the
window is for are right, and are cut out. A window that does not begin where the poolings' windows do gets zeros in
front.

Whatever is outside the kernels' envelope runs in torch's operations, as do backward passes, which compute again what
they need.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from frugal.sft import nodes
from frugal.sft.errors import SftError
from frugal.sft.graph import Part, trace
from frugal.sft.host import Place
from frugal.sft.nodes import Node
from frugal.sft.ranges import Range
from frugal.sft.surroundings import Surroundings
from kernels import cache, launch, tiled
from kernels.tiled import MmaVariant, PairShape, Variant

NOMINAL = 64  # rows and columns on which a pair's worth is judged; it depends on channels alone
POOL = (2, 2, 1, 0, 0, False)
# What the kernels compute in, by the type of the maps and whether TF32 is allowed.
RUNGS = {
    (torch.float32, False): ("v4_pair_reg", "f32"),
    (torch.float32, True): ("v5_pair_mma", "tf32"),
    (torch.bfloat16, False): ("v5_pair_mma", "bf16"),
    (torch.bfloat16, True): ("v5_pair_mma", "bf16"),
}


@dataclass(frozen=True, eq=False)
class Pair:
    """nodes: in order; first, second: the convolutions among them. pools: after which of these one stands.

    activation, slope: of both layers.
    """

    nodes: tuple[Node, ...]
    first: Node
    second: Node
    pools: tuple[bool, bool]
    activation: str
    slope: float

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.nodes)

    @property
    def last(self) -> Node:
        return self.nodes[-1]

    def shape(self, images: int, rows: int, columns: int) -> PairShape:
        """Raises UnsupportedPair, or ValueError for so few rows or columns that nothing is left."""
        one, two = self.first.module, self.second.module
        return PairShape(
            images, one.in_channels, one.out_channels, two.out_channels, rows, columns, *self.pools, self.activation
        )


def pairs_of(part: Part, but: Collection[str] = ()) -> tuple[Pair, ...]:
    """The pairs of a segment for which there is a kernel that is worth using; no node is in two of them.

    but: convolutions whose input is not as they read it.
    """
    readers: dict[str, list[Node]] = {}
    for node in part.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    found: list[Pair] = []
    taken: set[str] = set()
    for node in part.nodes:
        pair = None if node.name in taken or node.name in but else _pair(node, readers, part.output)
        if pair is not None:
            found.append(pair)
            taken |= set(pair.names)
    return tuple(found)


def _pair(node: Node, readers: Mapping[str, list[Node]], output: str) -> Pair | None:
    one = _layer(node, readers, output)
    if one is None:
        return None
    following = _only(one[-1], readers, output)
    two = None if following is None else _layer(following, readers, output)
    if two is None:
        return None
    kinds = {_activation(layer) for layer in (one, two)}
    pools = tuple(layer[-1].op == nodes.MAX_POOL for layer in (one, two))
    if len(kinds) > 1:  # the kernels have one for both
        return None
    pair = Pair((*one, *two), one[0], two[0], pools, *kinds.pop())
    try:
        return pair if tiled.worth(pair.shape(1, NOMINAL, NOMINAL)) else None
    except ValueError:
        return None


def _layer(node: Node, readers: Mapping[str, list[Node]], output: str) -> list[Node] | None:
    """A convolution with the activation and the pooling behind it."""
    plain = node.op == nodes.CONV and node.module.groups == 1
    if not plain or any((a.kernel, a.stride, a.dilation, a.low, a.high) != (3, 1, 1, 1, 1) for a in node.axes):
        return None
    found = [node]
    following = _only(node, readers, output)
    if following is not None and isinstance(following.module, nn.ReLU | nn.LeakyReLU):
        found.append(following)
        following = _only(following, readers, output)
    halves = following is not None and following.op == nodes.MAX_POOL
    if halves and all((a.kernel, a.stride, a.dilation, a.low, a.high, a.ceil) == POOL for a in following.axes):
        found.append(following)
    return found


def _only(node: Node, readers: Mapping[str, list[Node]], output: str) -> Node | None:
    """The one reader of a map that nobody else needs."""
    found = readers.get(node.name, ())
    return found[0] if len(found) == 1 and node.name != output else None


def _activation(layer: list[Node]) -> tuple[str, float]:
    module = layer[1].module if len(layer) > 1 else None
    if isinstance(module, nn.LeakyReLU):  # of another slope than a kernel takes it is no activation that they know
        return "leaky" if 0 < module.negative_slope <= 1 else "steep", module.negative_slope
    return ("relu" if isinstance(module, nn.ReLU) else "none"), 0.0


def check(
    model: nn.Module, image_shape: Sequence[int], device: torch.device, dtype: torch.dtype, channels_last: bool
) -> None:
    """Raises SftError where no pair of a model's layers would run in one kernel."""
    if not usable(device, dtype, channels_last):
        how = f"{dtype}{', channels-last,' * channels_last} on {device.type}"
        raise SftError(f"backend = 'kernel': no kernel computes in {how}: leave it to torch")
    if not any(pairs_of(part) for part in trace(model).sized(image_shape).cut(())):
        raise SftError(
            "backend = 'kernel': no two layers of this network are within the kernels' envelope (two 3×3 "
            "convolutions in a row, 16 channels in and 128 out at most): leave it to torch"
        )


def usable(device: torch.device, dtype: torch.dtype, channels_last: bool) -> bool:
    """Whether kernels compute in this type there, on maps laid out so."""
    if channels_last:
        return False
    if device.type == "cuda" and dtype == torch.bfloat16:
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return dtype == torch.float32 or (dtype == torch.bfloat16 and device.type != "cpu")


class Fused:
    """A segment's pairs within one pass, whose weights are laid out once for all windows.

    at: the pairs by the names of their first nodes. weights: by node and role. dtype: what the layers compute in. tf32:
    whether products may.
    """

    def __init__(
        self, pairs: Sequence[Pair], weights: Mapping[tuple[str, str], Tensor], dtype: torch.dtype, tf32: bool
    ) -> None:
        self.at = {pair.first.name: pair for pair in pairs}
        self._weights, self._dtype, self._tf32 = weights, dtype, tf32
        self._ready: dict[object, Any] = {}

    @classmethod
    def begin(
        cls, pairs: Sequence[Pair], weights: Mapping[tuple[str, str], Tensor], around: Surroundings, place: Place
    ) -> Fused | None:
        """For a pass; None where no kernel computes what torch would."""
        dtype = around.autocast or place.dtype
        if not pairs or not usable(place.device, dtype, place.channels_last):
            return None
        return cls(pairs, weights, dtype, around.tf32[0])

    def __call__(self, pair: Pair, x: Tensor, first: tuple[int, int], made: tuple[Range, Range]) -> Tensor | None:
        """The pair's output for a window; None where no kernel computes it.

        x [N, C, h, w]: what the first layer reads, which begins at row and column `first` of the map. made: rows and
        columns of the output that are wanted.
        """
        q = (1 + pair.pools[0]) * (1 + pair.pools[1])
        before = [start % q for start in first]
        if any(before):
            x = functional.pad(x, (before[1], 0, before[0], 0))
        try:
            shape = pair.shape(x.shape[0], *x.shape[2:])
            tiled.check(shape)
            y = self._run(pair, shape, x.to(self._dtype).contiguous())
        except ValueError:  # too many elements for a kernel, or too few rows to leave any
            return None
        for axis, (start, zeros, (lo, hi)) in enumerate(zip(first, before, made, strict=True)):
            y = y.narrow(2 + axis, lo - (start - zeros) // q, hi - lo)
        return y

    def _run(self, pair: Pair, shape: PairShape, x: Tensor) -> Tensor:
        y = x.new_empty((shape.N, shape.C_out, shape.H_out, shape.W_out))
        if x.device.type == "cuda":
            self._on_gpu(pair, shape, x, y)
        elif x.device.type == "cpu":
            self._on_cpu(pair, shape, x, y)
        return y

    def _on_cpu(self, pair: Pair, shape: PairShape, x: Tensor, y: Tensor) -> None:
        from kernels.tiled import cpu  # loads numba

        key = pair, shape
        if key not in self._ready:
            self._ready[key] = cpu.Prepared(shape, *self._own(pair), slope=pair.slope)
        self._ready[key](x, y)

    def _on_gpu(self, pair: Pair, shape: PairShape, x: Tensor, y: Tensor) -> None:
        rung, dtype = RUNGS[self._dtype, self._tf32]
        capability = "{}.{}".format(*torch.cuda.get_device_capability(x.device))
        if self._dtype == torch.float32 and float(capability) < 8:  # without matrix instructions in TF32
            rung, dtype = RUNGS[torch.float32, False]
        made = tiled.plan(shape, rung=rung, dtype=dtype, capability=capability)
        key = pair, made.steps[0].variant
        if key not in self._ready:
            self._ready[key] = tiled.pack(made, *self._own(pair))
        given = tiled.arguments(made, self._ready[key], x, y, slope=pair.slope)
        kernels = functools.partial(kernel, capability=capability, index=x.device.index)
        for each in tiled.bind(made, kernels, given):
            each()

    def _own(self, pair: Pair) -> list[Tensor | None]:
        """w1, w2, b1, b2 in float32."""
        found = [
            self._weights.get((node.name, role)) for role in ("weight", "bias") for node in (pair.first, pair.second)
        ]
        return [None if each is None else each.detach().float() for each in found]


@functools.cache
def kernel(variant: Variant | MmaVariant, capability: str, index: int) -> launch.Kernel:
    """The loaded kernel of a variant for the GPU of that index, built first where it is not."""
    with torch.cuda.device(index):
        return launch.load(cache.built(variant.source(capability), capability))
