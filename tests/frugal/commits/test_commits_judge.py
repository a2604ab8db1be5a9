"""Verdicts on two commits, from job files: against the same ratios by hand, and every reason why none is given."""

import math

import numpy as np
import pytest
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests

from frugal.commits import exit_status, text
from frugal.commits.judge import judge
from frugal.commits.repository import Commit
from frugal.config.models import Timing
from frugal.errors import FrugalError
from frugal.records import write_job
from tests.frugal.record_rows import a_row, a_run, blocks

COMMITS = Commit("main", "a" * 40, 1), Commit("HEAD", "b" * 40, 2)
ROUNDS = 2


class Sessions:
    """The job files of two commits. `row` adds an arm's row to one session of one of them."""

    def __init__(self, folder, count=4, **run):
        self.folder, self.count = folder, count
        self.jobs = {
            (side, k): (a_run(**{"run_id": f"01{side}{k}", "session": k, "device_kind": "cpu", **run}), [], {})
            for side in ("base", "head")
            for k in range(count)
        }

    def row(self, side, k, rounds, sm_hz=None, **given):
        run, rows, samples = self.jobs[side, k]
        known = {"run_id": run.run_id, "session": k, "regime": "graph", "l2": "resident", "layer": "conv1", "n": 1}
        row = a_row(**(known | given))
        rows.append(row)
        if rounds:
            values = [[x * f for f in (0.5, 0.9, 1.0, 1.1, 9.0)] for x in rounds]
            samples[row.key] = blocks(*values, **({} if sm_hz is None else {"sm_hz": sm_hz}))

    def both(self, base, head, **given):
        """Rows of all sessions, [session][round] of each commit."""
        for k in range(self.count):
            self.row("base", k, base[k], **given)
            self.row("head", k, head[k], **given)

    def judge(self, **given):
        files = []
        for side in ("base", "head"):
            files.append([self.folder / side / f"session-{k}.parquet" for k in range(self.count)])
            for k, path in enumerate(files[-1]):
                write_job(path, *self.jobs[side, k])
        settings = {"experiment": "cusnn/layers", "timing": Timing(), "folder": self.folder} | given
        return judge(COMMITS, *files, **settings)


def times(seed, level=1e-3, count=4, sd=0.002):
    return (level * np.exp(np.random.default_rng(seed).normal(0, sd, (count, ROUNDS)))).tolist()


def test_ratios_intervals_and_holm_over_all_pairs_against_the_formulas(tmp_path):
    made = Sessions(tmp_path)
    expected = []
    for case in range(3):
        for arm in ("sparse", "dense_twin"):
            base, head = times([case, len(arm)]), times([case, len(arm), 1], level=1.02e-3)
            made.both(base, head, case_id=f"{case:016x}", arm=arm)
            r = np.log(base).mean(axis=1) - np.log(head).mean(axis=1)
            half = student.ppf(0.975, 3) * r.std(ddof=1) / 2
            p = 2 * student.sf(abs(r.mean()) / (r.std(ddof=1) / 2), 3)
            expected.append((f"{case:016x}", arm, math.exp(r.mean()), math.exp(r.mean() - half), p))
    found = made.judge().pairs
    expected.sort()
    assert [(pair.case_id, pair.arm) for pair in found] == [row[:2] for row in expected]
    # logarithms of the same numbers summed in another order
    assert [pair.ratio for pair in found] == pytest.approx([row[2] for row in expected], rel=1e-12)
    assert [pair.ratio_low for pair in found] == pytest.approx([row[3] for row in expected], rel=1e-9)
    corrected = multipletests([row[4] for row in expected], method="holm")[1]
    assert [pair.p_holm for pair in found] == pytest.approx(list(corrected), rel=1e-9)


def test_blocks_of_two_processes_are_no_pairs(tmp_path):
    # rounds that go up in one commit and down in the other: paired by session they are equal
    made = Sessions(tmp_path)
    made.both([[1.0, 2.0]] * 4, [[2.0, 1.0]] * 4)
    (pair,) = made.judge().pairs
    assert (pair.ratio, pair.verdict) == (1.0, "SAME")


