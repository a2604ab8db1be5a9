"""What the watching process makes of what it is told, without a child: messages in, blames and sentences out."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from job_folders import session_job

from frugal import jobs, provenance
from frugal.clock import SystemClock
from frugal.errors import FrugalError
from frugal.jobs import parent
from frugal.jobs.messages import Announcer
from frugal.jobs.oom import oom_kills
from frugal.jobs.process import Ended, Process, _environment
from frugal.processes import THREAD_VARIABLES
from frugal.timing.design import DesignError
from frugal.timing.faults import DeviceLost, Fault
from frugal.timing.journal import journal_of

BEGIN = {"begin": "first call", "case_id": "c1", "label": "net conv b1", "arm": "sparse", "limit_s": 600.0}
BLOCK = BEGIN | {"begin": "block in cold", "limit_s": 2.5}
IDLE, DONE = {"idle": True}, {"done": True}
LOST = {"lost": "RuntimeError: dead", "status": "failed", "case_id": "c1", "label": "net conv b1", "arm": "sparse"}


class Children:
    """Stands for `Process`: each child says what is listed for it.

    None: nothing, until the deadline passes. SIGTERM: this process gets it in the meantime.
    """

    def __init__(self, *scripts):
        self.scripts, self.log = list(scripts), []

    def __call__(self, job):
        self.script = list(self.scripts.pop(0))
        self.log.append("start")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        self.log.append("gone")

    def message(self, clock, deadline_ns):
        found = self.script.pop(0)
        assert found is not None or deadline_ns is not None, "a wait without an end"
        if found is signal.SIGTERM:
            os.kill(os.getpid(), found)
        return found

    def settle(self):
        self.log.append("settle")

    def stop(self):
        self.log.append("stop")


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Measures with the given children; the lines that it says and the blames in the journal."""

    def call(*scripts, root=None):
        children = Children(*scripts)
        monkeypatch.setattr(parent, "Process", children)
        job = session_job(folder, [])
        journal_of(job.out).touch()
        said: list[str] = []
        try:
            jobs.measure(job, said.append, root=root or folder)
        finally:
            call.log = children.log
        lines = journal_of(job.out).read_text().splitlines()
        return said, [json.loads(line.split(" ", 1)[1]) for line in lines]

    return call


def test_a_child_that_is_done_is_left_to_end(run):
    assert run([{"say": "one"}, BEGIN, IDLE, {"say": "two"}, DONE]) == (["one", "two"], [])
    assert run.log == ["start", "settle", "gone"]


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        ([BEGIN, None], "timeout", "first call: not done within 600 s"),
        ([BEGIN, IDLE, BLOCK, None], "timeout", "block in cold: not done within 2.5 s"),
        ([BEGIN, Ended(-signal.SIGSEGV, "x")], "failed", "first call: the process was ended by SIGSEGV"),
        ([BEGIN, Ended(-signal.SIGKILL, "")], "failed", "first call: the process was ended by SIGKILL"),
        ([BEGIN, Ended(-63, "")], "failed", "first call: the process was ended by signal 63"),
        ([BEGIN, Ended(1, "no licence")], "failed", "first call: the process ended with status 1: no licence"),
        ([BEGIN, Ended(0, "")], "failed", "first call: the process ended with status 0"),
        ([BEGIN, Ended(2, "/home/me/x.cu")], "failed", "first call: the process ended with status 2: <path>/x.cu"),
        ([BEGIN, LOST], "failed", "first call: RuntimeError: dead"),
    ],
)  # fmt: skip
def test_the_arm_whose_step_it_was_is_blamed_and_another_child_goes_on(run, script, status, reason):
    said, blames = run(script, [DONE])
    assert blames == [{"blame": "c1", "arm": "sparse", "status": status, "reason": reason}]
    assert said == [f"WARN: net conv b1: sparse: {status}: {reason}; a new process goes on without it"]
    assert run.log.count("start") == run.log.count("gone") == 2
    assert ("stop" in run.log) is (status == "timeout")


@pytest.mark.parametrize("ended", [Ended(-signal.SIGKILL, ""), Ended(1, "Killed")])
def test_a_counted_kill_for_memory_is_oom(run, folder, monkeypatch, ended):
    counts = iter([7, 8, 8, 8])
    monkeypatch.setattr(parent, "oom_kills", lambda root: next(counts))
    _, (blame,) = run([BEGIN, ended], [DONE])
    assert (blame["status"], blame["reason"]) == ("oom", "first call: the system ended the process for want of memory")


