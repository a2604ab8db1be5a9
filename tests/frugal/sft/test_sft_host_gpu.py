"""Host memory beside a GPU: exact, pinned, no more of the device than a dry run says, and the streams in order."""

import numpy as np
import pytest
import torch
from exactness import distances, step, untiled
from hosted import CUTS, KINDS, MEAN, STD, normalised, pixels, planned, steady
from torch import nn

from frugal.models.unet import unet_small
from frugal.models.vgg import vgg16
from frugal.sft import HostImage, Plan, SegmentedSequential, copies
from frugal.sft.dryrun import Settings, dry_run, on_meta
from frugal.timing.flags import flags

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [vgg16, unet_small])
def test_exact_in_float64(make, kind, channels_last):
    """Large enough for copies and kernels to overlap; several steps, for memory that one frees the next one takes."""
    torch.manual_seed(0)
    model, array = make(width_divisor=4).cuda().double().eval(), pixels(512, 384, 3)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    cuts = CUTS if make is vgg16 else ["pool", "pool_1"]
    run = SegmentedSequential(model, planned(model, (1, 3, 512, 384), cuts, *KINDS[kind], "host", "host"))
    expected = step(untiled(model), normalised(array, "HWC").cuda())
    for _ in range(3):
        assert max(distances(step(run, steady(array, 2)), expected).values()) <= 1e-12  # sums in another order


@pytest.mark.parametrize("kind", ["tiles", "strips"])
def test_unpinned_memory_and_another_stream(kind, monkeypatch):
    """Maps in files, of which every window passes through pinned buffers, on a stream of the user's own."""
    monkeypatch.setattr(copies, "memory_bytes", lambda: 1000)
    torch.manual_seed(0)
    model, array = vgg16(width_divisor=4).cuda().double(), pixels(256, 384, 3)
    run = SegmentedSequential(model, planned(model, (1, 3, 256, 384), CUTS, *KINDS[kind], "host", "host"))
    expected = step(untiled(model), normalised(array, "HWC").cuda())
    with torch.cuda.stream(torch.cuda.Stream()):
        found = step(run, steady(array, 2))
    torch.cuda.synchronize()
    assert max(distances(found, expected).values()) <= 1e-12


def test_maps_on_the_host_are_pinned_and_rows_of_them_one_run_of_bytes():
    for last in (False, True):
        room = copies.map_room((1, 5, 16, 12), torch.float32, torch.device("cuda"), last)
        band = copies.by_rows(room[:, :, 3:9], last)
        assert band.is_pinned()
        assert band.is_contiguous()


@pytest.mark.parametrize("kind", ["wide", "strips"])
def test_the_allocator_takes_what_a_dry_run_says(kind):
    torch.manual_seed(0)
    model, shape = vgg16(width_divisor=4).cuda(), (1, 3, 2048, 1024)
    plan = planned(model, shape, CUTS, *KINDS[kind], "host", "host")
    run = SegmentedSequential(model, plan)
    image = HostImage(np.zeros((2048, 1024, 3), np.uint8), mean=MEAN, std=STD)

    def peak() -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        run(image).sum().backward()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()

    with flags(tf32=False, autotune=False), torch.backends.cudnn.flags(enabled=False):  # no workspace to speak of
        peaks = [peak() for _ in range(4)]
    predicted = dry_run(on_meta(model), plan, Settings(image_on_device=False, granularity=512))
    assert len(set(peaks[1:])) == 1
    assert abs(peaks[-1] - predicted) <= 0.05 * predicted + 2 * 2**20


def test_an_exception_leaves_no_copy_into_memory_that_others_take():
    """Windows are on their way when the network fails; what is allocated then must keep what is written to it."""

    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)).cuda()
    shape = (1, 3, 4096, 2048)
    plan = Plan.manual(model, shape, kinds=["tiles"], tiles=[(8, 1)])
    image = HostImage(pixels(4096, 2048, 3))
    run, window, calls = SegmentedSequential(model, plan), image.window, []

    def failing(*at):
        calls.append(at)
        if len(calls) == 5:
            raise RuntimeError("planted")
        return window(*at)

    image.window = failing
    with pytest.raises(RuntimeError, match="planted"):
        run(image)
    others = [torch.full((3 * 514 * 2048,), 7, dtype=torch.uint8, device="cuda") for _ in range(16)]
    torch.cuda.synchronize()
    assert all((each == 7).all() for each in others)
