"""A dry run of few windows on the meta device allocates what the whole step does on the CPU, byte for byte."""

import pytest
import torch
from exactness import peak

from frugal.models import build
from frugal.sft import estimate
from frugal.sft.dryrun import Settings, dry_run, on_meta, sampled
from frugal.sft.graph import trace
from frugal.sft.plans import Plan
from frugal.sft.ranges import COLUMNS, ROWS, walk
from frugal.sft.segments import schedule

SCHEDULES = [
    ("vgg16", (1, 3, 203, 171), ("pool2",), ("tiles", "tiles"), ((4, 3), (2, 2))),
    ("vgg16", (1, 3, 224, 224), (), ("tiles",), ((7, 7),)),
    ("vgg16", (1, 3, 512, 64), ("pool3",), ("strips", "store"), ((16, 1), (1, 1))),
    ("vgg16", (2, 3, 512, 64), (), ("strips",), ((14, 1),)),
    ("vgg16", (1, 3, 64, 64), ("pool1", "pool3"), ("store", "checkpoint", "tiles"), ((1, 1), (1, 1), (2, 2))),
    ("darknet19", (1, 3, 256, 128), ("pool1",), ("strips", "strips"), ((40, 1), (3, 1))),
    ("unet_small", (1, 3, 96, 64), (), ("tiles",), ((4, 4),)),
    ("resnet18", (1, 3, 128, 96), ("layer2_0_relu_1",), ("strips", "store"), ((8, 1), (1, 1))),
    ("resnet50", (1, 3, 96, 96), ("layer2_0_relu_2",), ("store", "tiles"), ((1, 1), (2, 2))),
    ("darknet19_bn", (2, 3, 96, 96), (), ("tiles",), ((3, 2),)),
]


@pytest.mark.parametrize(("net", "shape", "cuts", "kinds", "tiles"), SCHEDULES)
def test_a_dry_run_counts_every_byte(net, shape, cuts, kinds, tiles):
    model = build(net, width_divisor=16).eval()
    plan = Plan.manual(model, shape, cuts=cuts, kinds=kinds, tiles=tiles)
    assert dry_run(on_meta(model), plan, Settings()) == peak(model, plan, torch.rand(shape))


def test_a_wanted_image_gradient_is_counted():
    model, shape = build("vgg16", width_divisor=16), (1, 3, 128, 96)
    plan = Plan.manual(model, shape, kinds=("tiles",), tiles=((3, 2),))
    measured = peak(model, plan, torch.rand(shape, requires_grad=True))
    assert dry_run(on_meta(model), plan, Settings(input_grad=True)) == measured
    assert dry_run(on_meta(model), plan, Settings()) < measured


@pytest.mark.parametrize(("kind", "th"), [("strips", 4), ("tiles", 3), ("checkpoint", 1)])
def test_autocast_is_counted_where_there_is_none(kind, th):
    model, shape = build("vgg16", width_divisor=16), (1, 3, 256, 192)
    plan = Plan.manual(model, shape, kinds=(kind,), tiles=((th, 1),))
    with torch.autocast("cpu", torch.bfloat16):
        measured = peak(model, plan, torch.rand(shape))
    predicted = dry_run(on_meta(model), plan, Settings(autocast=torch.bfloat16))
    assert predicted < 0.9 * dry_run(on_meta(model), plan, Settings())
    # Torch's autocast casts the head's weights too, and keeps them until it ends.
    assert abs(predicted - measured) <= 2 * model.fc.weight.numel()


def test_a_copy_of_the_meta_device_has_no_numbers_and_leaves_the_model_alone():
    model = build("resnet18", width_divisor=16)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    copy = on_meta(model)
    assert all(t.is_meta for t in (*copy.parameters(), *copy.buffers()))
    assert {name: t.shape for name, t in copy.state_dict().items()} == {n: t.shape for n, t in before.items()}
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_few_windows_are_run():
    model = on_meta(build("vgg16", width_divisor=16))
    shape = (1, 3, 2048, 2048)
    tiles = schedule(trace(model), Plan.manual(model, shape, kinds=("tiles",), tiles=((32, 32),)))
    assert len(sampled(tiles).steps[0].run.stacks) <= 40  # of 1024: five classes along an axis, and the first two
    strips = schedule(trace(model), Plan.manual(model, (1, 3, 32768, 64), kinds=("strips",), tiles=((64, 1),)))
    assert len(sampled(strips).steps[0].run.few.steps) <= 16


@pytest.mark.parametrize("net", ["vgg16", "darknet19", "resnet18", "unet_small"])
def test_reach_is_what_the_ranges_say_far_from_the_border(net):
    graph = trace(build(net, width_divisor=16).eval())
    shapes = graph.sized((1, 3, 1024, 1024)).shapes((1, 3, 1024, 1024))
    part = graph.cut(())[-1]
    n = shapes[part.output][2]
    lo, hi = n // 2, n // 2 + max(1, n // 32)
    for axis in (ROWS, COLUMNS):
        sizes = {name: shape[2 + axis] for name, shape in shapes.items()}
        for name, (first, last) in walk(part.nodes, part.output, lo, hi, sizes, axis).items():
            reach = estimate.reaches(part, axis)[name]
            # A transposed convolution rounds to whole elements, which the convolutions below it widen.
            off = 8 if net == "unet_small" else 0
            assert reach.scale * lo - reach.before == pytest.approx(first, abs=off)
            assert reach.scale * hi + reach.after == pytest.approx(last, abs=off)
