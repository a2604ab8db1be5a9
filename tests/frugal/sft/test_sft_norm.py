"""Norms by what a whole image holds, and means over it, against torch's own modules on the untiled image."""

import pytest
import torch
from exactness import distances, image, step, untiled
from torch import nn

from frugal.memory import LiveBytes, MacCounter
from frugal.models import build
from frugal.sft import Plan, SegmentedSequential, ShapeError, UnsupportedOp, norm
from frugal.sft.counts import PURPOSES
from frugal.sft.dryrun import Settings, dry_run, on_meta
from frugal.sft.planner import plan


class SqueezeExcite(nn.Module):
    """J. Hu et al., CVPR 2018, figure 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x):
        weights = torch.sigmoid(self.up(torch.relu(self.down(self.pool(x)))))
        return x * weights


def chain(*norms: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    first, second = norms
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), first, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 5, stride=2, padding=2),
        second, nn.LeakyReLU(0.1), nn.Conv2d(8, 4, 3),
    )  # fmt: skip


NORMS = {
    "batch": lambda: (nn.BatchNorm2d(6), nn.BatchNorm2d(8)),
    "batch_mean_of_all": lambda: (nn.BatchNorm2d(6, momentum=None), nn.BatchNorm2d(8, affine=False)),
    "batch_untracked": lambda: (nn.BatchNorm2d(6, track_running_stats=False), nn.BatchNorm2d(8, eps=0.1)),
    "group": lambda: (nn.GroupNorm(3, 6), nn.GroupNorm(1, 8, affine=False)),
    "instance": lambda: (nn.InstanceNorm2d(6), nn.InstanceNorm2d(8, affine=True)),
    "squeeze_excite": lambda: (SqueezeExcite(6), nn.Sequential(nn.BatchNorm2d(8), SqueezeExcite(8))),
}


def randomised(model: nn.Module) -> nn.Module:
    """Weights of norms that are no identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.copy_(torch.rand(p.shape, generator=generator, dtype=torch.float64) + 0.5)
    return model


def segmented(model: nn.Module, shape, kind: str, th: int, tw: int) -> SegmentedSequential:
    outputs = Plan.manual(model, shape).segments
    heights = {
        name: s[2] for name, s in SegmentedSequential(model, Plan.manual(model, shape))._schedule(shape).shapes.items()
    }
    grids = [(min(th, heights[each.output]), 1 if kind == "strips" else tw) for each in outputs]
    return SegmentedSequential(
        model, Plan.manual(model, shape, kinds=[kind] * len(outputs), tiles=grids if kind != "store" else None)
    )


@pytest.mark.parametrize("kind", ["tiles", "strips", "store"])
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("shape", [(1, 3, 41, 33), (3, 3, 24, 50)])
def test_norms_are_exact(name, kind, shape):
    model = randomised(chain(*NORMS[name]()).double())
    plain = untiled(model)
    x = image(*shape)
    apart = distances(step(segmented(model, shape, kind, 3, 2), x), step(plain, x))
    # A bias in front of a norm has the gradient 0, of which rounding is left in either.
    behind = "0.bias" if "squeeze" not in name else ""
    exact = {key: value for key, value in apart.items() if key not in (behind, "4.bias")}
    assert max(exact.values()) <= 1e-12
    for buffer, right in plain.named_buffers():
        assert torch.allclose(model.get_buffer(buffer), right, rtol=1e-12, atol=0)


