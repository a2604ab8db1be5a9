"""One case: every attempted arm and regime leaves a row, and a wrong arm leaves no time."""

import re
import threading

import pytest
import torch
from timing_fakes import Case, FakeClock, FakeGpu, cpu_arm, doubling, gpu_arm, right

from frugal.timing import Arm, CpuDevice, Design, Prepared, Reference, Unsupported, measure_case
from frugal.timing.faults import DeviceLost, Fault

QUICKEST = Design.of("smoke", n_min=3, block_max_s=0.01, case_timeout_s=1.0)


@pytest.fixture
def gpu():
    return FakeGpu(FakeClock())


def on_gpu(gpu, *arms, design=None, case=None):
    result = measure_case(case or doubling(), arms, design or Design.of("smoke"), 0, gpu, gpu.clock)
    return {(row.arm, row.regime, row.l2): row for row in result.rows}, result


def on_cpu(*arms, case=None, design=QUICKEST):
    return measure_case(case or doubling(), arms, design, 0, CpuDevice())


def test_every_regime_of_a_gpu_leaves_a_row_with_its_time(gpu):
    rows, result = on_gpu(gpu, gpu_arm(gpu), gpu_arm(gpu, "cudnn", "baseline", device_s=20e-6))
    assert len(rows) == 10
    for (name, regime, _), row in rows.items():
        device_s = 10e-6 if name == "sparse" else 20e-6
        expected = device_s + 5e-6 if regime == "wall" else device_s
        assert row.status == "ok", row.reason
        assert row.value == pytest.approx(expected, rel=1e-6)  # the fake counts in whole nanoseconds
        assert (row.verified_before, row.verified_after) == (True, True)
        assert (row.conditional, row.n_blocks, row.unit, row.metric) == (True, 2, "s", "time")
        assert sum(s.value for s in result.samples[row.key]) == pytest.approx(row.mean * row.n_samples)
    assert rows["sparse", "graph", "rotated"].batch_m % 3 == 0
    assert rows["sparse", "graph", "rotated"].graph is True
    assert rows["sparse", "hot", None].graph is False
    assert rows["sparse", "hot", None].batch_m == 100


def test_samples_know_their_place_in_the_palindrome(gpu):
    _, result = on_gpu(gpu, gpu_arm(gpu), gpu_arm(gpu, "b", "baseline"), gpu_arm(gpu, "c", "baseline"))
    for regime in ("cold", "wall"):
        places = {}
        for key, samples in result.samples.items():
            if key.regime == regime:
                places[key.arm] = [next(s.position for s in samples if s.round == r) for r in (0, 1)]
        assert sorted(first for first, _ in places.values()) == [0, 1, 2]
        assert all(first + second == 2 for first, second in places.values())


def test_the_order_is_the_sessions_own_and_recorded(gpu):
    first, _ = on_gpu(gpu, gpu_arm(gpu))
    again = measure_case(doubling(), [gpu_arm(gpu)], Design.of("smoke"), 1, gpu, gpu.clock)
    assert first["sparse", "cold", None].order_seed != again.rows[0].order_seed
    assert len({row.order_seed for row in first.values()}) == 5


def test_an_arm_that_waits_keeps_only_wall(gpu):
    rows, _ = on_gpu(gpu, gpu_arm(gpu, waits=True), gpu_arm(gpu, "cudnn", "baseline"))
    for regime, l2 in (("cold", None), ("hot", None), ("graph", "resident"), ("graph", "rotated")):
        row = rows["sparse", regime, l2]
        assert (row.status, row.value, row.n_samples) == ("unsupported", None, 0)
        assert row.reason.startswith("host_sync")
        assert rows["cudnn", regime, l2].status == "ok"
    assert rows["sparse", "wall", None].value == pytest.approx(15e-6, rel=1e-6)


@pytest.mark.parametrize(
    ("device_s", "host_s", "bound"), [(10e-6, 5e-6, False), (10e-6, 9e-6, True), (10e-6, 40e-6, True)]
)
def test_hot_says_when_the_host_sets_the_time(gpu, device_s, host_s, bound):
    rows, _ = on_gpu(gpu, gpu_arm(gpu, device_s=device_s, host_s=host_s))
    assert rows["sparse", "hot", None].launch_bound is bound
    assert rows["sparse", "cold", None].launch_bound is None
    expected = max(device_s, host_s)
    assert rows["sparse", "hot", None].value == pytest.approx(expected, rel=0.05)  # 20 to 80 µs of spin in 1 to 4 ms
    assert rows["sparse", "graph", "resident"].value == pytest.approx(device_s, rel=1e-6)


