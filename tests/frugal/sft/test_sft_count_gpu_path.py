"""What `memory` and `largest` make of the processes of a GPU, with a stand-in for those processes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from frugal import config
from frugal.errors import FrugalError
from frugal.memory import Fit
from frugal.memory.fresh import Outcome
from frugal.sft import count_largest, count_memory, offered
from frugal.sft.offered import GIB, MIB

GPU = SimpleNamespace(kind="cuda")
CONTEXT = 300 * MIB
FOUND = {
    "peak_live": 9, "peak_allocated": 10, "peak_reserved": 12, "workspace": 1, "time_forward": 0.1,
    "time_backward": 0.2, "macs": 100, "base_bytes": 5, "plan": {"segments": 2},
}  # fmt: skip


def section(**given: object) -> dict:
    return config.sft(config.load({"preset": "quick", "sft": {"networks": ["vgg16"], "sizes": [64], **given}}))


# ---- memory ----------------------------------------------------------------------------------------------------------


def memory(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Outcome], shard: str = "all") -> dict:
    """{arm: its result}, and the calls that were made under None."""
    calls = []

    def process(call: str, arguments: dict) -> Outcome:
        calls.append((call, arguments))
        return answers[arguments["method"]]

    monkeypatch.setattr(count_memory, "in_fresh_process", process)
    ours = section(methods=["vanilla", "save_on_cpu", "sft_artifact", "planned"], experiments=["memory"])
    found = {each.method.name: each for each in count_memory.results(GPU, lambda _: None, shard, ours, "photographs")}
    return found | {None: calls}


def test_each_step_of_a_gpu_has_a_process_and_its_end_is_the_rows_status(monkeypatch):
    found = memory(
        monkeypatch,
        {
            "vanilla": Outcome("ok", value=FOUND),
            "save_on_cpu": Outcome("oom", "CUDA out of memory. Tried to allocate 2.00 GiB"),
            "sft_artifact": Outcome("ok", value={"unsupported": "4 tiles do not divide pool5"}),
            "planned": Outcome("timeout", None),
        },
    )
    calls = found.pop(None)
    assert [arguments["method"] for _, arguments in calls] == list(found)
    for call, arguments in calls:
        assert call == "frugal.sft.probe:step_peaks"
        assert (arguments["device"], arguments["photographs"], arguments["seed"]) == ("cuda", "photographs", 0)
        assert arguments["subject"]["h"] == 64
    done = found["vanilla"]
    assert done.values == {name: FOUND[name] for name in count_memory.METRICS["cuda"]}
    assert (done.base_bytes, done.flop, done.settings, done.fault) == (5, 200.0, {"segments": 2}, None)
    faults = {name: (each.fault.status, each.fault.reason) for name, each in found.items() if each.fault}
    assert faults == {
        "save_on_cpu": ("oom", "CUDA out of memory. Tried to allocate 2.00 GiB"),
        "sft_artifact": ("unsupported", "4 tiles do not divide pool5"),
        "planned": ("timeout", "timeout"),
    }
    assert all(each.metrics == count_memory.METRICS["cuda"] for each in found.values())


def test_a_shard_of_memory_has_its_size_alone(monkeypatch):
    assert memory(monkeypatch, {}, "vgg16-fp32-96")[None] == []


# ---- largest ---------------------------------------------------------------------------------------------------------


class Searched:
    """`largest` on a GPU where `counts` says which sizes fit by tensors, and `runs` which ones run."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, counts: int, runs: int | Exception, cap_gib: float = 0.5
    ) -> None:
        self.tried: list[int] = []
        self.given: list[tuple[dict, int]] = []

        def counting(subject, method, cap, photographs):
            return lambda size: Fit(size <= counts)

        def processes(call, arguments, cap_bytes):
            assert call == "frugal.sft.probe:step_once"
            self.given.append((arguments, cap_bytes))

            def probe(size: int) -> Fit:
                self.tried.append(size)
                if isinstance(runs, Exception):
                    raise runs
                return Fit(size <= runs)

            return probe

        monkeypatch.setattr(count_largest, "_counting", counting)
        monkeypatch.setattr(count_largest, "cuda_probe", processes)
        monkeypatch.setattr(count_largest, "_context_bytes", lambda: CONTEXT)
        ours = section(caps_gib=[cap_gib], experiments=["largest"])
        every = count_largest.results(GPU, lambda _: None, f"vgg16-fp32-{cap_gib:g}", ours, "photographs")
        self.found = {each.method.name: each for each in every}

    @property
    def vanilla(self):
        return self.found["vanilla"]


@pytest.mark.parametrize("share", [0.9, 1.0, 1.05])
def test_the_size_that_runs_is_looked_for_around_the_one_that_is_counted(monkeypatch, share):
    counts = 8000
    searched = Searched(monkeypatch, counts, int(share * counts))
    size = searched.vanilla.values["size_max"]
    # a thirty-second of the span between 0.85 and 1.1
    assert 0 <= share * counts - size <= 0.25 * counts / 32 + 32
    assert min(searched.tried) >= 0.85 * counts - 32 * offered.LARGEST_TILES["quick"]  # in steps of the most tiles
    assert searched.vanilla.reason is None
    assert searched.vanilla.settings["probes"][str(size)] is True


def test_what_runs_far_below_the_count_is_still_found(monkeypatch):
    searched = Searched(monkeypatch, 8000, 1000)
    assert searched.vanilla.values["size_max"] == 1000 // 32 * 32


def test_the_limit_of_the_search_is_said(monkeypatch):
    searched = Searched(monkeypatch, 8000, 10**6)
    assert searched.vanilla.reason == "the largest size that was tried fitted"
    assert max(Searched(monkeypatch, 10**6, 10**6).tried) == offered.LARGEST_HIGH["quick"]


def test_the_context_is_taken_off_the_cap_and_a_plan_leaves_some_to_the_allocator(monkeypatch):
    searched = Searched(monkeypatch, 4000, 4000)
    assert {cap for _, cap in searched.given} == {GIB // 2 - CONTEXT}
    budgets = [each["settings"]["budget_mib"] for each, _ in searched.given if each["method"] == "planned"]
    assert budgets == [int(count_largest.SHARE * GIB / 2) // MIB]
    assert searched.found["planned"].method.settings["budget_mib"] == 512
    tiles = offered.LARGEST_TILES["quick"]
    assert searched.found["sft_artifact"].values["size_max"] % (32 * tiles) == 0
    assert searched.vanilla.axes["device"] == "cuda"


def test_nothing_that_fits_is_out_of_memory_and_a_broken_probe_failed(monkeypatch):
    none = Searched(monkeypatch, 4000, 0).vanilla
    assert (none.fault.status, none.fault.reason) == ("oom", "not even the smallest image fits")
    assert Searched(monkeypatch, 0, 4000).given == []  # tensors alone are too many: no process is started
    broken = Searched(monkeypatch, 4000, FrugalError("step_once at size = 64: failed: no driver")).vanilla
    assert broken.fault.status == "failed"
    assert "no driver" in broken.fault.reason
