"""Rows of memory: peaks of live tensors of each arm, counted by hand."""

import pytest
import torch
from timing_fakes import FakeClock, FakeGpu, cpu_arm, gpu_arm

from frugal.memory import Peak
from frugal.timing import Case, CpuDevice, Design, Prepared, Reference, measure_case

DESIGN = Design.of("smoke", n_min=3, block_max_s=0.01, regimes=["wall"])
N = 1000  # float32: 4000 bytes


def a_case(measures=("time", "memory")):
    def inputs(seed, phase):
        return {"x": torch.randn(N, generator=torch.Generator().manual_seed(seed))}

    def reference(given):
        y = 2 * given["x"].double()
        return Reference(y, y.abs(), 1)

    return Case("sft", "memory", {"n": N}, inputs, reference, measures=measures)


def wasteful(x, y):
    """Three temporaries of 4000 bytes at once, beside x and y."""
    a = x + x
    b = a + 0
    torch.add(a + b, b, alpha=-1, out=y)


def frugal(x, y):
    torch.add(x, x, out=y)


def memory_rows(result):
    return {(row.arm, row.metric): row for row in result.rows if row.metric != "time"}


def test_each_arm_has_its_peak_beside_its_inputs_and_outputs():
    arms = [cpu_arm(wasteful, "wasteful"), cpu_arm(frugal, "frugal", role="baseline")]
    result = measure_case(a_case(), arms, DESIGN, 0, CpuDevice())
    rows = memory_rows(result)
    assert set(rows) == {("wasteful", "peak_live"), ("frugal", "peak_live")}
    assert (rows["wasteful", "peak_live"].value, rows["frugal", "peak_live"].value) == (3 * 4 * N, 0)
    for row in rows.values():
        assert (row.status, row.unit, row.regime, row.l2, row.base_bytes) == ("ok", "B", None, None, 2 * 4 * N)
        assert (row.n_samples, row.n_blocks, row.higher_is_better) == (1, 1, False)
        assert row.key not in result.samples
    assert {row.status for row in result.rows if row.metric == "time"} <= {"ok", "unstable"}


def test_a_case_that_does_not_ask_has_no_rows_of_memory():
    result = measure_case(a_case(("time",)), [cpu_arm(frugal)], DESIGN, 0, CpuDevice())
    assert memory_rows(result) == {}


def test_a_wrong_arm_has_no_memory():
    def wrong(x, y):
        y.copy_(3 * x)

    row = memory_rows(measure_case(a_case(), [cpu_arm(wrong)], DESIGN, 0, CpuDevice()))["sparse", "peak_live"]
    assert (row.status, row.value) == ("incorrect", None)
    assert row.reason


def test_an_arm_that_fails_in_its_memory_round_keeps_its_times():
    def prepare(inputs):
        y = torch.empty(N)

        def run():
            if torch._C._len_torch_dispatch_stack():
                raise MemoryError("cannot be watched")
            torch.mul(inputs["x"], 2, out=y)

        return Prepared(run, (y,))

    arm = cpu_arm(frugal)
    failing = type(arm)("sparse", "ours", prepare, source_hash="abc")
    result = measure_case(a_case(), [failing], DESIGN, 0, CpuDevice())
    row = memory_rows(result)["sparse", "peak_live"]
    assert (row.status, row.reason) == ("oom", "cannot be watched")
    assert [row.status for row in result.rows if row.metric == "time"] != ["oom"]


def test_a_gpu_tells_what_its_allocator_held(monkeypatch):
    monkeypatch.setattr(
        "frugal.timing.memory_round.peak_cuda",
        lambda run: (run(), (Peak("peak_allocated", 512, 256), Peak("peak_reserved", 1024, 1024)))[1],
    )
    clock = FakeClock()
    gpu = FakeGpu(clock)
    small = Case("sft", "memory", {}, lambda seed, phase: {"x": torch.ones(100)}, None, measures=("time", "memory"))
    result = measure_case(small, [gpu_arm(gpu)], DESIGN, 0, gpu, clock)
    rows = memory_rows(result)
    found = {metric: (row.value, row.base_bytes) for (_, metric), row in rows.items()}
    assert found == {"peak_live": (0, 800), "peak_allocated": (512, 256), "peak_reserved": (1024, 1024)}
    assert gpu.log.count("release") == 2, "the cache is given back before each arm, and at the end"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
def test_on_a_gpu_live_bytes_are_at_most_what_the_allocator_handed_out():
    from frugal.timing import CudaDevice

    def on_gpu():
        return {"x": torch.ones(N, device="cuda")}

    case = Case("sft", "memory", {}, lambda seed, phase: on_gpu(), None, measures=("time", "memory"))
    rows = memory_rows(measure_case(case, [cpu_arm(wasteful, regimes=("wall",))], DESIGN, 0, CudaDevice()))
    live, allocated = rows["sparse", "peak_live"], rows["sparse", "peak_allocated"]
    assert live.value == 3 * 4 * N
    assert live.value + live.base_bytes <= allocated.value <= rows["sparse", "peak_reserved"].value
