"""The compiled part of the CPU twin: tiles of two convolutions, what lies between them in a buffer of the thread.

A task is a tile of the output. It copies the input under the tile, computes all channels between the layers for the
tile and its halo into a buffer that stays in a second-level cache, [row][column][channel], and the output from that:

    sums of 6 neighbouring columns × 32 channels are in vector registers (`sum_block`), for each channel and tap two
    vectors of weights and six values, of which taps share: 12 multiply-adds for 5 loads

so that twelve sums hide the latency of a multiply-add; with eight they do so barely, and sixteen leave no registers for
the values. The weights of 32 channels lie together: those of 64 would be too many for a first-level cache.

The unfused twin runs the same code in two passes, one for each layer, with the buffer's content written to memory by
the first and copied back from it, halo included, by the second.
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16  # numbers of a vector: one register of AVX-512, two of AVX2, four of NEON or SSE
COLUMNS, CHANNELS = 6, 32  # of a block of sums
TILE = 24, 96  # rows and columns of a task's tile, before its maximum: lines of a cache are written whole

_INDEX, _NUMBER = ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FIRST = ir.Constant(ir.VectorType(_NUMBER, LANES), [0] * LANES)
_OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}, "cache": True}  # NaN, infinity and -0 stay


@intrinsic
def sum_block(typing_context, sums, at, values, place, strides, weights, first, count):
    """sums[at + 32p + n] = sum over c < count and taps (r, s) of values[place + c·strides[0] + r·strides[1] +
    (p + s)·strides[2]] · weights[first + 32·(9c + 3r + s) + n], p < COLUMNS, n < 32; count > 0.

    Numba has no vector type of its own, and keeps an array of sums in memory.
    """

    def generate(context, builder, signature, given):
        kinds = signature.args

        def data(number):
            return context.make_array(kinds[number])(context, builder, given[number]).data

        def vectors(address):
            parts = [builder.gep(address, [_INDEX(LANES * part)]) for part in range(CHANNELS // LANES)]
            return [builder.bitcast(part, _VECTOR.as_pointer()) for part in parts]

        channel, row, column = (builder.extract_value(given[4], number) for number in range(3))
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
        )
        start = builder.gep(data(2), [given[3]])
        taps = builder.gep(data(5), [given[6]])
        before = builder.block
        loop, after = builder.append_basic_block("channel"), builder.append_basic_block("channels_done")
        builder.branch(loop)
        builder.position_at_end(loop)
        number = builder.phi(_INDEX)
        partial = [[builder.phi(_VECTOR) for _ in range(CHANNELS // LANES)] for _ in range(COLUMNS)]
        base = builder.gep(start, [builder.mul(number, channel)])
        weights_at = builder.gep(taps, [builder.mul(number, _INDEX(9 * CHANNELS))])
        more = partial
        for r in range(3):
            spread = []
            for s in range(COLUMNS + 2):
                offset = builder.add(builder.mul(_INDEX(r), row), builder.mul(_INDEX(s), column))
                value = builder.load(builder.gep(base, [offset]))
                value = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, _NUMBER(0))
                spread.append(builder.shuffle_vector(value, value, _FIRST))
            for s in range(3):
                tap = builder.gep(weights_at, [_INDEX((3 * r + s) * CHANNELS)])
                loaded = [builder.load(part, align=4) for part in vectors(tap)]
                more = [
                    [
                        builder.call(multiply_add, [spread[p + s], weight, total])
                        for weight, total in zip(loaded, totals, strict=True)
                    ]
                    for p, totals in enumerate(more)
                ]
        following = builder.add(number, _INDEX(1))
        number.add_incoming(_INDEX(0), before)
        number.add_incoming(following, loop)
        zeros = ir.Constant(_VECTOR, [0.0] * LANES)
        for p in range(COLUMNS):
            for part in range(CHANNELS // LANES):
                partial[p][part].add_incoming(zeros, before)
                partial[p][part].add_incoming(more[p][part], loop)
        builder.cbranch(builder.icmp_signed("<", following, given[7]), loop, after)
        builder.position_at_end(after)
        for p in range(COLUMNS):
            to = builder.gep(data(0), [builder.add(given[1], _INDEX(CHANNELS * p))])
            for part, total in zip(vectors(to), more[p], strict=True):
                builder.store(total, part, align=4)
        return context.get_dummy_value()

    return types.void(sums, at, values, place, strides, weights, first, count), generate


def _finishing(q: int):
    """The intrinsic that ends a block: the maximum of q × q results, bias and activation, 32 channels at once."""

    @intrinsic
    def finish(typing_context, sums, at, bias, first, out, to, relu, slope):
        """out[to + n] = activation(max over rows and columns i, j < q of sums[at + (i·q·COLUMNS + j)·32 + n] +
        bias[first + n]), n < 32. Below zero that is zero with relu, else it is multiplied by slope; NaN wins and stays.
        """

        def generate(context, builder, signature, given):
            kinds = signature.args

            def vectors(number, offset):
                data = context.make_array(kinds[number])(context, builder, given[number]).data
                start = builder.gep(data, [offset])
                parts = [builder.gep(start, [_INDEX(LANES * part)]) for part in range(CHANNELS // LANES)]
                return [builder.bitcast(part, _VECTOR.as_pointer()) for part in parts]

            def spread(value):
                one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, _NUMBER(0))
                return builder.shuffle_vector(one, one, _FIRST)

            zero, factor = ir.Constant(_VECTOR, [0.0] * LANES), spread(given[7])
            inputs = [
                vectors(0, builder.add(given[1], _INDEX((row * q * COLUMNS + column) * CHANNELS)))
                for row in range(q)
                for column in range(q)
            ]
            for part, (add, into) in enumerate(zip(vectors(2, given[3]), vectors(4, given[5]), strict=True)):
                best = builder.load(inputs[0][part], align=4)
                for other in inputs[1:]:
                    value = builder.load(other[part], align=4)
                    kept = builder.or_(
                        builder.fcmp_ordered(">=", best, value), builder.fcmp_unordered("uno", best, best)
                    )
                    best = builder.select(kept, best, value)
                best = builder.fadd(best, builder.load(add, align=4))
                below = builder.select(given[6], zero, builder.fmul(best, factor))
                best = builder.select(builder.fcmp_ordered("<", best, zero), below, best)
                builder.store(best, into, align=4)
            return context.get_dummy_value()

        return types.void(sums, at, bias, first, out, to, relu, slope), generate

    return finish


_finish_one, _finish_four = _finishing(1), _finishing(2)


@numba.njit(**_OPTIONS)
def _layer(values, strides, weights, bias, channels, padded, q, rows, cols, block, out, kind):
    """One layer of a tile: out[(row·cols + col)·padded + n] for rows × cols results (after the maximum)."""
    relu, slope = kind
    channel_stride, row_stride, column_stride = strides
    for first in range(0, padded, CHANNELS):  # outermost: a group's weights stay in the first-level cache
        for row in range(rows):
            for col in range(0, cols, COLUMNS):
                for a in range(q):
                    for b in range(min(q, -(-q * (cols - col) // COLUMNS))):
                        place = (q * row + a) * row_stride + (q * col + b * COLUMNS) * column_stride
                        at = (a * q + b) * COLUMNS * CHANNELS
                        sum_block(
                            block, at, values, place, (channel_stride, row_stride, column_stride), weights,
                            9 * channels * first, channels,
                        )  # fmt: skip
                for p in range(min(COLUMNS, cols - col)):
                    to = (row * cols + col + p) * padded + first
                    if q == 2:
                        _finish_four(block, 2 * p * CHANNELS, bias, first, out, to, relu, slope)
                    else:
                        _finish_one(block, p * CHANNELS, bias, first, out, to, relu, slope)


@numba.njit(**_OPTIONS)
def _window(x, image, sizes, top, left, rows, cols, pitch, out):
    """out[(c·rows + i)·pitch + j] = x[image, c, top + i, left + j], zero outside the image."""
    channels, height, width = sizes
    out[: channels * rows * pitch] = 0
    for c in range(channels):
        for i in range(max(0, -top), min(rows, height - top)):
            plane = ((image * channels + c) * height + top + i) * width
            for j in range(max(0, -left), min(cols, width - left)):
                out[(c * rows + i) * pitch + j] = x[plane + left + j]


@numba.njit(**_OPTIONS)
def _clear_outside(buffer, top, left, rows, cols, height, width, padded):
    """Zeroes the positions that lie outside height × width: padding of the second layer, not results of the first."""
    for i in range(rows):
        for j in range(cols):
            if not (0 <= top + i < height and 0 <= left + j < width):
                buffer[(i * cols + j) * padded : (i * cols + j + 1) * padded] = 0


@numba.njit(**_OPTIONS)
def _middle_window(middle, image, height, width, top, left, rows, cols, padded, out):
    """Rows and columns of what lies between the layers, from memory; zero outside."""
    for i in range(rows):
        for j in range(cols):
            to = (i * cols + j) * padded
            if 0 <= top + i < height and 0 <= left + j < width:
                at = ((image * height + top + i) * width + left + j) * padded
                out[to : to + padded] = middle[at : at + padded]
            else:
                out[to : to + padded] = 0


@numba.njit(**_OPTIONS)
def _put_output(buffer, y, image, channels, height, width, top, left, rows, cols, padded):
    """The tile's results that exist, [row][column][channel], to y [image, channel, row, column]."""
    for n in range(channels):
        for i in range(min(rows, height - top)):
            at = ((image * channels + n) * height + top + i) * width + left
            for j in range(min(cols, width - left)):
                y[at + j] = buffer[(i * cols + j) * padded + n]