def test_a_crash_is_no_kill_for_memory_whatever_was_killed_meanwhile(run, monkeypatch):
    counts = iter([7, 8, 8, 8])
    monkeypatch.setattr(parent, "oom_kills", lambda root: next(counts))
    _, (blame,) = run([BEGIN, Ended(-signal.SIGSEGV, "")], [DONE])
    assert (blame["status"], blame["reason"]) == ("failed", "first call: the process was ended by SIGSEGV")


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ([BEGIN, IDLE, Ended(-signal.SIGSEGV, "")], r"outside of any .*ended by SIGSEGV\): .* run again$"),
        ([Ended(1, "no torch")], r"\(the process ended with status 1: no torch\)"),
        ([BEGIN, IDLE, {"error": "x.bin: no image file: make it anew"}], r"^x\.bin: no image file: make it anew$"),
    ],
)  # fmt: skip
def test_what_happens_between_steps_ends_the_job_and_blames_nobody(run, folder, script, sentence):
    with pytest.raises(FrugalError, match=sentence):
        run(script)
    assert journal_of(folder / "session-0.parquet").read_text() == ""
    assert run.log[-1] == "gone"


def test_want_of_memory_between_steps_says_what_to_change(run, monkeypatch):
    counts = iter([7, 8])
    monkeypatch.setattr(parent, "oom_kills", lambda root: next(counts))
    with pytest.raises(FrugalError, match=r"want of memory.*give it more memory, or a smaller case, and run again"):
        run([Ended(-signal.SIGKILL, "")])


def test_an_arm_that_is_blamed_again_and_again_ends_the_job(run):
    crash = [BEGIN, Ended(-signal.SIGSEGV, "")]
    other = [BEGIN | {"arm": "base"}, Ended(-signal.SIGSEGV, "")]
    with pytest.raises(FrugalError, match=r"net conv b1: sparse ended 3 processes .*delete .*partial and run again"):
        run(crash, other, crash, other, crash)


def test_an_interrupted_job_ends_its_child_and_blames_nobody(run, folder):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        run([BEGIN, IDLE, BEGIN, signal.SIGTERM])
    assert ended.value.code == 128 + signal.SIGTERM
    assert run.log == ["start", "gone"]
    assert journal_of(folder / "session-0.parquet").read_text() == ""
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": "headline"}, "preset headline is not offered on a CPU"),
        ({"preset": "hedline"}, "preset 'hedline' is unknown"),
        ({"timing": {"rounds": 3}}, "rounds must be even"),
    ],
)
def test_what_cannot_be_run_is_refused_before_a_child_is_started(folder, monkeypatch, changes, words):
    monkeypatch.setattr(parent, "Process", None)
    with pytest.raises(FrugalError, match=words):
        jobs.measure(session_job(folder, [], **changes), print)


def test_headline_runs_on_a_cpu_that_is_forced_to(folder, monkeypatch):
    children = Children([DONE])
    monkeypatch.setattr(parent, "Process", children)
    jobs.measure(session_job(folder, [], preset="headline", timing={"force": True}), print)
    assert children.log[0] == "start"


def test_another_machine_is_refused(folder, monkeypatch):
    monkeypatch.setattr(parent, "Process", None)
    record = provenance.device_record("cpu") | {"device_key": "cpu-another-64c"}
    provenance.write_device_record(record, folder / "device.json")
    with pytest.raises(FrugalError, match="planned for cpu-another-64c"):
        jobs.measure(session_job(folder, []), print)


NO_TORCH = """
import sys
from pathlib import Path
from frugal import jobs
from frugal.jobs import parent

class Nothing:
    def __init__(self, job): pass
    def __enter__(self): return self
    def __exit__(self, *problem): pass
    def message(self, clock, deadline_ns): return self.messages.pop(0)
    def settle(self): pass
    messages = [
        {"begin": "first call", "case_id": "c1", "label": "net", "arm": "sparse", "limit_s": 600.0},
        {"lost": "dead", "status": "failed", "case_id": "c1", "label": "net", "arm": "sparse"},
        {"done": True},
    ]

parent.Process = Nothing
jobs.measure(jobs.Job.from_json(Path(sys.argv[1]).read_text()), lambda line: None)
print(*{"torch", "numba"} & set(sys.modules))
"""


