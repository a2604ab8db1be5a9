"""v3: a warp owns an output tile, sees the window's zeros as ballot masks, and jumps over the positions that are zero.

Why it is faster than v2: the multiplications by zero are not issued, the next channel is in flight while this one
is computed, and the sum over channels is spread over warps and blocks. One node of a CUDA graph, no clear of the
output.

Layout of the work. A block is (tile of one image, group of 32·o output channels, split of the input channels). Lane
l of each warp holds channels n0 + l + 32·q (q < o) of the whole tile in registers; warp v of split z takes input
channels z·warps + v, then steps by splits·warps. Past the last channel it multiplies zeros: all warps run the same
number of steps.

Reduction. Over the warps: a chunk of tile rows at a time through shared memory, every thread adds the warps' values
of its elements in fixed order, two buffers so that a chunk costs one barrier. Over the splits: each block leaves
its tile in its own slot of a workspace (128-byte aligned and written once, so no stale line can sit in the reader's
L1) and takes a ticket; the block with the last ticket adds the slots in order. The ticket wraps by itself: graphs
replay without a clear.
"""

from __future__ import annotations

from kernels.sparse.emit import ALL_LANES, PRELUDE, indent, u
from kernels.sparse.taps import taps, window

SHARED_BYTES = 48 * 1024 - 64  # static shared memory a block may have, less the ticket's word

REGISTER_FILE = 65536  # registers of a multiprocessor, compute capability 7.0 to 9.0
REGISTERS_BESIDES = 72  # of a lane besides its sums: 18 weights a q, the next channel's window, two rows, indices

# x, packed weights, y, workspace slots, tickets (all flat), then sizes; the batch strides are in elements.
PARAMETERS = (
    *((name, "f32*") for name in ("x", "w", "y", "slots")),
    ("tickets", "u32*"),
    *((name, "u32") for name in ("C", "H", "W", "N", "Np", "tiles_w", "tiles", "splits", "x_batch", "y_batch")),
)


