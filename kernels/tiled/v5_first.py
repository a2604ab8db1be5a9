"""The first layer of v5: from the input tile in shared memory to all channels of the positions between the layers.

The input stands as [row][column][cin] in shared memory, in the type that is multiplied. Product k of a result is tap
k // cin, channel k % cin: a lane's words of a fragment of A are at distances from its position that depend on the lane
alone, and come with one load each. Without a maximum a fragment's rows are 16 positions; with it, two fragments are the
two rows of 8 positions' 2×2 results, rows i and i + 8 the left and right one, so that the maximum needs no other lane.
"""

from __future__ import annotations

from kernels.sparse.emit import indent, u
from kernels.tiled.emit import activate

LOADS = 24  # numbers that a thread has on their way from global memory at a time


def word(variant, names: list[str]) -> str:
    """A word of shared memory from one float32 (rounded to tf32), or from two bf16 as they are."""
    if variant.dtype == "tf32":
        return f"as_tf32({names[0]})"
    return f"uint32(uint32({names[0]}) | uint32(uint32({names[1]}) << uint32(16)))"


def rounded(variant, names: list[str]) -> list[str]:
    """The words of neighbouring float32 results in the type that is multiplied."""
    return [f"as_tf32({name})" for name in names] if variant.dtype == "tf32" else [f"as_bf16s({', '.join(names)})"]


def stored(variant, name: str) -> str:
    """A float32 result as the output tensor holds it."""
    return name if variant.dtype == "tf32" else f"uint16(as_bf16s({name}, float32(0)) & uint32(0xFFFF))"


