"""On a GPU: stacks, recorded windows and pairs in one kernel, against float64 and against what runs without them."""

import copy

import pytest
import torch
from exactness import distances, step, untiled
from torch import nn

from frugal.models.resnet import resnet18
from frugal.models.vgg import vgg16
from frugal.sft import Plan, SegmentedSequential, graphs
from frugal.timing.flags import flags

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]


def image(shape, dtype=torch.float32, seed=3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to("cuda", dtype).requires_grad_()


def tiled(model, shape, grid, stack=1, backend="torch", cuts=(), **more) -> SegmentedSequential:
    count = len(Plan.manual(model, shape, cuts=cuts).segments)
    made = Plan.manual(model, shape, cuts=cuts, tiles=[grid] * count, stacks=[stack] * count, backend=backend)
    return SegmentedSequential(model, made, **more)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("stack", [1, 4])
def test_recorded_stacks_are_exact_over_steps(stack, train):
    torch.manual_seed(0)
    model = resnet18(width_divisor=4).cuda().double().train(train)
    plain = untiled(model)
    shape = (1, 3, 512, 448)
    run = tiled(model, shape, (4, 5), stack, graphs=True)
    optimisers = [torch.optim.SGD(each.parameters(), lr=1e-3) for each in (model, plain)]
    for seed in range(3):
        x = image(shape, torch.float64, seed)
        # 1e-11: sums in another order, over steps whose weights drift apart by them
        assert max(distances(step(run, x), step(plain, x)).values()) <= 1e-11
        for optimiser in optimisers:
            optimiser.step()
    assert run.unrecorded == {}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_recorded_windows_give_what_they_give_without(autocast, channels_last):
    torch.manual_seed(0)
    format_ = torch.channels_last if channels_last else torch.contiguous_format
    model, shape = vgg16(width_divisor=4).cuda().to(memory_format=format_), (2, 3, 768, 512)
    x = image(shape).detach().contiguous(memory_format=format_).requires_grad_()
    exact = step(untiled(model).double(), x.detach().double().requires_grad_())
    with flags(tf32=False), torch.autocast("cuda", autocast, enabled=autocast is not None):
        plain = distances(step(tiled(model, shape, (3, 2), cuts=("pool2",)), x), exact)
        run = tiled(model, shape, (3, 2), cuts=("pool2",), graphs=True)
        first = distances(step(run, x), exact)
        again = distances(step(run, x), exact)
    assert run.unrecorded == {}
    # cuDNN may choose another algorithm in a graph: twice as far from float64 at most, over all tensors together
    assert sum(first.values()) <= 2 * sum(plain.values()) + 1e-6
    assert sum(again.values()) <= 2 * sum(plain.values()) + 1e-6


def test_recording_keeps_its_memory_and_takes_no_more():
    torch.manual_seed(0)
    model, shape = vgg16(width_divisor=4).cuda(), (1, 3, 1024, 1024)
    run, x = tiled(model, shape, (4, 4), cuts=("pool3",), graphs=True), image(shape).detach()
    seen = []
    for _ in range(4):
        run(x).sum().backward()
        model.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        seen.append((torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()))
    assert len(set(seen[1:])) == 1


def test_a_recording_that_fails_leaves_the_device_as_it_was():
    x, pool, before = torch.ones(1000, device="cuda"), graphs.Pool(), torch.cuda.current_stream()
    with pytest.raises(graphs.CannotRecord):
        graphs.record(lambda: x.sum().item() and None, x.device, pool)  # the host waits for the device
    assert torch.cuda.current_stream() == before
    replay = graphs.record(lambda: x.add_(1) and None, x.device, pool)
    warm = x.clone()
    replay()
    assert torch.equal(x, warm + 1)


def test_a_segment_that_takes_numbers_from_the_host_runs_without_and_the_other_with():
    torch.manual_seed(0)
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)  # whose counts come from there
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), pool)
    model, shape = model.cuda().double(), (1, 3, 64, 64)
    run = tiled(model, shape, (2, 2), cuts=("_3",), graphs=True)
    x = image(shape, torch.float64)
    # 1e-12: sums in another order
    assert max(distances(step(run, x), step(untiled(model), x)).values()) <= 1e-12
    assert list(run.unrecorded) == ["_4"]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_pairs_in_one_kernel_are_no_further_from_float64_than_torch(precision, recorded):
    torch.manual_seed(0)
    part, shape = nn.Sequential(*list(vgg16().children())[:5]).cuda().eval(), (1, 3, 517, 390)
    x = image(shape).detach()
    with torch.no_grad():
        exact = copy.deepcopy(part).double()(x.double())
    autocast = torch.bfloat16 if precision == "bf16" else None
    casting = torch.autocast("cuda", autocast, enabled=autocast is not None)
    with flags(tf32=precision == "tf32"), casting, torch.no_grad():
        theirs = part(x)
        run = tiled(part, shape, (3, 4), backend="kernel", graphs=recorded)
        ours = [run(x) for _ in range(2)]
    assert torch.equal(*ours)
    assert run.unrecorded == {}

    def error(y):
        return ((y.double() - exact).norm() / exact.norm()).item()

    # Relative L2; twice torch's, and what float32's rounding of sums of 577 products is where torch uses Winograd.
    assert error(ours[0]) <= 2 * error(theirs) + 1e-6
    assert error(ours[0]) > 0


def test_training_with_pairs_in_one_kernel():
    torch.manual_seed(0)
    model, shape = vgg16().cuda(), (1, 3, 512, 512)
    exact = step(untiled(model).double(), image(shape, torch.float64))
    with flags(tf32=False):
        theirs = distances(step(untiled(model), image(shape)), exact)
        ours = distances(step(tiled(model, shape, (4, 4), backend="kernel"), image(shape)), exact)
    # at most twice the untiled step's error against float64, over all tensors together
    assert sum(ours.values()) <= 2 * sum(theirs.values()) + 1e-6
