"""The paper's scheme in Numba's CUDA simulator against float64 plain sums; its published tiles, names and builds."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.build import build
from kernels.simulator import simulate
from kernels.sparse import ConvShape, UnsupportedShape, pack_weights, paper, paper_scheme, reference

TABLE = Path(__file__).parents[2] / "data" / "cusnn" / "layers.csv"
COLUMNS = {
    "v100": "v100_tile_h_w_c",
    "rtx2080ti_networks": "rtx2080ti_e2e_tile_h_w_c",
    "rtx2080ti_layers": "rtx2080ti_layers_tile_h_w_c",
}
RESNET50 = tuple(ConvShape(1, c, h, h, c) for c, h in ((64, 56), (128, 28), (256, 14), (512, 7)))
DENSENET169 = tuple(ConvShape(1, 128, h, h, 32) for h in (56, 28, 14, 7))
GUARD = 777  # before anything is written; of positions its low byte

# shape, tile, channels of a block, share of zeros
CASES = {
    "one tile": (ConvShape(1, 2, 2, 3, 3), (2, 3), 2, 0.5),
    "ragged tiles, a group that is not full": (ConvShape(1, 5, 5, 7, 5), (2, 3), 2, 0.6),
    "more output channels than a warp": (ConvShape(1, 2, 2, 2, 33), (2, 2), 1, 0.3),
    "more input channels than a warp": (ConvShape(1, 35, 2, 3, 2), (2, 2), 16, 0.5),
    "a tile larger than the image": (ConvShape(1, 2, 1, 2, 1), (4, 5), 2, 0.3),
    "no zeros: full lists": (ConvShape(1, 2, 6, 6, 2), (2, 2), 2, 0.0),
    "nothing but zeros": (ConvShape(1, 3, 3, 4, 3), (2, 2), 2, 1.0),
    "a published tile": (ConvShape(1, 3, 7, 7, 4), (2, 7), 16, 0.8),
    "a published tile of two rows": (ConvShape(1, 2, 6, 9, 2), (4, 5), 8, 0.7),
}


def inputs(shape: ConvShape, zeros: float) -> tuple[np.ndarray, np.ndarray]:
    """Small integers, a few of them -0: every sum is below 2^24, so float32 is exact in any order."""
    rng = np.random.default_rng(shape.C * 100 + shape.N)
    x = rng.integers(-8, 9, (1, shape.C, shape.H, shape.W)).astype(np.float32)
    x[rng.random(x.shape) < zeros] = -0.0
    return x, rng.integers(-8, 9, (shape.N, shape.C, 3, 3)).astype(np.float32)


def cut(shape: ConvShape, tile: tuple[int, int], group: int) -> paper_scheme.Scheme:
    return paper_scheme.cut(shape, paper.Conv(*tile, group), group)


def simulated(kernel, grid, block, given) -> None:
    arrays = [value.numpy() if isinstance(value, torch.Tensor) else value for value in given]
    arrays = [a.view(np.uint32) if isinstance(a, np.ndarray) and a.dtype == np.int32 else a for a in arrays]
    simulate(kernel.source(), grid, block, arrays)


def guarded(found: paper_scheme.Scheme) -> paper_scheme.Lists:
    """Lists in memory that held other things before."""
    lists = paper_scheme.Lists(found, "cpu")
    lists.values.fill_(GUARD)
    lists.positions.fill_(GUARD % 256)
    lists.lengths.fill_(3)
    return lists


def transform(found: paper_scheme.Scheme, x: np.ndarray, lists: paper_scheme.Lists) -> None:
    """Fills the lists with x [1, C, H, W]."""
    channels_last = torch.from_numpy(x[0].transpose(1, 2, 0).copy())
    given = paper_scheme.transform_arguments(found, channels_last, lists)
    simulated(found.transform, found.transform_grid, found.transform_block, given)


def run(found: paper_scheme.Scheme, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """The layer's output [1, N, H, W], into a buffer that held NaN, with guards around it."""
    shape, lists = found.shape, guarded(found)
    room = torch.full((shape.H * shape.W * shape.N + 2,), torch.nan)
    y = room[1:-1].view(shape.H, shape.W, shape.N)
    given = paper_scheme.conv_arguments(found, lists, pack_weights(torch.from_numpy(w)), y)
    paper_scheme.run(
        lists,
        y,
        lambda: transform(found, x, lists),
        lambda: simulated(found.conv, found.conv_grid, found.conv_block, given),
        None if bias is None else torch.from_numpy(bias),
    )
    assert room[[0, -1]].isnan().all(), "a guard was overwritten"
    return y.numpy().transpose(2, 0, 1)[None]


@pytest.mark.parametrize("name", CASES)
def test_integers_are_exact(name):
    shape, tile, group, zeros = CASES[name]
    x, w = inputs(shape, zeros)
    np.testing.assert_array_equal(run(cut(shape, tile, group), x, w), reference.conv(x, w))


