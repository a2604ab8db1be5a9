"""Tensor cores and shared memory by address: PTX that Numba-CUDA has no name for (compute capability 8.0 and up).

Fragments of `mma.sync` (PTX ISA, matrix fragments for m16n8k8 and m16n8k16), lane = 4·g + t. Of A, a0 and a2 are row
g, a1 and a3 row g + 8, a2 and a3 the upper half of the k's. Of B, b0 and b1 are column g and the two halves of the k's.
Of C, c0 and c1 are row g and columns 2t and 2t + 1, c2 and c3 row g + 8. A word is k = t (tf32) or 2t, 2t + 1 (bf16).
`ldmatrix` hands lane 4·g + t the t-th word of the g-th row of 16 bytes of each of four 8-row matrices, which is A.

Imported by generated kernels only. Words of B are float32 in name: they come from packed weights with wide loads.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.cuda.extending import intrinsic

_FLOAT, _INT, _LONG, _VOID = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.VoidType()
_MMA = "mma.sync.aligned.{} {{$0, $1, $2, $3}}, {{$4, $5, $6, $7}}, {{$8, $9}}, {{$10, $11, $12, $13}};"


def _call(builder, text, result, constraints, operands, *, ordered):
    """A call of inline assembly; ordered: it reads or writes memory, and stays where it is."""
    kind = ir.FunctionType(result, [operand.type for operand in operands])
    constraints += ",~{memory}" if ordered else ""
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=ordered), operands)


def _four(context, builder, signature, struct):
    """A tuple of the four members of an assembly's result."""
    return context.make_tuple(builder, signature.return_type, [builder.extract_value(struct, i) for i in range(4)])


def _mma(shape):
    """An intrinsic that adds the product of two fragments to a third."""

    def typed(typing_context, a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
        signature = types.UniTuple(types.float32, 4)(*[types.uint32] * 4, *[types.float32] * 6)

        def generate(context, builder, signature, given):
            words = [builder.bitcast(value, _INT) for value in given[4:6]]
            result, constraints = ir.LiteralStructType([_FLOAT] * 4), ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)
            operands = [*given[:4], *words, *given[6:]]
            struct = _call(builder, _MMA.format(shape), result, constraints, operands, ordered=False)
            return _four(context, builder, signature, struct)

        return signature, generate

    return intrinsic(typed)


mma_tf32 = _mma("m16n8k8.row.col.f32.tf32.tf32.f32")
mma_bf16 = _mma("m16n8k16.row.col.f32.bf16.bf16.f32")


@intrinsic
def shared_address(typing_context, array):
    """Where a shared array begins, as shared-memory instructions take it."""

    def generate(context, builder, signature, given):
        data = context.make_array(signature.args[0])(context, builder, given[0]).data
        text = "{ .reg .u64 at; cvta.to.shared.u64 at, $1; cvt.u32.u64 $0, at; }"
        return _call(builder, text, _INT, "=r,l", [builder.ptrtoint(data, _LONG)], ordered=False)

    return types.uint32(array), generate


@intrinsic
def ldmatrix4(typing_context, address):
    """Four 8×8 matrices of 16-bit words (8×4 of 32-bit ones); lane i gives the address of row i of them."""

    def generate(context, builder, signature, given):
        text = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, [$4];"
        struct = _call(builder, text, ir.LiteralStructType([_INT] * 4), "=r,=r,=r,=r,r", given, ordered=True)
        return _four(context, builder, signature, struct)

    return types.UniTuple(types.uint32, 4)(types.uint32), generate


@intrinsic
def load_word(typing_context, address):
    """A word of shared memory."""

    def generate(context, builder, signature, given):
        return _call(builder, "ld.shared.b32 $0, [$1];", _INT, "=r,r", given, ordered=True)

    return types.uint32(types.uint32), generate


@intrinsic
def put_word(typing_context, address, word):
    """Stores a word in shared memory."""

    def generate(context, builder, signature, given):
        _call(builder, "st.shared.b32 [$0], $1;", _VOID, "r,r", given, ordered=True)
        return context.get_dummy_value()

    return types.void(types.uint32, types.uint32), generate


@intrinsic
def put_words(typing_context, address, first, second):
    """Stores two words in shared memory, at a multiple of 8 bytes."""

    def generate(context, builder, signature, given):
        _call(builder, "st.shared.v2.b32 [$0], {$1, $2};", _VOID, "r,r,r", given, ordered=True)
        return context.get_dummy_value()

    return types.void(types.uint32, types.uint32, types.uint32), generate


def _pure(text, result, kind, constraints, arguments):
    """An intrinsic that computes one value."""

    def typed(typing_context, *given):
        def generate(context, builder, signature, given):
            return _call(builder, text, kind, constraints, given, ordered=False)

        return result(*arguments), generate

    return typed


@intrinsic
def as_tf32(typing_context, value):
    """A float32 rounded to the nearest tf32, as its word."""
    return _pure("cvt.rna.tf32.f32 $0, $1;", types.uint32, _INT, "=r,f", [types.float32])(typing_context, value)


@intrinsic
def as_bf16s(typing_context, low, high):
    """Two float32 rounded to the nearest bf16, as one word."""
    text = "cvt.rn.bf16x2.f32 $0, $2, $1;"
    return _pure(text, types.uint32, _INT, "=r,f,f", [types.float32] * 2)(typing_context, low, high)


@intrinsic
def larger_of(typing_context, a, b):
    """The maximum; NaN in either wins."""
    return _pure("max.NaN.f32 $0, $1, $2;", types.float32, _FLOAT, "=f,f,f", [types.float32] * 2)(typing_context, a, b)
