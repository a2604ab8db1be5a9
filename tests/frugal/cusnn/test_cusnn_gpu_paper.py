"""The paper's scheme on a GPU: every published tile against float64, in graphs too, and its arms in their regimes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small_network import info

from frugal.cusnn import ours, paper
from frugal.cusnn.cases import Layer, case
from frugal.cusnn.sparsity import ConvLayer
from frugal.timing import CudaDevice, Design, measure_case
from kernels.build import build
from kernels.launch import Launch
from kernels.sparse import ConvShape, pack_weights, paper_scheme
from kernels.sparse.paper import Conv, Count

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]

DEVICE = "cuda"
GUARD = 12345.0
LAYERS = tuple(ConvShape(1, c, h, h, n) for c, h, n in paper_scheme.PUBLISHED)
COLUMNS = dict(zip(paper_scheme.TUNED_FOR, (0.5, 0.0, 0.9), strict=True))  # share of zeros, one for each
# No multiple of a tile, of a group, of a warp; less than a tile; more channels than a block of the first kernel.
RAGGED = tuple(ConvShape(1, *sizes) for sizes in ((37, 13, 9, 40), (3, 1, 5, 33), (530, 6, 8, 100)))
WIDE = Conv(4, 7, 2)

each_published = pytest.mark.parametrize(
    ("shape", "tuned_for"),
    list(itertools.product(LAYERS, COLUMNS)),
    ids=lambda value: value if isinstance(value, str) else f"{value.C},{value.H}-{value.N}",
)


# ---- inputs, launches ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ours.Kernels:
    """The kernels of all published tiles, built for this GPU."""
    properties = torch.cuda.get_device_properties(0)
    capability = f"{properties.major}.{properties.minor}"
    every = {kernel for tuned_for in COLUMNS for kernel in paper_scheme.kernels(LAYERS, tuned_for)} | {Count()}
    folder = tmp_path_factory.mktemp("kernels")
    prefixes = [folder / kernel.name for kernel in every]
    sources = [kernel.source(capability) for kernel in every]
    # Not forked: this process may hold a CUDA context, and threads.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(sources), os.cpu_count() or 1), mp_context=fresh) as pool:
        list(pool.map(build, sources, itertools.repeat(capability), prefixes))
    return ours.Kernels(prefixes, properties.multi_processor_count)


@dataclass(frozen=True)
class Bound:
    """The scheme of one layer: `x` [H, W, C] and `y` [H, W, N], y between guards."""

    x: torch.Tensor
    y: torch.Tensor
    around: torch.Tensor
    lists: paper_scheme.Lists
    launches: tuple[Launch, Launch]

    def enqueue(self) -> None:
        paper_scheme.run(self.lists, self.y, *self.launches)

    def __call__(self) -> torch.Tensor:
        """One run, into NaN; [N, H, W] on the host."""
        self.y.fill_(torch.nan)
        self.enqueue()
        assert bool((self.around[[0, -1]] == GUARD).all())
        return self.y.cpu().permute(2, 0, 1)


def bind(kernels: ours.Kernels, scheme: paper_scheme.Scheme, x: torch.Tensor, w: torch.Tensor) -> Bound:
    """x: [C, H, W] and w: [N, C, 3, 3] on the host."""
    shape = scheme.shape
    x = x.permute(1, 2, 0).contiguous().to(DEVICE)
    around = torch.full((shape.H * shape.W * shape.N + 2,), GUARD, device=DEVICE)
    y = around[1:-1].view(shape.H, shape.W, shape.N)
    lists = paper_scheme.Lists(scheme, DEVICE)
    transform = kernels.kernel(scheme.transform.name).bind(
        scheme.transform_grid, scheme.transform_block, paper_scheme.transform_arguments(scheme, x, lists)
    )
    conv = kernels.kernel(scheme.conv.name).bind(
        scheme.conv_grid,
        scheme.conv_block,
        paper_scheme.conv_arguments(scheme, lists, pack_weights(w.to(DEVICE)), y),
    )
    return Bound(x, y, around, lists, (transform, conv))


def data(shape: ConvShape, zeros: float, integers: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x [C, H, W], w [N, C, 3, 3] and the right y [N, H, W] in float64, on the host."""
    rng = np.random.default_rng(shape.C + shape.N)
    sizes = (shape.C, shape.H, shape.W), (shape.N, shape.C, 3, 3)
    x, w = (rng.integers(-4, 5, size) if integers else rng.standard_normal(size) for size in sizes)
    x = np.where(rng.random(x.shape) < zeros, 0, x)
    x, w = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(w.astype(np.float32))
    return x, w, torch.nn.functional.conv2d(x.double()[None], w.double(), padding=1)[0]


def relative_error(y: torch.Tensor, y64: torch.Tensor) -> float:
    """Relative L2 error; NaN where y holds one."""
    return float(torch.linalg.vector_norm(y.double() - y64) / torch.linalg.vector_norm(y64))


# ---- the scheme ------------------------------------------------------------------------------------------------------


@each_published
def test_a_published_tile_agrees_with_float64(kernels, shape: ConvShape, tuned_for: str):
    x, w, y64 = data(shape, COLUMNS[tuned_for])
    # float32 sums of at most 4608 products, in groups of channels, show 2e-7; one product lost or doubled shows 1e-4
    assert relative_error(bind(kernels, paper_scheme.scheme(shape, tuned_for), x, w)(), y64) <= 1e-6