@pytest.mark.parametrize(
    ("preset", "layer", "margin", "word"),
    [
        ("headline", "conv1", 0.01, "SLOWER"),
        ("quick", "conv1", 0.05, "SAME"),
        ("headline", None, 0.02, "SLOWER"),
    ],
)
def test_margins_are_those_of_the_method(tmp_path, preset, layer, margin, word):
    made = Sessions(tmp_path, preset=preset)
    made.both(times(1), times(2, level=1.03e-3), layer=layer)
    (pair,) = made.judge().pairs
    assert (pair.margin, pair.verdict) == (margin, word)


def one_session_of(side, **fault):
    def change(made):
        made.jobs[side, 1][1].clear()
        made.jobs[side, 1][2].clear()
        made.row(side, 1, [] if "value" in fault else [1e-3, 1e-3], **fault)

    return change


def red(made):
    made.jobs["head", 2][0].controls_passed = False


@pytest.mark.parametrize(
    ("change", "verdict", "reason", "status"),
    [
        (one_session_of("head", status="incorrect", value=None), "BROKEN", "incorrect", 1),
        (one_session_of("head", status="timeout", value=None), "BROKEN", "timeout", 1),
        (one_session_of("head", status="skipped", value=None), "BROKEN", "skipped", 1),
        (one_session_of("base", status="oom", value=None), None, "base_oom", 0),
        (one_session_of("head", status="unstable"), None, "unstable", 0),
        (one_session_of("base", launch_bound=True), None, "launch_bound", 0),
        (red, None, "control_failed", 0),
    ],
)
def test_why_there_is_no_verdict(tmp_path, change, verdict, reason, status):
    made = Sessions(tmp_path)
    made.both(times(1), times(2, level=2e-3))
    assert exit_status(made.judge()) == 1  # twice as slow, until the change
    change(made)
    found = made.judge()
    (pair,) = found.pairs
    assert (pair.verdict, pair.reason) == (verdict, reason)
    assert exit_status(found) == status
    assert f"({reason})" in text(found)


def test_a_session_without_the_arm_is_left_out(tmp_path):
    made = Sessions(tmp_path)
    made.both(times(1), times(2))
    made.jobs["head", 3][1].clear()
    made.jobs["head", 3][2].clear()
    made.row("head", 3, [1e-3], arm="another")
    found = made.judge()
    assert [pair.n_sessions for pair in found.pairs] == [3]
    assert (found.only_base, found.only_head) == (0, 1)
    assert "0 measured at the base alone, 1 at the head alone" in text(found)


def test_a_loss_that_is_only_the_clocks_is_said_so(tmp_path):
    made = Sessions(tmp_path, device_kind="cuda")
    for k, (b, h) in enumerate(zip(times(1), times(2, level=1.1e-3), strict=True)):
        made.row("base", k, b, sm_hz=1.98e9)
        made.row("head", k, h, sm_hz=1.8e9)
    (pair,) = made.judge().pairs
    assert (pair.verdict, pair.reason) == ("CLOCK_SHIFT", "clock_shift")
    (pair,) = made.judge(timing=Timing(clock_shift_min=0.5)).pairs
    assert pair.verdict == "SLOWER"


def test_baselines_are_a_check_and_decide_nothing(tmp_path):
    made = Sessions(tmp_path)
    made.both(times(1), times(2))
    made.both(times(3), times(4, level=2e-3), arm="cudnn", role="baseline")
    found = made.judge()
    assert ([pair.verdict for pair in found.checks], exit_status(found)) == (["SLOWER"], 0)
    assert "baselines, as a check of the machine: 1 SLOWER" in text(found)


def test_controls_and_other_metrics_are_not_compared(tmp_path):
    made = Sessions(tmp_path)
    made.both(times(1), times(2))
    made.both(times(3), times(4), system="control", experiment="planted", arm="ours")
    made.both([[]] * 4, [[]] * 4, metric="bytes", regime=None, l2=None, value=1.0, unit="B")
    assert [pair.arm for pair in made.judge().pairs] == ["sparse"]


def test_two_machines_cannot_be_paired(tmp_path):
    made = Sessions(tmp_path, count=2)
    made.both(times(1), times(2))
    made.jobs["head", 1][0].device_key = "cpu-another-8c"
    with pytest.raises(FrugalError, match=r"cpu-another-8c, nvidia-h200-9\.0-132sm, which cannot be paired"):
        made.judge()
