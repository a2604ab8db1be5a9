"""Shared memory of the v6 kernels: the warps' windows, their sums, the block's tile, and how much there is."""

from __future__ import annotations

import dataclasses

from kernels.sparse.taps import window

REGISTER_FILE = 65536  # registers of a multiprocessor, compute capability 7.0 to 9.0
REGISTERS_BESIDES = 72  # of a lane besides its sums: weights, the next channel's, two rows of the window, indices
CLUSTER_MAX = 16  # blocks of a cluster, where the function allows more than the portable 8


def pitch(variant) -> int:
    """Floats between the rows of a window in shared memory."""
    return -(-window(variant.th, variant.tw, variant.k, variant.stride)[1] // 4) * 4


def reduced(variant, capability: str | None):
    """The variant as it is built: without clusters (before capability 9.0, and in the simulator) tickets stand in."""
    clusters = capability is not None and float(capability) >= 9
    return variant if clusters or variant.reduce != "cluster" else dataclasses.replace(variant, reduce="ticket")


def window_floats(variant) -> int:
    """Floats of one channel's window in shared memory, rows padded to 4; the last 32 take what lies outside."""
    ih = window(variant.th, variant.tw, variant.k, variant.stride)[0]
    return -(-(ih * pitch(variant) + 32) // 4) * 4


def shared_limit(variant, capability: str | None) -> int:
    """Bytes of dynamic shared memory that a block may take: half a multiprocessor's where two blocks' registers fit."""
    if capability in ("7.5", None):
        return 40 * 1024
    if capability not in ("8.0", "9.0"):
        return 96 * 1024
    alone = (
        variant.threads * (variant.th * variant.tw * variant.outputs_per_lane + REGISTERS_BESIDES) > REGISTER_FILE // 2
    )
    most = {"8.0": 160, "9.0": 224}[capability] * 1024
    return most if alone else most // 2


def phases(variant, capability: str | None) -> list[list[int]]:
    """The cells of the tile that are reduced at a time, each phase as many as fit in shared memory."""
    cells, warps = variant.th * variant.tw, variant.warps  # of one tile: stacked ones have the same phases
    room = shared_limit(variant, capability) // 4 - warps_windows_floats(variant) - tile_floats(variant)
    at_once = max(1, room // (warps * 32 * variant.outputs_per_lane) // warps) * warps
    count = -(-cells // at_once)
    size = -(-cells // (count * warps)) * warps
    return [list(range(first, min(cells, first + size))) for first in range(0, cells, size)]


def shared_floats(variant, capability: str | None) -> int:
    """Floats of dynamic shared memory: windows, then the warps' sums, then the block's tile."""
    variant = reduced(variant, capability)
    partial = variant.warps * 32 * variant.outputs_per_lane * max(map(len, phases(variant, capability)))
    return warps_windows_floats(variant) + partial + tile_floats(variant)


def warps_windows_floats(variant) -> int:
    """Floats of all warps' windows, two each: one is read while the other is written."""
    return variant.warps * 2 * window_floats(variant)


def tile_floats(variant) -> int:
    """Floats of the block's tiles, [channel][cell] with odd rows or, from the cluster, [block][cell][channel]."""
    cells, o = variant.cells, variant.outputs_per_lane
    if variant.reduce == "cluster":
        return (cells + CLUSTER_MAX) * (32 * o + o)
    return 32 * o * (cells | 1)
