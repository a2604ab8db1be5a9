"""Images, maps, gradients and carries in host memory: the same numbers, no more memory than windows, clear refusals."""

import gc
import itertools
import re
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from exactness import distances, image, step, untiled
from hosted import CUTS, KINDS, MEAN, STD, normalised, pixels, planned, steady
from torch import nn

from frugal.files import DiskFull
from frugal.models.resnet import resnet18
from frugal.models.unet import unet_small
from frugal.models.vgg import vgg16
from frugal.sft import HostImage, Plan, PlanError, SegmentedSequential, SftError, ShapeError, UnsupportedOp, copies
from frugal.sft.host import Place, windows_of
from frugal.sft.sums import HostSum, Shared


def small(make=vgg16, seed=0) -> nn.Module:
    torch.manual_seed(seed)
    return make(width_divisor=16).double().eval()


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefetch", [1, 3])
def test_a_step_on_an_image_in_host_memory_is_the_step_on_the_tensor(kind, prefetch):
    model, array = small(), pixels(107, 75, 3)
    kinds, tiles = KINDS[kind]
    plan = planned(model, (1, 3, 107, 75), CUTS, kinds, tiles)
    expected = step(untiled(model), normalised(array, "HWC"))
    found = step(SegmentedSequential(model, plan), steady(array, prefetch))
    # The padding is zero after normalising: with any other the borders would be far off. 1e-12: sums in another order.
    assert max(distances(found, expected).values()) <= 1e-12


