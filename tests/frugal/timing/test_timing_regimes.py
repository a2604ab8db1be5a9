"""What each regime asks of a device, in which order."""

import pytest
import torch
from timing_fakes import FakeClock, FakeGpu, cpu_arm, gpu_arm, right

from frugal.timing import CpuDevice, Design, Prepared, Unsupported, regimes
from frugal.timing.regimes import Estimate, build, estimate, runs_per_sample

SMOKE = Design.of("smoke")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def gpu(clock):
    return FakeGpu(clock)


def recipe(regime, gpu, guess=None, design=SMOKE, **given):
    arm = gpu_arm(gpu, **given)
    inputs = {"x": torch.randn(100)}
    prepared = arm.prepare(inputs)
    made = build(regime, arm, prepared, inputs, guess or Estimate(10e-6, 5e-6), gpu, design, gpu.clock)
    gpu.clock.at = gpu.reached()
    return made


def test_cold_flushes_spins_and_waits_once(gpu):
    made = recipe("cold", gpu)
    gpu.log.clear()
    samples = made.take(2)
    one = ["flush write", "sleep 20000", "event", "run", "event"]
    assert gpu.log == ["event", *one, *one, "synchronize"]
    assert [value for _, value in samples] == pytest.approx([10e-6, 10e-6], rel=1e-9)
    assert made.m == 1
    # the second flush begins when the first sample ends: 30 + 20 + 10 µs later
    assert samples[1][0] - samples[0][0] == 60_000


def test_cold_can_read_after_writing(gpu):
    recipe("cold", gpu, design=Design.of("smoke", flush="write_read")).take(1)
    assert "flush write_read" in gpu.log


def test_the_spin_outlasts_the_host(gpu):
    made = recipe("cold", gpu, Estimate(10e-6, 40e-6), host_s=40e-6)
    samples = made.take(1)
    assert "sleep 80000" in gpu.log
    assert samples[0][1] == pytest.approx(10e-6, rel=1e-9)


def test_without_the_spin_the_host_would_be_measured(gpu):
    """Guards the fake: a spin of nothing must show the host's 40 µs."""
    made = recipe("cold", gpu, Estimate(10e-6, 40e-6), design=Design.of("smoke", spin_factor=1e-9), host_s=90e-6)
    assert made.take(1)[0][1] > 40e-6


def test_a_host_that_cannot_be_hidden_is_unsupported(gpu):
    with pytest.raises(Unsupported, match="host_bound"):
        recipe("cold", gpu, Estimate(10e-6, 3e-3))


def test_hot_runs_back_to_back_for_a_millisecond(gpu):
    made = recipe("hot", gpu)
    gpu.log.clear()
    samples = made.take(1)
    assert made.m == 100
    assert gpu.log == ["event", "sleep 20000", "event", *["run"] * 100, "event", "synchronize"]
    assert samples[0][1] == pytest.approx(10e-6, rel=1e-9)


def test_graph_captures_after_warm_up_and_replays_as_one_sample(gpu):
    made = recipe("graph", gpu)
    assert gpu.log == ["run", "capture", "replay", "synchronize", "replay"]
    gpu.log.clear()
    samples = made.take(3)
    # one spin of twice the replay's host time holds the queue back for the whole batch
    assert gpu.log == ["event", "sleep 30000", *["event", "replay", "event"] * 3, "synchronize"]
    assert (made.m, made.l2) == (100, "resident")
    assert [value for _, value in samples] == pytest.approx([10e-6] * 3, rel=1e-9)


def test_rotated_graph_goes_through_sets_that_exceed_twice_the_cache(gpu):
    bound = []
    arm = gpu_arm(gpu, bytes_min=300.0)
    inputs = {"x": torch.randn(100)}

    def prepare(given):
        bound.append(given["x"].data_ptr())
        return arm.prepare(given)

    counted = gpu_arm(gpu, bytes_min=300.0)
    object.__setattr__(counted, "prepare", prepare)
    prepared = prepare(inputs)
    made = build("graph_rotated", counted, prepared, inputs, Estimate(10e-6, 5e-6), gpu, SMOKE, gpu.clock)
    assert len(set(bound)) == 7  # ceil(2 * 1000 / 300)
    assert made.m == 105  # the multiple of 7 from 100 on
    assert (made.regime, made.l2, made.note) == ("graph", "rotated", None)
    assert len(made.written) == 7
    assert made.take(1)[0][1] == pytest.approx(10e-6, rel=1e-9)
    assert torch.equal(made.outputs()[0], 2 * inputs["x"])


