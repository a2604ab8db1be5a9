"""Runs generated kernels in Numba's CUDA simulator. A process of its own: the switch is read at import.

Usage: python simulate.py CASES.pickle OUT.pickle, CASES a list of dicts: variant (its name), x, w, splits, repeats.
"""

import pickle
import sys

import numpy as np
import torch
from numba import cuda

from kernels.sparse.pack import pack_weights
from kernels.sparse.variant import parse

GUARD = 7.0


def run(case: dict) -> list[np.ndarray]:
    """The output of each repeat, on one workspace; the buffers hold NaN first and guards around."""
    variant, x, w, splits = parse(case["variant"]), case["x"], case["w"], case["splits"]
    images, c, height, width = x.shape
    n, wide = len(w), 32 * variant.outputs_per_lane
    packed = pack_weights(torch.from_numpy(w)).numpy()
    groups = packed.shape[3] // wide
    tiles_w = -(-width // variant.tw)
    tiles = tiles_w * -(-height // variant.th)
    names: dict = {}
    source = variant.source()
    exec(compile(source.python_source, variant.name, "exec"), names)
    kernel = cuda.jit(names[source.entry])
    slots = np.full(images * tiles * groups * splits * wide * variant.th * variant.tw + 1, np.nan, np.float32)
    slots[-1] = GUARD
    tickets = np.zeros(images * tiles * groups + 1, np.uint32)
    sizes = [np.uint32(s) for s in (c, height, width, n, packed.shape[3], tiles_w, tiles, splits)]
    x_batch, y_batch = np.uint32(c * height * width), np.uint32(n * height * width)
    outputs = []
    for _ in range(case["repeats"]):
        y = np.full(images * n * height * width + 2, np.nan, np.float32)
        y[[0, -1]] = GUARD
        grid = (images * tiles, groups, splits)
        kernel[grid, variant.threads](x.ravel(), packed.ravel(), y[1:-1], slots, tickets, *sizes, x_batch, y_batch)
        assert y[0] == y[-1] == slots[-1] == GUARD, "a guard band was overwritten"
        assert not tickets.any(), "a ticket did not wrap"
        outputs.append(y[1:-1].reshape(images, n, height, width))
    return outputs


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        cases = pickle.load(file)
    with open(sys.argv[2], "wb") as file:
        pickle.dump([run(case) for case in cases], file)
