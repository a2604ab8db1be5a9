"""Kernels as a GPU machine has them, without a GPU: reports on disk, launches that compute with torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from frugal.cusnn import ours
from kernels.build import BuildReport
from kernels.sparse import Variant, Workspace


def report(variant: Variant, number: int) -> BuildReport:
    """A report whose numbers all differ, and differ from variant to variant."""
    return BuildReport(
        family="sparse", variant=variant.name, entry=variant.rung, capability="9.0", parameters=variant.parameters,
        threads=variant.threads, max_registers=None, fastmath=False, dynamic_shared_bytes=0, registers=100 + number,
        local_bytes=200 + number, spill_store_bytes=300 + number, spill_load_bytes=400 + number,
        shared_bytes=500 + number, constant_bytes=1, instructions=1, ffma=1, source_sha256="s", ptx_sha256="p",
        cubin_sha256=f"cubin {number}", tools={},
    )  # fmt: skip


def written(variants: Iterable[Variant], folder: Path) -> list[Path]:
    """The reports on disk, as prefixes."""
    folder.mkdir(exist_ok=True)
    prefixes = []
    for number, variant in enumerate(variants):
        prefixes.append(folder / f"{variant.name}.sm_90")
        Path(f"{prefixes[-1]}.json").write_text(json.dumps(dataclasses.asdict(report(variant, number))))
    return prefixes


def weights(given: dict) -> torch.Tensor:
    """The weights among a launch's arguments by name, as `pack_weights` has them: v6 has its groups' side by side."""
    c, groups = given["C"], given.get("groups", 1)
    return given["w"].view(c, groups, 9, -1).transpose(1, 2).reshape(c, 3, 3, -1)


class FakeKernel:
    """Takes what a kernel takes, and writes y[b, n, i, j] = the sum of x·w of a 3×3 convolution when it is launched."""

    def __init__(self, prefix: Path) -> None:
        self.report = BuildReport(**json.loads(Path(f"{prefix}.json").read_text()))
        self.bound: list[tuple] = []

    def bind(self, grid, block, args, *, cluster=1, overlap=False):
        self.bound.append((grid, block, args, cluster, overlap))
        given = dict(zip((name for name, _ in self.report.parameters), args, strict=True))
        c, h, w = given["C"], given["H"], given["W"]
        packed = weights(given)

        def launch() -> None:
            x = given["x"].view(-1, c, h, w)
            y = torch.nn.functional.conv2d(x, packed.permute(3, 0, 1, 2), padding=1)
            n = given["y"].numel() // (len(x) * h * w)
            given["y"].copy_(y[:, :n].reshape(-1))

        return launch


def kernels(variants: Iterable[Variant], folder: Path, monkeypatch: pytest.MonkeyPatch, sm_count: int = 132):
    """`ours.Kernels` over fake kernels, and the list of what was loaded."""
    loads: list[Path] = []

    def load(prefix: Path) -> FakeKernel:
        loads.append(prefix)
        return FakeKernel(prefix)

    monkeypatch.setattr(ours, "Workspace", lambda device: Workspace("cpu"))
    monkeypatch.setattr(ours.launch, "load", load)
    return ours.Kernels(written(variants, folder), sm_count), loads
