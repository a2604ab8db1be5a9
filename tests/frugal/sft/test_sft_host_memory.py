"""What a step with images, maps or carries in host memory takes on the device, and that a dry run knows it."""

import itertools

import numpy as np
import pytest
import torch
from hosted import KINDS, planned

from frugal.memory import LiveBytes
from frugal.models.unet import unet_small
from frugal.models.vgg import vgg16
from frugal.sft import HostImage, SegmentedSequential, copies
from frugal.sft.dryrun import Settings, dry_run, on_meta
from frugal.sft.planner import plan

SHAPE = (1, 3, 192, 160)
TYPES = {torch.uint8: np.uint8, torch.float32: np.float32}
NETWORKS = {"vgg16": (vgg16, ["pool1", "pool3"]), "unet_small": (unet_small, ["pool", "pool_1"])}
PLACES = list(itertools.product(("device", "host"), repeat=3))


@pytest.fixture
def uncounted(monkeypatch):
    """Host memory that LiveBytes does not count: NumPy's, which it takes for what was there before."""
    room = copies.room

    def elsewhere(size, dtype, device):
        if device.type == "meta":
            return room(size, dtype, device)
        return torch.from_numpy(np.empty(size, TYPES[dtype]))

    monkeypatch.setattr(copies, "room", elsewhere)


def device_bytes(model, plan, image) -> int:
    """The peak of a step, parameters and their gradients among it, and the image where it is a tensor."""
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    run = SegmentedSequential(model, plan)
    with LiveBytes() as live:
        live.track([*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())])
        if isinstance(image, torch.Tensor):
            live.track(image)
        y = run(image)
        y.backward(torch.ones_like(y))
        del y
    return live.peak_total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_dry_run_knows_what_stays_on_the_device(uncounted, network, kind):
    make, cuts = NETWORKS[network]
    model = make(width_divisor=16)
    found = {}
    for boundary, carry, input_ in PLACES:
        made = planned(model, SHAPE, cuts, *KINDS[kind], boundary, carry)
        image = HostImage(np.zeros((192, 160, 3), np.uint8)) if input_ == "host" else torch.zeros(SHAPE)
        predicted = dry_run(on_meta(model), made, Settings(image_on_device=input_ == "device"))
        found[boundary, carry, input_] = device_bytes(model, made, image)
        # On the meta device a tensor of host memory is one element, which is counted.
        assert 0 <= predicted - found[boundary, carry, input_] <= 512, (boundary, carry, input_)
    for places, bytes_ in found.items():  # what is elsewhere takes no more than before, but for mean and std
        assert bytes_ <= found["device", "device", places[2]] + 512


@pytest.mark.parametrize("budget", [5_000_000, 3_000_000, 1_500_000])
def test_plans_with_host_memory_fit_their_budget(uncounted, budget):
    model, shape = vgg16(width_divisor=16), (1, 3, 512, 384)
    found = plan(model, shape, budget, image_on_device=False, host_budget_bytes=10**9)
    assert any(each.boundary == "host" for each in found.segments)
    assert found.host_bytes > 0
    taken = device_bytes(model, found, HostImage(np.zeros((512, 384, 3), np.uint8)))
    assert 0 <= found.predicted_peak_bytes - taken <= 512
    assert taken <= budget


def test_strips_with_their_carries_on_the_host_take_less(uncounted):
    model = vgg16(width_divisor=16)
    peaks = [
        device_bytes(model, planned(model, SHAPE, [], ["strips"], [(6, 1)], carry=carry), torch.zeros(SHAPE))
        for carry in ("device", "host")
    ]
    carry = 78 * 4 * SHAPE[3]  # bytes of one: floats a column of VGG-16 whose widths are divided by 16
    assert peaks[0] - peaks[1] >= 2 * carry  # five there, three here: in use, on its way, and a gradient
