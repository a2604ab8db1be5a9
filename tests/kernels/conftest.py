"""A kernel that echoes its arguments: one of each kind, written back where the test can see them."""

from pathlib import Path

import pytest

from kernels.build import KernelSource, build

ECHO = """
from numba import cuda, float32, uint32


def echo(x, k, i, floats, counts, ints, scale, n, shift):
    t = uint32(uint32(cuda.blockIdx.x) * uint32(32) + uint32(cuda.threadIdx.x))
    if t < n:
        floats[uint32(t + uint32(1))] = x[t]
        counts[uint32(t + uint32(1))] = k[t]
        ints[uint32(t + uint32(1))] = i[t]
    if t == uint32(0):
        floats[0] = scale
        counts[0] = n
        ints[0] = shift
"""

PARAMETERS = (
    ("x", "f32*"),
    ("k", "u32*"),
    ("i", "i32*"),
    ("floats", "f32*"),
    ("counts", "u32*"),
    ("ints", "i32*"),
    ("scale", "f32"),
    ("n", "u32"),
    ("shift", "i32"),
)


@pytest.fixture(scope="session")
def echo() -> KernelSource:
    return KernelSource(
        family="test", variant="echo", entry="echo", python_source=ECHO, parameters=PARAMETERS, threads=32
    )


@pytest.fixture(scope="session")
def echo_prefix(echo, tmp_path_factory) -> Path:
    """The echo kernel, built once for capability 9.0; tests that change the files copy them first."""
    prefix = tmp_path_factory.mktemp("kernels") / "echo.sm_90"
    build(echo, "9.0", prefix)
    return prefix
