"""The end of a pointwise kernel: sums of a block's groups, of the blocks that share a tile, epilogue and store.

Groups: all write their sums to shared memory, row-major, so that the threads then add and store neighbours.

Splits, by `reduce`:

- cluster: blocks of a thread-block cluster send their sums to the owners' mailboxes (`mailbox`). Block r owns the words
  of threads r·q to r·q + q - 1, q = threads / splits rounded up, so that each block adds and stores its share.
- ticket: slots of a workspace in global memory, and the last block adds them, as in v3; also wherever there are no
  clusters, that is before capability 9.0 and in the simulator.

In both, values are added in a fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from kernels.sparse.emit import indent, u
from kernels.sparse.fused import BIAS, POST_RELU, RESIDUAL

MOST_SPLITS = 16  # blocks of the largest cluster, which is not portable; 8 are


def widths(count: int) -> list[int]:
    """How a thread's rows or columns are read from shared memory: words of 4 floats, then 2, then 1."""
    return [4] * (count // 4) + [2] * (count % 4 // 2) + [1] * (count % 2)


def operand_floats(variant) -> int:
    """Floats of one chunk of one group: rows of weights, then rows of the input."""
    return variant.chunk * (variant.tile_n + variant.tile_m)


def words_a_thread(floats: int, threads: int) -> range:
    """The turns in which threads move that many floats by 16-byte words; in the last some move one a second time."""
    return range(-(-floats // 4 // threads))


def pitch(variant) -> int:
    """Floats between rows of sums in shared memory: an odd number of 16-byte words, against bank conflicts."""
    return 4 * (variant.tile_m // 4 | 1)


def phases(variant, capability: str | None) -> list[range]:
    """The n-words of a thread whose sums are added over the groups at a time: all, where shared memory allows."""
    words = variant.n // 4
    word = variant.groups * (variant.tile_n // words) * pitch(variant) * 4
    at_once = max(1, min(words, shared_limit(capability) // word))
    return [range(first, min(words, first + at_once)) for first in range(0, words, at_once)]


def shared_limit(capability: str | None) -> int:
    """Bytes of shared memory for sums: 7.5 has 64 KiB a multiprocessor, 8.0 and up hold two blocks of this."""
    return 48 * 1024 if capability == "7.5" else 64 * 1024


def across(variant, capability: str | None) -> str:
    """How the splits are added on this capability: clusters exist from 9.0 on."""
    return variant.reduce if capability is not None and float(capability) >= 9 else "ticket"


def _inbox_at(variant, capability: str | None) -> int:
    rows = variant.tile_n // (variant.n // 4) * len(phases(variant, capability)[0])
    return max(2 * variant.groups * operand_floats(variant), variant.groups * rows * pitch(variant))


def _inbox_floats(variant) -> int:
    return 4 * _turns(variant) * (variant.threads + MOST_SPLITS - 1)


def shared_floats(variant, capability: str | None) -> int:
    """Floats of dynamic shared memory: two chunks a group, later the groups' sums in the same place; the mailbox."""
    inbox = _inbox_floats(variant) + 4 if across(variant, capability) == "cluster" else 0
    return _inbox_at(variant, capability) + inbox


def prepare(variant, capability: str | None) -> list[str]:
    """At the kernel's start: an owner says what it will receive, and tells its cluster that it is there."""
    if across(variant, capability) != "cluster":
        return []
    inbox = _inbox_at(variant, capability)
    return [
        f"arrivals = uint64({inbox + _inbox_floats(variant)})",
        f"share = uint32(uint32({u(variant.threads - 1)} + splits) // splits)",
        f"begin = min(uint32(split * share), {u(variant.threads)})",
        f"owned = min(share, uint32({u(variant.threads)} - begin))",
        "if splits > uint32(1):",
        "    if thread == uint32(0):",
        f"        mailbox_expect(shared, arrivals, uint32(uint32(owned * splits) * {u(16 * _turns(variant))}))",
        "    warp_sync()",
        "    mailbox_enter()",
    ]


def reduce(variant, capability: str | None) -> list[str]:
    """Groups, then splits, then the epilogue and the store."""
    lines = [
        "whole = uint32(uint32(uint32(M | y_batch) & uint32(3)) | misaligned(y)) == uint32(0)",
        f"if flags & {u(RESIDUAL)}:",
        "    whole = whole and uint32(uint32(r_batch & uint32(3)) | misaligned(residual)) == uint32(0)",
        "last_split = uint32(splits - uint32(1))",
    ]
    mode = across(variant, capability)
    if mode == "cluster":
        lines += _addresses(variant, capability)
        rest = _add_mail(variant, capability)
    else:
        lines += [
            "ticket = cuda.shared.array(1, uint32)",
            "place = uint32(uint32(uint32(cuda.blockIdx.x) * uint32(cuda.gridDim.y)) + uint32(cuda.blockIdx.y))",
            f"slot = uint32(uint32(uint32(place * splits) + split) * {u(variant.tile_n * variant.tile_m)})",
        ]
        rest = _add_slots(variant)
    for phase in phases(variant, capability):
        lines += ["cuda.syncthreads()", *_put_sums(variant, phase), "cuda.syncthreads()"]
        lines += _add_groups(variant, phase, mode)
    return [*lines, "if splits > uint32(1):", *indent(rest)]


def _rows(variant, phase: range) -> int:
    """Rows of sums that a warp has in shared memory in this phase."""
    return 4 * variant.lanes_n * len(phase)


def _put_sums(variant, phase: range) -> list[str]:
    rows, wide = _rows(variant, phase), pitch(variant)
    warp_rows = f"uint32(uint32(group * {u(variant.warps_n)}) + warp_n)"
    lines = [f"at = uint64(uint32(uint32(uint32({warp_rows} * {u(rows)}) + uint32(lane_n * uint32(4))) * {u(wide)}))"]
    for number, word in enumerate(phase):
        for i in range(4):
            row, first = (number * 4 * variant.lanes_n + i) * wide, 0
            for size in widths(variant.m):
                values = ", ".join(f"sum_{4 * word + i}_{first + j}" for j in range(size))
                at = f"at + m_at{size} + uint64({row + first * variant.lanes_m})"
                lines.append(f"shared[{at}] = {values}" if size == 1 else f"put{size}(shared, {at}, {values})")
                first += size
    return lines


def _batches(variant, phase: range, body: Callable[[int, int], list[str]]) -> list[str]:
    """body(words of the phase, turns a batch) for all words of the phase, at most 4 a thread and batch.

    `turn0` counts the turns done. Four, so that loads of several words are in flight, and the code stays short.
    """
    words = variant.warps_n * _rows(variant, phase) * variant.tile_m // 4
    rounds, batch = _rounds(words, variant.threads)
    if rounds == 1:
        return ["turn0 = uint32(0)", *body(words, batch)]
    return [f"for turn0 in range(uint32(0), {u(rounds * batch)}, {u(batch)}):", *indent(body(words, batch))]


def _rounds(words: int, threads: int) -> tuple[int, int]:
    """(rounds, turns a round) in which all words are handled, at most 4 a thread and round."""
    turns = -(-words // threads)
    rounds = -(-turns // 4)
    return rounds, -(-turns // rounds)


def _turns(variant) -> int:
    """Words of the tile that a thread handles, those that do not exist included."""
    return math.prod(_rounds(variant.tile_n * variant.tile_m // 4, variant.threads))


def _cell(variant, phase: range, words: int, suffix: int) -> list[str]:
    """Word e of the phase: at, its place among the sums; cell_n and cell_m, its channel and column; if it exists."""
    rows, row_words = _rows(variant, phase), variant.tile_m // 4
    lines = [
        f"exists{suffix} = e{suffix} < {u(words)}",
        f"word{suffix} = min(e{suffix}, {u(words - 1)})",
        f"row{suffix} = uint32(word{suffix} // {u(row_words)})",
        f"cell_m{suffix} = uint32(uint32(word{suffix} - uint32(row{suffix} * {u(row_words)})) * uint32(4))",
        f"at{suffix} = uint64(uint32(uint32(row{suffix} * {u(pitch(variant))}) + cell_m{suffix}))",
    ]
    skipped = variant.n * variant.lanes_n - rows  # rows of each warp that belong to other phases
    if not skipped:
        return [*lines, f"cell_n{suffix} = row{suffix}"]
    jump = f"uint32(uint32(row{suffix} // {u(rows)}) * {u(skipped)})"
    first = 4 * variant.lanes_n * phase[0]
    return [*lines, f"cell_n{suffix} = uint32(uint32(row{suffix} + {jump}) + {u(first)})"]


def _add_groups(variant, phase: range, mode: str) -> list[str]:
    """Each thread adds its words over the groups; without splits it stores them, else it passes them on."""
    size = variant.warps_n * _rows(variant, phase) * pitch(variant)

    def body(words: int, batch: int) -> list[str]:
        lines, pass_on = [], []
        for t in range(batch):
            turn = f"uint32(turn0 + {u(t)})"
            lines += [
                f"e{t} = uint32(thread + uint32({turn} * {u(variant.threads)}))",
                *_cell(variant, phase, words, t),
            ]
            for g in range(variant.groups):
                names = ", ".join(f"got{t}_{g}_{j}" for j in range(4))
                lines.append(f"{names} = get4(shared, at{t} + uint64({g * size}))")
            for j in range(4):
                lines.append(f"t{t}_{j} = " + " + ".join(f"got{t}_{g}_{j}" for g in range(variant.groups)))
            values = ", ".join(f"t{t}_{j}" for j in range(4))
            if mode == "cluster":
                to = f"inbox + uint64(uint32(uint32({turn} * share) * uint32(4)))"
                pass_on.append(f"mailbox_send(shared, {to}, owner, arrivals, {values})")
            else:
                to = f"uint64(uint32(uint32(slot + uint32(cell_n{t} * {u(variant.tile_m)})) + cell_m{t}))"
                pass_on += [f"if exists{t}:", f"    put4(slots, {to}, {values})"]
        return [*lines, "if splits == uint32(1):", *indent(_finish(batch)), "else:", *indent(pass_on)]

    return _batches(variant, phase, body)


def _finish(batch: int) -> list[str]:
    """Bias, residual and ReLU onto t0_0 to t0_3 and so on, outputs (n0 + cell_n0, m0 + cell_m0) and on; store."""
    lines, turns, each = [], range(batch), [(t, j) for t in range(batch) for j in range(4)]
    for t in turns:
        lines += [
            f"real{t} = exists{t} and uint32(n0 + cell_n{t}) < N and uint32(m0 + cell_m{t}) < M",
            f"out_n{t} = uint32(n0 + cell_n{t}) if real{t} else uint32(0)",
            f"out_m{t} = uint32(m0 + cell_m{t}) if real{t} else uint32(0)",
            f"cell{t} = uint32(uint32(out_n{t} * M) + out_m{t})",
            f"end{t} = uint32(uint32(M - uint32(1)) - out_m{t})",
        ]
    lines += [f"if flags & {u(BIAS)}:"]
    lines += [f"    b{t} = bias[out_n{t}]" for t in turns] + [f"    t{t}_{j} += b{t}" for t, j in each]
    lines += [f"if flags & {u(RESIDUAL)}:", "    if whole:"]
    for t in turns:
        names = ", ".join(f"r{t}_{j}" for j in range(4))
        lines.append(f"        {names} = get4(residual, uint64(uint32(uint32(image * r_batch) + cell{t})))")
    lines += ["    else:"]
    for t, j in each:
        at = f"uint32(uint32(uint32(image * r_batch) + cell{t}) + min({u(j)}, end{t}))"
        lines.append(f"        r{t}_{j} = residual[{at}]")
    lines += [f"    t{t}_{j} += r{t}_{j}" for t, j in each]
    lines += [f"if flags & {u(POST_RELU)}:"]
    lines += [f"    t{t}_{j} = float32(0) if t{t}_{j} <= float32(0) else t{t}_{j}" for t, j in each]
    for t in turns:
        values = ", ".join(f"t{t}_{j}" for j in range(4))
        lines += [
            f"to_y{t} = uint32(uint32(image * y_batch) + cell{t})",
            f"if real{t} and whole:",
            f"    put4(y, uint64(to_y{t}), {values})",
            f"elif real{t}:",
            f"    y[to_y{t}] = t{t}_0",
        ]
        for j in range(1, 4):
            lines += [f"    if {u(j)} <= end{t}:", f"        y[uint32(to_y{t} + {u(j)})] = t{t}_{j}"]
    return lines


def _add_over_splits(value: Callable[[str, int], str], turns: range, unroll: int) -> list[str]:
    """t0_0 and on: the sums over z of word `value`(z, turn), `unroll` splits in flight."""
    lines = [f"t{t}_{j} = float32(0)" for t in turns for j in range(4)]
    lines.append(f"for z0 in range(uint32(0), splits, {u(unroll)}):")
    for z in range(unroll):
        lines.append(f"    other{z} = min(uint32(z0 + {u(z)}), last_split)")
        for t in turns:
            names = ", ".join(f"got{z}_{t}_{j}" for j in range(4))
            lines.append(f"    {names} = {value(f'other{z}', t)}")
    for z in range(unroll):
        lines.append(f"    if uint32(z0 + {u(z)}) < splits:")
        lines += [f"        t{t}_{j} += got{z}_{t}_{j}" for t in turns for j in range(4)]
    return lines


def _addresses(variant, capability: str | None) -> list[str]:
    """Who owns this thread's words, and where they go there: [split][turn][number among the owner's threads]."""
    return [
        "owner = uint32(thread // share)",
        "number = uint32(thread - uint32(owner * share))",
        f"row = uint32(uint32(uint32(split * {u(_turns(variant))}) * share) + number)",
        f"inbox = uint64(uint32({u(_inbox_at(variant, capability))} + uint32(row * uint32(4))))",
        "if splits > uint32(1):",
        "    mailbox_entered()",  # all owners have set their counts
    ]


def _add_mail(variant, capability: str | None) -> list[str]:
    """Adds the words that this block owns, numbered turn·share + number: thread's first is (owner, number) itself."""
    words, turns = variant.tile_n * variant.tile_m // 4, u(_turns(variant))

    def value(z: str, _: int) -> str:
        row = f"uint32(uint32(uint32(uint32({z} * {turns}) + turn) * share) + number)"
        return f"get4(shared, uint64(uint32({u(_inbox_at(variant, capability))} + uint32({row} * uint32(4)))))"

    body = [
        f"mine = uint32(uint32(turn * {u(variant.threads)}) + uint32(begin + number))",
        f"e0 = mine if number < owned else {u(words)}",
        *_cell(variant, range(variant.n // 4), words, 0),
        *_add_over_splits(value, range(1), 8),
        *_finish(1),
        f"following = uint32(uint32(word) + {u(variant.threads)})",
        "turn = uint32(following // share)",
        "number = uint32(following - uint32(turn * share))",
    ]
    return [
        "turn = owner",
        "mailbox_wait(shared, arrivals)",
        f"for word in range(thread, uint32({turns} * share), {u(variant.threads)}):",
        *indent(body),
    ]


def _add_slots(variant) -> list[str]:
    """Who draws the last ticket adds the slots in order; see v3 for the order of memory."""
    every, size = range(variant.n // 4), variant.tile_n * variant.tile_m

    def body(words: int, batch: int) -> list[str]:
        lines = []
        for t in range(batch):
            turn = f"uint32(turn0 + {u(t)})"
            lines += [
                f"e{t} = uint32(thread + uint32({turn} * {u(variant.threads)}))",
                *_cell(variant, every, words, t),
            ]
            lines.append(f"from{t} = uint32(uint32(slot + uint32(cell_n{t} * {u(variant.tile_m)})) + cell_m{t})")

        def value(z: str, t: int) -> str:
            return f"get4(slots, uint64(uint32(from{t} + uint32({z} * {u(size)}))))"

        return [*lines, *_add_over_splits(value, range(batch), 16 // batch // 2 or 1), *_finish(batch)]

    return [
        "cuda.syncthreads()",
        "if thread == uint32(0):",
        "    cuda.threadfence()",
        "    ticket[0] = cuda.atomic.inc(tickets, place, last_split)",
        "    if ticket[0] == last_split:",
        "        cuda.threadfence()",
        "cuda.syncthreads()",
        "if ticket[0] == last_split:",
        f"    slot = uint32(uint32(place * splits) * {u(size)})",
        *indent(_batches(variant, every, body)),
    ]
