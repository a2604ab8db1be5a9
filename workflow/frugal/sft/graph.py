"""A model as SFT sees it: a body of spatially local nodes, and a head that runs plainly on the body's output."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from frugal.sft import nodes
from frugal.sft.errors import PlanError, ShapeError, UnsupportedOp
from frugal.sft.lower import Seen, lower
from frugal.sft.nodes import Node
from frugal.sft.ranges import TRANSPOSED, UPSAMPLE, Axis

Shape = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Head:
    """What runs on the body's output.

    mean: None, or whether the output's mean over all positions, which comes first and alone reads it, keeps its
    dimensions ([N, C, 1, 1], else [N, C]): it is summed tile by tile, so that the output need not be kept. module: the
    rest, a function of that mean or of the output; None where nothing follows.
    """

    mean: bool | None
    module: nn.Module | None

    def __call__(self, value: Tensor) -> Tensor:
        """The model's output from the body's output or, with `mean`, from its mean [N, C]."""
        if self.mean:
            value = value[:, :, None, None]
        return value if self.module is None else self.module(value)


@dataclass(frozen=True, eq=False)
class Part:
    """A segment's nodes, producers first; the maps and the vectors that it reads; its output."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    vectors: tuple[str, ...]
    output: str


@dataclass(frozen=True, eq=False)
class Graph:
    """nodes: of the body, producers first; image: the name of what they read; output: the body's last node.

    modes: modules whose training flag decided what a node is, each with the flag that it had.
    """

    nodes: tuple[Node, ...]
    output: str
    head: Head
    image: str
    modes: tuple[tuple[nn.Module, bool], ...] = ()

    def __getitem__(self, name: str) -> Node:
        found = next((node for node in self.nodes if node.name == name), None)
        if found is None:
            raise PlanError(f"the network has no node {name!r}: take one of {', '.join(n.name for n in self.nodes)}")
        return found

    @property
    def current(self) -> bool:
        """Whether the modules are still in the modes in which the model was traced."""
        return all(module.training == training for module, training in self.modes)

    @property
    def forced(self) -> frozenset[str]:
        """Maps that must be kept whole: those that are read for their mean or statistics; the image is one anyway."""
        return frozenset(name for node in self.nodes if node.whole for name in node.inputs) - {self.image}

    def sized(self, image_shape: Sequence[int]) -> Graph:
        """The graph for images [N, C, H, W]: outputs as large as another map get their padding or factor, and an
        average over all that its input has, which ends the body, becomes the head's mean. Raises ShapeError.
        """
        found: list[Node] = []
        shapes = {self.image: checked_shape(image_shape)}
        for node in self.nodes:
            if "like" in node.attrs:
                node = _as_large(node, shapes[node.inputs[0]], shapes[node.attrs["like"]])
            found.append(node)
            if not node.whole:
                shapes[node.name] = _shape(node, shapes)
        last = found[-1]
        graph = dataclasses.replace(self, nodes=tuple(found))
        if last.op != nodes.AVG_POOL or last.name != self.output or self.head.mean is not None:
            return graph
        if not _is_mean(last, shapes[last.inputs[0]]) or last.inputs[0] == self.image:
            return graph
        if any(last.inputs[0] in (*node.inputs, *node.vectors) for node in found[:-1]):
            return graph
        head = Head(mean=True, module=self.head.module)
        return dataclasses.replace(graph, nodes=tuple(found[:-1]), output=last.inputs[0], head=head)

    def shapes(self, image_shape: Sequence[int]) -> dict[str, Shape]:
        """{name: (N, C, H, W)} of the image and of every map, for a graph that is `sized` for it.

        Raises ShapeError for an image that the network cannot take: a side shorter than a kernel, other channels, maps
        of different sizes that meet.
        """
        found = {self.image: checked_shape(image_shape)}
        for node in self.nodes:
            if not node.whole:
                found[node.name] = _shape(node, found)
        return found

    def cut(self, materialised: Iterable[str]) -> list[Part]:
        """The segments of kept maps, in the order in which they run; the body's output and `forced` are always kept.

        A node that two segments need stands in both. PlanError for a name that is no map of the body.
        """
        maps = {node.name for node in self.nodes if not node.whole}
        unknown = [name for name in materialised if name not in maps]
        if unknown:
            raise PlanError(f"the network has no map {unknown[0]!r} to cut at: take one of {', '.join(sorted(maps))}")
        kept = {*materialised, *self.forced, self.output}
        return [self._part(node.name, kept) for node in self.nodes if node.name in kept]

    def _part(self, output: str, kept: set[str]) -> Part:
        needed, inputs, vectors, found = {output}, [], [], []
        for node in reversed(self.nodes):
            if node.name not in needed or node.whole:
                continue
            found.append(node)
            for name in node.inputs:
                if name not in kept and name != self.image:
                    needed.add(name)
                elif name not in inputs:
                    inputs.append(name)
            vectors += [name for name in node.vectors if name not in vectors]
        return Part(tuple(reversed(found)), tuple(reversed(inputs)), tuple(reversed(vectors)), output)


