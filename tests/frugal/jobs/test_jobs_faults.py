"""What arms do to a session, through real child processes: each fault costs the rows of one arm in one case."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from faulty_cases import FAULTS
from job_folders import prepare, session_job

from frugal import jobs
from frugal.clock import SystemClock
from frugal.errors import FrugalError
from frugal.records import read_job
from frugal.timing.journal import journal_of

ENDS_THE_PROCESS = [
    "hangs", "crashes", "leaves", "leaves Python", "is killed for memory", "loses the device",
]  # fmt: skip
STAYS = ["asks for too much", "leaks", "leaves one unwritten", "changes its inputs"]


class Impatient(SystemClock):
    """The machine's clock, until an arm hangs: then hours have passed, however busy the machine was before."""

    def __init__(self, folder: Path) -> None:
        self.hanging = folder / "hanging"

    def ns(self) -> int:
        return super().ns() + (10**14 if self.hanging.exists() else 0)


@dataclass
class Done:
    run: object
    rows: dict
    samples: dict
    said: list[str]
    output: str
    folder: Path


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Done:
    """One session over every fault, read by the tests below."""
    folder = prepare(tmp_path_factory.mktemp("faults"))
    said, output = [], io.StringIO()
    job = session_job(folder, [*ENDS_THE_PROCESS, *STAYS, "nothing"])
    with contextlib.redirect_stdout(output):
        jobs.measure(job, said.append, clock=Impatient(folder), root=folder)
    run, rows, samples = read_job(folder / "session-0.parquet")
    own = {(row.layer, row.arm): row for row in rows if row.system == "cusnn"}
    return Done(run, own, samples, said, output.getvalue(), folder)


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("hangs", "timeout", r"first call: not done within 600 s"),
        ("crashes", "failed", r"first call: the process was ended by SIGSEGV"),
        ("leaves", "failed", r"first call: the process ended with status 3: the library gives up"),
        ("leaves Python", "failed", r"first call: the process ended with status 1: this arm ends the interpreter"),
        ("is killed for memory", "oom", r"first call: the system ended the process for want of memory"),
        (
            "loses the device",
            "failed",
            r"first call: RuntimeError: CUDA error: an illegal memory access .*",
        ),
        ("asks for too much", "oom", r"tried to allocate \d+ bytes"),
        ("leaves one unwritten", "incorrect", r"unwritten: 1 .*"),
        ("changes its inputs", "incorrect", r"inputs: the arm changed its inputs"),
    ],
)
def test_a_fault_is_the_arms_status_and_publishes_no_time(done: Done, fault: str, status: str, reason: str):
    row = done.rows[fault, "bad"]
    assert (row.status, row.value, row.n_samples) == (status, None, 0)
    assert re.fullmatch(reason, row.reason), row.reason
    assert row.key not in done.samples


def test_an_arm_that_leaks_keeps_its_time_and_says_so(done: Done):
    row = done.rows["leaks", "bad"]
    assert row.status in ("ok", "unstable")
    assert row.value > 0
    assert "leak: host memory grew by" in row.reason
    assert any(line.startswith("WARN: net leaks b1: bad: leak:") for line in done.said)


def test_nobody_else_is_hurt(done: Done):
    good = [row for (_, arm), row in done.rows.items() if arm == "good"]
    assert len(good) == len(ENDS_THE_PROCESS) + len(STAYS) + 1
    for row in [*good, done.rows["nothing", "bad"]]:
        assert row.status in ("ok", "unstable"), row.reason
        assert row.value > 0
        assert row.verified_after
        assert done.samples[row.key]


def test_each_process_that_ended_is_counted_and_named(done: Done):
    assert done.run.process_restarts == len(ENDS_THE_PROCESS)
    warnings = [line for line in done.said if "a new process goes on without it" in line]
    assert {line.split(":")[1].strip() for line in warnings} == {f"net {fault} b1" for fault in ENDS_THE_PROCESS}
    assert len(warnings) == len(ENDS_THE_PROCESS)
    assert not journal_of(done.folder / "session-0.parquet").exists()


def test_finished_cases_are_measured_once(done: Done):
    """Lines of progress name each case as often as it was finished."""
    finished = [line.split(" · ")[0].split("] ")[1] for line in done.said if re.match(r"\[\d+/\d+\]", line)]
    assert len(finished) == len(set(finished))
    assert {f"net {fault} b1" for fault in [*ENDS_THE_PROCESS, *STAYS, "nothing"]} <= set(finished)


def test_what_children_print_goes_to_the_log(done: Done):
    assert "the library gives up\n" in done.output
    assert "Fatal Python error: Segmentation fault" in done.output


def test_the_session_knows_its_machine_and_its_controls(done: Done):
    assert done.run.threads == 1
    assert done.run.doctor_json != "{}"
    assert '"wrong"' in done.run.controls_json
    assert done.run.copy_bytes_per_s > 0


# ---- what ends the job -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("a bug", r"KeyError: 'odd' \(this is a fault of frugal, not of your input\)"),
        (
            "wrong reference",
            r"the session stopped outside of any implementation's step \(the process ended with status 3\b.*\): what "
            r"was finished is kept, so run again",
        ),
    ],
)
def test_what_is_no_arms_fault_ends_the_job_in_one_sentence(folder: Path, fault: str, sentence: str, capsys):
    with pytest.raises(FrugalError) as problem:
        jobs.measure(session_job(folder, [fault]), lambda line: None, root=folder)
    assert re.fullmatch(sentence, str(problem.value)), str(problem.value)
    assert not (folder / "session-0.parquet").exists()
    assert ("Traceback" in capsys.readouterr().out) is (fault == "a bug")  # the log of a fault of ours says where


# ---- kills from outside ----------------------------------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
from frugal import jobs
jobs.measure(jobs.Job.from_json(Path(sys.argv[1]).read_text()), print)
"""


def test_a_session_that_is_ended_from_outside_goes_on_where_it_was(folder: Path):
    """Snakemake's SIGTERM, Ctrl-C, and a SIGKILL after which nobody can tidy up: no arm is blamed for any of them."""
    job = session_job(folder, ["holds 1", "holds 2", "holds 3"])
    (folder / "job.json").write_text(job.to_json())
    held = folder / "held"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        (folder / "hold").touch()
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder / "job.json")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: held.exists() and held.read_text(), driver)
        child = psutil.Process(int(held.read_text()))
        driver.send_signal(number)
        assert driver.wait(60) != 0
        ended, _ = psutil.wait_procs([child], timeout=60)
        assert ended == [child] or child.status() == psutil.STATUS_ZOMBIE  # nobody may be left to collect it
        assert not (folder / "session-0.parquet").exists()
        assert '"blame"' not in journal_of(job.out).read_text()
        held.unlink()
    (folder / "hold").unlink()
    said = []
    jobs.measure(job, said.append)
    assert any(re.match(r"\d of \d cases were finished before: they are not measured again", line) for line in said)
    run, rows, _ = read_job(folder / "session-0.parquet")
    own = [row for row in rows if row.system == "cusnn"]
    assert run.process_restarts == 3
    assert len(own) == 6
    assert all(row.status in ("ok", "unstable") for row in own)
    assert [path.name for path in folder.glob("*session-0*")] == ["session-0.parquet"]


def wait_for(condition, process: subprocess.Popen) -> None:
    pause = SystemClock().sleep
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, "the session ended before it could be killed"
        pause(0.02)
    raise AssertionError("the session did not come so far")


def test_every_fault_is_looked_at():
    assert {fault for fault in FAULTS if not fault.startswith("holds")} == {*ENDS_THE_PROCESS, *STAYS}
