"""Figures inside the page: the picture, its caption, what a screen reader says, and the files beside the page."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import unescape

from docutils.core import publish_parts
from markupsafe import Markup

from frugal.report.inputs import FigureFiles

BUDGET = 9_000_000  # bytes of all pictures: base64 adds a third, and the page must stay below 15 MB
HEAVY = 1_500_000  # a larger SVG has so many marks that its PNG is smaller and quicker to draw


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it. `source` is a data: URI, or empty where the budget was spent."""

    name: str
    title: str
    description: str
    caption: Markup
    source: str


def gallery(figures: Sequence[FigureFiles], captions: Mapping[str, str], budget: int = BUDGET) -> list[Picture]:
    """The figures in their order, as SVG where that is not too large, as PNG else, as long as the budget lasts."""
    pictures = []
    for figure in figures:
        kind, data = ("svg+xml", figure.svg) if len(figure.svg) <= HEAVY else ("png", figure.png)
        budget -= len(data)
        title, description = described(figure.svg.decode("utf-8"), figure.name)
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}" if budget >= 0 else ""
        pictures.append(Picture(figure.name, title, description, html(captions.get(figure.name, "")), source))
    return pictures


def described(svg: str, name: str) -> tuple[str, str]:
    """Title and description that frugal.figures.save wrote into a picture; its name where it has none."""
    found = [re.search(rf'<{tag} id="figure-[a-z]+">(.*?)</{tag}>', svg, re.DOTALL) for tag in ("title", "desc")]
    title, description = (unescape(match[1]).strip() if match else "" for match in found)
    return title or name, description or title or name


def html(caption: str) -> Markup:
    """A caption in reStructuredText as HTML; nothing outside of it is read."""
    settings = {"file_insertion_enabled": False, "raw_enabled": False, "report_level": 5, "syntax_highlight": "none"}
    return Markup(publish_parts(caption, writer="html5", settings_overrides=settings)["fragment"])
