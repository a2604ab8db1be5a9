"""`doctor --calibrate`: each of its lines, from rates, ticks and ratios that are given, and one real pair on a CPU."""

from __future__ import annotations

import math
import subprocess
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from doctor_fakes import FakeClock

from frugal import cli, doctor
from frugal.doctor import calibration, pair
from frugal.energy import Idle
from frugal.errors import FrugalError
from frugal.records import RowKey, Sample
from frugal.timing import CpuDevice, Design, measure_case

RATES = {
    "copy_bytes_per_s": 4.25e12, "flops_fp32": 51e12, "flops_tf32": 373e12, "flops_fp16": 700e12, "launch_s": 5e-6,
    "event_floor_s": 1.3e-6,
}  # fmt: skip
ON_CPU = dict.fromkeys(RATES) | {"copy_bytes_per_s": 3e10, "flops_fp32": 2e11}
PAIRS = [{"graph": 1.001, "cold": 1.0}, {"graph": 0.999, "cold": 1.002}, {"graph": 1.0, "cold": 0.998}]


def a_sample(**given) -> Sample:
    return Sample(**{"round": 0, "position": 0, "index": 0, "start_ns": 0, "flag": "ok"} | given)


class Device:
    """As much of a device as calibration touches itself."""

    uuid = None

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def active(self):
        return nullcontext()


H200 = Idle(power_w=120.0, tick_s=0.1)