def test_hot_beyond_the_graph_is_launch_bound_whatever_the_estimate(gpu):
    """The estimate sees 5 µs of host time; under load, each launch takes 30."""
    calls = []

    def prepare(inputs):
        prepared = gpu_arm(gpu).prepare(inputs)
        y = prepared.outputs[0]

        def run():
            calls.append(1)
            gpu.launch(lambda: torch.mul(inputs["x"], 2, out=y), 10e-6, 5e-6 if len(calls) < 12 else 30e-6)

        return Prepared(run, (y,))

    arm = Arm("sparse", "ours", prepare, regimes=("hot", "graph"))
    rows, _ = on_gpu(gpu, arm)
    assert rows["sparse", "graph", "resident"].value == pytest.approx(10e-6, rel=1e-6)
    assert rows["sparse", "hot", None].launch_bound is True


def test_a_refused_capture_is_unsupported_with_the_drivers_text(gpu):
    gpu.refuses = "operation not permitted when stream is capturing"
    rows, _ = on_gpu(gpu, gpu_arm(gpu))
    row = rows["sparse", "graph", "resident"]
    assert (row.status, row.reason) == ("unsupported", f"capture: {gpu.refuses}")
    assert rows["sparse", "cold", None].status == "ok"


def test_an_enqueue_too_long_to_hide_is_host_bound_in_cold_alone(gpu):
    rows, _ = on_gpu(gpu, gpu_arm(gpu, host_s=3e-3))
    assert rows["sparse", "cold", None].reason.startswith("host_bound")
    assert rows["sparse", "graph", "resident"].status == "ok"


def test_the_design_chooses_regimes_and_names_what_an_arm_does_not_offer(gpu):
    rows, _ = on_gpu(gpu, gpu_arm(gpu, regimes=("cold",)), design=Design.of("smoke", regimes=["graph", "cold"]))
    assert set(rows) == {("sparse", "cold", None), ("sparse", "graph", "resident")}
    row = rows["sparse", "graph", "resident"]
    assert (row.status, row.reason) == ("unsupported", "this arm offers only cold")


def no_time(result, arm="sparse"):
    own = [row for row in result.rows if row.arm == arm]
    assert len(own) == 3
    for row in own:
        assert (row.status, row.value, row.mean, row.n_samples) == ("incorrect", None, None, 0)
        assert row.key not in result.samples
    return own[0]


def test_an_unwritten_element_publishes_no_time():
    def compute(x, y):
        y[1:] = 2 * x[1:]

    row = no_time(on_cpu(cpu_arm(compute)))
    assert row.reason.startswith("unwritten: 1")
    assert row.verified_before is False


def test_one_percent_off_in_one_element_publishes_no_time():
    def compute(x, y):
        right(x, y)
        y[7] += 0.01 * y.abs().max()

    row = no_time(on_cpu(cpu_arm(compute)))
    assert "a_priori" in row.reason
    assert row.max_abs_err > 0


def test_an_answer_kept_from_the_warm_up_publishes_no_time():
    kept = []

    def compute(x, y):
        if len(kept) < 2:  # computes on the inputs of verification and of warm-up, and then no more
            kept.append(2 * x)
            y.copy_(kept[-1])
        else:
            y.copy_(kept[-1])

    row = no_time(on_cpu(cpu_arm(compute)))
    assert row.verified_before is True
    assert row.verified_after is not True
    assert row.reason.startswith("after timing")


def test_an_answer_kept_for_the_timed_inputs_fails_on_fresh_ones():
    kept = []

    def compute(x, y):
        seen = len(kept)
        if not any(torch.equal(x, old) for old in kept):
            kept.append(x.clone())
        y.copy_(2 * (x if seen < 3 else kept[2]))  # after three sets of inputs it answers for the third, the timed one

    row = no_time(on_cpu(cpu_arm(compute, regimes=("cold", "graph", "wall"))))
    assert row.reason.startswith("after timing, on fresh inputs")


def test_a_changed_input_publishes_no_time_and_hurts_nobody_else():
    def compute(x, y):
        right(x, y)
        x[0] += 1

    result = on_cpu(cpu_arm(compute, "sparse"), cpu_arm(right, "other"))
    assert "changed its inputs" in no_time(result).reason
    assert {row.status for row in result.rows if row.arm == "other"} <= {"ok", "unstable"}


