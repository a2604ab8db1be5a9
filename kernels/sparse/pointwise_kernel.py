"""Pointwise (1×1) convolution: a small float32 matrix product, dense, spread over the GPU by splitting the channels.

y[n, m] = sum over c of w[c, n]·x[c, m], where m runs over an image's output positions: both operands have the summed
channel as their slow axis, so a chunk of channels is a block of whole rows of either, and nothing is transposed.

Layout of the work. A thread sums an n×m register tile; a warp is a grid of lanes over such tiles; a block is a grid of
warps (n×m) times `groups` groups, each of which computes the same outputs from its own chunks of channels: group g of
split z takes chunks z·groups + g, then every splits·groups-th. Past the last channel it multiplies zeros: all warps run
the same number of steps.

Pipeline. Two chunks are on their way at a time, one in registers and one in shared memory, while a third is multiplied;
the operands of a channel are read from shared memory one channel ahead, across the barrier too, so that neither the
latency of L2 nor that of shared memory stands between multiply-adds. Batch norm and ReLU in front of the convolution
are applied on the way from registers to shared memory: once a block and element, not once a multiply-add.

What bounds it, in clocks of a multiprocessor for a channel and a warp: the n·m multiply-adds of a thread, 128 a clock,
take n·m / 4; their n + m operands from shared memory, 32 words a clock, n + m. So tiles of 8×7 and up are bound by
arithmetic; 4×4 is for images so small that the fixed costs decide.

`pointwise_reduce` adds the groups and the splits up.
"""

from __future__ import annotations

from kernels.sparse import pointwise_reduce
from kernels.sparse.emit import indent, u, wide_prelude
from kernels.sparse.fused import PRE_AFFINE, PRE_RELU
from kernels.sparse.pointwise_reduce import operand_floats, widths, words_a_thread

# x, packed weights, y, workspace slots, tickets, then what may be fused (all flat); sizes; strides in elements.
PARAMETERS = (
    *((name, "f32*") for name in ("x", "w", "y", "slots")),
    ("tickets", "u32*"),
    *((name, "f32*") for name in ("bias", "residual", "scale", "shift")),
    *((name, "u32") for name in ("C", "H", "W", "N", "Np", "splits", "x_batch", "y_batch", "r_batch", "flags")),
)


def source(variant, capability: str | None) -> str:
    """Python source of the kernel `pointwise` for the variant."""
    overlaps = capability is None or float(capability) >= 9
    names = ["get2", "get4", "load4", "misaligned", "put2", "put4"] + ["launch_dependents", "wait_for_input"] * overlaps
    body = [*_setup(variant), *_fetch_first(variant, overlaps), *pointwise_reduce.prepare(variant, capability)]
    body += [*_put_first(variant), *_main_loop(variant), *pointwise_reduce.reduce(variant, capability)]
    head = [f"def pointwise({', '.join(name for name, _ in PARAMETERS)}):"]
    prelude = wide_prelude(variant.name, names)
    if pointwise_reduce.across(variant, capability) == "cluster":
        calls = ", ".join(f"mailbox_{call}" for call in ("enter", "entered", "expect", "send", "wait"))
        prelude = prelude.replace("\n\n", f"\n\nfrom kernels.sparse.mailbox import {calls}\n", 1)
    return prelude + "\n".join([*head, *indent(["launch_dependents()"] * overlaps + body)]) + "\n"


def _setup(variant) -> list[str]:
    group_threads, stride = variant.threads // variant.groups, variant.stride
    lines = [
        "shared = dynamic_shared()",
        "thread = uint32(cuda.threadIdx.x)",
        "lane = uint32(thread & uint32(31))",
        "warp = uint32(thread >> uint32(5))",
        f"group = uint32(thread // {u(group_threads)})",
        f"member = uint32(thread - uint32(group * {u(group_threads)}))",
        f"in_group = uint32(warp - uint32(group * {u(group_threads // 32)}))",
        f"warp_n = uint32(in_group // {u(variant.warps_m)})",
        f"warp_m = uint32(in_group - uint32(warp_n * {u(variant.warps_m)}))",
        f"lane_n = uint32(lane // {u(variant.lanes_m)})",
        f"lane_m = uint32(lane - uint32(lane_n * {u(variant.lanes_m)}))",
        "split = uint32(cuda.blockIdx.z)",
        f"n0 = uint32(uint32(cuda.blockIdx.y) * {u(variant.tile_n)})",
        f"Wo = uint32(uint32(W + {u(stride - 1)}) // {u(stride)})",
        f"M = uint32(uint32(uint32(H + {u(stride - 1)}) // {u(stride)}) * Wo)",
        f"image_tiles = uint32(uint32(M + {u(variant.tile_m - 1)}) // {u(variant.tile_m)})",
        "image = uint32(0)",
        "tile = uint32(cuda.blockIdx.x)",
        "if tile >= image_tiles:",  # a division takes ~100 clocks: not for the only image
        "    image = uint32(tile // image_tiles)",
        "    tile = uint32(tile - uint32(image * image_tiles))",
        f"m0 = uint32(tile * {u(variant.tile_m)})",
        "HW = uint32(H * W)",
        f"step = uint32(uint32(splits * {u(variant.groups)}) * {u(variant.chunk)})",
        f"c = uint32(uint32(uint32(split * {u(variant.groups)}) + group) * {u(variant.chunk)})",
        "last = uint32(C - uint32(1))",
        f"here = uint64(uint32(group * {u(2 * operand_floats(variant))}))",
        f"there = here + uint64({operand_floats(variant)})",
        f"n_at = uint64(uint32(uint32(warp_n * {u(variant.n * variant.lanes_n)}) + uint32(lane_n * uint32(4))))",
        f"m_at = uint32(warp_m * {u(variant.m * variant.lanes_m)})",
        *(f"m_at{wide} = uint64(uint32(m_at + uint32(lane_m * {u(wide)})))" for wide in sorted(set(widths(variant.m)))),
    ]
    return lines + _places(variant, group_threads)


