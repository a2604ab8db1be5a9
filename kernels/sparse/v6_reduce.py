"""How a v6 kernel adds up: the warps of a block, then the blocks that share an output tile, then bias and the rest."""

from __future__ import annotations

from kernels.sparse.emit import indent, u
from kernels.sparse.fused import BIAS, POST_RELU, RESIDUAL
from kernels.sparse.v6_memory import phases


def reduce_warps(variant, capability) -> list[str]:
    """All warps' sums of a cell, in the order of the warps, to where the block's tile is gathered.

    A loop, not a straight line: code that a warp runs once costs as much to fetch as to run.
    """
    o, warps, wide = variant.outputs_per_lane, variant.warps, 32 * variant.outputs_per_lane
    tile = variant.th * variant.tw
    lines = [f"lane_at = uint32(lane * {u(o)})", *_before_gathering(variant)]
    for number, cells in enumerate(phases(variant, capability)):
        size = len(cells) * wide
        if number:
            lines.append("cuda.syncthreads()")
        lines.append(f"at = partial + uint64(uint32(uint32(warp * {u(size)}) + lane_at))")
        for m, cell in enumerate(cells):
            a, b = divmod(cell, variant.tw)
            lines.append(_put(o, f"at + uint64({m * wide})", [f"acc_{a}_{b}_{q}" for q in range(o)]))
        lines += ["cuda.syncthreads()", f"for m in range(warp, {u(len(cells) * variant.stack)}, {u(warps)}):"]
        if variant.stack == 1:
            body = [f"cell = uint32(m + {u(cells[0])})", f"first = uint32(m * {u(wide)})"]
        else:
            body = [
                f"of = uint32(m // {u(len(cells))})",
                f"part = uint32(m - uint32(of * {u(len(cells))}))",
                f"cell = uint32(uint32(uint32(of * {u(tile)}) + part) + {u(cells[0])})",
                f"first = uint32(uint32(of * {u(variant.sharers * size)}) + uint32(part * {u(wide)}))",
            ]
        body.append("at = partial + uint64(uint32(first + lane_at))")
        for v in range(variant.sharers):
            names = ", ".join(f"got{v}_{q}" for q in range(o))
            body.append(f"{names} = {_get(o, f'at + uint64({v * size})')}")
        body += [f"total_{q} = {_tree([f'got{v}_{q}' for v in range(variant.sharers)])}" for q in range(o)]
        lines += indent([*body, *_gather(variant)])
    return lines


def _tree(terms: list[str]) -> str:
    """Their sum in pairs, and pairs of pairs: an addition waits for log2 of them, not for all."""
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"({_tree(terms[:half])} + {_tree(terms[half:])})"


def _put(o: int, at: str, values: list[str]) -> str:
    return f"shared[{at}] = {values[0]}" if o == 1 else f"put{o}(shared, {at}, {', '.join(values)})"


def _get(o: int, at: str) -> str:
    return f"shared[{at}]" if o == 1 else f"get{o}(shared, {at})"


def _before_gathering(variant) -> list[str]:
    if variant.reduce == "cluster":
        # Block r of the cluster adds up cells r·share and on.
        return [
            "inverse = float32(1) / float32(share)",
            "if splits > uint32(1):",
            "    cluster_wait()",
        ]
    slot = "group" if variant.reduce == "atomic" else "uint32(uint32(group * splits) + split)"
    return [
        "group = uint32(uint32(uint32(cuda.gridDim.x) * uint32(cuda.blockIdx.y)) + uint32(cuda.blockIdx.x))",
        "group = uint32(uint32(group * uint32(uint32(cuda.gridDim.z) // splits)) + channels)",
        f"slot = uint32(uint32({slot} * {u(_tile_values(variant))}) + lane_at)",
    ]


def _tile_values(variant) -> int:
    return variant.cells * 32 * variant.outputs_per_lane


def _gather(variant) -> list[str]:
    """A cell's totals to the block's tile or, where blocks share the tile, to where they are added up."""
    o, wide = variant.outputs_per_lane, 32 * variant.outputs_per_lane
    totals = [f"total_{q}" for q in range(o)]
    if variant.reduce == "cluster":
        shared = [
            "owner = uint32((float32(cell) + float32(0.5)) * inverse)",
            "place = uint32(uint32(split * share) + uint32(cell - uint32(owner * share)))",
            f"at = mine + uint64(uint32(uint32(place * {u(wide + o)}) + lane_at))",
            f"push{o}(shared, at, owner, {', '.join(totals)})",
        ]
    else:
        at = f"uint32(slot + uint32(cell * {u(wide)}))"
        shared = [f"at_slot = {at}"]
        for q in range(o):
            place = f"uint32(at_slot + {u(q)})"
            if variant.reduce == "atomic":
                shared.append(f"cuda.atomic.add(slots, {place}, {totals[q]})")
            else:
                shared.append(f"slots[{place}] = {totals[q]}")
    return ["if splits == uint32(1):", *indent(_to_tile(variant, totals)), "else:", *indent(shared)]


def _to_tile(variant, totals: list[str]) -> list[str]:
    """A cell's totals into the block's tile in shared memory, [channel][cell], rows odd against bank conflicts."""
    row = variant.cells | 1
    return [
        f"at = mine + uint64(uint32(uint32(lane_at * {u(row)}) + cell))",
        *[f"shared[at + uint64({q * row})] = {total}" for q, total in enumerate(totals)],
    ]


