"""What figures of cuSNN's times share: the rows of an experiment, sessions joined, the regime in which to show them."""

from __future__ import annotations

import pandas as pd

from frugal.figures import style
from frugal.figures.frames import ONE, axis, in_machine_order

# Kernels are judged where launching costs nothing; what a user of a network would see comes last.
REGIMES = (("graph", "resident"), ("graph", "rotated"), ("cold", ""), ("hot", ""), ("wall", ""))
FP32 = ("cudnn_fp32", "cudnn_fp32_cl", "onednn_fp32", "onednn_fp32_cl")  # the dense library in full precision


def of(measurements: pd.DataFrame, experiment: str, metric: str = "time") -> pd.DataFrame:
    """The rows of one of cuSNN's experiments and metrics, with numbers in `value`, "" for no `l2`, and `weights`."""
    rows = measurements[
        (measurements["system"] == "cusnn")
        & (measurements["experiment"] == experiment)
        & (measurements["metric"] == metric)
    ]
    return rows.assign(
        regime=rows["regime"].fillna(""),
        l2=rows["l2"].fillna(""),
        value=pd.to_numeric(rows["value"]),
        weights=axis(rows, "weights"),
    )


def in_one_regime(rows: pd.DataFrame, order: tuple[tuple[str, str], ...] = REGIMES) -> pd.DataFrame:
    """Of each machine the rows in the regime that most systems share; of equals the first of `order`."""
    parts = [rows[:0]]
    for machine in in_machine_order(rows):
        own = rows[rows["machine"] == machine]
        regime, l2 = regime_of(own, order)
        parts.append(own[(own["regime"] == regime) & (own["l2"] == l2)])
    return pd.concat(parts)


def regime_of(rows: pd.DataFrame, order: tuple[tuple[str, str], ...] = REGIMES) -> tuple[str, str]:
    """(regime, l2) that most systems among the rows share; of equals the first of `order`."""
    systems = rows["arm"].map(style.system).groupby([rows["regime"], rows["l2"]]).nunique()
    rank = {regime: place for place, regime in enumerate(order)}
    return min(systems.index, key=lambda regime: (-systems[regime], rank.get(regime, len(rank)), regime))


def best_layout(rows: pd.DataFrame) -> pd.DataFrame:
    """Arms as systems: of a library's two memory layouts the faster one for the case, as its user would choose."""
    systems = rows.assign(arm=rows["arm"].map(style.system)).sort_values("value", kind="stable")
    return systems.drop_duplicates(ONE).sort_index(kind="stable")


def words(regime: str, l2: str) -> str:
    """A regime for a panel's title: "regime graph, L2 resident"."""
    return f"regime {regime}" + (f", L2 {l2}" if l2 else "")
