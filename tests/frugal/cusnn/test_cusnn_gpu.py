"""Every kernel of the default set on a GPU, against float64; and that a baseline's flags do what its name says."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small_network import info

from frugal.cusnn import baselines, bench_layer, offered, ours
from frugal.cusnn.cases import Layer, case
from frugal.cusnn.sparsity import ConvLayer
from frugal.timing import CudaDevice, Design, measure_case
from kernels.build import build
from kernels.launch import Launch
from kernels.sparse import ConvShape, Variant, Workspace, arguments, pack_weights, reference, variants
from kernels.sparse.planning import Plan, cut
from kernels.sparse.variant import ladder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]

DEVICE = "cuda"
EDGE = 2  # channels of a guard band before and after y, and of NaN around x
GUARD = 12345.0
# C, H, W, N: no multiple of a tile, of the warps or of 32; images smaller than a tile; more channels than a chain.
RAGGED = ((37, 13, 9, 40), (130, 15, 8, 100), (3, 1, 5, 33), (9, 30, 2, 20))
LARGE = (130, 15, 8, 100)


def fits(variant: Variant, n: int) -> bool:
    """Whether the packed output channels are whole groups of the variant."""
    return -(-n // 32) * 32 % (32 * variant.outputs_per_lane) == 0


def splits(variant: Variant, c: int) -> list[int]:
    """Splits in which every block has channels; one for the rungs that cannot split."""
    return [
        s for s in (1, 2, 5) if s == 1 or (variant.rung in ("v3_ballot", "v6_fused") and (s - 1) * variant.warps < c)
    ]


def plans(variant: Variant, shape: ConvShape) -> list[Plan]:
    return [cut(variant, shape, s) for s in splits(variant, shape.C)]


BY_NAME = {v.name: v for v in (*variants(), *ladder()) if v.k == 3 and v.stride == 1}
each_variant = pytest.mark.parametrize("variant", BY_NAME.values(), ids=BY_NAME)
each_batch = pytest.mark.parametrize("batch", [1, 3])
each_ragged = pytest.mark.parametrize(
    ("variant", "layer"),
    [(v, layer) for v, layer in itertools.product(BY_NAME.values(), RAGGED) if fits(v, layer[-1])],
    ids=lambda value: value.name if isinstance(value, Variant) else "x".join(map(str, value)),
)


# ---- inputs, launches ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ours.Kernels:
    """Every variant, built for this GPU."""
    properties = torch.cuda.get_device_properties(0)
    capability = f"{properties.major}.{properties.minor}"
    folder = tmp_path_factory.mktemp("kernels")
    prefixes = [folder / name for name in BY_NAME]
    sources = [variant.source(capability) for variant in BY_NAME.values()]
    # Not forked: this process may hold a CUDA context, and threads.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(sources), os.cpu_count() or 1), mp_context=fresh) as pool:
        list(pool.map(build, sources, itertools.repeat(capability), prefixes))
    return ours.Kernels(prefixes, properties.multi_processor_count)


@functools.lru_cache(maxsize=32)
def data(shape: ConvShape, integers: bool = False) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """x with zeros as a ReLU leaves them, and w, on the host; and the right y in float64. Not to be written to."""
    rng = np.random.default_rng(shape.C + shape.N)
    size_x, size_w = (shape.B, shape.C, shape.H, shape.W), (shape.N, shape.C, 3, 3)
    if integers:
        x, w = rng.integers(-4, 5, size_x), rng.integers(-4, 5, size_w)
    else:
        x, w = rng.standard_normal(size_x), rng.standard_normal(size_w)
    x, w = np.maximum(x, 0).astype(np.float32), w.astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(w), reference.conv(x, w)


@dataclass(frozen=True)
class Bound:
    """A launch with its buffers: x between NaN and y between guards, both slices of channels of larger tensors."""

    launch: Launch
    x: torch.Tensor
    y: torch.Tensor
    around: torch.Tensor

    def __call__(self) -> torch.Tensor:
        """One launch, into NaN; a copy of what it wrote, on the host."""
        self.y.fill_(torch.nan)
        self.launch()
        return self.y.cpu()

    def guards_intact(self) -> bool:
        return bool((self.around[:, :EDGE] == GUARD).all() and (self.around[:, -EDGE:] == GUARD).all())


def bind(kernels: ours.Kernels, planned: Plan, x, w, workspace: Workspace | None = None) -> Bound:
    shape = planned.shape
    wide_x = torch.full((shape.B, shape.C + 2 * EDGE, shape.H, shape.W), torch.nan, device=DEVICE)
    wide_y = torch.full((shape.B, shape.N + 2 * EDGE, shape.H_out, shape.W_out), GUARD, device=DEVICE)
    inner_x, inner_y = wide_x[:, EDGE:-EDGE], wide_y[:, EDGE:-EDGE]
    inner_x.copy_(x)
    given = arguments(planned, inner_x, pack_weights(w.to(DEVICE)), inner_y, workspace or kernels.workspace)
    launch = kernels.kernel(planned.variant.name).bind(
        planned.grid, planned.block, given, cluster=planned.cluster, overlap=planned.overlap
    )
    return Bound(launch, inner_x, inner_y, wide_y)


def relative_error(y: torch.Tensor, y64: np.ndarray | torch.Tensor) -> float:
    """Relative L2 error; NaN where y holds one."""
    y64 = torch.as_tensor(y64)
    return float(torch.linalg.vector_norm(y.double() - y64) / torch.linalg.vector_norm(y64))


# ---- one launch ------------------------------------------------------------------------------------------------------


@each_batch
@each_ragged
def test_a_kernel_agrees_with_float64_and_writes_nothing_else(kernels, variant: Variant, layer, batch: int):
    shape = ConvShape(batch, *layer)
    x, w, y64 = data(shape)
    for planned in plans(variant, shape):
        bound = bind(kernels, planned, x, w)
        # float32 sums of at most 1170 products, in blocks, show 1e-7; one product lost or doubled shows 1e-3
        assert relative_error(bound(), y64) <= 1e-6, planned.splits
        assert bound.guards_intact(), planned.splits
        assert torch.equal(bound.x.cpu(), x)


@each_batch
@each_ragged
def test_small_integers_are_exact_bit_for_bit(kernels, variant: Variant, layer, batch: int):
    shape = ConvShape(batch, *layer)
    x, w, y64 = data(shape, integers=True)
    assert np.abs(y64).max() <= 1170 * 16 < 2**24  # so float32 sums are exact in any order
    for planned in plans(variant, shape):
        assert torch.equal(bind(kernels, planned, x, w)().double(), torch.from_numpy(y64)), planned.splits


@each_variant
def test_twenty_launches_give_the_same_bits(kernels, variant: Variant):
    shape = ConvShape(3, *LARGE)
    x, w, _ = data(shape)
    for planned in plans(variant, shape):
        bound = bind(kernels, planned, x, w)
        first = bound()
        assert all(torch.equal(bound(), first) for _ in range(20)), planned.splits


@each_variant
@pytest.mark.parametrize("place", [(0, 0, 0), (65, 7, 3), (129, 14, 7)], ids=["corner", "middle", "last"])
def test_nan_reaches_the_outputs_that_it_reaches_in_a_dense_convolution(kernels, variant: Variant, place):
    shape = ConvShape(3, *LARGE)
    x, w, y64 = data(shape)
    spoiled = x.clone()
    spoiled[1][place] = torch.nan
    _, row, col = place
    expected = torch.zeros(y64.shape, dtype=torch.bool)
    expected[1, :, max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2] = True
    for planned in plans(variant, shape):
        y = bind(kernels, planned, spoiled, w)()
        assert torch.equal(y.isnan(), expected), planned.splits
        kept = torch.where(expected, 0.0, y)
        assert relative_error(kept, torch.where(expected, 0.0, torch.from_numpy(y64))) <= 1e-6, planned.splits


# ---- many launches ---------------------------------------------------------------------------------------------------


@each_variant
def test_a_thousand_replays_of_a_graph_are_right_and_read_new_inputs(kernels, variant: Variant):
    shape = ConvShape(3, *LARGE)
    x, w, y64 = data(shape)
    bounds = [bind(kernels, planned, x, w) for planned in plans(variant, shape)]
    firsts = [bound() for bound in bounds]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for bound in bounds:
            bound.launch()
    for bound in bounds:
        bound.y.fill_(torch.nan)
    for _ in range(1000):
        graph.replay()
    for bound, first in zip(bounds, firsts, strict=True):
        assert torch.equal(bound.y.cpu(), first)
        assert bound.guards_intact()
        bound.x.mul_(-2)  # exact in float32
        bound.y.fill_(torch.nan)
    graph.replay()
    for bound in bounds:
        assert relative_error(bound.y.cpu(), -2 * y64) <= 1e-6


@each_variant
def test_layers_that_share_a_workspace_do_not_meet_in_it(kernels, variant: Variant):
    small, large = ConvShape(1, *RAGGED[0]), ConvShape(3, *LARGE)
    assert fits(variant, small.N)
    assert fits(variant, large.N)
    workspace = Workspace(DEVICE)
    made = []
    for shape in (small, large, small):  # the second makes the workspace grow under the first
        x, w, y64 = data(shape)
        made += [(bind(kernels, planned, x, w, workspace), y64) for planned in plans(variant, shape)]
    for bound, _ in made:
        bound.y.fill_(torch.nan)
    for bound, _ in [*made, *reversed(made)]:  # one after the other, without waiting
        bound.launch()
    for bound, y64 in made:
        assert relative_error(bound.y.cpu(), y64) <= 1e-6
    assert not workspace.tickets.any()


# ---- arms ------------------------------------------------------------------------------------------------------------


def error_of_baseline(name: str) -> float:
    """The relative L2 error of a float32 baseline on a layer with enough work that TF32, where allowed, is fastest."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn(8, 256, 28, 28, device=DEVICE, generator=generator).clamp_min(0)
    w = torch.randn(256, 256, 3, 3, device=DEVICE, generator=generator)
    arm = baselines.arm(name, ConvShape(8, 256, 28, 28, 256), bytes_min=0.0)
    with arm.context():
        y = arm.prepare({"x": x, "w": w}).run()
    return relative_error(y, torch.nn.functional.conv2d(x.double(), w.double(), padding=1))


