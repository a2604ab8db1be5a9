"""Ranges against torch: what an output range depends on is found by differentiating through the real operation."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from frugal.models.darknet import darknet19
from frugal.models.vgg import vgg16
from frugal.sft import ranges
from frugal.sft.graph import trace
from frugal.sft.ranges import ROWS, TRANSPOSED, UPSAMPLE, WINDOW, Axis, need, split

windows = st.builds(
    Axis, st.just(WINDOW), kernel=st.integers(1, 7), stride=st.integers(1, 3), dilation=st.integers(1, 3),
    low=st.integers(0, 4), high=st.integers(0, 4),
)  # fmt: skip


def run(axis: Axis, x: torch.Tensor) -> torch.Tensor:
    """The axis' operation on a vector, all weights 1."""
    weight = torch.ones(1, 1, axis.kernel, dtype=x.dtype)
    if axis.kind == WINDOW:
        padded = functional.pad(x, (axis.low, axis.high))
        return functional.conv1d(padded[None, None], weight, None, axis.stride, 0, axis.dilation)[0, 0]
    if axis.kind == UPSAMPLE:
        return x.repeat_interleave(axis.stride)
    y = functional.conv_transpose1d(x[None, None], weight, None, axis.stride, 0, 0, 1, axis.dilation)[0, 0]
    return functional.pad(y, (-axis.low, -axis.high))


def window(axis: Axis, x: torch.Tensor, lo: int, hi: int) -> torch.Tensor:
    """[lo, hi) of the output from what `need` says."""
    first, last, pad_lo, pad_hi = need(axis, lo, hi, len(x))
    part = x[first:last]
    if axis.kind == WINDOW:
        padded = functional.pad(part, (pad_lo, pad_hi))
        return run(Axis(WINDOW, axis.kernel, axis.stride, axis.dilation), padded)
    whole = Axis(axis.kind, axis.kernel, axis.stride, axis.dilation)
    return functional.pad(run(whole, part), (pad_lo, pad_hi))


@given(axis=windows, size=st.integers(1, 40), data=st.data())
@settings(deadline=None, max_examples=300)
def test_a_window_has_just_what_it_needs(axis, size, data):
    n = axis.size(size)
    if n < 1:
        return
    x = torch.arange(1.0, size + 1, dtype=torch.float64).requires_grad_()
    y = run(axis, x)
    assert n == len(y)
    lo = data.draw(st.integers(0, n - 1))
    hi = data.draw(st.integers(lo + 1, n))
    torch.testing.assert_close(window(axis, x, lo, hi), y[lo:hi], rtol=0, atol=0)  # sums of small integers are exact
    seen = torch.autograd.grad(y[lo:hi].sum(), x)[0].nonzero().flatten()
    first, last, _, _ = need(axis, lo, hi, size)
    if len(seen):
        # strides beyond the kernel and dilation leave gaps at the edges of a range, never more than they are long
        assert first <= seen[0] < first + axis.extent + axis.stride
        assert last - axis.extent - axis.stride <= seen[-1] < last
    else:
        assert last - first <= axis.extent


@given(
    kernel=st.integers(1, 5), stride=st.integers(1, 3), dilation=st.integers(1, 2), low=st.integers(0, 3),
    size=st.integers(1, 12), extra=st.integers(0, 2), data=st.data(),
)  # fmt: skip
@settings(deadline=None, max_examples=300)
def test_a_transposed_window_too(kernel, stride, dilation, low, size, extra, data):
    axis = Axis(TRANSPOSED, kernel, stride, dilation, low, low - extra)
    n = axis.size(size)
    if n < 1:
        return
    x = torch.arange(1.0, size + 1, dtype=torch.float64)
    y = run(axis, x)
    assert len(y) == n
    lo = data.draw(st.integers(0, n - 1))
    hi = data.draw(st.integers(lo + 1, n))
    torch.testing.assert_close(window(axis, x, lo, hi), y[lo:hi], rtol=0, atol=0)


@pytest.mark.parametrize(("lo", "hi"), [(0, 1), (1, 4), (2, 3), (5, 12)])
def test_upsampling(lo, hi):
    x = torch.arange(4.0)
    assert torch.equal(window(Axis(UPSAMPLE, stride=3), x, lo, hi), x.repeat_interleave(3)[lo:hi])


