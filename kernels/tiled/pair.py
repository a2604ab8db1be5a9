"""The tile code of v2 to v4: two 3×3 convolutions of a tile, what lies between them in shared memory.

A block computes a tile of the output, `cob` channels of it. It loads the input under the tile once; then, chunk by
chunk of the channels between the layers, it computes them for the tile and its halo into shared memory (positions
outside the image become zero after the activation: they are padding of the second convolution, not results of the
first) and adds what they contribute to sums in registers. A thread sums 2 rows × COLUMNS columns × CHANNELS channels.

With one buffer a chunk takes two barriers: all have read the last chunk, and this one is there. With two buffers the
next chunk is computed before the first of them, while slower warps still read the last one.

The dense twin is the same text, the stores of the first half and the loads of the second in global memory.
"""

from __future__ import annotations

from kernels.sparse.emit import indent, u
from kernels.tiled import layout
from kernels.tiled.emit import PRELUDE, activate, larger

PAIR = (
    *((name, "f32*") for name in ("x", "w1", "b1", "w2", "b2", "y")),
    *((name, "u32") for name in ("C_in", "C_mid", "C_out", "H", "W", "tiles_w")),
    ("slope", "f32"),
)
FIRST = tuple(parameter for parameter in PAIR if parameter[0] not in ("w2", "b2", "C_out"))
SECOND = tuple(parameter for parameter in PAIR if parameter[0] not in ("w1", "b1", "C_in"))


def source(variant, *, wide: bool) -> str:
    """Python source of the variant's kernel; wide: shared memory is read in words of 16 bytes."""
    parts = {"pair": _pair, "first": _first, "second": _second, "layer": _second}
    parameters = {"pair": PAIR, "first": FIRST}.get(variant.part, SECOND)
    head = f"def {variant.rung}({', '.join(name for name, _ in parameters)}):"
    lines = [*_setup(variant), *parts[variant.part](variant, wide)]
    return PRELUDE.format(name=variant.name) + "\n".join([head, *indent(lines)]) + "\n"


def _starts(variant) -> dict[str, int]:
    """Where each part of shared memory begins, in floats."""
    starts, at = {}, 0
    for name, size in layout.shared_terms(variant).items():
        starts[name] = at
        at += size // 4
    return starts


def _q(variant) -> int:
    return 2 if variant.pool_mid else 1


def _setup(variant) -> list[str]:
    groups = variant.cob // layout.CHANNELS[variant.rung]
    columns = layout.COLUMNS[variant.rung]
    q, halo = _q(variant), 0 if variant.part == "first" else 1
    return [
        "shared = dynamic_shared()",
        "thread = uint32(cuda.threadIdx.x)",
        "image = uint32(cuda.blockIdx.z)",
        f"n0 = uint32(uint32(cuda.blockIdx.y) * {u(variant.cob)})",
        f"Np = uint32(uint32(cuda.gridDim.y) * {u(variant.cob)})",
        "tile_row = uint32(uint32(cuda.blockIdx.x) // tiles_w)",
        f"oy = uint32(tile_row * {u(variant.th)})",
        f"ox = uint32(uint32(uint32(cuda.blockIdx.x) - uint32(tile_row * tiles_w)) * {u(variant.tw)})",
        f"chunks = uint32(uint32(C_mid + {u(variant.chunk - 1)}) // {u(variant.chunk)})",
        # Before the image's first row or column these wrap to large numbers, which no size exceeds.
        f"my0 = uint32(oy - {u(halo)})",
        f"mx0 = uint32(ox - {u(halo)})",
        f"Hm = uint32(H // {u(q)})",
        f"Wm = uint32(W // {u(q)})",
        f"run = uint32(thread // {u(groups)})",
        f"group = uint32(thread - uint32(run * {u(groups)}))",
        f"run_row = uint32(run // {u(variant.tw // columns)})",
        f"py = uint32(run_row * {u(2)})",
        f"px = uint32(uint32(run - uint32(run_row * {u(variant.tw // columns)})) * {u(columns)})",
    ]


def _pair(variant, wide: bool) -> list[str]:
    """Both layers."""
    copy_first, compute = _copy_first_weights(variant), _first_layer(variant, wide)
    if variant.buffers == 1:
        body = ["cuda.syncthreads()", *_copy_second_weights(variant), *compute, "cuda.syncthreads()"]
        ahead, after = 1, [*copy_first, *_accumulate(variant, wide)]
    else:
        body = [*compute, "cuda.syncthreads()", *_copy_second_weights(variant), *copy_first, "cuda.syncthreads()"]
        ahead, after = 2, _accumulate(variant, wide)
    lines = [*_load_input(variant), *_clear(variant)]
    for number in range(ahead):
        lines += [f"wanted = {u(number)}", *copy_first]
    if variant.buffers == 2:
        lines.append("cuda.syncthreads()")
    loop = ["chunk = uint32(step)", f"wanted = uint32(chunk + {u(ahead)})", *body, *after]
    return [*lines, "for step in range(uint32(0), chunks):", *indent(loop), *_store(variant)]


