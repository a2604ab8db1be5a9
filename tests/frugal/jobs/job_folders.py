"""Folders in which a session runs, and the shortest session that there can be."""

from __future__ import annotations

from pathlib import Path

from frugal import provenance
from frugal.jobs import Job


def session_job(folder: Path, faults: list[str], **changes: object) -> Job:
    """A session that is as short as one can be, over cases of faulty_cases."""
    timing = {"n_min": 6, "block_max_s": 1e-9, "regimes": ["wall"], "threads": 1, "seed": 1}
    given = {
        "experiment": "layers",
        "preset": "smoke",
        "timing": timing,
        "cases": "faulty_cases:cases",
        "arguments": {"faults": faults, "folder": folder},
        "device": folder / "device.json",
        "session": 0,
        "sessions": 1,
        "threads": 2,
        "log": "logs/session-0.log",
        "out": folder / "session-0.parquet",
    }
    return Job(**given | changes)


def prepare(folder: Path) -> Path:
    """A device file, and a file system's root whose counter of the out-of-memory killer says 7."""
    provenance.write_device_record(provenance.device_record("cpu"), folder / "device.json")
    (folder / "proc").mkdir()
    (folder / "proc/vmstat").write_text("nr_free_pages 1\noom_kill 7\n")
    return folder
