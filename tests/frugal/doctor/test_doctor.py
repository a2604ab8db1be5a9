"""The whole doctor on machines made of files: which lines there are, what a session records, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import namedtuple
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from doctor_fakes import BOARD, GIB, FakeClock, FakeNvml, machine

from frugal import config, doctor
from frugal.data.sources import Availability
from frugal.doctor import Check, Need, whole
from frugal.errors import FrugalError
from frugal.records import privacy

Usage = namedtuple("Usage", "total used free")
PLENTY = Usage(900 * GIB, 0, 800 * GIB)
GPU_LINES = {
    "driver", "compute capability", "MIG", "other processes", "clocks", "ECC", "persistence", "energy counter",
    "power reading", "clock reading", "temperature reading", "event reasons", "GPU memory",
}  # fmt: skip


def everything(names, mirror=None):
    return {name: Availability(where="url", address=f"https://example.org/{name}") for name in names}


def nothing(names, mirror=None):
    return {name: Availability(where="none", reason="no connection") for name in names}


def found(tmp_path: Path, given: dict | None = None, nvml=None, probe=everything, **options) -> dict[str, Check]:
    (tmp_path / "campaign").mkdir(exist_ok=True)
    checks = doctor.doctor(
        config.load({"devices": {"local": {"kind": "cpu" if nvml is None else "auto"}}} | (given or {})),
        folder=tmp_path / "campaign",
        root=machine(tmp_path / "root"),
        nvml=nvml,
        clock=FakeClock(),
        probe=probe,
        usage=lambda folder: PLENTY,
        **options,
    )
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    return {check.name: check for check in checks}


def test_a_cpu_has_no_lines_of_a_gpu(tmp_path: Path):
    lines = found(tmp_path)
    assert set(lines) == {
        "python", "packages", "numpy", "snakemake", "profile", "free disk", "free memory", "write permission",
        "images", "weights of densenet169", "weights of resnet50",
        "CPU governor", "load", "stolen time", "CPU quota", "timer", "preset", "GPU",
    }  # fmt: skip
    assert doctor.exit_status(list(lines.values())) == 0


def test_a_gpu_has_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(whole.software, "torch_cuda", lambda: "13.0")
    lines = found(tmp_path, nvml=FakeNvml())
    assert set(lines) >= GPU_LINES
    assert {name: lines[name].level for name in GPU_LINES} == dict.fromkeys(GPU_LINES, "PASS")
    assert lines["preset"].found == "smoke on a GPU"


def test_what_the_plan_needs_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(whole.software, "torch_cuda", lambda: "13.0")
    needs = Need(disk_bytes=900 * GIB, ram_bytes=900 * GIB, gpu_bytes=900 * GIB)
    lines = found(tmp_path, nvml=FakeNvml(), need=needs)
    failed = {name for name, check in lines.items() if check.level == "FAIL"}
    assert failed == {"free disk", "free memory", "GPU memory"}
    assert doctor.exit_status(list(lines.values())) == 1


def test_unlike_gpus_are_a_finding_and_no_error(tmp_path: Path):
    class Two(FakeNvml):
        def nvmlDeviceGetCount(self):
            return 2

        def nvmlDeviceGetHandleByIndex(self, index):
            return index

        def nvmlDeviceGetName(self, index):
            return ("NVIDIA H200", "NVIDIA A40")[index]

    lines = found(tmp_path, nvml=Two())
    assert lines["GPU"].level == "FAIL"
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in lines["GPU"].found
    assert not GPU_LINES & set(lines)


def test_every_fail_has_a_command_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Everything that can fail fails at once; the first word of each mend is a program."""
    monkeypatch.setattr(whole, "installed", lambda name: None)
    monkeypatch.setattr(whole.software, "torch_cuda", lambda: "99.0")
    monkeypatch.setattr(whole.system, "_writable", lambda folder: False)
    monkeypatch.setattr(whole.software, "python", partial(whole.software.python, (3, 9)))
    monkeypatch.setattr(whole.software, "pins", partial(whole.software.pins, version_of=lambda name: None))
    given = {"preset": "headline", "offline": "never"}
    needs = Need(900 * GIB, 900 * GIB, 900 * GIB)
    lines = found(tmp_path, given, nvml=FakeNvml(nvmlDeviceGetCudaComputeCapability=(7, 0)), probe=nothing, need=needs)
    lines |= found(tmp_path, given)  # headline on a CPU
    failed = [check for check in lines.values() if check.level == "FAIL"]
    assert {check.name for check in failed} >= {
        "python",
        "packages",
        "numpy",
        "snakemake",
        "write permission",
        "preset",
    }
    programs = {"make", "pip", "snakemake", "du", "ps", "chmod", "sudo", "nvidia-smi", "rm"}
    assert {check.name: check.mend.split()[0] for check in failed if check.mend.split()[0] not in programs} == {}