def window_floats(variant) -> int:
    """Floats of one channel's window in shared memory: rows padded to 4 where whole rows are read, else dense."""
    ih, iw = window(variant.th, variant.tw, variant.k, variant.stride)
    dense = -(-ih * iw // 32) * 32
    return dense if variant.fetch == "branch" else max(dense, ih * _pitch(variant) + 32)


def chunks(variant) -> list[tuple[int, int, int]]:
    """(q, first row, rows) of each chunk of the reduction over warps: as few as fit in shared memory."""
    room = SHARED_BYTES // 4 - variant.warps * 2 * window_floats(variant)
    row = variant.warps * 32 * (variant.tw + 1)
    if variant.outputs_per_lane == 1 and row * variant.th <= room:
        return [(0, 0, variant.th)]
    if 2 * row > room:
        raise ValueError(
            f"variant {variant.name}: {variant.warps} warps need {8 * row} bytes of shared memory for the reduction, "
            f"{4 * room} are free; use fewer warps or a narrower tile."
        )
    count = -(-variant.th // (room // (2 * row)))
    rows = -(-variant.th // count)
    return [
        (q, first, min(rows, variant.th - first))
        for q in range(variant.outputs_per_lane)
        for first in range(0, variant.th, rows)
    ]


def max_registers(variant, capability: str | None) -> int | None:
    """The limit at which as many blocks fit a multiprocessor as the sums allow; None where that would spill.

    Left alone on 9.0, ptxas takes 135 registers for a 7×7 tile and 144 for 4×7 with two outputs: one block of 256
    threads, where 128 registers leave room for two without a spill. On 7.5 to 8.9 the same code takes 199 and 234, and
    the limit would spill hundreds of bytes.
    """
    if capability is None or float(capability) < 9:
        return None
    sums = variant.th * variant.tw * variant.outputs_per_lane
    blocks = max(1, REGISTER_FILE // (variant.threads * (sums + REGISTERS_BESIDES)))
    return min(255, REGISTER_FILE // (variant.threads * blocks) // 8 * 8)


def source(variant) -> str:
    """Python source of the kernel `v3_ballot` for the variant."""
    body = _setup(variant) + _main_loop(variant) + _reduce_warps(variant) + _reduce_splits(variant)
    head = [f"def v3_ballot({', '.join(name for name, _ in PARAMETERS)}):"]
    floats = variant.warps * 2 * window_floats(variant)
    return PRELUDE.format(name=variant.name, floats=floats) + "\n".join(head + indent(body)) + "\n"


def grid(variant, shape, splits: int) -> tuple[int, int, int]:
    """Blocks: (tiles of all images, groups of 32·o output channels, splits of the input channels)."""
    tiles = -(-shape.H_out // variant.th) * -(-shape.W_out // variant.tw)
    return shape.B * tiles, -(-shape.N // (32 * variant.outputs_per_lane)), splits


def _pitch(variant) -> int:
    return -(-window(variant.th, variant.tw, variant.k, variant.stride)[1] // 4) * 4


def _groups(variant) -> range:
    """The registers a lane needs for a window: positions lane + 32·g."""
    ih, iw = window(variant.th, variant.tw, variant.k, variant.stride)
    return range(-(-ih * iw // 32))


def _weights(variant) -> list[tuple[str, str]]:
    """(name suffix, offset from the channel's first weight) of each weight that a lane holds."""
    k = variant.k
    return [
        (f"{r}{s}_{q}", f"uint64(uint32(at + uint32({u(r * k + s)} * Np))) + uint64({32 * q})")
        for r in range(k)
        for s in range(k)
        for q in range(variant.outputs_per_lane)
    ]


def _setup(variant) -> list[str]:
    ih, iw = window(variant.th, variant.tw, variant.k, variant.stride)
    pad, stride, wide = variant.k // 2, variant.stride, 32 * variant.outputs_per_lane
    lines = [
        f"partial = cuda.shared.array({_buffer_floats(variant) * min(2, len(chunks(variant)))}, float32)",
        "rows = window_rows()",
        "ticket = cuda.shared.array(1, uint32)",
        "thread = uint32(cuda.threadIdx.x)",
        "lane = uint32(thread & uint32(31))",
        "warp = uint32(thread >> uint32(5))",
        "split = uint32(cuda.blockIdx.z)",
        "image = uint32(uint32(cuda.blockIdx.x) // tiles)",
        "tile = uint32(uint32(cuda.blockIdx.x) - uint32(image * tiles))",
        "tile_row = uint32(tile // tiles_w)",
        f"oy = uint32(tile_row * {u(variant.th)})",
        f"ox = uint32(uint32(tile - uint32(tile_row * tiles_w)) * {u(variant.tw)})",
        f"n0 = uint32(uint32(cuda.blockIdx.y) * {u(wide)})",
        f"Ho = uint32(uint32(H + {u(stride - 1)}) // {u(stride)})",
        f"Wo = uint32(uint32(W + {u(stride - 1)}) // {u(stride)})",
        "HW = uint32(H * W)",
        f"step = uint32(splits * {u(variant.warps)})",
        f"c = uint32(uint32(split * {u(variant.warps)}) + warp)",
        "steps = uint32(uint32(C + uint32(step - uint32(1))) // step)",
        "last = uint32(C - uint32(1))",
        "pair = uint32(warp + warp)",
        "side = uint32(0)",
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
        ]
        if variant.fetch == "branch":
            lines.append(f"to{g} = p")
        else:
            lines.append(f"to{g} = uint32(uint32(i * {u(_pitch(variant))}) + j)")
            lines += [f"if p >= {u(ih * iw)}:", f"    to{g} = uint32({u(ih * _pitch(variant))} + lane)"]
    lines += [f"acc_{a}_{b}_{q} = float32(0)" for a, b, q in _outputs(variant)]
    lines += _load(variant)
    return lines


def _load(variant) -> list[str]:
    """Loads channel c's window and weights into registers: zeros past the last channel, whose weights stand in."""
    lines = ["ahead = uint32(c * HW)"]
    for g in _groups(variant):
        lines += [f"x{g} = float32(0)", f"if inside{g} and c <= last:", f"    x{g} = x[uint32(from{g} + ahead)]"]
    k2 = variant.k * variant.k
    lines.append(f"at = uint32(uint32(uint32(min(c, last) * {u(k2)}) * Np) + uint32(n0 + lane))")
    lines += [f"next_{name} = w[{offset}]" for name, offset in _weights(variant)]
    return lines


def _outputs(variant) -> list[tuple[int, int, int]]:
    return [(a, b, q) for a in range(variant.th) for b in range(variant.tw) for q in range(variant.outputs_per_lane)]


def _main_loop(variant) -> list[str]:
    skip = variant.skip
    body = [f"w_{name} = next_{name}" for name, _ in _weights(variant)]
    # 64-bit, so that constant offsets fold into the load's address; a product, so that its alignment is known.
    body += [f"here = uint64(uint32(uint32(pair + side) * {u(window_floats(variant))}))"]
    body += [f"rows[here + uint64(to{g})] = x{g}" for g in _groups(variant)]
    if skip:
        body += [f"mask{g} = uint32(ballot({ALL_LANES}, x{g} != float32(0)))" for g in _groups(variant)]
    body += ["c = uint32(c + step)"]
    body += _load(variant)
    body += ["warp_sync()"]
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
    whole_rows = variant.fetch == "row"
    lines = _read_row(variant, 0) if whole_rows else []
    for i in range(ih):
        if whole_rows and i + 1 < ih:
            lines += _read_row(variant, i + 1)  # one row ahead of its use: a shared load takes ~30 clocks
        for j in range(iw):
            p = i * iw + j
            feeds = taps(i, j, variant.th, variant.tw, variant.k, variant.stride)
            value = f"v_{i}_{j}"
            code = [] if whole_rows else [f"{value} = rows[here + uint64({p})]"]
            for q in range(variant.outputs_per_lane):
                code += [f"acc_{a}_{b}_{q} += {value} * w_{r}{s}_{q}" for a, b, r, s in feeds]
            if variant.skip and len(feeds) * variant.outputs_per_lane >= variant.min_taps:
                lines += [f"if mask{p // 32} & {u(1 << p % 32)}:", *indent(code)]
            else:
                lines += code
    return lines


def _read_row(variant, i: int) -> list[str]:
    iw = window(variant.th, variant.tw, variant.k, variant.stride)[1]
    return [f"v_{i}_{j} = rows[here + uint64({i * _pitch(variant) + j})]" for j in range(iw)]


def _chunk_pitch(variant, rows: int) -> int:
    """Floats between the channels of a chunk: odd, so that the lanes' writes and the threads' reads hit all banks."""
    return rows * variant.tw | 1


def _buffer_floats(variant) -> int:
    return max(variant.warps * 32 * _chunk_pitch(variant, rows) for _, _, rows in chunks(variant))


def _elements(variant) -> list[tuple[int, tuple[int, int, int], int, int | None]]:
    """(number of the chunk, chunk, turn, limit): a turn is one value a thread; limit where a turn is not full."""
    found = []
    for number, chunk in enumerate(chunks(variant)):
        total = 32 * chunk[2] * variant.tw
        for turn in range(-(-total // variant.threads)):
            found.append((number, chunk, turn, total if (turn + 1) * variant.threads > total else None))
    return found


def _place(variant, chunk: tuple[int, int, int], turn: int, limit: int | None) -> list[str]:
    """e: this thread's element of the chunk, clamped (`mine` says if it is one); n, cell: its channel and cell."""
    cells = chunk[2] * variant.tw
    lines = [f"e = uint32(thread + {u(turn * variant.threads)})"]
    if limit is not None:
        lines += [f"mine = e < {u(limit)}", f"e = min(e, {u(limit - 1)})"]
    return [*lines, f"n = uint32(e // {u(cells)})", f"cell = uint32(e - uint32(n * {u(cells)}))"]


def _store(variant, chunk: tuple[int, int, int], value: str, limit: int | None) -> list[str]:
    """y[image, n0 + 32·q + n, oy + a, ox + b] = value where the output exists."""
    q, first, _ = chunk
    exists = "n < N and a < Ho and b < Wo"
    return [
        f"n = uint32(uint32(n0 + {u(32 * q)}) + n)",
        f"a = uint32(cell // {u(variant.tw)})",
        f"b = uint32(ox + uint32(cell - uint32(a * {u(variant.tw)})))",
        f"a = uint32(uint32(oy + a) + {u(first)})",
        f"if {exists if limit is None else 'mine and ' + exists}:",
        "    plane = uint32(uint32(image * y_batch) + uint32(uint32(n * Ho) * Wo))",
        f"    y[uint32(plane + uint32(uint32(a * Wo) + b))] = {value}",
    ]


def _slot_offset(variant, chunk: tuple[int, int, int]) -> str:
    return u(32 * variant.tw * (variant.th * chunk[0] + chunk[1]))


def _reduce_warps(variant) -> list[str]:
    size = 32 * variant.outputs_per_lane * variant.th * variant.tw
    lines = [
        "group = uint32(uint32(uint32(cuda.blockIdx.x) * uint32(cuda.gridDim.y)) + uint32(cuda.blockIdx.y))",
        f"slot = uint32(uint32(uint32(group * splits) + split) * {u(size)})",
    ]
    for number, chunk, turn, limit in _elements(variant):
        q, first, rows = chunk
        pitch = _chunk_pitch(variant, rows)
        buffer = u(number % 2 * _buffer_floats(variant))
        if turn == 0:
            lines.append(f"at = uint32({buffer} + uint32(uint32(uint32(warp * uint32(32)) + lane) * {u(pitch)}))")
            lines += [
                f"partial[uint64(at) + uint64({a * variant.tw + b})] = acc_{first + a}_{b}_{q}"
                for a in range(rows)
                for b in range(variant.tw)
            ]
            lines.append("cuda.syncthreads()")
        lines += _place(variant, chunk, turn, limit)
        lines.append(f"at = uint32({buffer} + uint32(uint32(n * {u(pitch)}) + cell))")
        values = [f"partial[uint64(at) + uint64({v * 32 * pitch})]" for v in range(variant.warps)]
        lines += [f"total = {values[0]}"] + [f"total += {value}" for value in values[1:]]
        lines += ["if splits == uint32(1):", *indent(_store(variant, chunk, "total", limit))]
        lines.append("else:" if limit is None else "elif mine:")
        lines.append(f"    slots[uint32(uint32(slot + {_slot_offset(variant, chunk)}) + e)] = total")
    return lines


def _reduce_splits(variant) -> list[str]:
    size = 32 * variant.outputs_per_lane * variant.th * variant.tw
    elements = _elements(variant)
    unroll = max(1, min(8, 32 // len(elements)))  # ~32 loads in flight: a slot's value comes from L2
    read, loop, write = [], [], []
    for m, (_, chunk, turn, limit) in enumerate(elements):
        read += _place(variant, chunk, turn, limit)
        read += [f"at{m} = uint32(uint32(slot + {_slot_offset(variant, chunk)}) + e)", f"sum{m} = float32(0)"]
        write += _place(variant, chunk, turn, limit) + _store(variant, chunk, f"sum{m}", limit)
    for step in range(unroll):
        loop += [
            f"z = uint32(uint32(z0) + {u(step)})",
            f"there = uint32(min(z, uint32(splits - uint32(1))) * {u(size)})",
            f"live{step} = z < splits",
        ]
        loop += [f"got{step}_{m} = slots[uint32(at{m} + there)]" for m in range(len(elements))]
    for step in range(unroll):
        loop += [f"sum{m} += got{step}_{m} if live{step} else float32(0)" for m in range(len(elements))]
    last = [
        f"slot = uint32(uint32(group * splits) * {u(size)})",
        *read,
        f"for z0 in range(uint32(0), splits, {u(unroll)}):",
        *indent(loop),
        *write,
    ]
    # PTX memory model, fence to fence: the first barrier puts the block's stores before thread 0's fence, which by
    # cumulativity publishes them all ahead of the ticket. Who draws the last ticket has read a value that the other
    # blocks' tickets led to, so its own fence after it makes their stores visible to it, and the second barrier hands
    # this on to its block. Without that fence the slots could be read before the ticket.
    last_ticket = "uint32(splits - uint32(1))"
    take = [
        "cuda.syncthreads()",
        "if thread == uint32(0):",
        "    cuda.threadfence()",
        f"    ticket[0] = cuda.atomic.inc(tickets, group, {last_ticket})",
        f"    if ticket[0] == {last_ticket}:",
        "        cuda.threadfence()",
        "cuda.syncthreads()",
        f"if ticket[0] == {last_ticket}:",
        *indent(last),
    ]
    return ["if splits > uint32(1):", *indent(take)]
