"""The energy of a run, against a board whose energy is known in closed form: power times time."""

import random
from bisect import bisect_right
from types import SimpleNamespace

import pytest
from energy_fakes import FakeBoard, FakeClock, FakeNvml, steps

from frugal.energy import Meter, measure_energy, meter

WATTS, IDLE, RUN = 600.0, 120.0, 1e-3


def board_and_meter(run_s=RUN, **given):
    clock = FakeClock()
    board = FakeBoard(clock, run_s)
    nvml = FakeNvml(board, **given)
    return board, nvml, Meter(board, nvml, clock)


def test_energy_from_tick_to_tick_does_not_depend_on_the_counters_phase():
    """Two ticks, each known to half a read (1.7 ms) of 5 s: 0.07 %; 0.2 % leaves room for the slope."""
    rng = random.Random(1)
    worst = 0.0
    for _ in range(200):
        board, _, found = board_and_meter(ticks=steps(0.1, rng.uniform(0, 0.1)), run_s=rng.uniform(2e-3, 20e-3))
        energy = found.measure(board.run)
        assert (energy.source, energy.reason) == ("counter", None)
        assert energy.window_s >= 5
        assert energy.ticks == round(energy.window_s / 0.1)
        worst = max(worst, abs(energy.gross_j / (WATTS * board.run_s) - 1))
    assert 1e-6 < worst < 2e-3


def test_a_plain_difference_of_the_same_counter_would_be_wrong_by_a_tick():
    """What the ticks are for: without them the same fake is wrong by more than the bound above."""
    board, nvml, _ = board_and_meter(ticks=steps(0.1, 0.09))
    worst = 0.0
    for _ in range(20):
        began, before = board.clock.ns(), nvml.nvmlDeviceGetTotalEnergyConsumption("handle")
        for _ in range(5013):
            board.run()
        board.synchronize()
        joules = (nvml.nvmlDeviceGetTotalEnergyConsumption("handle") - before) / 1e3
        assert board.clock.ns() - began > 5e9
        worst = max(worst, abs(joules / (5013 * WATTS * RUN) - 1))
    assert worst > 2e-3


def test_uneven_ticks_are_as_good():
    rng = random.Random(2)
    times, at = [], 0
    while at < 30e9:
        times.append(at)
        at += round(rng.uniform(0.097, 0.103) * 1e9)
    board, _, found = board_and_meter(ticks=lambda ns: times[bisect_right(times, ns) - 1])
    assert found.measure(board.run).gross_j == pytest.approx(WATTS * RUN, rel=2e-3)


def test_net_is_gross_without_what_an_idle_board_draws():
    board, _, found = board_and_meter()
    idle = found.idle()
    assert idle.power_w == pytest.approx(IDLE, rel=1e-3)  # 10 s: two ticks of 1.7 ms
    assert idle.tick_s == pytest.approx(0.1, rel=0.05)  # a read is 3.4 ms
    energy = found.measure(board.run, idle_w=idle.power_w)
    assert energy.net_j == pytest.approx((WATTS - IDLE) * RUN, rel=2e-3)
    assert energy.power_w == pytest.approx(WATTS, rel=2e-3)
    assert energy.gross_j == pytest.approx(energy.power_w * energy.run_s)
    assert found.measure(board.run).net_j is None


def test_a_call_of_many_runs_is_divided():
    board, _, found = board_and_meter(run_s=0.02)
    assert found.measure(board.run, runs=50).gross_j == pytest.approx(WATTS * 0.02 / 50, rel=2e-3)


def test_the_board_never_idles_and_its_queue_stays_short():
    board, _, found = board_and_meter(run_s=20e-6)
    found.measure(board.run)
    loaded = board.busy[3:]  # after the three calls that estimate
    assert len(loaded) == 1, "a gap in the queue would be energy of nothing"
    assert board.deepest <= 2
    per_batch = [b.ns - a.ns for a, b in zip(board.queued[5:], board.queued[6:], strict=False)]
    assert max(per_batch) <= 500 * 20e-6 * 1e9 + 1


