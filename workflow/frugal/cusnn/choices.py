"""The kernel of each of our arms: the last rung, an earlier step of the ladder, or the last with one choice changed.

Read while planning: no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kernels.sparse.names import parse
from kernels.sparse.planning import Plan, cut, plan
from kernels.sparse.shape import ConvShape, UnsupportedShape
from kernels.sparse.variant import Variant, ladder, variants

SPARSE, TWIN = "sparse", "dense_twin"
# rung: whether it skips zeros. v4 to v6 are one generator's: v4 with one output channel a lane, v5 with several where
# that is faster, v6 also where it fuses, which a plain convolution does not ask for.
RUNGS = {
    "v1_naive": False,
    "v2_dense": False,
    "v3_ballot": True,
    "v4_split": True,
    "v5_wide": True,
    "v6_fused": True,
}
# What the ladder's last rung is measured without, one at a time.
ABLATIONS = (
    "sparse@skip=false",
    "sparse@outputs_per_lane=1",
    "sparse@reduce=ticket",
    "sparse@deterministic=false",
)


def choose(
    name: str,
    shape: ConvShape,
    sm_count: int,
    *,
    deterministic: bool = True,
    more: Sequence[str] = (),
) -> Plan | None:
    """The launch of an arm on a GPU with `sm_count` multiprocessors.

    name: `sparse`, `dense_twin`, a rung, or one of ABLATIONS (None: the last rung has nothing of this kind to change).
    more: names of kernels that may be chosen beside the default ones. Raises UnsupportedShape.
    """
    base, _, change = name.partition("@")
    given = [*variants(), *ladder(), *map(parse, more)]
    if base in RUNGS:
        return _of_rung(base, shape, sm_count, given)
    chosen = plan(shape, sm_count, skip=base == SPARSE, variants=given)
    if change:
        return changed(chosen, change)
    return chosen if deterministic else changed(chosen, "deterministic=false") or chosen


def _of_rung(rung: str, shape: ConvShape, sm_count: int, given: Sequence[Variant]) -> Plan:
    """The launch of a step of the ladder. Raises UnsupportedShape where none of its kernels is given."""
    if rung == "v4_split":
        given = [variant for variant in given if isinstance(variant, Variant) and variant.outputs_per_lane == 1]
    generator = "v6_fused" if rung in ("v4_split", "v5_wide") else rung
    return plan(shape, sm_count, skip=RUNGS[rung], rung=generator, variants=given)


def changed(chosen: Plan, change: str) -> Plan | None:
    """The same launch with one choice of its kernel changed; None where its kernel has that already, or cannot have it.

    change: `<field of Variant>=<value>`, or `deterministic=false`: blocks that share a tile add up in no fixed order.
    """
    field, _, text = {"deterministic=false": "reduce=atomic"}.get(change, change).partition("=")
    if field == "reduce" and chosen.splits == 1:
        return None  # nothing is shared
    if field == "skip":
        return cut(chosen.variant.twin, chosen.shape, chosen.splits) if chosen.variant.skip else None
    try:
        other = dataclasses.replace(chosen.variant, **{field: int(text) if text.isdigit() else text})
    except (TypeError, ValueError):  # no such field, or a value that this kernel cannot be generated with
        return None
    return cut(other, chosen.shape, chosen.splits) if other != chosen.variant else None


def kernels(
    shapes: Sequence[ConvShape],
    names: Sequence[str],
    sm_count: int,
    *,
    deterministic: bool = True,
    more: Sequence[str] = (),
) -> list[str]:
    """The names of the kernels that these arms of these layers launch; a layer that none computes has none."""
    found = {}
    for shape in shapes:
        for name in names:
            try:
                chosen = choose(name, shape, sm_count, deterministic=deterministic, more=more)
            except UnsupportedShape:
                continue
            if chosen is not None:
                found[chosen.variant.name] = None
    return list(found)
