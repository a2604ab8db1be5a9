"""What calibration measures of a device: here a CPU under a clock that the test sets, and a GPU where there is one."""

from datetime import UTC, datetime

import pytest
import torch

from frugal.models import build
from frugal.sft.calibrate import RUNS, calibrated
from frugal.sft.dryrun import Settings
from frugal.sft.options import TYPICAL
from frugal.sft.planner import plan
from frugal.sft.plans import Plan

CPU = torch.device("cpu")


class Steady:
    """A clock of which each look takes a millisecond."""

    def __init__(self) -> None:
        self.looks = 0

    def ns(self) -> int:
        self.looks += 1
        return self.looks * 1_000_000

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing waits here")


def test_a_rate_is_seconds_by_multiply_adds_of_the_largest_windows():
    model, clock = build("vgg16", width_divisor=16).eval(), Steady()
    made = Plan.manual(model, (1, 3, 64, 96), cuts=("pool2",), kinds=("tiles", "store"), tiles=((2, 1), (1, 1)))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found = calibrated(model, made, Settings(), CPU, TYPICAL["cpu"], clock)
    # The upper tile's 8 rows of pool2 come from 16 of conv2_2, 17 of conv2_1, 36 of conv1_2 and 37 of conv1_1.
    rows = {(3, 4): 37, (4, 4): 36, (4, 8): 17, (8, 8): 16}
    first = sum(9 * a * b * n * (96 if n > 20 else 48) for (a, b), n in rows.items())
    shape = {(8, 16): (16, 24), (16, 16): (16, 24), (16, 32): (8, 12), (32, 32): (8, 12)}
    second = sum(9 * a * b * h * w for (a, b), (h, w) in shape.items())
    second += 9 * 16 * 16 * 16 * 24 + 9 * 32 * 32 * 8 * 12 + 3 * 9 * 32 * 32 * 4 * 6
    assert found.rates.mac_s == pytest.approx(2 * 1e-3 / (3 * (first + second)))
    assert found.workspace_bytes == 0
    assert clock.looks == 2 * 2 * RUNS
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_a_calibrated_plan_predicts_a_time():
    model = build("darknet19", width_divisor=16)
    assert plan(model, (1, 3, 64, 64), 10**8).predicted_time_s is None
    assert plan(model, (1, 3, 64, 64), 10**8, calibrate=True).predicted_time_s > 0


def test_windows_that_read_statistics_and_means_are_run():
    model = build("resnet18", width_divisor=16)
    made = Plan.manual(model, (1, 3, 64, 64))
    assert calibrated(model, made, Settings(), CPU, TYPICAL["cpu"], Steady()).rates.mac_s > 0
