"""The whole plan: what it says beside what campaigns took, its words, its file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from frugal import config, plan, provenance, records
from frugal.errors import FrugalError
from frugal.plan import _half_widths
from frugal.provenance.software import REPOSITORY

H200 = REPOSITORY / "results" / "recorded" / "nvidia-h200"
CPU = {"device_kind": "cpu", "device_key": "cpu-amd-epyc-2c", "capability": None, "gpu_name": None}
GPU = {"device_kind": "cuda", "device_key": "nvidia-h200-9.0-132sm", "capability": "9.0", "gpu_name": "NVIDIA H200"}


def made(folder: Path, given: dict, device: dict = CPU, cores: int = 2) -> plan.Plan:
    """The plan of a folder whose machine is known; of cuSNN alone, where nothing else is asked for."""
    for label in given.get("devices", {"local": {}}):
        provenance.write_device_record(device, folder / "results" / "device" / f"{label}.json")
    cfg = config.load({"systems": ["cusnn"]} | given)
    return plan.plan(cfg, results=folder / "results", data=folder / "data", cores=cores)


OF_LAYERS = ("sparsity", "layers", "ladder")


def recorded_campaign() -> dict:
    """What results/recorded holds of cuSNN's layers, in one campaign: its networks were measured in others."""
    given = yaml.safe_load((REPOSITORY / "workflow/profiles/recorded/campaign.yaml").read_text())
    return given | {"recorded": ["nvidia-h200"], "cusnn": given["cusnn"] | {"experiments": [*OF_LAYERS]}}


# ---- beside the truth ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorded", [["nvidia-h200"], []], ids=["learned from it", "from what is built in"])
def test_the_recorded_campaign_took_about_what_is_planned(tmp_path: Path, recorded: list[str]):
    took = sum(run["wall_s"] for run in records.read(H200, "runs").to_pylist() if run["experiment"] in OF_LAYERS) / 60
    (system,) = made(tmp_path, recorded_campaign() | {"recorded": recorded}, GPU).systems
    assert took / 1.5 <= system.minutes <= 1.5 * took
    assert (system.cases, system.arms, system.jobs) == (24, 204, 8)


def test_the_default_campaign_took_about_what_is_planned(tmp_path: Path):
    """On two cores of an AMD EPYC (2026-11-21) its measuring jobs took 108 s and the whole, kernels built, 133 s."""
    planned = made(tmp_path, {"recorded": [], "cusnn": {"batch_sizes": [1]}})
    assert 108 / 1.5 <= 60 * planned.systems[0].minutes <= 1.5 * 108
    assert 133 / 1.5 <= 60 * planned.minutes[1] <= 1.5 * 133


@pytest.mark.parametrize(("preset", "device"), [("smoke", CPU), ("quick", GPU), ("headline", GPU)])
def test_low_and_high_lie_around_what_is_expected(tmp_path: Path, preset: str, device: dict):
    planned = made(tmp_path, {"preset": preset}, device)
    low, expected, high = planned.minutes
    assert 0 < low < expected < high
    (system,) = planned.systems
    assert 0 < system.minutes_low < system.minutes < system.minutes_high


def test_more_sessions_take_that_much_longer(tmp_path: Path):
    few, many = (made(tmp_path, {"preset": "quick", "timing": {"sessions": n}}).systems[0].minutes for n in (3, 12))
    assert many / few == pytest.approx(4, rel=0.1)  # but for the counting of zeros, done once


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_half_widths_by_hand():
    # Student's t at 97.5 %: 4.302653 with 2 degrees of freedom, 2.364624 with 7 (any table)
    values = [0.01] * 20
    assert _half_widths(values, 3)[0] == pytest.approx(2.71828182846 ** (4.302653 * 0.01 / 3**0.5) - 1, rel=1e-6)
    assert _half_widths(values, 8)[0] == pytest.approx(2.71828182846 ** (2.364624 * 0.01 / 8**0.5) - 1, rel=1e-6)
    median, ninth = _half_widths([i / 1000 for i in range(1, 101)], 8)
    assert ninth / median == pytest.approx(90.1 / 50.5, rel=0.05)  # so narrow that exp is all but linear
    assert _half_widths(values, 1) == (None, None)
    assert _half_widths([], 8) == (None, None)