class Meter:
    def __init__(self, source: str | None = "counter", idle: Idle = H200) -> None:
        self.source, self.reason, self._idle = source, "no_counter: nobody tells", idle

    def idle(self, seconds: float) -> Idle:
        return self._idle


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was measured, in order; a small copy takes 10 µs, and 3 % more after a flush that only writes."""
    calls: list[tuple[str, str]] = []

    def measure_case(case, arms, design, session, device, clock):
        calls.append((case.experiment, design.flush))
        return SimpleNamespace(rows=[SimpleNamespace(value=10.3e-6 if design.flush == "write" else 10e-6)])

    monkeypatch.setattr(calibration, "measure_case", measure_case)
    monkeypatch.setattr(calibration, "warm_up", lambda device, design, clock: calls.append(("warm-up", design.preset)))
    monkeypatch.setattr(calibration, "ceilings", lambda device, clock: RATES if device.kind == "cuda" else ON_CPU)
    return calls


def lines(kind: str = "cuda", gpu_name: str | None = "NVIDIA H200", **given) -> dict[str, doctor.Check]:
    given = {"meter": Meter(), "pairs": lambda: PAIRS, "clock": FakeClock()} | given
    checks = doctor.calibrate(Device(kind), gpu_name, **given)
    return {check.name: check for check in checks}


def test_a_gpu_has_every_line(measured: list):
    found = lines()
    assert list(found) == [
        "copy", "fp32 matmul", "TF32 matmul", "fp16 matmul", "launch", "event floor", "flush", "energy tick",
        "equal arms, cold", "equal arms, graph",
    ]  # fmt: skip
    assert found["copy"].found == "4250 GB/s, 89% of the datasheet"
    assert found["TF32 matmul"].found == "373 TFLOP/s, 75% of the datasheet"
    assert found["launch"].found.startswith("5.00 µs")
    assert found["event floor"].found.startswith("1.30 µs")
    assert found["energy tick"].found == "100 ms, 120.0 W at rest"
    assert {name for name, check in found.items() if check.level != "PASS"} == {"flush"}


def test_flushes_are_compared_in_a_palindrome_after_a_warm_up(measured: list):
    check = lines()["flush"]
    assert measured == [
        ("warm-up", "quick"), ("flush", "write"), ("flush", "write_read"), ("flush", "write_read"), ("flush", "write"),
    ]  # fmt: skip
    assert (check.level, check.found) == ("WARN", "a 4 MB copy takes +3.0% after write, compared with write_read")
    assert "write_read" in check.mend


def test_a_flush_that_could_not_be_measured_is_said(measured: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration, "measure_case", lambda *a: SimpleNamespace(rows=[SimpleNamespace(value=None)]))
    assert (lines()["flush"].level, lines()["flush"].found) == ("WARN", "not measured")


def test_a_cpu_has_what_it_can_have(measured: list):
    found = lines("cpu", None, meter=Meter(None), pairs=lambda: [{"wall": r} for r in (1.0, 1.02, 0.98)])
    assert list(found) == ["copy", "fp32 matmul", "energy tick", "equal arms, wall"]
    assert found["copy"].found == "30 GB/s"
    assert found["energy tick"].level == "WARN"
    assert "nobody tells" in found["energy tick"].found


@pytest.mark.parametrize(
    ("rate", "gpu_name", "level"),
    [
        (4.8e12, "NVIDIA H200", "PASS"),
        (3.3e12, "NVIDIA H200", "WARN"),
        (4.9e12, "NVIDIA H200", "WARN"),
        (1e9, "a GPU that nobody listed", "PASS"),
    ],
)
def test_a_copy_far_from_the_datasheet_is_a_warning(
    measured: list, monkeypatch: pytest.MonkeyPatch, rate: float, gpu_name: str, level: str
):
    monkeypatch.setattr(calibration, "ceilings", lambda device, clock: RATES | {"copy_bytes_per_s": rate})
    assert lines(gpu_name=gpu_name)["copy"].level == level


@pytest.mark.parametrize(
    ("meter", "level", "found"),
    [
        (Meter(idle=Idle()), "WARN", "none (source: counter)"),
        (Meter("power_poll", Idle(power_w=90.0)), "PASS", "none (source: power_poll), 90.0 W at rest"),
        (Meter("rapl", Idle(power_w=30.0)), "PASS", "none (source: rapl), 30.0 W at rest"),
    ],
)
def test_the_tick_of_the_counter(measured: list, meter: Meter, level: str, found: str):
    check = lines(meter=meter)["energy tick"]
    assert (check.level, check.found) == (level, found)


def test_the_deviation_over_processes_by_hand(measured: list):
    check = lines(pairs=lambda: [{"graph": math.exp(x)} for x in (-0.02, 0.0, 0.02)])["equal arms, graph"]
    assert (check.level, check.found) == ("WARN", "σ 2.00% over 3 processes, mean ratio 1.0000")
    calm = lines(pairs=lambda: [{"graph": math.exp(x)} for x in (-0.005, 0.0, 0.005)])["equal arms, graph"]
    assert calm.level == "PASS"


def test_a_regime_that_failed_somewhere_has_no_deviation(measured: list):
    found = lines(pairs=lambda: [{"graph": 1.0, "cold": 1.0}, {"graph": 1.0}, {"graph": 1.0, "cold": 1.0}])
    assert "equal arms, graph" in found
    assert "equal arms, cold" not in found


# ---- the processes ---------------------------------------------------------------------------------------------------


def test_two_equal_arms_are_measured_on_this_cpu():
    # How far apart they come out is the machine's business: on a contested one by factors.
    found = pair.ratios("cpu", "smoke")
    assert list(found) == ["wall"]
    assert 0 < found["wall"] < math.inf


def test_the_ratio_is_that_of_the_medians_of_blocks(monkeypatch: pytest.MonkeyPatch):
    def measure_case(case, arms, design, session, device, clock):
        taken = {"first": ([2.0, 2.0, 90.0], [8.0, 8.0, 8.0]), "second": ([1.0, 1.0, 1.0], [0.1, 2.0, 2.0])}
        samples = {
            RowKey("0" * 16, arm, "graph", "resident", "time"): [
                a_sample(round=block, block=block, value=value)
                for block, values in enumerate(blocks)
                for value in values
            ]
            for arm, blocks in taken.items()
        }
        return SimpleNamespace(samples=samples)

    monkeypatch.setattr(pair, "measure_case", measure_case)
    monkeypatch.setattr(pair, "warm_up", lambda *arguments: None)
    # medians 2 and 8 against 1 and 2: the geometric mean of 2 and 4
    assert pair.ratios("cpu") == {"graph": pytest.approx(math.sqrt(8))}


def test_each_process_answers_for_itself(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def run(command, **options):
        asked.append((command[-3:], "PYTHONPATH" in options["env"]))
        return subprocess.CompletedProcess(command, 0, 'waiting\n{"wall": 1.5}\n', "")

    monkeypatch.setattr(calibration.subprocess, "run", run)
    assert calibration.null_pairs("cpu") == [{"wall": 1.5}] * 3
    assert asked == [(["-m", "frugal.doctor.pair", "cpu"], True)] * 3


def test_a_process_that_fails_is_one_sentence():
    with pytest.raises(FrugalError, match=r"^two equal arms could not be measured \(KeyError: 'abacus'\): run frugal"):
        calibration.null_pairs("abacus", processes=1)


def test_a_process_that_hangs_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    def run(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(calibration.subprocess, "run", run)
    with pytest.raises(FrugalError, match="not measured within 120 s"):
        calibration.null_pairs("cpu")


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_adds_calibrations_lines_where_nothing_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = []

    def calibrated(device, gpu_name, say):
        asked.append((device.kind, gpu_name))
        return [doctor.Check("launch", "PASS", "5 µs", "published")]

    monkeypatch.setattr(calibration, "calibrate", calibrated)
    own = "devices: {local: {kind: cpu}}\nrecorded: []\ncusnn: {weights: synthetic}\ndata: {images: x}\n"
    (tmp_path / "config.yaml").write_text(own)
    assert cli.main(["doctor", "--calibrate"]) == 0
    assert "PASS  launch" in capsys.readouterr().out
    (tmp_path / "config.yaml").write_text(own + "preset: headline\n")
    assert cli.main(["doctor", "--calibrate"]) == 1
    assert "launch" not in capsys.readouterr().out
    assert asked == [("cpu", None)]


def test_the_small_copy_can_be_measured():
    device = CpuDevice()
    design = Design.of("smoke", block_max_s=0.02)
    result = measure_case(calibration._small_copy(device), [calibration._copy_arm()], design, 0, device)
    assert [(row.regime, row.status) for row in result.rows] in ([("cold", "ok")], [("cold", "unstable")])
