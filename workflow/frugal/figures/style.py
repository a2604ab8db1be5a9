"""One look for every figure: a system has one colour and one marker, the same everywhere.

Colours are those of Okabe and Ito (Color Universal Design, 2008) for what stands in one figure together, and darker or
grey ones for rarer arms; a test checks their distances (CIEDE2000) for normal, protan, deutan and tritan
sight. Shape says the same as colour, so that the figures also survive a grey print.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

WIDTH = 6.5  # inches: the text width of a one-column page; no figure is wider, so that a phone needs no sideways scroll
NOTE_SIZE, TITLE_SIZE = 8.5, 11.5  # points: nothing smaller or larger is written
INK, MUTED, PAPER = "#1A1A1A", "#5C5C5C", "#FFFFFF"
# Characters that fit: English prose in DejaVu Sans is about 0.55 em a character wide.
_NOTE_COLUMNS, _TITLE_COLUMNS, _MESSAGE_COLUMNS = 97, 76, 72

RC = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same glyphs and widths on every machine
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": NOTE_SIZE,
    "ytick.labelsize": NOTE_SIZE,
    "legend.fontsize": NOTE_SIZE,
    "legend.frameon": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#8A8A8A",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and edited
    "svg.hashsalt": "frugal",
    "pdf.fonttype": 42,  # TrueType, embedded
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Look:
    """How a system looks: its label in words, its colour and its marker."""

    label: str
    colour: str
    marker: str


LOOKS = {
    "sparse": Look("ours: sparse", "#D55E00", "o"),
    "dense_twin": Look("ours: dense twin", "#E69F00", "D"),
    "unfused": Look("ours: unfused", "#5A2D00", "<"),
    "paper_scheme": Look("the paper's scheme", "#4A1A8C", "h"),
    "paper_dispatch": Look("the paper's scheme, dispatched", "#8778FF", ">"),
    "cudnn_fp32": Look("cuDNN fp32", "#0072B2", "s"),
    "cudnn_tf32": Look("cuDNN TF32", "#56B4E9", "^"),
    "cudnn_fp16_cl": Look("cuDNN fp16 channels-last", "#009E73", "v"),
    "onednn_fp32": Look("oneDNN fp32", "#CC79A7", "P"),
    "gemm_fp32": Look("im2col + GEMM fp32", "#5E5E5E", "X"),
    "torch_compile_fp32": Look("torch.compile fp32", "#000000", "*"),
    "torch_compile_tf32": Look("torch.compile TF32", "#785A3C", "d"),
}
_OTHER_MARKERS = ("p", "8", "H")


def system(arm: str) -> str:
    """The system that an arm belongs to: a library timed in its other layout (`cudnn_fp32_cl`) is the same system."""
    plain = arm.removesuffix("_cl")
    return plain if arm not in LOOKS and plain in LOOKS else arm


def looks(arms: Iterable[str], table: Mapping[str, Look] = LOOKS) -> dict[str, Look]:
    """The look of each arm, known ones first in the table's order; unknown ones are grey with a marker of their own."""
    arms = set(arms)
    known = {arm: look for arm, look in table.items() if arm in arms}
    others = sorted(arms - set(table))
    return known | {
        arm: Look(arm, MUTED, _OTHER_MARKERS[place % len(_OTHER_MARKERS)]) for place, arm in enumerate(others)
    }


def context() -> AbstractContextManager:
    """The style's settings for the time of drawing or saving; the caller's own settings come back after it."""
    return mpl.rc_context(RC)


def handle(look: Look, *, label: str | None = None, hollow: bool = False) -> Line2D:
    """A legend entry that looks as the system does in the panels."""
    face = PAPER if hollow else look.colour
    return Line2D(
        [], [], linestyle="none", marker=look.marker, color=look.colour, markerfacecolor=face, markersize=6,
        label=label or look.label,
    )  # fmt: skip


def wrap(text: str, columns: int = _NOTE_COLUMNS) -> str:
    """Break a paragraph into lines that fit the figure's width."""
    return "\n".join(textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False))


def head(figure: Figure, title: str, handles: Sequence[Artist], columns: int = 2) -> None:
    """Title and legend above the panels, as one block that the layout keeps clear of them."""
    figure.legend(
        handles=handles, title=title, loc="outside upper left", alignment="left", ncols=columns, columnspacing=1.5,
        borderaxespad=0.2, borderpad=0.2, title_fontproperties={"size": TITLE_SIZE, "weight": "bold"},
    )  # fmt: skip


def unbroken(text: str) -> str:
    """The text with no-break spaces, so that `wrap` keeps it on one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def describe(figure: Figure, title: str, description: str) -> None:
    """Attach what a screen reader is to say; `described` reads it back."""
    figure.set_label(f"{title}\n{description}")


def described(figure: Figure) -> tuple[str, str]:
    """The (title, description) that `describe` attached; a figure without them is called "figure"."""
    title, _, description = str(figure.get_label()).partition("\n")
    return title or "figure", description or title or "figure"


def notes(figure: Figure, lines: Iterable[str]) -> None:
    """Write footnotes below the panels, one paragraph a note."""
    text = "\n".join(wrap(line) for line in lines if line)
    if text:
        figure.supxlabel(text, x=0.01, ha="left", fontsize=NOTE_SIZE, color=MUTED)


def note_height(lines: Iterable[str]) -> float:
    """Inches that `notes` needs for these lines."""
    rows = sum(wrap(line).count("\n") + 1 for line in lines if line)
    return rows * NOTE_SIZE * 1.25 / 72 + (0.1 if rows else 0.0)


def message(title: str, sentences: Sequence[str], advice: str, command: str) -> Figure:
    """A figure without data: it says what is missing, why, and what to type."""
    with context():
        text = "\n\n".join(wrap(sentence, _MESSAGE_COLUMNS) for sentence in [*sentences, advice])
        height = 1.05 + (text.count("\n") + 1) * 0.18
        figure = Figure(figsize=(WIDTH, height))
        describe(figure, title, " ".join([*sentences, advice, command]))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.text(0.012, 1 - 0.08 / height, title, va="top", fontsize=TITLE_SIZE, fontweight="bold")
        axes.text(0.5, 1 - 0.5 / height, text, ha="center", va="top", color=MUTED, linespacing=1.3)
        axes.text(
            0.5, 0.2 / height, command, ha="center", va="bottom", family="monospace", fontsize=10,
            bbox={"facecolor": "#F2F2F2", "edgecolor": "none", "pad": 5},
        )  # fmt: skip
    return figure


def seconds(value: float, _position: int | None = None) -> str:
    """A time for an axis or a sentence: 2.5 µs, 10 ms, 1 s."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= size * 0.9995:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def times(value: float, _position: int | None = None) -> str:
    """A ratio for an axis or a sentence: 0.5×, 2.1×, 12×."""
    return f"{value:.2g}×" if value < 10 else f"{value:.0f}×"


def panel_title(axes: Axes, lines: Iterable[str]) -> None:
    """Title of a panel, left, above whatever stands on its upper edge; long lines are broken."""
    axes.set_title("\n".join(wrap(line, _TITLE_COLUMNS) for line in lines if line), loc="left", pad=6)