def across(variant) -> list[str]:
    """What remains once the block's own sums are where they belong."""
    alone = ["cuda.syncthreads()", *_store_tile(variant)]
    others = _across_cluster(variant) if variant.reduce == "cluster" else _across_slots(variant)
    return ["if splits == uint32(1):", *indent(alone), "else:", *indent(others)]


def _across_cluster(variant) -> list[str]:
    """The cells that every block of the cluster pushed here, added in the order of the splits.

    Pushed, not pulled: stores to another block's memory need no answer, and after the one barrier none looks there.
    """
    cells, o, wide = variant.cells, variant.outputs_per_lane, 32 * variant.outputs_per_lane
    loop = [
        "n = uint32((float32(e) + float32(0.5)) * inverse)",
        "cell = uint32(e - uint32(n * share))",
        f"there = uint32(uint32(cell * {u(wide + o)}) + n)",
        "cell = uint32(cell + uint32(split * share))",
        "total = float32(0)",
        "for z in range(uint32(0), splits, uint32(1)):",
        f"    total += shared[mine + uint64(uint32(there + uint32(uint32(z * share) * {u(wide + o)})))]",
        f"if cell < {u(cells)}:",
        *indent(_finish(variant, "total")),
    ]
    return [
        "cluster_arrive()",
        "cluster_wait()",
        f"for e in range(thread, uint32(share * {u(wide)}), {u(variant.threads)}):",
        *indent(loop),
    ]


def _finish(variant, value: str) -> list[str]:
    """Bias, residual and ReLU onto the value of (n, cell), and its store where the output exists."""
    stride = variant.stride
    return [
        "n = uint32(n0 + n)",
        f"a = uint32(cell // {u(variant.tw)})",
        f"b = uint32(ox + uint32(cell - uint32(a * {u(variant.tw)})))",
        "a = uint32(oy + a)",
        f"Ho = uint32(uint32(H + {u(stride - 1)}) // {u(stride)})",
        f"Wo = uint32(uint32(W + {u(stride - 1)}) // {u(stride)})",
        "if n < N and a < Ho and b < Wo:",
        "    plane = uint32(uint32(uint32(n * Ho) + a) * Wo)",
        f"    if flags & {u(BIAS)}:",
        f"        {value} += bias[n]",
        f"    if flags & {u(RESIDUAL)}:",
        f"        {value} += residual[uint32(uint32(image * r_batch) + uint32(plane + b))]",
        f"    if flags & {u(POST_RELU)}:",
        f"        {value} = float32(0) if {value} <= float32(0) else {value}",
        f"    y[uint32(uint32(image * y_batch) + uint32(plane + b))] = {value}",
    ]


def _store_tile(variant) -> list[str]:
    """The block's tile to y."""
    cells, wide = variant.cells, 32 * variant.outputs_per_lane
    loop = [
        f"n = uint32(e // {u(cells)})",
        f"cell = uint32(e - uint32(n * {u(cells)}))",
        f"total = shared[mine + uint64(uint32(uint32(n * {u(cells | 1)}) + cell))]",
        *_finish(variant, "total"),
    ]
    return [f"for e in range(thread, {u(cells * wide)}, {u(variant.threads)}):", *indent(loop)]


def _across_slots(variant) -> list[str]:
    """A ticket; who draws the last reads the slots in order (on the order of memory see v3), or the one of `atomic`."""
    cells, o, wide = variant.cells, variant.outputs_per_lane, 32 * variant.outputs_per_lane
    totals = [f"total_{q}" for q in range(o)]
    if variant.reduce == "atomic":
        read = [f"at_slot = uint32(slot + uint32(cell * {u(wide)}))"]
        for q, total in enumerate(totals):
            place = f"uint32(at_slot + {u(q)})"
            read += [f"{total} = slots[{place}]", f"slots[{place}] = float32(0)"]
    else:
        read = [f"at_slot = uint32(uint32(uint32(group * splits) * {u(_tile_values(variant))}) + lane_at)"]
        read += [
            f"at_slot = uint32(at_slot + uint32(cell * {u(wide)}))",
            *[f"{total} = float32(0)" for total in totals],
        ]
        read += [
            "for z in range(uint32(0), splits, uint32(1)):",
            *[f"    {total} += slots[uint32(at_slot + {u(q)})]" for q, total in enumerate(totals)],
            f"    at_slot = uint32(at_slot + {u(_tile_values(variant))})",
        ]
    last_ticket = "uint32(splits - uint32(1))"
    return [
        "ticket = cuda.shared.array(1, uint32)",
        "cuda.syncthreads()",
        "if thread == uint32(0):",
        "    cuda.threadfence()",
        f"    ticket[0] = cuda.atomic.inc(tickets, group, {last_ticket})",
        f"    if ticket[0] == {last_ticket}:",
        "        cuda.threadfence()",
        "cuda.syncthreads()",
        f"if ticket[0] == {last_ticket}:",
        f"    for cell in range(warp, {u(cells)}, {u(variant.warps)}):",
        *indent([*read, *_to_tile(variant, totals)], 2),
        "    cuda.syncthreads()",
        *indent(_store_tile(variant)),
    ]
