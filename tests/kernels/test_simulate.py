"""The simulator's process: results come back in place, failures as one error, and it starts again after them."""

import dataclasses

import numpy as np
import pytest

from kernels.build import KernelSource
from kernels.simulator import SimulationError, simulate


def kernel(body: str) -> KernelSource:
    return KernelSource(
        family="test",
        variant="sim",
        entry="work",
        python_source=f"import os\nfrom numba import config, cuda, uint32\n\n\ndef work(x, n):\n{body}",
        parameters=(("x", "u32*"), ("n", "u32")),
        threads=8,
    )


def run(body: str, **options) -> np.ndarray:
    x = np.arange(16, dtype=np.uint32)
    simulate(kernel(body), 2, 8, (x, 3), **options)
    return x


REVERSE_IN_BLOCKS = """
    a = cuda.shared.array(8, uint32)
    t = uint32(cuda.threadIdx.x)
    first = uint32(uint32(cuda.blockIdx.x) * uint32(8))
    a[t] = x[uint32(first + t)]
    cuda.syncthreads()
    x[uint32(first + t)] = uint32(a[uint32(uint32(7) - t)] + n)
"""


def test_blocks_barriers_and_shared_memory():
    assert run(REVERSE_IN_BLOCKS).tolist() == [*range(10, 2, -1), *range(18, 10, -1)]


def test_the_source_can_tell_that_it_is_simulated():
    assert run("    x[0] = uint32(config.ENABLE_CUDASIM)\n")[0] == 1


def test_the_simulator_does_not_touch_this_process():
    run("    x[0] = n\n")
    import numba

    assert not numba.config.ENABLE_CUDASIM


def test_unsigned_arithmetic_wraps_without_a_warning(recwarn):
    assert run("    x[0] = uint32(x[0] - uint32(1))\n" + "    x[1] = n\n", timeout_s=60)[1] == 3
    assert not recwarn


def test_a_failing_thread_is_reported_with_its_line_and_the_next_run_works():
    with pytest.raises(SimulationError, match=r"(?s)kernel sim failed.*x\[uint32\(99\)\] = n.*out of bounds"):
        run("    x[uint32(99)] = n\n")
    assert run("    x[0] = n\n")[0] == 3


def test_a_kernel_that_does_not_end_is_stopped_and_the_next_run_works():
    with pytest.raises(SimulationError, match="did not end within 2 s"):
        run("    while True:\n        pass\n", timeout_s=2)
    assert run("    x[0] = n\n")[0] == 3


def test_a_process_that_dies_is_reported_and_the_next_run_works():
    with pytest.raises(SimulationError, match="process ended with code 3"):
        run("    os._exit(3)\n")
    assert run("    x[0] = n\n")[0] == 3


@pytest.mark.parametrize("x", [np.zeros(3, np.float32), np.zeros((2, 2), np.uint32), [1, 2, 3]])
def test_an_array_of_the_wrong_kind_is_named(x):
    with pytest.raises(SimulationError, match="argument x must be a 1-D NumPy array of uint32"):
        simulate(kernel("    x[0] = n\n"), 1, 8, (x, 3))


def test_a_source_that_does_not_fit_its_parameters_is_reported():
    source = dataclasses.replace(kernel("    x[0] = n\n"), entry="absent")
    with pytest.raises(SimulationError, match="defines no function absent"):
        simulate(source, 1, 8, (np.zeros(3, np.uint32), 3))
