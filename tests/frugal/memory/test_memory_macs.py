"""MacCounter against hand-computed counts, and against arithmetic: ones multiplied and added up count themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from frugal.errors import FrugalError
from frugal.memory import MacCounter


def counted(work):
    """(forward, recompute, dgrad, wgrad) of a function."""
    with MacCounter() as counter:
        work()
    assert counter.total == counter.forward + counter.recompute + counter.dgrad + counter.wgrad
    return counter.forward, counter.recompute, counter.dgrad, counter.wgrad


def wanting(*shape):
    """A tensor that needs a gradient and is no leaf: an activation."""
    return torch.randn(*shape, requires_grad=True) * 1


# ---- convolutions ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    dimensions=st.integers(1, 3),
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    batch=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    transposed=st.booleans(),
    data=st.data(),
)
def test_a_convolution_of_ones_adds_up_to_its_multiply_adds(
    dimensions, groups, channels, batch, kernel, stride, dilation, transposed, data
):
    # Without padding each product of the sum is 1 · 1, so that the sum of the outputs is their number: exact integers.
    size = [data.draw(st.integers(1 + dilation * (kernel - 1), 8)) for _ in range(dimensions)]
    inputs, outputs = (groups * n for n in channels)
    layer = getattr(F, f"conv{'_transpose' if transposed else ''}{dimensions}d")
    x = torch.ones(batch, inputs, *size, dtype=torch.float64, requires_grad=True)
    shape = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    w = nn.Parameter(torch.ones(*shape, *[kernel] * dimensions, dtype=torch.float64))
    y = layer(x * 1, w, stride=stride, dilation=dilation, groups=groups)
    macs = int(y.sum())
    assert counted(lambda: layer(x, w, stride=stride, dilation=dilation, groups=groups).sum().backward()) == (
        macs, 0, macs, macs,
    )  # fmt: skip


def test_only_the_gradients_that_are_wanted_count():
    macs = 2 * (8 * 8) * (8 * 3 * 3 * 3)  # images · places · weights; padding is multiplied
    image, wanted = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8, requires_grad=True)
    layer = nn.Conv2d(3, 8, 3, padding=1)
    frozen = nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)
    assert counted(lambda: layer(image).sum().backward()) == (macs, 0, 0, macs)
    assert counted(lambda: frozen(wanted).sum().backward()) == (macs, 0, macs, 0)
    assert counted(lambda: layer(wanted).sum().backward()) == (macs, 0, macs, macs)
    assert counted(lambda: torch.no_grad()(layer)(image)) == (macs, 0, 0, 0)
    assert counted(lambda: torch.inference_mode()(layer)(image)) == (macs, 0, 0, 0)


# ---- products of matrices --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), st.integers(2, 5), st.integers(1, 5), st.integers(1, 3))
def test_a_product_of_ones_adds_up_to_its_multiply_adds(m, k, n, batch):
    # k >= 2: einsum multiplies element by element where there is nothing to sum.
    a, w, many = torch.ones(m, k), torch.ones(k, n), torch.ones(batch, m, k)
    products = {
        "mm": lambda: a @ w,
        "mv": lambda: a @ w[:, 0],
        "dot": lambda: torch.dot(a[0], w[:, 0]),
        "bmm": lambda: torch.bmm(many, w.expand(batch, k, n)),
        "addmm": lambda: torch.addmm(torch.zeros(n), a, w),
        "baddbmm": lambda: torch.baddbmm(torch.zeros(batch, m, n), many, w.expand(batch, k, n)),
        "addbmm": lambda: torch.addbmm(torch.zeros(m, n), many, w.expand(batch, k, n)),
        "addmv": lambda: torch.addmv(torch.zeros(m), a, w[:, 0]),
        "einsum": lambda: torch.einsum("bij,jk->bik", many, w),
        "linear": lambda: F.linear(many, w.t()),
    }
    for name, product in products.items():
        assert counted(product) == (int(product().sum()), 0, 0, 0), name


W = nn.Parameter(torch.randn(8, 8))
LEAF = torch.randn(8, 8, requires_grad=True)
PRODUCT = 5 * 8 * 8


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: F.linear(wanting(5, 8), W).sum().backward(), (PRODUCT, 0, PRODUCT, PRODUCT)),
        (lambda: F.linear(torch.randn(5, 8), W).sum().backward(), (PRODUCT, 0, 0, PRODUCT)),
        (lambda: F.linear(wanting(5, 8), W.detach()).sum().backward(), (PRODUCT, 0, PRODUCT, 0)),
        # a leaf that is no Parameter is a weight where `linear` has its weight, and data elsewhere
        (lambda: F.linear(wanting(5, 8), LEAF).sum().backward(), (PRODUCT, 0, PRODUCT, PRODUCT)),
        (lambda: F.linear(LEAF[:5], W.detach()).sum().backward(), (PRODUCT, 0, PRODUCT, 0)),
        (lambda: (W @ wanting(5, 8).t()).sum().backward(), (PRODUCT, 0, PRODUCT, PRODUCT)),
        (lambda: (W @ wanting(8)).sum().backward(), (64, 0, 64, 0)),  # the other gradient is an outer product
        # of two activations neither gradient is a weight's
        (lambda: (wanting(3, 5, 8) @ wanting(3, 8, 4)).sum().backward(), (480, 0, 960, 0)),
        (lambda: F.linear(wanting(3, 5, 8), W, torch.zeros(8)).sum().backward(), (960, 0, 960, 960)),
        (lambda: (wanting(3, 5, 8) @ W.expand(3, 8, 8)).sum().backward(), (960, 0, 960, 960)),
        # what autograd.grad is not asked for is not computed
        (lambda: torch.autograd.grad(F.linear(LEAF, W).sum(), [W]), (512, 0, 0, 512)),
        (lambda: torch.autograd.grad(F.linear(LEAF, W).sum(), [LEAF]), (512, 0, 512, 0)),
        (lambda: torch.autograd.grad(F.linear(LEAF, W).sum(), [LEAF, W]), (512, 0, 512, 512)),
        (lambda: torch.inference_mode()(F.linear)(LEAF, W), (512, 0, 0, 0)),
        (lambda: LEAF * LEAF + LEAF.sum(), (0, 0, 0, 0)),
    ],
    ids=range(15),
)
def test_gradients_of_products(work, expected):
    assert counted(work) == expected


def test_under_autocast_the_weight_is_still_a_weight():
    def work():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = F.linear(wanting(5, 8), W)
        y.sum().backward()

    assert counted(work) == (PRODUCT, 0, PRODUCT, PRODUCT)


class Linear(torch.autograd.Function):
    """x Wᵀ with gradients, and on request the forward product once more, by hand."""

    @staticmethod
    def forward(ctx, x, w, again):
        ctx.save_for_backward(x, w)
        ctx.again = again
        return x @ w.t()

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        if ctx.again:
            with torch.enable_grad():
                x.detach().requires_grad_() @ w.t()
        return g @ w, g.t() @ x, None


def test_an_autograd_function_of_ones_own():
    assert counted(lambda: Linear.apply(wanting(5, 8), W, False).sum().backward()) == (PRODUCT, 0, PRODUCT, PRODUCT)
    assert counted(lambda: Linear.apply(wanting(5, 8), W, True).sum().backward()) == (
        PRODUCT, PRODUCT, PRODUCT, PRODUCT,
    )  # fmt: skip


# ---- whole networks --------------------------------------------------------------------------------------------------

CONV1, CONV2, LAST = 2 * 64 * (8 * 27), 2 * 64 * (8 * 2 * 9), 2 * 512 * 5


def network(device="cpu"):
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.ReLU()
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 5)).to(device)
    return net, torch.randn(2, 3, 8, 8, device=device)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_network_and_its_gradients(device):
    net, x = network(device)
    forward = CONV1 + CONV2 + LAST
    assert counted(lambda: net(x).sum().backward()) == (forward, 0, CONV2 + LAST, forward)


def test_checkpointing_computes_again_what_it_says():
    net, x = network()
    forward = CONV1 + CONV2 + LAST
    # Without re-entry it stops once all that was saved is there again: the last layer's result is not needed.
    again = checkpoint(net, x, use_reentrant=False)
    assert counted(lambda: again.sum().backward()) == (0, CONV1 + CONV2, CONV2 + LAST, forward)
    x.requires_grad_()
    again = checkpoint(net, x, use_reentrant=True)
    assert counted(lambda: again.sum().backward()) == (0, forward, forward, forward)


def test_attention():
    batch, heads, n, d = 2, 4, 6, 8
    q, k, v = (wanting(batch, heads, n, d) for _ in range(3))
    one = batch * heads * n * n * d
    # Its backward: scores once more, and the gradients of both products' factors.
    forward, recompute, dgrad, wgrad = counted(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    assert (forward, recompute, dgrad, wgrad) == (2 * one, 0, 5 * one, 0)


def test_a_recurrent_cell_written_with_products():
    steps, batch, size = 3, 2, 8
    cell = nn.GRU(size, size)
    x = torch.randn(steps, batch, size)
    one = steps * batch * 3 * size * size
    # The first state needs no gradient, and the input none at all.
    assert counted(lambda: cell(x)[0].sum().backward()) == (2 * one, 0, one * (steps - 1) // steps, 2 * one)


def test_products_that_are_hidden_are_refused_and_not_missed():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN, whose LSTM hides its products")
    with pytest.raises(FrugalError, match=r"cannot see the products inside aten\.mkldnn_rnn_layer: count a model"):
        counted(lambda: nn.LSTM(8, 8)(torch.randn(3, 2, 8)))


def test_a_counter_may_be_entered_again_and_goes_on():
    counter = MacCounter()
    for times in (1, 2):
        with counter:
            F.linear(LEAF, W)
        assert (counter.forward, counter.total) == (512 * times, 512 * times)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
def test_on_a_gpu_the_counts_are_the_same():
    net, x = network("cuda")
    forward = CONV1 + CONV2 + LAST
    assert counted(lambda: net(x).sum().backward()) == (forward, 0, CONV2 + LAST, forward)
    again = checkpoint(net, x, use_reentrant=False)
    assert counted(lambda: again.sum().backward()) == (0, CONV1 + CONV2, CONV2 + LAST, forward)
    q, k, v = (torch.randn(2, 4, 64, 64, device="cuda", dtype=torch.float16) for _ in range(3))
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v)) == (2 * 2 * 4 * 64 * 64 * 64, 0, 0, 0)
