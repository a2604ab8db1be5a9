"""What arms do to a GPU costs the rows of one arm in one case; the next process finds the GPU free."""

from __future__ import annotations

import pytest
import torch
from faulty_gpu_cases import FAULTS
from job_folders import session_job

from frugal import jobs, provenance
from frugal.records import read_job


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
def test_a_lost_context_and_a_kernel_that_never_ends(tmp_path):
    provenance.write_device_record(provenance.device_record("cuda"), tmp_path / "device.json")
    timing = {"n_min": 6, "block_max_s": 0.01, "warmup_gpu_s": 0.1, "case_timeout_s": 5.0, "regimes": ["graph"]}
    said = []
    job = session_job(
        tmp_path,
        list(FAULTS),
        cases="faulty_gpu_cases:cases",
        arguments={"faults": list(FAULTS)},
        timing=timing | {"first_call_timeout_s": 5.0},
    )
    jobs.measure(job, said.append)
    run, rows, _ = read_job(tmp_path / "session-0.parquet")
    own = {(row.layer, row.arm): row for row in rows if row.system == "cusnn"}
    assert {key: row.status for key, row in own.items()} == {
        ("reads outside", "bad"): "failed",
        ("reads outside", "good"): "ok",
        ("never ends", "bad"): "timeout",
        ("never ends", "good"): "ok",
        ("nothing", "bad"): "ok",
        ("nothing", "good"): "ok",
    }
    assert "CUDA error" in own["reads outside", "bad"].reason
    assert run.process_restarts == 2
    assert run.foreign_pids == 0