def trace(model: nn.Module, *, allow_dropout: bool = False) -> Graph:
    """The graph of a model of one image batch [N, C, H, W], in the mode in which it is.

    The body ends at the last map that the rest reads. Raises UnsupportedOp: for what torch.fx cannot follow, for an
    operation that cannot run in tiles before the last convolution or pooling, for several maps that the head reads.
    """
    try:
        traced = fx.Tracer().trace(model)
    except Exception as problem:  # whatever the model's own code raises when it meets a proxy
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise UnsupportedOp(
            type(model).__name__,
            f"what torch.fx cannot trace ({reason})",
            "write its forward without conditions on tensors",
        ) from None
    seen = Seen(model, allow_dropout)
    images = [node for node in traced.nodes if node.op == "placeholder" and node.users]
    if len(images) != 1:
        raise UnsupportedOp(
            type(model).__name__, f"a model of {len(images)} inputs", "give one of a single image tensor"
        )
    seen.maps[images[0]] = images[0].name
    for node in traced.nodes:
        if node.op not in ("placeholder", "output"):
            lower(seen, node)
    return _split(model, traced, seen, images[0].name)


def _split(model: nn.Module, traced: fx.Graph, seen: Seen, image: str) -> Graph:
    """Cut the head off behind the last map that it reads; nodes whose results nobody reads are left out."""
    output = next(node for node in traced.nodes if node.op == "output")
    head, read, waiting = {output}, {}, [output]
    while waiting:
        reader = waiting.pop()
        for each in reader.all_input_nodes:
            if each in seen.maps:
                read.setdefault(seen.maps[each], reader)
            elif each not in head:
                head.add(each)
                waiting.append(each)
    order = [node.name for node in seen.nodes if node.name in read]
    refusal = next(iter(seen.refused.values()), None)
    if not order:
        raise refusal or UnsupportedOp(type(model).__name__, "a model without convolutions", "there is nothing to tile")
    if len(read) > 1:
        other = next(name for name in read if name != order[-1])
        raise seen.refused.get(read[other]) or UnsupportedOp(
            read[other].name,
            f"a head that reads {other} beside {order[-1]}",
            "let what follows the last map read it alone",
        )
    needed = {order[-1]}
    for node in reversed(seen.nodes):
        if node.name in needed:
            needed |= {*node.inputs, *node.vectors}
    body = tuple(node for node in seen.nodes if node.name in needed)
    modes = tuple((module, module.training) for module in model.modules())
    return Graph(body, order[-1], _head(model, traced, seen, head), image, modes)


