"""Whatever is wrong with an arm, and wherever: it publishes no time, and hurts no other arm."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugal.timing import Arm, CpuDevice, Design, Prepared, measure_case
from tests.frugal.timing.timing_fakes import FakeClock, FakeGpu, cpu_arm, doubling, right

SHORT = Design.of("smoke", n_min=3, block_max_s=0.002)
SIZE = 100  # of the case's output
# The a-priori bound of y = 2 x in float32, per element: one product, so gamma_1 + u_out = 2^-24 / (1 - 2^-24) + 2^-24.
BOUND = 2**-24 / (1 - 2**-24) + 2**-24


def unwritten(at, size):
    def compute(x, y):
        kept = y[at].clone()
        right(x, y)
        y[at] = kept

    return compute


def off(at, size):
    def compute(x, y):
        right(x, y)
        y[at] += size * y.abs().max()

    return compute


def cached(at, size):
    seen = []

    def compute(x, y):
        seen.append(x.clone())
        torch.mul(seen[0], 2, out=y)

    return compute


def changing(at, size):
    def compute(x, y):
        right(x, y)
        x[at] += 1

    return compute


def zero(at, size):
    def compute(x, y):
        right(x, y)
        y[at] = 0

    return compute


FAULTS = {"unwritten": unwritten, "off": off, "cached": cached, "changing": changing, "zero": zero}


@settings(deadline=None, max_examples=30)
@given(
    fault=st.sampled_from(sorted(FAULTS)),
    at=st.integers(0, SIZE - 1),
    size=st.floats(1e-2, 10) | st.floats(-10, -1e-2),
    role=st.sampled_from(["ours", "baseline"]),
    place=st.integers(0, 2),
)
def test_no_wrong_arm_publishes_a_time(fault, at, size, role, place):
    arms = [cpu_arm(right, "first", "baseline", regimes=("wall",)), cpu_arm(right, "second", regimes=("wall",))]
    arms.insert(place, cpu_arm(FAULTS[fault](at, size), "wrong", role, regimes=("wall",)))
    rows = {row.arm: row for row in measure_case(doubling(), arms, SHORT, 0, CpuDevice()).rows}
    assert (rows["wrong"].status, rows["wrong"].value) == ("incorrect", None)
    assert rows["wrong"].reason
    for name in ("first", "second"):
        assert rows[name].status in ("ok", "unstable")  # a contested machine may spread its times
        assert rows[name].value > 0


@settings(deadline=None, max_examples=30)
@given(at=st.integers(0, SIZE - 1), factor=st.floats(0.0, 4.0).filter(lambda f: abs(f - 1) > 1e-6))
def test_one_element_decides_by_its_own_bound(at, factor):
    def prepare(inputs):
        y = torch.empty(SIZE, dtype=torch.float64)

        def run():
            torch.mul(inputs["x"].double(), 2, out=y)  # exact, so that the whole error is the one that is added
            y[at] += factor * BOUND * y[at].abs()

        return Prepared(run, (y,))

    (row,) = measure_case(doubling(), [Arm("near", "ours", prepare, regimes=("wall",))], SHORT, 0, CpuDevice()).rows
    assert (row.status in ("ok", "unstable")) is (factor < 1), row.reason


class GpuWithSideStream(FakeGpu):
    """A second queue: what is written there lands only when the whole device is waited for."""

    def __init__(self, clock):
        super().__init__(clock)
        self.side = []

    def synchronize(self):
        super().synchronize()
        for write in self.side:
            write()
        self.side.clear()


@pytest.mark.parametrize("regime", ["cold", "graph", "wall"])
def test_a_result_that_a_side_stream_writes_later_is_incorrect(regime):
    gpu = GpuWithSideStream(FakeClock())

    def prepare(inputs):
        x, y = inputs["x"], torch.empty(SIZE)

        def run():
            gpu.launch(lambda: gpu.side.append(lambda: torch.mul(x, 2, out=y)), 1e-6)

        return Prepared(run, (y,))

    arm = Arm("side", "ours", prepare, regimes=(regime,))
    (row,) = measure_case(doubling(), [arm], Design.of("smoke"), 0, gpu, gpu.clock).rows
    assert (row.status, row.value) == ("incorrect", None)
    assert row.reason.startswith("unwritten")
