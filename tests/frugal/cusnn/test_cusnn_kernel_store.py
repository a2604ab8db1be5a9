"""Kernels of the library: where builds are kept and found again, and what a capture refuses."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from frugal.cusnn import kernel_store
from frugal.cusnn.kernel_store import KernelStore, NotReady, build_variant, file_name
from frugal.errors import FrugalError
from kernels import cache
from kernels.build import BuildReport, read_report
from kernels.sparse import Variant

VARIANT = Variant("v3_ballot")
NAME = file_name(VARIANT.name, "9.0")


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is built, by a compiler that writes the report alone; the cache is a fresh folder."""
    made: list[Path] = []

    def build(source, capability: str, prefix: Path) -> None:
        made.append(prefix)
        prefix.parent.mkdir(parents=True, exist_ok=True)
        report = {field.name: None for field in dataclasses.fields(BuildReport)} | {"parameters": []}
        Path(f"{prefix}.json").write_text(json.dumps(report | {"source_sha256": source.sha256}))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "build", build)
    monkeypatch.setattr(kernel_store.launch, "load", lambda prefix: object())
    return made


def test_a_variant_is_built_once_into_the_cache(builds: list[Path], tmp_path: Path):
    prefix = build_variant(VARIANT, "9.0")
    assert prefix.is_relative_to(tmp_path / "cache" / "frugal" / "kernels")
    assert prefix.name == NAME == f"{VARIANT.name}.sm_90"
    assert build_variant(VARIANT.name, "9.0") == prefix
    assert builds == [prefix]
    assert build_variant(VARIANT, "8.0") != prefix
    assert len(builds) == 2


def test_another_source_or_compiler_is_another_build(builds: list[Path], monkeypatch: pytest.MonkeyPatch):
    first = build_variant(VARIANT, "9.0")
    monkeypatch.setattr(cache, "tools", lambda: {"numba": "0"})
    assert build_variant(VARIANT, "9.0") not in (first, build_variant(Variant("v3_ballot", th=4), "9.0"))
    assert len(builds) == 3


def test_a_folder_of_the_users_own(builds: list[Path], tmp_path: Path):
    assert build_variant(VARIANT, "9.0", tmp_path) == tmp_path / NAME


def test_a_name_of_no_variant_and_a_machine_without_a_gpu_are_told(builds: list[Path]):
    with pytest.raises(ValueError, match="'v9' is no variant of the sparse kernels"):
        build_variant("v9", "9.0")
    if not torch.cuda.is_available():
        with pytest.raises(FrugalError, match=r"torch sees no GPU .*: name one"):
            build_variant(VARIANT)
    assert builds == []


def test_a_store_prefers_a_campaigns_kernels_of_the_same_source(builds: list[Path], tmp_path: Path):
    campaign = build_variant(VARIANT, "9.0", tmp_path / "kernels")
    store = KernelStore("9.0", 132, tmp_path / "kernels")
    assert store.kernel(VARIANT.name) is store.kernel(VARIANT.name)
    assert builds == [campaign]


def test_a_store_passes_over_a_campaigns_kernel_of_another_source(builds: list[Path], tmp_path: Path):
    stale = build_variant(VARIANT, "9.0", tmp_path / "kernels")
    report = json.loads(Path(f"{stale}.json").read_text())
    Path(f"{stale}.json").write_text(json.dumps(report | {"source_sha256": "of yesterday"}))
    KernelStore("9.0", 132, tmp_path / "kernels").kernel(VARIANT.name)
    assert len(builds) == 2
    assert builds[1].is_relative_to(tmp_path / "cache")


def test_nothing_is_built_or_loaded_while_a_graph_is_captured(builds: list[Path], monkeypatch: pytest.MonkeyPatch):
    store = KernelStore("9.0", 132)
    capturing = True
    monkeypatch.setattr(kernel_store, "capturing", lambda: capturing)
    with pytest.raises(NotReady, match="run the same call once before the capture"):
        store.kernel(VARIANT.name)
    assert builds == []
    capturing = False
    loaded = store.kernel(VARIANT.name)
    capturing = True
    assert store.kernel(VARIANT.name) is loaded


def test_a_streams_workspace_is_made_once_and_never_in_a_capture(monkeypatch: pytest.MonkeyPatch):
    stream = SimpleNamespace(device_index=0, cuda_stream=7)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(kernel_store, "Workspace", lambda device: object())
    store = KernelStore("9.0", 132)
    monkeypatch.setattr(kernel_store, "capturing", lambda: True)
    with pytest.raises(NotReady, match="give a workspace, with which the same call was made once before the capture"):
        _ = store.workspace
    monkeypatch.setattr(kernel_store, "capturing", lambda: False)
    first = store.workspace
    monkeypatch.setattr(kernel_store, "capturing", lambda: True)
    assert store.workspace is first
    monkeypatch.setattr(kernel_store, "capturing", lambda: False)
    stream.cuda_stream = 8
    assert store.workspace is not first


def test_a_copied_model_shares_its_store():
    store = KernelStore("9.0", 132)
    assert copy.deepcopy(store) is store


def test_a_built_variant_is_a_kernel_that_can_be_read(tmp_path: Path):
    naive = Variant("v1_naive", th=1, tw=1, skip=False, fetch="direct")  # the quickest to compile
    report = read_report(build_variant(naive, "9.0", tmp_path))
    assert (report.variant, report.capability) == (naive.name, "9.0")
    assert (tmp_path / f"{naive.name}.sm_90.cubin").stat().st_size > 0