def test_an_input_changed_late_is_found_after_timing():
    calls = []

    def compute(x, y):
        right(x, y)
        calls.append(1)
        if len(calls) == 30:
            x[0] += 1
            right(x, y)

    row = no_time(on_cpu(cpu_arm(compute)))
    assert row.reason.startswith("after timing") or "while it was timed" in row.reason


def test_a_result_written_later_by_another_thread_is_unwritten():
    """The CPU's form of a side stream that is still at work when the arm's own stream has ended."""
    threads, gate = [], threading.Event()

    def compute(x, y):
        def late():
            gate.wait(10)
            right(x, y)

        threads.append(threading.Thread(target=late))
        threads[-1].start()

    try:
        row = no_time(on_cpu(cpu_arm(compute)))
    finally:
        gate.set()
        for thread in threads:
            thread.join()
    assert row.reason.startswith("unwritten: 100")


def test_a_loop_that_does_nothing_is_found_although_run_is_right():
    y = torch.empty(100)

    def prepare(inputs):
        return Prepared(run=lambda: torch.mul(inputs["x"], 2, out=y), outputs=(y,), loop=lambda m: None)

    result = on_cpu(Arm("sparse", "ours", prepare))
    assert no_time(result).reason.startswith("after timing: unwritten")


CPU_OOM = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000 bytes."
GPU_OOM = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139 GiB"


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (Unsupported("stride 2 is not offered"), "unsupported", "stride 2 is not offered"),
        (NotImplementedError(), "unsupported", "not implemented"),
        (torch.OutOfMemoryError(GPU_OOM), "oom", "Tried to allocate 20.00 GiB"),
        (RuntimeError(CPU_OOM), "oom", "tried to allocate 8000 bytes"),
        (MemoryError(), "oom", "out of memory"),
        (RuntimeError("CUDA error: in /home/somebody/x/kernel.cu\nsecond line"), "failed", "RuntimeError: CUDA error"),
        (ValueError(), "failed", "ValueError"),
    ],
)
@pytest.mark.parametrize("where", ["prepare", "run"])
def test_an_exception_is_the_arms_own_status(error, status, words, where):
    def compute(x, y):
        raise error

    def prepare(inputs):
        raise error

    bad = cpu_arm(compute) if where == "run" else Arm("sparse", "ours", prepare)
    result = on_cpu(bad, cpu_arm(right, "other"))
    rows = [row for row in result.rows if row.arm == "sparse"]
    assert [row.status for row in rows] == [status] * 3
    assert all(words in row.reason and "somebody" not in row.reason for row in rows)
    assert len([row for row in result.rows if row.arm == "other"]) == 3


def test_an_exception_in_one_regime_is_that_regimes():
    calls = []

    def prepare(inputs):
        y = torch.empty(100)

        def loop(m):
            calls.append(m)
            raise RuntimeError("loop is broken")

        return Prepared(run=lambda: torch.mul(inputs["x"], 2, out=y), outputs=(y,), loop=loop)

    rows = {row.regime: row for row in on_cpu(Arm("sparse", "ours", prepare)).rows}
    assert (rows["graph"].status, rows["graph"].reason) == ("failed", "RuntimeError: loop is broken")
    assert rows["wall"].value is not None


def test_inputs_that_cannot_be_made_fail_every_arm_and_raise_nothing():
    def inputs(seed, phase):
        raise MemoryError

    case = Case("cusnn", "layers", {}, inputs, lambda given: Reference(given["x"]))
    rows = on_cpu(cpu_arm(right), cpu_arm(right, "other"), case=case).rows
    assert [row.status for row in rows] == ["oom"] * 6


def test_each_phase_has_inputs_of_its_own():
    seen = {}
    inner = doubling()

    def inputs(seed, phase):
        seen[phase] = seed
        return inner.inputs(seed, phase)

    on_cpu(cpu_arm(right), case=Case("cusnn", "layers", {}, inputs, inner.reference))
    assert set(seen) == {"verify", "warm", "timed", "recheck"}
    assert len(set(seen.values())) == 4


def test_the_arms_flags_are_on_for_its_work_and_off_for_the_reference():
    from contextlib import contextmanager

    state = {"on": False}

    @contextmanager
    def context():
        state["on"] = True
        try:
            yield
        finally:
            state["on"] = False

    def compute(x, y):
        assert state["on"]
        right(x, y)

    inner = doubling()

    def reference(inputs):
        assert not state["on"]
        return inner.reference(inputs)

    case = Case("cusnn", "layers", {}, inner.inputs, reference)
    rows = on_cpu(cpu_arm(compute, context=context), case=case).rows
    assert {row.verified_after for row in rows} == {True}


