"""Rounds of energy of a case, through `measure_case` and a session, on a board whose energy is known."""

import itertools
from contextlib import contextmanager
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import torch
from energy_fakes import FakeBoard, FakeClock, FakeEvent, FakeNvml

from frugal.energy import POLL, Idle, Meter
from frugal.records import SCHEMAS, Run, read_job
from frugal.timing import Arm, Case, CpuDevice, Design, Prepared, Reference, Unsupported, measure_case, run_session
from frugal.timing.energy_round import cool_down
from frugal.timing.instruments import Instruments, instruments

DESIGN = Design.of("quick", n_min=3, block_min_s=0, block_max_s=0.1, block_warmup_s=0, load_s=0, warmup_gpu_s=0.1)
METRICS = {"energy_gross": "J", "energy_net": "J", "power_mean": "W"}


class Event(FakeEvent):
    def elapsed_time(self, end):
        return (end.ns - self.ns) * 1e-6


class Gpu(FakeBoard):
    """The board as a device of frugal.timing; each arm draws its own power and takes its own time."""

    key, cache_bytes, memory_bytes, hz = "board", 1000, 10**9, 1e9

    def __init__(self, clock):
        super().__init__(clock)
        self.recording, self.refuses, self.loads, self.degrees = None, False, [], 40

    @contextmanager
    def active(self):
        yield

    def launch(self, compute, run_s, watts, host_s=5e-6):
        if self.recording is not None:
            self.recording.append((compute, run_s, watts))
            return
        self.clock.advance(host_s)
        self._work(run_s, watts)
        compute()

    def _work(self, run_s, watts):
        start = self.reached()
        self.free = start + round(run_s * 1e9)
        self.loads.append((start, self.free, watts))

    def joules(self, ns):
        used = sum((min(ns, end) - start) * (watts - self.idle_w) for start, end, watts in self.loads if start < ns)
        return ((ns - self.born) * self.idle_w + used) * 1e-9

    def event(self):
        return Event(self)

    def flush(self, mode):
        self._work(30e-6, 300.0)

    def sleep(self, cycles):
        self._work(cycles / self.hz, 200.0)

    def join(self):
        self.synchronize()

    def synchronises(self, run):
        run()
        return False

    def capture(self, body):
        if self.refuses:
            raise Unsupported("capture: not permitted")
        self.recording = []
        body()
        bodies, self.recording = self.recording, None

        class Graph:
            def replay(_):
                self.clock.advance(10e-6)
                for _, run_s, watts in bodies:
                    self._work(run_s, watts)
                bodies[-1][0]()

        return Graph()

    def load(self):
        self.clock.advance(3e-3)

    def release(self):
        pass


class Nvml(FakeNvml):
    NVML_TEMPERATURE_GPU = 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        self._forget()
        return super().nvmlDeviceGetTotalEnergyConsumption(handle)

    def _forget(self):
        """Old work into one entry, so that the sum stays short."""
        old = [load for load in self.board.loads if load[1] < self.board.clock.ns() - 10**9]
        if len(old) > 50:
            end = max(load[1] for load in old)
            spent = sum((stop - start) * (watts - self.board.idle_w) for start, stop, watts in old)
            mean = spent / (end - self.board.born) + self.board.idle_w
            self.board.loads[: len(old)] = [(self.board.born, end, mean)]

    def nvmlDeviceGetTemperature(self, handle, kind):
        return self.board.degrees


def a_case(measures=("time", "energy")):
    def inputs(seed, phase):
        return {"x": torch.randn(100, generator=torch.Generator().manual_seed(seed))}

    def reference(given):
        return Reference(2 * given["x"].double(), 2 * given["x"].double().abs(), 1)

    return Case("cusnn", "layers", {"layer": "conv1"}, inputs, reference, "net", "conv1", {"n": 1}, measures)


def an_arm(gpu, name, run_s, watts, role="ours", regimes=("graph", "wall"), wrong=0.0, **given):
    def prepare(inputs):
        x, y = inputs["x"], torch.empty(100)

        def compute():
            torch.mul(x, 2, out=y)
            y[3] += wrong

        return Prepared(lambda: gpu.launch(compute, run_s, watts, **given), (y,))

    return Arm(name, role, prepare, regimes=regimes, source_hash="abc")


SPARSE, DENSE = (20e-3, 500.0), (50e-3, 650.0)  # s and W
EXACT = {"sparse": 20e-3 * 500, "dense": 50e-3 * 650}


@pytest.fixture
def gpu():
    return Gpu(FakeClock())


def both(gpu, **given):
    return [
        an_arm(gpu, "sparse", *SPARSE, **given),
        an_arm(gpu, "dense", *DENSE, role="baseline", **given),
    ]


