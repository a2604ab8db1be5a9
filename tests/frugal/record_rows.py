"""Rows with every column that must be there, for tests that only care about some."""

from datetime import UTC, datetime

import pyarrow as pa

from frugal.records import SCHEMAS, Measurement, Run, Sample

_VALUES = {"string": "x", "bool": False, "double": 1.0, "int32": 1, "int64": 1}


def a_run(**given):
    """A headline session on a GPU."""
    known = {
        "run_id": "01RUN0", "campaign_id": "01CAMPAIGN", "preset": "headline", "session": 0, "device_kind": "cuda",
        "device_key": "nvidia-h200-9.0-132sm", "hardware_class": "gpu", "controls_passed": True,
        "started_at": datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC),
        "finished_at": datetime(2026, 1, 31, 12, 5, tzinfo=UTC),
    }  # fmt: skip
    return Run(**(_required("runs") | known | given))


def a_row(**given):
    """A timed row of a layer."""
    known = {
        "run_id": "01RUN0", "session": 0, "case_id": "0123456789abcdef", "system": "cusnn", "experiment": "layers",
        "layer": "conv1", "arm": "sparse", "role": "ours", "regime": "graph", "l2": "resident", "metric": "time",
        "unit": "s", "higher_is_better": False, "status": "ok", "value": 1e-4, "source_hash": "new",
    }  # fmt: skip
    return Measurement(**(_required("measurements") | known | given))


def a_sample(**given):
    known = {"round": 0, "position": 0, "block": 0, "index": 0, "start_ns": 1, "value": 1e-4, "flag": "ok"}
    return Sample(**(known | given))


def blocks(*rounds, **given):
    """The samples of one row: a list of values a round."""
    return [
        a_sample(round=number, block=number, index=index, start_ns=index, value=value, **given)
        for number, values in enumerate(rounds)
        for index, value in enumerate(values)
    ]


def _required(table):
    return {
        f.name: datetime(2026, 1, 1, tzinfo=UTC) if pa.types.is_timestamp(f.type) else _VALUES[str(f.type)]
        for f in SCHEMAS[table]
        if not f.nullable
    }