@settings(max_examples=15, deadline=None)
@given(
    shape=st.builds(
        ConvShape, B=st.just(1), C=st.integers(1, 4), H=st.integers(1, 6), W=st.integers(1, 6),
        N=st.sampled_from([1, 31, 32, 33]),
    ),
    tile=st.tuples(st.integers(2, 3), st.integers(2, 3)), group=st.integers(1, 3),
    zeros=st.sampled_from([0.0, 0.5, 0.9]),
)  # fmt: skip
def test_any_small_shape_is_exact(shape, tile, group, zeros):
    x, w = inputs(shape, zeros)
    np.testing.assert_array_equal(run(cut(shape, tile, group), x, w), reference.conv(x, w))


@pytest.mark.parametrize("name", CASES)
def test_a_list_holds_each_non_zero_of_its_window_once(name):
    shape, (th, tw), group, zeros = CASES[name]
    x, _ = inputs(shape, zeros)
    found = cut(shape, (th, tw), group)
    lists = guarded(found)
    lists.clear()
    transform(found, x, lists)
    rows, cols = found.tiles
    values = lists.values.view(shape.C, rows, cols, -1)
    positions = lists.positions.view(values.shape)
    lengths = lists.lengths.view(values.shape[:3])
    for c, a, b in np.ndindex(*lengths.shape):
        wanted = Counter()
        for i, j in np.ndindex(th + 2, tw + 2):
            row, col = a * th + i - 1, b * tw + j - 1
            if 0 <= row < shape.H and 0 <= col < shape.W and x[0, c, row, col] != 0:
                wanted[i * (tw + 2) + j, x[0, c, row, col]] += 1
        end = int(lengths[c, a, b])
        entries = zip(positions[c, a, b, :end].tolist(), values[c, a, b, :end].tolist(), strict=True)
        assert Counter(entries) == wanted
        assert (values[c, a, b, end:] == GUARD).all()
        assert (positions[c, a, b, end:] == GUARD % 256).all()


def test_a_bias_is_added_once():
    shape = ConvShape(1, 4, 3, 4, 5)
    x, w = inputs(shape, 0.5)
    bias = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(run(cut(shape, (2, 2), 1), x, w, bias), reference.conv(x, w, bias))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_inputs_reach_what_dense_reaches(value):
    shape = ConvShape(1, 3, 3, 4, 3)
    x, w = inputs(shape, 0.5)
    x[0, 2, 1, 2] = value
    with np.errstate(invalid="ignore"):
        wanted = reference.conv(x, w)
    np.testing.assert_array_equal(run(cut(shape, (2, 3), 2), x, w), wanted)


def test_the_count_is_of_what_the_relu_leaves_zero():
    x = np.array([*range(-300, 0), -0.0, 0.0, *range(1, 9), np.nan, np.inf, -np.inf], np.float32)
    given, zeros = np.append(x, np.float32(-5)), np.full(2, 100, np.uint32)
    simulate(paper.Count().source(), paper_scheme.count_grid(len(x)), paper.Count.threads, (given, zeros, len(x)))
    np.testing.assert_array_equal(given[:-1], np.where(x <= 0, np.float32(0), x))
    assert given[-1] == -5  # beyond the end
    assert zeros.tolist() == [100 + 300 + 2 + 1, 100]


# ---- tiles -----------------------------------------------------------------------------------------------------------


def published() -> list[dict[str, str]]:
    """The table's layers that the artifact of the paper runs sparse, of ResNets and DenseNets."""
    with TABLE.open() as file:
        rows = [row for row in csv.DictReader(file) if row["paper_threshold"] and not row["network"].startswith("vgg")]
    assert len(rows) > 90
    return rows


@pytest.mark.parametrize("tuned_for", paper_scheme.TUNED_FOR)
def test_tiles_and_thresholds_are_the_published_ones(tuned_for):
    seen = set()
    for row in published():
        shape = ConvShape(1, *(int(row[field]) for field in "CHWN"))
        found = paper_scheme.scheme(shape, tuned_for)
        assert found.threshold == float(row["paper_threshold"])
        if row[COLUMNS[tuned_for]]:
            assert row[COLUMNS[tuned_for]] == f"{found.conv.th}x{found.conv.tw}x{found.group}"
            seen.add(shape)
    assert seen == {*RESNET50, *DENSENET169}


