"""Pairs of layers in one kernel, here its CPU twin: on whole numbers, whose sums are exact, torch's own results."""

import pytest
import torch
from torch import nn

from frugal.memory import LiveBytes
from frugal.models import build
from frugal.sft import Plan, PlanError, SegmentedSequential, graphs, plan, trace
from frugal.sft.dryrun import Settings, dry_run, on_meta
from frugal.sft.pairs import pairs_of
from kernels.tiled import cpu


def stem(pools=(True, True), activation=nn.ReLU, more: bool = True) -> nn.Sequential:
    """A pair and a layer behind it, all of whole numbers, whose sums stay below 2²⁴."""
    first = [nn.Conv2d(3, 8, 3, padding=1), activation(), *([nn.MaxPool2d(2)] if pools[0] else [])]
    second = [nn.Conv2d(8, 32, 3, padding=1, bias=False), activation(), *([nn.MaxPool2d(2)] if pools[1] else [])]
    behind = [nn.Conv2d(32, 4, 3, padding=1)] if more else []
    model = nn.Sequential(*first, *second, *behind)
    draw = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = torch.randint(-1, 2, p.shape, generator=draw).float()
    return model


def image(*shape: int) -> torch.Tensor:
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(1)).float()


@pytest.fixture
def runs(monkeypatch) -> list:
    """The shapes that the kernel has computed."""
    found = []
    compute = cpu.Prepared.__call__
    monkeypatch.setattr(
        cpu.Prepared, "__call__", lambda self, *given: found.append(self.shape) or compute(self, *given)
    )
    return found


def tiled(model, shape, grid, stack=1, **more) -> SegmentedSequential:
    made = Plan.manual(model, shape, tiles=[grid], stacks=[stack], backend="kernel")
    assert Plan.from_json(made.to_json()) == made
    return SegmentedSequential(model, made, **more)


@pytest.mark.parametrize(
    ("pools", "activation"),
    [
        ((False, False), nn.ReLU),
        ((False, True), nn.ReLU),
        ((True, False), nn.ReLU),
        ((True, True), nn.ReLU),
        ((True, True), lambda: nn.LeakyReLU(0.5)),
        ((False, True), nn.Identity),
    ],
)
def test_windows_are_what_torch_computes(runs, pools, activation):
    model, x = stem(pools, activation), image(2, 3, 59, 46)
    with torch.no_grad():
        expected = model(x)
        for grid, stack in [((1, 1), 1), ((4, 3), 1), ((5, 1), 2), ((11, 11), 4)]:
            assert torch.equal(tiled(model, x.shape, grid, stack)(x), expected)
            assert runs
            runs.clear()


def test_a_pair_whose_last_activation_pads_for_the_next_layer_and_one_that_ends_the_body(runs):
    x = image(1, 3, 40, 33)
    for model in (stem((False, False)), stem((False, True), more=False)):
        with torch.no_grad():
            assert torch.equal(tiled(model, x.shape, (3, 3))(x), model(x))
    assert len(runs) == 18


