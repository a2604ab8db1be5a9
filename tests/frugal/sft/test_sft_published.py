"""The published numbers as they are committed, against the table of times and limits that was read off them by hand."""

import pandas as pd
import pytest

from frugal.figures import published

GPUS = {"2080": "rtx2080ti-11gb", "a100": "a100-40gb"}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    found = published.load("sft")
    return found.assign(run=found["parameters"].str.extract(r"run=(\w+)", expand=False))


def total(rows: pd.DataFrame, gpu: str, model: str, side: int, variant: str, run: str) -> pd.DataFrame:
    """The rows of total seconds, square images, batch 1."""
    chosen = (rows["hardware"] == GPUS[gpu]) & (rows["model"] == model) & (rows["h"] == side) & (rows["w"] == side)
    chosen &= (rows["variant"] == variant) & (rows["run"] == run) & (rows["metric"] == "total_s") & (rows["batch"] == 1)
    return rows[chosen]


def test_every_row_is_there(rows):
    assert len(rows) == 1735
    assert set(rows["system"]) == {"sft"}
    assert set(rows["variant"]) == {"vanilla", "checkpoint", "sft_artifact"}
    assert set(rows["run"]) == {"figure", "head", "earlier"}
    assert set(rows.loc[rows["variant"] == "checkpoint", "segments"]) == {5.0}
    assert set(rows.loc[rows["metric"] == "oom", "value"]) == {1.0}


# vanilla, checkpoint in 5 segments, the fastest number of tiles that fits and how many, 16 × 16 tiles; None: out of
# memory
TIMES = [
    ("2080", "vgg16", 1024, 1.17, 1.19, 1.25, 1, 6.93),
    ("2080", "vgg16", 2048, None, 1.70, 2.21, 2, 9.58),
    ("2080", "vgg16", 4096, None, None, 8.42, 8, 15.94),
    ("2080", "darknet19", 4096, 1.47, 1.72, 1.97, 2, 8.39),
    ("2080", "darknet19", 8192, None, None, 6.21, 4, 14.25),
    ("a100", "vgg16", 3072, 3.23, 3.15, 3.97, 1, 10.54),
    ("a100", "vgg16", 4096, None, 3.63, 5.26, 2, 12.58),
    ("a100", "darknet19", 5120, 2.75, 2.77, 3.18, 1, 10.50),
    ("a100", "darknet19", 7168, 8.55, 8.38, 4.64, 2, 12.70),
]


@pytest.mark.parametrize(("gpu", "model", "side", "vanilla", "checkpoint", "best", "tiles", "many"), TIMES)
def test_times_of_the_figures(rows, gpu, model, side, vanilla, checkpoint, best, tiles, many):
    for variant, seconds in (("vanilla", vanilla), ("checkpoint", checkpoint)):
        found = total(rows, gpu, model, side, variant, "figure")["value"]
        assert [round(value, 2) for value in found] == ([] if seconds is None else [seconds])
    ours = total(rows, gpu, model, side, "sft_artifact", "figure").set_index("tiles")["value"]
    assert (round(ours.min(), 2), ours.idxmin(), round(ours[16], 2)) == (best, tiles, many)


@pytest.mark.parametrize(
    ("gpu", "model", "tens", "twenties"),
    [
        ("2080", "vgg16", 43.84, 176.48),
        ("2080", "darknet19", 18.09, 73.81),
        ("a100", "vgg16", 27.95, 105.89),
        ("a100", "darknet19", 16.98, 65.17),
    ],
)
def test_times_of_the_largest_images(rows, gpu, model, tens, twenties):
    for side, tiles, seconds in ((10240, 16, tens), (20480, 32, twenties)):
        found = total(rows, gpu, model, side, "sft_artifact", "head").set_index("tiles")["value"]
        assert round(found[tiles], 2) == seconds


@pytest.mark.parametrize(
    ("gpu", "model", "vanilla", "checkpoint"),
    [("2080", "vgg16", 1024, 2048), ("2080", "darknet19", 4096, 4096), ("a100", "vgg16", 3072, 4096),
     ("a100", "darknet19", 7168, 7168)],
)  # fmt: skip
def test_largest_images_that_ran(rows, gpu, model, vanilla, checkpoint):
    ran = rows[(rows["hardware"] == GPUS[gpu]) & (rows["model"] == model) & (rows["metric"] == "total_s")]
    figures = ran[ran["run"] == "figure"].groupby("variant")["h"].max()
    assert (figures["vanilla"], figures["checkpoint"]) == (vanilla, checkpoint)
    assert ran[(ran["variant"] == "sft_artifact") & (ran["run"] == "head")]["h"].max() == 20480