def test_the_expected_half_width_comes_from_the_last_campaign(tmp_path: Path):
    (system,) = made(tmp_path, {"preset": "quick"}, GPU).systems
    pairs = records.read(H200, "comparisons").to_pylist()
    pairs = [pair for pair in pairs if (pair["system"], pair["metric"]) == ("cusnn", "time")]
    # The recorded campaign had three sessions too: its own intervals are what is expected of the next.
    widths = np.sqrt([p["ratio_high"] / p["ratio_low"] for p in pairs]) - 1
    # between two neighbours the one interpolates widths and the other logarithms
    assert system.half_width == pytest.approx(np.quantile(widths, 0.5), rel=1e-3)
    assert system.half_width_90 == pytest.approx(np.quantile(widths, 0.9), rel=1e-3)


def test_jobs_beside_the_measuring_ones(tmp_path: Path):
    given = {"cusnn": {"definition": "keras_v1"}, "kernels": {"capabilities": ["8.0", "9.0"]}}
    counted = made(tmp_path, given).beside
    assert counted["image_to_bin"] == counted["network_weights"] == 2
    assert counted["build_kernel"] == 2 * 2  # smoke: one variant of each family
    assert counted["download"] == 1  # ResNet-50's Keras weights are in no URL; torchvision's would stand in
    whole = made(tmp_path, given, GPU).beside
    assert whole["build_kernel"] > 10  # every variant, for its own capability


def test_more_cores_build_faster(tmp_path: Path):
    two, eight = (made(tmp_path, {}, cores=cores) for cores in (2, 8))
    assert two.other_minutes == pytest.approx(4 * eight.other_minutes)
    assert two.systems == eight.systems


def test_downloads_that_are_there_are_not_planned(tmp_path: Path):
    given = {"cusnn": {"networks": ["resnet50"]}}
    before = made(tmp_path, given).systems[0].download_bytes
    assert before == 102_530_333  # data/sources.yaml
    (tmp_path / "data/downloads").mkdir(parents=True)
    (tmp_path / "data/downloads/resnet50-0676ba61.pth").touch()
    assert made(tmp_path, given).systems[0].download_bytes == 0
    own = {"cusnn": {"networks": ["resnet50"], "weights": "synthetic"}}
    assert made(tmp_path, own).systems[0].download_bytes == 0


def test_a_size_that_is_not_published_is_reckoned_from_the_network(tmp_path: Path):
    given = {"cusnn": {"networks": ["densenet169"]}}
    # 14 149 480 parameters (torchvision's documentation) of four bytes
    assert made(tmp_path, given).systems[0].download_bytes == pytest.approx(4 * 14_149_480, rel=0.15)


def test_what_the_doctor_is_told(tmp_path: Path):
    on_cpu, on_gpu = (made(tmp_path, {}, device) for device in (CPU, GPU))
    need = plan.need(on_gpu)
    assert need.gpu_bytes == on_gpu.systems[0].device_memory_bytes > 2 * 1024**3
    assert need.disk_bytes > on_gpu.disk_bytes > on_gpu.systems[0].download_bytes
    assert plan.need(on_cpu).ram_bytes >= on_cpu.systems[0].device_memory_bytes


def test_more_images_take_more_memory(tmp_path: Path):
    few, many = (made(tmp_path, {"data": {"n_images": n}}, GPU).systems[0] for n in (8, 128))
    assert many.device_memory_bytes > few.device_memory_bytes


def test_the_controls_take_memory_too_but_less_of_a_small_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    needs = []
    for size in (140e9, 8e9):
        monkeypatch.setattr(plan, "find_gpu", lambda kind, size=size: {"mem_bytes": size})
        needs.append(made(tmp_path, {"preset": "smoke"}, GPU).systems[0].device_memory_bytes)
    assert needs[0] > 6 * 2e9  # two copies of a gigabyte, six times: inputs and outputs of both arms
    assert needs[1] < 8e9


