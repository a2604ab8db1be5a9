"""From torch.fx's nodes to SFT's: what is a map [N, C, H, W] that can be had in tiles, and what is not."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from frugal.sft import nodes
from frugal.sft.errors import UnsupportedOp
from frugal.sft.nodes import Node

POOL = ("kernel_size", "stride", "padding")
# A function → the module that does the same, and what its arguments behind the map are called.
FUNCTIONS: Mapping[Any, tuple[type[nn.Module], tuple[str, ...]]] = {
    functional.relu: (nn.ReLU, ("inplace",)),
    torch.relu: (nn.ReLU, ()),
    functional.relu6: (nn.ReLU6, ("inplace",)),
    functional.leaky_relu: (nn.LeakyReLU, ("negative_slope", "inplace")),
    functional.gelu: (nn.GELU, ()),
    functional.silu: (nn.SiLU, ("inplace",)),
    functional.hardswish: (nn.Hardswish, ("inplace",)),
    torch.sigmoid: (nn.Sigmoid, ()),
    functional.sigmoid: (nn.Sigmoid, ()),
    functional.max_pool2d: (nn.MaxPool2d, (*POOL, "dilation", "ceil_mode", "return_indices")),
    functional.avg_pool2d: (nn.AvgPool2d, (*POOL, "ceil_mode", "count_include_pad", "divisor_override")),
    functional.interpolate: (nn.Upsample, ("size", "scale_factor", "mode", "align_corners")),
    functional.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",)),
    functional.dropout: (nn.Dropout, ("p", "training", "inplace")),
    functional.dropout2d: (nn.Dropout2d, ("p", "training", "inplace")),
}
METHODS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "relu_": nn.ReLU, "sigmoid": nn.Sigmoid}
JOINS: Mapping[Any, Callable] = {
    operator.add: torch.add, operator.iadd: torch.add, torch.add: torch.add, "add": torch.add, "add_": torch.add,
    operator.sub: torch.sub, operator.isub: torch.sub, torch.sub: torch.sub, "sub": torch.sub,
    operator.mul: torch.mul, operator.imul: torch.mul, torch.mul: torch.mul, "mul": torch.mul, "mul_": torch.mul,
    operator.truediv: torch.div, torch.div: torch.div, "div": torch.div,
}  # fmt: skip
IN_PLACE = (operator.iadd, operator.isub, operator.imul, functional.relu_, "relu_", "add_", "mul_")
# Modules that only make sense on a map: they must not stand behind what cannot be had in tiles.
MAPS_ONLY = (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.Upsample)


@dataclass
class Seen:
    """What the graph's nodes are so far.

    maps, vectors: fx node → name of the node of ours whose value it has. shapes: fx node → (map, dimensions that it
    holds the sizes of). refused: fx node → why it cannot be had in tiles.
    """

    model: nn.Module
    allow_dropout: bool
    nodes: list[Node] = field(default_factory=list)
    maps: dict[fx.Node, str] = field(default_factory=dict)
    vectors: dict[fx.Node, str] = field(default_factory=dict)
    shapes: dict[fx.Node, tuple[str, Any]] = field(default_factory=dict)
    refused: dict[fx.Node, UnsupportedOp] = field(default_factory=dict)

    def add(self, source: fx.Node, node: Node) -> None:
        self.nodes.append(node)
        (self.vectors if node.whole else self.maps)[source] = node.name


def lower(seen: Seen, node: fx.Node) -> None:
    """Decide what one fx node is; its inputs have been decided."""
    if node.op == "get_attr":
        return
    inputs = node.all_input_nodes
    behind = next((seen.refused[each] for each in inputs if each in seen.refused), None)
    module, rest = _as_module(seen, node)
    if behind is not None:
        if isinstance(module, MAPS_ONLY):
            raise behind
        seen.refused[node] = behind
    elif _shape(seen, node):
        return
    elif inputs and all(each in seen.vectors or each in seen.shapes or each.op == "get_attr" for each in inputs):
        seen.add(node, _vector(seen, node))
    elif not _map(seen, node, module, rest):
        seen.refused[node] = UnsupportedOp(
            node.name,
            _words(node, module),
            "move it behind the last convolution or pooling, or write it with supported ones",
        )


def _as_module(seen: Seen, node: fx.Node) -> tuple[nn.Module | None, dict[str, Any]]:
    """The module that does what the node does, and arguments that a module does not have."""
    if node.op == "call_module":
        rest = dict(node.kwargs)
        if len(node.args) > 1:
            rest["output_size"] = node.args[1]
        return seen.model.get_submodule(str(node.target)), rest
    if node.op == "call_method" and node.target in METHODS:
        return METHODS[str(node.target)](), {}
    if node.op != "call_function" or node.target not in FUNCTIONS:
        return (nn.ReLU(), {}) if node.target is functional.relu_ else (None, {})
    kind, names = FUNCTIONS[node.target]
    given = dict(zip(names, node.args[1:], strict=False)) | {k: v for k, v in node.kwargs.items() if k != "input"}
    if any(given[name] for name in given.keys() - {*names}):  # what the module does not have, and is not left off
        return None, {}
    given = {name: given[name] for name in names if name in given}
    training = given.pop("training", True)
    rest = {name: value for name, value in given.items() if isinstance(value, fx.Node)}
    given = {name: value for name, value in given.items() if name not in rest and value is not None}
    if issubclass(kind, nn.Dropout | nn.Dropout2d):
        return kind(**given).train(bool(training)), {}
    return kind(**given), {"output_size": rest.get("size")}


def _map(seen: Seen, node: fx.Node, module: nn.Module | None, rest: Mapping[str, Any]) -> bool:
    """Add the node as an operation on maps; False where it is none that we know."""
    maps = [each for each in node.all_input_nodes if each in seen.maps]
    if not maps:
        return False
    target = None if node.op == "call_module" else node.target  # a module's name may be "add"
    if target in JOINS:
        made = _join(seen, node, JOINS[target])
    elif target in (torch.cat, torch.concat):
        made = _cat(seen, node)
    elif target in (torch.mean, "mean"):
        made = _mean(node, seen.maps[maps[0]])
    elif module is not None:
        made = _module(seen, node, module, seen.maps[maps[0]], rest)
    elif target == "contiguous":
        made = seen.maps[maps[0]]
    else:
        return False
    if made is None:
        return False
    if isinstance(made, str):  # the map itself
        seen.maps[node] = made
        return True
    seen.add(node, made)
    if target in IN_PLACE or getattr(module, "inplace", False):
        # Whoever reads the overwritten map later reads the result.
        before = seen.maps[maps[0]]
        for each, name in list(seen.maps.items()):
            if name == before:
                seen.maps[each] = made.name
    return True


def _module(seen: Seen, node: fx.Node, module: nn.Module, source: str, rest: Mapping[str, Any]) -> Node | str | None:
    name = node.name
    if module._forward_hooks or module._forward_pre_hooks:
        raise UnsupportedOp(
            name, "a module with forward hooks", "they would see tiles; remove them, or hook the whole model"
        )
    like = _like(seen, name, rest)
    if isinstance(module, nn.Conv2d):
        return nodes.conv(name, module, source)
    if isinstance(module, nn.ConvTranspose2d):
        return nodes.conv_transpose(name, module, source, like)
    if isinstance(module, nn.MaxPool2d):
        return nodes.max_pool(name, module, source)
    if isinstance(module, nn.AvgPool2d):
        return nodes.avg_pool(name, module, source)
    if isinstance(module, nn.Upsample):
        return nodes.upsample(name, module, source, like)
    if isinstance(module, nodes.ACTIVATIONS):
        return Node(name, nodes.ACTIVATION, (source,), module=module)
    if isinstance(module, nn.BatchNorm2d) and not module.training and module.running_mean is not None:
        return Node(name, nodes.AFFINE, (source,), module=module)
    if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d | nn.GroupNorm):
        if isinstance(module, nn.InstanceNorm2d) and module.track_running_stats:
            raise UnsupportedOp(name, "InstanceNorm2d track_running_stats=True", "leave track_running_stats at False")
        statistics = Node(f"{name}_statistics", nodes.STATISTICS, (source,), module=module)
        seen.nodes.append(statistics)
        return Node(name, nodes.NORMALISE, (source,), module=module, vectors=(statistics.name,))
    if isinstance(module, nn.AdaptiveAvgPool2d) and nodes.pair(module.output_size) == (1, 1):
        return Node(name, nodes.MEAN, (source,), attrs={"keepdim": True})
    if isinstance(module, nn.Dropout | nn.Dropout2d):
        if not module.training or module.p == 0:
            return source
        if not seen.allow_dropout:
            raise UnsupportedOp(name, "Dropout in the body", "move it to the head or pass allow_dropout=True")
        return Node(name, nodes.DROPOUT, (source,), module=module)
    return source if isinstance(module, nn.Identity) else None


def _join(seen: Seen, node: fx.Node, call: Callable) -> Node | None:
    """Two maps, a map and a vector, or a map and a number."""
    if len(node.args) != 2 or node.kwargs:  # such as alpha
        return None
    a, b = node.args
    if isinstance(a, fx.Node) and isinstance(b, fx.Node):
        if a in seen.maps and b in seen.maps:
            return Node(node.name, nodes.JOIN, (seen.maps[a], seen.maps[b]), call=call)
        one, other = (a, b) if a in seen.maps else (b, a)
        if one in seen.maps and other in seen.vectors:
            return Node(
                node.name, nodes.JOIN, (seen.maps[one],), call=call, vectors=(seen.vectors[other],),
                attrs={"swapped": one is b},
            )  # fmt: skip
        return None
    one, number = (a, b) if isinstance(a, fx.Node) else (b, a)
    if one not in seen.maps or not isinstance(number, (int, float)):
        return None
    return Node(node.name, nodes.JOIN, (seen.maps[one],), call=call, attrs={"scalar": number, "swapped": one is b})


def _cat(seen: Seen, node: fx.Node) -> Node | None:
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    parts = node.args[0] if node.args else node.kwargs.get("tensors", ())
    if dim not in (1, -3) or not all(part in seen.maps for part in parts):
        return None
    return Node(node.name, nodes.CAT, tuple(seen.maps[part] for part in parts))


def _mean(node: fx.Node, source: str) -> Node | None:
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keepdim = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    if not isinstance(dims, (tuple, list)) or {dim % 4 for dim in dims} != {2, 3}:
        return None
    return Node(node.name, nodes.MEAN, (source,), attrs={"keepdim": bool(keepdim)})


def _vector(seen: Seen, node: fx.Node) -> Node:
    """Whatever is computed from means, run as it stands."""
    target = seen.model.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    names = {each: seen.vectors[each] for each in node.all_input_nodes if each in seen.vectors}
    sizes = {each: seen.shapes[each] for each in node.all_input_nodes if each in seen.shapes}
    tensors = {each: operator.attrgetter(str(each.target)) for each in node.all_input_nodes if each.op == "get_attr"}
    model = seen.model

    def call(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Any:
        def value(each: fx.Node) -> Any:
            if each in names:
                return values[names[each]]
            if each in tensors:
                return tensors[each](model)
            of, which = sizes[each]
            return shapes[of][which] if which is not None else torch.Size(shapes[of])

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
        return (
            getattr(args[0], str(target))(*args[1:], **kwargs) if node.op == "call_method" else target(*args, **kwargs)
        )

    return Node(node.name, nodes.VECTOR, (), call=call, vectors=tuple(names.values()))


def _shape(seen: Seen, node: fx.Node) -> bool:
    """Note `x.shape`, `x.size(…)` and their elements; False where the node is none of those."""
    source = node.args[0] if node.args else None
    if node.op == "call_module" or not isinstance(source, fx.Node):
        return False
    if source in seen.maps and (node.target == "size" or (node.target is getattr and node.args[1] == "shape")):
        index = node.args[1] if node.target == "size" and len(node.args) > 1 else None
        seen.shapes[node] = (seen.maps[source], index)
    elif source in seen.shapes and node.target is operator.getitem and seen.shapes[source][1] is None:
        seen.shapes[node] = (seen.shapes[source][0], node.args[1])
    else:
        return False
    return True


def _like(seen: Seen, name: str, rest: Mapping[str, Any]) -> str | None:
    """The map whose size is asked for as `output_size`."""
    wanted = rest.get("output_size")
    if wanted is None:
        return None
    of, which = seen.shapes.get(wanted, (None, None)) if isinstance(wanted, fx.Node) else (None, None)
    if of is None or (which is not None and range(4)[which] != range(2, 4)):
        raise UnsupportedOp(name, f"output_size={wanted}", "give the size of another map, as x.shape[-2:]")
    return of


def _words(node: fx.Node, module: nn.Module | None) -> str:
    if module is not None:
        return type(module).__name__
    return str(getattr(node.target, "__name__", node.target))
