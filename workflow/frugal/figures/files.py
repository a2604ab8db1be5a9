"""Writing a figure as PNG, SVG and PDF: whole or not at all, and the same bytes from the same data."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from frugal.errors import FrugalError
from frugal.figures import style
from frugal.files import publishing_path

FORMATS = ("png", "svg", "pdf")
DPI = 200
# Dates would make equal figures differ; the versions of matplotlib that made them are in results/runs.parquet's lock.
_METADATA = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save(figure: Figure, prefix: str | Path) -> tuple[Path, ...]:
    """Write `<prefix>.png` (200 dpi), `.svg` (text stays text) and `.pdf` (fonts embedded); returns the paths.

    The title and the description that `style.describe` attached become the SVG's accessible name and the metadata of
    the other two. Each file is written beside its place and renamed. A folder that cannot be written: FrugalError.
    """
    prefix = Path(prefix)
    paths = tuple(prefix.with_name(f"{prefix.name}.{suffix}") for suffix in FORMATS)
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        with style.context():
            for path in paths:
                _write(figure, path)
    except OSError as problem:
        raise FrugalError(
            f"{problem.filename or prefix}: {problem.strerror}: the figure cannot be written there; "
            "choose a folder that you may write to"
        ) from problem
    return paths


def _write(figure: Figure, path: Path) -> None:
    suffix = path.suffix[1:]
    title, description = style.described(figure)
    words = {"Title": title, {"pdf": "Subject"}.get(suffix, "Description"): description}
    with publishing_path(path) as beside:
        figure.savefig(beside, format=suffix, dpi=DPI, metadata=_METADATA[suffix] | words)
        if suffix == "svg":
            beside.write_text(_accessible(beside.read_text("utf-8"), title, description), "utf-8")


def _accessible(svg: str, title: str, description: str) -> str:
    """Name the picture for screen readers: role, <title> and <desc> as first children (W3C SVG accessibility)."""
    opening = re.search(r"<svg\b[^>]*>", svg)
    assert opening is not None, "matplotlib's SVG backend writes an <svg> element"
    named = opening.group(0)[:-1] + ' role="img" aria-labelledby="figure-title figure-description">'
    named += f'\n <title id="figure-title">{escape(title)}</title>'
    named += f'\n <desc id="figure-description">{escape(description)}</desc>'
    return svg[: opening.start()] + named + svg[opening.end() :]
