"""What a claim is: the fields of `workflow/claims.yaml`, their limits and, as docstrings, their meaning.

A claim is data: no Python and no SQL stands in it. What cannot be meant (a column that no table has, a reduction
without what it needs) is refused while it is read, with one sentence.
"""

from __future__ import annotations

from typing import Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from frugal.claims.words import SYSTEMS, Comparator, DeviceKind, Operator, Origin, Preset, Reduce, TableName
from frugal.records import SCHEMAS

# Joined to comparisons from the measurements of the same case.
OF_CASE = ("network", "layer", "n", "c", "h", "w", "k", "r", "s", "stride", "pad", "groups", "dataset")
PREFIXES = {"comparisons": ("axes.",), "measurements": ("axes.", "arm.")}
ABSOLUTE_UNITS = ("s", "J", "W")
Value = str | bool | int | float | None


class Part(BaseModel):
    """What every part of a claim has in common: no unknown key, no silent conversion, no later change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Range(Part):
    """Numbers from `ge` to `le`, both included; one of the two may be left out."""

    ge: float | None = None
    """The least value."""

    le: float | None = None
    """The greatest value."""

    @model_validator(mode="after")
    def _some_bound(self) -> Self:
        if self.ge is None and self.le is None:
            raise ValueError("a range needs ge, le or both")
        return self


Condition = Value | list[str | int | float | bool] | Range


class Test(Part):
    """A comparison with a number. It has a column where single rows are tested, none where a reduced value is."""

    column: str | None = None
    """The measured column."""

    op: Operator
    """lt, le, gt, ge or eq."""

    value: float
    """The number."""


class PaperRow(Part):
    """The published value as a row of `workflow/paper/<system>.csv`, as a sum of rows, or as the ratio of two such.

    Each selection gives exactly one row. Its keys are columns of the file; `parameters` need only be a part of the
    row's.
    """

    row: dict[str, str] | list[dict[str, str]]
    """Selects the row, or the rows that are added up."""

    over: dict[str, str] | list[dict[str, str]] | None = None
    """Selects what it is divided by."""


class Locator(Part):
    """Where a value was published, and for what hardware; for a goal of ours, where it is set."""

    where: str = Field(min_length=1)
    """Where it stands."""

    hardware: str = Field(min_length=1)
    """The hardware of the published value."""

    value: float | None = None
    """The published value; only a claim of comparator `trend` may have none."""

    unit: str = Field("1", min_length=1)
    """Its unit (an SI symbol, or 1)."""

    note: str | None = None
    """What to know about it."""

    paper: PaperRow | None = None
    """The same value in `workflow/paper/<system>.csv`, where it is there: both must agree to 0.5 %."""


class Reduction(Part):
    """How one number comes from the selected rows of one session."""

    reduce: Reduce
    """only, geomean, ratio_of_sums, mean_of_ratios_paper, mean_abs, median, min, max, count, share, spearman or all."""

    weight: str | None = None
    """Column with the weight of a row in a mean or sum; a row where it is null weighs 1."""

    against: str | None = None
    """`spearman`: the column whose ranks are compared."""

    test: Test | None = None
    """`all`, `share`, `count`: what a row must satisfy. Comparator `trend`: what the value must satisfy."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if (self.against is not None) != (self.reduce == "spearman"):
            raise ValueError("reduce: spearman needs `against: <column>`, and nothing else takes it")
        rowwise = self.test is not None and self.test.column is not None
        if self.reduce in ("all", "share") and not rowwise:
            raise ValueError(f"reduce: {self.reduce} needs `test: {{column, op, value}}`")
        if rowwise and self.reduce not in ("all", "share", "count"):
            raise ValueError(f"reduce: {self.reduce} tests no single rows: leave `column` out of `test`")
        if self.weight is not None and self.reduce not in ("geomean", "ratio_of_sums", "mean_of_ratios_paper"):
            raise ValueError(f"reduce: {self.reduce} takes no `weight`")
        return self

    def columns(self) -> list[str]:
        """The columns that it reads beside the measured one."""
        return [name for name in (self.weight, self.against) if name is not None]


class Beside(Reduction):
    """A further value of the same rows, shown beside the claim's and not judged."""

    name: str = Field(min_length=1)
    """What it is called."""


