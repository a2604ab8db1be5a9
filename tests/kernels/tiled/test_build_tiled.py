"""What the build makes of generated kernels: no spill, the multiply-adds that were emitted, 16-byte shared loads."""

import re

import pytest

from kernels.build import build
from kernels.tiled import PairShape, plan

VGG = PairShape(1, 3, 64, 64, 512, 512, pool_out=True)
DARKNET = PairShape(1, 3, 32, 64, 512, 512, pool_mid=True, pool_out=True, activation="leaky")


@pytest.mark.parametrize(
    ("shape", "rung", "capability"),
    [
        (VGG, "v4_pair_reg", "7.5"),
        (DARKNET, "v4_pair_reg", "8.9"),
        (VGG, "v3_pair", "8.0"),
        (VGG, "v4_pair_reg", "9.0"),
    ],
)
def test_default_kernels_do_not_spill_and_fit_any_gpu(shape, rung, capability, tmp_path):
    variant = plan(shape, rung=rung).steps[0].variant
    report = build(variant.source(capability), capability, tmp_path / "k")
    assert (report.local_bytes, report.spill_store_bytes, report.spill_load_bytes) == (0, 0, 0)
    assert report.registers <= 128  # two blocks of 256 threads a multiprocessor
    assert report.shared_bytes <= 1024  # from 9.0 on the system's own
    assert report.dynamic_shared_bytes <= 48 * 1024
    # A channel of the second layer, and one of the first for four columns of q rows and 4 // q channels.
    q = 2 if shape.pool_mid else 1
    assert report.ffma == 9 * 64 + 9 * 16
    if rung == "v4_pair_reg":
        words = len(re.findall(r"ld\.shared\.v4", (tmp_path / "k.ptx").read_text()))
        # Weights of 9 taps for 8 and, without a maximum, 4 channels; the first words of 4 rows and of q + 2.
        assert words == 9 * (3 if q == 1 else 2) + 4 + q + 2


@pytest.mark.parametrize(
    ("shape", "dtype", "capability"),
    [(VGG, "bf16", "8.0"), (DARKNET, "bf16", "9.0"), (DARKNET, "tf32", "8.9"), (VGG, "tf32", "9.0")],
)
def test_tensor_core_kernels_do_not_spill_and_multiply_on_tensor_cores(shape, dtype, capability, tmp_path):
    variant = plan(shape, rung="v5_pair_mma", dtype=dtype, capability=capability).steps[0].variant
    report = build(variant.source(capability), capability, tmp_path / "k")
    assert (report.local_bytes, report.spill_store_bytes, report.spill_load_bytes) == (0, 0, 0)
    # A tap of the second layer: steps × rows × eights of channels. A task of the first: steps × q × eights.
    q, steps = 2 if shape.pool_mid else 1, variant.mid // variant.step
    tap, task = steps * 4 * 8, variant.first_steps * q * variant.mid // 8
    assert report.hmma in (tap + task, 9 * tap + task)  # the loop over taps may be unrolled
    assert report.ffma == 0  # no product of a convolution
    loads = len(re.findall(r"ldmatrix\.sync\.aligned\.m8n8\.x4", (tmp_path / "k.ptx").read_text()))
    assert loads in (4 + 4 * steps, 4 + 36 * steps)
    if capability != "8.9":  # two blocks a multiprocessor: one loads while the other multiplies
        room = {"8.0": 164, "9.0": 228}[capability] * 1024
        assert 2 * (report.dynamic_shared_bytes + report.shared_bytes) <= room


def test_the_twin_is_the_same_code_in_two(tmp_path):
    first, second = plan(VGG, fused=False).steps
    whole = build(first.variant.source("9.0"), "9.0", tmp_path / "first").ffma
    whole += build(second.variant.source("9.0"), "9.0", tmp_path / "second").ffma
    assert whole == 9 * 64 + 9 * 16