def _places(variant, group_threads: int) -> list[str]:
    """Where each thread's words of a chunk come from and go to, once for all chunks."""
    lines, stride = [], variant.stride
    for name, wide in (("w", variant.tile_n), ("x", variant.tile_m)):
        words = variant.chunk * wide // 4
        for t in words_a_thread(variant.chunk * wide, group_threads):
            number = f"uint32(member + {u(t * group_threads)})"
            if (t + 1) * group_threads > words:
                number = f"min({number}, {u(words - 1)})"  # moved twice, to the same place
            lines += [
                f"{name}_word{t} = {number}",
                f"{name}_row{t} = uint32({name}_word{t} // {u(wide // 4)})",
                f"{name}_col{t} = uint32(uint32({name}_word{t} - uint32({name}_row{t} * {u(wide // 4)})) * uint32(4))",
                f"{name}_to{t} = uint64(uint32(uint32({name}_row{t} * {u(wide)}) + {name}_col{t}))",
            ]
            if name == "w":
                lines.append(f"w_from{t} = min(uint32(n0 + w_col{t}), uint32(Np - uint32(4)))")
                continue
            for j in range(4):
                m = f"m_{t}_{j}"
                lines.append(f"{m} = min(uint32(uint32(m0 + x_col{t}) + {u(j)}), uint32(M - uint32(1)))")
                if stride == 1:
                    lines.append(f"x_from{t}_{j} = uint32(uint32(image * x_batch) + {m})")
                else:
                    lines += [
                        f"row_{t}_{j} = uint32({m} // Wo)",
                        f"col_{t}_{j} = uint32({m} - uint32(row_{t}_{j} * Wo))",
                        f"x_from{t}_{j} = uint32(uint32(image * x_batch) + "
                        f"uint32(uint32(uint32(row_{t}_{j} * W) + col_{t}_{j}) * {u(stride)}))",
                    ]
    if stride == 1:
        turns = words_a_thread(variant.chunk * variant.tile_m, group_threads)
        # Rows of 7×7 floats begin anywhere; the words of others are aligned if the tensor is.
        lines += [
            "aligned = uint32(uint32(uint32(M | x_batch) & uint32(3)) | misaligned(x)) == uint32(0)",
            "if aligned:",  # a word that the last column stands in for begins at a multiple of 4, too
            *(f"    x_from{t}_0 = uint32(x_from{t}_0 & uint32(0xFFFFFFFC))" for t in turns),
        ]
    return lines


