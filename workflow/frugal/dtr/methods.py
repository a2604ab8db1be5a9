"""What a user would take today to train within less memory, beside a `frugal.dtr.Budget`.

A method is a function `method(model, **settings)` that gives a callable of the model's own arguments, on its own
parameters; loss and gradients are plain PyTorch's, and random operators draw the same numbers when they run again.

| method | settings | what it is |
|---|---|---|
| `plain` | | the network as it is |
| `checkpoint_blocks` | | each natural block (`blocks`) is recomputed: torch.utils.checkpoint, non-reentrant |
| `checkpoint_sqrt` | | √n segments of the n modules that run in a row |
| `selective_matmul` | | blocks recomputed but for matrix products and convolutions, which are saved |
| `selective_sdpa` | | blocks recomputed but for attention and every second product, which are saved |
| `save_on_cpu` | | what autograd saves goes to main memory and comes back |
| `activation_budget` | budget | torch.compile under its activation memory budget, from 0 (recompute) to 1 (save) |

What recomputes changes a batch norm's running statistics twice a step, which a Budget does not.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._functorch import config as functorch
from torch.autograd.graph import save_on_cpu as saving_on_cpu
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from torch.utils.checkpoint import checkpoint as checkpointed

from frugal.dtr.errors import Unsupported

Forward = Callable[..., Any]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # as they are: a subclass is a block
_aten = torch.ops.aten
_PRODUCTS = {_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default, _aten.convolution.default}
_ATTENTION = {
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_attention_math.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
}


def blocks(model: nn.Module) -> list[nn.Module]:
    """A network's natural blocks, in the order of its modules, none within another.

    Modules of several layers that stand in a list of modules; where there is none, a cell that the network runs in a
    loop. Unsupported for a network that has neither.
    """
    found = list(_listed(model))
    if not found:
        found = [part for part in model.children() if _is_cell(part)]
    if not found:
        raise Unsupported(
            f"{type(model).__name__} has no blocks: no list of modules that have layers of their own, and no cell; "
            "checkpointing it needs blocks: take plain, save_on_cpu or a Budget",
            op=type(model).__name__,
        )
    return found


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.children():
        if type(module) in _CONTAINERS and type(part) not in _CONTAINERS and any(True for _ in part.children()):
            yield part
        else:
            yield from _listed(part)


def _is_cell(part: nn.Module) -> bool:
    return isinstance(part, nn.RNNCellBase) or (type(part) not in _CONTAINERS and any(True for _ in part.children()))


def rows(model: nn.Module) -> list[list[nn.Module]]:
    """Modules that run one after another, each on what the one before it gives, which hold the blocks.

    The items of a plain Sequential, and the layers of torch's encoders and decoders. Unsupported where a network runs
    its blocks in no such way.
    """
    own, found = set(blocks(model)), []
    for part in model.modules():
        items = list(part.children()) if type(part) is nn.Sequential else []
        if isinstance(part, nn.TransformerEncoder | nn.TransformerDecoder):
            items = list(part.layers)
        if own.intersection(items):
            found.append(items)
    if not found:
        raise Unsupported(
            f"the blocks of {type(model).__name__} stand in no Sequential: segments of several are not known; "
            "take checkpoint_blocks",
            op=type(model).__name__,
        )
    return found


# ---- the methods -----------------------------------------------------------------------------------------------------


def plain(model: nn.Module) -> Forward:
    return model


def checkpoint_blocks(model: nn.Module) -> Forward:
    """Raises Unsupported for a network without blocks."""
    return _replacing(model, {block: _recomputed(block.forward) for block in blocks(model)})


def checkpoint_sqrt(model: nn.Module) -> Forward:
    """Segments of ⌈√n⌉ modules, n those of all rows together. Raises Unsupported for a network without rows."""
    found = rows(model)
    length = math.ceil(math.sqrt(sum(map(len, found))))
    replaced = {}
    for row in found:
        for first in range(0, len(row), length):
            segment = row[first : first + length]
            replaced |= dict.fromkeys(segment[1:], _handed_on)
            replaced[segment[0]] = _recomputed(partial(_in_a_row, [part.forward for part in segment]))
    return _replacing(model, replaced)


def selective_matmul(model: nn.Module) -> Forward:
    """Raises Unsupported for a network without blocks."""
    return _selective(model, lambda: partial(_saved_if, lambda op: op in _PRODUCTS | _ATTENTION))


def selective_sdpa(model: nn.Module) -> Forward:
    """Raises Unsupported for a network without blocks."""

    def every_second() -> Callable[..., CheckpointPolicy]:
        seen = 0

        def saved(op: Any) -> bool:
            nonlocal seen
            seen += op in _PRODUCTS
            return op in _ATTENTION or (op in _PRODUCTS and seen % 2 == 0)

        return partial(_saved_if, saved)

    return _selective(model, every_second)


def save_on_cpu(model: nn.Module) -> Forward:
    """Into pinned memory where the network is on a GPU."""
    pinned = next(model.parameters()).device.type == "cuda"

    def forward(*args: Any, **kwargs: Any) -> Any:
        with saving_on_cpu(pin_memory=pinned):
            return model(*args, **kwargs)

    return forward


def activation_budget(model: nn.Module, *, budget: float, backend: str = "inductor") -> Forward:
    """Compiled at the first call, as one graph: Unsupported then for a network that is none.

    Compiled code stays in the process, which should be one for each budget. Raises ValueError for a budget outside
    [0, 1].
    """
    if not 0 <= budget <= 1:
        raise ValueError(f"budget = {budget}: torch's activation memory budget is from 0 (recompute) to 1 (save)")
    run = torch.compile(model, backend=backend, dynamic=False, fullgraph=True)

    def forward(*args: Any, **kwargs: Any) -> Any:
        with functorch.patch(activation_memory_budget=budget):
            try:
                return run(*args, **kwargs)
            except torch._dynamo.exc.Unsupported as problem:
                raise Unsupported(
                    f"torch.compile cannot make one graph of {type(model).__name__}: {str(problem).splitlines()[0]}",
                    op=type(model).__name__,
                ) from problem

    return forward


METHODS: Mapping[str, Callable[..., Forward]] = {
    "plain": plain,
    "checkpoint_blocks": checkpoint_blocks,
    "checkpoint_sqrt": checkpoint_sqrt,
    "selective_matmul": selective_matmul,
    "selective_sdpa": selective_sdpa,
    "save_on_cpu": save_on_cpu,
    "activation_budget": activation_budget,
}


def forward_of(method: str, model: nn.Module, **settings: Any) -> Forward:
    """The method of that name. Raises ValueError for a name that METHODS has not, and what the method itself raises."""
    if method not in METHODS:
        near = difflib.get_close_matches(str(method), METHODS, 1)
        hint = f", did you mean {near[0]!r}?" if near else ":"
        raise ValueError(f"method {method!r} is not known{hint} one of {', '.join(METHODS)}")
    return METHODS[method](model, **settings)


def settings_of(method: str) -> dict[str, str]:
    """What else decides about a method's result, for its records: torch's solver and estimator of a budget."""
    if method != "activation_budget":
        return {}
    return {
        "solver": functorch.activation_memory_budget_solver,
        "estimator": functorch.activation_memory_budget_runtime_estimator,
    }


# ---- how -------------------------------------------------------------------------------------------------------------


def _replacing(model: nn.Module, forwards: Mapping[nn.Module, Forward]) -> Forward:
    """The model, some of whose modules run by another function while it does; they are the same again after it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as after:
            for part, run in forwards.items():
                part.forward = run  # found before the class's own
                after.callback(delattr, part, "forward")
            return model(*args, **kwargs)

    return forward


def _recomputed(run: Forward, context: Callable[[], Sequence[AbstractContextManager]] | None = None) -> Forward:
    more = {} if context is None else {"context_fn": context}
    return partial(checkpointed, run, use_reentrant=False, preserve_rng_state=True, **more)


def _in_a_row(runs: Sequence[Forward], x: Any, *args: Any, **kwargs: Any) -> Any:
    for run in runs:
        x = run(x, *args, **kwargs)
    return x


def _handed_on(x: Any, *args: Any, **kwargs: Any) -> Any:
    return x


def _selective(model: nn.Module, policy: Callable[[], Callable[..., CheckpointPolicy]]) -> Forward:
    """policy: called for each run of a block, so that what it counts begins anew."""

    def contexts() -> Sequence[AbstractContextManager]:
        return create_selective_checkpoint_contexts(policy())

    return _replacing(model, {block: _recomputed(block.forward, contexts) for block in blocks(model)})


def _saved_if(saved: Callable[[Any], bool], context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if saved(op) else CheckpointPolicy.PREFER_RECOMPUTE
