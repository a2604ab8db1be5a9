"""The compiled part of the CPU twin: bits of 64 channels, runs of sums in vector registers.

A task is (image, band of output rows, group of output channels). For each 64 input channels it copies its window of
the image and marks in one word a position which channels are not zero there, as a GPU's warp does with `ballot`;
without skipping all bits are set. For each row of taps a position feeds one contiguous run of sums, at stride 1 those
of 3 neighbouring outputs times 32 channels. `add_run` walks the bits of a word with the run in registers, adds
value · weights for each, and adds the run to memory once:

    a bit    run / 16 vector multiply-adds, each with one load of weights and no load or store of a sum
    a word   one branch that is predicted wrong, and load, add and store of the run: shared by 16 bits at s = .75

The weights that 64 channels have for a row of taps are copied together (24 KB for runs of 96 numbers: a first-level
cache) for all positions of the window. A row of sums is one column wider at each side, so that taps past the image's
edge need no test; nobody reads those two columns.

The dense twin differs in the bits alone (one machine code, one flag). A word is summed by itself, so that no chain of
float32 is longer than 64: longer ones lose digits (4608 terms are to reach 1e-6 relative).
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba import boolean, float32, int64, uint64, void
from numba.core import cgutils, types
from numba.extending import intrinsic

WORD = 64  # input channels of a word of bits
LANES = 16  # numbers of a vector: one register of AVX-512, two of AVX2, four of NEON or SSE

_BIT, _INDEX, _NUMBER = ir.IntType(1), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_ZEROS = ir.Constant(_VECTOR, [0.0] * LANES)
_FIRST = ir.Constant(ir.VectorType(_NUMBER, LANES), [0] * LANES)

# `contract` fuses multiply and add; NaN, infinity and -0 stay
_OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}, "cache": True}
_FLAT, _WORDS, _WEIGHTS = float32[::1], uint64[::1], float32[:, :, :, ::1]


def _element(context, builder, kind, array, index):
    """The address of array[index], a flat array of numba type `kind`."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _vector_at(builder, address, number):
    """The address of the `number`-th vector from `address` on."""
    return builder.bitcast(builder.gep(address, [_INDEX(number * LANES)]), _VECTOR.as_pointer())


