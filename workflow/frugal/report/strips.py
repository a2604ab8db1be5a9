"""Samples in the order of time, for the cases whose blocks agree least, with clock and temperature below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from frugal.block_medians import block_values
from frugal.records import RowKey
from frugal.report import svg, words
from frugal.report.inputs import Campaign

CASES = 12
STRETCHES = 400  # of a long strip the least, middle and greatest sample of each stretch are drawn
FENCE = 6.0  # half-height of a strip in interquartile ranges; what lies beyond is drawn at its edge and counted


@dataclass(frozen=True)
class Polled:
    """A quantity that is polled beside samples; its digits are those that its steps need (clocks: 15 MHz)."""

    column: str
    name: str
    unit: str
    digits: int


_POLLED = (Polled("sm_hz", "SM clock", "Hz", 4), Polled("temp_c", "die", "°C", 3))


@dataclass(frozen=True)
class Band:
    """One drawing of a strip with the words at its scale's top and bottom."""

    name: str
    top: str
    bottom: str
    drawing: Markup


@dataclass(frozen=True)
class Strip:
    """The samples of one arm of a case, over all sessions: `bands` are time, and where polled clock and temperature."""

    case: str
    arm: str
    where: str
    spread: str
    beyond: str
    bands: tuple[Band, ...]
    sessions: tuple[str, ...]


def noisiest(campaign: Campaign, samples: pa.Table, names: Mapping[str, str]) -> list[Strip]:
    """The strips of the 12 cases whose block medians vary most, each by its worst arm and regime, worst first."""
    samples = samples.filter(pc.equal(samples.column("metric"), "time"))
    rows = campaign.measurements.loc[campaign.measurements["system"] != "control", "case_id"]
    samples = samples.filter(pc.is_in(samples.column("case_id"), pa.array(rows.unique(), pa.string())))
    if samples.num_rows == 0:
        return []
    machine = dict(zip(campaign.runs["run_id"], campaign.runs["machine"], strict=True))
    logs: dict[tuple[str, RowKey], list[float]] = {}
    for (run_id, key), blocks in block_values(samples).items():
        logs.setdefault((machine.get(run_id, ""), key), []).extend(math.log(block.value) for block in blocks.values())
    spreads = {where: float(np.std(values, ddof=1)) for where, values in logs.items() if len(values) > 1}
    worst: dict[str, tuple[str, RowKey]] = {}
    for where in sorted(spreads, key=lambda where: (-spreads[where], where[0], where[1].arm)):
        worst.setdefault(where[1].case_id, where)
    chosen = list(worst.values())[:CASES]
    frame = _samples_of(samples, {key.case_id for _, key in chosen})
    frame["machine"] = frame["run_id"].map(machine)
    return [_strip(frame, where, spreads[where], names) for where in chosen]


def _samples_of(samples: pa.Table, cases: set[str]) -> pd.DataFrame:
    kept = samples.filter(pc.is_in(samples.column("case_id"), pa.array(sorted(cases), pa.string())))
    return kept.sort_by([("session", "ascending"), ("start_ns", "ascending")]).to_pandas()