def measured(gpu, arms, nvml=None, case=None, **beside):
    nvml = nvml or Nvml(gpu)
    beside = {"meter": Meter(gpu, nvml, gpu.clock), "idle": Idle(120.0, 0.1)} | beside
    result = measure_case(case or a_case(), arms, DESIGN, 0, gpu, gpu.clock, beside=Instruments(**beside))
    rows = {(row.arm, row.metric): row for row in result.rows if row.metric != "time"}
    return rows, result


def test_each_arm_gets_three_rows_from_one_palindrome_of_trials(gpu):
    rows, result = measured(gpu, both(gpu))
    assert set(rows) == set(itertools.product(EXACT, METRICS))
    for (arm, metric), row in rows.items():
        run_s, watts = {"sparse": SPARSE, "dense": DENSE}[arm]
        exact = {"energy_gross": run_s * watts, "energy_net": run_s * (watts - 120), "power_mean": watts}[metric]
        assert row.reason is None, row.reason
        # two ticks of 1.7 ms in 5 s, and a slope over 50 batches that are noticed within 3.4 ms
        assert row.value == pytest.approx(exact, rel=3e-3)
        assert (row.status, row.unit, row.higher_is_better) == ("ok", METRICS[metric], False)
        assert (row.regime, row.l2, row.graph, row.batch_m) == ("graph", "resident", True, 1)
        assert (row.energy_source, row.n_samples, row.n_blocks) == ("counter", 2, 2)
        assert row.energy_window_s >= 5
        assert row.energy_ticks >= 50
        samples = result.samples[row.key]
        assert [sample.round for sample in samples] == [0, 1]
        first, second = (sample.value for sample in samples)
        assert row.value == pytest.approx((first * second) ** 0.5)
    order = {
        (arm, sample.round): sample.position
        for arm in EXACT
        for sample in result.samples[rows[arm, "energy_gross"].key]
    }
    assert order["sparse", 0] == order["dense", 1] != order["dense", 0] == order["sparse", 1]
    times = [row for row in result.rows if row.metric == "time"]
    assert {(row.status, row.energy_source) for row in times} == {("ok", None)}
    ends = [sample.start_ns for row in times for sample in result.samples[row.key]]
    starts = [sample.start_ns for row in rows.values() for sample in result.samples[row.key]]
    assert max(ends) < min(starts), "energy is measured after the timing, never with it"


def test_a_case_that_does_not_ask_has_no_rows_of_energy(gpu):
    assert measured(gpu, both(gpu), case=a_case(("time",)))[0] == {}
    assert measured(gpu, both(gpu), meter=None)[0] == {}


def test_an_arm_without_a_graph_is_measured_call_by_call(gpu):
    gpu.refuses = True
    rows, _ = measured(gpu, both(gpu))
    row = rows["sparse", "energy_gross"]
    assert (row.regime, row.l2, row.graph, row.batch_m, row.launch_bound) == ("hot", None, False, 1, False)
    assert row.value == pytest.approx(EXACT["sparse"], rel=3e-3)
    gpu.refuses = False
    rows, _ = measured(gpu, [an_arm(gpu, "sparse", 2e-3, 500.0, regimes=("wall",), host_s=1.9e-3)])
    assert (rows["sparse", "energy_gross"].regime, rows["sparse", "energy_gross"].launch_bound) == ("hot", True)


def test_a_wrong_arm_has_no_energy(gpu):
    rows, result = measured(gpu, [*both(gpu), an_arm(gpu, "bad", *SPARSE, wrong=1.0)])
    for metric in METRICS:
        row = rows["bad", metric]
        assert (row.status, row.value, row.n_samples, row.regime) == ("incorrect", None, 0, "graph")
        assert row.key not in result.samples
        assert rows["sparse", metric].status == "ok"


def test_an_arm_that_waits_for_the_device_has_no_energy(gpu):
    gpu.synchronises = lambda run: True
    rows, _ = measured(gpu, both(gpu))
    assert {(row.status, row.reason.split(":")[0]) for row in rows.values()} == {("unsupported", "host_sync")}


def test_a_failure_in_a_trial_is_that_arms_alone(gpu):
    arms = both(gpu)
    start = {}

    def prepare(inputs):
        prepared = arms[0].prepare(inputs)

        def run():
            start.setdefault("ns", gpu.clock.ns())
            if gpu.clock.ns() > start["ns"] + 5 * 10**9:
                raise MemoryError("too much")
            prepared.run()

        return Prepared(run, prepared.outputs)

    failing = Arm("sparse", "ours", prepare, regimes=("wall",), source_hash="abc")
    rows, result = measured(gpu, [failing, arms[1]])
    assert {rows["sparse", metric].status for metric in METRICS} == {"oom"}
    assert {rows["dense", metric].status for metric in METRICS} == {"ok"}
    (time,) = [row for row in result.rows if (row.arm, row.metric) == ("sparse", "time")]
    assert time.status == "ok", "its times were measured before"