@numba.njit(parallel=True, **_OPTIONS)
def run(times, x, w1, b1, w2, b2, middle, y, sizes, pools, kind, fused):
    """The pair, `times` times: in one pass over the tiles, or in one for each layer.

    x, y: NCHW, flat; w: [Npad / 32, C, 9, 32], b: [Npad], flat, Npad a multiple of 32; middle: [N, H_mid, W_mid, Npad],
    flat, of the unfused twin; sizes: (N, C_in, C_mid, C_out, H, W); pools: (q of the first, of the second layer: 2 or
    1); kind: (whether relu; else what values below zero are multiplied by). Threads share no buffer: each task makes
    its own.
    """
    images, c_in, c_mid, c_out, height, width = sizes
    q1, q2 = pools
    mid_height, mid_width = height // q1, width // q1
    mid_padded, out_padded = len(b1), len(b2)
    across = -(-mid_width // TILE[1])
    tiles = -(-mid_height // TILE[0]) * across
    for _ in range(times):
        for half in range(1 if fused else 2):
            part = 0 if fused else half + 1  # both layers, the first, the second
            for task in numba.prange(images * tiles):
                image, tile = task // tiles, task % tiles
                halo = 0 if part == 1 else 1
                top, left = tile // across * TILE[0] - halo, tile % across * TILE[1] - halo
                rows = min(TILE[0], mid_height - top - halo) + 2 * halo
                cols = min(TILE[1], mid_width - left - halo) + 2 * halo
                block = np.empty(4 * COLUMNS * CHANNELS, np.float32)
                # Blocks of columns read beyond the last one: what they sum there is not used.
                buffer = np.empty((rows * cols + 3 * COLUMNS) * mid_padded, np.float32)
                if part < 2:
                    in_rows, in_cols = q1 * rows + 2, q1 * cols + 2
                    pitch = in_cols + 3 * COLUMNS
                    window = np.empty(c_in * in_rows * pitch + pitch, np.float32)
                    _window(
                        x, image, (c_in, height, width), q1 * top - 1, q1 * left - 1, in_rows, in_cols, pitch, window
                    )
                    strides = (in_rows * pitch, pitch, 1)
                    _layer(window, strides, w1, b1, c_in, mid_padded, q1, rows, cols, block, buffer, kind)
                if part == 1:
                    for i in range(rows):
                        at = ((image * mid_height + top + i) * mid_width + left) * mid_padded
                        length = cols * mid_padded
                        middle[at : at + length] = buffer[i * length : (i + 1) * length]
                    continue
                if part == 0:
                    _clear_outside(buffer, top, left, rows, cols, mid_height, mid_width, mid_padded)
                else:
                    _middle_window(middle, image, mid_height, mid_width, top, left, rows, cols, mid_padded, buffer)
                out_rows, out_cols = (rows - 2) // q2, (cols - 2) // q2
                result = np.empty(out_rows * out_cols * out_padded, np.float32)
                strides = (1, cols * mid_padded, mid_padded)
                _layer(buffer, strides, w2, b2, c_mid, out_padded, q2, out_rows, out_cols, block, result, kind)
                _put_output(
                    result, y, image, c_out, mid_height // q2, mid_width // q2, (top + 1) // q2, (left + 1) // q2,
                    out_rows, out_cols, out_padded,
                )  # fmt: skip
