"""Provenance: the device and its key, and the row of `runs`. GPUs are fakes."""

import hashlib
import json
import os
import re
import sys
import uuid
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from frugal import provenance, records
from frugal.errors import FrugalError
from frugal.provenance import cpu
from frugal.provenance.device import device_record, slug, write_device_record
from frugal.provenance.gpu import gpu_record

H200 = "8c2f1e7a-0000-4000-8000-000000000001"
A40 = "8c2f1e7a-0000-4000-8000-000000000002"


# ---- fakes -----------------------------------------------------------------------------------------------------------


class NVMLError(Exception):
    pass


class FakeNvml:
    """NVML with some GPUs, each (name, uuid, cores, capability). A getter named in `missing` is not supported."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    nvmlClocksEventReasonApplicationsClocksSetting = 2

    def __init__(self, gpus=(("NVIDIA H200", H200, 16896, (9, 0)),), missing=(), reasons=0, pids=()):
        self.gpus, self.missing, self.reasons, self.pids = gpus, missing, reasons, pids

    def __getattribute__(self, name):
        if name.startswith("nvml") and name in object.__getattribute__(self, "missing"):
            raise NVMLError("Not Supported")
        return object.__getattribute__(self, name)

    def nvmlDeviceGetCount(self):
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, text):
        for gpu in self.gpus:
            if self.nvmlDeviceGetUUID(gpu) == text:
                return gpu
        raise NVMLError("Not Found")

    def nvmlDeviceGetName(self, gpu):
        return gpu[0]

    def nvmlDeviceGetUUID(self, gpu):
        return ("MIG-" if "MIG" in gpu[0] else "GPU-") + gpu[1]

    def nvmlDeviceGetNumGpuCores(self, gpu):
        return gpu[2]

    def nvmlDeviceGetCudaComputeCapability(self, gpu):
        return gpu[3]

    def nvmlDeviceGetMemoryInfo(self, gpu):
        return SimpleNamespace(total=150_754_820_096)

    def nvmlDeviceGetEccMode(self, gpu):
        return [1, 1]

    def nvmlDeviceGetMigMode(self, gpu):
        return [0, 0]

    def nvmlSystemGetDriverVersion(self):
        return b"580.95.05"

    def nvmlSystemGetCudaDriverVersion_v2(self):
        return 13010

    def nvmlDeviceGetMaxClockInfo(self, gpu, kind):
        return {1: 1980, 2: 3201}[kind]

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu):
        return 700_000

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu):
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):
        return [SimpleNamespace(pid=pid) for pid in self.pids]


class FakeDriver:
    """The part of cuda.bindings.driver that describes the first visible GPU; `uuids` are those it shows, in order."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major",
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor",
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT="sms",
        CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE="l2",
    )

    def __init__(self, uuids=(H200,), major=9, minor=0, sms=132, l2=62_914_560, status=0):
        self.uuids, self.status = uuids, status
        self.values = {"major": major, "minor": minor, "sms": sms, "l2": l2}

    def cuDeviceGetCount(self):
        return 0, len(self.uuids)

    def cuDeviceGet(self, ordinal):
        return 0, ordinal

    def cuDeviceGetAttribute(self, attribute, device):
        return self.status, self.values[attribute]

    def cuDeviceGetUuid(self, device):
        return 0, SimpleNamespace(bytes=uuid.UUID(self.uuids[device]).bytes)


TWO = (("NVIDIA A40", A40, 10752, (8, 6)), ("NVIDIA H200", H200, 16896, (9, 0)))
TWINS = (("NVIDIA H200", A40, 16896, (9, 0)), ("NVIDIA H200", H200, 16896, (9, 0)))


# ---- the device ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", [None, FakeDriver()], ids=["nvml alone", "with driver"])
def test_a_gpu_has_the_key_of_its_model(driver):
    record = device_record("auto", FakeNvml(), driver)
    assert record["device_key"] == "nvidia-h200-9.0-132sm"
    assert (record["device_kind"], record["hardware_class"]) == ("cuda", "gpu")
    assert (record["gpu_name"], record["capability"], record["sm_count"]) == ("NVIDIA H200", "9.0", 132)
    assert record["l2_bytes"] == (None if driver is None else 62_914_560)


@pytest.mark.parametrize(
    ("name", "cores", "capability", "key"),
    [
        ("Tesla V100-SXM2-16GB", 5120, (7, 0), "nvidia-tesla-v100-sxm2-16gb-7.0-80sm"),
        ("Tesla T4", 2560, (7, 5), "nvidia-tesla-t4-7.5-40sm"),
        ("NVIDIA A100-SXM4-80GB", 6912, (8, 0), "nvidia-a100-sxm4-80gb-8.0-108sm"),
        ("NVIDIA GeForce RTX 3090", 10496, (8, 6), "nvidia-geforce-rtx-3090-8.6-82sm"),
        ("NVIDIA GeForce RTX 4090", 16384, (8, 9), "nvidia-geforce-rtx-4090-8.9-128sm"),
    ],
)
def test_multiprocessors_follow_from_cores_where_the_driver_is_not_asked(name, cores, capability, key):
    assert provenance.device_key("cuda", FakeNvml([(name, H200, cores, capability)])) == key