def load_input(variant) -> list[str]:
    """The input under the tile, zero outside the image and past the last channel; several positions a thread."""
    ih, iw = variant.window
    zero, per = ("float32(0)", 1) if variant.dtype == "tf32" else ("uint16(0)", 2)
    batch = max(1, LOADS // variant.cin)
    rounds = -(-ih * iw // variant.threads)
    lines = [f"i{axis}0 = uint32(uint32({u(variant.q)} * m{axis}0) - uint32(1))" for axis in "yx"]
    lines.append("plane = uint32(H * W)")
    for first in range(0, rounds, batch):
        numbers = range(first, min(first + batch, rounds))
        for k in numbers:
            lines += [
                f"place{k} = uint32(thread + {u(k * variant.threads)})",
                f"i = uint32(place{k} // {u(iw)})",
                f"j = uint32(place{k} - uint32(i * {u(iw)}))",
                "i = uint32(iy0 + i)",
                "j = uint32(ix0 + j)",
                "at = uint32(uint32(uint32(uint32(uint32(image * C_in) * H) + i) * W) + j)",
            ]
            for c in range(variant.cin):
                lines += [
                    f"v{k}_{c} = {zero}",
                    f"if i < H and j < W and {u(c)} < C_in:",
                    f"    v{k}_{c} = x[uint32(at + uint32(plane * {u(c)}))]",
                ]
        for k in numbers:
            to = f"uint32(base + uint32(place{k} * {u(variant.cin * variant.element)}))"
            puts = []
            for c in range(0, variant.cin, 2 * per):
                words = [word(variant, [f"v{k}_{c + per * w + p}" for p in range(per)]) for w in range(2)]
                puts.append(f"put_words(uint32({to} + {u(c * variant.element)}), {', '.join(words)})")
            whole = (k + 1) * variant.threads <= ih * iw
            lines += puts if whole else [f"if place{k} < {u(ih * iw)}:", *indent(puts)]
    return lines


def _offset(variant, k: int) -> int | None:
    """Bytes from a position to its product k, None past the last product."""
    tap, c = divmod(k, variant.cin)
    return None if tap >= 9 else ((tap // 3 * variant.window[1] + tap % 3) * variant.cin + c) * variant.element


def _by_lane(values: list) -> str:
    """An expression that picks by t, the lane's place among four."""
    if len(set(values)) == 1:
        return u(values[0])
    if values[1] - values[0] == values[2] - values[1] == values[3] - values[2]:
        return f"uint32({u(values[0])} + uint32(t * {u(values[1] - values[0])}))"
    text = u(values[3])
    for place in (2, 1, 0):
        text = f"({u(values[place])} if t == {u(place)} else {text})"
    return u(text)


def _products(variant) -> tuple[list[str], dict[tuple[int, int], str], dict[tuple[int, int], str]]:
    """For each step and half of the k's: lines that set the lane's distance, its name, and how a load is masked."""
    per, lines, names, masks = 4 // variant.element, [], {}, {}
    for step in range(variant.first_steps):
        for half in range(2):
            first = step * variant.step + half * variant.step // 2
            offsets = [_offset(variant, first + per * t) for t in range(4)]
            if all(offset is None for offset in offsets):
                continue
            known = [offset if offset is not None else 0 for offset in offsets]
            names[step, half] = f"far{step}_{half}"
            lines.append(f"{names[step, half]} = {_by_lane(known)}")
            if None in offsets:
                masks[step, half] = f"t < {u(offsets.index(None))}"
    return lines, names, masks


def _gather(variant, row: str, to: list[str], step: int, half: int, names, masks) -> list[str]:
    """The words of one half of A: rows at `row`_lo and `row`_hi; what is past the last product is zero, not loaded."""
    if (step, half) not in names:
        return [f"{name} = uint32(0)" for name in to]
    lines = []
    for name, side in zip(to, ("lo", "hi"), strict=True):
        load = f"load_word(uint32({row}_{side} + {names[step, half]}))"
        mask = masks.get((step, half))
        lines.append(f"{name} = {load}")
        if mask is not None:
            lines.append(f"{name} = {name} if {mask} else uint32(0)")
    return lines


def compute(variant) -> list[str]:
    """All channels of all positions between the layers, activation included; `held` eights of them at a time."""
    (mh, mw), q, held = variant.middle, variant.q, variant.held
    each = 16 // q  # positions of a task
    tasks = -(-mh * mw // each)
    lines, names, masks = _products(variant)
    body = []
    for step in range(variant.first_steps):
        for pair in range(held // 2):
            wide = ", ".join(f"w{step}_{2 * pair + n}_{i}" for n in range(2) for i in range(2))
            body.append(f"{wide} = load4(w1, w_at + uint64({(step * held // 2 + pair) * 128}))")
    for n in range(held):
        body.append(f"bias{n}_0, bias{n}_1 = load2(b1, uint32(m0 + uint32({u(8 * n)} + uint32(t * uint32(2)))))")
    task = ["task = uint32(number)", *_positions(variant, each)]
    for f in range(q):
        task += [f"value{f}_{n}_{c} = float32(0)" for n in range(held) for c in range(4)]
    for step in range(variant.first_steps):
        for f in range(q):
            for half in range(2):
                task += _gather(variant, f"row{f}", [f"a{2 * half}", f"a{2 * half + 1}"], step, half, names, masks)
            for n in range(held):
                c = ", ".join(f"value{f}_{n}_{i}" for i in range(4))
                task.append(f"{c} = mma(a0, a1, a2, a3, w{step}_{n}_0, w{step}_{n}_1, {c})")
    task += _results(variant)
    body += [f"for number in range(warp, {u(tasks)}, {u(variant.warps)}):", *indent(task)]
    size = variant.first_steps * held * 64
    head = [
        f"m0 = uint32(uint32(part) * {u(8 * held)})",
        f"w_at = uint64(uint32(uint32(part) * {u(size)}) + uint32(lane * uint32(4)))",
    ]
    return [*lines, f"for part in range(uint32(0), {u(variant.mid // (8 * held))}):", *indent([*head, *body])]


def _positions(variant, each: int) -> list[str]:
    """The task's positions, and where their first products stand; past the last position the last one again."""
    (mh, mw), iw, q = variant.middle, variant.window[1], variant.q
    last, size = mh * mw - 1, variant.cin * variant.element
    lines = []
    for side, shift in (("lo", 0), ("hi", 8))[: 3 - q]:
        lines += [
            f"p_{side} = uint32(uint32(task * {u(each)}) + uint32(g + {u(shift)}))",
            f"there_{side} = p_{side} <= {u(last)}",
            f"p_{side} = p_{side} if there_{side} else {u(last)}",
            f"i_{side} = uint32(p_{side} // {u(mw)})",
            f"j_{side} = uint32(p_{side} - uint32(i_{side} * {u(mw)}))",
            f"at = uint32(uint32(uint32(i_{side} * {u(q)}) * {u(iw)}) + uint32(j_{side} * {u(q)}))",
            f"row0_{side} = uint32(base + uint32(at * {u(size)}))",
        ]
    if q == 2:
        lines += [
            f"row0_hi = uint32(row0_lo + {u(size)})",
            f"row1_lo = uint32(row0_lo + {u(iw * size)})",
            f"row1_hi = uint32(row1_lo + {u(size)})",
        ]
    return lines


def _results(variant) -> list[str]:
    """Maximum, bias, activation; then to shared memory, or for the dense twin to y."""
    q, lines = variant.q, []
    for n in range(variant.held):
        if q == 2:
            for c in range(2):
                others = [f"value0_{n}_{c + 2}", f"value1_{n}_{c}", f"value1_{n}_{c + 2}"]
                lines += [f"value0_{n}_{c} = larger_of(value0_{n}_{c}, {other})" for other in others]
        for side, c in (("lo", 0), ("hi", 2))[: 3 - q]:
            values = [f"value0_{n}_{c + i}" for i in range(2)]
            for i, value in enumerate(values):
                lines += [f"{value} = {value} + bias{n}_{i}", *activate(variant.activation, value)]
            if variant.part == "first":
                lines += _to_memory(variant, n, side, values)
            else:
                words = rounded(variant, values)
                channel = f"uint32(uint32(m0 + {u(8 * n)}) + uint32(t * uint32(2)))"
                at = f"uint32(uint32(p_{side} * {u(variant.pitch)}) + uint32({channel} * {u(variant.element)}))"
                at = f"uint32(middle + {at})"
                lines += [f"if there_{side}:", f"    put_word{'s' * (len(words) - 1)}({at}, {', '.join(words)})"]
    return lines


def _to_memory(variant, n: int, side: str, values: list[str]) -> list[str]:
    lines = [
        f"row = uint32(my0 + i_{side})",
        f"col = uint32(mx0 + j_{side})",
    ]
    for i, value in enumerate(values):
        at = "uint32(uint32(uint32(uint32(uint32(uint32(image * C_mid) + m) * Hm) + row) * Wm) + col)"
        lines += [
            f"m = uint32(uint32(m0 + uint32(t * uint32(2))) + {u(8 * n + i)})",
            f"if there_{side} and m < C_mid and row < Hm and col < Wm:",
            f"    y[{at}] = {stored(variant, value)}",
        ]
    return lines


def clean(variant) -> list[str]:
    """Zeroes what lies outside the image or past the last channel: padding of the second layer, not results.

    Only blocks whose tile reaches there come here, so the others need no test a result.
    """
    (mh, mw), per = variant.middle, 4 // variant.element
    words = variant.mid // per
    body = [
        "flat = uint32(number)",
        f"place = uint32(flat // {u(words)})",
        f"m = uint32(uint32(flat - uint32(place * {u(words)})) * {u(per)})",
        f"i = uint32(place // {u(mw)})",
        f"j = uint32(place - uint32(i * {u(mw)}))",
        f"at = uint32(uint32(middle + uint32(place * {u(variant.pitch)})) + uint32(m * {u(variant.element)}))",
        "if m >= C_mid or uint32(my0 + i) >= Hm or uint32(mx0 + j) >= Wm:",
        "    put_word(at, uint32(0))",
    ]
    if per == 2:
        body += ["elif uint32(m + uint32(1)) >= C_mid:", "    put_word(at, uint32(load_word(at) & uint32(0xFFFF)))"]
    edge = f"oy == uint32(0) or ox == uint32(0) or uint32(oy + {u(mh - 1)}) > Hm or uint32(ox + {u(mw - 1)}) > Wm"
    return [
        f"if C_mid < {u(variant.mid)} or {edge}:",
        "    cuda.syncthreads()",
        f"    for number in range(thread, {u(mh * mw * words)}, {u(variant.threads)}):",
        *indent(body, 2),
    ]
