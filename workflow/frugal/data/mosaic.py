"""Huge images out of photographs: mirrored, tiled, and with noise on every pixel, so that no two tiles are equal.

The image is a memory-mapped file of bytes, [H, W, 3] in the order red, green, blue, made once a size. It is endless to
the right and downwards: what a pixel is depends on its row, its column and the photographs alone, so that images of two
sizes agree wherever both have pixels. Cells of 512 × 512 pixels hold one photograph each, taken in turn, its central
part or, where it is smaller, mirrored at its own edges; every other cell is mirrored as a whole. The noise of a row
comes from a generator that counts (Philox, whose raw numbers NumPy keeps for ever), with the row in its counter.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from frugal.data.photographs import packaged
from frugal.errors import FrugalError
from frugal.files import disk_full, publishing

CELL = 512
NOISE = 16  # added are whole numbers from -8 to 7, evenly distributed: the standard deviation is 4.6 of 255


class MosaicError(FrugalError, ValueError):
    """A size that no image can have, or a file that is not the image of that size."""


def mosaic(height: int, width: int, folder: str | Path, photographs: Sequence[Path] | None = None) -> np.memmap:
    """The image of height × width pixels as a read-only memory map of uint8 [height, width, 3].

    It is `folder/mosaic_<height>x<width>.npy`, written whole or not at all where it is not there yet. photographs:
    pictures that Pillow reads, by default those of `frugal.data.photographs`. Raises MosaicError for a size below 1 or
    a file that holds something else, and DiskFull where 3·height·width bytes do not fit.
    """
    if height < 1 or width < 1:
        raise MosaicError(f"an image of {height} × {width} pixels: both sides must be at least 1")
    path = Path(folder) / f"mosaic_{height}x{width}.npy"
    if not path.exists():
        _write(path, height, width, packaged() if photographs is None else photographs)
    return _opened(path, (height, width, 3))


def _write(path: Path, height: int, width: int, photographs: Sequence[Path]) -> None:
    cells = [_cell(photograph) for photograph in photographs]
    if not cells:
        raise MosaicError("no photograph is given: an image needs at least one")
    path.parent.mkdir(parents=True, exist_ok=True)
    needed = 3 * height * width
    if shutil.disk_usage(path.parent).free < needed:
        raise disk_full(path, needed)
    with publishing(path) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (height, width, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for row in _rows(cells, height, width):
            file.write(row.tobytes())


def _cell(photograph: Path) -> np.ndarray:
    """uint8 [CELL, CELL, 3]."""
    with Image.open(photograph) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    missing = [max(0, CELL - side) for side in pixels.shape[:2]]
    pixels = np.pad(pixels, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
    top, left = ((side - CELL) // 2 for side in pixels.shape[:2])
    return pixels[top : top + CELL, left : left + CELL]


def _rows(cells: Sequence[np.ndarray], height: int, width: int) -> Iterator[np.ndarray]:
    """The image's rows one by one, each uint8 [width, 3]."""
    columns = -(-width // CELL)
    for first in range(0, height, CELL):
        line = first // CELL
        # Three photographs on from line to line, so that equal ones do not stand below each other.
        taken = [cells[(3 * line + column) % len(cells)][:: -1 if line % 2 else 1] for column in range(columns)]
        band = np.hstack([cell[:, :: -1 if column % 2 else 1] for column, cell in enumerate(taken)])[:, :width]
        for offset, pixels in enumerate(band[: height - first]):
            noise = _noise(first + offset, 3 * width).reshape(width, 3)
            yield np.clip(pixels + noise, 0, 255).astype(np.uint8)


def _noise(row: int, count: int) -> np.ndarray:
    """int16 [count], from -NOISE/2 to NOISE/2 - 1; more of a row begin with the same numbers."""
    raw = np.random.Philox(key=0, counter=[0, 0, 0, row]).random_raw(-(-count // 8))
    return (raw.astype("<u8").view(np.uint8)[:count] % NOISE).astype(np.int16) - NOISE // 2


def _opened(path: Path, shape: tuple[int, int, int]) -> np.memmap:
    try:
        image = np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError) as problem:
        raise MosaicError(f"{path} cannot be read ({problem}): delete it and run again") from None
    if image.shape != shape or image.dtype != np.uint8:
        raise MosaicError(
            f"{path} holds {image.dtype} {list(image.shape)} instead of uint8 {list(shape)}: delete it and run again"
        )
    return image
