"""The arms of the paper's scheme, on kernels that compute on the CPU what their arguments say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fake_kernels
import numpy as np
import pytest
import torch
from small_network import info

from frugal.cusnn import ours, paper
from frugal.cusnn.cases import Layer, case
from frugal.cusnn.sparsity import ConvLayer
from frugal.timing import Case, CpuDevice, Design, Inputs, Unsupported, measure_case
from kernels.sparse import ConvShape, paper_scheme
from kernels.sparse.paper import Count

SHAPE = ConvShape(1, 128, 7, 7, 32)
SCHEME = paper_scheme.scheme(SHAPE)
KERNELS = (SCHEME.transform, SCHEME.conv, Count())
CONV = ConvLayer(index=1, name="conv", C=128, H=7, W=7, N=32, k=3, stride=1, pad=1, macs=SHAPE.macs)


class Fake:
    """The paper's three kernels, of any tile, in plain Python over the buffers that they are bound to."""

    def __init__(self, variant) -> None:
        self.variant, self.launches = variant, 0

    def bind(self, grid, block, args) -> Callable[[], None]:
        names = [name for name, _ in self.variant.parameters]
        given = {
            name: value.numpy() if isinstance(value, torch.Tensor) else value
            for name, value in zip(names, args, strict=True)
        }
        compute = {"paper_transform": self.transform, "paper_conv": self.conv, "paper_count": self.count}
        bound = (grid, block)

        def launch() -> None:
            self.launches += 1
            compute[self.variant.rung](bound, **given)

        return launch

    def transform(self, bound, x, values, positions, lengths, C, H, W, tiles_h, tiles_w) -> None:
        th, tw = self.variant.th, self.variant.tw
        assert bound == ((W, H, -(-C // bound[1])), bound[1])
        room = (th + 2) * (tw + 2)
        for row, col, c in np.argwhere(x.reshape(H, W, C) != 0):
            for a, b in np.ndindex(tiles_h, tiles_w):
                i, j = row + 1 - a * th, col + 1 - b * tw
                if 0 <= i < th + 2 and 0 <= j < tw + 2:
                    at = (c * tiles_h + a) * tiles_w + b
                    values[at * room + lengths[at]] = x.reshape(H, W, C)[row, col, c]
                    positions[at * room + lengths[at]] = i * (tw + 2) + j
                    lengths[at] += 1

    def conv(self, bound, values, positions, lengths, w, y, C, H, W, N, Np, tiles_w, tiles, group) -> None:
        th, tw = self.variant.th, self.variant.tw
        assert bound == ((tiles, -(-C // group), 1), Np)
        room, packed, out = (th + 2) * (tw + 2), w.reshape(C, 3, 3, Np), y.reshape(H, W, N)
        for at in range(C * tiles):
            c, (a, b) = at // tiles, divmod(at % tiles, tiles_w)
            for e in range(at * room, at * room + lengths[at]):
                i, j = divmod(int(positions[e]), tw + 2)
                for r, s in np.ndindex(3, 3):
                    row, col = a * th + i - r, b * tw + j - s
                    if 0 <= i - r < th and 0 <= j - s < tw and row < H and col < W:
                        out[row, col] += values[e] * packed[c, r, s, :N]

    def count(self, bound, x, zeros, n) -> None:
        assert bound == ((-(-n // 256), 1, 1), 256)
        zeros[0] += np.count_nonzero(x[:n] <= 0)
        x[:n] = np.where(x[:n] <= 0, 0, x[:n])


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ours.Kernels, dict[str, Fake]]:
    """`ours.Kernels` over the fakes, and the fakes by name."""
    fakes = {variant.name: Fake(variant) for variant in KERNELS}
    kernels, _ = fake_kernels.kernels(KERNELS, tmp_path, monkeypatch)
    monkeypatch.setattr(ours.launch, "load", lambda prefix: fakes[prefix.with_suffix("").name])
    return kernels, fakes


def layer_case(zeros: float) -> Case:
    """The layer on inputs of which so many are zero."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(8, 128, 7, 7, generator=generator) + 0.1
    inputs[torch.rand(inputs.shape, generator=generator) < zeros] = 0
    weight = torch.randn(32, 128, 3, 3, generator=generator)
    return case(Layer(CONV, weight, inputs, 1, "random"), info(), 1, "photographs", "ab")


def layer_inputs(zeros: float) -> Inputs:
    return layer_case(zeros).inputs(0, "verify")


def arm(name: str, kernels: ours.Kernels, shape: ConvShape = SHAPE, sparsity: float = 0.75):
    return paper.arm(name, shape, kernels, sparsity=sparsity, bytes_min=13.0)


def right(inputs: Inputs) -> torch.Tensor:
    return torch.nn.functional.conv2d(inputs["x"].double(), inputs["w"].double(), padding=1)


def test_the_scheme_is_right_each_time_and_leaves_its_input_alone(built):
    kernels, fakes = built
    inputs = layer_inputs(0.75)
    before = inputs["x"].clone()
    prepared = arm("paper_scheme", kernels).prepare(inputs)
    (y,) = prepared.outputs
    assert y.shape == (1, 32, 7, 7)
    for _ in range(2):  # lists and output are cleared each time
        y.fill_(torch.nan)
        assert prepared.run() is None
        torch.testing.assert_close(y.double(), right(inputs), rtol=0, atol=1e-4)
    assert torch.equal(inputs["x"], before)
    assert {name: fake.launches for name, fake in fakes.items()} == {
        SCHEME.transform.name: 2, SCHEME.conv.name: 2, "paper_count": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("zeros", "sparse"), [(0.75, True), (0.0, False)])
def test_the_dispatch_counts_and_chooses_by_the_published_threshold(built, zeros, sparse):
    kernels, fakes = built
    inputs = layer_inputs(zeros)
    prepared = arm("paper_dispatch", kernels).prepare(inputs)
    for times in (1, 2):  # the counter is cleared each time
        prepared.outputs[0].fill_(torch.nan)
        torch.testing.assert_close(prepared.run().double(), right(inputs), rtol=0, atol=1e-4)
        assert fakes["paper_count"].launches == times
        assert fakes[SCHEME.conv.name].launches == (times if sparse else 0)


def test_the_dispatch_refuses_an_input_that_its_relu_would_change(built):
    inputs = layer_inputs(0.5)
    inputs["x"][0, 5, 3, 3] = -1
    with pytest.raises(Unsupported, match="this input has negative values"):
        arm("paper_dispatch", built[0]).prepare(inputs)
    arm("paper_scheme", built[0]).prepare(inputs)


def test_an_arm_says_what_runs(built):
    kernels, _ = built
    scheme, dispatch = (arm(name, kernels) for name in ("paper_scheme", "paper_dispatch"))
    assert scheme.settings == {
        "variant": "paper_conv_t3x7c2", "splits": 64, "backend": "paper_scheme", "tile": "3x7x2", "tuned_for": "v100",
    }  # fmt: skip
    assert dispatch.settings == {**scheme.settings, "threshold": 0.01}
    assert (scheme.role, scheme.tf32, scheme.layout, scheme.dtype) == ("paper_emulation", False, "nhwc", "float32")
    assert scheme.regimes == ("cold", "graph", "graph_rotated", "wall")
    assert dispatch.regimes == ("wall",)  # it waits for the device in its middle
    assert (scheme.registers, scheme.spill_bytes, scheme.shared_bytes) == (101, 201, 501)  # of the second kernel
    assert scheme.flop == dispatch.flop == 2 * SHAPE.macs * 0.25
    assert scheme.binary_hash != dispatch.binary_hash
    assert len(scheme.binary_hash) == 64


def test_below_the_threshold_the_dispatch_is_dense():
    large = ConvShape(1, 64, 56, 56, 64)
    kernels = SimpleNamespace(reports={})
    found = arm("paper_dispatch", kernels, large, sparsity=0.59)
    assert (found.settings["backend"], found.flop) == ("cudnn_fp32", 2 * large.macs)
    assert arm("paper_dispatch", kernels, large, sparsity=0.6).settings["backend"] == "paper_scheme"
    assert arm("paper_scheme", kernels, large, sparsity=0.59).settings["backend"] == "paper_scheme"
    assert found.binary_hash is None  # nothing is built


def rows(made: Case, *arms) -> dict[str, object]:
    design = Design.of("smoke", n_min=3, block_max_s=0.005, case_timeout_s=20.0, regimes=("wall",))
    return {row.arm: row for row in measure_case(made, arms, design, 0, CpuDevice()).rows}


def test_both_arms_measured_end_to_end(built):
    kernels, _ = built
    found = rows(layer_case(0.95), *(arm(name, kernels, sparsity=0.95) for name in ("paper_scheme", "paper_dispatch")))
    for row in found.values():
        assert row.status in ("ok", "unstable"), row.reason  # a busy machine may spread a block's samples
        assert (row.verified_before, row.verified_after, row.tolerance_rule) == (True, True, "a_priori")
        assert row.role == "paper_emulation"


def test_a_layer_without_a_published_tile_leaves_a_row_that_says_so(built):
    shape = ConvShape(1, 128, 9, 9, 32)
    found = rows(layer_case(0.5), arm("paper_scheme", built[0], shape))
    assert (found["paper_scheme"].status, found["paper_scheme"].value) == ("unsupported", None)
    assert "the paper gives no tile for 128,9x9→32" in found["paper_scheme"].reason
