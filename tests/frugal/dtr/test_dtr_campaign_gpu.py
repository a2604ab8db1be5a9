"""What DTR's campaign does on a GPU alone: processes of their own, allocators, caps, deterministic kernels."""

from __future__ import annotations

import pytest
import torch

from frugal import config
from frugal.dtr import captures, count_fragmentation, count_memory, count_reach, offered
from frugal.dtr.logs import Log
from frugal.timing import CudaDevice

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

SMALL = {"networks": ["transformer", "resnet32"], "sizes": "small", "budgets": [0.7], "caps_gib": [0.125]}


def section(**given):
    return config.dtr(config.load({"preset": "quick", "systems": ["dtr"], "dtr": SMALL | given}))


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    for subject in offered.subjects(section(), "cuda"):
        captures.capture(subject.network, dict(subject.sizes), str(folder), "cuda", 0)
    return str(folder)


def test_gradients_are_plain_pytorchs_and_peaks_within_the_budget(logs):
    found = {}
    dtr = section(methods=["checkpoint_blocks", "selective_matmul", "save_on_cpu"])
    for each in count_memory.results(CudaDevice(), print, "all", dtr, logs):
        found[each.axes["network"], each.arm] = each
    for network in SMALL["networks"]:
        values = found[network, "dtr@budget=0.7"].values
        assert values["differing"] == 0
        assert values["over_budget"] <= 0
        assert (values["remats"], values["evictions"]) == (values["remats_predicted"], values["evictions_predicted"])
        assert values["peak_managed"] == values["peak_predicted"]
        assert values["peak_managed"] <= values["peak_allocated"] <= values["peak_reserved"]
        plain = found[network, "plain"].values
        assert values["peak_total"] < plain["peak_total"] <= plain["peak_allocated"]
    assert found["transformer", "checkpoint_blocks"].values["differing"] == 0  # it has no batch norms


def test_a_budget_reaches_further_than_plain_pytorch_under_a_cap(monkeypatch):
    monkeypatch.setitem(offered.REACH, "transformer", ("batch", 64, 256))
    dtr = section(networks=["transformer"], methods=["save_on_cpu"])
    shorter = [each for each in offered.reach_subjects(dtr, "cuda") if dict(each[0].sizes)["seq"] == 64]
    monkeypatch.setattr(offered, "reach_subjects", lambda dtr, kind: shorter)
    found = {each.arm: each for each in count_reach.results(CudaDevice(), print, "all", dtr, "")}
    assert found["dtr"].values["max_size"] > found["plain"].values["max_size"] > 0
    assert found["dtr"].values["time_per_sample"] > 0


def test_moments_of_the_allocator_are_those_of_a_step(logs, monkeypatch):
    monkeypatch.setattr(offered, "FRAGMENTED_BUDGETS", (0.7,))
    dtr = section(networks=["transformer"])
    found = list(count_fragmentation.results(CudaDevice(), print, "all", dtr, logs))
    assert {each.arm for each in found} == {
        "plain@expandable=0", "plain@expandable=1", "dtr@budget=0.7,expandable=0", "dtr@budget=0.7,expandable=1",
    }  # fmt: skip
    for each in found:
        assert each.fault is None, each.fault
        assert 0 < each.values["allocated"] <= each.values["reserved"]
        assert 0 <= each.values["largest_hole"] <= each.values["reserved"]
    assert len({each.axes["moment"] for each in found}) == offered.MOMENTS


def test_a_step_that_does_not_fit_is_captured_with_nominal_costs(tmp_path, monkeypatch):
    sizes = (("batch", 2**22), ("seq", 4), ("input", 32), ("hidden", 2048))  # a state takes 32 GiB
    large = offered.Subject("lstm", sizes)
    monkeypatch.setattr(captures.provenance, "check_device", lambda device: None)
    captures.write([large], tmp_path, device="device.json", kind="cuda", seed=0, say=print)
    found = captures.read("lstm", tmp_path)
    assert found.nominal
    assert isinstance(found.log, Log)
    assert found.log.baseline().memory > torch.cuda.get_device_properties(0).total_memory