@pytest.mark.parametrize("stack", [1, 2])
def test_training_uses_it_forward_and_torch_backward(runs, stack):
    model, x = stem(), image(1, 3, 60, 44)
    found = []
    for backend in ("torch", "kernel"):
        made = Plan.manual(model, x.shape, tiles=[(3, 2)], stacks=[stack], backend=backend)
        model.zero_grad()
        leaf = x.clone().requires_grad_()
        y = SegmentedSequential(model, made)(leaf)
        (y * image(*y.shape)).sum().backward()
        found.append([y.detach(), leaf.grad, *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert sum(shape.N for shape in runs) == 6


def test_recorded_windows_lay_out_the_weights_of_their_own_step(runs, monkeypatch):
    monkeypatch.setattr(graphs, "record", lambda run, device, pool: run)
    model, x = stem(), image(1, 3, 48, 48)
    run = tiled(model, x.shape, (3, 3), graphs=True)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(run(x), model(x))
            model[0].weight.data += 1
    assert len(runs) == 18


@pytest.mark.parametrize("how", ["channels_last", "float64", "autocast", "strips", "stored with gradients"])
def test_what_the_kernels_do_not_compute_runs_in_torch(runs, how):
    model, x = stem(), image(1, 3, 48, 48)
    kind, th = {"strips": ("strips", 3), "stored with gradients": ("store", 1)}.get(how, ("tiles", 3))
    if how == "channels_last":
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    if how == "float64":
        model, x = model.double(), x.double()
    made = Plan.manual(model, x.shape, kinds=[kind], tiles=[(th, 1)], backend="kernel")
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        y = SegmentedSequential(model, made)(x)
        with torch.no_grad():
            # in bfloat16 a sum may be rounded otherwise in another order: by one place of eight bits
            torch.testing.assert_close(y, model(x), rtol=2**-7 if how == "autocast" else 0, atol=0)
    assert runs == []
    if how == "stored with gradients":
        with torch.no_grad():
            assert torch.equal(SegmentedSequential(model, made)(x), y)
        assert len(runs) == 1


@pytest.mark.parametrize(
    ("model", "pairs"),
    [
        (build("vgg16"), [("conv1_1", "conv1_2")]),
        (build("darknet19"), [("conv1", "conv2")]),
        (build("darknet19_bn"), []),  # norms between
        (build("resnet18").eval(), []),
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)), []),  # two activations
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.Conv2d(8, 8, 3, padding=1)), []),
        (nn.Sequential(nn.Conv2d(32, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)), []),  # more than 16 channels
        (nn.Sequential(nn.Conv2d(16, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1)), []),  # not worth it
        (nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1) for _ in range(5)]), [("_0", "_1"), ("_2", "_3")]),
    ],
)  # fmt: skip
def test_pairs_of_a_network(model, pairs):
    found = [pair for part in trace(model).cut(()) for pair in pairs_of(part)]
    assert [(pair.first.name, pair.second.name) for pair in found] == pairs


def test_a_plan_counts_what_the_kernel_saves():
    model, shape = build("vgg16", width_divisor=16).eval(), (1, 3, 256, 192)
    with torch.no_grad():
        made = {backend: plan(model, shape, 10**8, backend=backend) for backend in ("torch", "kernel")}
        assert made["kernel"].backend == "kernel"
        assert made["kernel"].predicted_peak_bytes < 0.8 * made["torch"].predicted_peak_bytes
        assert plan(model, shape, 10**8, autocast=torch.bfloat16, backend="kernel").backend == "torch"
        run, x = SegmentedSequential(model, made["kernel"]), torch.rand(shape)
        with LiveBytes() as live:
            live.track([model, x])
            run(x)
        # The kernels' own weights come on top, a layer's in turn thrice: C · 9 · 32 numbers of up to 32 channels.
        pairs = [pair for part in trace(model).cut(()) for pair in pairs_of(part)]
        weights = [4 * 9 * 32 * node.module.in_channels for pair in pairs for node in (pair.first, pair.second)]
        predicted = dry_run(on_meta(model), made["kernel"], Settings(training=False))
        assert predicted == made["kernel"].predicted_peak_bytes
        assert predicted <= live.peak_total <= predicted + sum(weights) + 3 * max(weights)


@pytest.mark.parametrize("make", [
    lambda model: Plan.manual(model, (1, 3, 64, 64), backend="cuda"),
    lambda model: plan(model, (1, 3, 64, 64), 10**8, backend="cuda"),
])  # fmt: skip
def test_another_backend_is_refused(make):
    with pytest.raises(PlanError, match="backend 'cuda' is none: take one of torch, kernel"):
        make(build("vgg16", width_divisor=16))
    with pytest.raises(PlanError, match="plan and backend together"):
        SegmentedSequential(nn.Conv2d(3, 3, 3), Plan.manual(stem(), (1, 3, 64, 64)), backend="kernel")