def test_rotated_sets_that_do_not_exceed_the_cache_say_so(gpu):
    gpu.cache_bytes = 10**6
    made = recipe("graph_rotated", gpu, bytes_min=300.0)
    assert "rotated_short: 64 sets" in made.note


def test_rotated_sets_stay_within_their_share_of_memory(gpu):
    gpu.memory_bytes = 8 * 800  # 800 bytes a set, a quarter of 6400 bytes: two sets
    made = recipe("graph_rotated", gpu, bytes_min=300.0)
    assert len(made.written) == 2


def test_wall_includes_host_and_device(gpu):
    made = recipe("wall", gpu)
    gpu.log.clear()
    assert made.take(1)[0][1] == pytest.approx(15e-6, rel=1e-9)
    assert gpu.log == ["synchronize", "run", "synchronize"]


def test_a_coarse_event_clock_is_averaged_out_by_m(clock):
    gpu = FakeGpu(clock, resolution_ns=1200)
    made = recipe("hot", gpu, device_s=2e-6, guess=Estimate(2e-6, 5e-6), host_s=0.0)
    assert made.m == 500
    assert made.take(1)[0][1] == pytest.approx(2e-6, rel=1.2e-6 / 1e-3)  # one step of the clock in a sample of 1 ms


def test_estimates_are_device_time_behind_a_spin(gpu):
    prepared = gpu_arm(gpu, device_s=7e-6, host_s=33e-6).prepare({"x": torch.randn(100)})
    found = estimate(prepared, gpu, SMOKE, gpu.clock)
    assert found.host_s == pytest.approx(33e-6, rel=1e-9)
    assert found.run_s == pytest.approx(7e-6, rel=1e-9)


@pytest.mark.parametrize(("run_s", "m"), [(10e-6, 100), (3e-3, 1), (0.0, 1000), (1e-9, 1000), (0.9e-3, 2)])
def test_m_makes_a_millisecond(run_s, m):
    assert runs_per_sample(run_s) == m


class SlowCpu(CpuDevice):
    """Counts flushes, and moves the clock in them so that a sample which contained one would show."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.flushes = clock, 0

    def flush(self, mode):
        self.flushes += 1
        self.clock.advance(1.0)


def cpu_recipe(regime, clock, run_s=1e-4, loop_s=2e-5, **given):
    device, ran, looped = SlowCpu(clock), [], []
    y = torch.zeros(1)

    def run():
        ran.append(1)
        clock.advance(run_s)
        return y

    def loop(m):
        looped.append(m)
        clock.advance(m * loop_s)

    prepared = Prepared(**({"run": run, "outputs": (y,), "loop": loop} | given))
    arm = cpu_arm(right)
    return build(regime, arm, prepared, {}, Estimate(run_s), device, SMOKE, clock), device, ran, looped


def test_cpu_cold_reads_the_cache_away_outside_the_sample(clock):
    made, device, ran, _ = cpu_recipe("cold", clock)
    assert made.take(3) == [(pytest.approx(2e9 + i * 1_000_100_000), pytest.approx(1e-4)) for i in range(3)]
    assert (device.flushes, len(ran)) == (3, 3)


def test_cpu_hot_and_wall(clock):
    made, device, ran, _ = cpu_recipe("hot", clock)
    assert made.take(2)[0][1] == pytest.approx(1e-4)
    assert (made.m, len(ran), device.flushes) == (10, 20, 0)
    made, _, ran, _ = cpu_recipe("wall", clock)
    assert made.take(2)[0][1] == pytest.approx(1e-4)
    assert (made.m, len(ran)) == (1, 2)


def test_cpu_graph_is_the_compiled_loop_with_an_m_of_its_own(clock):
    made, _, ran, looped = cpu_recipe("graph", clock)
    assert (made.m, made.l2) == (50, "resident")
    assert made.take(1)[0][1] == pytest.approx(2e-5)
    assert (looped, ran) == ([1, 1, 1, 50], [])


def test_cpu_without_a_loop_has_no_graph(clock):
    with pytest.raises(Unsupported, match="cpu_no_graph"):
        cpu_recipe("graph", clock, loop=None)
    with pytest.raises(Unsupported, match="cpu_no_rotation"):
        cpu_recipe("graph_rotated", clock)
    with pytest.raises(Unsupported, match="names no outputs"):
        cpu_recipe("graph", clock, outputs=())


def test_the_queue_is_never_deeper_than_a_hundred_samples():
    assert regimes.QUEUE_MAX == 100
