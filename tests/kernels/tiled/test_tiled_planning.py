"""Plans: that each covers its output once, what it does twice, and what it refuses."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.tiled import PairShape, UnsupportedPair, Variant, arguments, bind, cut, pack, parse, plan, worth
from kernels.tiled.mma_variant import LEAST_SHARED, SHARED
from kernels.tiled.variant import PORTABLE_SHARED, RUNGS

VGG = PairShape(1, 3, 64, 64, 2048, 2048, pool_out=True)
DARKNET = PairShape(1, 3, 32, 64, 2048, 2048, pool_mid=True, pool_out=True, activation="none")

shapes = st.builds(
    PairShape, N=st.integers(1, 3), C_in=st.integers(1, 16), C_mid=st.integers(1, 128), C_out=st.integers(1, 128),
    H=st.integers(4, 90), W=st.integers(4, 90), pool_mid=st.booleans(), pool_out=st.booleans(),
    activation=st.sampled_from(["relu", "leaky", "none"]),
)  # fmt: skip


def test_plans_are_made_without_torch_and_numba():
    code = "import sys, kernels.tiled as k; k.plan(k.PairShape(1, 3, 64, 64, 9, 9)); "
    code += "print({'torch', 'numba'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_stems_of_the_networks():
    assert (VGG.H_mid, VGG.H_out) == (2048, 1024)
    assert (DARKNET.H_mid, DARKNET.H_out) == (1024, 512)
    assert VGG.macs == (27 * 64 * 2048**2, 9 * 64 * 64 * 2048**2)
    assert VGG.bytes()["middle"] == 2**30  # 1 GiB
    assert plan(VGG).redundancy == pytest.approx(1.01, abs=0.005)
    assert plan(DARKNET).redundancy == pytest.approx(1.04, abs=0.005)
    assert worth(VGG)
    assert worth(DARKNET)
    # VGG-16's second block (64→128→128) would be 1.51 and has too many input channels. With 16 of them the first layer
    # is a ninth of the work, and two groups of output channels do it twice.
    second = PairShape(1, 16, 128, 128, 64, 64)
    tile = plan(second).steps[0].variant
    assert (tile.th, tile.tw, tile.cob) == (16, 16, 64)
    assert plan(second).redundancy == pytest.approx((16 * (18 / 16) ** 2 * 2 + 128) / (16 + 128))
    assert not worth(second)
    with pytest.raises(UnsupportedPair, match="C_in = 64: the fused kernels take up to 16"):
        plan(dataclasses.replace(second, C_in=64))


@settings(max_examples=60, deadline=None)
@given(shape=shapes, dtype=st.sampled_from(["tf32", "bf16"]), capability=st.sampled_from(["8.0", "8.6", "9.0", "12.0"]))
def test_a_tensor_core_kernel_covers_the_output_and_fits_the_gpu(shape, dtype, capability):
    (step,) = plan(shape, rung="v5_pair_mma", dtype=dtype, capability=capability).steps
    variant = step.variant
    assert variant.source(capability).dynamic_shared_bytes <= SHARED.get(capability, LEAST_SHARED)
    assert variant.cin >= shape.C_in
    assert variant.mid >= shape.C_mid
    assert (step.grid[1] - 1) * variant.cob < shape.C_out <= step.grid[1] * variant.cob
    assert step.grid[0] == step.tiles_w * -(-shape.H_mid // variant.th)
    assert (step.tiles_w - 1) * 16 < shape.W_mid <= step.tiles_w * 16
    assert parse(variant.name) == variant


@settings(max_examples=60, deadline=None)
@given(shape=shapes, rung=st.sampled_from(sorted(RUNGS)), fused=st.booleans())
def test_a_plan_covers_the_output_once(shape, rung, fused):
    found = plan(shape, rung=rung, fused=fused)
    last, variant = found.steps[-1], found.steps[-1].variant
    assert found.fused == (fused and rung in ("v3_pair", "v4_pair_reg"))
    assert (found.middle_elements == 0) == found.fused
    assert found.redundancy >= 1
    assert last.grid[2] == shape.N
    assert [step.layer for step in found.steps] == (["pair"] if found.fused else ["first", "second"])
    if rung == "v1_naive":
        assert (last.grid[0] - 1) * variant.threads < shape.H_out * shape.W_out <= last.grid[0] * variant.threads
        assert last.grid[1] == shape.C_out
        return
    tiles_h = last.grid[0] // last.tiles_w
    assert last.grid[0] == tiles_h * last.tiles_w
    assert (tiles_h - 1) * variant.th < shape.H_mid <= tiles_h * variant.th
    assert (last.tiles_w - 1) * variant.tw < shape.W_mid <= last.tiles_w * variant.tw
    assert (last.grid[1] - 1) * variant.cob < shape.C_out <= last.grid[1] * variant.cob
    for step in found.steps:
        assert step.variant.source().dynamic_shared_bytes <= PORTABLE_SHARED
        assert parse(step.variant.name) == step.variant
        assert step.block == step.variant.threads <= 1024


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"C_mid": 129}, "C_mid = 129: the fused kernels take up to 128"),
        ({"C_out": 200}, "C_out = 200: the fused kernels take up to 128"),
        ({"N": 70000, "H": 8, "W": 8}, r"grid of .* CUDA allows"),
        ({"H": 65536, "W": 65536}, "the input has .* elements"),
        ({"H": 16384, "W": 16384}, "the output has .* elements"),
    ],
)
def test_what_is_outside_the_envelope_is_named(change, sentence):
    with pytest.raises(UnsupportedPair, match=sentence):
        plan(dataclasses.replace(VGG, **change))


def test_a_kernel_for_another_pair_is_refused():
    variant = plan(VGG).steps[0].variant
    for change, sentence in [({"pool_mid": True}, "pool_mid must be True"), ({"C_in": 4}, "3 input channels, not 4")]:
        with pytest.raises(UnsupportedPair, match=sentence):
            cut(dataclasses.replace(VGG, **change), variant)
    for wanted, sentence in [
        ({"rung": "v9"}, "rung = 'v9'"),
        ({"dtype": "bf16"}, "dtype = 'bf16': v4_pair_reg computes in f32"),
        ({"rung": "v5_pair_mma", "dtype": "f16"}, "computes in tf32 or bf16"),
        ({"rung": "v5_pair_mma", "capability": "7.5"}, "capability 7.5: v5_pair_mma needs 8.0"),
        ({"rung": "v5_pair_mma", "capability": "nine"}, "capability nine"),
    ]:
        with pytest.raises(UnsupportedPair, match=sentence):
            plan(VGG, **wanted)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"H": 0}, "H = 0: an integer of at least 1"),
        ({"C_in": True}, "C_in = True"),
        ({"activation": "gelu"}, "one of relu, leaky, none"),
        ({"H": 1}, "nothing is left after the maximum; at least 2"),
        ({"H": 3, "pool_mid": True}, "at least 4"),
    ],
)
def test_sizes_that_are_none(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(VGG, **change)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"rung": "v9"}, "rung = 'v9'"),
        ({"rung": "v1_naive", "part": "pair"}, "part = 'pair'"),
        ({"th": 5}, "th = 5"),
        ({"tw": 6}, "tw = 6"),
        ({"cin": 5}, "cin = 5"),
        ({"chunk": 6}, "chunk = 6"),
        ({"cob": 12}, "cob = 12: a multiple of 8"),
        ({"buffers": 3}, "buffers = 3"),
        ({"part": "second", "buffers": 2}, "1 for a kernel of one layer"),
        ({"part": "second", "pool_mid": True}, "pool_mid = True"),
        ({"part": "first", "pool_out": True}, "pool_out = True"),
        ({"cin": 16, "pool_mid": True}, "97280 of them for the input"),
        ({"th": 32, "tw": 32, "cob": 128}, "at most 1024 threads"),
        ({"activation": "tanh"}, "activation = 'tanh'"),
    ],
)
def test_a_kernel_that_cannot_be_is_refused_by_its_field(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        Variant(**{"rung": "v4_pair_reg"} | fields)
    with pytest.raises(ValueError, match="a name looks like v3_pair_pair_t16x16"):
        parse("v4")


def tensors(shape):
    x, y = (
        torch.zeros(shape.N, shape.C_in, shape.H, shape.W),
        torch.zeros(shape.N, shape.C_out, shape.H_out, shape.W_out),
    )
    return x, y, torch.zeros(shape.C_mid, shape.C_in, 3, 3), torch.zeros(shape.C_out, shape.C_mid, 3, 3)


def test_tensors_that_do_not_fit_the_plan_are_refused():
    shape = PairShape(1, 3, 8, 8, 8, 8, activation="leaky")
    found, (x, y, w1, w2) = plan(shape), tensors(shape)
    packed = pack(found, w1, w2)
    for bad, sentence in [
        (lambda: pack(found, w2, w1), r"w1 is torch.float32 \(8, 8, 3, 3\)"),
        (lambda: pack(found, w1.half(), w2), "w1 is torch.float16"),
        (lambda: pack(found, w1, w2, torch.zeros(9)), "b1 is"),
        (lambda: arguments(found, packed, y, y), "x is"),
        (lambda: arguments(found, packed, x, x), "y is"),
        (lambda: arguments(found, packed, x.transpose(2, 3), y), "call .contiguous"),
        (lambda: arguments(found, packed, x, y, slope=0.0), "slope = 0.0"),
        (lambda: arguments(found, packed, x, y, slope=1.5), "slope = 1.5"),
        (lambda: arguments(plan(shape, fused=False), pack(plan(shape, fused=False), w1, w2), x, y), "give the tensor"),
    ]:
        with pytest.raises(UnsupportedPair, match=sentence):
            bad()


def test_the_launches_of_a_plan_in_order():
    shape = PairShape(1, 3, 8, 8, 8, 8)
    found, (x, y, w1, w2) = plan(shape, fused=False), tensors(shape)
    middle = torch.zeros(1, 8, 8, 8)
    given_ = arguments(found, pack(found, w1, w2), x, y, middle)

    class Kernel:
        def __init__(self, variant):
            self.variant = variant

        def bind(self, grid, block, values):
            names = [name for name, _ in self.variant.parameters]
            return self.variant.part, grid, block, dict(zip(names, values, strict=True))

    first, second = bind(found, Kernel, given_)
    assert [first[0], second[0]] == ["first", "second"]
    assert first[2] == found.steps[0].block
    assert first[3]["y"].data_ptr() == second[3]["x"].data_ptr() == middle.data_ptr()
    assert second[3]["y"].data_ptr() == y.data_ptr()
    assert (second[3]["H"], second[3]["C_out"], second[3]["tiles_w"]) == (8, 8, 1)
