"""The largest size that fits: against trying every size, and against sizes that are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from memory_work import square

from frugal.errors import FrugalError
from frugal.memory import Fit, cuda_probe, live_probe, max_size


@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 40), st.integers(0, 700))
def test_it_is_the_largest_of_all_that_fit(low, more, step, most):
    sizes = range(low, low + more + 1, step)
    found = max_size(lambda size: Fit(size <= most), low, low + more, step)
    fitting = [size for size in sizes if size <= most]
    assert found.size == max(fitting, default=None)
    assert found.at_limit == (len(fitting) == len(sizes))
    assert set(found.probes) <= set(sizes)
    assert len(found.probes) <= 2 + math.ceil(math.log2(max(1, len(sizes) - 1)))  # none twice, half of them each time


@pytest.mark.parametrize(("low", "high", "step"), [(0, 5, 1), (6, 5, 1), (1, 5, 0)])
def test_bad_bounds(low, high, step):
    with pytest.raises(ValueError, match=r"it must be 1 <= low <= high and step >= 1"):
        max_size(lambda size: Fit(True), low, high, step)


@pytest.mark.parametrize("known", [1, 10])
def test_live_bytes_are_the_cap_of_a_cpu(known):
    # Two matrices of float32: the largest size is known to the byte.
    for spare, expected in ((0, known), (-1, known - 1 or None)):
        found = max_size(live_probe(square, 2 * 4 * known**2 + spare), 1, 31)
        assert found.size == expected
    assert found.probes[max(found.probes)].reason.startswith("tried to allocate ")
    if found.size:
        assert found.probes[found.size] == Fit(True, None, 2 * 4 * found.size**2)


def test_what_was_there_before_takes_its_part_of_the_cap():
    there = torch.ones(10, 10)

    def work(size, live):
        live.track(there)
        return square(size, live)

    assert max_size(live_probe(work, 400 + 2 * 4 * 7**2), 1, 15).size == 7


def test_another_fault_is_not_taken_for_a_size_that_is_too_large():
    def work(size, live):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        max_size(live_probe(work, 1000), 1, 9)


def test_probes_of_a_gpu_each_have_a_process(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    probe = cuda_probe("memory_work:fits_below", {"most": 5})
    found = max_size(probe, 4, 7)
    assert found.size == 5
    assert found.probes[5] == Fit(True, None, 50)
    assert found.probes[7] == Fit(False, "7 is more than 5")


def test_a_probe_of_a_gpu_that_fails_is_one_sentence(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    probe = cuda_probe("memory_work:fail", {}, size_argument="message")
    with pytest.raises(FrugalError, match=r"^memory_work:fail at message = 3: failed: ValueError: 3$"):
        probe(3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
def test_a_cap_of_a_gpu():
    cap = 1 << 30
    found = max_size(cuda_probe("memory_work:cuda_square", {}, cap), 1024, 32768, 1024)
    # two matrices of float32 in 1 GiB would be 11585 each way; the allocator's blocks take some of it
    assert 10240 <= found.size <= 11264
    assert found.probes[found.size].peak_bytes <= cap
