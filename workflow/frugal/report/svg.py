"""Small drawings inside the page.

Most are geometry alone, stretched to the width that there is: x from 0 to 1000, y from 0 (top) to 100, and their words
stand in HTML beside them. Strokes keep their width when they are stretched, and a dot is a stroke of no length with a
round cap. Drawings with words of their own keep their shape (`shaped`). Colours are classes of report.css, so that both
themes have their own.
"""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

WIDTH, HEIGHT = 1000, 100


def drawing(parts: Iterable[Markup], label: str, look: str = "") -> Markup:
    """A stretched drawing that a screen reader calls by its label, or passes over where the label is empty."""
    return _element(parts, label, look, f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none"')


def shaped(parts: Iterable[Markup], label: str, look: str, width: int, height: int) -> Markup:
    """A drawing that keeps its shape, so that it may hold text."""
    return _element(parts, label, look, f'viewBox="0 0 {width} {height}"')


def rectangle(left: float, right: float, look: str, top: float = 0, bottom: float = HEIGHT) -> Markup:
    return Markup(
        f'<rect class="{escape(look)}" x="{left:.1f}" y="{top:g}" width="{max(right - left, 0.5):.1f}" '
        f'height="{bottom - top:g}"/>'
    )


def dots(points: Iterable[tuple[float, float]], look: str) -> Markup:
    """A dot at each (x, y)."""
    path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
    return Markup(f'<path class="dots {escape(look)}" d="{path}"/>') if path else Markup("")


def line(points: Iterable[tuple[float, float]], look: str) -> Markup:
    """One line through all points."""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return Markup(f'<path class="line {escape(look)}" d="M{path}"/>') if path else Markup("")


def upright(x: float, look: str, top: float = 0, bottom: float = HEIGHT) -> Markup:
    """A line downwards."""
    return line([(x, top), (x, bottom)], look)


def text(x: float, y: float, words: str, look: str, width: int) -> Markup:
    """Words about x that stay inside a drawing of this width."""
    anchor = "start" if x < 0.07 * width else "end" if x > 0.93 * width else "middle"
    return Markup(f'<text class="{escape(look)}" x="{x:.1f}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>')


def _element(parts: Iterable[Markup], label: str, look: str, view: str) -> Markup:
    spoken = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    return Markup(f'<svg class="drawing {escape(look)}" {view} {spoken}>') + Markup("").join(parts) + Markup("</svg>")
