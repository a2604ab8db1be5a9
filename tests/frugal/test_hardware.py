"""The datasheet figures against a second derivation: units a clock cycle times clock."""

import pytest

from frugal import hardware

# FP32 lanes and dense FP16 tensor FLOP (FP32 accumulation) of one SM in one cycle. Volta: 8 tensor cores of 64
# multiply-adds; Ampere's GA100: 4 of 256; Hopper: 4 of 512; GeForce parts run FP32 accumulation at half rate.
LANES = {"7.0": 64, "7.5": 64, "8.0": 64, "8.6": 128, "8.9": 128, "9.0": 128}
TENSOR = {"7.0": 1024, "7.5": 1024, "8.0": 2048, "8.6": 1024, "8.9": 1024, "9.0": 4096}

gpus = pytest.mark.parametrize("gpu", hardware.datasheet(), ids=lambda gpu: gpu.names[0])


@gpus
def test_fp32_peak_is_lanes_times_clock(gpu):
    derived = gpu.sm_count * LANES[gpu.capability] * 2 * gpu.boost_hz
    # Datasheets round to two or three digits; V100 PCIe's 14 TFLOP/s is the coarsest.
    assert gpu.flops_fp32 == pytest.approx(derived, rel=0.015)


@gpus
def test_tensor_peak_is_tensor_cores_times_clock(gpu):
    half_rate = 0.5 if gpu.names[0].startswith("GeForce") else 1.0
    derived = gpu.sm_count * TENSOR[gpu.capability] * half_rate * gpu.boost_hz
    # H100's tensor peaks are stated at a lower boost clock (1.83 instead of 1.98 GHz), all others at the same.
    assert 0.92 * derived <= gpu.flops_fp16 <= 1.01 * derived


@gpus
def test_tf32_is_half_of_fp16_where_it_exists(gpu):
    if gpu.capability < "8.0":
        assert gpu.flops_tf32 is None
    else:
        assert gpu.flops_tf32 == pytest.approx(gpu.flops_fp16 / 2, rel=0.005)


@gpus
def test_every_figure_has_a_source_and_a_plausible_unit(gpu):
    assert gpu.source.title
    assert gpu.source.part
    assert gpu.source.url.startswith("https://")
    assert 1e11 < gpu.bytes_per_s < 1e13
    assert gpu.l2_bytes is None or 2**20 <= gpu.l2_bytes <= 2**28


def test_names_are_unique():
    names = [name for gpu in hardware.datasheet() for name in gpu.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["NVIDIA H200", "H200"])
def test_lookup_takes_names_with_and_without_the_maker(name):
    assert hardware.lookup(name).sm_count == 132


@pytest.mark.parametrize("name", ["NVIDIA H200 MIG 1g.18gb", "NVIDIA Unheard Of", ""])
def test_lookup_knows_no_slices_and_no_strangers(name):
    assert hardware.lookup(name) is None