def _first(variant, wide: bool) -> list[str]:
    """The first layer, to global memory."""
    loop = ["chunk = uint32(step)", "cuda.syncthreads()", *_first_layer(variant, wide), "cuda.syncthreads()"]
    loop += ["wanted = uint32(chunk + uint32(1))", *_copy_first_weights(variant)]
    lines = [*_load_input(variant), "wanted = uint32(0)", *_copy_first_weights(variant)]
    return [*lines, "for step in range(uint32(0), chunks):", *indent(loop)]


def _second(variant, wide: bool) -> list[str]:
    """The second layer, from global memory."""
    loop = ["chunk = uint32(step)", "cuda.syncthreads()", *_load_middle(variant), *_copy_second_weights(variant)]
    loop += ["cuda.syncthreads()", *_accumulate(variant, wide)]
    return [*_clear(variant), "for step in range(uint32(0), chunks):", *indent(loop), *_store(variant)]


def _clear(variant) -> list[str]:
    return [f"sum_{a}_{b}_{n} = float32(0)" for a, b, n in _outputs(variant)]


def _outputs(variant) -> list[tuple[int, int, int]]:
    columns, channels = layout.COLUMNS[variant.rung], layout.CHANNELS[variant.rung]
    return [(a, b, n) for a in range(2) for b in range(columns) for n in range(channels)]


def _each(variant, count: str, lines: list[str]) -> list[str]:
    """The lines for `flat` from 0 to count, spread over the block's threads."""
    head = f"for number in range(thread, {count}, {u(variant.threads)}):"
    return [head, *indent(["flat = uint32(number)", *lines])]


def _split(name: str, of: str, by: int, rest: str) -> list[str]:
    """name, rest = divmod(of, by)"""
    return [f"{name} = uint32({of} // {u(by)})", f"{rest} = uint32({of} - uint32({name} * {u(by)}))"]


def _load_input(variant) -> list[str]:
    """The input under the tile, zero outside the image and past the last channel."""
    q, (ih, iw) = _q(variant), layout.window(variant)
    stride = layout.padded(iw)
    lines = [
        *_split("c", "flat", ih * stride, "rest"),
        *_split("i", "rest", stride, "j"),
        "i = uint32(uint32(iy0) + i)",
        "j = uint32(uint32(ix0) + j)",
        "value = float32(0)",
        "if c < C_in and i < H and j < W:",
        "    value = x[uint32(uint32(uint32(uint32(uint32(uint32(image * C_in) + c) * H) + i) * W) + j)]",
        f"shared[uint64({_starts(variant)['input']}) + uint64(flat)] = value",
    ]
    origin = [f"i{axis}0 = uint32(uint32({u(q)} * m{axis}0) - uint32(1))" for axis in "yx"]
    return [*origin, *_each(variant, u(variant.cin * ih * stride), lines)]


def _load_middle(variant) -> list[str]:
    """A chunk of what lies between the layers, from x; zero outside the image and past the last channel."""
    mh, mw = layout.middle(variant)
    stride = layout.padded(mw)
    lines = [
        *_split("c", "flat", mh * stride, "rest"),
        *_split("i", "rest", stride, "j"),
        f"c = uint32(uint32(chunk * {u(variant.chunk)}) + c)",
        "i = uint32(my0 + i)",
        "j = uint32(mx0 + j)",
        "value = float32(0)",
        "if c < C_mid and i < H and j < W:",
        "    value = x[uint32(uint32(uint32(uint32(uint32(uint32(image * C_mid) + c) * H) + i) * W) + j)]",
        f"shared[uint64({_starts(variant)['middle']}) + uint64(flat)] = value",
    ]
    return _each(variant, u(variant.chunk * mh * stride), lines)


def _copy_first_weights(variant) -> list[str]:
    """The first layer's weights of chunk `wanted`, if there is one."""
    size = 9 * variant.chunk
    place = _starts(variant)["weights of the first layer"]
    buffer = f"uint64(uint32(wanted & uint32(1)) * {u(variant.cin * size)})" if variant.buffers == 2 else "uint64(0)"
    lines = [f"shared[uint64({place}) + {buffer} + uint64(flat)] = w1[uint32(uint32(wanted * count) + flat)]"]
    copy = [f"count = uint32(C_in * {u(size)})", *_each(variant, "count", lines)]
    return ["if wanted < chunks:", *indent(copy)]