def test_slow_runs_get_a_longer_span():
    board, _, found = board_and_meter(run_s=3.0)
    energy = found.measure(board.run)
    assert energy.gross_j == pytest.approx(WATTS * 3.0, rel=2e-3)
    assert energy.window_s >= 6


def test_the_span_is_the_designs():
    board, nvml, _ = board_and_meter()
    energy = measure_energy(board.run, board, SimpleNamespace(energy_span_s=7.5), nvml, board.clock)
    assert 7.5 <= energy.window_s < 7.7


def test_without_a_counter_power_is_integrated_after_its_average_has_arrived(monkeypatch):
    board, _, found = board_and_meter(silent=["nvmlDeviceGetTotalEnergyConsumption"])
    assert found.idle().power_w == pytest.approx(IDLE, rel=1e-3)
    energy = found.measure(board.run, span_s=2)
    # the moving average of 1.2 s is exact once the board has been busy for that long
    assert energy.gross_j == pytest.approx(WATTS * RUN, rel=2e-3)
    assert (energy.source, energy.ticks) == ("power_poll", None)
    assert energy.window_s >= 10
    assert energy.reason.startswith("power_poll: ")
    monkeypatch.setattr(meter, "DROP_POWER_S", 0.0)
    board, _, found = board_and_meter(silent=["nvmlDeviceGetTotalEnergyConsumption"])
    board.clock.advance(5)  # idle, which the average still holds when the work begins
    assert found.measure(board.run).gross_j < 0.97 * WATTS * RUN


@pytest.mark.parametrize(
    ("given", "source", "reason"),
    [
        ({"ticks": lambda ns: 0}, "counter", "short_window: 0 ticks"),
        ({"ticks": steps(0.9, 0)}, "counter", "short_window: "),
        ({"ticks": lambda ns: steps(0.1, 0)(ns if ns < 5e9 else max(5e9, ns - 1.2e9))}, "counter", "counter_reset: "),
        (
            {"silent": ["nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"]},
            None,
            "no_counter: this GPU tells neither",
        ),
        ({"mig": "slice"}, None, "mig: "),
        ({"mig": True}, None, "mig: "),
    ],
)
def test_what_cannot_be_known_is_null_with_a_reason_and_never_zero(given, source, reason):
    board, _, found = board_and_meter(**given)
    energy = found.measure(board.run, idle_w=IDLE)
    assert (energy.gross_j, energy.net_j, energy.power_w) == (None, None, None)
    assert energy.source == source
    assert energy.reason.startswith(reason), energy.reason


def test_a_counter_that_falls_is_not_believed():
    board, nvml, found = board_and_meter()
    nvml.reset_at = board.clock.ns() + 3_000_000_000
    energy = found.measure(board.run)
    assert (energy.gross_j, energy.reason) == (None, "counter_reset: the counter fell")
    assert board.clock.ns() < nvml.reset_at + 1_000_000_000, "it goes on although nothing can come of it"


def test_a_counter_that_is_lost_on_the_way_is_not_believed():
    board, nvml, found = board_and_meter()
    runs = board.run

    def run():
        if board.clock.ns() > 4e9:
            nvml.silent.add("nvmlDeviceGetTotalEnergyConsumption")
        runs()

    energy = found.measure(run)
    assert (energy.gross_j, energy.reason) == (None, "counter_lost: a reading of the counter failed")


def test_other_processes_on_the_board_are_told():
    board, _, found = board_and_meter(others=[4711, 4712])
    energy = found.measure(board.run)
    assert energy.gross_j == pytest.approx(WATTS * RUN, rel=2e-3)
    assert energy.reason == "neighbours: 2 other processes use this device"


