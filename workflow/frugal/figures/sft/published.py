"""SFT's published times and limits (workflow/paper/sft.csv), as figures draw them: hollow, with the GPU's name.

Rows of run `figure` are what the publication plotted, those of `head` the last committed logs, which stand in for sizes
that no plot has. The 2080 Ti computed in fp32; PyTorch 1.8 used TF32 on an A100 unless told otherwise.
"""

from __future__ import annotations

import re

import pandas as pd
from matplotlib.lines import Line2D

from frugal.figures import style
from frugal.figures.sft.steps import LOOKS

NAMES = {"rtx2080ti-11gb": "RTX 2080 Ti", "a100-40gb": "A100 40 GB"}
DASHES: dict[str, object] = {"rtx2080ti-11gb": (0, (1, 1.5)), "a100-40gb": (0, (4, 1.5))}
_PRECISIONS = {"rtx2080ti-11gb": "fp32", "a100-40gb": "tf32"}
CAVEAT = (
    "Hollow: published, on another GPU; one cold step each, CUDA's start included, in a fork of PyTorch 1.8 that kept "
    "freed memory from other methods. Shown, never judged."
)


def times(papers: pd.DataFrame, case: pd.Series) -> pd.DataFrame:
    """Published seconds of a step (columns hardware, variant, h, value) of a case's network and precision, batch 1.

    Of the numbers of tiles the fastest. None for a network with fewer channels or another batch than the paper's.
    """
    rows = _rows(papers, "total_s")
    if case["width_divisor"] != 1 or case["batch"] != 1 or case["input"] != "device":
        return rows[:0]
    fits = (rows["model"] == case["network"]) & (rows["hardware"].map(_PRECISIONS) == case["precision"])
    ordered = rows[fits].sort_values("value", kind="stable")
    return ordered.drop_duplicates(["hardware", "variant", "h"]).sort_values(["hardware", "variant", "h"])


def limits(papers: pd.DataFrame, network: str) -> pd.DataFrame:
    """The largest published size that ran (columns hardware, variant, h, cap_gib: the GPU's memory) of a network."""
    rows = _rows(papers, "total_s")
    own = rows[rows["model"] == network].sort_values("h", ascending=False, kind="stable")
    largest = own.drop_duplicates(["hardware", "variant"])
    return largest.assign(cap_gib=[float(re.search(r"-(\d+)gb$", name)[1]) for name in largest["hardware"]])


def line(hardware: str) -> Line2D:
    """A legend entry for a GPU's published values."""
    return Line2D([], [], color=style.MUTED, linestyle=DASHES[hardware], marker="o", markerfacecolor=style.PAPER,
                  markersize=6, label=f"published, {NAMES[hardware]}")  # fmt: skip


def _rows(papers: pd.DataFrame, metric: str) -> pd.DataFrame:
    run = papers["parameters"].str.extract(r"run=(\w+)")[0]
    rows = papers.assign(run=run)[(papers["metric"] == metric) & run.isin(["figure", "head"])]
    rows = rows[rows["variant"].isin(LOOKS)].sort_values("run", kind="stable")  # "figure" stands before "head"
    case = rows["parameters"].str.replace(r";run=\w+", "", regex=True)
    return rows[~rows.assign(case=case).duplicated(["hardware", "model", "variant", "case"])]