@pytest.mark.parametrize("layout", ["HWC", "CHW", "NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_windows_are_those_of_the_normalised_image(layout, dtype, channels_last):
    shape = {"N": 2, "C": 3, "H": 23, "W": 31}
    array = pixels(*(shape[axis] for axis in layout)).astype(dtype)
    array = array[..., ::-1]  # mirrored: strides below zero
    array.setflags(write=False)
    held = HostImage(array, layout, MEAN, STD, scale=1 / 255)
    whole = normalised(np.ascontiguousarray(array).astype(np.float64), layout)
    assert held.shape == tuple(whole.shape)
    place = Place(torch.device("cpu"), torch.float32, channels_last)
    windows = [((0, 9), (0, 31)), None, ((7, 23), (11, 12)), ((0, 23), (0, 31))]
    with copies.Copies(place.device) as moving:
        found = list(windows_of(held, False, windows, moving, place))
    assert found[1] is None
    for window, x in zip(windows, found, strict=True):
        if window is not None:
            (top, bottom), (left, right) = window
            # three float32 operations on numbers below 5
            torch.testing.assert_close(x.double(), whole[:, :, top:bottom, left:right], rtol=1e-6, atol=1e-6)
            assert x.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
            assert x.dtype == torch.float32


def test_floats_are_taken_as_they_are_and_the_array_never_changes():
    array = np.random.default_rng(0).random((12, 16, 3), dtype=np.float32)
    before = array.copy()
    place = Place(torch.device("cpu"), torch.float32, False)
    with copies.Copies(place.device) as moving:
        (x,) = windows_of(HostImage(array, mean=0.5), False, [((2, 12), (0, 16))], moving, place)
    np.testing.assert_array_equal(x.numpy()[0], before.transpose(2, 0, 1)[:, 2:] - np.float32(0.5))
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layout": "WHC"}, "layout 'WHC' is not known: take one of HWC"),
        ({"mean": float("nan")}, "mean = nan: give finite numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "each must be above 0"),
        ({"std": (1.0, 1.0)}, "std of 2 numbers for 3 channels"),
        ({"scale": float("inf")}, "scale = inf"),
        ({"prefetch": 0}, "prefetch = 0"),
        ({"array": np.zeros((4, 4), np.uint8)}, "must have 3 dimensions"),
        ({"array": np.zeros((4, 4, 3), np.int64)}, "an image of int64: give uint8, float16"),
        ({"array": [[1]]}, "an image of type list"),
        ({"array": np.zeros((0, 4, 3), np.uint8)}, "it has no pixels"),
    ],
)
def test_images_that_cannot_be_are_refused(settings, words):
    settings = {"array": np.zeros((4, 4, 3), np.uint8)} | settings
    with pytest.raises(ValueError, match=re.escape(words)) as refusal:
        HostImage(**settings)
    assert isinstance(refusal.value, SftError)


def test_channels_of_the_image_are_the_networks():
    with pytest.raises(ShapeError, match="channels"):
        SegmentedSequential(small())(HostImage(np.zeros((64, 64, 4), np.uint8)))


def test_a_mean_of_the_whole_image_is_refused():
    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(x * x.mean((2, 3), keepdim=True))

    with pytest.raises(UnsupportedOp, match="an image in host memory"):
        SegmentedSequential(Squeezed())(HostImage(pixels(16, 16, 3)))


def resident() -> int:
    """Bytes of memory of this process that belong to no file."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", text)[1])


def test_a_memory_map_is_never_read_whole(tmp_path):
    """What the process takes stays far below the image, and each pass reads each row once."""
    height, width = 6144, 4096
    array = np.lib.format.open_memmap(tmp_path / "image.npy", "w+", np.uint8, (height, width, 3))
    array[::512] = 7
    del array
    image = np.load(tmp_path / "image.npy", mmap_mode="r")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 3, 4, 1), nn.ReLU(), nn.Conv2d(2, 2, 3, 4, 1))
    plan = Plan.manual(model, (1, 3, height, width), kinds=["strips"], tiles=[(48, 1)])
    held, read, most = HostImage(image), [], []
    window = held.window

    def watched(rows, columns):
        read.append(rows)
        most.append(resident())
        return window(rows, columns)

    held.window = watched
    run = SegmentedSequential(model, plan)
    gc.collect()
    before = resident()
    run(held).square().mean().backward()
    # The image would be 288 MiB in float32, 72 MiB in bytes; a window of it 6 MiB, of which a few are about.
    assert max(most) - before < image.nbytes // 2
    rows = sorted(read[: len(read) // 2])
    assert rows == sorted(read[len(read) // 2 :])
    assert all(first[1] == second[0] for first, second in itertools.pairwise(rows))
    assert rows[-1][1] <= height


# ---- maps and carries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("carry", ["device", "host"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [vgg16, resnet18, unet_small])
def test_maps_and_carries_in_host_memory_change_nothing(make, kind, carry):
    kinds, tiles = KINDS[kind]
    # The U-Net's maps are read by two segments each.
    cuts = {vgg16: CUTS, resnet18: ["maxpool", "layer2_0_relu_1"], unet_small: ["pool", "pool_1"]}[make]
    model, x = small(make), image(2, 3, 128, 96)
    plan = planned(model, tuple(x.shape), cuts, kinds, tiles, "host", carry)
    assert any(each.boundary == "host" for each in plan.segments)
    expected = step(untiled(model), x)
    run = SegmentedSequential(model, plan)
    assert max(distances(step(run, x), expected).values()) <= 1e-12
    assert max(distances(step(run, x), expected).values()) <= 1e-12  # the next step is no other


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("kind", ["tiles", "strips"])
def test_channels_last_autocast_and_no_gradients(kind, autocast):
    """The numbers of the same plan with everything on the device, bit for bit: a copy rounds nothing."""
    kinds, tiles = KINDS[kind]
    torch.manual_seed(0)
    model = vgg16(width_divisor=16).to(memory_format=torch.channels_last)
    x = image(2, 3, 96, 64, dtype=torch.float32).detach().contiguous(memory_format=torch.channels_last)
    runs = [
        SegmentedSequential(model, planned(model, tuple(x.shape), CUTS, kinds, tiles, place, place))
        for place in ("device", "host")
    ]
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        expected, found = (step(run, x) for run in runs)
        with torch.no_grad():
            torch.testing.assert_close(runs[1](x), expected["output"], rtol=0, atol=0)
    for name, each in expected.items():
        torch.testing.assert_close(found[name], each, rtol=0, atol=0)


def test_strides_that_skip_rows_have_zero_gradients_there():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Sigmoid(), nn.Conv2d(4, 4, 2, 5), nn.Sigmoid(), nn.Conv2d(4, 2, 1)
    ).double()
    x = image(1, 3, 43, 38)
    for kinds, tiles in ((["tiles"] * 2, [(5, 2), (4, 3)]), (["strips"] * 2, [(5, 1), (4, 1)])):
        plan = planned(model, (1, 3, 43, 38), ["_1"], kinds, tiles, "host")
        found = step(SegmentedSequential(model, plan), x)
        assert max(distances(found, step(untiled(model), x)).values()) <= 1e-12


def test_what_is_read_whole_cannot_be_on_the_host():
    model = small()
    made = Plan.manual(model, (1, 3, 64, 64), cuts=["pool1"])
    for index, kind, words in ((1, "tiles", "read as a whole"), (0, "store", "autograd keeps what a stored segment")):
        segments = list(made.segments)
        segments[index] = segments[index].__class__(**vars(segments[index]) | {"boundary": "host", "kind": kind})
        with pytest.raises(PlanError, match=words):
            SegmentedSequential(model, Plan(made.image_shape, tuple(segments)))


def test_more_than_half_of_the_memory_lies_in_a_file(monkeypatch, tmp_path):
    monkeypatch.setattr(copies, "memory_bytes", lambda: 10_000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    asked = []
    mapped = copies._mapped
    monkeypatch.setattr(copies, "_mapped", lambda *args: asked.append(args) or mapped(*args))
    model, x = small(), image(1, 3, 96, 64)
    plan = planned(model, (1, 3, 96, 64), CUTS, ["strips"] * 3, [(6, 1), (4, 1), (2, 1)], "host", "host")
    found = step(SegmentedSequential(model, plan), x)
    assert asked
    assert max(distances(found, step(untiled(model), x)).values()) <= 1e-12
    assert list(tmp_path.iterdir()) == []  # nothing is left behind, nor seen while it is used


def test_a_full_disk_is_said_before_anything_is_written(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DiskFull, match="no room for frugal-"):
        copies._mapped(1000, torch.float32)


def test_an_exception_in_a_step_leaves_the_next_one_right(monkeypatch):
    """Also of a map that two segments read, whose gradient is half added up when it comes."""
    model, x = small(unet_small), image(1, 3, 64, 64)
    plan = planned(model, (1, 3, 64, 64), ["pool", "pool_1"], *KINDS["tiles"], "host")
    expected = step(untiled(model), x)
    run = SegmentedSequential(model, plan)
    calls, add = [], HostSum.add

    def failing(self, *args):
        calls.append(1)
        if len(calls) == 14:  # the last segment, a reader of both maps, has 4 tiles; this is in the middle one
            raise RuntimeError("planted")
        return add(self, *args)

    y = run(x)
    monkeypatch.setattr(HostSum, "add", failing)
    with pytest.raises(RuntimeError, match="planted"):
        y.sum().backward(retain_graph=True)
    monkeypatch.undo()
    model.zero_grad(set_to_none=True)
    y.backward(torch.ones_like(y))
    again = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    untouched = SegmentedSequential(model, plan)(x)
    untouched.backward(torch.ones_like(untouched))
    for name, p in model.named_parameters():
        torch.testing.assert_close(again[name], p.grad, rtol=0, atol=0)
    assert max(distances(step(run, x), expected).values()) <= 1e-12


def test_host_memory_is_given_back():
    model, x = small(), image(1, 3, 64, 64)
    plan = planned(model, (1, 3, 64, 64), CUTS, *KINDS["strips"], "host", "host")
    seen = []
    room = copies.room

    def watched(*args):
        found = room(*args)
        seen.append(weakref.ref(found.untyped_storage()))
        return found

    copies.room = watched
    try:
        SegmentedSequential(model, plan)(x).sum().backward()
    finally:
        copies.room = room
    gc.collect()
    assert seen
    assert [each for each in seen if each() is not None] == []


# ---- maps that several segments read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["device", "host"])
@pytest.mark.parametrize("kind", ["tiles", "strips", "checkpoint"])
def test_the_gradient_of_a_map_with_two_readers_is_added_up_in_one_memory(kind, boundary):
    """As many maps of its size are made in the backward pass as if it had one reader."""
    model, x = small(unet_small), image(1, 3, 64, 64, grad=False)
    plan = planned(model, (1, 3, 64, 64), ["pool_1", "down_1_3"], *KINDS[kind], boundary)
    run = SegmentedSequential(model, plan)
    readers = run._schedule((1, 3, 64, 64)).readers
    assert readers["down_1_3"] == 2
    handed = []
    after = Shared.after

    def watched(self, total):
        handed.append((total.data_ptr(), total.shape))
        return after(self, total)

    Shared.after = watched
    try:
        found = step(run, x)
    finally:
        Shared.after = after
    of_map = [each for each in handed if handed.count(each) == 2]
    assert of_map, "two readers hand on different memories"
    assert max(distances(found, step(untiled(model), x)).values()) <= 1e-12


def test_gradients_of_some_parameters_only():
    """Where autograd runs one reader of a map alone, nothing of it is missing."""
    model, x = small(unet_small), image(1, 3, 64, 64)
    run = SegmentedSequential(model, planned(model, (1, 3, 64, 64), ["pool", "pool_1"], *KINDS["tiles"], "host"))
    late, early = model.classes.weight, next(model.parameters())
    for asked in ([late], [early], [early, late], [x]):
        x = x.detach().requires_grad_()
        asked = [x if each.shape == x.shape else each for each in asked]
        found = torch.autograd.grad(run(x).square().sum(), asked)
        expected = torch.autograd.grad(model(x).square().sum(), asked)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