def test_what_a_run_raises_passes_through_and_the_queue_is_waited_for():
    board, _, found = board_and_meter()
    runs = board.run

    def run():
        runs()
        if board.calls > 1000:
            raise MemoryError

    with pytest.raises(MemoryError):
        found.measure(run)
    assert board.clock.ns() == board.free


def test_a_machine_without_a_driver_has_no_energy(monkeypatch):
    monkeypatch.setattr("frugal.energy.gauge.open_nvml", lambda: None)
    clock = FakeClock()
    board = FakeBoard(clock)
    found = Meter(board, clock=clock)
    assert found.measure(board.run).reason == "no_counter: there is no NVIDIA driver to ask"
    assert found.idle().power_w is None
    assert board.calls == 0


# ---- a CPU -----------------------------------------------------------------------------------------------------------


class Cpu:
    kind, uuid = "cpu", None

    def synchronize(self):
        pass


class Packages:
    """A powercap tree: `watts` a package, counters that wrap at `wraps` µJ."""

    def __init__(self, root, clock, watts, wraps=10**12, offset=0):
        self.clock, self.watts, self.wraps, self.offset, self.born = clock, watts, wraps, offset, clock.ns()
        self.folders = [root / f"intel-rapl:{i}" for i in range(len(watts))]
        inner, whole = root / "intel-rapl:0:0", root / "intel-rapl:9"
        for folder, name in [*((f, f"package-{i}") for i, f in enumerate(self.folders)), (inner, "core"),
                             (whole, "psys")]:  # fmt: skip
            folder.mkdir(parents=True)
            (folder / "name").write_text(f"{name}\n")
            (folder / "energy_uj").write_text("12345\n")
            (folder / "max_energy_range_uj").write_text(f"{wraps}\n")
        (root / "intel-rapl").mkdir()
        self.write()

    def write(self):
        for folder, watts in zip(self.folders, self.watts, strict=True):
            used = round(watts * (self.clock.ns() - self.born) * 1e-3) + self.offset
            (folder / "energy_uj").write_text(f"{used % self.wraps}\n")


def on_cpu(tmp_path, **given):
    clock = FakeClock()
    packages = Packages(tmp_path, clock, [40.0, 25.0], **given)

    def run():
        clock.advance(0.02)
        packages.write()

    def sleep(seconds):
        clock.advance(seconds)
        packages.write()

    clock.sleep = sleep
    return Meter(Cpu(), clock=clock, powercap=tmp_path), run


@pytest.mark.parametrize("given", [{}, {"wraps": 10**9, "offset": 10**9 - 10**8}])
def test_the_packages_of_a_cpu_are_added_and_may_wrap(tmp_path, given):
    found, run = on_cpu(tmp_path, **given)
    energy = found.measure(run, idle_w=10.0)
    assert energy.gross_j == pytest.approx(65.0 * 0.02, rel=1e-6)  # the fake is exact to a microjoule
    assert energy.net_j == pytest.approx(55.0 * 0.02, rel=1e-6)
    assert (energy.source, energy.reason, energy.ticks) == ("rapl", None, None)
    assert energy.window_s >= 4.9
    assert found.idle().power_w == pytest.approx(65.0, rel=1e-6)


def test_a_cpu_whose_counters_only_root_may_read_has_no_energy(tmp_path):
    clock = FakeClock()
    Packages(tmp_path, clock, [40.0])
    found = Meter(Cpu(), clock=clock, powercap=tmp_path)
    for counter in tmp_path.glob("*/energy_uj"):
        counter.unlink()
    closed = Meter(Cpu(), clock=FakeClock(), powercap=tmp_path)
    assert closed.source is None
    assert closed.measure(lambda: None).reason == "no_counter: this system lets nobody read the CPU's energy"
    assert found.measure(lambda: clock.advance(0.02)).reason == "counter_lost: a reading of the counter failed"
    assert Meter(Cpu(), clock=FakeClock(), powercap=tmp_path / "none").source is None
