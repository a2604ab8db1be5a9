"""Every rung on a GPU, built for it: against float64 within the bound of rounding, guards around what it writes."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from tiled_cases import SLOPE, bf16, normals, wanted

from kernels.build import build
from kernels.launch import load
from kernels.tiled import PairShape, arguments, bind, pack, plan, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]

DEVICE = "cuda"
VGG = PairShape(3, 3, 64, 64, 67, 61, pool_out=True)
DARKNET = PairShape(3, 3, 32, 64, 67, 61, pool_mid=True, pool_out=True, activation="leaky")
ODD = PairShape(2, 5, 37, 70, 33, 17, activation="none")
ONE = PairShape(1, 1, 1, 1, 1, 1)
KINDS = [("v1_naive", "f32"), ("v2_tile", "f32"), ("v3_pair", "f32"), ("v4_pair_reg", "f32"), ("v5_pair_mma", "tf32"),
         ("v5_pair_mma", "bf16")]  # fmt: skip


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """The loaded kernel of a variant, built once for this GPU."""
    capability = "{}.{}".format(*torch.cuda.get_device_capability())
    folder = tmp_path_factory.mktemp("kernels")

    @functools.cache
    def loaded(variant):
        build(variant.source(capability), capability, folder / variant.name)
        return load(folder / variant.name)

    return loaded


def run(kernel, made, data) -> torch.Tensor:
    """The output; output and what lies between the layers hold NaN before, and the room around them after."""
    shape = made.shape
    dtype = torch.bfloat16 if made.steps[0].variant.dtype == "bf16" else torch.float32
    x, w1, b1, w2, b2 = (torch.from_numpy(value).to(DEVICE) for value in data)
    sizes = [(shape.N, shape.C_out, shape.H_out, shape.W_out), (shape.N, shape.C_mid, shape.H_mid, shape.W_mid)]
    rooms = [torch.full((int(np.prod(size)) + 512,), float("nan"), device=DEVICE, dtype=dtype) for size in sizes]
    y, middle = (room[256:-256].view(size) for room, size in zip(rooms, sizes, strict=True))
    given = arguments(made, pack(made, w1, w2, b1, b2), x.to(dtype), y, None if made.fused else middle, SLOPE)
    for launch in bind(made, kernel, given):
        launch()
    torch.cuda.synchronize()
    assert all(room[:256].isnan().all() and room[-256:].isnan().all() for room in rooms), "a write beyond the output"
    return y.double().cpu()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shape", [VGG, DARKNET, ODD, ONE], ids=["vgg", "darknet", "odd", "one"])
@pytest.mark.parametrize(("rung", "dtype"), KINDS)
def test_it_is_right(kernel, rung, dtype, shape, fused):
    data = normals(shape)
    data = (bf16(data[0]), *data[1:]) if dtype == "bf16" else data
    y = run(kernel, plan(shape, rung=rung, dtype=dtype, fused=fused), data).numpy()
    errors = np.abs(y - wanted(shape, data))
    bound = reference.bound(*data, pool_mid=shape.pool_mid, pool_out=shape.pool_out, dtype=dtype)
    assert (errors <= bound).all()


@pytest.mark.parametrize(("rung", "dtype"), [kind for kind in KINDS if kind[0] not in ("v1_naive", "v2_tile")])
def test_the_dense_twin_gives_the_same_bits(kernel, rung, dtype):
    data = normals(DARKNET)
    twins = [run(kernel, plan(DARKNET, rung=rung, dtype=dtype, fused=fused), data) for fused in (True, False)]
    assert torch.equal(*twins)


@pytest.mark.parametrize(("rung", "dtype"), KINDS)
def test_nan_reaches_what_it_reaches_in_torch(kernel, rung, dtype):
    shape = dataclasses.replace(VGG, N=1)
    data = normals(shape)
    data[0][0, 1, 30, 33] = np.nan
    expected = np.isnan(wanted(shape, data))
    assert expected.any()
    assert not expected.all()
    y = run(kernel, plan(shape, rung=rung, dtype=dtype), data)
    np.testing.assert_array_equal(y.isnan().numpy(), expected)
