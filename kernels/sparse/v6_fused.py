"""v4 to v6: v3's loop with a reduction that leaves no trace, several output channels a lane, and fused neighbours.

What changed since v3, and why it is faster:

- v4_split. Warps add up in one pass through shared memory instead of row by row, and the blocks that share a tile are
  a thread-block cluster: they read each other's sums from shared memory, where v3 wrote slots to global memory, drew a
  ticket and let the last block read them back. Below capability 9.0 there are no clusters: slots and tickets stay.
- v5_wide. A lane sums o = 1, 2 or 4 neighbouring output channels. A test for zero then decides over o times as many
  multiply-adds, and weights load as words of 8 or 16 bytes.
- v6_fused. Batch norm and ReLU on the way in, bias, residual and ReLU on the way out, chosen by the launch (`flags`);
  and the launch may overlap with the one before it: indices and the first weights are ready when its input is.

Layout of the work: as in v3. Lane l holds channels n0 + o·l + q (q < o) of the whole tile; warp v of split z takes
input channels z·warps + v, then steps by splits·warps. A block may hold several tiles, one above the other (`stack`):
its warps are divided among them, and those of the same channels read the same weights at about the same time, which L1
answers but for the first. With small tiles the weights' way from L2 is what bounds the loop.

Reduction. Over the warps: each writes its sums to shared memory, [warp][cell][lane][q]; cell j is then summed by warp
j mod warps over all warps of its tile in order, in as many phases as fit the memory that a block may have. Over the
splits, in order too: cluster, ticket, or (`atomic`, the one mode whose sums change from run to run) atomics onto a
workspace that is zero before and after.
"""

from __future__ import annotations

from kernels.sparse import v6_memory
from kernels.sparse.emit import ALL_LANES, indent, u, wide_prelude
from kernels.sparse.fused import PRE_AFFINE, PRE_RELU
from kernels.sparse.taps import taps, window
from kernels.sparse.v6_memory import pitch, shared_floats, tile_floats, warps_windows_floats, window_floats
from kernels.sparse.v6_reduce import across, reduce_warps

# x, packed weights, y, workspace slots, tickets, then what may be fused (all flat); sizes; strides in elements.
PARAMETERS = (
    *((name, "f32*") for name in ("x", "w", "y", "slots")),
    ("tickets", "u32*"),
    *((name, "f32*") for name in ("bias", "residual", "scale", "shift")),
    *((name, "u32") for name in ("C", "H", "W", "N", "groups", "tiles_h", "splits", "steps", "share")),
    *((name, "u32") for name in ("x_batch", "y_batch", "r_batch", "flags")),
)


def source(variant, capability: str | None) -> str:
    """Python source of the kernel `v6_fused` for the variant."""
    variant = v6_memory.reduced(variant, capability)
    body = _setup(variant, capability) + _main_loop(variant) + reduce_warps(variant, capability)
    body += across(variant)
    head = [f"def v6_fused({', '.join(name for name, _ in PARAMETERS)}):"]
    return wide_prelude(variant.name, _ptx_names(variant, capability)) + "\n".join(head + indent(body)) + "\n"