def test_the_cpu_measures_where_it_is_asked_to_or_nothing_else_is_there():
    forced, alone = device_record("cpu", FakeNvml()), device_record("auto", FakeNvml(gpus=()))
    assert forced == alone
    assert forced["device_kind"] == forced["hardware_class"] == "cpu"
    assert forced["device_key"] == f"cpu-{slug(cpu.cpu_model())}-{os.cpu_count()}c"
    assert forced["gpu_name"] is forced["capability"] is forced["sm_count"] is forced["l2_bytes"] is None


def test_a_gpu_that_is_asked_for_must_be_there(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(FrugalError, match=r"no NVIDIA GPU is visible here \(CUDA_VISIBLE_DEVICES is ''\): set"):
        device_record("cuda", FakeNvml())
    assert device_record("auto", FakeNvml())["device_kind"] == "cpu"


def test_an_unknown_kind_is_told_the_known_ones():
    with pytest.raises(FrugalError, match="'gpu' is unknown: use one of auto, cpu, cuda"):
        device_record("gpu", FakeNvml())


def test_equal_machines_write_equal_files(tmp_path):
    boards = [FakeNvml([("NVIDIA H200", board, 16896, (9, 0))], pids=[1]) for board in (H200, A40)]
    for name, board in zip("ab", boards, strict=True):
        write_device_record(device_record("auto", board), tmp_path / "device" / f"{name}.json")
    first, second = ((tmp_path / "device" / f"{name}.json").read_bytes() for name in "ab")
    assert first == second
    assert json.loads(first) == device_record("auto", boards[0])
    assert sorted(path.name for path in (tmp_path / "device").iterdir()) == ["a.json", "b.json"]


@pytest.mark.parametrize(
    ("visible", "board"),
    [(None, 0), ("0", 0), ("1", 1), ("1,0", 1), (f"GPU-{H200}", 1), ("GPU-8c2f1e7a", 0), (" 1", 1)],
)
def test_the_first_visible_gpu_is_taken(visible, board):
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = gpu_record(FakeNvml(TWINS), None, environ)
    assert found["gpu_uuid_hash"] == gpu_record(FakeNvml(TWINS[board : board + 1]), None, {})["gpu_uuid_hash"]


@pytest.mark.parametrize("visible", ["", "-1", "2", "NoDevFiles", "GPU-ffff", "-1,0", "MIG-unknown"])
def test_no_gpu_is_taken_that_cuda_would_not_show(visible):
    assert gpu_record(FakeNvml(TWINS), None, {"CUDA_VISIBLE_DEVICES": visible}) is None


def test_numbers_of_unlike_gpus_are_not_guessed():
    with pytest.raises(FrugalError, match="different GPUs"):
        gpu_record(FakeNvml(TWO), None, {"CUDA_VISIBLE_DEVICES": "0"})
    by_bus = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert gpu_record(FakeNvml(TWO), None, by_bus)["gpu_name"] == "NVIDIA H200"


def test_the_driver_decides_which_gpu_comes_first():
    # CUDA numbers by speed: its device 0 is NVML's 1.
    assert gpu_record(FakeNvml(TWO), FakeDriver([H200, A40]), {})["gpu_name"] == "NVIDIA H200"
    assert gpu_record(FakeNvml(TWO), FakeDriver([A40], 8, 6, 84), {})["gpu_name"] == "NVIDIA A40"
    assert gpu_record(FakeNvml(TWO), FakeDriver([]), {"CUDA_VISIBLE_DEVICES": ""}) is None


def test_a_slice_of_a_gpu_is_recorded_as_such():
    slices = (("NVIDIA H200 MIG 1g.18gb", A40, 2048, (9, 0)),)
    found = gpu_record(FakeNvml(slices), FakeDriver([A40], sms=16), {})
    assert found["mig"] is True
    assert found["sm_count"] == 16


def test_a_driver_that_fails_is_reported_in_one_sentence():
    with pytest.raises(FrugalError, match=r"refuses to describe the GPU \(999\)"):
        gpu_record(FakeNvml(), FakeDriver(status=999), {})
    with pytest.raises(FrugalError, match="NVML does not know the GPU"):
        gpu_record(FakeNvml(), FakeDriver([A40]), {})


def test_gpu_columns_are_in_si_units():
    found = gpu_record(FakeNvml(pids=[os.getpid(), 1, 2]), FakeDriver(), {})
    assert found["sm_hz_max"] == 1.98e9
    assert found["mem_hz_max"] == 3.201e9
    assert found["power_limit_w"] == 700.0
    assert found["mem_bytes"] == 150_754_820_096
    assert found["driver"] == "580.95.05"
    assert found["cuda_driver"] == "13.1"
    assert found["ecc"] is True
    assert found["mig"] is False
    assert found["clocks_locked"] is False
    assert found["foreign_pids"] == 2
    assert H200 not in str(found)


OPTIONAL = {
    "nvmlDeviceGetMemoryInfo": "mem_bytes",
    "nvmlDeviceGetEccMode": "ecc",
    "nvmlSystemGetDriverVersion": "driver",
    "nvmlSystemGetCudaDriverVersion_v2": "cuda_driver",
    "nvmlDeviceGetMaxClockInfo": "sm_hz_max",
    "nvmlDeviceGetEnforcedPowerLimit": "power_limit_w",
    "nvmlDeviceGetCurrentClocksEventReasons": "clocks_locked",
    "nvmlDeviceGetComputeRunningProcesses": "foreign_pids",
}


@pytest.mark.parametrize(("getter", "column"), OPTIONAL.items())
def test_what_a_driver_cannot_tell_is_null(getter, column):
    assert gpu_record(FakeNvml(missing=[getter]), FakeDriver(), {})[column] is None


def test_locked_clocks_are_seen():
    assert gpu_record(FakeNvml(reasons=2 | 4), FakeDriver(), {})["clocks_locked"] is True


def test_nothing_is_ever_set():
    package = Path(provenance.__file__).parent
    for path in package.glob("*.py"):
        assert not re.search(r"nvml\w*Set\w*\(|nvmlDeviceReset|subprocess.*nvidia-smi", path.read_text()), path.name


# ---- ULIDs and the row of `runs` -------------------------------------------------------------------------------------


def test_ulids_sort_by_time_and_hold_it():
    # The example of the specification: 1469918176385 ms is 01ARYZ6S41.
    when = datetime.fromtimestamp(1469918176385 / 1000, UTC)
    assert provenance.new_ulid(when).startswith("01ARYZ6S41")
    assert re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", provenance.new_ulid())
    assert provenance.new_ulid(when) < provenance.new_ulid()
    assert len({provenance.new_ulid(when) for _ in range(100)}) == 100


def collected(device, **more):
    return provenance.collect(device, experiment="layers", preset="smoke", session=0, sessions_planned=1, **more)


def test_a_cpu_session_can_be_written_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("FRUGAL_IMAGE_DIGEST", "sha256:0123")
    run = collected("cpu", threads=2, config_json='{"preset":"smoke"}')
    records.write_job(tmp_path / "session-0.parquet", run, [], {})
    assert records.read_job(tmp_path / "session-0.parquet")[0] == run
    assert run.device_key == device_record("cpu")["device_key"]
    assert (run.device_kind, run.hardware_class, run.threads) == ("cpu", "cpu", 2)
    assert run.container_digest == "sha256:0123"
    assert run.gpu_name is run.sm_count is run.foreign_pids is run.peak_source is None
    assert run.config_hash == hashlib.sha256(b'{"preset":"smoke"}').hexdigest()


def test_a_gpu_session_carries_the_gpu():
    run = collected(SimpleNamespace(kind="cuda"), nvml=FakeNvml(reasons=2), driver=FakeDriver())
    assert run.device_key == "nvidia-h200-9.0-132sm"
    assert (run.device_kind, run.hardware_class) == ("cuda", "gpu")
    assert (run.compute_capability, run.sm_count, run.l2_bytes) == ("9.0", 132, 62_914_560)
    assert (run.clocks_locked, run.power_regime) == (True, "locked")
    assert run.peak_source == "NVIDIA H200 Tensor Core GPU datasheet"


def test_a_gpu_session_without_a_gpu_is_refused():
    with pytest.raises(FrugalError, match="no NVIDIA GPU is visible"):
        collected("cuda", nvml=FakeNvml(gpus=()))


def test_versions_are_those_that_python_reports():
    import numba
    import numpy
    import pyarrow
    import torch

    run = collected("cpu")
    assert (run.numpy, run.pyarrow, run.numba) == (numpy.__version__, pyarrow.__version__, numba.__version__)
    assert (run.torch, run.torch_cuda) == (torch.__version__, torch.version.cuda)
    assert run.python == ".".join(map(str, sys.version_info[:3]))


def test_every_column_of_the_machine_is_filled():
    # What a session measures later is null here; all else must come from one of the two records.
    later = {"copy_bytes_per_s", "flops_fp32", "flops_tf32", "flops_fp16", "launch_s", "event_floor_s"}
    later |= {"energy_tick_s", "idle_w"}
    later |= {"settled_sm_hz", "steal_fraction"}
    of_the_system = {"cpu_governor", "cpu_turbo", "llc_bytes", "virtualization", "container_digest", "load_1min"}
    of_the_software = {"git_sha", "git_dirty", "snakemake", "numba_cuda", "torch_cuda", "cudnn"}
    run = collected("cuda", nvml=FakeNvml(), driver=FakeDriver())
    empty = {field.name for field in fields(run) if getattr(run, field.name) is None}
    assert empty - of_the_system - of_the_software == later
