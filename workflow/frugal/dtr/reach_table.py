"""The table of experiment `reach`: the largest size and the time a sample of each arm, program and cap."""

from __future__ import annotations

import json

import pandas as pd

COLUMNS = (
    "device_key",
    "network",
    "grows",
    "cap_gib",
    "device",
    "arm",
    "max_size",
    "time_per_sample_s",
    "status",
    "reason",
)


def table(measurements: pd.DataFrame) -> pd.DataFrame:
    """A row of COLUMNS for each machine, program, cap and arm, sorted; max_size null where nothing fitted.

    measurements: of frugal.records with the column device_key of `runs`.
    """
    own = measurements[(measurements["system"] == "dtr") & (measurements["experiment"] == "reach")]
    rows = []
    for (device_key, case_id, arm), part in own.groupby(["device_key", "case_id", "arm"], sort=True):
        size = part[part["metric"] == "max_size"].iloc[0]
        seconds = part.loc[part["metric"] == "time_per_sample", "value"]
        axes = json.loads(size["axes_json"])
        rows.append(
            {
                "device_key": device_key, "network": size["network"], "grows": axes["grows"],
                "cap_gib": axes["cap_gib"], "device": axes["device"], "arm": arm, "max_size": size["value"],
                "time_per_sample_s": seconds.iloc[0] if len(seconds) else None, "status": size["status"],
                "reason": size["reason"], "case_id": case_id,
            }
        )  # fmt: skip
    found = pd.DataFrame(rows, columns=[*COLUMNS, "case_id"])
    return found.sort_values(["device_key", "network", "cap_gib", "case_id", "arm"]).drop(columns="case_id")
