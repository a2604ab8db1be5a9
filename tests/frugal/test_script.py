"""What every job does around its library call, in processes of their own: file descriptors and threads are theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from frugal import script

ROOT = Path(__file__).resolve().parents[2]

# What Snakemake hands a script, as far as `job` looks at it.
HEAD = """
import os, sys, types
from frugal.errors import FrugalError
from frugal.script import job
snakemake = types.SimpleNamespace(threads=3, rule="thing", log=[sys.argv[1]])
"""


def environment(**changes: str) -> dict[str, str]:
    unset = {*script.THREAD_VARIABLES, "OMP_WAIT_POLICY", script.CAMPAIGN}
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT / "workflow"), str(ROOT)])} | changes


@dataclass(frozen=True)
class Done:
    """A job that has ended: its exit status, what the terminal shows, and its log."""

    status: int
    out: str
    terminal: str
    log: str


@pytest.fixture
def run(tmp_path: Path):
    def call(body: str, **changes: str) -> Done:
        log = tmp_path / "job.log"
        ended = subprocess.run(
            [sys.executable, "-c", HEAD + body, str(log)], env=environment(**changes), capture_output=True, text=True
        )
        return Done(ended.returncode, ended.stdout, ended.stderr, log.read_text())

    return call


def in_job(*lines: str) -> str:
    return "with job(snakemake) as say:\n" + "\n".join(f"    {line}" for line in lines)


# ---- output ----------------------------------------------------------------------------------------------------------


def test_the_log_gets_all_output_and_the_terminal_progress_alone(run):
    done = run(
        in_job(
            "print('from python')",
            "print('a warning', file=sys.stderr)",
            "os.write(1, b'from a C library\\n')",
            "os.system('echo from a child; echo its error >&2')",
            "say('half way')",
        )
    )
    assert (done.status, done.out, done.terminal) == (0, "", "thing: half way\n")
    for line in ("from python", "a warning", "from a C library", "from a child", "its error", "half way"):
        assert f"{line}\n" in done.log


def test_progress_is_in_the_log_at_once(run):
    done = run(in_job("say('one')", "seen = open(sys.argv[1]).read()", "say('two')", "assert seen == 'one\\n', seen"))
    assert (done.status, done.log) == (0, "one\ntwo\n")


@pytest.mark.parametrize("ending", ["pass", "raise FrugalError('no')"])
def test_file_descriptors_are_restored_and_none_is_left_open(run, ending):
    done = run(
        "def is_open(number):\n    try:\n        return bool(os.fstat(number))\n"
        "    except OSError:\n        return False\n"
        "before = [number for number in range(100) if is_open(number)]\n"
        "try:\n    with job(snakemake) as say:\n        " + ending + "\nexcept SystemExit:\n    pass\n"
        "assert [number for number in range(100) if is_open(number)] == before\n"
        "os.write(1, b'out again\\n')\nos.write(2, b'err again\\n')\n"
    )
    assert (done.status, done.out, done.terminal) == (0, "out again\n", "err again\n")
    assert "again" not in done.log


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_a_frugal_error_becomes_one_sentence_and_status_1(run):
    done = run(
        in_job("print('before')", "raise FrugalError('x.png: this is no picture: give a PNG')", "print('after')")
    )
    assert (done.status, done.terminal) == (1, "")
    assert done.log == "before\nerror: x.png: this is no picture: give a PNG\n"


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (
            "OSError(errno.ENOSPC, 'No space left on device', 'data/x.bin')",
            "data/x.bin: No space left on device (the disk is full: make room and run the same command again, finished "
            "work is kept)",
        ),
        (
            "OSError(errno.EROFS, 'Read-only file system', 'data/x.bin')",
            "data/x.bin: Read-only file system (the file system is read-only: run in a folder that you may write to)",
        ),
        (
            "OSError(errno.EACCES, 'Permission denied', 'data/x.bin')",
            "data/x.bin: Permission denied (permission denied: run in a folder that you may write to)",
        ),
        ("FileNotFoundError(errno.ENOENT, 'No such file or directory', 'a')", "a: No such file or directory"),
        ("OSError('the stream is shut')", "a file: the stream is shut"),
    ],
    ids=["full", "read-only", "permission", "no advice", "no number"],
)
def test_what_the_system_refuses_becomes_one_sentence(run, raised, sentence):
    done = run(in_job("import errno", f"raise {raised}"))
    assert (done.status, done.terminal, done.log) == (1, "", f"error: {sentence}\n")


def test_a_fault_of_ours_keeps_its_traceback_and_says_whose_it_is(run):
    done = run("def deep():\n    return {}['key']\n" + in_job("deep()"))
    assert (done.status, done.terminal) == (1, "")
    trace, _, last = done.log.rstrip().rpartition("\n")
    assert trace.startswith("Traceback (most recent call last)")
    assert "in deep" in trace
    assert last == "error: KeyError: 'key' (this is a fault of frugal, not of your input)"


# ---- threads ---------------------------------------------------------------------------------------------------------


def test_threads_are_set_when_the_heavy_imports_run(run):
    names = ", ".join(repr(name) for name in script.THREAD_VARIABLES)
    heavy = "{'torch', 'numpy', 'numba'}"
    done = run(
        f"assert not {heavy} & set(sys.modules), 'loaded before the threads are set'\n"
        + in_job(f"print([os.environ[name] for name in ({names},)])"),
        OMP_NUM_THREADS="64",
    )
    assert (done.status, done.log) == (0, "['3', '3', '3', '3']\n")


@pytest.mark.parametrize(
    ("load", "given", "expected"),
    [("0.4", {}, None), ("0.6", {}, "passive"), ("0.6", {"OMP_WAIT_POLICY": "active"}, "active")],
    ids=["idle", "busy", "the user's own"],
)
def test_threads_wait_passively_on_a_busy_machine_alone(run, load: str, given: Mapping[str, str], expected):
    done = run(
        f"os.getloadavg = lambda: ({load} * os.cpu_count(), 0.0, 0.0)\n"
        + in_job("print(os.environ.get('OMP_WAIT_POLICY'))"),
        **given,
    )
    assert (done.status, done.log) == (0, f"{expected}\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_job_ends_when_snakemake_dies(tmp_path: Path):
    job = HEAD + in_job("import time", "say(os.getpid())", "time.sleep(60)")
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {job!r}, {str(tmp_path / 'job.log')!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", middle], env=environment(), stderr=subprocess.PIPE, text=True
    ) as parent:
        child = psutil.Process(int(parent.stderr.readline().removeprefix("thing: ")))
        parent.kill()
        ended, _ = psutil.wait_procs([child], timeout=20)
        # nobody may be left to collect it
        assert ended == [child] or child.status() == psutil.STATUS_ZOMBIE


# ---- afterwards ------------------------------------------------------------------------------------------------------


def log_at(path: Path, text: str, when: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (when, when))
    return path


def test_failures_since_a_time_oldest_first(tmp_path: Path):
    late = log_at(tmp_path / "bench" / "b.log", "one\nerror: the second\n", 1200.0)
    early = log_at(tmp_path / "a.log", "error: the first", 1100.0)
    log_at(tmp_path / "old.log", "error: of an earlier run\n", 900.0)
    log_at(tmp_path / "good.log", "an error: is not how a line begins here\ndone\n", 1150.0)
    log_at(tmp_path / "notes.txt", "error: no log\n", 1150.0)
    assert script.failures(tmp_path, since=1000.0) == [(early, "the first"), (late, "the second")]


def test_a_failure_of_several_lines_is_told_by_its_first(tmp_path: Path):
    log = log_at(tmp_path / "a.log", "error: caught and told\nTraceback …\nerror: ValueError: bad\nand more\n", 5.0)
    assert script.failures(tmp_path, since=0.0) == [(log, "ValueError: bad")]


def test_what_job_writes_is_what_failures_reads(run, tmp_path: Path):
    run(in_job("say('fine so far')", "raise ValueError('odd')"))
    ((log, cause),) = script.failures(tmp_path, since=0.0)
    assert log == tmp_path / "job.log"
    assert cause == "ValueError: odd (this is a fault of frugal, not of your input)"


def test_without_logs_there_are_no_failures(tmp_path: Path):
    assert script.failures(tmp_path / "nowhere", since=0.0) == []


# ---- what jobs inherit -----------------------------------------------------------------------------------------------


@pytest.fixture
def inherited(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without our variables; what a test sets there is gone after it."""
    for name in ("PYTHONPATH", script.CAMPAIGN):
        monkeypatch.setenv(name, "")  # so that the end restores it even where it was not set
        monkeypatch.delenv(name)
    return monkeypatch


def test_jobs_find_the_library_first_and_once(inherited: pytest.MonkeyPatch):
    inherited.setenv("PYTHONPATH", os.pathsep.join(["/mine", "/frugal"]))
    for _ in range(2):
        script.hand_down(["/frugal/workflow", "/frugal"], "CAMPAIGN")
        assert os.environ["PYTHONPATH"].split(os.pathsep) == ["/frugal/workflow", "/frugal", "/mine"]


@pytest.mark.usefixtures("inherited")
def test_the_path_has_no_empty_part_which_would_be_the_working_folder():
    script.hand_down(["/frugal"], "CAMPAIGN")
    assert os.environ["PYTHONPATH"] == "/frugal"


@pytest.mark.usefixtures("inherited")
def test_a_campaign_keeps_the_name_of_its_first_call():
    assert script.campaign_id() is None
    script.hand_down([], "first")
    script.hand_down([], "second, in a job that parses the workflow again")
    assert script.campaign_id() == "first"
