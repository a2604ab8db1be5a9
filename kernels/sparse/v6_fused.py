"""v4 to v6: v3's loop with a reduction that leaves no trace, several output channels a lane, and fused neighbours.

What changed since v3, and why it is faster:

- v4_split. Warps add up in one pass through shared memory instead of row by row, and the blocks that share a tile are
  a thread-block cluster: they read each other's sums from shared memory, where v3 wrote slots to global memory, drew a
  ticket and let the last block read them back. Below capability 9.0 there are no clusters: slots and tickets stay.
- v5_wide. A lane sums o = 1, 2 or 4 neighbouring output channels. A test for zero then decides over o times as many
  multiply-adds, and weights load as words of 8 or 16 bytes.
- v6_fused. Batch norm and ReLU on the way in, bias, residual and ReLU on the way out, chosen by the launch (`flags`);
  and the launch may overlap with the one before it: indices and the first weights are ready when its input is.

Layout of the work: as in v3. Lane l holds channels n0 + o·l + q (q < o) of the whole tile; warp v of split z takes
input channels z·warps + v, then steps by splits·warps.

Reduction. Over the warps: each writes its sums to shared memory, [warp][cell][lane][q]; cell j is then summed by warp
j mod warps over all warps in order, in as many phases as fit the memory that a block may have. Over the splits, in
order too: cluster, ticket, or (`atomic`, the one mode whose sums change from run to run) atomics onto a workspace that
is zero before and after.
"""

from __future__ import annotations

from kernels.sparse.emit import ALL_LANES, WIDE_PRELUDE, indent, u
from kernels.sparse.taps import taps, window

REGISTER_FILE = 65536  # registers of a multiprocessor, compute capability 7.0 to 9.0
REGISTERS_BESIDES = 72  # of a lane besides its sums: weights, the next channel's, two rows of the window, indices
CLUSTER_MAX = 16  # blocks of a cluster, where the function allows more than the portable 8
BIAS, RESIDUAL, POST_RELU, PRE_AFFINE, PRE_RELU = 1, 2, 4, 8, 16  # bits of `flags`

# x, packed weights, y, workspace slots, tickets, then what may be fused (all flat); sizes; strides in elements.
PARAMETERS = (
    *((name, "f32*") for name in ("x", "w", "y", "slots")),
    ("tickets", "u32*"),
    *((name, "f32*") for name in ("bias", "residual", "scale", "shift")),
    *((name, "u32") for name in ("C", "H", "W", "N", "Np", "tiles_h", "splits", "steps", "share")),
    *((name, "u32") for name in ("x_batch", "y_batch", "r_batch", "flags")),
)


