"""Reading back what a matplotlib figure draws: marks, bars and words."""

from itertools import pairwise

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from frugal.figures import style


def points(axes, label):
    """(x, y) of all marks of a label, sorted by x."""
    found = [c.get_offsets() for c in axes.collections if c.get_label() == label and len(c.get_offsets())]
    marks = np.concatenate([np.asarray(f) for f in found if f.any()] or [np.empty((0, 2))])
    return marks[np.argsort(marks[:, 0], kind="stable")]


def marks(axes, label):
    """The collection of marks (not bars, not bands) of a label."""
    (found,) = [c for c in axes.collections if c.get_label() == label and type(c).__name__ == "PathCollection"]
    return found


def bars(axes, label):
    """(x, low, high) of the bars of a label."""
    (found,) = [c for c in axes.collections if c.get_label() == label and type(c).__name__ == "LineCollection"]
    return np.array([(s[0][0], *sorted((s[0][1], s[1][1]))) for s in found.get_segments()]), found


def words(figure):
    """All texts of a figure, as one line with plain spaces."""
    found = [text.get_text() for axes in figure.axes for text in [axes.title, axes._left_title, *axes.texts]]
    found += [text.get_text() for legend in figure.legends for text in [legend.get_title(), *legend.get_texts()]]
    found.append(figure.get_supxlabel())
    return " ".join(" ".join(found).replace("\N{NO-BREAK SPACE}", " ").split())


def layout_is_sound(figure):
    """No text leaves the figure, no labels of an axis overlap, and the legend stands above the panels."""
    with style.context():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    renderer = canvas.get_renderer()
    whole = figure.bbox.padded(2)
    for axes in figure.axes:
        texts = [t for t in [axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts] if t.get_text()]
        low, high = axes.get_xlim()
        ticks = [t for t in axes.get_xticklabels() if t.get_text() and low <= t.get_position()[0] <= high]
        for text in texts + ticks:
            box = text.get_window_extent(renderer)
            assert whole.x0 <= box.x0 <= box.x1 <= whole.x1, text
            assert whole.y0 <= box.y0 <= box.y1 <= whole.y1, text
        boxes = [t.get_window_extent(renderer) for t in ticks if axes.xaxis.get_tick_params().get("labelbottom", True)]
        for left, right in pairwise(boxes):
            assert not left.overlaps(right), (axes.get_title(loc="left"), left, right)
    (legend,) = figure.legends
    top = max(axes.get_tightbbox(renderer).y1 for axes in figure.axes)
    assert legend.get_window_extent(renderer).y0 >= top - 1
