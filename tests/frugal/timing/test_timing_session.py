"""A session: fresh order, journal, one job file."""

import dataclasses
import fcntl
import hashlib
import multiprocessing
import os
import re
import signal
import types
from datetime import UTC, datetime

import pyarrow as pa
import pytest
import torch
from timing_fakes import FakeClock, FakeGpu, cpu_arm, gpu_arm, right

from frugal.clock import SystemClock
from frugal.errors import FrugalError
from frugal.processes import bind
from frugal.records import SCHEMAS, Run, read_job
from frugal.timing import Case, CpuDevice, Design, Prepared, Reference, measure_case, run_session
from frugal.timing.faults import DeviceLost, Fault
from frugal.timing.journal import Journal, blame
from frugal.timing.lease import lease, neighbours
from frugal.timing.session import left_out_of, summary
from frugal.timing.warmup import warm_up

DESIGN = Design.of("smoke", n_min=3, block_max_s=0.01, warmup_cpu_s=0.0, regimes=["wall"])


def a_run(run_id="01RUN0", **given):
    values = {"string": "x", "bool": True, "double": 1.0, "int32": 0, "int64": 1}
    needed = {f.name: values.get(str(f.type)) for f in SCHEMAS["runs"] if not f.nullable}
    times = [f.name for f in SCHEMAS["runs"] if pa.types.is_timestamp(f.type)]
    return Run(**(needed | dict.fromkeys(times, datetime(2026, 1, 1, tzinfo=UTC)) | {"run_id": run_id} | given))


def a_case(number, measured=None):
    def inputs(seed, phase):
        if measured is not None and phase == "verify":
            measured.append(number)
        return {"x": torch.randn(10, generator=torch.Generator().manual_seed(seed))}

    def reference(given):
        y = 2 * given["x"].double()
        return Reference(y, y.abs(), 1)

    return Case("cusnn", "layers", {"layer": number}, inputs, reference, "net", f"conv{number}", {"n": 1})


def cases(count, measured=None, arms=None):
    return [(a_case(i, measured), arms or [cpu_arm(right)]) for i in range(count)]


def session(found, path, design=DESIGN, device=None, said=None, run=None):
    say = (lambda line: None) if said is None else said.append
    run_session(found, design, 0, device or CpuDevice(), run or a_run(), path, on_progress=say)


def test_a_session_writes_every_case_and_says_one_line_each(tmp_path):
    said, measured = [], []
    session(cases(3, measured), tmp_path / "session-0.parquet", said=said)
    run, rows, samples = read_job(tmp_path / "session-0.parquet")
    assert len(rows) == 3
    assert {row.run_id for row in rows} == {run.run_id} == {"01RUN0"}
    assert [row.layer for row in rows] == ["conv0", "conv1", "conv2"]
    assert all(row.n_samples == len(samples[row.key]) for row in rows)
    assert run.threads == torch.get_num_threads()
    assert run.wall_s > 0
    assert sorted(measured) == [0, 1, 2]
    assert len(said) == 3
    assert re.fullmatch(r"\[1/3\] net conv\d b1 · sparse [\d.]+ (ns|µs|ms) \(wall\) · \d+\.\d s", said[0]), said[0]
    assert not list(tmp_path.glob("*.partial"))


def test_the_order_of_cases_is_drawn_anew_in_each_session(tmp_path):
    orders = []
    for number in range(4):
        measured = []
        found = cases(6, measured)
        run_session(
            found, DESIGN, number, CpuDevice(), a_run(session=number), tmp_path / f"{number}.parquet",
            on_progress=lambda line: None,
        )  # fmt: skip
        orders.append(tuple(measured))
    assert len(set(orders)) > 1
    assert all(sorted(order) == list(range(6)) for order in orders)


class Killed(BaseException):
    """A signal that nothing catches."""


def killed_after(count):
    """The progress of a session that dies after so many cases."""
    lines = []

    def say(line):
        lines.append(line)
        if len(lines) == count:
            raise Killed

    return say