@pytest.mark.parametrize(
    ("given", "status", "reason", "valued"),
    [
        ({"ticks": lambda ns: 0}, "unstable", "short_window", False),
        ({"mig": True}, "unsupported", "mig", False),
        ({"silent": ["nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"]}, "unsupported", "no_counter",
         False),
        ({"silent": ["nvmlDeviceGetTotalEnergyConsumption"]}, "ok", "power_poll", True),
        ({"others": [7]}, "unstable", "neighbours", True),
    ],
)  # fmt: skip
def test_what_is_not_known_is_null_and_what_is_doubtful_says_so(gpu, given, status, reason, valued):
    rows, result = measured(gpu, both(gpu), Nvml(gpu, **given))
    for row in rows.values():
        assert (row.status, row.reason.split(":")[0]) == (status, reason)
        assert (row.value is not None) is valued
        assert row.value is None or row.value > 0
        assert (row.key in result.samples) is valued


def test_the_gravest_doubt_of_all_trials_is_the_row_s(gpu):
    class Joined(Nvml):
        """Another process comes after some of the power readings of the first trials."""

        asked = 0

        def nvmlDeviceGetComputeRunningProcesses(self, handle):
            Joined.asked += 1
            return [1, 2] if Joined.asked > 2 else [1]

    rows, _ = measured(gpu, both(gpu), Joined(gpu, silent=["nvmlDeviceGetTotalEnergyConsumption"]))
    assert {(row.status, row.reason.split(":")[0]) for row in rows.values()} == {("unstable", "neighbours")}


def test_a_cpu_whose_energy_nobody_may_read_says_so(tmp_path):
    def prepare(inputs):
        y = torch.empty(100)
        return Prepared(lambda: torch.mul(inputs["x"], 2, out=y), (y,))

    arm = Arm("sparse", "ours", prepare, regimes=("wall",), source_hash="abc")
    device = CpuDevice()
    beside = Instruments(meter=Meter(device, powercap=tmp_path))
    result = measure_case(a_case(), [arm], Design.of("smoke", block_max_s=0.01), 0, device, beside=beside)
    rows = [row for row in result.rows if row.metric in METRICS]
    assert [row.metric for row in rows] == list(METRICS)
    for row in rows:
        assert (row.status, row.value, row.energy_source, row.regime) == ("unsupported", None, None, "hot")
        assert row.reason == "no_counter: this system lets nobody read the CPU's energy"