@pytest.mark.parametrize(
    ("probe", "offline", "level"), [(everything, "auto", "PASS"), (nothing, "auto", "WARN"), (nothing, "never", "FAIL")]
)
def test_sources(tmp_path: Path, probe, offline: str, level: str):
    lines = found(tmp_path, {"offline": offline}, probe=probe)
    assert lines["weights of resnet50"].level == lines["images"].level == level


def test_an_alternative_or_an_earlier_download_will_do(tmp_path: Path):
    asked = []

    def probe(names, mirror=None):
        asked.extend(names)
        return nothing(names) | {n: a for n, a in everything(names).items() if n == "resnet50_fp16.safetensors"}

    folder = tmp_path / "campaign/data/downloads"
    folder.mkdir(parents=True)
    (folder / "densenet169-b2777c0a.pth").touch()
    (tmp_path / "mirror").mkdir()
    given = {"cusnn": {"definition": "keras_v1", "networks": ["resnet50", "densenet169"]}}
    lines = found(tmp_path, given, probe=probe)
    assert lines["weights of resnet50"].found == "resnet50_fp16.safetensors, from the network"
    assert lines["weights of densenet169"].found == "densenet169-b2777c0a.pth, downloaded before"
    assert not any("densenet169" in name for name in asked)


def test_what_the_user_brings_is_not_looked_for(tmp_path: Path):
    lines = found(tmp_path, {"data": {"images": "mine/"}, "cusnn": {"weights": "synthetic"}}, probe=None)
    assert not {name for name in lines if name == "images" or name.startswith("weights")}


# ---- what a session records ------------------------------------------------------------------------------------------


def test_quick_is_short_canonical_and_private(tmp_path: Path):
    clock = FakeClock()
    text = doctor.quick("cpu", root=machine(tmp_path), clock=clock)
    findings = json.loads(text)
    assert set(findings) == {"CPU governor", "load", "stolen time", "CPU quota", "timer"}
    assert findings["timer"] == {"found": "steps of 40 ns", "level": "PASS"}
    assert text == json.dumps(findings, sort_keys=True, separators=(",", ":"))
    assert sum(clock.slept) <= 0.5


def test_quick_on_a_gpu_adds_its_state(tmp_path: Path):
    device = SimpleNamespace(kind="cuda")
    nvml = FakeNvml(nvmlDeviceGetPersistenceMode=0, nvmlDeviceGetTotalEnergyConsumption=None)
    text = doctor.quick(device, root=machine(tmp_path), nvml=nvml, clock=FakeClock())
    findings = json.loads(text)
    assert findings["persistence"]["level"] == findings["energy counter"]["level"] == "WARN"
    assert findings["clock reading"]["level"] == "PASS"
    assert BOARD not in text
    assert not re.search(r"(?<![\w])/[a-z]+/", text)


def test_quick_may_be_recorded():
    assert privacy.find_private(doctor.quick("cpu", clock=FakeClock()), privacy.private_names()) is None


# ---- the preset ------------------------------------------------------------------------------------------------------


def test_headline_is_refused_on_a_cpu_in_one_sentence():
    with pytest.raises(
        FrugalError, match=r"^preset headline is not offered on a CPU.*timing\.force to true$"
    ) as raised:
        doctor.admit("headline", "cpu", force=False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("preset", "kind", "force"), [("headline", "cpu", True), ("headline", "cuda", False), ("sweep", "cpu", False)]
)
def test_everything_else_is_admitted(preset: str, kind: str, force: bool):
    doctor.admit(preset, kind, force)


# ---- words -----------------------------------------------------------------------------------------------------------


def test_the_text_says_what_to_do_below_each_line_that_needs_it():
    checks = [
        Check("python", "PASS", "3.11", "3.11 or 3.12"),
        Check("timer", "WARN", "slow", "fast", "look"),
        Check("disk", "FAIL", "full", "room", "du -sh ."),
    ]
    assert doctor.text(checks).splitlines() == [
        "PASS  python  3.11",
        "WARN  timer   slow",
        "              wanted: fast",
        "              mend: look",
        "FAIL  disk    full",
        "              wanted: room",
        "              mend: du -sh .",
        "1 PASS, 1 WARN, 1 FAIL",
    ]
    assert doctor.exit_status(checks) == 1
    assert doctor.exit_status(checks[:2]) == 0
    assert doctor.exit_status([]) == 0


def test_the_doctor_loads_no_torch():
    code = (
        "import sys; from frugal import config, doctor\n"
        "own = {'devices': {'local': {'kind': 'cpu'}}, 'data': {'images': 'x'}, 'cusnn': {'weights': 'synthetic'}}\n"
        "doctor.doctor(config.load(own)); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
