"""The v5 kernels, lane by lane with tensor cores emulated, against float64 plain sums."""

import dataclasses
import functools

import lanes
import numpy as np
import pytest
import torch
from tiled_cases import bf16, guarded, integers, normals, wanted

from kernels.tiled import MmaVariant, PairShape, Plan, cut, reference
from kernels.tiled.pack_mma import rounded_tf32

SMALL = functools.partial(MmaVariant, warps=1, rows=2, mid=32, cob=16)
POOLS = [(False, False), (False, True), (True, False), (True, True)]
DTYPES = ["tf32", "bf16"]


def shape_of(pool_mid=False, pool_out=False, activation="relu", **sizes) -> PairShape:
    named = {"N": 1, "C_in": 3, "C_mid": 5, "C_out": 9, "H": 3, "W": 7} | sizes
    return PairShape(**named, pool_mid=pool_mid, pool_out=pool_out, activation=activation)


def small(dtype: str, shape: PairShape, **more) -> MmaVariant:
    return SMALL(dtype, pool_mid=shape.pool_mid, pool_out=shape.pool_out, activation=shape.activation, **more)


def run(made: Plan, data) -> np.ndarray:
    """The output as float32; output and what lies between hold NaN before, and the room around them after."""
    arrays, y, guards = guarded(made, data)
    for step, values in zip(made.steps, arrays, strict=True):
        values = [np.uint32(v) if isinstance(v, int) else np.float32(v) if isinstance(v, float) else v for v in values]
        lanes.run(step.variant.source(), step.grid, values)
    assert all(guard.isnan().all() for guard in guards), "a write beyond the output"
    return y.float().numpy()


@pytest.mark.parametrize("pools", POOLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_integers_are_exact_with_every_pool(dtype, pools):
    # What lies between the layers must be exact in bf16, which holds whole numbers up to 256.
    shape = shape_of(*pools, C_in=1, H=6 if pools[0] else 3, W=13 if pools[0] else 7)
    data = tuple(np.sign(value) for value in integers(shape))
    expected = wanted(shape, data)
    assert np.abs(expected).max() <= 256
    np.testing.assert_array_equal(run(cut(shape, small(dtype, shape)), data), expected)


SIZES = {
    "one position": {"H": 1, "W": 1},
    "one more than a tile": {"H": 3, "W": 17, "C_mid": 2},
    "a tile within": {"H": 6, "W": 33, "C_in": 1, "C_mid": 3, "C_out": 1},
    "two images": {"N": 2, "H": 2, "W": 3},
    "two groups of output channels": {"C_out": 17, "H": 2, "W": 4},
    "all channels between": {"C_mid": 32, "H": 2, "W": 2},
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_edge(dtype, size):
    check_rounding(dtype, shape_of(activation="leaky", **SIZES[size]))


@pytest.mark.parametrize("channels", [5, 13])
@pytest.mark.parametrize("dtype", DTYPES)
def test_more_input_channels(dtype, channels):
    shape = shape_of(C_in=channels, H=3, W=3)
    check_rounding(dtype, shape, cin=8 if channels < 8 else 16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_warps_of_four_rows(dtype):
    check_rounding(dtype, shape_of(pool_out=True, H=9, W=5, C_in=2), warps=2, rows=4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_channels_between_than_a_warp_computes_at_a_time(dtype):
    shape = shape_of(C_mid=61, H=2, W=3)
    variant = small(dtype, shape, mid=64, cin=16)
    assert 8 * variant.held < 61
    check_rounding(dtype, shape, mid=64, cin=16)


def check_rounding(dtype: str, shape: PairShape, **more) -> None:
    """Normal numbers: within the a-priori bound of the type, and not by being float64 itself."""
    data = normals(shape)
    if dtype == "bf16":
        data = (bf16(data[0]), *data[1:])
    y = run(cut(shape, small(dtype, shape, **more)), data)
    errors = np.abs(y - wanted(shape, data))
    bound = reference.bound(*data, pool_mid=shape.pool_mid, pool_out=shape.pool_out, dtype=dtype)
    assert (errors <= bound).all()
    assert errors.max() > 0


@pytest.mark.parametrize("pools", [(False, False), (True, True)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dense_twin_gives_the_same_numbers(dtype, pools):
    shape = shape_of(*pools, H=4, W=5)
    data, variant = normals(shape), small(dtype, shape)
    np.testing.assert_array_equal(run(cut(shape, variant, fused=False), data), run(cut(shape, variant), data))


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_reaches_what_it_reaches_in_torch(dtype, special):
    shape = shape_of(C_in=1, H=7, W=9, activation="none", pool_out=True)
    data = tuple(np.sign(value) for value in integers(shape))
    data[0][0, 0, 1, 2] = special
    with np.errstate(invalid="ignore"):
        expected = wanted(shape, data)
    assert np.isfinite(expected).any()
    assert not np.isfinite(expected).all()
    np.testing.assert_array_equal(run(cut(shape, small(dtype, shape)), data), expected)


def test_tf32_rounds_to_the_nearest_with_halves_away_from_zero():
    unit = 2.0**-10
    values = torch.tensor([1 + unit / 2, 1 + unit / 2 - 2.0**-23, -1 - unit / 2, 3 * unit, 0.0, 1.5])
    assert rounded_tf32(values).tolist() == [1 + unit, 1.0, -1 - unit, 3 * unit, 0.0, 1.5]


def test_rows_of_a_matrix_lie_in_different_banks():
    for dtype in DTYPES:
        for mid in (32, 64, 128):
            pitch = MmaVariant(dtype, warps=1, rows=2, mid=mid).pitch
            for columns in ([0, 2, 4, 6, 9, 11, 13, 15], [1, 3, 5, 7, 8, 10, 12, 14]):  # of a fragment's two halves
                assert len({column * pitch // 16 % 8 for column in columns}) == 8


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"part": "layer"}, "part = 'layer'"),
        ({"dtype": "f16"}, "dtype = 'f16': one of tf32, bf16"),
        ({"warps": 0}, "warps = 0"),
        ({"rows": 3}, "rows = 3"),
        ({"cin": 3}, "cin = 3"),
        ({"mid": 96}, "mid = 96"),
        ({"cob": 128}, "cob = 128"),
        ({"part": "second", "pool_mid": True}, "pool_mid = True"),
        ({"part": "first", "pool_out": True}, "pool_out = True"),
        ({"activation": "elu"}, "activation = 'elu'"),
    ],
)
def test_a_kernel_that_cannot_be_is_refused_by_its_field(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        MmaVariant(**fields)


def test_a_gpu_that_cannot_run_it_is_named():
    with pytest.raises(ValueError, match=r"on compute capability 8\.0 and up"):
        MmaVariant().source("7.5")
    with pytest.raises(ValueError, match=r"capability 8\.9, whose blocks have 101376 bytes .* of them for the middle"):
        MmaVariant(mid=128).source("8.9")
    name = dataclasses.replace(MmaVariant(), pool_out=True).name
    assert MmaVariant.parse(name).name == name
    with pytest.raises(ValueError, match="a name looks like v5_pair_mma_pair"):
        MmaVariant.parse("v5_pair")