def window_floats(variant) -> int:
    """Floats of one channel's window in shared memory, rows padded to 4; the last 32 take what lies outside."""
    ih = window(variant.th, variant.tw, variant.k, variant.stride)[0]
    return -(-(ih * _pitch(variant) + 32) // 4) * 4


def shared_limit(variant, capability: str | None) -> int:
    """Bytes of dynamic shared memory that a block may take: half a multiprocessor's where two blocks' registers fit."""
    if capability in ("7.5", None):
        return 40 * 1024
    if capability not in ("8.0", "9.0"):
        return 96 * 1024
    alone = (
        variant.threads * (variant.th * variant.tw * variant.outputs_per_lane + REGISTERS_BESIDES) > REGISTER_FILE // 2
    )
    most = {"8.0": 160, "9.0": 224}[capability] * 1024
    return most if alone else most // 2


def phases(variant, capability: str | None) -> list[list[int]]:
    """The cells of the tile that are reduced at a time, each phase as many as fit in shared memory."""
    cells, warps = variant.th * variant.tw, variant.warps
    room = shared_limit(variant, capability) // 4 - _window_floats(variant) - _tile_floats(variant)
    at_once = max(1, room // (warps * 32 * variant.outputs_per_lane) // warps) * warps
    count = -(-cells // at_once)
    size = -(-cells // (count * warps)) * warps
    return [list(range(first, min(cells, first + size))) for first in range(0, cells, size)]


def shared_floats(variant, capability: str | None) -> int:
    """Floats of dynamic shared memory: windows, then the warps' sums, then the block's tile."""
    partial = variant.warps * 32 * variant.outputs_per_lane * max(map(len, phases(variant, capability)))
    return _window_floats(variant) + partial + _tile_floats(variant)


def _window_floats(variant) -> int:
    """Floats of all warps' windows, two each: one is read while the other is written."""
    return variant.warps * 2 * window_floats(variant)


def _tile_floats(variant) -> int:
    """Floats of the block's tile, [channel][cell] with odd rows or, from the cluster, [block][cell][channel]."""
    cells, o = variant.th * variant.tw, variant.outputs_per_lane
    if variant.reduce == "cluster":
        return (cells + CLUSTER_MAX) * (32 * o + o)
    return 32 * o * (cells | 1)


def source(variant, capability: str | None) -> str:
    """Python source of the kernel `v6_fused` for the variant."""
    body = _setup(variant, capability) + _main_loop(variant) + _reduce_warps(variant, capability)
    body += _across(variant)
    head = [f"def v6_fused({', '.join(name for name, _ in PARAMETERS)}):"]
    return (
        WIDE_PRELUDE.format(name=variant.name, ptx=", ".join(_ptx_names(variant, capability)))
        + "\n".join(head + indent(body))
        + "\n"
    )


def grid(variant, shape, splits: int) -> tuple[int, int, int]:
    """Blocks: (tiles in a row, rows of tiles of all images, groups of 32·o output channels times splits)."""
    rows = shape.B * -(-shape.H_out // variant.th)
    return -(-shape.W_out // variant.tw), rows, -(-shape.N // (32 * variant.outputs_per_lane)) * splits


def _pitch(variant) -> int:
    """Floats between the rows of a window in shared memory."""
    return -(-window(variant.th, variant.tw, variant.k, variant.stride)[1] // 4) * 4


def _groups(variant) -> range:
    """The registers a lane needs for a window: positions lane + 32·g."""
    ih, iw = window(variant.th, variant.tw, variant.k, variant.stride)
    return range(-(-ih * iw // 32))


def _taps(variant) -> list[tuple[int, int]]:
    return [(r, s) for r in range(variant.k) for s in range(variant.k)]


def _setup(variant, capability) -> list[str]:
    ih, iw = window(variant.th, variant.tw, variant.k, variant.stride)
    pad, stride, wide = variant.k // 2, variant.stride, 32 * variant.outputs_per_lane
    lines = [
        *(["launch_dependents()"] if _overlaps(capability) else []),
        # The pointer to y is a line of constant memory that nothing else touches before the end: it loads now.
        "prefetch(y)",
        # Its wait stands before the first push: by then every block of the cluster has begun.
        *(["if splits > uint32(1):", "    cluster_arrive()"] if variant.reduce == "cluster" else []),
        "shared = dynamic_shared()",
        "thread = uint32(cuda.threadIdx.x)",
        "lane = uint32(thread & uint32(31))",
        "warp = uint32(thread >> uint32(5))",
        *_block(variant),
        # Divisions by sizes that only the launch knows take ~100 clocks each before the first load: hence the grid.
        "tile_row = uint32(cuda.blockIdx.y)",
        "image = uint32(0)",
        "if tile_row >= tiles_h:",
        "    image = uint32(tile_row // tiles_h)",
        "    tile_row = uint32(tile_row - uint32(image * tiles_h))",
        f"oy = uint32(tile_row * {u(variant.th)})",
        f"ox = uint32(uint32(cuda.blockIdx.x) * {u(variant.tw)})",
        f"n0 = uint32(channels * {u(wide)})",
        "HW = uint32(H * W)",
        f"step = uint32(splits * {u(variant.warps)})",
        f"c = uint32(uint32(split * {u(variant.warps)}) + warp)",
        "last = uint32(C - uint32(1))",
        "pair = uint32(warp + warp)",
        "side = uint32(0)",
        f"mine = uint64({shared_floats(variant, capability) - _tile_floats(variant)})",
        f"partial = uint64({_window_floats(variant)})",
        *_load_weights(variant),
    ]
    for g in _groups(variant):
        lines += [
            f"p = uint32(lane + {u(32 * g)})",
            f"i = uint32(p // {u(iw)})",
            f"j = uint32(p - uint32(i * {u(iw)}))",
            f"row = uint32(uint32(oy * {u(stride)}) + i)",
            f"col = uint32(uint32(ox * {u(stride)}) + j)",
            f"inside{g} = p < {u(ih * iw)} and row >= {u(pad)} and row < uint32(H + {u(pad)})"
            f" and col >= {u(pad)} and col < uint32(W + {u(pad)})",
            f"from{g} = uint32(image * x_batch)",
            f"if inside{g}:",
            f"    from{g} = uint32(from{g} + uint32(uint32(uint32(row - {u(pad)}) * W) + uint32(col - {u(pad)})))",
            f"to{g} = uint32(uint32(i * {u(_pitch(variant))}) + j)",
            f"if p >= {u(ih * iw)}:",
            f"    to{g} = uint32({u(ih * _pitch(variant))} + lane)",
        ]
    lines += [f"acc_{a}_{b}_{q} = float32(0)" for a, b, q in _outputs(variant)]
    lines += ["wait_for_input()"] if _overlaps(capability) else []
    lines += _load_window(variant)
    return lines


def _overlaps(capability: str | None) -> bool:
    """Whether a launch may begin before the one ahead of it has ended; the simulator's stand-ins do nothing."""
    return capability is None or float(capability) >= 9


def _block(variant) -> list[str]:
    """channels: which 32·o output channels this block sums; split: which share of the input channels."""
    if variant.reduce == "cluster":
        return ["channels = cluster_z()", "split = rank_z()"]
    return [
        "channels = uint32(uint32(cuda.blockIdx.z) // splits)",
        "split = uint32(uint32(cuda.blockIdx.z) - uint32(channels * splits))",
    ]


def _load_window(variant) -> list[str]:
    """Channel c's window into registers, zero outside the image and past the last channel."""
    lines = ["ahead = uint32(c * HW)"]
    for g in _groups(variant):
        lines += [f"x{g} = float32(0)", f"if inside{g} and c <= last:", f"    x{g} = x[uint32(from{g} + ahead)]"]
    if variant.prologue:
        lines += ["gain = float32(1)", "offset = float32(0)", f"if flags & {u(PRE_AFFINE)}:"]
        lines += ["    gain = scale[min(c, last)]", "    offset = shift[min(c, last)]"]
    return lines


def _load_weights(variant) -> list[str]:
    """Channel c's weights into registers; past the last channel the last one's stand in."""
    o = variant.outputs_per_lane
    lines = [f"at = uint32(uint32(uint32(min(c, last) * {u(variant.k**2)}) * Np) + uint32(n0 + uint32(lane * {u(o)})))"]
    for r, s in _taps(variant):
        names = ", ".join(f"next_{r}{s}_{q}" for q in range(o))
        place = f"uint64(uint32(at + uint32({u(r * variant.k + s)} * Np)))"
        lines.append(f"{names} = w[{place}]" if o == 1 else f"{names} = load{o}(w, {place})")
    return lines


def _outputs(variant) -> list[tuple[int, int, int]]:
    return [(a, b, q) for a in range(variant.th) for b in range(variant.tw) for q in range(variant.outputs_per_lane)]


def _main_loop(variant) -> list[str]:
    skip, o = variant.skip, variant.outputs_per_lane
    body = [f"w_{r}{s}_{q} = next_{r}{s}_{q}" for r, s in _taps(variant) for q in range(o)]
    for g in _groups(variant) if variant.prologue else ():
        body += [
            f"if inside{g} and c <= last:",
            f"    x{g} = x{g} * gain + offset",
            f"    if flags & {u(PRE_RELU)}:",
            f"        x{g} = float32(0) if x{g} <= float32(0) else x{g}",
        ]
    # 64-bit, so that constant offsets fold into the load's address; a product, so that its alignment is known.
    body += [f"here = uint64(uint32(uint32(pair + side) * {u(window_floats(variant))}))"]
    body += [f"shared[here + uint64(to{g})] = x{g}" for g in _groups(variant)]
    if skip:
        body += [f"mask{g} = uint32(ballot({ALL_LANES}, x{g} != float32(0)))" for g in _groups(variant)]
    body += ["c = uint32(c + step)", *_load_weights(variant), *_load_window(variant), "warp_sync()"]
    if skip:
        body += [f"if ({' | '.join(f'mask{g}' for g in _groups(variant))}) != uint32(0):"]
        body += indent(_multiply(variant))
    else:
        body += _multiply(variant)
    body += ["side = uint32(side ^ uint32(1))"]
    return ["for _ in range(steps):", *indent(body)]


def _multiply(variant) -> list[str]:
    """The window's multiply-adds, straight line: a position of few taps is cheaper to compute than to test."""
    ih, iw = window(variant.th, variant.tw, variant.k, variant.stride)
    lines = _read_row(variant, 0)
    for i in range(ih):
        if i + 1 < ih:
            lines += _read_row(variant, i + 1)  # one row ahead of its use: a shared load takes ~30 clocks
        for j in range(iw):
            p = i * iw + j
            feeds = taps(i, j, variant.th, variant.tw, variant.k, variant.stride)
            code = [
                f"acc_{a}_{b}_{q} += v_{i}_{j} * w_{r}{s}_{q}"
                for q in range(variant.outputs_per_lane)
                for a, b, r, s in feeds
            ]
            if variant.skip and len(feeds) * variant.outputs_per_lane >= variant.min_taps:
                lines += [f"if mask{p // 32} & {u(1 << p % 32)}:", *indent(code)]
            else:
                lines += code
    return lines


def _read_row(variant, i: int) -> list[str]:
    iw = window(variant.th, variant.tw, variant.k, variant.stride)[1]
    return [f"v_{i}_{j} = shared[here + uint64({i * _pitch(variant) + j})]" for j in range(iw)]


def _reduce_warps(variant, capability) -> list[str]:
    """All warps' sums of a cell, in the order of the warps, to where the block's tile is gathered.

    A loop, not a straight line: code that a warp runs once costs as much to fetch as to run.
    """
    o, warps, wide = variant.outputs_per_lane, variant.warps, 32 * variant.outputs_per_lane
    lines = [f"lane_at = uint32(lane * {u(o)})", *_before_gathering(variant)]
    for number, cells in enumerate(phases(variant, capability)):
        size = len(cells) * wide
        if number:
            lines.append("cuda.syncthreads()")
        lines.append(f"at = partial + uint64(uint32(uint32(warp * {u(size)}) + lane_at))")
        for m, cell in enumerate(cells):
            a, b = divmod(cell, variant.tw)
            lines.append(_put(o, f"at + uint64({m * wide})", [f"acc_{a}_{b}_{q}" for q in range(o)]))
        lines += ["cuda.syncthreads()", f"for m in range(warp, {u(len(cells))}, {u(warps)}):"]
        body = [f"cell = uint32(m + {u(cells[0])})", f"at = partial + uint64(uint32(uint32(m * {u(wide)}) + lane_at))"]
        for v in range(warps):
            names = ", ".join(f"got{v}_{q}" for q in range(o))
            body.append(f"{names} = {_get(o, f'at + uint64({v * size})')}")
        body += [f"total_{q} = {_tree([f'got{v}_{q}' for v in range(warps)])}" for q in range(o)]
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
    return variant.th * variant.tw * 32 * variant.outputs_per_lane


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
    row = variant.th * variant.tw | 1
    return [
        f"at = mine + uint64(uint32(uint32(lane_at * {u(row)}) + cell))",
        *[f"shared[at + uint64({q * row})] = {total}" for q, total in enumerate(totals)],
    ]


def _across(variant) -> list[str]:
    """What remains once the block's own sums are where they belong."""
    alone = ["cuda.syncthreads()", *_store_tile(variant)]
    others = _across_cluster(variant) if variant.reduce == "cluster" else _across_slots(variant)
    return ["if splits == uint32(1):", *indent(alone), "else:", *indent(others)]


def _across_cluster(variant) -> list[str]:
    """The cells that every block of the cluster pushed here, added in the order of the splits.

    Pushed, not pulled: stores to another block's memory need no answer, and after the one barrier none looks there.
    """
    cells, o, wide = variant.th * variant.tw, variant.outputs_per_lane, 32 * variant.outputs_per_lane
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
    cells, wide = variant.th * variant.tw, 32 * variant.outputs_per_lane
    loop = [
        f"n = uint32(e // {u(cells)})",
        f"cell = uint32(e - uint32(n * {u(cells)}))",
        f"total = shared[mine + uint64(uint32(uint32(n * {u(cells | 1)}) + cell))]",
        *_finish(variant, "total"),
    ]
    return [f"for e in range(thread, {u(cells * wide)}, {u(variant.threads)}):", *indent(loop)]


def _across_slots(variant) -> list[str]:
    """A ticket; who draws the last reads the slots in order (on the order of memory see v3), or the one of `atomic`."""
    cells, o, wide = variant.th * variant.tw, variant.outputs_per_lane, 32 * variant.outputs_per_lane
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


def _ptx_names(variant, capability: str | None) -> list[str]:
    """What the kernel takes from kernels.sparse.ptx."""
    o = variant.outputs_per_lane
    names = ["prefetch", *(["launch_dependents", "wait_for_input"] if _overlaps(capability) else [])]
    names += [f"load{o}", f"get{o}", f"put{o}"] if o > 1 else []
    names += (
        [f"push{o}", "cluster_arrive", "cluster_wait", "cluster_z", "rank_z"] if variant.reduce == "cluster" else []
    )
    return sorted(names)
