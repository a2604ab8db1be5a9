"""From which share of zeros on skipping pays: by shape and batch size, against each baseline and our dense twin.

At each measured share the logarithm of (time of the baseline / time of ours) is averaged over sessions. More zeros
never slow skipping down, so that what falls with more zeros is noise: the logarithms are fitted with the nearest
sequence that nowhere falls (isotonic regression, least squares, by scipy). The break-even is where the fit passes 0,
linear between two measured shares; from there on ours is not slower at any larger share. Its interval goes through the
same fit: of the upper and of the lower ends of the 95 % intervals by t over sessions. No torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from frugal import stats
from frugal.errors import FrugalError

CANDIDATE = "sparse"
ALWAYS, NEVER, FROM = "always", "never", "from"
NEEDED = ("case_id", "session", "experiment", "metric", "arm", "status", "regime", "l2", "axes_json", "value")
# Of two layouts of one library the faster counts.
JOINED = {name: name.removesuffix("_cl") for name in ("cudnn_fp32_cl", "cudnn_tf32_cl", "onednn_fp32_cl")}
SHAPE = ["c", "h", "w", "k", "r", "stride", "batch", "pattern"]
HEAD = [
    *SHAPE, "regime", "l2", "baseline", "state", "sparsity", "sparsity_low", "sparsity_high", "shares", "sessions",
]  # fmt: skip


def break_even(table: pd.DataFrame) -> pd.DataFrame:
    """One row a shape, batch size, pattern of zeros, regime and baseline (and `device_key`, where the table has it).

    table: rows of `results/measurements.parquet`; those of experiment `break_even` that were measured are used. Columns
    of the answer: the shape's (c, h, w, k, r, stride, batch), pattern (`bernoulli` or `real`), regime, l2, baseline;
    state `always` (not slower at any measured share), `never` (slower at the largest) or `from`, and for `from` the
    break-even `sparsity` with its interval `sparsity_low`, `sparsity_high` (NaN: one session, or beyond what was
    measured); shares and sessions: how many it rests on. Raises FrugalError for a table without these columns.
    """
    if missing := [name for name in NEEDED if name not in table]:
        raise FrugalError(f"break_even: the table has no column {missing[0]}: give rows of measurements.parquet")
    rows = table[(table["experiment"] == "break_even") & (table["metric"] == "time") & (table["status"] == "ok")]
    rows = rows[rows["value"].notna()]
    machine = ["device_key"] if "device_key" in rows else []
    if rows.empty:
        return pd.DataFrame(columns=[*machine, *HEAD])
    axes = pd.DataFrame([json.loads(text) for text in rows["axes_json"]], index=rows.index)
    keys = [*machine, *SHAPE, "regime", "l2"]
    own = rows[[*machine, "session", "arm", "regime", "value"]].assign(
        log=np.log(rows["value"]), l2=rows["l2"].fillna(""), **axes[[*SHAPE, "sparsity"]]
    )
    found = []
    for key, group in own.groupby(keys, sort=True):
        logs = group.pivot_table(index="session", columns=["arm", "sparsity"], values="log")
        if CANDIDATE not in logs:
            continue
        for baseline in dict.fromkeys(JOINED.get(arm, arm) for arm in group["arm"] if arm != CANDIDATE):
            ratios = _ratios(logs, baseline)
            if len(ratios):
                found.append(dict(zip(keys, key, strict=True)) | {"baseline": baseline} | _crossing(ratios))
    answer = pd.DataFrame(found, columns=[*machine, *HEAD])
    return answer.assign(l2=answer["l2"].replace("", None))


def _ratios(logs: pd.DataFrame, baseline: str) -> dict[float, list[float]]:
    """{share of zeros: of each session the logarithm of the baseline's time over ours}; where both were measured."""
    layouts = [arm for arm in logs.columns.unique("arm") if JOINED.get(arm, arm) == baseline]
    found = {}
    for share in sorted(logs[CANDIDATE].columns):
        theirs = [logs[arm][share] for arm in layouts if share in logs[arm]]
        if theirs:
            fastest = min(theirs, key=lambda column: column.mean())
            if differences := (fastest - logs[CANDIDATE][share]).dropna().tolist():
                found[share] = differences
    return found


def _crossing(ratios: dict[float, list[float]]) -> dict[str, object]:
    shares = list(ratios)
    means = np.array([np.mean(values) for values in ratios.values()])
    sessions = min(len(values) for values in ratios.values())
    middle = _zero(shares, means)
    low = high = math.nan
    if sessions > 1 and math.isfinite(middle):
        halves = np.array([_half_width(values) for values in ratios.values()])
        low, high = _zero(shares, means + halves), _zero(shares, means - halves)
    state = {-math.inf: ALWAYS, math.inf: NEVER}.get(middle, FROM)
    return {
        "state": state,
        "sparsity": middle if state == FROM else math.nan,
        "sparsity_low": low if math.isfinite(low) else math.nan,
        "sparsity_high": high if math.isfinite(high) else math.nan,
        "shares": len(shares),
        "sessions": sessions,
    }


def _half_width(values: Sequence[float]) -> float:
    """Of the 95 % interval of the mean, by t over sessions."""
    return stats.t_quantile(0.975, len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _zero(shares: Sequence[float], logs: np.ndarray) -> float:
    """Where the isotonic fit passes 0; -inf: nowhere below it, inf: below it at the largest share."""
    fit = isotonic_regression(logs).x
    above = np.flatnonzero(fit >= 0)
    if not len(above):
        return math.inf
    if above[0] == 0:
        return -math.inf
    left, right = above[0] - 1, above[0]
    part = fit[left] / (fit[left] - fit[right])
    return float(shares[left] + part * (shares[right] - shares[left]))
