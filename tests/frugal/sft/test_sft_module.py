"""`SegmentedSequential` in use: precision, formats, training over several steps, memory, state, and what it refuses."""

import copy
import gc
import math

import pytest
import torch
from exactness import distances, image, step, untiled
from torch import nn

from frugal.memory import LiveBytes
from frugal.models.resnet import resnet18
from frugal.models.vgg import vgg16, vgg16_bn
from frugal.sft import Plan, SegmentedSequential, ShapeError, UnsupportedOp
from frugal.timing.flags import flags

SHAPE = (2, 3, 96, 64)
SCHEDULES = {
    "tiles": {"cuts": ["pool2"], "kinds": ["tiles", "tiles"], "tiles": [(4, 3), (3, 2)]},
    "strips": {"cuts": ["pool2"], "kinds": ["strips", "strips"], "tiles": [(7, 1), (3, 1)]},
    "mixed": {"cuts": ["pool1", "pool3"], "kinds": ["strips", "tiles", "store"], "tiles": [(5, 1), (2, 2), (1, 1)]},
}


def small(seed=0, make=vgg16) -> nn.Module:
    torch.manual_seed(seed)
    return make(width_divisor=16)


def segmented(model, name="tiles", shape=SHAPE, **kwargs) -> SegmentedSequential:
    return SegmentedSequential(model, Plan.manual(model, shape, **SCHEDULES[name], **kwargs), **kwargs)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_low_precision_is_no_worse_than_torchs_own(name, dtype, channels_last):
    """Against float64: at most twice the untiled step's error, and the rounding of one more sum of windows."""
    model = small()
    x = image(*SHAPE)
    exact = step(untiled(model).double(), x)
    model, x = model.to(dtype), x.detach().to(dtype)
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    theirs = distances(step(untiled(model), x), exact)
    ours = distances(step(segmented(model, name), x), exact)
    # Sums of a few tensors' errors; one tensor's largest element alone would compare two roundings' luck.
    assert sum(ours.values()) <= 2 * sum(theirs.values()) + 1e-7
    assert max(ours.values()) <= 2 * max(theirs.values()) + 1e-7