def test_our_arm_may_have_twice_the_error_of_a_baseline_that_lacks_its_regime():
    """The baseline offers wall alone; ours is held against its error in cold as well."""
    off = 1e-5

    def baseline(x, y):
        right(x, y)
        y += off

    def ours(x, y):
        right(x, y)
        y += 1.5 * off

    arms = [cpu_arm(ours, regimes=("cold",)), cpu_arm(baseline, "base", "baseline", regimes=("wall",))]
    row = on_cpu(*arms, case=doubling(s=False)).rows[0]
    assert (row.arm, row.tolerance_rule) == ("sparse", "baseline_x2")
    assert row.value is not None


def test_a_case_without_a_reference_says_that_nothing_was_verified():
    inner = doubling()
    rows = on_cpu(cpu_arm(right), case=Case("cusnn", "layers", {}, inner.inputs, None)).rows
    assert {(row.verified_before, row.verified_after, row.tolerance_rule) for row in rows} == {(None, None, None)}


def test_wide_blocks_are_unstable_and_keep_their_values(gpu):
    times = iter(range(10**6))

    def prepare(inputs):
        y = torch.empty(100)

        def run():
            gpu.launch(lambda: torch.mul(inputs["x"], 2, out=y), 10e-6 * (1 + next(times) % 2))

        return Prepared(run, (y,))

    rows, result = on_gpu(gpu, Arm("sparse", "ours", prepare, regimes=("cold",)))
    row = rows["sparse", "cold", None]
    assert row.status == "unstable"
    assert row.value is not None
    assert result.samples[row.key]


@pytest.mark.parametrize(
    ("arms", "words"),
    [([], "has no arms"), (["a", "a"], "more than one arm is called a"), ([f"a{i}" for i in range(13)], "at most 12")],
)
def test_arms_that_cannot_be_compared_are_the_callers_fault(arms, words):
    with pytest.raises(ValueError, match=words):
        on_cpu(*[cpu_arm(right, name) for name in arms])


def test_an_unknown_column_is_the_callers_fault():
    inner = doubling()
    case = Case("cusnn", "layers", {}, inner.inputs, inner.reference, columns={"batch": 1})
    with pytest.raises(ValueError, match="columns has batch"):
        on_cpu(cpu_arm(right), case=case)


class Watch:
    """A monitor that keeps what it is told."""

    def __init__(self):
        self.told = []

    def begin(self, case_id, arm, step, limit_s):
        assert self.told[-1:] in ([], ["idle"]), "a step begins in the middle of another"
        self.told.append((case_id, arm, step, limit_s))

    def idle(self):
        self.told.append("idle")


def test_the_monitor_is_told_of_every_step_and_of_its_limit():
    watch, case = Watch(), doubling()
    design = Design.of("smoke", n_min=3, block_max_s=0.01, case_timeout_s=7.0, first_call_timeout_s=50.0)
    arms = [cpu_arm(right, regimes=("wall",)), cpu_arm(right, "base", "baseline", regimes=("wall",))]
    measure_case(case, arms, design, 0, CpuDevice(), monitor=watch)
    steps = [told for told in watch.told if told != "idle"]
    assert watch.told.count("idle") == len(steps)
    assert {case_id for case_id, *_ in steps} == {case.case_id}
    usual = "second call", "estimate", "call on the timed inputs", "preparation of wall", "reading of the last output"
    once = {"first call": 50.0} | dict.fromkeys([*usual, "call on fresh inputs"], 7.0)
    twice = {"warm-up in wall": 7.0, "block in wall": 14.0}  # in each round; a slow arm ends its block by itself
    for name in ("sparse", "base"):
        own = [(step, limit_s) for _, arm, step, limit_s in steps if arm == name]
        assert sorted(own) == sorted([*once.items(), *twice.items(), *twice.items()])