def _strip(frame: pd.DataFrame, where: tuple[str, RowKey], spread: float, names: Mapping[str, str]) -> Strip:
    machine, key = where
    same_l2 = frame["l2"].isna() if key.l2 is None else frame["l2"] == key.l2
    mine = frame[
        (frame["machine"] == machine) & (frame["case_id"] == key.case_id) & (frame["arm"] == key.arm)
        & (frame["regime"] == key.regime) & same_l2
    ]  # fmt: skip
    sessions = sorted(mine["session"].unique())
    x = _positions(mine, sessions)
    values = mine["value"].to_numpy()
    middle = float(np.median(values))
    low, high = _window(values)
    outside = int(((values < low) | (values > high)).sum())
    beyond = (
        f"{words.count(outside, 'sample')} of {len(values):,} beyond the edges, up to "
        f"{words.times(values.max() / middle)} the median"
    )
    sound = (
        f"Samples of {key.arm} in {words.count(len(sessions), 'session')}, in the order of time: median "
        f"{words.quantity(middle, 's')}, from {words.quantity(values.min(), 's')} to "
        f"{words.quantity(values.max(), 's')}."
    )
    marks = [svg.upright(svg.WIDTH * place / len(sessions), "divider") for place in range(1, len(sessions))]
    time = _dots(x, values, low, high, (mine["flag"] == "excluded").to_numpy())
    level = svg.line([(0, _height(middle, low, high)), (svg.WIDTH, _height(middle, low, high))], "median")
    bands = [
        Band("time", words.quantity(high, "s"), words.quantity(low, "s"),
             svg.drawing([*marks, level, *time], sound, "strip"))
    ]  # fmt: skip
    for polled in _POLLED:
        if mine[polled.column].notna().any():
            bands.append(_band(polled, x, mine[polled.column].to_numpy(float), marks))
    return Strip(
        names.get(key.case_id, key.case_id), key.arm, f"{words.regime(key.regime, key.l2)}, {machine}",
        words.percent(math.exp(spread) - 1), beyond if outside else "", tuple(bands), tuple(map(str, sessions)),
    )  # fmt: skip


def _band(polled: Polled, x: np.ndarray, values: np.ndarray, marks: Sequence[Markup]) -> Band:
    """A polled quantity as dots, on a scale from its least to its greatest value."""
    there = np.isfinite(values)
    low, high = float(values[there].min()), float(values[there].max())
    room = max(high - low, 1e-3 * abs(high), 1e-9) * 0.15
    bottom, top = (words.quantity(value, polled.unit, polled.digits) for value in (low, high))
    drawn = _dots(x[there], values[there], low - room, high + room, np.zeros(int(there.sum()), dtype=bool))
    drawing = svg.drawing([*marks, *drawn], f"{polled.name}: {bottom} to {top}", "strip thin")
    return Band(polled.name, top, bottom, drawing)


def _positions(mine: pd.DataFrame, sessions: Sequence[int]) -> np.ndarray:
    """x of each sample: sessions get equal widths, samples inside one equal steps."""
    place = mine["session"].map({session: index for index, session in enumerate(sessions)}).to_numpy()
    number = mine.groupby("session").cumcount().to_numpy()
    size = mine.groupby("session")["value"].transform("size").to_numpy()
    return svg.WIDTH * (place + 0.02 + 0.96 * (number + 0.5) / size) / len(sessions)


def _window(values: np.ndarray) -> tuple[float, float]:
    """The scale of a strip: all values, or six interquartile ranges about the median where some lie farther off."""
    q25, middle, q75 = np.quantile(values, [0.25, 0.5, 0.75])
    reach = FENCE * max(q75 - q25, 1e-3 * middle)
    low, high = max(values.min(), middle - reach), min(values.max(), middle + reach)
    room = max(high - low, 1e-3 * middle) * 0.08
    return low - room, high + room


def _height(value: float, low: float, high: float) -> float:
    return svg.HEIGHT * (1 - (value - low) / (high - low))


def _dots(x: np.ndarray, values: np.ndarray, low: float, high: float, excluded: np.ndarray) -> list[Markup]:
    """Dots inside the scale, others at its edges, excluded samples apart."""
    shown = _thinned(values)
    x, values, excluded = x[shown], values[shown], excluded[shown]
    outside = (values < low) | (values > high)
    y = svg.HEIGHT * (1 - (np.clip(values, low, high) - low) / (high - low))
    y = np.clip(y, 3, svg.HEIGHT - 3)
    looks = (("sample", ~outside & ~excluded), ("beyond", outside & ~excluded), ("excluded", excluded))
    return [svg.dots(zip(x[mask], y[mask], strict=True), look) for look, mask in looks]


def _thinned(values: np.ndarray) -> np.ndarray:
    """Places of the samples that are drawn."""
    if len(values) <= 3 * STRETCHES:
        return np.arange(len(values))
    kept: set[int] = set()
    for stretch in np.array_split(np.arange(len(values)), STRETCHES):
        order = stretch[np.argsort(values[stretch], kind="stable")]
        kept |= {int(order[0]), int(order[len(order) // 2]), int(order[-1])}
    return np.array(sorted(kept))
