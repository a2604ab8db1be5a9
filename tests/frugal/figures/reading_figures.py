"""Reading back what a matplotlib figure draws: marks, bars and words."""

import numpy as np


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