def grid(variant, shape, splits: int) -> tuple[int, int, int]:
    """Blocks: (tiles in a row, rows of tiles of all images, groups of 32·o output channels times splits)."""
    rows = shape.B * -(-shape.H_out // variant.rows)
    return -(-shape.W_out // variant.tw), rows, -(-shape.N // (32 * variant.outputs_per_lane)) * splits


def _groups(variant) -> range:
    """The registers a lane needs for a window: positions lane + 32·g."""
    ih, iw = window(variant.th, variant.tw, variant.k, variant.stride)
    return range(-(-ih * iw // 32))


def _taps(variant) -> list[tuple[int, int]]:
    return [(r, s) for r in range(variant.k) for s in range(variant.k)]


def _setup(variant, capability) -> list[str]:
    ih, iw = window(variant.th, variant.tw, variant.k, variant.stride)
    pad, stride, wide = variant.k // 2, variant.stride, 32 * variant.outputs_per_lane
    lines = [
        *(["launch_dependents()"] if _overlaps(capability) else []),
        # Its wait stands before the first push: by then every block of the cluster has begun.
        *(["if splits > uint32(1):", "    cluster_arrive()"] if variant.reduce == "cluster" else []),
        "shared = dynamic_shared()",
        "thread = uint32(cuda.threadIdx.x)",
        "lane = uint32(thread & uint32(31))",
        "warp = uint32(thread >> uint32(5))",
        *_block(variant),
        # Divisions by sizes that only the launch knows take ~100 clocks each before the first load: hence the grid.
        "tile_row = uint32(cuda.blockIdx.y)",
        "image = uint32(0)",
        "if tile_row >= tiles_h:",
        "    image = uint32(tile_row // tiles_h)",
        "    tile_row = uint32(tile_row - uint32(image * tiles_h))",
        f"oy = uint32(tile_row * {u(variant.rows)})",
        f"ox = uint32(uint32(cuda.blockIdx.x) * {u(variant.tw)})",
        f"n0 = uint32(channels * {u(wide)})",
        "HW = uint32(H * W)",
        *_level(variant),
        f"step = uint32(splits * {u(variant.sharers)})",
        f"c = uint32(uint32(split * {u(variant.sharers)}) + share_of)",
        "last = uint32(C - uint32(1))",
        "pair = uint32(warp + warp)",
        "side = uint32(0)",
        f"mine = uint64({shared_floats(variant, capability) - tile_floats(variant)})",
        f"partial = uint64({warps_windows_floats(variant)})",
        *_load_weights(variant, "w_" if variant.depth == 0 else "next_"),
    ]
    for g in _groups(variant):
        lines += [
            f"p = uint32(lane + {u(32 * g)})",
            f"i = uint32(p // {u(iw)})",
            f"j = uint32(p - uint32(i * {u(iw)}))",
            f"row = uint32(uint32(top * {u(stride)}) + i)",
            f"col = uint32(uint32(ox * {u(stride)}) + j)",
            f"inside{g} = p < {u(ih * iw)} and row >= {u(pad)} and row < uint32(H + {u(pad)})"
            f" and col >= {u(pad)} and col < uint32(W + {u(pad)})",
            f"from{g} = uint32(image * x_batch)",
            f"if inside{g}:",
            f"    from{g} = uint32(from{g} + uint32(uint32(uint32(row - {u(pad)}) * W) + uint32(col - {u(pad)})))",
            f"to{g} = uint32(uint32(i * {u(pitch(variant))}) + j)",
            f"if p >= {u(ih * iw)}:",
            f"    to{g} = uint32({u(ih * pitch(variant))} + lane)",
        ]
    lines += [f"acc_{a}_{b}_{q} = float32(0)" for a, b, q in _outputs(variant)]
    lines += ["wait_for_input()"] if _overlaps(capability) else []
    lines += _load_window(variant)
    return lines


def _overlaps(capability: str | None) -> bool:
    """Whether a launch may begin before the one ahead of it has ended; the simulator's stand-ins do nothing."""
    return capability is None or float(capability) >= 9


def _block(variant) -> list[str]:
    """channels: which 32·o output channels this block sums; split: which share of the input channels."""
    if variant.reduce == "cluster":
        return ["channels = cluster_z()", "split = rank_z()"]
    return [
        "channels = uint32(uint32(cuda.blockIdx.z) // splits)",
        "split = uint32(uint32(cuda.blockIdx.z) - uint32(channels * splits))",
    ]


def _level(variant) -> list[str]:
    """level: which of the block's tiles is this warp's; top: its first row; share_of: the warp's number in its tile."""
    if variant.stack == 1:
        return ["top = oy", "share_of = warp"]
    return [
        f"level = uint32(warp // {u(variant.sharers)})",
        f"top = uint32(oy + uint32(level * {u(variant.th)}))",
        f"share_of = uint32(warp - uint32(level * {u(variant.sharers)}))",
    ]


def _load_window(variant) -> list[str]:
    """Channel c's window into registers, zero outside the image and past the last channel."""
    lines = ["ahead = uint32(c * HW)"]
    for g in _groups(variant):
        lines += [f"x{g} = float32(0)", f"if inside{g} and c <= last:", f"    x{g} = x[uint32(from{g} + ahead)]"]
    if variant.prologue:
        lines += ["gain = float32(1)", "offset = float32(0)", f"if flags & {u(PRE_AFFINE)}:"]
        lines += ["    gain = scale[min(c, last)]", "    offset = shift[min(c, last)]"]
    return lines


def _load_weights(variant, prefix: str) -> list[str]:
    """Channel c's weights into registers; past the last channel the last one's stand in."""
    o, taps_ = variant.outputs_per_lane, variant.k**2
    lines = [
        "at = uint32(uint32(min(c, last) * groups) + channels)",
        f"at = uint32(uint32(at * {u(taps_ * 32 * o)}) + uint32(lane * {u(o)}))",
    ]
    for number, (r, s) in enumerate(_taps(variant)):
        names = ", ".join(f"{prefix}{r}{s}_{q}" for q in range(o))
        place = f"uint64(at) + uint64({number * 32 * o})"
        lines.append(f"{names} = w[{place}]" if o == 1 else f"{names} = load{o}(w, {place})")
    return lines


def _outputs(variant) -> list[tuple[int, int, int]]:
    return [(a, b, q) for a in range(variant.th) for b in range(variant.tw) for q in range(variant.outputs_per_lane)]


def _main_loop(variant) -> list[str]:
    skip, o = variant.skip, variant.outputs_per_lane
    body = [f"w_{r}{s}_{q} = next_{r}{s}_{q}" for r, s in _taps(variant) for q in range(o)] if variant.depth else []
    for g in _groups(variant) if variant.prologue else ():
        body += [
            f"if inside{g} and c <= last:",
            f"    x{g} = x{g} * gain + offset",
            f"    if flags & {u(PRE_RELU)}:",
            f"        x{g} = float32(0) if x{g} <= float32(0) else x{g}",
        ]
    # 64-bit, so that constant offsets fold into the load's address; a product, so that its alignment is known.
    body += [f"here = uint64(uint32(uint32(pair + side) * {u(window_floats(variant))}))"]
    body += [f"shared[here + uint64(to{g})] = x{g}" for g in _groups(variant)]
    if skip:
        body += [f"mask{g} = uint32(ballot({ALL_LANES}, x{g} != float32(0)))" for g in _groups(variant)]
    body += ["c = uint32(c + step)", *(_load_weights(variant, "next_") if variant.depth else [])]
    body += [*_load_window(variant), "warp_sync()"]
    if skip:
        body += [f"if ({' | '.join(f'mask{g}' for g in _groups(variant))}) != uint32(0):"]
        body += indent(_multiply(variant))
    else:
        body += _multiply(variant)
    body += ["side = uint32(side ^ uint32(1))", *([] if variant.depth else _load_weights(variant, "w_"))]
    return ["for _ in range(steps):", *indent(body)]


def _multiply(variant) -> list[str]:
    """The window's multiply-adds, straight line: a position of few taps is cheaper to compute than to test."""
    ih, iw = window(variant.th, variant.tw, variant.k, variant.stride)
    lines = _read_row(variant, 0)
    for i in range(ih):
        if i + 1 < ih:
            lines += _read_row(variant, i + 1)  # one row ahead of its use: a shared load takes ~30 clocks
        for j in range(iw):
            p = i * iw + j
            feeds = taps(i, j, variant.th, variant.tw, variant.k, variant.stride)
            code = [
                f"acc_{a}_{b}_{q} += v_{i}_{j} * w_{r}{s}_{q}"
                for q in range(variant.outputs_per_lane)
                for a, b, r, s in feeds
            ]
            if variant.skip and len(feeds) * variant.outputs_per_lane >= variant.min_taps:
                lines += [f"if mask{p // 32} & {u(1 << p % 32)}:", *indent(code)]
            else:
                lines += code
    return lines


def _read_row(variant, i: int) -> list[str]:
    iw = window(variant.th, variant.tw, variant.k, variant.stride)[1]
    return [f"v_{i}_{j} = shared[here + uint64({i * pitch(variant) + j})]" for j in range(iw)]


def _ptx_names(variant, capability: str | None) -> list[str]:
    """What the kernel takes from kernels.sparse.ptx."""
    o = variant.outputs_per_lane
    names = ["launch_dependents", "wait_for_input"] if _overlaps(capability) else []
    names += [f"load{o}", f"get{o}", f"put{o}"] if o > 1 else []
    names += (
        [f"push{o}", "cluster_arrive", "cluster_wait", "cluster_z", "rank_z"] if variant.reduce == "cluster" else []
    )
    return names