@given(
    kernel=st.integers(1, 5), stride=st.integers(1, 4), dilation=st.integers(1, 2), size=st.integers(5, 40),
    ceil=st.booleans(), data=st.data(),
)  # fmt: skip
@settings(deadline=None)
def test_sizes_of_pools_are_torchs(kernel, stride, dilation, size, ceil, data):
    padding = data.draw(st.integers(0, kernel // 2))
    axis = Axis(WINDOW, kernel, stride, dilation, padding, padding, ceil)
    if size + 2 * padding < axis.extent:
        return
    y = functional.max_pool1d(torch.zeros(1, 1, size), kernel, stride, padding, dilation, ceil)
    assert axis.size(size) == y.shape[-1]


@given(n=st.integers(1, 200), data=st.data())
def test_parts_partition(n, data):
    parts = split(n, data.draw(st.integers(1, n)))
    assert [i for lo, hi in parts for i in range(lo, hi)] == list(range(n))
    assert max(hi - lo for lo, hi in parts) - min(hi - lo for lo, hi in parts) <= 1


@pytest.mark.parametrize("parts", [0, 6])
def test_impossible_parts(parts):
    with pytest.raises(ValueError, match="from 1 to 5 are possible"):
        split(5, parts)


def body(model, size):
    graph = trace(model)
    shapes = graph.shapes((1, 3, size, size))
    return graph.cut([])[0], {name: shape[2] for name, shape in shapes.items()}, shapes


# The windows of the public artifact's networks at 2048, four tiles, single halo.
GOLDEN = {
    vgg16: [(0, 602), (422, 1114), (934, 1626), (1446, 2048)],
    darknet19: [(0, 683), (341, 1195), (853, 1707), (1365, 2048)],
}


@pytest.mark.parametrize("model", GOLDEN)
def test_windows_of_the_published_networks(model):
    part, sizes, _ = body(model(), 2048)
    found = [ranges.walk(part.nodes, part.output, lo, hi, sizes, ROWS) for lo, hi in split(sizes[part.output], 4)]
    assert [spans[part.inputs[0]] for spans in found] == GOLDEN[model]


def test_four_tiles_of_a_power_of_two_have_three_shape_classes():
    part, sizes, _ = body(vgg16(), 2048)
    classes = ranges.shape_classes(part.nodes, part.output, 8, sizes, ROWS)
    assert sorted(classes.values()) == [[0], [1, 2, 3, 4, 5, 6], [7]]


# Floats of an interior carry by image column: Σ 2·C_in ÷ scale over the 3×3 convolutions.
@pytest.mark.parametrize(("model", "floats"), [(vgg16(), 1158), (vgg16(width_divisor=16), 78), (darknet19(), 358)])
def test_carries_of_the_published_networks(model, floats):
    part, sizes, shapes = body(model, 2048)
    rows = ranges.carried(part.nodes, part.output, 16, sizes)
    assert sum(shapes[name][1] * shapes[name][3] * count for name, count in rows.items()) == floats * 2048


@pytest.mark.parametrize("parts", [1, 2, 7, 16, 64])
def test_marks_make_the_largest_strip_as_small_as_any_cut_could(parts):
    part, sizes, shapes = body(vgg16(), 2048)
    row_bytes = {name: shape[1] * shape[3] * 4 for name, shape in shapes.items()}
    marks = ranges.marks(part.nodes, part.output, parts, sizes, row_bytes)
    assert (len(marks), marks[0], marks[-1]) == (parts + 1, 0, 64)
    assert list(marks) == sorted(set(marks))

    def strip(lo, hi):
        before, after = (ranges.produced(part.nodes, part.output, mark, sizes) for mark in (lo, hi))
        return sum(row_bytes[name] * (after[name] - before[name]) for name in after)

    cost = {(lo, hi): strip(lo, hi) for lo in range(64) for hi in range(lo + 1, 65)} if parts > 1 else {(0, 64): 0}
    best = {(0, 0): 0}  # (strips, rows) → least possible largest strip
    for count in range(1, parts + 1):
        for hi in range(count, 65):
            options = [
                max(best[count - 1, lo], cost[lo, hi])
                for lo in range(hi)
                if (count - 1, lo) in best and (lo, hi) in cost
            ]
            if options:
                best[count, hi] = min(options)
    assert max(cost[pair] for pair in itertools.pairwise(marks)) == best[parts, 64]