def _load_weights(variant, prefix: str, load: str = "load4") -> list[str]:
    """The chunk's weights into registers; past the last channel the last one's stand in."""
    lines = []
    for t in words_a_thread(variant.chunk * variant.tile_n, variant.threads // variant.groups):
        names = ", ".join(f"{prefix}w{t}_{j}" for j in range(4))
        lines.append(f"{prefix}w_c{t} = min(uint32(c + w_row{t}), last)")
        lines.append(f"{names} = {load}(w, uint64(uint32(uint32({prefix}w_c{t} * Np) + w_from{t})))")
    return lines


def _load_input(variant, prefix: str) -> list[str]:
    """The chunk's inputs into registers, with what the prologue needs of their channels."""
    lines, turns = [], words_a_thread(variant.chunk * variant.tile_m, variant.threads // variant.groups)
    for t in turns:
        lines += [
            f"{prefix}c{t} = uint32(c + x_row{t})",
            f"row = min({prefix}c{t}, last)",
            f"x_row_at{t} = uint32(row * HW)",
            f"{prefix}gain{t} = float32(1)",
            f"{prefix}offset{t} = float32(0)",
            f"if flags & {u(PRE_AFFINE)}:",
            f"    {prefix}gain{t} = scale[row]",
            f"    {prefix}offset{t} = shift[row]",
        ]
    whole = [
        f"{', '.join(f'{prefix}x{t}_{j}' for j in range(4))} = load4(x, uint64(uint32(x_row_at{t} + x_from{t}_0)))"
        for t in turns
    ]
    single = [f"{prefix}x{t}_{j} = x[uint32(x_row_at{t} + x_from{t}_{j})]" for t in turns for j in range(4)]
    return lines + (["if aligned:", *indent(whole), "else:", *indent(single)] if variant.stride == 1 else single)


def _put(variant, prefix: str, place: str) -> list[str]:
    """The chunk from registers to shared memory, through the prologue; zeros past the last channel."""
    group_threads = variant.threads // variant.groups
    lines = []
    for t in words_a_thread(variant.chunk * variant.tile_n, group_threads):
        values = ", ".join(f"{prefix}w{t}_{j}" for j in range(4))
        lines.append(f"put4(shared, {place} + w_to{t}, {values})")
    turns = words_a_thread(variant.chunk * variant.tile_m, group_threads)
    names = [(t, f"{prefix}x{t}_{j}") for t in turns for j in range(4)]
    lines += [f"if flags & {u(PRE_AFFINE | PRE_RELU)}:"]
    lines += [f"    {x} = {x} * {prefix}gain{t} + {prefix}offset{t}" for t, x in names]
    lines += [f"    if flags & {u(PRE_RELU)}:"]
    lines += [f"        {x} = float32(0) if {x} <= float32(0) else {x}" for _, x in names]
    lines += [f"{x} = {x} if {prefix}c{t} <= last else float32(0)" for t, x in names]
    for t in turns:
        values = ", ".join(f"{prefix}x{t}_{j}" for j in range(4))
        lines.append(f"put4(shared, {place} + uint64({variant.chunk * variant.tile_n}) + x_to{t}, {values})")
    return lines


def _operands(variant, channel: int, place: str) -> list[str]:
    """One channel's operands of this thread from shared memory, under names of its own."""
    lines = []
    n_row = channel * variant.tile_n
    m_row = variant.chunk * variant.tile_n + channel * variant.tile_m
    for word in range(variant.n // 4):
        names = ", ".join(f"a{channel}_{4 * word + i}" for i in range(4))
        lines.append(f"{names} = get4(shared, {place} + n_at + uint64({n_row + word * 4 * variant.lanes_n}))")
    first = 0
    for wide in widths(variant.m):
        at = f"{place} + m_at{wide} + uint64({m_row + first * variant.lanes_m})"
        names = ", ".join(f"b{channel}_{first + j}" for j in range(wide))
        lines.append(f"{names} = shared[{at}]" if wide == 1 else f"{names} = get{wide}(shared, {at})")
        first += wide
    return lines


def _multiply(variant, channel: int) -> list[str]:
    return [f"sum_{i}_{j} += a{channel}_{i} * b{channel}_{j}" for i in range(variant.n) for j in range(variant.m)]


def _sync(variant) -> str:
    """A group of one warp needs no block barrier."""
    return "warp_sync()" if variant.threads == 32 * variant.groups else "cuda.syncthreads()"


def _fetch_first(variant, overlaps: bool) -> list[str]:
    """The first two chunks: weights, which no launch writes, ahead of the wait for the launch before.

    Ordinary loads (get4): ptxas moves those through the read-only path (load4) to behind the wait.
    """
    return [
        *_load_weights(variant, "first_", "get4"),
        "c = uint32(c + step)",
        *_load_weights(variant, "", "get4"),
        "c = uint32(c - step)",
        *["wait_for_input()"] * overlaps,
        *_load_input(variant, "first_"),
        "c = uint32(c + step)",
        *_load_input(variant, ""),
    ]


def _put_first(variant) -> list[str]:
    """What need not be done before the first loads; then the first chunk, which the loop finds in shared memory."""
    return [
        "steps = uint32(uint32(C + uint32(step - uint32(1))) // step)",
        *(f"sum_{i}_{j} = float32(0)" for i in range(variant.n) for j in range(variant.m)),
        *_put(variant, "first_", "here"),
        _sync(variant),
        *_operands(variant, 0, "here"),
    ]


def _main_loop(variant) -> list[str]:
    body = [*_put(variant, "", "there"), "c = uint32(c + step)"]
    body += _load_weights(variant, "") + _load_input(variant, "")
    for channel in range(variant.chunk - 1):
        body += _operands(variant, channel + 1, "here") + _multiply(variant, channel)
    body += [_sync(variant), *_operands(variant, 0, "there"), *_multiply(variant, variant.chunk - 1)]
    body += ["swap = here", "here = there", "there = swap"]
    return ["for _ in range(steps):", *indent(body)]