def _add_run(run: int):
    """The intrinsic for runs of `run` sums (a multiple of LANES, so few that they stay in registers)."""

    @intrinsic
    def add_run(typing_context, sums, at, taps, window, place, pitch, word):
        """sums[at + n] += sum over the bits c of word of window[place + c·pitch] · taps[c·run + n], n < run; word ≠ 0.

        In the order of the bits. Numba has no vector type of its own, and keeps an array of sums in memory.
        """

        def generate(context, builder, signature, given):
            kinds = signature.args
            sums = _element(context, builder, kinds[0], given[0], given[1])
            taps = _element(context, builder, kinds[2], given[2], _INDEX(0))
            window = _element(context, builder, kinds[3], given[3], given[4])
            pitch, word = given[5], given[6]
            # not llvm.fma: without such an instruction that would be a call of a library for each number
            multiply_add = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
            )
            before = builder.block
            loop, after = builder.append_basic_block("bit"), builder.append_basic_block("word_done")
            builder.branch(loop)
            builder.position_at_end(loop)
            bits = builder.phi(_INDEX)
            partial = [builder.phi(_VECTOR) for _ in range(run // LANES)]
            channel = builder.cttz(bits, _BIT(1))
            others = builder.and_(bits, builder.sub(bits, _INDEX(1)))
            value = builder.load(builder.gep(window, [builder.mul(channel, pitch)]))
            value = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, _NUMBER(0))
            value = builder.shuffle_vector(value, value, _FIRST)
            weights = builder.gep(taps, [builder.mul(channel, _INDEX(run))])
            more = [
                builder.call(multiply_add, [value, builder.load(_vector_at(builder, weights, number), align=4), vector])
                for number, vector in enumerate(partial)
            ]
            for phi, first, next_one in [
                (bits, word, others),
                *((p, _ZEROS, m) for p, m in zip(partial, more, strict=True)),
            ]:
                phi.add_incoming(first, before)
                phi.add_incoming(next_one, loop)
            builder.cbranch(builder.icmp_unsigned("!=", others, _INDEX(0)), loop, after)
            builder.position_at_end(after)
            for number, vector in enumerate(more):
                place = _vector_at(builder, sums, number)
                builder.store(builder.fadd(builder.load(place, align=4), vector), place, align=4)
            return context.get_dummy_value()

        return types.void(sums, at, taps, window, place, pitch, word), generate

    return add_run


_add_64, _add_96, _add_128 = _add_run(64), _add_run(96), _add_run(128)


@intrinsic
def _copy(typing_context, target, at, source, start, count):
    """target[at + n] = source[start + n] for n < count, a multiple of LANES."""

    def generate(context, builder, signature, given):
        target = _element(context, builder, signature.args[0], given[0], given[1])
        source = _element(context, builder, signature.args[2], given[2], given[3])
        with cgutils.for_range(builder, builder.udiv(given[4], _INDEX(LANES))) as loop:
            index = builder.mul(loop.index, _INDEX(LANES))
            vector = builder.load(_vector_at(builder, builder.gep(source, [index]), 0), align=4)
            builder.store(vector, _vector_at(builder, builder.gep(target, [index]), 0), align=4)
        return context.get_dummy_value()

    return types.void(target, at, source, start, count), generate


@numba.njit(_FLAT(int64), error_model="numpy", cache=True)
def _aligned(count):
    """Room that begins at a cache line: a vector across two lines costs twice."""
    room = np.empty(count + 16, np.float32)
    skipped = (64 - room.ctypes.data % 64) // 4 % 16
    return room[skipped : skipped + count]


@numba.njit(
    void(_FLAT, int64, _FLAT, int64, _WORDS, int64, int64, float32, float32, boolean, uint64, uint64), **_OPTIONS
)
def _mark(x, start, window, into, words, place, count, scale, shift, relu, bit, always):
    """Copy `count` values of a channel from x[start ...] to window[into ...], activated, and mark those not zero."""
    # slices: an index that may be negative, for all that is known, keeps LLVM from vectors
    source, target, marks = x[start : start + count], window[into : into + count], words[place : place + count]
    for p in range(count):
        value = source[p] * scale + shift
        if relu and value <= 0:  # so that NaN stays
            value = np.float32(0)
        target[p] = value
        marks[p] |= (np.uint64(value != 0) | always) << bit


@numba.njit(void(_WEIGHTS, int64, int64, int64, int64, int64, int64, int64, int64, _FLAT), **_OPTIONS)
def _gather(w, c, count, r, last, apart, number, first, block, taps):
    """taps[i, t, n] = w[c + i, r, last - t·apart, first + n] for i < count, t < number, n < block."""
    k, padded = w.shape[1], w.shape[3]
    flat = w.reshape(w.size)
    size = min(block, padded - first)
    for i in range(count):
        for t in range(number):
            row = ((c + i) * k + r) * k + last - t * apart
            _copy(taps, (i * number + t) * block, flat, row * padded + first, size)


@numba.njit(void(_FLAT, int64, int64, _FLAT, int64, _FLAT, int64, int64, _WORDS, int64, int64), **_OPTIONS)
def _add_row(sums, at, block, taps, run, window, place, pitch, words, count, apart):
    """Every `apart`-th of `count` positions, from words[place] on, adds its run at sums[at + m·block], m = 0, 1, 2 …"""
    for p in range(place, place + count, apart):
        word = words[p]
        if word != 0:
            if run == 96:
                _add_96(sums, at, taps, window, p, pitch, word)
            elif run == 128:
                _add_128(sums, at, taps, window, p, pitch, word)
            else:
                _add_64(sums, at, taps, window, p, pitch, word)
        at += block


@numba.njit(void(_FLAT, int64, int64, _FLAT, int64, int64, int64, int64, _FLAT, _FLAT, int64, boolean), **_OPTIONS)
def _finish(sums, at, block, y, start, plane, count, wide, bias, residual, kept, relu):
    """y[start + n·plane + b] = sums[at + b·block + n] + bias[n], then residual and ReLU, for n < count and b < wide."""
    for n in range(count):
        source, target = sums[at + n :], y[start + n * plane : start + n * plane + wide]
        if len(residual) > 0:
            added = residual[kept + n * plane : kept + n * plane + wide]
            for b in range(wide):  # in one step: the residual may be y itself
                target[b] = source[b * block] + bias[n] + added[b]
        else:
            for b in range(wide):
                target[b] = source[b * block] + bias[n]
        if relu:
            for b in range(wide):
                target[b] = np.float32(0) if target[b] <= 0 else target[b]  # NaN stays


_SIZES, _TASKS, _FLAGS = types.UniTuple(int64, 8), types.UniTuple(int64, 3), types.UniTuple(boolean, 3)
_CONV = (_FLAT, _WEIGHTS, _FLAT, _FLAT, _FLAT, _FLAT, _FLAT, _SIZES, _TASKS, _FLAGS)


@numba.njit(void(*_CONV), parallel=True, **_OPTIONS)
def conv(x, w, bias, y, residual, scale, shift, sizes, tasks, flags):
    """y = post(conv(pre(x)) + bias + residual), all arrays flat but w [C, k, k, Npad]; residual may be empty.

    sizes: images, rows and columns of x, outputs, stride, then the elements from one image to the next in x, y and
    residual; tasks: rows of outputs and output channels of a task, and of a run; flags: ReLU before, ReLU after, skip.
    """
    images, height, width, outputs, stride, x_image, y_image, residual_image = sizes
    rows, group, block = tasks
    pre_relu, post_relu, skip = flags
    channels, k, padded = w.shape[0], w.shape[1], w.shape[3]
    edge = k // 2
    tall, wide = (height - 1) // stride + 1, (width - 1) // stride + 1
    bands, groups = (tall + rows - 1) // rows, (padded + group - 1) // group
    lines = 1 if k == 3 else stride  # of the rows of x, a 1×1 filter reads every `lines`-th
    phases = stride if k == 3 else 1
    row = (wide + 2 * edge) * block
    always = np.uint64(not skip)
    for task in numba.prange(images * bands * groups):
        image, top, first = task // (groups * bands), task // groups % bands * rows, task % groups * group
        high = min(rows, tall - top)
        above = max(top * stride - edge, 0)
        below = min((top + high - 1) * stride + edge + 1, height)
        read = (below - above + lines - 1) // lines
        blocks = (min(group, padded - first) + block - 1) // block
        pitch = (read * width // 16 | 1) * 16 + 32  # an odd number of cache lines: channels fall into different sets
        window = _aligned(WORD * pitch)
        words = np.empty(read * width, np.uint64)
        taps = _aligned(WORD * k * block)
        sums = _aligned(blocks * high * row)
        taps[:] = 0  # where a run ends past Npad, nothing is gathered
        sums[:] = 0
        for c in range(0, channels, WORD):
            some = min(WORD, channels - c)
            words[:] = 0
            for i in range(some):
                start = image * x_image + ((c + i) * height + above) * width
                pieces, length = (1, read * width) if lines == 1 else (read, width)
                for piece in range(pieces):
                    _mark(x, start + piece * lines * width, window, i * pitch + piece * width, words, piece * width,
                          length, scale[c + i], shift[c + i], pre_relu, np.uint64(i), always)  # fmt: skip
            for part in range(blocks):
                for r in range(k):
                    for phase in range(phases):
                        # neighbouring outputs are fed by falling taps: 2, 1, 0 from each column at stride 1; at stride
                        # 2 columns 1, 3 … feed two outputs through taps 2 and 0, columns 0, 2 … one through tap 1
                        number = k if phases == 1 else 2 - phase
                        column = 1 - phase if phases == 2 else 0
                        _gather(w, c, some, r, k - 1 - phase, phases, number, first + part * block, block, taps)
                        for a in range(high):
                            line = (top + a) * stride + r - edge
                            if 0 <= line < height:
                                at = (part * high + a) * row + (phases - 1) * block
                                place = (line - above) // lines * width + column
                                _add_row(sums, at, block, taps, number * block, window, place, pitch, words,
                                         width - column, stride)  # fmt: skip
        for part in range(blocks):
            n = first + part * block
            for a in range(high):
                place = (n * tall + top + a) * wide
                at = (part * high + a) * row + edge * block
                _finish(sums, at, block, y, image * y_image + place, tall * wide, min(block, outputs - n), wide,
                        bias[n:], residual, image * residual_image + place, post_relu)  # fmt: skip


@numba.njit(void(int64, *_CONV), error_model="numpy", cache=True)
def loop(times, x, w, bias, y, residual, scale, shift, sizes, tasks, flags):
    """`conv`, `times` times."""
    for _ in range(times):
        conv(x, w, bias, y, residual, scale, shift, sizes, tasks, flags)