@pytest.mark.parametrize("name", SCHEDULES)
def test_autocast(name):
    """bfloat16 by autocast: maps in bfloat16, gradients of weights in float32, as without segments."""
    model = small()
    x = image(*SHAPE)
    exact = step(untiled(model).double(), x)
    x = x.detach().float().requires_grad_()

    class Cast(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(x)

    theirs, ours = (step(Cast(each), x) for each in (untiled(model), segmented(model, name)))
    assert {k: v.dtype for k, v in ours.items()} == {k: v.dtype for k, v in theirs.items()}
    exact = {f"inner.{k}" if k not in ("output", "image") else k: v for k, v in exact.items()}
    theirs, ours = distances(theirs, exact), distances(ours, exact)
    assert max(ours.values()) > 1e-4  # it did compute in bfloat16
    assert sum(ours.values()) <= 2 * sum(theirs.values())


def test_channels_last_is_kept_at_boundaries():
    model = small().to(memory_format=torch.channels_last)
    wide = segmented(model)
    seen = []
    pool2 = next(each for each in wide._schedule(SHAPE).steps if each.output == "pool2")
    x = image(*SHAPE, dtype=torch.float32).detach().contiguous(memory_format=torch.channels_last)
    seen.append(pool2.run([x], []))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert not seen[0].is_contiguous()


@pytest.mark.parametrize(
    ("frozen", "grad"), [(("conv1_1", "conv1_2"), False), (("conv3_2", "fc"), True), (("conv5_3",), False)]
)
@pytest.mark.parametrize("name", SCHEDULES)
def test_only_what_is_wanted_gets_a_gradient(name, frozen, grad):
    model = small().double()
    for each in frozen:
        getattr(model, each).weight.requires_grad_(False)
    x = image(*SHAPE, grad=grad)
    expected = step(untiled(model), x)
    assert max(distances(step(segmented(model, name), x), expected).values()) <= 1e-12
    assert all(getattr(model, each).weight.grad is None for each in frozen)


def test_nothing_wants_a_gradient():
    model = small().requires_grad_(False)
    y = segmented(model)(image(*SHAPE, dtype=torch.float32, grad=False))
    assert not y.requires_grad


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_without_gradients(name, guard):
    model = small().double().eval()
    x = image(*SHAPE, grad=False)
    with guard():
        y = segmented(model, name)(x)
        torch.testing.assert_close(y, model(x), rtol=1e-12, atol=1e-14)
    assert not y.requires_grad


def learning() -> nn.Module:
    """Weights that neither shrink nor blow up what runs through them, and logits: gradients that move the weights."""
    model = small().double()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    model.softmax = nn.Identity()
    return model


@pytest.mark.parametrize("optimiser", [lambda p: torch.optim.SGD(p, 0.01, 0.9), lambda p: torch.optim.Adam(p, 1e-3)])
@pytest.mark.parametrize("name", ["tiles", "strips"])
def test_five_steps_of_training(name, optimiser):
    """As far as the untiled run's weights as rounding in five steps takes them (1e-10), and the same bits again."""
    x, target = image(*SHAPE, grad=False), torch.rand(2, 1024, dtype=torch.float64)

    def trained(wrap):
        model = learning()
        run = wrap(model)
        descent = optimiser(run.parameters())
        for _ in range(5):
            descent.zero_grad()
            nn.functional.mse_loss(run(x), target).backward()
            descent.step()
        return model.state_dict()

    expected = trained(lambda model: model)
    ours, again = trained(lambda model: segmented(model, name)), trained(lambda model: segmented(model, name))
    assert max(distances(ours, expected).values()) <= 1e-10
    assert max(distances(expected, learning().state_dict()).values()) > 1e-4  # it did learn
    assert all(torch.equal(ours[key], again[key]) for key in ours)


# ---- memory ----------------------------------------------------------------------------------------------------------


def peak(model, shape=(1, 3, 256, 256), steps=1) -> list[int]:
    """Live bytes at the worst moment of each step, and what is left afterwards."""
    x = torch.zeros(shape, device="meta")
    found = []
    live = LiveBytes()
    with live:
        live.track([*model.parameters(), x])
        for _ in range(steps):
            y = model(x)
            y.sum().backward()
            del y
            model.zero_grad()
            found += [live.peak, live.live]
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_memory_does_not_grow_over_twenty_steps(name):
    model = small().to("meta")
    found = peak(segmented(model, name, (1, 3, 256, 256)), steps=20)
    assert len(set(found[2::2])) == 1
    assert set(found[1::2]) == {0}


@pytest.mark.parametrize(("kind", "tiles"), [("tiles", [(32, 1), (8, 1)]), ("strips", [(16, 1), (8, 1)])])
def test_windows_take_a_fraction_of_the_whole(kind, tiles):
    """A quarter: an eighth of the largest segment, as much again for halo or carries, and the boundary's gradient."""
    model, shape = small().to("meta"), (1, 3, 512, 512)
    plan = Plan.manual(model, shape, cuts=["pool2"], kinds=[kind, kind], tiles=tiles)
    assert peak(SegmentedSequential(model, plan), shape)[0] < peak(model, shape)[0] / 4


def test_one_window_saves_no_more_than_the_untiled_network():
    """`store` pads where torch pads: no activation is kept twice."""
    model = small().to("meta")
    stored = SegmentedSequential(model, Plan.manual(model, (1, 3, 256, 256), kinds=["store"]))
    assert peak(stored)[0] <= peak(model)[0]


@pytest.mark.parametrize("kind", ["tiles", "strips"])
def test_live_bytes_on_meta_are_those_on_the_cpu(kind):
    plan = {"cuts": ["pool2"], "kinds": [kind, kind], "tiles": [(5, 1), (3, 1)]}
    found = []
    for device in ("meta", "cpu"):
        model = small().to(device)
        run = SegmentedSequential(model, Plan.manual(model, SHAPE, **plan))
        x = torch.zeros(SHAPE, device=device)
        live = LiveBytes()
        with live:
            live.track([*model.parameters(), x])
            run(x).sum().backward()
        found.append((live.peak, live.live))
    assert found[0] == found[1]


def test_a_failing_window_leaves_nothing_behind(monkeypatch):
    from frugal.sft import window

    model = small().double()
    run = segmented(model, "tiles")
    x = image(*SHAPE)
    expected = step(untiled(model), x)
    real, calls = window.step, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 100:
            raise MemoryError("no room")
        return real(*args)

    monkeypatch.setattr(window, "step", failing)
    with pytest.raises(MemoryError):
        run(x)
    gc.collect()
    assert max(distances(step(run, x), expected).values()) <= 1e-12


# ---- autograd --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiles", "strips"])
def test_a_second_derivative_is_refused(name):
    x = image(*SHAPE)
    y = segmented(small().double(), name)(x)
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_retained_graph_gives_the_same_gradients_again(name):
    model = small().double()
    x = image(*SHAPE)
    y = segmented(model, name)(x).square().sum()
    first = torch.autograd.grad(y, [x, *model.parameters()], retain_graph=True)
    second = torch.autograd.grad(y, [x, *model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_weight_that_changes_between_the_passes_is_noticed():
    model = small()
    y = segmented(model)(image(*SHAPE, dtype=torch.float32))
    with torch.no_grad():
        model.conv3_1.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_flags_of_the_forward_pass_hold_in_the_backward_pass(monkeypatch):
    from frugal.sft import window

    model = small()
    seen = []
    real = window.step

    def looking(*args):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark))
        return real(*args)

    monkeypatch.setattr(window, "step", looking)
    with flags(tf32=False, autotune=True):
        y = segmented(model)(image(*SHAPE, dtype=torch.float32))
    with flags(tf32=True, autotune=False):
        y.sum().backward()
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark) == (True, False)
    assert set(seen) == {(False, True)}


