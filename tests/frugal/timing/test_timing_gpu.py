"""The parts that only a GPU can show: capture, events, side streams."""

from functools import partial

import pytest
import torch

from frugal.timing import Arm, Case, CudaDevice, Design, Prepared, Reference, Unsupported, measure_case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]
ALL = ("cold", "hot", "graph", "graph_rotated", "wall")


@pytest.fixture(scope="module")
def device():
    return CudaDevice()


def doubling(n=1 << 20):
    def inputs(seed, phase):
        return {"x": torch.randn(n, device="cuda", generator=torch.Generator("cuda").manual_seed(seed))}

    def reference(given):
        y = 2 * given["x"].double()
        return Reference(y, y.abs(), 1)

    return Case("cusnn", "layers", {"n": n}, inputs, reference)


def measured(device, *arms):
    result = measure_case(doubling(), arms, Design.of("smoke"), 0, device)
    return {(row.arm, row.regime, row.l2): row for row in result.rows}


def static(inputs):
    y = torch.empty_like(inputs["x"])
    return Prepared(run=lambda: torch.mul(inputs["x"], 2, out=y), outputs=(y,))


def allocating(inputs):
    return Prepared(run=torch.inference_mode()(lambda: inputs["x"] * 2))


@pytest.mark.parametrize("prepare", [static, allocating])
def test_every_regime_is_measured(device, prepare):
    rows = measured(device, Arm("a", "ours", prepare, regimes=ALL, bytes_min=8 * 2**20))
    assert {row.status for row in rows.values()} <= {"ok", "unstable"}, [row.reason for row in rows.values()]
    floor = 8 * 2**20 / 20e12  # no device moves 20 TB/s from memory
    for key in (("a", "cold", None), ("a", "graph", "rotated")):
        assert rows[key].value > floor
    assert rows["a", "graph", "resident"].value < rows["a", "wall", None].value


def test_an_arm_that_waits_keeps_only_wall(device):
    def prepare(inputs):
        return Prepared(run=lambda: inputs["x"] * (2.0 + 0 * inputs["x"][0].item()))

    rows = measured(device, Arm("a", "ours", prepare, regimes=ALL))
    assert rows["a", "wall", None].value is not None
    assert {r.reason[:9] for key, r in rows.items() if key[1] != "wall"} == {"host_sync"}


def test_a_result_written_by_a_side_stream_after_the_arms_own_is_incorrect(device):
    side = torch.cuda.Stream()

    def prepare(inputs):
        y = torch.empty_like(inputs["x"])

        def run():
            with torch.cuda.stream(side):
                torch.cuda._sleep(20_000_000)
                torch.mul(inputs["x"], 2, out=y)

        return Prepared(run, (y,))

    rows = measured(device, Arm("a", "ours", prepare, regimes=("cold", "wall")))
    torch.cuda.synchronize()
    assert {row.status for row in rows.values()} == {"incorrect"}


def test_a_failed_capture_leaves_a_device_that_captures_again(device):
    x = torch.ones(1000, device="cuda")
    with device.active():
        for _ in range(3):
            with pytest.raises(Unsupported, match="capture"):
                device.capture(lambda: x.sum().item())
            y = torch.zeros(1000, device="cuda")
            graph = device.capture(partial(torch.mul, x, 3, out=y))
            graph.replay()
            device.join()
            assert y.eq(3).all()
        torch.cuda.empty_cache()


def test_the_spin_lasts_as_long_as_asked(device):
    with device.active():
        start, end = device.event(), device.event()
        device.sleep(100_000)
        start.record()
        device.sleep(int(device.hz * 1e-3))
        end.record()
        device.synchronize()
        assert start.elapsed_time(end) == pytest.approx(1.0, rel=0.2)