@each_published
def test_small_integers_are_exact_bit_for_bit(kernels, shape: ConvShape, tuned_for: str):
    x, w, y64 = data(shape, COLUMNS[tuned_for], integers=True)
    assert y64.abs().max() <= shape.C * 9 * 16 < 2**24  # so float32 sums are exact in any order
    assert torch.equal(bind(kernels, paper_scheme.scheme(shape, tuned_for), x, w)().double(), y64)


@pytest.mark.parametrize("shape", RAGGED, ids=lambda shape: f"{shape.C},{shape.H}x{shape.W}-{shape.N}")
def test_ragged_layers_are_exact(kernels, shape: ConvShape):
    x, w, y64 = data(shape, 0.4, integers=True)
    assert torch.equal(bind(kernels, paper_scheme.cut(shape, WIDE, WIDE.channels), x, w)().double(), y64)


def test_nan_reaches_the_outputs_that_it_reaches_in_a_dense_convolution(kernels):
    shape = LAYERS[2]
    x, w, y64 = data(shape, 0.6)
    x[65, 7, 3] = torch.nan
    expected = torch.zeros(y64.shape, dtype=torch.bool)
    expected[:, 6:9, 2:5] = True
    y = bind(kernels, paper_scheme.scheme(shape), x, w)()
    assert torch.equal(y.isnan(), expected)
    assert relative_error(y.masked_fill(expected, 0), y64.masked_fill(expected, 0)) <= 1e-6


def test_a_thousand_replays_of_a_graph_are_right_and_read_new_inputs(kernels):
    inputs = [data(shape, 0.7, integers=True) for shape in LAYERS]
    bounds = [bind(kernels, paper_scheme.scheme(shape), x, w) for shape, (x, w, _) in zip(LAYERS, inputs, strict=True)]
    for bound in bounds:
        bound()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for bound in bounds:
            bound.enqueue()
    for bound in bounds:
        bound.y.fill_(torch.nan)
    for _ in range(1000):
        graph.replay()
    for bound, (_, _, y64) in zip(bounds, inputs, strict=True):
        assert torch.equal(bound.y.cpu().permute(2, 0, 1).double(), y64)
        bound.x.mul_(-2)  # exact in float32
        bound.x[0] = 0  # and shorter lists than before
        bound.y.fill_(torch.nan)
    graph.replay()
    for bound, (x, w, _) in zip(bounds, inputs, strict=True):
        changed = -2 * x.double()
        changed[:, 0] = 0
        y64 = torch.nn.functional.conv2d(changed[None], w.double(), padding=1)[0]
        assert torch.equal(bound.y.cpu().permute(2, 0, 1).double(), y64)


@pytest.mark.parametrize("n", [1, 255, 256, 100_000])
def test_the_count_is_of_what_the_relu_leaves_zero(kernels, n: int):
    x = torch.randn(n + 1, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(n))
    x[-1] = -5
    x[0] = torch.nan
    zeros = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    given = x.clone()
    kernels.kernel(Count.name).bind(paper_scheme.count_grid(n), Count.threads, [given, zeros, n])()
    assert zeros.item() == int((x[:n] <= 0).sum())
    assert torch.equal(given[1:n], x[1:n].clamp_min(0))
    assert given[0].isnan()
    assert given[-1] == -5  # beyond the end


# ---- arms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [0.75, 0.3])  # above and below the threshold of this layer, 0.6
def test_every_arm_is_measured_in_its_regimes(kernels, zeros: float):
    shape = ConvShape(1, 64, 56, 56, 64)
    conv = ConvLayer(index=1, name="conv", C=64, H=56, W=56, N=64, k=3, stride=1, pad=1, macs=shape.macs)
    generator = torch.Generator(DEVICE).manual_seed(0)
    inputs = torch.rand(8, 64, 56, 56, device=DEVICE, generator=generator) + 0.1
    inputs[torch.rand(inputs.shape, device=DEVICE, generator=generator) < zeros] = 0
    weight = torch.randn(64, 64, 3, 3, device=DEVICE, generator=generator)
    layer = Layer(conv, weight, inputs, 1, "random")
    arms = [
        paper.arm(name, shape, kernels, sparsity=zeros, bytes_min=1.0) for name in ("paper_scheme", "paper_dispatch")
    ]
    assert arms[1].settings["backend"] == ("paper_scheme" if zeros > 0.6 else "cudnn_fp32")
    design = Design.of("smoke", n_min=3, block_max_s=0.01)
    rows = measure_case(case(layer, info(), 1, "photographs", "ab"), arms, design, 0, CudaDevice()).rows
    assert {(row.arm, row.regime, row.l2) for row in rows} == {
        ("paper_scheme", "cold", None), ("paper_scheme", "graph", "resident"), ("paper_scheme", "graph", "rotated"),
        ("paper_scheme", "wall", None), ("paper_dispatch", "wall", None),
    }  # fmt: skip
    for row in rows:
        assert row.status in ("ok", "unstable"), (row.arm, row.regime, row.reason)  # so few samples may spread
        assert (row.verified_before, row.verified_after) == (True, True)