# ---- machines --------------------------------------------------------------------------------------------------------


def test_labels_are_planned_each_on_its_machine(tmp_path: Path):
    for label, device in (("laptop", CPU), ("server", GPU)):
        provenance.write_device_record(device, tmp_path / "results/device" / f"{label}.json")
    cfg = config.load({"systems": ["cusnn"], "devices": {"laptop": {}, "server": {}}})
    planned = plan.plan(cfg, results=tmp_path / "results", data=tmp_path / "data", cores=2)
    assert planned.learned_from == {"laptop": "built in", "server": "recorded nvidia-h200"}
    assert planned.devices == {"laptop": "cpu-amd-epyc-2c", "server": "nvidia-h200-9.0-132sm"}
    alone = [made(tmp_path / name, {}, device).systems[0] for name, device in (("a", CPU), ("b", GPU))]
    (system,) = planned.systems
    assert system.minutes == pytest.approx(sum(one.minutes for one in alone))
    assert system.jobs == sum(one.jobs for one in alone)
    assert planned.on_cpu


def test_a_head_node_plans_for_a_gpu_that_it_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(kind: str) -> dict:
        raise FrugalError("no NVIDIA GPU is visible here")

    monkeypatch.setattr(plan.provenance, "device_record", refuse)
    cfg = config.load({"devices": {"local": {"kind": "cuda"}}})
    planned = plan.plan(cfg, results=tmp_path, data=tmp_path)
    assert planned.device_kinds == {"local": "cuda"}
    with pytest.raises(FrugalError, match="no NVIDIA GPU"):
        plan.plan(config.load({}), results=tmp_path, data=tmp_path)


def test_a_damaged_device_file_is_one_sentence(tmp_path: Path):
    (tmp_path / "device").mkdir()
    (tmp_path / "device/local.json").write_text("{")
    with pytest.raises(FrugalError, match=r"local\.json is no device file: delete it and run again"):
        plan.plan(config.load({}), results=tmp_path, data=tmp_path)


# ---- words -----------------------------------------------------------------------------------------------------------


def test_the_text_names_every_system_and_what_is_known(tmp_path: Path):
    text = plan.text(made(tmp_path, {"preset": "quick", "systems": ["cusnn", "method"]}, GPU))
    lines = text.splitlines()
    assert lines[0] == (
        "preset quick: sessions 3, rounds 2, on local (nvidia-h200-9.0-132sm; learned from recorded nvidia-h200)"
    )
    assert lines[2].split()[:4] == ["system", "cases", "arms", "jobs"]
    first = {line.split()[0]: line for line in lines[3:] if line}
    assert "nine in ten below ±" in first["cusnn"]
    assert "nine in ten below ±" in first["method"]
    alone = plan.text(made(tmp_path, {"preset": "quick", "recorded": []}, GPU))
    assert "not known yet" in next(line for line in alone.splitlines() if line.startswith("cusnn"))
    assert "39 × build_kernel" in text
    assert "none: one session" in plan.text(made(tmp_path, {}, GPU))


def test_the_file_is_what_the_report_reads(tmp_path: Path):
    planned = made(tmp_path, {})
    plan.write(planned, tmp_path / "plan.json")
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["preset"] == "smoke"
    assert written["total"] == dict(zip(("minutes_low", "minutes", "minutes_high"), planned.minutes, strict=True))
    (system,) = written["systems"]
    assert system["system"] == "cusnn"
    assert {"minutes_low", "minutes", "minutes_high", "cases", "arms", "jobs", "half_width"} <= set(system)
    assert str(tmp_path) not in (tmp_path / "plan.json").read_text()
    assert [path.name for path in tmp_path.glob("*plan*")] == ["plan.json"]


def test_a_plan_loads_no_torch_and_touches_no_gpu(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from frugal import config, plan\n"
        f"plan.plan(config.load({{}}), results=Path({str(tmp_path)!r}), data=Path({str(tmp_path)!r}))\n"
        "print({'torch', 'matplotlib', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