def _copy_second_weights(variant) -> list[str]:
    """The second layer's weights of the chunk, for the block's output channels."""
    words, rows = variant.cob // 4, 9 * variant.chunk
    lines = [
        *_split("row", "flat", words, "word"),
        f"at = uint32(uint32(uint32(uint32(chunk * {u(rows)}) + row) * Np) + uint32(n0 + uint32(word * uint32(4))))",
        "k0, k1, k2, k3 = load4(w2, at)",
        f"put4(shared, uint64({_starts(variant)['weights of the second layer']}) + uint64(flat * uint32(4)), "
        "k0, k1, k2, k3)",
    ]
    return _each(variant, u(rows * words), lines)


def _read(names: list[str], place: str, wide: bool) -> list[str]:
    """Loads the names from shared memory at `place` on; wide: in words of 4 and 2 (their number is even)."""
    lines, at = [], 0
    while at < len(names):
        width = (4 if len(names) - at >= 4 else 2) if wide else 1
        where = f"{place} + uint64({at})"
        call = f"get{width}(shared, {where})" if wide else f"shared[{where}]"
        lines.append(f"{', '.join(names[at : at + width])} = {call}")
        at += width
    return lines


def _first_layer(variant, wide: bool) -> list[str]:
    """The chunk between the layers: a task is q rows × 4 columns of the convolution, for 4 // q channels.

    So few channels, since these sums come on top of those of the second layer.
    """
    q, (mh, mw), (ih, iw) = _q(variant), layout.middle(variant), layout.window(variant)
    starts, runs, per = _starts(variant), -(-q * mw // 4), 4 // q
    stride, positions = layout.padded(iw), 4 // q
    buffer = f" + uint64(uint32(chunk & uint32(1)) * {u(9 * variant.cin * variant.chunk)})" * (variant.buffers == 2)
    values = [(a, b, n) for a in range(q) for b in range(4) for n in range(per)]
    task = [
        *_split("place", "flat", variant.chunk // per, "part"),
        *_split("i", "place", runs, "g"),
        f"m = uint32(uint32(chunk * {u(variant.chunk)}) + uint32(part * {u(per)}))",
        f"{', '.join(f'bias{n}' for n in range(per))} = load{per}(b1, m)",
        *(f"value_{a}_{b}_{n} = bias{n}" for a, b, n in values),
        f"in_at = uint64({starts['input']}) + uint64(uint32(uint32(i * {u(q * stride)}) + uint32(g * uint32(4))))",
        f"w_at = uint64({starts['weights of the first layer']}) + uint64(part * {u(per)}){buffer}",
        "for _ in range(C_in):",
    ]
    channel = []
    for row in range(q + 2):
        channel += _read([f"v{row}_{col}" for col in range(6)], f"in_at + uint64({row * stride})", wide)
        r = row - q + 1  # the row of taps whose q rows of inputs are there now
        for s in range(3) if r >= 0 else ():
            channel += _read([f"k{n}" for n in range(per)], f"w_at + uint64({(3 * r + s) * variant.chunk})", wide)
            channel += [f"value_{a}_{b}_{n} += v{r + a}_{s + b} * k{n}" for a, b, n in values]
    channel += [f"in_at += uint64({ih * stride})", f"w_at += uint64({9 * variant.chunk})"]
    task += indent(channel)
    for b in range(positions):
        for n in range(per):
            name = f"value_0_{q * b}_{n}"
            if variant.pool_mid:
                task += [larger(name, f"value_{a}_{2 * b + c}_{n}") for a, c in ((0, 1), (1, 0), (1, 1))]
            task += activate(variant.activation, name)
    return _each(variant, u(mh * runs * (variant.chunk // per)), [*task, *_put_middle(variant, runs, positions)])


def _put_middle(variant, runs: int, positions: int) -> list[str]:
    """Where a task's results go: shared memory, zero where there is no such position or channel; or global memory."""
    q, (mh, mw) = _q(variant), layout.middle(variant)
    lines = [
        "row = uint32(my0 + i)",
        f"col = uint32(mx0 + uint32(g * {u(positions)}))",
    ]
    for n in range(4 // q):
        names = [f"value_0_{q * b}_{n}" for b in range(positions)]
        lines.append(f"there = uint32(m + {u(n)}) < C_mid and row < Hm")
        inside = [f"there and uint32(col + {u(b)}) < Wm" for b in range(positions)]
        if variant.part == "first":
            at = "uint32(uint32(uint32(uint32(uint32(uint32(image * C_mid) + channel) * Hm) + row) * Wm) + col)"
            lines += [f"channel = uint32(m + {u(n)})", f"at = {at}"]
            for b, (name, good) in enumerate(zip(names, inside, strict=True)):
                lines += [f"if {good}:", f"    y[uint32(at + {u(b)})] = {name}"]
            continue
        lines += [f"{name} = {name} if {good} else float32(0)" for name, good in zip(names, inside, strict=True)]
        stride = layout.padded(mw)
        offset = f"uint32(uint32(uint32(uint32(part * {u(positions)}) + {u(n)}) * {u(mh)}) + i)"
        at = f"uint32(uint32({offset} * {u(stride)}) + uint32(g * {u(positions)}))"
        place = f"uint64({_starts(variant)['middle']}) + uint64({at})"
        lines.append(f"put{positions}(shared, {place}{_middle_buffer(variant)}, {', '.join(names)})")
    return lines


def _middle_buffer(variant) -> str:
    """The place of the chunk's buffer within the middle part of shared memory."""
    mh, mw = layout.middle(variant)
    size = variant.chunk * mh * layout.padded(mw)
    return f" + uint64(uint32(chunk & uint32(1)) * {u(size)})" if variant.buffers == 2 else ""


def _accumulate(variant, wide: bool) -> list[str]:
    """Adds what the chunk contributes to the thread's sums."""
    mh, mw = layout.middle(variant)
    stride, starts = layout.padded(mw), _starts(variant)
    columns, channels = layout.COLUMNS[variant.rung], layout.CHANNELS[variant.rung]
    words, apart = channels // 4, 4 * (variant.cob // channels)
    channel = []
    for row in range(4):
        channel += _read([f"v{row}_{col}" for col in range(columns + 2)], f"m_at + uint64({row * stride})", wide)
        r = row - 1  # the row of taps whose two rows of inputs are there now
        for s in range(3) if r >= 0 else ():
            for word in range(words):
                at = f"w_at + uint64({(3 * r + s) * variant.cob + word * apart})"
                channel += _read([f"k{4 * word + n}" for n in range(4)], at, wide)
            channel += [f"sum_{a}_{b}_{n} += v{r + a}_{s + b} * k{n}" for a, b, n in _outputs(variant)]
    channel += [f"m_at += uint64({mh * stride})", f"w_at += uint64({9 * variant.cob})"]
    return [
        f"m_at = uint64({starts['middle']}) + uint64(uint32(uint32(py * {u(stride)}) + px)){_middle_buffer(variant)}",
        f"w_at = uint64({starts['weights of the second layer']}) + uint64(group * uint32(4))",
        f"for _ in range({variant.chunk}):",
        *indent(channel),
    ]


def _store(variant) -> list[str]:
    """Bias, activation, maximum, and the thread's outputs that exist."""
    q = 2 if variant.pool_out else 1
    groups = variant.cob // layout.CHANNELS[variant.rung]
    lines = [
        f"Ho = uint32(Hm // {u(q)})",
        f"Wo = uint32(Wm // {u(q)})",
        f"row = uint32(uint32(oy + py) // {u(q)})",
        f"col = uint32(uint32(ox + px) // {u(q)})",
    ]
    for n in range(layout.CHANNELS[variant.rung]):
        lines += [
            f"n = uint32(uint32(n0 + {u(n // 4 * 4 * groups + n % 4)}) + uint32(group * uint32(4)))",
            "bias = b2[n]",
            "plane = uint32(uint32(uint32(image * C_out) + n) * Ho)",
        ]
        for a in range(2 // q):
            for b in range(layout.COLUMNS[variant.rung] // q):
                name = f"sum_{q * a}_{q * b}_{n}"
                if variant.pool_out:
                    lines += [larger(name, f"sum_{2 * a + c}_{2 * b + d}_{n}") for c, d in ((0, 1), (1, 0), (1, 1))]
                at = f"uint32(uint32(uint32(plane + uint32(row + {u(a)})) * Wo) + uint32(col + {u(b)}))"
                lines += [
                    f"value = {name} + bias",
                    *activate(variant.activation, "value"),
                    f"if n < C_out and uint32(row + {u(a)}) < Ho and uint32(col + {u(b)}) < Wo:",
                    f"    y[{at}] = value",
                ]
    return lines
