"""Segments on a GPU: exact in float64, autocast and channels_last, no growth, maps of more than 2³¹ elements."""

import pytest
import torch
from exactness import distances, step, untiled
from torch import nn

from frugal.memory import LiveBytes
from frugal.models.darknet import darknet19
from frugal.models.resnet import resnet50
from frugal.models.unet import unet_small
from frugal.models.vgg import vgg16
from frugal.sft import Plan, SegmentedSequential
from frugal.timing.flags import flags

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]

NETWORKS = {"vgg16": vgg16, "darknet19": darknet19, "resnet50": resnet50, "unet_small": unet_small}


def image(shape, dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to("cuda", dtype).requires_grad_()


def segmented(model, shape, kind) -> SegmentedSequential:
    tiles = {"tiles": (3, 2), "strips": (5, 1)}[kind]
    return SegmentedSequential(model, Plan.manual(model, shape, kinds=[kind], tiles=[tiles]))


@pytest.mark.parametrize("kind", ["tiles", "strips"])
@pytest.mark.parametrize("name", NETWORKS)
def test_exact_in_float64(name, kind):
    torch.manual_seed(0)
    model = NETWORKS[name](width_divisor=4).cuda().double().eval()
    x = image((1, 3, 331, 250), torch.float64)
    expected = step(untiled(model), x)
    # 1e-12: as on a CPU, sums in another order
    assert max(distances(step(segmented(model, x.shape, kind), x), expected).values()) <= 1e-12


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", ["tiles", "strips"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_low_precision_is_no_worse_than_torchs_own(kind, autocast, channels_last):
    torch.manual_seed(0)
    model = vgg16(width_divisor=4).cuda()
    shape = (2, 3, 512, 384)
    exact = step(untiled(model).double(), image(shape, torch.float64))
    x = image(shape, torch.float32)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    with flags(tf32=False), torch.autocast("cuda", autocast, enabled=autocast is not None):
        theirs = distances(step(untiled(model), x), exact)
        ours = distances(step(segmented(model, shape, kind), x), exact)
    # at most twice the untiled step's error against float64, over all tensors together
    assert sum(ours.values()) <= 2 * sum(theirs.values()) + 1e-6


@pytest.mark.parametrize("kind", ["tiles", "strips"])
def test_the_allocator_agrees_with_live_bytes_and_does_not_grow(kind):
    torch.manual_seed(0)
    model = vgg16(width_divisor=4).cuda()
    shape = (1, 3, 1024, 1024)
    run = segmented(model, shape, kind)
    x = image(shape, torch.float32).detach()

    def peak() -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        run(x).sum().backward()
        model.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()

    with flags(tf32=False, autotune=False), torch.backends.cudnn.flags(enabled=False):  # no workspace to speak of
        peaks = [peak() for _ in range(5)]
        before = torch.cuda.memory_allocated()
        live = LiveBytes(granularity=512)
        with live:
            run(x).sum().backward()
    assert len(set(peaks[1:])) == 1
    assert abs(peaks[-1] - before - live.peak) <= 0.02 * live.peak + 2 * 2**20


def test_maps_of_more_elements_than_an_int_holds():
    """64 channels of 6144² are 2.4·10⁹ elements: no kernel may be handed such a map whole."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 4, 3, 2, 1), nn.ReLU()).cuda()
    shape = (1, 3, 6144, 6144)
    x = image(shape, torch.float32).detach()
    cut = Plan.manual(model, shape, cuts=["_1"], kinds=["tiles", "tiles"], tiles=[(8, 1), (8, 1)])
    whole = Plan.manual(model, shape, kinds=["strips"], tiles=[(16, 1)])
    with flags(tf32=False):
        ours = step(SegmentedSequential(model, cut), x)
        other = step(SegmentedSequential(model, whole), x)
    # two orders of one float32 sum of 9.4 million products
    assert max(distances(ours, other).values()) <= 1e-4
