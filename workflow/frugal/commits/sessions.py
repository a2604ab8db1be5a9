"""Timing sessions of two commits, each by its own workflow, one after another in the order ABBA."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import yaml

from frugal.clock import Clock
from frugal.commits.repository import Commit
from frugal.errors import FrugalError
from frugal.processes import die_with_parent, python_path

# What can be compared: system/experiment, and the rule that writes its sessions.
TIMED = {"cusnn/layers": "bench_layer"}
PATIENCE_S = 60  # for Snakemake to end its jobs after Ctrl-C


@dataclass(frozen=True)
class Side:
    """One commit: its files in `tree`, and the folder in which its workflow runs. `role` is `base` or `head`."""

    role: str
    commit: Commit
    tree: Path
    folder: Path

    def __str__(self) -> str:
        return f"{self.role} {self.commit}"

    def session(self, preset: str, experiment: str, number: int) -> Path:
        """The file of one session's rows."""
        return self.folder / self.target(preset, experiment, number)

    @staticmethod
    def target(preset: str, experiment: str, number: int) -> str:
        return f"results/raw/{preset}/local/{experiment}/session-{number}.parquet"


def order(count: int) -> list[tuple[int, int]]:
    """(session, side) in the order of measuring, side 0 the base and 1 the head: every second session begins with 1.

    A drift that is linear in time then cancels in every two sessions, as in a palindrome of blocks.
    """
    return [(number, (number + place) % 2) for number in range(count) for place in (0, 1)]


def measure(
    sides: tuple[Side, Side],
    settings: dict,
    experiment: str,
    count: int,
    *,
    cores: str,
    cache: Path,
    clock: Clock,
    say: Callable[[str], None],
) -> None:
    """Measure the sessions that are missing. `settings`: the configuration of both, as a mapping.

    A commit's first session comes with what it needs (images, weights, kernels); what the other commit makes alike is
    taken from `cache`, Snakemake's between-workflow cache. FrugalError, one sentence, when a workflow fails.
    """
    preset = settings["preset"]
    missing = [(k, sides[at]) for k, at in order(count) if not sides[at].session(preset, experiment, k).exists()]
    kept = 2 * count - len(missing)
    if kept:
        say(f"{kept} of {2 * count} sessions were measured before: they are not measured again")
    for done, (k, side) in enumerate(missing, start=kept + 1):
        start = clock.ns()
        _run(
            side, side.target(preset, experiment, k), side.folder / f"snakemake-session-{k}.log", settings, cores, cache
        )
        say(f"[{done}/{2 * count}] {side}, session {k}: {(clock.ns() - start) * 1e-9:.0f} s")


def _run(side: Side, target: str, log: Path, settings: dict, cores: str, cache: Path) -> None:
    side.folder.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    (side.folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    profile = side.tree / "workflow" / "profiles" / "default"
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(side.tree / "Snakefile"),
        "--workflow-profile", str(profile) if profile.is_dir() else "none",
        "--cores", cores, "--nolock", "--cache", "--", target,
    ]  # fmt: skip
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=side.folder, env=_environment(side, cache), stdout=output, stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )  # fmt: skip
        try:
            status = process.wait()
        except KeyboardInterrupt:
            _stop(process)
            raise
    if status or not (side.folder / target).exists():
        raise FrugalError(f"{side}: {_cause(log)} (all of it is in {log})")


def _environment(side: Side, cache: Path) -> dict[str, str]:
    """This process' environment with the commit's own library in front, and no campaign to which its jobs belong."""
    foreign = ("FRUGAL_CAMPAIGN_ID", "GIT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    library = python_path([str(side.tree / "workflow"), str(side.tree)])
    return {"SNAKEMAKE_OUTPUT_CACHE": str(cache), **kept, "PYTHONPATH": library}


def _stop(process: subprocess.Popen) -> None:
    """Let Snakemake end its jobs: it has had the Ctrl-C too, where it came from a terminal."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _cause(log: Path) -> str:
    """Why a workflow failed: Snakemake's own sentence, that of the first job that failed, or else its last line."""
    lines = [line.rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    of_jobs = (line.strip() for above, line in pairwise(lines) if above.endswith(".log") and re.match(r" {4}\S", line))
    # "WorkflowError in file …, line 40:", and then what is wrong
    of_workflow = (line.strip() for above, line in pairwise(lines) if re.match(r"\w+ in (file|rule) .*:$", above))
    last = next((line.strip() for line in reversed(lines) if line), "Snakemake said nothing")
    return next(of_jobs, next(of_workflow, last))
