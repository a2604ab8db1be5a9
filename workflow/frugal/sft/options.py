"""The ways to run each segment, with their bytes, their modelled seconds and what of them needs most memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from torch import nn

from frugal.sft import estimate, nodes
from frugal.sft.estimate import Tilings
from frugal.sft.graph import Graph, Part, Shape
from frugal.sft.search import Open, Option

EXPOSED = 0.05  # of a copy that runs beside computation: its beginning and its end
MOST_WORK = 4  # times the work of one window: tilings beyond that are halo for the most part
LEAST_GAIN = 0.01  # of the bytes: a slower way must need less by that much
LAUNCHES = 4  # operations a node and a window: forward, again forward, and two gradients


@dataclass(frozen=True)
class Rates:
    """What a device takes: seconds a multiply-add and a launch of an operation; bytes a second to and from the host."""

    mac_s: float
    launch_s: float
    copy_bytes_s: float


# Orders of magnitude of one core's vector unit and of a data-centre GPU in fp32. They only rank schedules: without
# calibration a plan predicts no time.
TYPICAL = {"cpu": Rates(2e-11, 1e-5, 1e10), "cuda": Rates(5e-14, 8e-6, 2.5e10)}


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of one network on one image shape, and everything that decides how they may run.

    graph, shapes: sized for the image. itemsize: bytes of an element of the maps. allow: kinds. training: whether a
    backward pass follows. image_bytes: of its gradient, 0 where it is not wanted. host: whether pinned host memory may
    hold boundaries and carries.
    """

    graph: Graph
    shapes: Mapping[str, Shape]
    itemsize: int
    allow: Collection[str]
    rates: Rates
    training: bool
    input_grad: bool
    host: bool
    cache: dict

    @functools.cached_property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """The maps that each map is computed from."""
        return {node.name: node.inputs for node in self.graph.nodes if not node.whole}

    def open_after(self, boundaries: frozenset[str]) -> frozenset[str]:
        """Which of the boundaries the rest of the network reads."""
        if boundaries not in self.cache:
            self.cache[boundaries] = self._open_after(boundaries)
        return self.cache[boundaries]

    def _open_after(self, boundaries: frozenset[str]) -> frozenset[str]:
        if self.graph.output in boundaries:
            return frozenset()
        needed, found = {self.graph.output}, set()
        for node in reversed(self.graph.nodes):
            if node.name in needed or node.whole:
                found |= boundaries.intersection(node.inputs) if not node.whole else set()
                needed |= set(node.inputs) - boundaries
        return frozenset(found)

    def options(self, before: Open, output: str) -> list[list[Option]]:
        """The ways to run the segment that ends in a map, grouped as `search` wants them."""
        places = dict(before)
        reads = self._reads(places, output)
        key = (output, frozenset((name, places.get(name, "device")) for name in reads))
        if key not in self.cache:
            kept = [name for name in reads if name != self.graph.image]
            part = next(part for part in self.graph.cut([*kept, output]) if part.output == output)
            self.cache[key] = self._options(part, places)
        return self.cache[key]

    def _reads(self, boundaries: Collection[str], output: str) -> set[str]:
        """The boundaries, and the image, where the ways back from a map end."""
        found, seen, ahead = set(), {output}, [output]
        while ahead:
            for name in self.inputs[ahead.pop()]:
                if name in boundaries or name == self.graph.image:
                    found.add(name)
                elif name not in seen:
                    seen.add(name)
                    ahead.append(name)
        return found

    def _options(self, part: Part, places: Mapping[str, str]) -> list[list[Option]]:
        output = part.output
        fused = output == self.graph.output and self.graph.head.mean is not None
        y = 0 if fused else self.bytes_of(output)
        gradients = y * self.training + sum(
            self.bytes_of(name)
            for name in part.inputs
            if self.training and (name != self.graph.image or self.input_grad) and places.get(name) != "host"
        )
        if self.training and self.graph.head.mean is None:  # the network's output and its gradient are somebody's
            gradients += self.bytes_of(self.graph.output) * (1 if output == self.graph.output else 2)
        weights = self.training * sum(p.numel() * p.element_size() for p in _parameters(part) if p.requires_grad)
        hosted = [name for name in part.inputs if places.get(name) == "host"]

        def ways(found: Tilings, strips: bool = False) -> Tilings:
            return estimate.beside_hosted(part, hosted, self.shapes, self.itemsize, found, strips) if hosted else found

        grids = ways(estimate.grids(part, self.shapes, self.itemsize))
        found: list[Option] = []
        base = _Base(part, y, gradients + 2 * weights, self.rates, self.training)
        if "store" in self.allow and self.training:
            found.append(_stored(base, _only(grids, 0), sum(map(self.bytes_of, hosted))))
        if "tiles" in self.allow or not self.training:
            found += _tiled(base, grids)
        if "strips" in self.allow:
            bands, carries = estimate.strips(part, self.shapes, self.itemsize)
            found += _stripped(base, ways(bands, strips=True), carries, self.host)
        if self.host and output not in {*self.graph.forced, self.graph.output}:  # those are read as a whole
            found += [_on_host(base, option) for option in found if option.kind != "store"]
        return _grouped(found)

    def bytes_of(self, name: str) -> int:
        return prod(self.shapes[name]) * self.itemsize