def interrupted(found, path, after, **given):
    with pytest.raises(Killed):
        run_session(found, DESIGN, 0, CpuDevice(), a_run("01OLD"), path, on_progress=killed_after(after), **given)


def test_a_killed_session_measures_only_what_was_not_finished(tmp_path):
    path, measured, said = tmp_path / "s.parquet", [], []
    interrupted(cases(4, measured), path, after=2)
    first = list(measured)
    assert len(first) == 2
    measured.clear()
    session(cases(4, measured), path, said=said, run=a_run("01NEW"))
    assert set(first) | set(measured) == {0, 1, 2, 3}
    assert not set(first) & set(measured)
    assert said[0] == "2 of 4 cases were finished before: they are not measured again"
    assert said[1].startswith("[3/4] ")
    run, rows, samples = read_job(path)
    assert (run.process_restarts, {row.run_id for row in rows}) == (1, {"01NEW"})
    assert len(rows) == 4
    assert all(row.n_samples == len(samples[row.key]) for row in rows)


def test_rows_and_samples_survive_the_journal_unchanged(tmp_path):
    result = measure_case(a_case(0), [cpu_arm(right)], DESIGN, 0, CpuDevice())
    Journal(tmp_path / "s", {}, print).add("id", result)
    kept = Journal(tmp_path / "s", {}, print).finished["id"]
    assert kept.rows == result.rows
    assert kept.samples == result.samples


def _child(path, finished_one):
    """Measures for ever once its first case is in the journal."""

    def compute(x, y):
        right(x, y)
        while finished_one.is_set():
            SystemClock().sleep(0.01)

    run_session(
        cases(4, arms=[cpu_arm(compute)]), DESIGN, 0, CpuDevice(), a_run(), path,
        on_progress=lambda line: finished_one.set(),
    )  # fmt: skip


def test_a_process_killed_in_the_middle_of_a_case_is_resumed_after_the_last_finished_one(tmp_path):
    path = tmp_path / "s.parquet"
    context = multiprocessing.get_context("fork")
    finished_one = context.Event()
    child = context.Process(target=_child, args=(path, finished_one))
    child.start()
    assert finished_one.wait(60)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert not path.exists()
    with (tmp_path / "s.parquet.partial").open("ab") as file:  # as if the kill had come in the middle of a write
        file.write(b'0123456789abcdef {"case_id": "')
    said, measured = [], []
    session(cases(4, measured), path, said=said)
    assert said[0] == "1 of 4 cases were finished before: they are not measured again"
    assert len(measured) == 3
    assert len(read_job(path)[1]) == 4


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data.replace(b"sparse", b"sparsE", 1), "line 2 is damaged"),
        (lambda data: b"garbage\n" + data, "line 1 is damaged"),
        (lambda data: b"", "it is empty"),
        (lambda data: data[:20], "line 1 is damaged"),
    ],
)
def test_a_damaged_journal_is_discarded_with_one_line(tmp_path, damage, words):
    path, measured, said = tmp_path / "s.parquet", [], []
    interrupted(cases(3), path, after=2)
    journal = tmp_path / "s.parquet.partial"
    journal.write_bytes(damage(journal.read_bytes()))
    session(cases(3, measured), path, said=said)
    assert said[0] == f"s.parquet.partial: {words}: discarded, the session starts anew"
    assert (sorted(measured), len(said)) == ([0, 1, 2], 4)
    assert read_job(path)[0].process_restarts == 0