@pytest.mark.parametrize("kind", ["tiles", "strips"])
def test_dropout_draws_the_same_mask_again(kind):
    """A linear network: where the mask of the two passes is one, the output is ⟨image, its gradient⟩."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Dropout(0.5), nn.Conv2d(4, 2, 3, bias=False)).double()
    x = image(1, 3, 40, 40)
    plan = Plan.manual(model, x.shape, kinds=[kind], tiles=[(4, 1)], allow_dropout=True)
    run = SegmentedSequential(model, plan, allow_dropout=True)
    y = run(x)
    weights = torch.rand_like(y)
    before = torch.get_rng_state()
    (g,) = torch.autograd.grad((y * weights).sum(), x)
    torch.testing.assert_close((x * g).sum(), (y * weights).sum(), rtol=1e-12, atol=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(run(x), y)


# ---- state -----------------------------------------------------------------------------------------------------------


def test_it_is_the_models_state():
    model = small(make=vgg16_bn).eval()
    run = segmented(model)
    assert list(run.state_dict()) == list(model.state_dict())
    assert [name for name, _ in run.named_parameters()] == [name for name, _ in model.named_parameters()]
    other = small(seed=1, make=vgg16_bn)
    run.load_state_dict(other.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    run.to(torch.float64)
    assert model.conv1_1.weight.dtype == torch.float64
    run.requires_grad_(False)
    assert not model.fc.weight.requires_grad
    run.train()
    assert model.training
    assert model.bn1_1.training
    run.eval()
    assert not model.bn1_1.training
    assert "model." not in "".join(run.state_dict())


def test_a_copy_shares_nothing_with_the_original():
    model = small()
    run = segmented(model)
    other = copy.deepcopy(run)
    x = image(*SHAPE, dtype=torch.float32)
    other(x).sum().backward()
    assert model.conv1_1.weight.grad is None
    assert other.model.conv1_1.weight.grad is not None
    assert other.model.conv1_1.weight is other.state_dict(keep_vars=True)["conv1_1.weight"]


def test_the_plans_shape_alone():
    run = segmented(small())
    with pytest.raises(ShapeError, match=r"images \(1, 3, 96, 64\): the plan is for \(2, 3, 96, 64\)"):
        run(torch.zeros(1, 3, 96, 64))


@pytest.mark.parametrize("x", [torch.zeros(3, 96, 64), torch.zeros(SHAPE, dtype=torch.uint8), [1, 2]])
def test_what_is_no_image(x):
    with pytest.raises(ShapeError, match=r"give a floating-point tensor \[N, C, H, W\]"):
        segmented(small())(x)


def test_without_plan_and_budget_any_shape_runs_as_one_checkpoint():
    model = small().double()
    run = SegmentedSequential(model)
    for shape in ((1, 3, 64, 64), (2, 3, 50, 70)):
        x = image(*shape)
        assert max(distances(step(run, x), step(untiled(model), x)).values()) <= 1e-12


def test_a_residual_network_in_evaluation_mode_and_back():
    model = resnet18(width_divisor=16).double().eval()
    run = SegmentedSequential(model)
    x = image(1, 3, 64, 64)
    assert max(distances(step(run, x), step(untiled(model), x)).values()) <= 1e-12
    assert math.isfinite(run(x).sum().item())


def test_a_removed_hook_is_no_hook():
    model = small()
    handle = model.relu2_1.register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedOp, match="relu2_1: a module with forward hooks"):
        SegmentedSequential(model, Plan.manual(model, SHAPE))
    handle.remove()
    segmented(model)


def test_hooks_of_parameters_see_the_whole_gradient():
    model = small().double()
    seen = []
    model.conv1_2.weight.register_hook(seen.append)
    expected = step(untiled(model), image(*SHAPE))
    seen.clear()
    step(segmented(model), image(*SHAPE))
    (gradient,) = seen
    torch.testing.assert_close(gradient, expected["conv1_2.weight"], rtol=1e-10, atol=1e-14)
