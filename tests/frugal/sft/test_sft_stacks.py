"""Tiles of one shape as one batch, and as recorded windows: the same gradients, and bytes that a dry run knows."""

import dataclasses
import logging
import re

import pytest
import torch
from exactness import distances, image, peak, step, untiled
from torch import nn

from frugal.models import build
from frugal.sft import Plan, PlanError, SegmentedSequential, graphs
from frugal.sft.dryrun import Settings, dry_run, on_meta
from frugal.sft.graph import trace
from frugal.sft.segments import schedule
from frugal.sft.stacks import shape_of


def chain(norm: type[nn.Module] = nn.Identity) -> nn.Sequential:
    """Of so little reach that small images have tiles of one shape."""
    torch.manual_seed(0)
    bias = norm is nn.Identity  # a norm takes a bias away again: its gradient would be rounding alone
    first = [nn.Conv2d(3, 6, 3, padding=1, bias=bias), norm(6), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(6, 8, 3, padding=1, bias=bias), norm(8), nn.LeakyReLU(0.1), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def tiled(model, shape, grid, stack=1, cuts=(), boundary="device", **more) -> SegmentedSequential:
    """The model with each segment in the same tiles."""
    count = len(Plan.manual(model, shape, cuts=cuts).segments)
    plan = Plan.manual(model, shape, cuts=cuts, tiles=[grid] * count, stacks=[stack] * count)
    segments = [dataclasses.replace(each, boundary=boundary) for each in plan.segments[:-1]] + [plan.segments[-1]]
    return SegmentedSequential(model, dataclasses.replace(plan, segments=tuple(segments)), **more)


@pytest.mark.parametrize(("grid", "most", "in_rows"), [((5, 4), 3, False), ((4, 6), 6, True), ((6, 1), 4, True)])
def test_a_stack_is_of_one_shape_and_every_tile_is_in_one(grid, most, in_rows):
    model, shape = chain(), (1, 3, 4 * 31, 4 * 24)
    tiles = schedule(trace(model), Plan.manual(model, shape, tiles=[grid], stacks=[most])).steps[0].run
    tiles = dataclasses.replace(tiles, hosted=frozenset({"x"} if in_rows else ()))
    places = {(id(r), id(c)): (i, j) for i, r in enumerate(tiles.rows) for j, c in enumerate(tiles.columns)}
    order = [[places[id(row), id(column)] for row, column in stack] for stack in tiles.stacks]
    found = [place for stack in order for place in stack]
    assert sorted(found) == sorted(places.values())
    assert 1 < max(map(len, order)) <= most
    assert (found == sorted(found)) == in_rows
    for stack in tiles.stacks:
        assert len({(shape_of(row), shape_of(column)) for row, column in stack}) == 1


@pytest.mark.parametrize(("net", "side", "tiles"), [("vgg16", 4096, 8), ("darknet19", 4000, 7), ("resnet50", 7168, 5)])
def test_tiles_larger_than_the_halo_have_nine_shapes_at_most(net, side, tiles):
    model = on_meta(build(net).eval())
    plan = Plan.manual(model, (1, 3, side, side), tiles=[(tiles, tiles)])
    (run,) = (step.run for step in schedule(trace(model), plan).steps)
    assert len({(shape_of(row), shape_of(column)) for stack in run.stacks for row, column in stack}) == 9


@pytest.mark.parametrize(
    ("model", "size", "grid", "stack"),
    [
        (chain(), (3, 3, 61, 80), (5, 4), 4),
        (chain(nn.BatchNorm2d), (1, 3, 64, 72), (4, 5), 3),
        (chain(nn.BatchNorm2d).eval(), (2, 3, 72, 64), (6, 1), 4),
    ],
)
def test_stacks_are_exact(model, size, grid, stack):
    model = model.double()
    x = image(*size)
    expected = step(untiled(model), x)
    # 1e-12: the order of sums alone differs
    assert max(distances(step(tiled(model, size, grid, stack), x), expected).values()) <= 1e-12


@pytest.mark.parametrize(("size", "grid", "stack"), [((1, 3, 96, 96), (6, 6), 5), ((2, 3, 80, 96), (5, 1), 2)])
def test_a_dry_run_counts_the_bytes_of_stacks(size, grid, stack):
    model = chain().eval()
    plan = Plan.manual(model, size, tiles=[grid], stacks=[stack])
    alone = dry_run(on_meta(model), Plan.manual(model, size, tiles=[grid]), Settings())
    found = dry_run(on_meta(model), plan, Settings())
    assert found == peak(model, plan, torch.rand(size))
    assert found > alone


@pytest.mark.parametrize("boundary", ["device", "host"])
@pytest.mark.parametrize("stack", [1, 3])
def test_recorded_windows_give_the_same_bits_over_steps(monkeypatch, boundary, stack):
    recorded = []
    monkeypatch.setattr(graphs, "record", lambda run, device, pool: recorded.append(run) or run)
    models, size = [chain(), chain()], (2, 3, 80, 64)
    given = size, (5, 4), stack, ("_3",), boundary
    runs = [tiled(models[0], *given), tiled(models[1], *given, graphs=True)]
    optimisers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    for seed in range(3):
        x = torch.rand(size, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        plain, ours = (step(run, x, seed) for run in runs)
        assert all(torch.equal(plain[name], ours[name]) for name in plain)
        for optimiser in optimisers:
            optimiser.step()
        if seed == 0:
            first = len(recorded)
    assert first > 2 * 3 * 3  # forward and backward, of two segments
    assert first == len(recorded)  # later steps record nothing
    assert runs[1].unrecorded == {}


def test_recorded_windows_under_autocast_with_frozen_weights(monkeypatch):
    monkeypatch.setattr(graphs, "record", lambda run, device, pool: run)
    model, size = chain(nn.BatchNorm2d).eval(), (1, 3, 64, 64)
    next(iter(model.parameters())).requires_grad_(False)
    x = image(*size, dtype=torch.float32, grad=False)
    with torch.autocast("cpu", torch.bfloat16):
        plain, ours = (step(tiled(model, size, (4, 4), 2, graphs=on), x) for on in (False, True))
    assert all(torch.equal(plain[name], ours[name]) for name in plain)


def test_a_recording_that_fails_after_its_first_runs_adds_nothing(monkeypatch):
    def fails(run, device, pool):
        run()
        raise graphs.CannotRecord("the device is busy")

    monkeypatch.setattr(graphs, "record", fails)
    model, size = chain(), (1, 3, 48, 48)
    run = tiled(model, size, (3, 3), graphs=True)
    ours, plain = (step(each, image(*size, dtype=torch.float32)) for each in (run, tiled(model, size, (3, 3))))
    assert all(torch.equal(plain[name], ours[name]) for name in plain)
    assert run.unrecorded == {"_8": "the device is busy"}


def test_what_cannot_be_recorded_runs_without(caplog):
    model, size = chain(), (1, 3, 48, 48)
    run = tiled(model, size, (3, 3), graphs=True)
    with caplog.at_level(logging.WARNING):
        ours = step(run, image(*size, dtype=torch.float32))
    plain = step(tiled(model, size, (3, 3)), image(*size, dtype=torch.float32))
    assert all(torch.equal(plain[name], ours[name]) for name in plain)
    assert run.unrecorded == {"_8": "there are no CUDA graphs on cpu"}
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("middle", "sentence"),
    [
        (nn.Dropout2d(0.5), r"_1 draws random numbers"),
        (nn.AvgPool2d(3, 1, 1, count_include_pad=False), r"_1 \(avg_pool\) takes numbers from the host"),
    ],
)
def test_operations_that_no_graph_takes_are_known_before(monkeypatch, middle, sentence):
    monkeypatch.setattr(graphs, "record", lambda run, device, pool: pytest.fail("recorded"))
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), middle, nn.Conv2d(4, 4, 3, padding=1))
    plan = Plan.manual(model, (1, 3, 16, 16), tiles=[(2, 2)], allow_dropout=True)
    run = SegmentedSequential(model, plan, allow_dropout=True, graphs=True)
    run(torch.rand(1, 3, 16, 16)).sum().backward()
    (reason,) = run.unrecorded.values()
    assert re.match(sentence, reason)


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"tiles": [(2, 2)], "stacks": [5]}, "_8: 5 of 4 windows at once: take from 1 to 4"),
        ({"tiles": [(2, 2)], "stacks": [0]}, "_8: 0 of 4 windows at once"),
        ({"kinds": ["strips"], "tiles": [(2, 1)], "stacks": [2]}, "_8: 2 of 1 windows at once"),
        ({"tiles": [(2, 2)], "stacks": [2, 2]}, "1 tiles and 2 stacks for 1 segments"),
    ],
)
def test_stacks_that_cannot_be(kwargs, sentence):
    with pytest.raises(PlanError, match=sentence):
        Plan.manual(chain(), (1, 3, 48, 48), **kwargs)


def test_statistics_of_several_images_are_not_stacked():
    squeezed = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Conv2d(4, 4, 3, padding=1))
    count = len(Plan.manual(squeezed, (2, 3, 16, 16)).segments)
    with pytest.raises(PlanError, match="2 windows at once of 2 images, each with its own"):
        Plan.manual(squeezed, (2, 3, 16, 16), tiles=[(2, 2)] * count, stacks=[1] * (count - 1) + [2])
    with pytest.raises(PlanError, match="graphs without a plan: their memory is in no budget"):
        SegmentedSequential(squeezed, budget_bytes=10**9, graphs=True)