@dataclass(frozen=True)
class _Base:
    part: Part
    output: int
    gradients: int
    rates: Rates
    training: bool

    def seconds(self, macs: float, passes: int, windows: float, host_bytes: float = 0.0) -> float:
        compute, copy = macs * passes * self.rates.mac_s, host_bytes / self.rates.copy_bytes_s
        launches = windows * len(self.part.nodes) * LAUNCHES
        return compute + max(EXPOSED * copy, copy - compute) + launches * self.rates.launch_s


def _stored(base: _Base, t: Tilings, brought: int) -> Option:
    """brought: bytes of inputs from host memory, which stay where autograd keeps them."""
    backward, saved, forward = int(t.backward[0]), int(t.saved[0]) + brought, int(t.forward[0])
    return Option(
        "store", 1, 1, "device", "device",
        forward=base.output + max(forward, saved), backward=base.gradients + backward, kept=base.output + saved, host=0,
        seconds=base.seconds(float(t.macs[0]), 3, 1), binding=f"the activations up to {base.part.output}",
    )  # fmt: skip


def _tiled(base: _Base, t: Tilings) -> list[Option]:
    binding = f"one tile up to {base.part.output}"
    if base.output + base.gradients > float(t.backward.min()):
        binding = f"the boundary {base.part.output}"
    return [
        Option(
            "tiles", int(t.th[i]), int(t.tw[i]), "device", "device",
            forward=base.output + int(t.forward[i]), backward=_backward(base, t, i), kept=base.output, host=0,
            seconds=base.seconds(float(t.macs[i]), 4 if base.training else 1, float(t.windows[i])), binding=binding,
        )
        for i in _front(t.backward if base.training else t.forward, t.macs, t.windows)
    ]  # fmt: skip


def _stripped(base: _Base, t: Tilings, carries: np.ndarray, host: bool) -> list[Option]:
    found = []
    for i in range(len(t.th)):
        count = int(t.th[i])
        carry = int(carries[i]) if base.training else int(carries[i] / max(1, count - 1))
        seconds = base.seconds(float(t.macs[i]), 4 if base.training else 1, count)
        binding = "the carries" if carry > t.backward[i] else "one strip"
        made = Option(
            "strips", count, 1, "device", "device",
            forward=base.output + carry + int(t.forward[i]), backward=carry + _backward(base, t, i),
            kept=base.output + carry * base.training, host=0, seconds=seconds,
            binding=f"{binding} up to {base.part.output}",
        )  # fmt: skip
        found.append(made)
        if host and base.training:
            few = 3 * carry // max(1, count - 1)  # one that is used, one that is on its way, and a gradient
            away = base.seconds(float(t.macs[i]), 4, count, 2 * carry)
            found.append(
                dataclasses.replace(
                    made, carry="host", forward=base.output + few + int(t.forward[i]), seconds=away,
                    backward=few + _backward(base, t, i), kept=base.output, host=carry,
                )
            )  # fmt: skip
    return found


