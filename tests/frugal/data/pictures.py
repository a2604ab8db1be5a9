"""Pictures with known pixels, and short ways to convert them, for the tests of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from frugal.data.image_to_bin import Report, image_to_bin, read_bin

DIM = {"size": 32, "resize": 36}


def noise(width: int, height: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(width: int, height: int) -> np.ndarray:
    """A picture whose corners differ: red grows to the right, green downwards, blue stays."""
    red = np.broadcast_to(np.linspace(0, 255, width)[None, :], (height, width))
    green = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return np.stack([red, green, np.full((height, width), 64.0)], 2).astype(np.uint8)


def png(pixels: np.ndarray, path: Path, **options: object) -> Path:
    Image.fromarray(pixels).save(path, "PNG", **options)
    return path


def raw(path: Path | list[Path], folder: Path, **options: object) -> np.ndarray:
    """Pixels 0..255 as (n, 3, size, size) of what image_to_bin makes of ``path``."""
    image_to_bin(path, folder / "raw.bin", preprocess="none", **(DIM | options))
    return read_bin(folder / "raw.bin")[0].numpy()


def only(report: Report) -> tuple[str, str | None]:
    assert len(report.outcomes) == 1
    return report.outcomes[0].outcome, report.outcomes[0].reason


def refusal(path: Path, folder: Path, good: Path) -> tuple[str, str]:
    """The outcome and reason of a bad file; the good file after it must go on."""
    report = image_to_bin([path, good], folder / "refused.bin", **DIM)
    assert [o.outcome for o in report.outcomes[1:]] == ["converted"]
    assert (report.count, report.exit_status) == (1, 1)
    assert report.failed == report.outcomes[:1]
    assert str(path) in report.summary
    return report.outcomes[0].outcome, report.outcomes[0].reason