@pytest.mark.parametrize("net", ["vgg16_bn", "darknet19_bn", "resnet18", "resnet50"])
@pytest.mark.parametrize("kind", ["tiles", "strips"])
def test_networks_in_training_mode_are_exact(net, kind):
    model = randomised(build(net, width_divisor=16).double().train())
    plain = untiled(model)
    x = image(2, 3, 75, 66, grad=False)
    right = step(plain, x)
    found = step(segmented(model, (2, 3, 75, 66), kind, 2, 2), x)
    # A bias that reaches a norm through pointwise convolutions alone has the gradient 0 but for rounding; the others'
    # digits suffer where a norm is over few values, for there r is up to ε^−½ = 316.
    assert max((found[key] - b).abs().max() / b.abs().max().clamp(min=1e-3) for key, b in right.items()) <= 1e-9
    assert all(torch.allclose(model.get_buffer(name), value, rtol=1e-10) for name, value in plain.named_buffers())


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_running_statistics_over_three_steps_change_once_a_step(momentum):
    model = chain(nn.BatchNorm2d(6, momentum=momentum), nn.BatchNorm2d(8, momentum=momentum)).double()
    plain, tiled = untiled(model), segmented(model, (1, 3, 32, 32), "tiles", 4, 4)
    for seed in range(3):
        x = torch.randn(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for each in (plain, tiled):
            each(x).square().sum().backward()
    assert model[1].num_batches_tracked == 3
    for name, right in plain.named_buffers():
        assert torch.allclose(model.get_buffer(name), right, rtol=1e-12, atol=0)


def test_a_norm_follows_its_mode():
    model = randomised(chain(*NORMS["batch"]()).double())
    found = SegmentedSequential(model, budget_bytes=10**7)
    x = image(1, 3, 32, 32, grad=False)
    for training in (True, False, True):
        found.train(training)
        assert torch.allclose(found(x), untiled(model)(x), rtol=1e-12)


def test_a_plan_of_the_other_mode_is_refused_or_made_again():
    model = chain(*NORMS["batch"]())
    made = plan(model.eval(), (1, 3, 32, 32), 10**7)
    model.train()
    with pytest.raises(Exception, match="plan again"):
        SegmentedSequential(model, made)


def test_bands_merge_to_the_mean_and_variance_of_all(monkeypatch):
    monkeypatch.setattr(norm, "BAND_ELEMENTS", 3 * 4 * 7 * 2)  # two rows a band: five bands
    y = torch.randn(3, 4, 9, 7, dtype=torch.float64) + 1e6  # E[y²] − E[y]² would lose 12 digits of it
    found = norm.statistics("bn", nn.BatchNorm2d(4).double(), y)
    variance, mean = torch.var_mean(y, (0, 2, 3), correction=0)
    assert torch.allclose(found[0, 0], mean, rtol=1e-15)
    assert torch.allclose(found[1, 0], (variance + 1e-5).rsqrt(), rtol=1e-9)  # 1e6 ± 1 has ten digits left


def test_gradients_of_bands_are_those_of_the_formula(monkeypatch):
    monkeypatch.setattr(norm, "BAND_ELEMENTS", 40)
    for module in (nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)):
        y = torch.randn(2, 4, 5, 3, dtype=torch.float64, requires_grad=True)
        x = torch.randn(2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
        weight, bias = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
        assert torch.autograd.gradcheck(lambda v, m=module: norm.statistics("n", m.double(), v), y)
        found = norm.statistics("n", module.double(), y).detach().requires_grad_()
        assert torch.autograd.gradcheck(norm.normalise, (x, found, weight, bias))
        assert torch.autograd.gradcheck(lambda v, f: norm.normalise(v, f, None, None), (x, found))
    assert torch.autograd.gradcheck(lambda v: norm.spatial_mean(v, False), y)


def test_bfloat16_maps_have_statistics_in_float32():
    y = (torch.randn(1, 4, 64, 64) + 8).bfloat16()
    found = norm.statistics("bn", nn.BatchNorm2d(4), y)
    assert found.dtype == torch.float32
    exact = torch.var_mean(y.double(), (0, 2, 3), correction=0)
    assert torch.allclose(found[0, 0].double(), exact[1], rtol=1e-6)
    assert torch.allclose(found[1, 0].double(), (exact[0] + 1e-5).rsqrt(), rtol=1e-5)
    assert norm.normalise(y, found, None, None).dtype == torch.bfloat16


def test_a_variance_of_one_value_is_refused():
    with pytest.raises(ShapeError, match="1: BatchNorm2d takes the variance of 1 value"):
        SegmentedSequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))(torch.rand(1, 3, 3, 3))


def test_running_statistics_of_instance_norm_are_refused():
    with pytest.raises(UnsupportedOp, match="leave track_running_stats at False"):
        SegmentedSequential(nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True)))(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("net", ["vgg16_bn", "resnet18"])
def test_training_mode_is_planned_byte_for_byte(net):
    model, shape = build(net, width_divisor=16), (1, 3, 128, 96)
    whole = dry_run(on_meta(model), Plan.manual(model, shape), Settings())
    found = plan(model, shape, whole, allow=("tiles", "strips"), safety=0.0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    x = torch.rand(shape)
    with LiveBytes() as live, MacCounter() as counted:
        live.track([model, [p.grad for p in model.parameters()], x])
        y = SegmentedSequential(model, found)(x)
        y.backward(torch.ones_like(y))
        del y
    assert live.peak_total == found.predicted_peak_bytes <= whole
    assert found.predicted_macs == {what: getattr(counted, what) for what in PURPOSES}
