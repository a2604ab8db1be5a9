"""Arguments of an operator as a recipe: what it takes to call it again when its tensors have gone and come back.

A recipe is the arguments with a `Node` in place of each tensor. The key beside it names the operator's work: geometry
of its tensors, and its other arguments, of which numbers with a fraction count by type alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from frugal.dtr.policy import Node
from frugal.dtr.wrapper import Managed

_PLAIN = (int, type(None), str, torch.dtype, torch.device, torch.layout, torch.memory_format)


def flatten(
    args: tuple, kwargs: dict[str, object], node_of: Callable[[torch.Tensor], Node]
) -> tuple[list, dict[str, object], list[Node], tuple]:
    """(arguments, keyword arguments, input nodes in order with duplicates, key) of a call."""
    inputs: list[Node] = []
    key: list[object] = []
    recipe = [_part(value, inputs, key, node_of) for value in args]
    named: dict[str, object] = {}
    for name, value in kwargs.items():
        key.append(name)
        named[name] = _part(value, inputs, key, node_of)
    return recipe, named, inputs, tuple(key)


def _part(value: object, inputs: list[Node], key: list, node_of: Callable[[torch.Tensor], Node]) -> object:
    kind = type(value)
    if kind is Managed or isinstance(value, torch.Tensor):
        node = node_of(value)
        inputs.append(node)
        key.append(node.meta)
        return node
    if kind in _PLAIN:
        key.append(("", value))
        return value
    if kind is list or kind is tuple:
        inner: list[object] = []
        made = [_part(part, inputs, inner, node_of) for part in value]
        key.append(tuple(inner))
        return made
    key.append((kind, value) if kind is bool else kind)
    return value


def rebuild(parts: object, value_of: Callable[[Node], object]) -> list:
    """The arguments again, with what `value_of` gives for each node."""
    return [
        value_of(part) if type(part) is Node else rebuild(part, value_of) if type(part) is list else part
        for part in parts
    ]