def test_the_parent_has_no_torch(folder):
    """It would hold memory, threads and perhaps a context on the GPU beside what is timed."""
    job = session_job(folder, [])
    journal_of(job.out).touch()
    (folder / "job.json").write_text(job.to_json())
    command = [sys.executable, "-c", NO_TORCH, str(folder / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    assert '"blame"' in journal_of(job.out).read_text()


# ---- the pipe --------------------------------------------------------------------------------------------------------


class Ticking(SystemClock):
    def __init__(self, *times):
        self.times = list(times)

    def ns(self):
        return self.times.pop(0) if len(self.times) > 1 else self.times[0]


@pytest.fixture
def silent(monkeypatch):
    """A process of which nothing is read but what the test puts there."""
    monkeypatch.setattr("frugal.jobs.process.LOOK_S", 0.01)
    process = object.__new__(Process)
    process._events = queue.SimpleQueue()
    return process


def test_a_deadline_is_one_of_the_clock_that_is_given(silent):
    clock = Ticking(0, 5, 9, 10)
    assert silent.message(clock, 10) is None
    assert clock.times == [10]


def test_a_message_counts_although_its_deadline_has_passed(silent):
    silent._events.put(IDLE)
    assert silent.message(Ticking(100), 10) == IDLE


def test_what_the_child_announces_is_what_the_parent_reads():
    reader, writer = os.pipe()
    tell = Announcer(writer)
    tell.labels["c1"] = "net conv b1"
    tell.begin("c1", "sparse", "first call", 600.0)
    tell.idle()
    tell.say("µs")
    tell.lost(DeviceLost("c1", "net conv b1", "sparse", Fault("failed", "RuntimeError: dead")))
    tell.error("no")
    tell.done()
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert [json.loads(line) for line in pipe] == [BEGIN, IDLE, {"say": "µs"}, LOST, {"error": "no"}, DONE]


# ---- the job ---------------------------------------------------------------------------------------------------------


def test_a_job_survives_the_way_to_its_child(folder):
    job = session_job(folder, ["x"], kernels=(folder / "a.json",), campaign_id="01A")
    there = jobs.Job.from_json(job.to_json())
    assert there.kernels == (str(folder / "a.json"),)
    assert there.arguments == {"faults": ["x"], "folder": str(folder)}
    assert there.out == str(job.out)
    assert jobs.Job.from_json(there.to_json()) == there
    with pytest.raises(TypeError):
        session_job(folder, [], arguments={"x": object()}).to_json()


@pytest.mark.parametrize(
    ("timing", "threads"),
    [
        ({}, 8),
        ({"threads": 3}, 3),
        ({"affinity": [0, 5]}, 2),
        ({"affinity": [0], "threads": 4}, 4),
        ({"affinity": list(range(20))}, 8),
        ({"threads": None, "affinity": None}, 8),
    ],
)
def test_threads_are_those_asked_for_else_one_a_core(folder, timing, threads):
    job = session_job(folder, [], timing=timing, threads=8)
    assert job.design().threads == threads
    environment = _environment(job)
    assert {environment[name] for name in THREAD_VARIABLES} == {str(threads)}


def test_a_design_takes_what_the_configuration_says(folder):
    timing = {"n_min": 9, "affinity": [0], "first_call_timeout_s": 7.0, "case_timeout_s": None, "clock_shift_min": 0.1}
    design = session_job(folder, [], preset="quick", timing=timing, sessions=4).design()
    assert (design.preset, design.n_min, design.affinity, design.sessions) == ("quick", 9, (0,), 4)
    assert (design.first_call_timeout_s, design.case_timeout_s) == (7.0, 120.0)
    with pytest.raises(DesignError, match="rounds must be even"):
        session_job(folder, [], timing={"rounds": 3}).design()


# ---- the counter of the out-of-memory killer -------------------------------------------------------------------------

V2 = {"proc/self/cgroup": "0::/user.slice/job\n", "sys/fs/cgroup/user.slice/job/memory.events": "oom 4\noom_kill 3\n"}
V1 = {
    "proc/self/cgroup": "9:name=systemd:/\n4:memory:/batch/7\n0::/\n",
    "sys/fs/cgroup/memory/batch/7/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
}
IN_CONTAINER = {"proc/self/cgroup": "0::/docker/abc\n", "sys/fs/cgroup/memory.events": "oom_kill 6\n"}
ROOT_GROUP = {"proc/self/cgroup": "0::/\n", "proc/vmstat": "pgfault 1\noom_kill 2\n"}


@pytest.mark.parametrize(
    ("files", "count"),
    [(V2, 3), (V1, 5), (IN_CONTAINER, 6), (ROOT_GROUP, 2), (V2 | {"proc/vmstat": "oom_kill 9\n"}, 3), ({}, None)],
    ids=["version 2", "version 1", "container", "root group", "own group before machine", "nothing"],
)
def test_the_systems_counter_is_found(tmp_path, files, count):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert oom_kills(tmp_path) == count


def test_this_machine_has_a_counter_or_says_none():
    assert oom_kills() is None or oom_kills() >= 0