def test_a_journal_with_other_columns_is_discarded(tmp_path):
    path, said = tmp_path / "s.parquet", []
    interrupted(cases(3), path, after=1)
    journal = tmp_path / "s.parquet.partial"
    header, line = journal.read_bytes().splitlines()[:2]
    text = line.split(b" ", 1)[1].replace(b'"higher_is_better"', b'"bigger_is_better"')
    journal.write_bytes(header + b"\n" + hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n")
    session(cases(3), path, said=said)
    assert said[0].endswith("its rows have other columns: discarded, the session starts anew")


@pytest.mark.parametrize("what", ["design", "source", "device", "software", "arms", "machine"])
def test_a_foreign_journal_is_discarded(tmp_path, what):
    path, measured, said = tmp_path / "s.parquet", [], []
    interrupted(cases(3), path, after=2)
    given = {"design": DESIGN, "device": CpuDevice(), "run": a_run()}
    arms = [cpu_arm(right)]
    if what == "design":
        given["design"] = dataclasses.replace(DESIGN, seed=2)
    elif what == "source":
        arms = [dataclasses.replace(arms[0], source_hash="changed")]
    elif what == "device":
        given["device"] = CpuDevice(key="another")
    elif what == "software":
        given["run"] = a_run(lock_hash="changed")
    elif what == "machine":
        given["run"] = a_run(machine_hash="changed")
    else:
        arms = [*arms, cpu_arm(right, "another")]
    session(cases(3, measured, arms), path, said=said, **given)
    assert "belongs to another design, device or version of the code: discarded" in said[0]
    assert sorted(measured) == [0, 1, 2]


def test_without_a_journal_nothing_is_kept(tmp_path):
    path = tmp_path / "s.parquet"
    interrupted(cases(3), path, after=1, journal=False)
    assert list(tmp_path.iterdir()) == []


def test_a_session_without_cases_or_with_twins_is_refused(tmp_path):
    with pytest.raises(FrugalError, match="there is no case to measure"):
        session([], tmp_path / "s.parquet")
    with pytest.raises(FrugalError, match="two cases have the same axes as net conv0 b1"):
        session(cases(1) + cases(1), tmp_path / "s.parquet")


def doubles(gpu, name="sparse", role="ours"):
    """An arm of a fake GPU whose result fits these cases' inputs."""
    return dataclasses.replace(gpu_arm(gpu, name, role), prepare=lambda inputs: Prepared(lambda: 2 * inputs["x"]))


def test_an_arm_that_kills_the_device_is_named_and_left_out_the_next_time(tmp_path):
    clock = FakeClock()
    gpu = FakeGpu(clock)

    def prepare(inputs):
        def run():
            gpu.synchronize = dead
            dead()

        return Prepared(run, (torch.empty(10),))

    def dead():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    arms = [dataclasses.replace(gpu_arm(gpu), prepare=prepare), doubles(gpu, "base", "baseline")]
    path = tmp_path / "s.parquet"
    with pytest.raises(DeviceLost, match=r"stopped working in case net conv\d b1, in sparse .*illegal memory") as lost:
        run_session(cases(2, arms=arms), DESIGN, 0, gpu, a_run(), path, clock, on_progress=lambda line: None)
    blame(path, lost.value.case_id, lost.value.arm, lost.value.fault)
    said = []
    healthy = FakeGpu(clock)
    arms = [doubles(healthy), doubles(healthy, "base", "baseline")]
    run_session(cases(2, arms=arms), DESIGN, 0, healthy, a_run(), path, clock, on_progress=said.append)
    run, rows, _ = read_job(path)
    blamed = [row for row in rows if (row.case_id, row.arm) == (lost.value.case_id, "sparse")]
    others = [row for row in rows if row not in blamed]
    assert len(said) == 2
    assert run.process_restarts == 1
    assert [(row.status, row.value, row.n_samples) for row in blamed] == [("failed", None, 0)]
    assert blamed[0].reason == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert len(others) == 3
    assert all(row.status != "failed" for row in others)


def test_a_blame_after_a_cut_off_line_keeps_the_journal(tmp_path):
    path, said = tmp_path / "s", []
    Journal(path, {}, said.append).add("one", measure_case(a_case(0), [cpu_arm(right)], DESIGN, 0, CpuDevice()))
    with (tmp_path / "s.partial").open("ab") as file:
        file.write(b'0123456789abcdef {"case_id": "')  # the process ended in the middle of a write
    hung, crashed = Fault("timeout", "first call: no answer"), Fault("failed", "SIGSEGV")
    blame(path, "two", "sparse", hung)
    blame(path, "two", "other", crashed)
    kept = Journal(path, {}, said.append)
    assert list(kept.finished) == ["one"]
    assert kept.blames == {"two": {"sparse": hung, "other": crashed}}
    assert said == []
    assert Journal(path, {"design": "another"}, said.append).blames == {}


def test_an_arm_that_timed_out_in_three_cases_is_skipped_in_the_rest_of_its_experiment():
    hung, crashed = Fault("timeout", "first call: not done"), Fault("failed", "SIGSEGV")
    arms = [cpu_arm(right, name) for name in ("hangs", "hangs twice", "crashes", "good")]
    found = cases(5, arms=arms)
    control = dataclasses.replace(a_case(9), system="control", experiment="null")
    ids = [case.case_id for case, _ in found]
    blames = {
        ids[0]: {"hangs": hung, "hangs twice": hung, "crashes": crashed},
        ids[1]: {"hangs": hung, "hangs twice": hung, "crashes": crashed},
        ids[2]: {"hangs": hung, "crashes": crashed},
        ids[3]: {"crashes": crashed},
    }
    skipped = Fault("skipped", "not tried: it timed out in 3 other cases of this session")
    left_out = left_out_of([*found, (control, arms)], blames)
    assert {number: left_out[ids[number]] for number in range(3)} == {n: blames[ids[n]] for n in range(3)}
    assert left_out[ids[3]] == {"hangs": skipped, "crashes": crashed}
    assert left_out[ids[4]] == {"hangs": skipped}
    assert left_out[control.case_id] == {}  # an arm of the same name, of another experiment


def test_without_cases_no_journal_is_left(tmp_path):
    with pytest.raises(FrugalError, match="there is no case to measure"):
        session([], tmp_path / "s.parquet")
    assert list(tmp_path.iterdir()) == []


def test_progress_names_the_status_where_there_is_no_time():
    def broken(x, y):
        raise NotImplementedError("no")

    rows = measure_case(a_case(0), [cpu_arm(broken), cpu_arm(right, "base")], DESIGN, 0, CpuDevice()).rows
    assert re.fullmatch(r"sparse unsupported · base [\d.]+ (ns|µs) \(wall\)", summary(rows)), summary(rows)


class Loads:
    """A device whose unit of load takes the given times, the last of them for ever."""

    kind = "cuda"

    def __init__(self, clock, times):
        self.clock, self.times = clock, list(times)

    def load(self):
        self.clock.advance(self.times.pop(0) if len(self.times) > 1 else self.times[0])


@pytest.mark.parametrize(
    ("preset", "times", "seconds", "settled"),
    [
        ("sweep", [0.1], 3.0, True),
        ("sweep", [0.1 * 0.995**i for i in range(100)] + [0.06], 9.0, True),  # faster for 7.9 s, then steady
        ("sweep", [0.1 * (1 + 0.3 * (i // 5 % 2)) for i in range(500)], 10.0, False),
        ("smoke", [0.1 * (1 + 0.3 * (i // 2 % 2)) for i in range(500)], 0.5, False),
    ],
)
def test_warm_up_goes_on_until_times_settle(preset, times, seconds, settled):
    clock = FakeClock()
    found = warm_up(Loads(clock, times), Design.of(preset), clock)
    assert found.seconds == pytest.approx(seconds, abs=0.4)
    assert found.settled is settled


def test_one_session_at_a_time_leases_a_gpu(tmp_path):
    said, lock = [], tmp_path / "frugal-gpu-GPU-1.lock"
    with lease("GPU-1", said.append, tmp_path), lock.open("w") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert said == []
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lease(None, said.append, tmp_path / "none"):
        assert not (tmp_path / "none").exists()


class Nvml:
    """A driver that knows one GPU, on which these processes compute."""

    class NVMLError(Exception):
        pass

    def __init__(self, pids):
        self.pids = pids

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-1":
            raise self.NVMLError
        return "handle"

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        if self.pids is None:
            raise self.NVMLError
        return [types.SimpleNamespace(pid=pid) for pid in self.pids]


@pytest.mark.parametrize(
    ("pids", "found"),
    [([os.getpid()], 0), ([1, os.getpid(), 2], 2), ([77], 0), ([77, 78], 1), ([], 0), (None, None)],
    ids=["alone", "two others", "a container", "a container and another", "nobody listed", "not told"],
)
def test_other_processes_on_the_gpu_are_counted(pids, found):
    assert neighbours("1", Nvml(pids)) == found
    assert neighbours(None, Nvml(pids)) is None


@pytest.mark.parametrize(("found", "warnings"), [(2, 1), (0, 0), (None, 0)])
def test_a_session_says_that_it_shares_the_gpu(tmp_path, monkeypatch, found, warnings):
    """The count is taken while the GPU is leased and before the cases put anything on it."""
    order = []
    gpu = FakeGpu(FakeClock())
    gpu.uuid = "1"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("frugal.timing.session.neighbours", lambda uuid: order.append("counted") or found)

    def listed():
        with (tmp_path / "frugal-gpu-1.lock").open("w") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        order.append("cases")
        yield from cases(1, arms=[doubles(gpu)])

    said = []
    run_session(listed(), DESIGN, 0, gpu, a_run(), tmp_path / "s.parquet", gpu.clock, on_progress=said.append)
    assert order == ["counted", "cases"]
    assert read_job(tmp_path / "s.parquet")[0].foreign_pids == found
    assert len([line for line in said if line.startswith("WARN: 2 other process(es)")]) == warnings


def test_the_run_gets_what_the_judge_finds_in_the_finished_rows(tmp_path):
    def judge(run, rows, samples):
        assert run.wall_s > 0
        assert {row.run_id for row in rows} == {run.run_id}
        assert all(samples[row.key] for row in rows)
        return {"controls_passed": False, "controls_json": f'{{"rows":{len(rows)}}}'}

    run_session(
        cases(2), DESIGN, 0, CpuDevice(), a_run(), tmp_path / "s.parquet", on_progress=lambda line: None, judge=judge
    )
    run = read_job(tmp_path / "s.parquet")[0]
    assert (run.controls_passed, run.controls_json) == (False, '{"rows":2}')


def test_rows_get_their_roofline_and_lose_a_time_that_cannot_be(tmp_path):
    arms = [
        cpu_arm(right, "honest", flop=1.0, bytes_min=0.0),
        cpu_arm(right, "impossible", role="baseline", flop=1e18, bytes_min=0.0),
    ]
    run = a_run(gpu_name="NVIDIA H200")
    run_session(
        cases(1, arms=arms), DESIGN, 0, CpuDevice(), run, tmp_path / "s.parquet", on_progress=lambda line: None,
        calibrate=lambda device, clock: {"copy_bytes_per_s": 1e9, "flops_fp32": 1e6},
    )  # fmt: skip
    _, (honest, impossible), samples = read_job(tmp_path / "s.parquet")
    assert (honest.roofline_s, honest.roof) == (1e-6, "compute")
    assert (impossible.status, impossible.value) == ("incorrect", None)
    assert impossible.reason.startswith("beyond_roof")
    assert set(samples) == {honest.key}


def test_threads_and_affinity_are_those_of_the_design(tmp_path):
    before = torch.get_num_threads(), os.sched_getaffinity(0)
    cpu = min(before[1])
    try:
        design = dataclasses.replace(DESIGN, threads=1, affinity=(cpu,))
        session(cases(1), tmp_path / "s.parquet", design=design)
        assert torch.get_num_threads() == 1
        assert os.sched_getaffinity(0) == {cpu}
    finally:
        torch.set_num_threads(before[0])
        os.sched_setaffinity(0, before[1])
    assert read_job(tmp_path / "s.parquet")[0].threads == 1
    try:
        with pytest.raises(FrugalError, match=r"timing\.affinity = \[\d+, 1000\]: CPU 1000 is not there"):
            bind([cpu, 1000])
    finally:
        os.sched_setaffinity(0, before[1])
    with pytest.raises(FrugalError, match=r"timing\.affinity = \[99999\]: this machine refuses"):
        session(cases(1), tmp_path / "t.parquet", design=dataclasses.replace(DESIGN, affinity=(99999,)))