class Measure(Reduction):
    """The rows that a claim is about, and how one number comes from them."""

    table: TableName
    """comparisons or measurements."""

    where: dict[str, Condition] = Field(min_length=1)
    """Column: a value, a list of values, or {ge, le}. Text that ends in `*` stands for all that begin so; null selects
    rows without a value."""

    column: str
    """The column that is reduced: `ratio` of comparisons, or a numeric column of measurements."""

    over: dict[str, Condition] | None = None
    """Table measurements: the rows that each row is compared with, as changes to `where`. The value is then a ratio,
    above 1 when the row's arm is the better one: of their times to its own, of its accuracy to theirs."""

    difference: bool = False
    """With `over`: the row's own value less the other's, instead of the ratio."""

    per_case: str | None = Field(None, pattern="^(min|max)$")
    """Of several rows of one case keep the one with the least (or greatest) value over all sessions: `min` keeps the
    best of several baselines."""

    beside: tuple[Beside, ...] = Field((), strict=False)
    """Further values of the same rows."""

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        if self.table == "comparisons" and (self.column != "ratio" or self.over is not None):
            raise ValueError("table comparisons: the column must be ratio, and `over` stays out: each row is a pair")
        _check_where(self.table, self.where)
        _check_where(self.table, self.over or {})
        numeric = [f.name for f in SCHEMAS["measurements"] if _kind(f.type) == "number"]
        if self.table == "measurements" and self.column not in numeric:
            raise ValueError(f"column = {self.column}: it must be a numeric column of measurements, for example value")
        if self.difference and (self.over is None or self.reduce == "ratio_of_sums"):
            raise ValueError("difference needs `over`, and has no ratio of sums")
        if self.over is not None and self.column != "value":
            raise ValueError(f"column = {self.column}: `over` compares measured values: use value")
        for part in (self, *self.beside):
            if part.reduce == "ratio_of_sums" and self.table != "comparisons" and self.over is None:
                raise ValueError("reduce: ratio_of_sums needs pairs: table comparisons, or `over`")
            for name in part.columns():
                known_column(self.table, name)
            if part.test is not None and part.test.column not in (None, self.column):
                raise ValueError(
                    f"test.column = {part.test.column}: rows are tested by what is measured: {self.column}"
                )
        return self


class Bound(Part):
    """The direction that still counts as `trend`."""

    at_least: float | None = None
    """The value is at least this."""

    at_most: float | None = None
    """The value is at most this."""

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a trend has either at_least or at_most")
        return self


class Needs(Part):
    """What a measurement must have before it can be compared."""

    device_kind: DeviceKind | None = None
    """cuda or cpu."""

    preset: Preset | None = None
    """The least preset. None for deterministic values, for which one session is enough."""

    hardware: str | None = None
    """Part of the device's name: for values that mean something on the published hardware only."""


class Claim(Part):
    """One published statement, or a goal of ours, and how it is measured and judged."""

    id: str = Field(pattern=rf"^({'|'.join(SYSTEMS)})(\.[a-z0-9_]+)+$")
    """`<system>.<topic>…`"""

    origin: Origin
    """paper, artifact or ours."""

    statement: str = Field(min_length=1)
    """The claim in words."""

    locator: Locator
    """Where the value was published."""

    measure: Measure
    """Which rows, and how one number comes from them."""

    comparator: Comparator
    """at_least, at_most, within, equals or trend."""

    tolerance: float = Field(0.0, ge=0, lt=1)
    """Relative, of the expected value; none for equals and trend."""

    trend: Bound | None = None
    """The direction that still counts as trend."""

    needs: Needs = Needs()
    """What the rows must have."""

    pending: str | None = None
    """What frugal does not measure yet, as a sentence; it stands as the reason while there are no rows."""

    shown_only: str | None = None
    """Why our value is shown and never judged, as a sentence: the verdict is then not_comparable."""

    command: str | None = None
    """What to type to measure it; null: made from `needs`."""

    figure: str | None = None
    """The figure that shows it."""

    @property
    def system(self) -> str:
        """The system."""
        return self.id.split(".")[0]

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        test = self.measure.test
        if self.comparator == "trend":
            if test is None or test.column is not None:
                raise ValueError("comparator: trend needs `measure.test: {op, value}` without a column")
        elif self.locator.value is None:
            raise ValueError("locator.value is missing: only comparator trend does without one")
        elif test is not None and test.column is None:
            raise ValueError(f"measure.test without a column belongs to comparator trend, not to {self.comparator}")
        if self.comparator in ("equals", "trend") and self.tolerance:
            raise ValueError(f"comparator: {self.comparator} takes no tolerance")
        if self.trend is not None and getattr(self.trend, _TREND_OF.get(self.comparator, ""), None) is None:
            raise ValueError(f"comparator: {self.comparator} takes no such trend: at_least goes with at_least")
        judged = self.origin != "ours" and self.shown_only is None
        if judged and self.locator.unit in ABSOLUTE_UNITS and self.needs.hardware is None:
            raise ValueError(
                f"locator.unit = {self.locator.unit}: an absolute quantity means something on the published hardware "
                "only: give `needs.hardware` or `shown_only`"
            )
        return self


_TREND_OF = {"at_least": "at_least", "at_most": "at_most"}


def known_column(table: str, name: str) -> str:
    """What a column holds: text, number, truth or any. ValueError, with what is allowed, for an unknown one."""
    if name.startswith(PREFIXES[table]):
        return "any"
    for other in (table, "measurements") if name in OF_CASE else (table,):
        if name in SCHEMAS[other].names:
            return _kind(SCHEMAS[other].field(name).type)
    joined = f", {', '.join(OF_CASE)}" if table == "comparisons" else ""
    raise ValueError(
        f"column = {name}: {table} has no such column: use one of docs/output.md{joined} or "
        f"{' or '.join(f'{prefix}<name>' for prefix in PREFIXES[table])}"
    )


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "truth"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "text"


def _check_where(table: str, where: dict[str, Condition]) -> None:
    for name, condition in where.items():
        kind = known_column(table, name)
        values = condition if isinstance(condition, list) else [condition]
        kinds = {_kind_of(value) for value in values if value is not None}
        if kind != "any" and not kinds <= {kind}:
            raise ValueError(f"where: {name} holds a {kind}, which {condition!r} is not: give a {kind} (or a list)")


def _kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "truth"
    return "text" if isinstance(value, str) else "number"
