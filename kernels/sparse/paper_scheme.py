"""How the paper's scheme is launched for a layer: its published tiles and thresholds, grids, lists and arguments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.sparse import paper
from kernels.sparse.shape import ConvShape, UnsupportedShape

if TYPE_CHECKING:
    import torch

    from kernels.launch import Launch

# The paper's public artifact: rows and columns of a tile and channels of a block, as its authors tuned them for a GPU
# (for the 2080 Ti once in networks and once layer by layer), and the share of zeros from which on its own kernels run.
# C, H = W, N: V100, 2080 Ti in networks, 2080 Ti by layer, threshold
TUNED_FOR = ("v100", "rtx2080ti_networks", "rtx2080ti_layers")
PUBLISHED = {
    (128, 56, 32): ((4, 5, 8), (7, 7, 8), (7, 7, 8), 0.6),
    (128, 28, 32): ((4, 7, 2), (7, 7, 2), (7, 7, 2), 0.01),
    (128, 14, 32): ((2, 7, 4), (3, 7, 4), (2, 7, 2), 0.01),
    (128, 7, 32): ((3, 7, 2), (2, 7, 4), (2, 4, 2), 0.01),
    (64, 56, 64): ((2, 7, 16), (4, 7, 8), (7, 7, 8), 0.6),
    (128, 28, 128): ((2, 7, 16), (4, 7, 8), (7, 7, 8), 0.1),
    (256, 14, 256): ((2, 7, 8), (2, 7, 16), (6, 7, 8), 0.1),
    (512, 7, 512): ((2, 7, 4), (2, 7, 16), (7, 7, 8), 0.01),
}


@dataclass(frozen=True)
class Scheme:
    """The two launches of a layer. x and y have their channels fastest: [H, W, C] and [H, W, N]."""

    shape: ConvShape
    transform: paper.Transform
    conv: paper.Conv
    group: int
    """Input channels of a block of the second launch."""
    threshold: float | None
    """Share of zeros in the input from which on the paper takes this scheme; None: not published."""

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of output tiles."""
        return -(-self.shape.H_out // self.conv.th), -(-self.shape.W_out // self.conv.tw)

    @property
    def lists(self) -> int:
        """Lists: one a channel and tile."""
        return self.shape.C * self.tiles[0] * self.tiles[1]

    @property
    def entries(self) -> int:
        """Entries that all lists together have room for."""
        return self.lists * paper.room(self.conv.th, self.conv.tw)

    @property
    def groups(self) -> int:
        """Groups of input channels: as many blocks add to each output."""
        return -(-self.shape.C // self.group)

    @property
    def transform_block(self) -> int:
        """Threads of a block of the first launch."""
        return min(_padded(self.shape.C), paper.THREADS_MAX)

    @property
    def transform_grid(self) -> tuple[int, int, int]:
        """Blocks of the first launch: columns, rows, and groups of channels."""
        return self.shape.W, self.shape.H, -(-self.shape.C // self.transform_block)

    @property
    def conv_block(self) -> int:
        """Threads of a block of the second launch."""
        return _padded(self.shape.N)

    @property
    def conv_grid(self) -> tuple[int, int, int]:
        """Blocks of the second launch: tiles and groups of channels."""
        return self.tiles[0] * self.tiles[1], self.groups, 1


def scheme(shape: ConvShape, tuned_for: str = "v100") -> Scheme:
    """The paper's choice for a layer of ResNet-50 or DenseNet-169, or of their sisters, on one of `TUNED_FOR`.

    Raises UnsupportedShape for a batch, and for shapes to which the paper gives no tile.
    """
    published = PUBLISHED.get((shape.C, shape.H, shape.N)) if shape.H == shape.W else None
    if published is None or (shape.k, shape.stride) != (3, 1):
        known = "; ".join("{},{}→{}".format(*key) for key in PUBLISHED)
        raise UnsupportedShape(
            f"the paper gives no tile for {shape.C},{shape.H}x{shape.W}→{shape.N} with k = {shape.k} and stride = "
            f"{shape.stride}: its scheme is for 3x3 filters with stride 1 on {known}."
        )
    column = TUNED_FOR.index(tuned_for)
    th, tw, group = published[column]
    # One compiled kernel serves every layer with this tile.
    channels = max(row[column][2] for row in PUBLISHED.values() if row[column][:2] == (th, tw))
    return cut(shape, paper.Conv(th, tw, channels), group, published[-1])


def cut(shape: ConvShape, conv: paper.Conv, group: int, threshold: float | None = None) -> Scheme:
    """The launches with a tile and a group of one's own. Raises UnsupportedShape, naming what is not possible."""
    found = Scheme(shape, paper.Transform(conv.th, conv.tw), conv, group, threshold)
    for field, value, allowed in (
        ("B", shape.B, 1),
        ("k", shape.k, 3),
        ("stride", shape.stride, 1),
        ("pad", shape.pad, 1),
    ):
        if value != allowed:
            raise UnsupportedShape(f"{field} = {value}: the paper's scheme is for {field} = {allowed} alone.")
    if shape.N > paper.THREADS_MAX:
        raise UnsupportedShape(
            f"N = {shape.N}: the paper's scheme has a thread an output channel, so at most {paper.THREADS_MAX}."
        )
    if not 1 <= group <= conv.channels:
        raise UnsupportedShape(f"group = {group}: the kernel {conv.name} takes 1 to {conv.channels} channels a block.")
    if max(found.entries, shape.H * shape.W * max(shape.C, shape.N), shape.C * 9 * found.conv_block) >= 2**31:
        raise UnsupportedShape(f"{shape} has 2^31 elements or more: the kernels index fewer; take a smaller image.")
    return found


def kernels(shapes: Iterable[ConvShape], tuned_for: str = "v100") -> tuple[paper.Transform | paper.Conv, ...]:
    """The kernels that these layers need, each once; a layer that the paper has no tile for needs none."""
    found: dict[paper.Transform | paper.Conv, None] = {}
    for shape in shapes:
        try:
            chosen = scheme(shape, tuned_for)
        except UnsupportedShape:
            continue
        found |= {chosen.transform: None, chosen.conv: None}
    return tuple(found)


class Lists:
    """The lists of one layer's non-zeros, in the device's memory. `clear` empties them."""

    def __init__(self, scheme: Scheme, device: torch.device | str) -> None:
        import torch

        self.values = torch.empty(scheme.entries, dtype=torch.float32, device=device)
        self.positions = torch.empty(scheme.entries, dtype=torch.uint8, device=device)
        self.lengths = torch.zeros(scheme.lists, dtype=torch.int32, device=device)

    def clear(self) -> None:
        """Enqueues the first of the scheme's two clears."""
        self.lengths.zero_()


def transform_arguments(scheme: Scheme, x: torch.Tensor, lists: Lists) -> list[torch.Tensor | int]:
    """What the first kernel is bound with, to `transform_grid` and `transform_block`.

    x: [H, W, C] float32, contiguous. Raises UnsupportedShape for another.
    """
    shape = scheme.shape
    _check("x", x, (shape.H, shape.W, shape.C))
    return [x.detach().view(-1), lists.values, lists.positions, lists.lengths, shape.C, shape.H, shape.W, *scheme.tiles]


def conv_arguments(scheme: Scheme, lists: Lists, w_packed: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor | int]:
    """What the second kernel is bound with, to `conv_grid` and `conv_block`.

    w_packed: [C, 3, 3, Npad] float32 from `pack_weights`; y: [H, W, N] float32, contiguous: the kernel adds to it.
    Raises UnsupportedShape for others.
    """
    shape, padded = scheme.shape, scheme.conv_block
    _check("w_packed", w_packed, (shape.C, 3, 3, padded))
    _check("y", y, (shape.H, shape.W, shape.N))
    rows, cols = scheme.tiles
    sizes = [shape.C, shape.H, shape.W, shape.N, padded, cols, rows * cols, scheme.group]
    return [lists.values, lists.positions, lists.lengths, w_packed.detach().view(-1), y.detach().view(-1), *sizes]


def count_grid(n: int) -> tuple[int, int, int]:
    """Blocks of `paper.Count` for n activations."""
    return -(-n // paper.COUNT_THREADS), 1, 1


def run(lists: Lists, y: torch.Tensor, transform: Launch, conv: Launch, bias: torch.Tensor | None = None) -> None:
    """Enqueues the layer: clear, clear, transform, conv, and the addition of bias [N] where there is one."""
    lists.clear()
    y.zero_()
    transform()
    conv()
    if bias is not None:
        y.add_(bias)


def _padded(count: int) -> int:
    return -(-count // paper.WARP) * paper.WARP


def _check(name: str, tensor: torch.Tensor, wanted: tuple[int, ...]) -> None:
    import torch

    if tuple(tensor.shape) != wanted or tensor.dtype != torch.float32 or not tensor.is_contiguous():
        raise UnsupportedShape(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)} with strides {tensor.stride()}: the paper's scheme takes "
            f"contiguous float32 {wanted}."
        )