def _backward(base: _Base, t: Tilings, i: int) -> int:
    return base.gradients + int(t.backward[i]) if base.training else 0


def _on_host(base: _Base, option: Option) -> Option:
    """The same with the segment's output, and its gradient, in host memory: written once and read twice, each. Of the
    output two windows may be on their way, of the gradient one."""
    y, windows = base.output, option.th * option.tw
    window = -(-y // windows)
    return dataclasses.replace(
        option, boundary="host", forward=option.forward - y + min(2, windows) * window,
        backward=option.backward + (window * (windows > 1) - y) * base.training,
        kept=option.kept - y, host=option.host + 2 * y, seconds=option.seconds + base.seconds(0.0, 0, 0, 4 * y),
    )  # fmt: skip


def _only(t: Tilings, i: int) -> Tilings:
    return Tilings(**{field.name: getattr(t, field.name)[i : i + 1] for field in dataclasses.fields(t)})


def _front(size: np.ndarray, macs: np.ndarray, windows: np.ndarray) -> list[int]:
    """Indices of the tilings that no other one beats in bytes, multiply-adds and number of windows at once."""
    found: list[int] = []
    for i in np.lexsort((size, windows, macs)):
        if macs[i] <= MOST_WORK * macs.min() and not any(
            size[j] <= size[i] and windows[j] <= windows[i] for j in found
        ):
            found.append(int(i))
    return found


def _grouped(options: list[Option]) -> list[list[Option]]:
    """Options that keep the same bytes in the same places, by rising seconds, each in need of less than the one before.
    What another one beats in all that it keeps, needs and takes is left out.
    """
    groups: dict[tuple[int, int, str], list[Option]] = {}
    for each in sorted(options, key=lambda option: (option.seconds, option.kept, option.host)):
        better = (
            other.need * (1 - LEAST_GAIN) <= each.need
            for (kept, host, place), group in groups.items()
            for other in group
            if kept <= each.kept and host <= each.host and place == each.boundary
        )
        if not any(better):
            groups.setdefault((each.kept, each.host, each.boundary), []).append(each)
    return list(groups.values())


def _parameters(part: Part) -> list[nn.Parameter]:
    """Of the segment's modules, each once."""
    found = {id(p): p for node in part.nodes if node.module is not None for p in node.module.parameters()}
    return list(found.values())


def candidates(graph: Graph, shapes: Mapping[str, Shape]) -> list[str]:
    """Maps worth keeping whole, in the network's order, the body's output last: those that must be kept, poolings and
    concatenations, and of the strided convolutions and the ends of residual blocks (with the activation that follows)
    those that all paths go through: a cut inside a block would keep two maps instead of one.
    """
    place = {graph.image: -1} | {node.name: i for i, node in enumerate(graph.nodes)}
    readers: dict[str, list[int]] = {name: [] for name in place}
    for i, node in enumerate(graph.nodes):
        for name in node.inputs:
            readers[name].append(i)
    found = set(graph.forced)
    for i, node in enumerate(graph.nodes):
        if node.whole:
            continue
        smaller = prod(shapes[node.name][2:]) < prod(shapes[node.inputs[0]][2:])
        joins = node.op == nodes.JOIN and len(node.inputs) > 1
        while len(readers[graph.nodes[i].name]) == 1:  # what is kept is what the next segment reads
            following = readers[graph.nodes[i].name][0]
            if graph.nodes[following].op not in (nodes.ACTIVATION, nodes.AFFINE):
                break
            i = following
        passed = any(place[name] < i < at for name, read in readers.items() for at in read)
        if node.op in (nodes.MAX_POOL, nodes.AVG_POOL, nodes.CAT) or ((smaller or joins) and not passed):
            found.add(graph.nodes[i].name)
    names = [node.name for node in graph.nodes if node.name in found and node.name != graph.output]
    return [*names, graph.output]
