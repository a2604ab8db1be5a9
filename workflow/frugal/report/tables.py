"""Tables as the template draws them: cells of text that may carry what sorting compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from frugal.report import words

LONG = 28  # characters: names of arms and layers' last parts stay whole


@dataclass(frozen=True)
class Cell:
    """One cell: its text, the number that sorting compares (None: the text), a badge's look, a drawing above it."""

    text: str
    value: float | None = None
    look: str = ""
    sign: str = ""
    drawing: Markup | None = None

    @property
    def long_word(self) -> bool:
        """Whether it holds a word, such as a path, that must be broken for its column to stay narrow."""
        return any(len(word) > LONG for word in self.text.split())


@dataclass(frozen=True)
class Column:
    """A column's title; numbers stand right."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption. `name` is unique on the page."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def table(name: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], note: str = "") -> Table:
    """A table whose columns are written `title` or, where they hold numbers, `#title`."""
    heads = tuple(Column(title.removeprefix("#"), title.startswith("#")) for title in columns)
    assert all(len(row) == len(heads) for row in rows), f"{name}: a row has another length than the head"
    return Table(name, caption, heads, tuple(tuple(row) for row in rows), note)


def without_empty(given: Table) -> Table:
    """The table without the columns in which no row has anything."""
    kept = [place for place in range(len(given.columns)) if any(row[place].text != words.NONE for row in given.rows)]
    columns = tuple(given.columns[place] for place in kept)
    return replace(given, columns=columns, rows=tuple(tuple(row[place] for place in kept) for row in given.rows))


def cell(value: Any) -> Cell:
    """Text as it is."""
    return Cell(words.text(value))


def number(value: Any, write=words.plain) -> Cell:
    """A number as `write` writes it, sorted by its value."""
    return Cell(words.NONE) if words.missing(value) else Cell(write(value), float(value))


def badge(name: Any, text: str | None = None) -> Cell:
    """A verdict, a control's colour or a doctor's level as a badge; null is "no verdict"."""
    look, sign = words.LOOKS.get("none" if words.missing(name) else str(name), ("open", "·"))
    return Cell(text or words.verdict(name), None, look, sign)
