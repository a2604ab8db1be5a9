"""What Numba-CUDA has no name for: loads of 8 and 16 bytes, thread-block clusters, and launches that overlap.

Each name is an intrinsic for the compiler and, where the simulator runs, a function that does the same (clusters
excepted: it has none). Imported by generated kernels only.
"""

from __future__ import annotations

from numba import config

if config.ENABLE_CUDASIM:

    def load2(array, index):
        return array[index], array[index + 1]

    def load4(array, index):
        return array[index], array[index + 1], array[index + 2], array[index + 3]

    get2, get4 = load2, load4

    def put2(array, index, a, b):
        array[index], array[index + 1] = a, b

    def put4(array, index, a, b, c, d):
        array[index], array[index + 1], array[index + 2], array[index + 3] = a, b, c, d

    def misaligned(array):
        return 0

    def launch_dependents():
        """Nothing: the simulator runs one launch after the other."""

    wait_for_input = launch_dependents

else:
    from llvmlite import ir
    from numba.core import types
    from numba.cuda.extending import intrinsic

    _FLOAT, _INT, _LONG, _VOID = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.VoidType()

    def _element(context, builder, signature, arguments):
        """The address of element `index` of a flat array."""
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.gep(array.data, [arguments[1]])

    def _load(width, invariant):
        """width float32 from an address that is a multiple of 4·width bytes, as one word."""

        def typed(typing_context, array, index):
            signature = types.UniTuple(types.float32, width)(array, index)

            def generate(context, builder, signature, arguments):
                vector = ir.VectorType(_FLOAT, width)
                address = builder.bitcast(_element(context, builder, signature, arguments), vector.as_pointer())
                word = builder.load(address, align=4 * width)
                if invariant:
                    word.set_metadata("invariant.load", builder.module.add_metadata([]))
                values = [builder.extract_element(word, _INT(lane)) for lane in range(width)]
                return context.make_tuple(builder, signature.return_type, values)

            return signature, generate

        return typed

    def _store(width):
        def generate(context, builder, signature, arguments):
            vector = ir.VectorType(_FLOAT, width)
            word = ir.Constant(vector, ir.Undefined)
            for lane, value in enumerate(arguments[2:]):
                word = builder.insert_element(word, value, _INT(lane))
            address = builder.bitcast(_element(context, builder, signature, arguments), vector.as_pointer())
            builder.store(word, address, align=4 * width)
            return context.get_dummy_value()

        return generate

    def _instruction(text):
        """An intrinsic without operands that orders memory."""

        def typed(typing_context):
            def generate(context, builder, signature, arguments):
                assembly = ir.InlineAsm(ir.FunctionType(_VOID, []), text, "~{memory}", side_effect=True)
                builder.call(assembly, [])
                return context.get_dummy_value()

            return types.void(), generate

        return intrinsic(typed)

    @intrinsic
    def load2(typing_context, array, index):
        """Elements index and index + 1 of global memory that no launch writes; index is even."""
        return _load(2, True)(typing_context, array, index)

    @intrinsic
    def load4(typing_context, array, index):
        """Four elements of global memory that no launch writes; index is a multiple of 4."""
        return _load(4, True)(typing_context, array, index)

    @intrinsic
    def get2(typing_context, array, index):
        """Elements index and index + 1; index is even."""
        return _load(2, False)(typing_context, array, index)

    @intrinsic
    def get4(typing_context, array, index):
        """Four elements; index is a multiple of 4."""
        return _load(4, False)(typing_context, array, index)

    @intrinsic
    def put2(typing_context, array, index, a, b):
        """Two elements, as one word; index is even."""
        return types.void(array, index, *[types.float32] * 2), _store(2)

    @intrinsic
    def put4(typing_context, array, index, a, b, c, d):
        """Four elements, as one word; index is a multiple of 4."""
        return types.void(array, index, *[types.float32] * 4), _store(4)

    @intrinsic
    def misaligned(typing_context, array):
        """How many bytes the array begins after a multiple of 16."""

        def generate(context, builder, signature, arguments):
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            return builder.and_(builder.trunc(builder.ptrtoint(array.data, _LONG), _INT), _INT(15))

        return types.uint32(array), generate

    def _push(width):
        """Stores `width` values from element `index` on into the shared array of block `rank` of the cluster."""

        def generate(context, builder, signature, arguments):
            address = builder.ptrtoint(_element(context, builder, signature, arguments), _LONG)
            vector = "" if width == 1 else f".v{width}"
            operands = ", ".join(f"${2 + lane}" for lane in range(width))
            values = operands if width == 1 else f"{{{operands}}}"
            text = (
                "{ .reg .u64 at; .reg .u32 there; cvta.to.shared.u64 at, $0; cvt.u32.u64 there, at; "
                f"mapa.shared::cluster.u32 there, there, $1; st.shared::cluster{vector}.f32 [there], {values}; }}"
            )
            function = ir.FunctionType(_VOID, [_LONG, _INT, *[_FLOAT] * width])
            constraints = ",".join(["l", "r", *["f"] * width, "~{memory}"])
            assembly = ir.InlineAsm(function, text, constraints, side_effect=True)
            builder.call(assembly, [address, *arguments[2:]])
            return context.get_dummy_value()

        return generate

    @intrinsic
    def push1(typing_context, array, index, rank, a):
        """One element."""
        return types.void(array, index, types.uint32, types.float32), _push(1)

    @intrinsic
    def push2(typing_context, array, index, rank, a, b):
        """Two elements, as one word; index is even."""
        return types.void(array, index, types.uint32, *[types.float32] * 2), _push(2)

    @intrinsic
    def push4(typing_context, array, index, rank, a, b, c, d):
        """Four elements, as one word; index is a multiple of 4."""
        return types.void(array, index, types.uint32, *[types.float32] * 4), _push(4)

    def _register(name):
        """An intrinsic that reads a special register."""

        def typed(typing_context):
            def generate(context, builder, signature, arguments):
                assembly = ir.InlineAsm(ir.FunctionType(_INT, []), f"mov.u32 $0, %{name};", "=r", side_effect=False)
                return builder.call(assembly, [])

            return types.uint32(), generate

        return intrinsic(typed)

    # Compute capability 9.0 and up (PTX ISA: barrier.cluster, griddepcontrol).
    cluster_arrive = _instruction("barrier.cluster.arrive.release.aligned;")
    cluster_wait = _instruction("barrier.cluster.wait.acquire.aligned;")
    # All have read; nothing was written that another block reads, so no store need be waited for.
    cluster_leave = _instruction("barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;")
    launch_dependents = _instruction("griddepcontrol.launch_dependents;")
    wait_for_input = _instruction("griddepcontrol.wait;")
    cluster_z = _register("clusterid.z")
    rank_z = _register("cluster_ctaid.z")
