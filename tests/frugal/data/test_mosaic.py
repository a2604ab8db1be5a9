"""Huge images: what they are made of, that no two tiles are equal, and that a file is there whole or not at all."""

import shutil
from collections import namedtuple

import numpy as np
import pytest
from PIL import Image

from frugal.data import mosaic as module
from frugal.data.mosaic import CELL, MosaicError, mosaic
from frugal.files import DiskFull


@pytest.fixture
def photographs(tmp_path):
    """Two pictures of other sizes than a cell's: a wide one and a small one, away from 0 and 255."""
    paths = []
    for name, (height, width) in (("wide", (600, 900)), ("small", (40, 30))):
        pixels = np.random.default_rng(len(paths)).integers(20, 230, (height, width, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_a_pixel_is_the_photographs_and_a_little_noise(tmp_path, photographs):
    image = mosaic(700, 1100, tmp_path / "made", photographs)
    wide, small = (np.asarray(Image.open(path)).astype(int) for path in photographs)
    noise = np.empty((700, 1100, 3), int)
    for row in range(700):
        for column in range(0, 1100, 7):
            line, place = row // CELL, column // CELL
            y, x = row % CELL, column % CELL
            y = CELL - 1 - y if line % 2 else y
            x = CELL - 1 - x if place % 2 else x
            if (3 * line + place) % 2 == 0:
                expected = wide[y + (600 - CELL) // 2, x + (900 - CELL) // 2]
            else:  # mirrored at its edges: 0 … 39 39 … 0 0 …
                y, x = (min(p % (2 * s), 2 * s - 1 - p % (2 * s)) for p, s in ((y, 40), (x, 30)))
                expected = small[y, x]
            noise[row, column] = image[row, column].astype(int) - expected
    noise = noise[:, ::7]
    assert (noise.min(), noise.max()) == (-8, 7)
    share = np.bincount((noise + 8).ravel(), minlength=16) / noise.size
    # 330,000 draws of 16 equally likely values: five standard deviations are 0.0021
    assert abs(share - 1 / 16).max() < 0.0025


def test_no_two_tiles_are_equal(tmp_path, photographs):
    image = mosaic(512, 2048, tmp_path, photographs)
    tiles = image.reshape(16, 32, 64, 32, 3).swapaxes(1, 2).reshape(-1, 32 * 32 * 3)
    assert len(np.unique(tiles, axis=0)) == len(tiles) == 1024
    assert len(np.unique(image[:, :, 0], axis=0)) == 512


def test_it_goes_on_to_the_right_and_downwards(tmp_path, photographs):
    small, large = mosaic(70, 90, tmp_path, photographs), mosaic(540, 600, tmp_path, photographs)
    assert np.array_equal(small, large[:70, :90])


def test_the_first_pixels_are_these_for_ever(tmp_path):
    """Counted noise on a grey picture: another generator, or another order, would show."""
    path = tmp_path / "grey.png"
    Image.new("RGB", (CELL, CELL), (100, 100, 100)).save(path)
    image = mosaic(2, 3, tmp_path, [path])
    assert image.tolist() == [
        [[103, 100, 96], [100, 96, 102], [96, 94, 94]],
        [[98, 98, 100], [100, 105, 102], [101, 99, 100]],
    ]


def test_bright_and_dark_pixels_stay_within_a_byte(tmp_path):
    for value in (0, 255):
        path = tmp_path / f"{value}.png"
        Image.new("L", (8, 8), value).save(path)
        image = mosaic(16, 16, tmp_path / str(value), [path])
        assert abs(image.astype(int) - value).max() <= 8


def test_it_is_made_once_and_read_only(tmp_path, photographs, monkeypatch):
    mosaic(9, 7, tmp_path, photographs)
    monkeypatch.setattr(module, "_write", lambda *_: pytest.fail("made a second time"))
    again = mosaic(9, 7, tmp_path, photographs)
    assert isinstance(again, np.memmap)
    assert (again.shape, again.dtype, again.flags.writeable) == ((9, 7, 3), np.uint8, False)


def test_the_photographs_of_the_packages_will_do(tmp_path):
    image = mosaic(40, 3 * CELL, tmp_path)
    means = [image[:, i * CELL : (i + 1) * CELL].mean() for i in range(3)]
    assert len({round(mean) for mean in means}) > 1


def test_what_is_broken_off_leaves_no_file(tmp_path, photographs, monkeypatch):
    def two_rows(*_):
        yield np.zeros((7, 3), np.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_rows", two_rows)
    with pytest.raises(KeyboardInterrupt):
        mosaic(9, 7, tmp_path / "made", photographs)
    assert list((tmp_path / "made").iterdir()) == []


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(tmp_path, photographs, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**6, 10**6, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFull, match=r"no room for mosaic_100x100.npy: 30,000 bytes are needed and 1,000 bytes are"):
        mosaic(100, 100, tmp_path / "made", photographs)
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, -1)])
def test_a_size_that_cannot_be(tmp_path, height, width):
    with pytest.raises(MosaicError, match=f"^an image of {height} × {width} pixels: both sides must be at least 1$"):
        mosaic(height, width, tmp_path)


def test_no_photographs(tmp_path):
    with pytest.raises(MosaicError, match="needs at least one"):
        mosaic(4, 4, tmp_path, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "found", [np.zeros((4, 4), np.uint8), np.zeros((4, 5, 3), np.float32), b"", b"no array at all"]
)
def test_another_file_in_its_place_is_named(tmp_path, found):
    path = tmp_path / "mosaic_4x5.npy"
    if isinstance(found, bytes):
        path.write_bytes(found)
    else:
        np.save(path, found)
    with pytest.raises(MosaicError, match=r"mosaic_4x5.npy .*: delete it and run again$"):
        mosaic(4, 5, tmp_path)
