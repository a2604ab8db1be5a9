"""The loop of known length: built, in the simulator and on the CPU, against the arithmetic that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels.build import build
from kernels.control import ADDEND, FACTOR, Variant, arguments, cpu, grid, variants
from kernels.launch import simulate

SMALL = Variant(steps=2, threads=32)
N = 40  # a full block of 32 and a part


def numbers(n: int = N) -> np.ndarray:
    return np.random.default_rng(0).integers(-(2**20), 2**20, n).astype(np.float32)


@pytest.mark.parametrize("capability", ["7.5", "9.0"])
def test_a_trip_is_exactly_its_steps(capability, tmp_path):
    (variant,) = variants()
    report = build(variant.source(capability), capability, tmp_path / "k")
    # Were the loop unrolled, a trip more than a multiple would run other code, and equal work would not cost the same.
    assert report.ffma == variant.steps
    assert (report.local_bytes, report.spill_store_bytes, report.spill_load_bytes) == (0, 0, 0)


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_the_simulated_kernel_makes_every_step(trips):
    x, y = numbers(), np.full(N + 1, np.nan, np.float32)
    simulate(SMALL.source(), grid(SMALL, N), SMALL.threads, (x, y, 1.0, 1.0, trips, N))
    np.testing.assert_array_equal(y[:N], x + trips * SMALL.steps)  # counted: whole numbers are exact
    assert np.isnan(y[N])


def test_the_simulated_kernel_gives_its_input_back():
    x, y = numbers(), np.full(N, np.nan, np.float32)
    simulate(SMALL.source(), grid(SMALL, N), SMALL.threads, (x, y, FACTOR, ADDEND, 3, N))
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(("trips", "steps"), [(0, 64), (1, 1), (3, 1), (1, 64), (51, 64)])
def test_the_cpu_twin_makes_every_step(trips, steps, monkeypatch):
    monkeypatch.setattr(cpu, "FACTOR", 1.0)
    monkeypatch.setattr(cpu, "ADDEND", 1.0)
    x, y = torch.from_numpy(numbers()), torch.full((N,), float("nan"))
    cpu.fma(x, y, trips, steps)
    assert torch.equal(y, x + trips * steps)


def test_the_cpu_twin_gives_its_input_back():
    x, y = torch.from_numpy(numbers()), torch.full((N,), float("nan"))
    cpu.fma(x, y, 3, 64)
    assert torch.equal(y, x)


def test_the_compiled_loop_starts_from_its_input_each_time():
    x, y = torch.from_numpy(numbers()), torch.full((N,), float("nan"))
    cpu.fma(x, y, 1, 1, times=4)  # one odd step a time: four in a row would give x back
    assert torch.equal(y, FACTOR * x + ADDEND)


def test_a_launch_covers_every_number_once():
    variant = Variant(threads=64)
    assert [grid(variant, n)[0] for n in (1, 64, 65, 128)] == [1, 1, 2, 2]
    x = torch.zeros(65)
    given = dict(zip((name for name, _ in variant.source().parameters), arguments(x, x, 7), strict=True))
    assert (given["trips"], given["n"], given["factor"], given["addend"]) == (7, 65, FACTOR, ADDEND)


def test_names_are_read_back():
    for variant in (*variants(), SMALL):
        assert Variant.parse(variant.name) == variant


@pytest.mark.parametrize("name", ["fma_s63_t256", "fma_s64_t250", "fma_s0_t32", "v1_naive", "fma_s64"])
def test_a_name_that_is_no_variant_is_refused(name):
    with pytest.raises(ValueError, match="variant"):
        Variant.parse(name)


@pytest.mark.gpu
@pytest.mark.parametrize(("factor", "addend"), [(FACTOR, ADDEND), (1.0, 1.0)])
def test_a_gpu_makes_every_step(tmp_path, factor, addend):
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU: the cubin is loaded and launched")
    from kernels.launch import load

    (variant,) = variants()
    capability = "{}.{}".format(*torch.cuda.get_device_capability())
    build(variant.source(capability), capability, tmp_path / "k")
    x = torch.from_numpy(numbers(1000)).cuda()
    y = torch.full_like(x, float("nan"))
    given = arguments(x, y, 50)
    given[2:4] = [factor, addend]
    load(tmp_path / "k").bind(grid(variant, 1000), variant.threads, given)()
    assert torch.equal(y, x if factor == FACTOR else x + 50 * variant.steps)
