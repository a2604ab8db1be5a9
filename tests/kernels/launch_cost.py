"""What one launch costs the host, measured: part of `make bench-method`, on a GPU only.

Launches of one small layer are queued, few enough that the queue never fills, and the host's time is taken; beside it
that of torch's own convolution and of its cheapest operation. A benchmark and no test: it says what it found.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import torch

from frugal.cusnn.kernel_store import store_of
from frugal.provenance import device_key
from kernels.sparse import ConvShape, arguments, pack_weights, plan

SHAPE = ConvShape(1, 128, 14, 14, 32)  # DenseNet's commonest 3×3
QUEUED = 200  # a launch queue holds about 1024
REPEATS = 31
GOAL_S = 8e-6


def host_s(call: Callable[[], object]) -> float:
    """Seconds of the host for one call, the median of repeats whose queue was empty at the start."""
    found = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        start = perf_counter_ns()
        for _ in range(QUEUED):
            call()
        found.append((perf_counter_ns() - start) * 1e-9 / QUEUED)
    torch.cuda.synchronize()
    return median(found)


def calls() -> dict[str, Callable[[], object]]:
    """What is launched, by name."""
    device = torch.device("cuda")
    x, w = torch.rand(1, SHAPE.C, SHAPE.H, SHAPE.W, device=device), torch.rand(SHAPE.N, SHAPE.C, 3, 3, device=device)
    y, store = torch.empty(1, SHAPE.N, SHAPE.H, SHAPE.W, device=device), store_of(device)
    found = plan(SHAPE, store.sm_count)
    kernel = store.kernel(found.variant.name)
    given = arguments(found, x, pack_weights(w), y, store.workspace)
    bind = lambda **more: kernel.bind(found.grid, found.block, given, **more)  # noqa: E731
    return {
        "our launch": bind(cluster=found.cluster, overlap=found.overlap),
        "torch.nn.functional.conv2d": lambda: torch.nn.functional.conv2d(x, w, padding=1),
        "torch.add": lambda: torch.add(y, 1, out=y),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("launches: torch sees no NVIDIA GPU, so none is timed")
        return
    with torch.inference_mode():
        found = {name: host_s(call) for name, call in calls().items()}
    for name, seconds in found.items():
        beside = f"   (goal: at most {GOAL_S * 1e6:g} µs)" if name == "our launch" else ""
        print(f"host time of one call of {name:34s} {seconds * 1e6:10.3g} µs{beside}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"device_key": device_key("cuda"), "seconds": found}, indent=2))


if __name__ == "__main__":
    main()
