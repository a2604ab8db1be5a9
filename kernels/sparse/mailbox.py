"""Shared memory that the other blocks of a cluster write to, and a barrier that opens when all bytes have come.

A store to another block's shared memory followed by a cluster barrier has to be published by a fence of the whole GPU
(ptxas writes MEMBAR.ALL.GPU for barrier.cluster.arrive.release). st.async instead counts its bytes in at an mbarrier of
the receiver: no fence, and no block waits for another that has nothing for it. Order: the receiver prepares its
barrier; all enter the cluster, and wait for the others' entry before they send; the receiver waits for its bytes. No
block needs to stay for another, since a receiver waits for all that is sent to it.

Compute capability 9.0 and up (PTX ISA: mbarrier, st.async, mapa, barrier.cluster). Imported by generated kernels only;
the simulator has no clusters.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.cuda.extending import intrinsic

_FLOAT, _INT, _LONG, _VOID = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.VoidType()


def _shared_address(context, builder, signature, array, index):
    """The address within shared memory, 32 bits, of element `index` of an array there."""
    data = context.make_array(signature.args[0])(context, builder, array).data
    generic = builder.ptrtoint(builder.gep(data, [index]), _LONG)
    text = "{ .reg .u64 at; cvta.to.shared.u64 at, $1; cvt.u32.u64 $0, at; }"
    return builder.call(ir.InlineAsm(ir.FunctionType(_INT, [_LONG]), text, "=r,l"), [generic])


def _emit(builder, text, constraints, operands):
    """An instruction that may read and write any memory; constraints: a letter an operand."""
    function = ir.FunctionType(_VOID, [operand.type for operand in operands])
    clobbers = ",".join([*constraints, "~{memory}"])
    builder.call(ir.InlineAsm(function, text, clobbers, side_effect=True), operands)


@intrinsic
def mailbox_expect(typing_context, array, barrier, count):
    """By one thread: element `barrier`, a multiple of 2, becomes a barrier that opens after `count` bytes."""

    def generate(context, builder, signature, arguments):
        text = (
            "mbarrier.init.shared::cta.b64 [$0], 1; fence.mbarrier_init.release.cluster; "
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;"
        )
        at = _shared_address(context, builder, signature, *arguments[:2])
        _emit(builder, text, "rr", [at, arguments[2]])
        return context.get_dummy_value()

    return types.void(array, barrier, types.uint32), generate


@intrinsic
def mailbox_enter(typing_context):
    """By all threads: this block's barrier is there."""

    def generate(context, builder, signature, arguments):
        _emit(builder, "barrier.cluster.arrive.relaxed.aligned;", "", [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def mailbox_entered(typing_context):
    """By all threads, before the first sends: all blocks' barriers are there."""

    def generate(context, builder, signature, arguments):
        _emit(builder, "barrier.cluster.wait.acquire.aligned;", "", [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def mailbox_send(typing_context, array, index, rank, barrier, a, b, c, d):
    """Four values to elements index to index + 3 of the same array of block `rank`; index is a multiple of 4."""

    def generate(context, builder, signature, arguments):
        shared, at, block, count, *values = arguments
        here = [_shared_address(context, builder, signature, shared, element) for element in (at, count)]
        text = (
            "{ .reg .u32 to, count; mapa.shared::cluster.u32 to, $0, $2; mapa.shared::cluster.u32 count, $1, $2; "
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [to], {$3, $4, $5, $6}, [count]; }"
        )
        _emit(builder, text, "rrrffff", [*here, block, *values])
        return context.get_dummy_value()

    return types.void(array, index, types.uint32, barrier, *[types.float32] * 4), generate


@intrinsic
def mailbox_wait(typing_context, array, barrier):
    """By all threads: all bytes have come, and are seen."""

    def generate(context, builder, signature, arguments):
        text = (
            "{ .reg .pred open; more: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 open, [$0], 0; "
            "@!open bra more; }"
        )
        _emit(builder, text, "r", [_shared_address(context, builder, signature, *arguments)])
        return context.get_dummy_value()

    return types.void(array, barrier), generate
