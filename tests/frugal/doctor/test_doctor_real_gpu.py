"""The doctor on a real GPU: everything is asked, nothing is set, and calibration's numbers are possible ones."""

from __future__ import annotations

import json

import pytest
import torch

from frugal import config, doctor, provenance, timing
from frugal.doctor import gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
OWN = {"devices": {"local": {"kind": "cuda"}}, "data": {"images": "x"}, "cusnn": {"weights": "synthetic"}}


def test_every_line_of_the_gpu_is_there_and_none_fails():
    checks = {check.name: check for check in doctor.doctor(config.load(OWN))}
    assert checks["GPU"].level == "PASS"
    names = {"driver", "compute capability", "MIG", "ECC", "persistence", "clocks", "event reasons", "GPU memory"}
    assert {*names, *gpu.READINGS} <= set(checks)
    assert {name for name in (*names, *gpu.READINGS) if checks[name].level == "FAIL"} == set()


def test_a_session_records_what_can_be_read():
    findings = json.loads(doctor.quick("cuda"))
    assert {"clocks", "ECC", *gpu.READINGS} <= set(findings)


def test_calibration_gives_possible_numbers():
    record = provenance.device_record("cuda")
    found = {check.name: check for check in doctor.calibrate(timing.device_of(record), record["gpu_name"])}
    assert {"copy", "fp32 matmul", "TF32 matmul", "fp16 matmul", "flush", "energy tick"} <= set(found)
    assert {"equal arms, cold", "equal arms, graph"} <= set(found)
    launch_us, floor_us = (float(found[name].found.split()[0]) for name in ("launch", "event floor"))
    assert 0.5 < launch_us < 100  # a launch takes the host some microseconds
    assert 0 < floor_us < 10  # 1.3 µs behind a spin on an H200