# TF32 rounds both operands to 11 bits: about 2e-4 in relative L2. float32 stays far below 1e-5, Winograd included.
@pytest.mark.parametrize("name", ["cudnn_fp32", "cudnn_fp32_cl", "gemm_fp32"])
def test_a_float32_baseline_uses_no_tf32(name: str):
    assert error_of_baseline(name) < 1e-5


@pytest.mark.parametrize("name", ["cudnn_tf32", "cudnn_tf32_cl"])
def test_a_tf32_baseline_uses_it(name: str):
    assert 1e-5 < error_of_baseline(name) < 2e-3


def test_every_arm_of_a_layer_is_measured_in_every_regime(kernels):
    conv = ConvLayer(index=1, name="conv", C=37, H=14, W=14, N=64, k=3, stride=1, pad=1, macs=64 * 37 * 9 * 196)
    generator = torch.Generator(DEVICE).manual_seed(0)
    inputs = torch.randn(8, 37, 14, 14, device=DEVICE, generator=generator).clamp_min(0)
    weight = torch.randn(64, 37, 3, 3, device=DEVICE, generator=generator)
    layer = Layer(conv, weight, inputs, 1, "random")
    shape = ConvShape(2, 37, 14, 14, 64)
    names = offered.arms([*offered.OURS["cuda"], *offered.BASELINES["cuda"]], "cuda", shape)
    arms = bench_layer.arms(shape, layer.sparsity, names, kernels)
    design = Design.of("smoke", n_min=3, block_max_s=0.01)
    rows = measure_case(case(layer, info(), 2, "photographs", "ab"), arms, design, 0, CudaDevice()).rows
    assert {row.arm for row in rows} == set(names)
    assert {(row.regime, row.l2) for row in rows} == {
        ("cold", None), ("graph", "resident"), ("graph", "rotated"), ("wall", None),
    }  # fmt: skip
    for row in rows:
        # so few samples may spread
        assert row.status in ("ok", "unstable"), (row.arm, row.regime, row.reason)
        assert (row.verified_before, row.verified_after) == (True, True)
