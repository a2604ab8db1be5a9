"""Figures of overhead by budget in the simulator: `dtr_pareto`, `dtr_ablation` and `dtr_dealloc`."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from frugal.figures import style
from frugal.figures.dtr import programs
from frugal.figures.frames import usable
from frugal.figures.style import Look

PARETO = "What a smaller budget costs in time, by heuristic"
ABLATION = "What of the heuristic matters: numerators and denominators"
DEALLOC = "What becomes of memory that the program released"
MAIN = ("h_dtr", "h_dtr_eq", "h_local", "h_msps", "h_lru", "h_size", "h_rand")
NUMERATORS = {"e": "c + e*", "eq": "c + ẽ*", "local": "c", "one": "1"}
DENOMINATORS = {
    "size_stale": Look("size × staleness", "#D55E00", "o"),
    "size": Look("size", "#0072B2", "s"),
    "stale": Look("staleness", "#009E73", "v"),
    "none": Look("nothing", "#5E5E5E", "X"),
}
MODES = {
    "ignore": Look("ignore", "#5E5E5E", "X"),
    "evict": Look("evict", "#D55E00", "o"),
    "banish": Look("banish", "#0072B2", "s"),
}
_DASHES = {"h_dtr": "solid", "h_dtr_unopt": (0, (5, 2)), "h_local": (0, (1, 1.5))}
_EMPTY = "No log has been simulated yet, neither on this machine nor in a recorded campaign."
_BANDS = (
    "Left of the black band the program's constants alone pass the budget; in the grey one its largest operator may. "
    "A tick below a curve marks its smallest budget that worked: dotted, the next one had no room; dashed, it passed "
    "twice the time. Budgets are shares of the peak without a budget."
)


def pareto(measurements: pd.DataFrame) -> Figure:
    """Overhead (y) over the budget as a share of the unbudgeted peak (x), a step curve a heuristic, a panel a log.

    h_rand: mean and extremes of its seeds. Bands: constants, and constants with the largest operator.
    """
    found = _simulated(measurements)
    curve = found["method"].isin(MAIN) & found["dealloc"].isna() & found["e_star"].isna()
    looks = {name: programs.HEURISTICS[name] for name in MAIN}
    return _figure(PARETO, measurements, found[curve].assign(curve=found["method"]), looks, ("program", "origin"))


def ablation(measurements: pd.DataFrame) -> Figure:
    """As `pareto`, for the sixteen variants: a panel a log and numerator, a curve a denominator."""
    found = _simulated(measurements)
    parts = found["method"].astype(str).str.extract(r"^ab\.(?P<above>\w+)\.(?P<below>\w+)$")
    variants = found.assign(above=parts["above"], curve=parts["below"]).dropna(subset=["above"])
    return _figure(ABLATION, measurements, variants, DENOMINATORS, ("program", "origin", "above"))


def dealloc(measurements: pd.DataFrame) -> Figure:
    """As `pareto`, for three ways to treat what the program released: colour the way, dashes the heuristic."""
    found = _simulated(measurements)
    found = found[found["e_star"].isna() & found["method"].isin(_DASHES)]
    return _figure(DEALLOC, measurements, found.assign(curve=found["dealloc"].fillna("evict")), MODES,
                   ("program", "origin"), dashed=True)  # fmt: skip


def _simulated(measurements: pd.DataFrame) -> pd.DataFrame:
    found = programs.once(programs.of(measurements, "simulate", "overhead"))
    return found[found["method"] != "plain"]


def _figure(title: str, measurements: pd.DataFrame, found: pd.DataFrame, looks: Mapping[str, Look],
            by: tuple[str, ...], dashed: bool = False) -> Figure:  # fmt: skip
    drawn = usable(found)
    if drawn.empty:
        return programs.nothing(title, found, _EMPTY)
    bands = _bands(measurements)
    working = found[found["case_id"].isin(drawn["case_id"])]
    parts = [own for own in programs.panels(working, by) if (own["status"] == "ok").any()]
    handles = [Line2D([], [], color=look.colour, label=look.label) for look in looks.values()]
    if dashed:
        handles += [Line2D([], [], color=style.MUTED, linestyle=dash, label=name) for name, dash in _DASHES.items()]
    else:
        handles += [Patch(facecolor=style.INK, label="constants"), Patch(facecolor="#C9C9C9", label="largest operator")]

    def draw(axes: Axes, own: pd.DataFrame) -> None:
        for (curve, method), rows in own.groupby(["curve", "method"], sort=False):
            _curve(axes, rows, looks[curve].colour, _DASHES[method] if dashed else "solid", f"{curve} {method}")
        _frame(axes, bands.get((own["machine"].iloc[0], own["case_id"].iloc[0])))
        above = [f"numerator {NUMERATORS[own['above'].iloc[0]]}"] if "above" in own else []
        style.panel_title(axes, programs.heading(own, *above))

    return programs.compose(
        title, parts, draw, handles=handles, said=_said, xlabel="budget ÷ unbudgeted peak",
        notes=[_BANDS, *programs.missing(found, drawn)],
        height=1.9,
    )  # fmt: skip


def _curve(axes: Axes, rows: pd.DataFrame, colour: str, dashes: object, label: str) -> None:
    """One curve, its tick at the smallest budget that worked, and a band where a budget has several draws."""
    by_ratio = rows.groupby("ratio")
    whole = by_ratio["status"].agg(lambda found: (found == "ok").all())
    ratios = whole.index[whole]
    if not len(ratios):
        return
    values = by_ratio["value"].agg(["mean", "min", "max"]).loc[ratios]
    axes.step(ratios, values["mean"], where="post", color=colour, linestyle=dashes, linewidth=1.3, label=label)
    if (values["max"] > values["min"]).any():
        axes.fill_between(ratios, values["min"], values["max"], step="post", color=colour, alpha=0.2, linewidth=0)
    below = [ratio for ratio in whole.index if ratio < ratios[0]]
    if below:
        ooms = (rows.loc[rows["ratio"] == below[-1], "status"] == "oom").any()
        axes.plot([ratios[0]] * 2, [0.95, values["mean"].iloc[0]], color=colour, linewidth=0.9,
                  linestyle=(0, (1, 1.5)) if ooms else (0, (4, 2)), label=f"{label} least")  # fmt: skip


def _frame(axes: Axes, band: tuple[float, float] | None) -> None:
    if band is not None:
        constants, bottleneck = band
        axes.axvspan(0, constants, color=style.INK, linewidth=0, zorder=0.5)
        axes.axvspan(constants, min(constants + bottleneck, 1.0), color="#C9C9C9", linewidth=0, zorder=0.5)
    axes.set(xlim=(0, 1.02), ylim=(0.95, 2.0), ylabel="overhead")
    axes.yaxis.set_major_formatter(FuncFormatter(programs.times))


def _bands(measurements: pd.DataFrame) -> dict[tuple[str, str], tuple[float, float]]:
    """(machine, case): constants and bottleneck as shares of the unbudgeted peak."""
    facts = programs.of(measurements, "simulate", "peak", "constants", "bottleneck")
    facts = usable(facts[facts["method"] == "plain"])
    wide = facts.pivot_table(index=["machine", "case_id"], columns="metric", values="value")
    if not {"peak", "constants", "bottleneck"} <= set(wide):
        return {}
    shares = wide.dropna(subset=["peak", "constants", "bottleneck"])
    parts = zip(shares["constants"] / shares["peak"], shares["bottleneck"] / shares["peak"], strict=True)
    return dict(zip(shares.index, parts, strict=True))


def _said(own: pd.DataFrame) -> str:
    good = usable(own)
    each = "; ".join(
        f"{method} ({curve}) {rows.sort_values('ratio')['value'].iloc[0]:.2f} at {rows['ratio'].min():g}"
        for (method, curve), rows in good.groupby(["method", "curve"], sort=False)
    )
    return f"{' · '.join(programs.heading(own))}: overhead at the smallest budget that worked: {each}."