def test_the_monitor_is_told_that_a_fault_has_passed_and_not_of_what_ends_the_process():
    def broken(x, y):
        raise ValueError("no")

    def leaves(x, y):
        raise SystemExit(3)

    watch = Watch()
    measure_case(doubling(), [cpu_arm(broken)], QUICKEST, 0, CpuDevice(), monitor=watch)
    assert watch.told[-1] == "idle"
    watch = Watch()
    with pytest.raises(SystemExit):
        measure_case(doubling(), [cpu_arm(leaves)], QUICKEST, 0, CpuDevice(), monitor=watch)
    assert watch.told[-1][1:3] == ("sparse", "first call")


def test_a_blamed_arm_is_not_run_and_its_rows_say_why():
    def forbidden(x, y):
        raise AssertionError("it is run")

    result = measure_case(
        doubling(),
        [cpu_arm(forbidden), cpu_arm(right, "other")],
        QUICKEST,
        0,
        CpuDevice(),
        blamed={"sparse": Fault("timeout", "first call: no answer within 600 s")},
    )
    rows = [row for row in result.rows if row.arm == "sparse"]
    assert [(row.regime, row.status, row.value) for row in rows] == [
        (regime, "timeout", None) for regime in ("cold", "graph", "wall")
    ]
    assert {row.reason for row in rows} == {"first call: no answer within 600 s"}
    assert all(row.value is not None for row in result.rows if row.arm == "other")


def keeping(kept, size):
    """An arm that keeps `size` bytes of each run; `kept` outlives the case or not."""

    def compute(x, y):
        right(x, y)
        kept.append(torch.ones(size, dtype=torch.uint8))

    return compute


RUNS = Design.of("smoke", n_min=6, block_max_s=1e-9, regimes=["wall"])  # three samples a block, after one to warm up


def test_a_leak_is_said_and_keeps_the_time():
    kept = []
    leaky = cpu_arm(keeping(kept, 24 << 20))
    result = measure_case(doubling(), [leaky, cpu_arm(right, "other")], RUNS, 0, CpuDevice())
    (row,) = [row for row in result.rows if row.arm == "sparse"]
    (other,) = [row for row in result.rows if row.arm == "other"]
    # the second block: one run to warm up and three samples, of 24 MiB each
    grown = re.search(r"leak: host memory grew by (\d+) MiB in its blocks and was not given back", row.reason)
    assert int(grown[1]) == pytest.approx(96, abs=8)  # pages of other threads come and go
    assert row.value is not None
    assert row.status in ("ok", "unstable")
    assert "leak" not in (other.reason or "")
    (warning,) = result.warnings
    assert warning.startswith("WARN: net conv1 b1: sparse: leak: host memory grew by")


def test_memory_that_is_given_back_after_the_case_is_no_leak():
    def prepare(inputs):
        kept, y = [], torch.empty(100)
        compute = keeping(kept, 24 << 20)
        return Prepared(run=lambda: compute(inputs["x"], y), outputs=(y,), keep=(kept,))

    result = measure_case(doubling(), [Arm("sparse", "ours", prepare)], RUNS, 0, CpuDevice())
    assert result.warnings == []
    assert "leak" not in (result.rows[0].reason or "")


def test_a_kernel_that_fails_late_is_its_own_arms_fault(gpu):
    """An error that only the next wait reports: without a wait of its own, the next arm would be blamed."""
    late = []

    def synchronize():
        if late:
            late.pop()
            raise RuntimeError("CUDA error: misaligned address")

    def prepare(inputs):
        prepared = gpu_arm(gpu).prepare(inputs)

        def run():
            prepared.run()
            late.append(1)

        return Prepared(run, prepared.outputs)

    gpu.synchronize = synchronize
    rows, _ = on_gpu(gpu, Arm("sparse", "ours", prepare, regimes=("wall",)), gpu_arm(gpu, "base", regimes=("wall",)))
    assert rows["sparse", "wall", None].reason == "RuntimeError: CUDA error: misaligned address"
    assert rows["base", "wall", None].status == "ok"


def test_a_device_that_no_longer_works_ends_the_case_and_names_the_arm(gpu):
    def prepare(inputs):
        def run():
            gpu.synchronize = dead
            dead()

        return Prepared(run, (torch.empty(100),))

    def dead():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    watch = Watch()
    with pytest.raises(DeviceLost) as lost:
        measure_case(doubling(), [Arm("sparse", "ours", prepare)], Design.of("smoke"), 0, gpu, gpu.clock, monitor=watch)
    assert (lost.value.case_id, lost.value.arm) == (doubling().case_id, "sparse")
    assert lost.value.fault.status == "failed"
    assert "illegal memory access" in lost.value.fault.reason
    assert watch.told[-1] != "idle"