def _head(model: nn.Module, traced: fx.Graph, seen: Seen, head: set[fx.Node]) -> Head:
    """The rest of the graph as a module of one input, without the mean that begins it."""
    readers = [node for node in traced.nodes if node in head and any(i in seen.maps for i in node.all_input_nodes)]
    mean = next((node for node in seen.nodes if node.op == nodes.MEAN and node.name == readers[0].name), None)
    if len(readers) > 1:
        mean = None
    rest, copies = fx.Graph(), {}
    begin = rest.placeholder("value")
    for each in traced.nodes:
        if each in seen.maps or (mean is not None and each is readers[0]):
            copies[each] = begin
        elif each in head:
            copies[each] = rest.node_copy(each, lambda n: copies[n])
    empty = len(rest.nodes) == 2 and rest.find_nodes(op="output")[0].args[0] is begin
    return Head(None if mean is None else mean.attrs["keepdim"], None if empty else fx.GraphModule(model, rest))


def checked_shape(image_shape: Sequence[int]) -> Shape:
    """(N, C, H, W) of at least one pixel; (C, H, W) is read as one image. Raises ShapeError."""
    shape = (1, *image_shape) if len(image_shape) == 3 else tuple(image_shape)
    if len(shape) != 4 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ShapeError(f"image_shape = {tuple(image_shape)}: give (N, C, H, W) or (C, H, W), each at least 1")
    return shape


def _as_large(node: Node, below: Shape, like: Shape) -> Node:
    """The node with the padding or factor that makes its output as large as another map."""
    axes = []
    for axis, size, wanted in zip(node.axes, below[2:], like[2:], strict=True):
        if axis.kind == TRANSPOSED:
            extra = wanted - dataclasses.replace(axis, high=axis.low).size(size)
            possible = 0 <= extra < max(axis.stride, axis.dilation)
            axis = dataclasses.replace(axis, high=axis.low - extra)
        else:
            possible = wanted % size == 0
            axis = Axis(UPSAMPLE, stride=max(1, wanted // size))
        if not possible:
            raise ShapeError(
                f"{node.name}: {size} rows or columns cannot become {wanted}, as {node.attrs['like']} has: take an "
                "image whose sides are multiples of the network's strides"
            )
        axes.append(axis)
    return dataclasses.replace(node, axes=tuple(axes))


def _shape(node: Node, shapes: dict[str, Shape]) -> Shape:
    """The output's shape, once the inputs fit."""
    given = [shapes[name] for name in node.inputs]
    n, channels, *below = given[0]
    if node.op in (nodes.CONV, nodes.CONV_TRANSPOSE) and channels != node.module.in_channels:
        raise ShapeError(
            f"{node.name} takes {node.module.in_channels} channels and gets {channels}: give such an image"
        )
    if node.op in (nodes.AFFINE, nodes.NORMALISE):
        wanted = getattr(node.module, "num_features", getattr(node.module, "num_channels", channels))
        if wanted != channels:
            raise ShapeError(f"{node.name} takes {wanted} channels and gets {channels}: give such an image")
    for name, other in zip(node.inputs[1:], given[1:], strict=True):
        same = other[2:] == tuple(below) and (node.op == nodes.CAT or channels == other[1] or 1 in (channels, other[1]))
        if not same:
            raise ShapeError(
                f"{node.name}: {node.inputs[0]} {given[0]} and {name} {other} meet: take an image whose sides are "
                "multiples of the network's strides"
            )
    sizes = tuple(axis.size(size) for axis, size in zip(node.axes, below, strict=True))
    if min(sizes) < 1:
        raise ShapeError(
            f"{node.name}: its input has {below[0]} × {below[1]} pixels, too few for its kernel: take a larger image"
        )
    if node.op == nodes.CAT:
        channels = sum(other[1] for other in given)
    elif node.op == nodes.JOIN:
        channels = max(other[1] for other in given)
    return n, node.attrs.get("channels", channels), *sizes


def _is_mean(node: Node, below: Shape) -> bool:
    """Whether an average pooling is the mean over all of its input."""
    covers = all(axis.kernel == size and axis.low == 0 for axis, size in zip(node.axes, below[2:], strict=True))
    return covers and node.module.divisor_override is None
