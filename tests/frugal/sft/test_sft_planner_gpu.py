"""A plan on a GPU: what the allocator hands out is what the plan says."""

import pytest
import torch

from frugal.models import build
from frugal.sft.planner import plan
from frugal.sft.segments import SegmentedSequential

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]
GIB = 2**30


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("budget", [GIB // 2, GIB])
def test_the_allocator_agrees_with_the_plan(autocast, budget):
    model = build("vgg16", width_divisor=4).cuda()
    x = torch.rand(1, 3, 2048, 2048, device="cuda")
    before = torch.cuda.memory_allocated() - x.nbytes - sum(t.nbytes for t in model.state_dict().values())
    found = plan(model, tuple(x.shape), budget, autocast=autocast)
    segmented = SegmentedSequential(model, found)
    for _ in range(2):  # the second step finds gradients there, as the plan says
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", autocast, enabled=autocast is not None):
            y = segmented(x)
        y.float().square().sum().backward()
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= budget
    assert abs(peak - found.predicted_peak_bytes) <= max(0.05 * found.predicted_peak_bytes, 256 * 2**20)
    assert found.predicted_time_s > 0
    assert found.workspace_bytes >= 0


def test_calibration_finds_a_workspace_and_a_rate():
    model = build("vgg16", width_divisor=4).cuda()
    rough = plan(model, (1, 3, 1024, 1024), GIB, calibrate=False)
    found = plan(model, (1, 3, 1024, 1024), GIB)
    assert rough.predicted_time_s is None
    assert found.predicted_peak_bytes >= rough.predicted_peak_bytes - 2**20