def test_a_throttled_trial_is_unstable(gpu):
    class Beside:
        def between(self, start, end):
            times = range(-(-start // 10**8) * 10**8, end, 10**8)
            return np.array([(ns, 1.98e9, 3e9, 80, 500, 0x20 * (ns // 10**8 % 5 == 0)) for ns in times], POLL)

    rows, result = measured(gpu, both(gpu), sampler=Beside())
    for row in rows.values():
        assert row.status == "unstable"
        assert row.reason.startswith("slowdown: ")
        assert row.value > 0
        assert (row.sm_hz, row.power_w, row.temp_end_c, row.event_reasons) == (1.98e9, 500, 80, 0x20)
        assert {sample.sm_hz for sample in result.samples[row.key]} == {1.98e9}


def test_without_idle_power_there_is_no_net(gpu):
    rows, _ = measured(gpu, both(gpu), idle=Idle())
    assert (rows["sparse", "energy_net"].value, rows["sparse", "energy_net"].status) == (None, "unstable")
    assert rows["sparse", "energy_net"].reason.startswith("no_idle")
    assert rows["sparse", "energy_gross"].status == "ok"
    rows, _ = measured(gpu, both(gpu), idle=Idle(9000.0))
    assert (rows["sparse", "energy_net"].value, rows["sparse", "energy_net"].reason.split(":")[0]) == (None, "no_net")


def test_the_die_cools_down_before_a_trial_but_not_for_ever(gpu):
    meter = Meter(gpu, Nvml(gpu), gpu.clock)
    began = gpu.clock.ns()
    gpu.degrees = 42
    cool_down(meter, 40.0, gpu.clock)
    assert gpu.clock.ns() == began
    gpu.degrees = 43
    cool_down(meter, None, gpu.clock)
    assert gpu.clock.ns() == began
    cool_down(meter, 40.0, gpu.clock)
    assert 15e9 <= gpu.clock.ns() - began <= 15.3e9


# ---- a session -------------------------------------------------------------------------------------------------------


def test_where_energy_is_measured():
    found = {(p, kind) for p in ("smoke", "quick", "headline") for kind in ("cpu", "cuda")
             if Design.of(p).measures_energy(kind)}  # fmt: skip
    assert found == {("quick", "cuda"), ("headline", "cuda")}
    assert Design.of("smoke", energy=True).measures_energy("cpu")
    assert not Design.of("quick", energy=False).measures_energy("cuda")


def test_what_a_case_measures_is_checked():
    for measures in (("energy",), ("time", "noise")):
        with pytest.raises(ValueError, match=r"case net conv1 b1: measures = .*: it must have time, and any of energy"):
            a_case(measures)


class NoSampler:
    def __init__(self, *given):
        pass

    def start(self):
        return self

    def missing(self):
        return ["the temperature", "the power"]

    def between(self, start, end):
        return np.array([(start, 1.98e9, 3e9, 40, 300, 0)], POLL)

    def close(self):
        return False


@pytest.fixture
def driver(gpu, monkeypatch, tmp_path):
    """NVML is the board's, and nothing is polled by another process."""
    nvml = Nvml(gpu)
    monkeypatch.setattr("frugal.energy.gauge.open_nvml", lambda: nvml)
    monkeypatch.setattr("frugal.timing.instruments.Sampler", NoSampler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def a_run():
    values = {"string": "x", "bool": True, "double": 1.0, "int32": 0, "int64": 1}
    needed = {f.name: values.get(str(f.type)) for f in SCHEMAS["runs"] if not f.nullable}
    times = [f.name for f in SCHEMAS["runs"] if pa.types.is_timestamp(f.type)]
    return Run(**(needed | dict.fromkeys(times, datetime(2026, 1, 1, tzinfo=UTC)) | {"run_id": "01RUN"}))


def test_a_session_writes_energy_its_idle_power_and_its_clock(gpu, driver, tmp_path):
    gpu.clock.now = lambda: datetime(2026, 1, 1, tzinfo=UTC)
    said, path = [], tmp_path / "s.parquet"
    run_session([(a_case(), both(gpu))], DESIGN, 0, gpu, a_run(), path, gpu.clock, on_progress=said.append)
    run, rows, samples = read_job(path)
    assert run.idle_w == pytest.approx(120.0, rel=1e-3)
    assert run.energy_tick_s == pytest.approx(0.1, rel=0.05)
    assert run.settled_sm_hz == 1.98e9
    energy = {row.arm: row for row in rows if row.metric == "energy_net"}
    assert energy["dense"].value == pytest.approx(50e-3 * (650 - 120), rel=3e-3)
    assert len(samples[energy["dense"].key]) == 2
    assert said[0] == "NVML does not tell the temperature, the power: their columns stay empty"
    assert said[1].startswith("[1/1] net conv1 b1 · ")
    assert " W" not in said[1]
    assert said[2].startswith("WARN: the process that polls clocks and heat ended before its session")


def test_a_session_that_was_killed_after_its_last_case_keeps_what_was_read_beside_it(gpu, driver, tmp_path):
    gpu.clock.now = lambda: datetime(2026, 1, 1, tzinfo=UTC)
    path, cases = tmp_path / "s.parquet", [(a_case(), both(gpu))]

    def killed(device, clock):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_session(cases, DESIGN, 0, gpu, a_run(), path, gpu.clock, on_progress=lambda line: None, calibrate=killed)
    run_session(cases, DESIGN, 0, gpu, a_run(), path, gpu.clock, on_progress=lambda line: None)
    run, *_ = read_job(path)
    assert run.process_restarts == 1
    assert (run.idle_w, run.settled_sm_hz) == (pytest.approx(120.0, rel=1e-3), 1.98e9)
    assert run.energy_tick_s == pytest.approx(0.1, rel=0.05)


def test_no_second_is_spent_on_energy_that_nobody_asked_for(gpu, driver):
    began = gpu.clock.ns()
    with instruments(gpu, DESIGN, [a_case(("time",))], gpu.clock, lambda line: None) as found:
        assert (found.meter, found.idle, found.columns()["idle_w"]) == (None, Idle(), None)
    with instruments(gpu, Design.of("smoke"), [a_case()], gpu.clock, lambda line: None) as found:
        assert found.meter is None
    assert gpu.clock.ns() == began
    with instruments(gpu, DESIGN, [a_case()], gpu.clock, lambda line: None) as found:
        assert (found.start_c, found.idle.power_w) == (40.0, pytest.approx(120.0, rel=1e-3))
    with instruments(gpu, DESIGN, [], gpu.clock, lambda line: None) as found:
        assert found.sampler is None
