"""What the runtime must know of an operator (an ATen overload) before it runs it: once an overload, from its schema.

Which arguments it writes, whether it draws random numbers, updates batch statistics, makes outputs whose size depends
on data, or cannot run again. Sources: the schema's alias annotations, its tags, and names for what schemas do not say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

aten = torch.ops.aten

# Operators whose kernels keep state of their own between forward and backward, or hang on real pointers: they run once,
# and their results stay.
_OPAQUE = (
    "_cudnn_rnn",
    "_cudnn_rnn_backward",
    "_cudnn_rnn_flatten_weight",
    "_cudnn_init_dropout_state",
    "_thnn_fused_gru_cell",
    "_thnn_fused_gru_cell_backward",
    "_thnn_fused_lstm_cell",
    "_thnn_fused_lstm_cell_backward",
    "_thnn_fused_lstm_cell_backward_impl",
    "lstm_mps",
    "miopen_rnn",
    "miopen_rnn_backward",
    "mkldnn_rnn_layer",
    "mkldnn_rnn_layer_backward",
)
# Their schemas do not say that they write the running statistics (the first three), or they say it (the others).
_BATCH_NORM = (
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit",
    "_batch_norm_with_update",
    "_batch_norm_with_update_functional",
)
_DETACH = ("aten::detach", "aten::alias", "aten::lift_fresh")
# A lazy bit on a view: the real tensors carry it, a wrapper cannot, so the bit is resolved at once.
_RESOLVED = {aten._conj.default: aten.conj_physical.default, aten._neg_view.default: aten.neg.default}


@dataclass(frozen=True, eq=False, slots=True)
class Operator:
    """One overload. name: `aten.add.Tensor`. run: what is called (a lazy bit's resolved form, else the overload).

    writes: positions of arguments that it writes; writes_lists: it writes lists of tensors. names: of all arguments.
    functional: the overload that computes the same and writes nothing; None where there is none.
    random: it draws from a generator. stats: positions of running statistics that it updates while `training`
    (a position; None: always) is true, optional: those of them that may be None. dynamic: its outputs' sizes depend on
    data. opaque: it must run only once. detach: its result is its argument's tensor. silent: it returns no tensor.
    reshapes: it changes its argument's shape in place, and no values. refused: why it cannot run under a budget.
    """

    name: str
    run: torch._ops.OpOverload
    names: tuple[str, ...]
    writes: tuple[int, ...]
    writes_lists: bool
    functional: torch._ops.OpOverload | None
    random: bool
    stats: tuple[int, ...]
    optional: tuple[int, ...]
    training: int | None
    dynamic: bool
    opaque: bool
    detach: bool
    silent: bool
    reshapes: bool
    refused: str | None


@cache
def describe(func: torch._ops.OpOverload) -> Operator:
    """The description of an overload; the same object each time."""
    schema = func._schema
    packet = schema.name.split("::")[-1]
    names = tuple(argument.name for argument in schema.arguments)
    stats = (
        tuple(names.index(n) for n in ("running_mean", "running_var") if n in names) if packet in _BATCH_NORM else ()
    )
    written = [i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
    lists = any(_is_list(schema.arguments[i]) for i in written)
    return Operator(
        name=f"{schema.name.replace('::', '.')}.{schema.overload_name or 'default'}",
        run=_RESOLVED.get(func, func),
        names=names,
        writes=tuple(i for i in written if i not in stats),
        writes_lists=lists,
        functional=_functional(func, packet) if written and not stats else None,
        random=torch.Tag.nondeterministic_seeded in func.tags,
        stats=stats,
        optional=tuple(i for i in stats if isinstance(schema.arguments[i].type, torch.OptionalType)),
        training=names.index("training") if stats and "training" in names else None,
        dynamic=torch.Tag.dynamic_output_shape in func.tags,
        opaque=packet in _OPAQUE or schema.name.split("::")[0] not in ("aten", "prims"),
        detach=schema.name in _DETACH,
        silent=not any("Tensor" in str(value.type) for value in schema.returns),
        reshapes=torch.Tag.inplace_view in func.tags,
        refused=_refused(func, packet),
    )


def _is_list(argument: torch.Argument) -> bool:
    return isinstance(argument.type, torch.ListType)


def _refused(func: torch._ops.OpOverload, packet: str) -> str | None:
    if any(argument.is_out for argument in func._schema.arguments):
        return "it writes into a tensor that is given as out=: use the form that returns its result"
    if packet in ("set_", "resize_", "resize_as_"):
        return "it changes what memory a tensor has: make a new tensor instead"
    return None


def _functional(func: torch._ops.OpOverload, packet: str) -> torch._ops.OpOverload | None:
    """`relu` for `relu_`, `transpose` for `transpose_`: the overload with the same arguments in the same order."""
    if not packet.endswith("_") or packet.endswith("__"):
        return None
    plain = getattr(aten, packet[:-1], None)
    view = torch.Tag.inplace_view in func.tags
    for name in plain.overloads() if plain is not None else ():
        found = getattr(plain, name)
        theirs = found._schema.arguments
        same = [(a.name, str(a.type)) for a in theirs] == [(a.name, str(a.type)) for a in func._schema.arguments]
        if same and view == any(a.alias_info for a in theirs):
            return found
    return None
