"""A user's methods: loss and gradients are plain PyTorch's, and less is kept."""

import functools

import pytest
import torch
import trained_networks
from torch import nn

from frugal.dtr.errors import Unsupported
from frugal.dtr.methods import METHODS, blocks, forward_of, rows, settings_of
from frugal.memory import LiveBytes

EAGER = [name for name in METHODS if name not in ("plain", "activation_budget")]


@functools.cache
def step(name, method):
    """(loss, gradients, peak bytes of what a step makes) of a network of trained_networks."""
    model, inputs, loss_of = trained_networks.made(name)
    forward = forward_of(method, model)
    torch.manual_seed(1)
    with LiveBytes() as meter:
        loss = loss_of(forward(*inputs))
        loss.backward()
    assert not any("forward" in vars(part) for part in model.modules())
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, meter.peak


def equal(found, plain):
    assert torch.equal(found[0], plain[0])
    assert found[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        assert torch.equal(found[1][name], gradient), name


CASES = [(name, method) for name in ("resnet32", "transformer", "unet", "lstm") for method in EAGER]
IN_NO_ROW = [("unet", "checkpoint_sqrt"), ("lstm", "checkpoint_sqrt")]


# Dropout draws again what it drew, so that everything is equal to the bit on one thread of a CPU.
@pytest.mark.parametrize(
    ("name", "method"),
    [case for case in CASES if case not in IN_NO_ROW] + [("densenet100", "checkpoint_sqrt")],
)
def test_loss_and_gradients_are_plain_pytorchs(name, method):
    equal(step(name, method), step(name, "plain"))


@pytest.mark.parametrize(("name", "method"), IN_NO_ROW)
def test_segments_need_blocks_in_a_row(name, method):
    with pytest.raises(Unsupported, match=r"stand in no Sequential: .* take checkpoint_blocks"):
        step(name, method)


@pytest.mark.parametrize(
    ("name", "method", "share"),
    [
        ("resnet32", "checkpoint_blocks", 0.48),
        ("resnet32", "selective_sdpa", 0.55),
        ("resnet32", "selective_matmul", 0.65),
        ("resnet32", "checkpoint_sqrt", 0.72),
        ("transformer", "checkpoint_blocks", 0.73),
        ("transformer", "checkpoint_sqrt", 0.83),
        ("gru", "checkpoint_blocks", 0.36),
        ("gru", "selective_sdpa", 0.67),
    ],
)
def test_less_is_kept(name, method, share):
    # Of plain PyTorch's peak, as it was found; another version of torch may make other temporaries.
    assert step(name, method)[2] == pytest.approx(share * step(name, "plain")[2], rel=0.1)


@pytest.mark.parametrize(
    ("name", "kinds", "count"),
    [
        ("resnet32", {"CifarBlock"}, 15),
        ("densenet100", {"DenseBlock", "Transition"}, 5),
        ("unet", {"NormedConv"}, 9),
        ("inceptionv4", {"ConvUnit", "InceptionCell"}, 22),
        ("lstm", {"Cell"}, 1),
        ("gru", {"GRUCell"}, 1),
        ("treelstm", {"Cell"}, 1),
        ("transformer", {"TransformerEncoderLayer", "TransformerDecoderLayer"}, 4),
    ],
)
def test_natural_blocks(name, kinds, count):
    found = blocks(trained_networks.made(name)[0])
    assert ({type(block).__name__ for block in found}, len(found)) == (kinds, count)


def test_rows_hold_what_runs_one_after_another():
    assert [len(row) for row in rows(trained_networks.made("resnet32")[0])] == [5, 5, 5]
    assert [len(row) for row in rows(trained_networks.made("transformer")[0])] == [2, 2]


@pytest.mark.parametrize("name", ["unrolled_gan", "fused_gru"])
@pytest.mark.parametrize("method", ["checkpoint_blocks", "checkpoint_sqrt", "selective_matmul"])
def test_a_network_without_blocks_is_refused(name, method):
    with pytest.raises(Unsupported, match="has no blocks"):
        forward_of(method, trained_networks.made(name)[0])


@pytest.fixture
def chain():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Sigmoid()) for _ in range(6)))
    return model, torch.randn(32, 16)


def test_the_activation_budget_is_torchs(chain):
    model, x = chain
    model(x).sum().backward()
    own = {tensor.untyped_storage()._cdata for tensor in (x, *model.parameters())}
    gradients, kept = [p.grad for p in model.parameters()], []
    for budget in (0.0, 1.0):
        torch.compiler.reset()
        model.zero_grad(set_to_none=True)
        out = forward_of("activation_budget", model, budget=budget, backend="aot_eager_decomp_partition")(x)
        kept.append(sum(t.nbytes for t in out.grad_fn.saved_tensors if t.untyped_storage()._cdata not in own))
        out.sum().backward()
        for gradient, parameter in zip(gradients, model.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad)  # decomposed operators round otherwise
    torch.compiler.reset()
    assert kept[0] < 0.1 * kept[1]


def test_a_network_that_is_no_one_graph_is_refused():
    class Deciding(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    torch.compiler.reset()
    run = forward_of("activation_budget", Deciding(4, 4), budget=0.5, backend="eager")
    with pytest.raises(Unsupported, match="cannot make one graph of Deciding"):
        run(torch.ones(2, 4))
    torch.compiler.reset()


def test_what_decides_beside_the_budget_is_recorded():
    assert settings_of("activation_budget") == {"solver": "dp", "estimator": "flops"}
    assert settings_of("save_on_cpu") == {}


def test_arguments_that_make_no_sense(chain):
    with pytest.raises(ValueError, match="did you mean 'checkpoint_blocks'"):
        forward_of("checkpoint_block", chain[0])
    with pytest.raises(ValueError, match=r"budget = 1.5: .* from 0 \(recompute\) to 1"):
        forward_of("activation_budget", chain[0], budget=1.5)