@pytest.mark.parametrize("tuned_for", paper_scheme.TUNED_FOR)
def test_the_launches_cover_activations_channels_and_outputs_once(tuned_for):
    for shape in (*RESNET50, *DENSENET169):
        found = paper_scheme.scheme(shape, tuned_for)
        cols, rows, groups = found.transform_grid
        assert (cols, rows) == (shape.W, shape.H)
        assert groups * found.transform_block == shape.C  # all these have whole warps of channels
        tiles, blocks, _ = found.conv_grid
        assert tiles == -(-shape.H // found.conv.th) * -(-shape.W // found.conv.tw)
        assert (blocks - 1) * found.group < shape.C <= blocks * found.group
        assert found.conv_block == shape.N
        assert found.group <= found.conv.channels


def test_four_kernels_serve_the_ladder_and_eight_all_layers_of_two_networks():
    ladder = (RESNET50[2], DENSENET169[1], DENSENET169[2], RESNET50[0])
    names = ["paper_transform_t2x7", "paper_conv_t2x7c16", "paper_transform_t4x7", "paper_conv_t4x7c2"]
    assert [kernel.name for kernel in paper_scheme.kernels(ladder)] == names
    every = paper_scheme.kernels((*RESNET50, *DENSENET169, ConvShape(1, 3, 224, 224, 64, k=7, stride=2, pad=3)))
    assert len(every) == 8
    assert {kernel.name for kernel in every} > set(names)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (ConvShape(1, 64, 28, 28, 64), "gives no tile for 64,28x28→64 .* 64,56→64"),
        (ConvShape(1, 64, 56, 56, 64, k=1, pad=0), "3x3 filters with stride 1"),
        (ConvShape(1, 64, 56, 56, 64, stride=2), "3x3 filters with stride 1"),
        (ConvShape(2, 64, 56, 56, 64), "B = 2: .* for B = 1 alone"),
        (ConvShape(1, 64, 56, 56, 64, pad=0), "pad = 0: .* for pad = 1 alone"),
    ],
)
def test_what_the_scheme_does_not_compute_is_refused(shape, sentence):
    with pytest.raises(UnsupportedShape, match=sentence):
        paper_scheme.scheme(shape)


def test_what_the_kernels_cannot_index_is_refused():
    conv = paper.Conv(2, 7, 16)
    with pytest.raises(UnsupportedShape, match=r"N = 513: .* at most 512"):
        paper_scheme.cut(ConvShape(1, 8, 7, 7, 513), conv, 8)
    with pytest.raises(UnsupportedShape, match=r"group = 17: .* 1 to 16"):
        paper_scheme.cut(ConvShape(1, 32, 7, 7, 32), conv, 17)
    with pytest.raises(UnsupportedShape, match=r"2\^31 elements"):
        paper_scheme.cut(ConvShape(1, 512, 2000, 1100, 32), conv, 16)  # the lists alone: the image has 1.1e9


def test_tensors_of_another_layout_are_refused():
    found = paper_scheme.scheme(DENSENET169[3])
    lists = paper_scheme.Lists(found, "cpu")
    w, y = torch.zeros(128, 3, 3, 32), torch.zeros(7, 7, 32)
    for x in (torch.zeros(128, 7, 7), torch.zeros(128, 7, 7).permute(1, 2, 0), torch.zeros(7, 7, 128).half()):
        with pytest.raises(UnsupportedShape, match=r"x is torch\.float"):
            paper_scheme.transform_arguments(found, x, lists)
    with pytest.raises(UnsupportedShape, match=r"w_packed is torch\.float32"):
        paper_scheme.conv_arguments(found, lists, w[:127], y)
    with pytest.raises(UnsupportedShape, match=r"y is torch\.float32"):
        paper_scheme.conv_arguments(found, lists, w, y.permute(2, 0, 1))


# ---- kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [paper.Transform(4, 7), paper.Conv(2, 7, 16), paper.Count()], ids=lambda k: k.name)
def test_a_name_is_read_back(kernel):
    assert paper.parse(kernel.name) == kernel
    assert kernel.source().variant == kernel.name


@pytest.mark.parametrize("name", ["paper_conv", "paper_conv_t2x7", "paper_transform_t2x7c8", "v3_ballot"])
def test_another_name_is_refused(name):
    with pytest.raises(ValueError, match="none of the paper's kernels: a name looks like paper_conv_t2x7c8"):
        paper.parse(name)


@pytest.mark.parametrize(
    ("kernel", "fields", "sentence"),
    [
        (paper.Transform, (1, 7), "th = 1"),
        (paper.Transform, (7, 17), "tw = 17"),
        (paper.Conv, (10, 10, 8), "window of 144 positions"),
        (paper.Conv, (2, 7, 0), "channels = 0"),
    ],
)
def test_an_impossible_kernel_names_its_field(kernel, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        kernel(*fields)


@pytest.mark.parametrize("capability", ["7.5", "9.0"])
def test_a_conv_keeps_its_sums_in_registers_and_multiplies_each_tap_once(capability, tmp_path):
    report = build(paper.Conv(2, 7, 16).source(capability), capability, tmp_path / "k")
    assert (report.local_bytes, report.spill_store_bytes, report.spill_load_bytes) == (0, 0, 0)
    assert report.ffma == 9 * 2 * 7  # each output of the tile has nine taps
    assert (report.threads, report.min_threads) == (512, 32)


@pytest.mark.parametrize("kernel", [paper.Transform(2, 7), paper.Count()], ids=lambda kernel: kernel.name)
def test_the_other_kernels_build_without_local_memory(kernel, tmp_path):
    report = build(kernel.source("9.0"), "9.0", tmp_path / "k")
    assert (report.local_bytes, report.threads) == (0, kernel.threads)
