"""Kernels in the user's cache folder: built once a source and set of tools."""

import pytest

from kernels import cache
from kernels.tiled import PairShape, plan


@pytest.fixture
def source(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return plan(PairShape(1, 3, 8, 8, 16, 16), rung="v1_naive").steps[0].variant.source("8.0")


def test_a_kernel_is_built_once(monkeypatch, source, tmp_path):
    prefix = cache.built(source, "8.0")
    assert prefix.is_relative_to(tmp_path / "frugal" / "kernels")
    assert prefix.name == f"{source.variant}.sm_80"
    assert prefix.with_name(prefix.name + ".cubin").stat().st_size > 0
    monkeypatch.setattr(cache, "build", lambda *given: pytest.fail("built again"))
    assert cache.built(source, "8.0") == prefix


def test_half_a_build_another_capability_and_other_tools_are_built_again(monkeypatch, source):
    prefixes = []
    monkeypatch.setattr(cache, "build", lambda source, capability, prefix: prefixes.append(prefix))
    assert cache.built(source, "8.0") == cache.built(source, "8.0") == prefixes[0] == prefixes[1]  # no report
    cache.built(source, "9.0")
    monkeypatch.setattr(cache, "tools", lambda: {"numba": "another"})
    cache.built(source, "9.0")
    assert len(set(prefixes)) == 3
    assert prefixes[2].name == prefixes[3].name
    assert prefixes[2].parent != prefixes[3].parent


def test_without_the_variable_it_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "frugal" / "kernels"
