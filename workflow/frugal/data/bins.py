"""The .bin file of images: what its bytes mean (recipes, manifest), and reading it back with every check."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from frugal.data.decode import Fit
from frugal.errors import FrugalError
from frugal.files import publishing

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = "frugal.images/1"
Preprocess = Literal["torchvision", "keras_caffe", "none"]


class ImageError(FrugalError, ValueError):
    """An option is wrong, no picture could be converted, or a .bin is not what it should be."""


class Recipe(NamedTuple):
    """A preprocessing: (pixel / divisor - mean) / std, channel by channel in ``order``."""

    order: Literal["RGB", "BGR"]
    divisor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


RECIPES: dict[Preprocess, Recipe] = {
    "torchvision": Recipe("RGB", 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "keras_caffe": Recipe("BGR", 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    "none": Recipe("RGB", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
# Values that no pixel of 0..255 can leave; torchvision's are within [-2.12, 2.65], and 3 leaves room.
PLAUSIBLE: dict[Preprocess, tuple[float, float]] = {
    "torchvision": (-3.0, 3.0),
    "keras_caffe": (-124.0, 152.0),
    "none": (0.0, 255.0),
}


class ImageEntry(BaseModel):
    """One image of a .bin. Sizes are (width, height), boxes (left, top, right, bottom) in the scaled picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str | None
    offset: int
    min: float
    max: float
    mean: float
    source_size: tuple[int, int] | None = None
    resized: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    notes: tuple[str, ...] = ()


class Manifest(BaseModel):
    """What the bytes of a .bin mean. ``sha256`` is the .bin's, ``images[i].sha256`` the source file's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["frugal.images/1"] = SCHEMA
    count: int
    shape: tuple[int, int, int, int]
    dtype: Literal["float32"] = "float32"
    byte_order: Literal["little"] = "little"
    layout: Literal["NCHW"] = "NCHW"
    channel_order: Literal["RGB", "BGR"]
    preprocess: Preprocess
    divisor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Fit | None = None
    resize: int | None = None
    pillow: str | None = None
    bytes: int
    sha256: str
    images: tuple[ImageEntry, ...]

    def write(self, path: Path) -> None:
        """Write it as JSON, by rename."""
        with publishing(path) as file:
            file.write(self.model_dump_json(indent=1).encode() + b"\n")


def manifest_path(path: Path | str) -> Path:
    """``<path>.json``"""
    return Path(f"{path}.json")


def image_bytes(size: int) -> int:
    """Bytes of one image: 3 channels, float32; 602,112 for 224 pixels."""
    return 3 * size * size * 4


def read_bin(path: Path | str, preprocess: Preprocess | None = None, size: int = 224) -> tuple[Tensor, Manifest]:
    """Read a .bin: a CPU tensor float32 (n, 3, size, size) in NCHW, and its manifest.

    ``preprocess`` is what the network's weights expect; None takes what the manifest says. Without a manifest (a file
    from elsewhere) ``preprocess`` and ``size`` say what it holds, the range of its values is checked, and a manifest
    without sources is made up. Raises ImageError for a size that is no whole number of images, a sum or count that is
    not the manifest's, NaN or infinity, another preprocessing than asked for, and values that no picture can have.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise ImageError(f"{path}: there is no such file; make it with `frugal image-to-bin IMAGES -o {path}`")
    manifest = _manifest(path)
    if manifest is not None:
        size = manifest.shape[-1]
        if preprocess not in (None, manifest.preprocess):
            raise ImageError(
                f"{path} holds images for `{manifest.preprocess}`, but these weights expect `{preprocess}`: "
                f"convert them again with --preprocess {preprocess}"
            )
    elif preprocess is None:
        raise ImageError(
            f"{path} has no manifest ({manifest_path(path).name}): state its preprocess ({', '.join(RECIPES)}), "
            "or convert the images again"
        )
    length = path.stat().st_size
    if length == 0 or length % image_bytes(size):
        count, over = divmod(length, image_bytes(size))
        raise ImageError(
            f"{path} has {length:,} bytes, which is {count} images of 3 x {size} x {size} float32 "
            f"({image_bytes(size):,} bytes each) and {over:,} bytes over: convert the images again"
        )
    values = np.fromfile(path, "<f4").reshape(-1, 3, size, size)
    if manifest is None:
        _refuse_not_finite(path, values)
        manifest = _made_up(path, values, preprocess)
    else:
        _refuse_damaged(path, values, manifest)
        _refuse_not_finite(path, values)
    return torch.from_numpy(values.astype(np.float32, copy=False)), manifest


def _manifest(path: Path) -> Manifest | None:
    beside = manifest_path(path)
    if not beside.is_file():
        return None
    try:
        return Manifest.model_validate_json(beside.read_bytes())
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ImageError(
            f"{beside} is not a manifest of images ({where}: {first['msg']}): convert the images again"
        ) from None


def _refuse_damaged(path: Path, values: np.ndarray, manifest: Manifest) -> None:
    if len(values) != manifest.count:
        raise ImageError(
            f"{path} holds {len(values)} images, its manifest lists {manifest.count}: convert the images again"
        )
    digest = hashlib.sha256(values.data).hexdigest()
    if digest != manifest.sha256:
        raise ImageError(
            f"cached copy of {path} is damaged (sha256 {digest}, expected {manifest.sha256}): "
            f"delete {path.resolve()} and run again"
        )


def _refuse_not_finite(path: Path, values: np.ndarray) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        first = int(bad.reshape(len(values), -1).any(axis=1).argmax())
        raise ImageError(f"{path} holds NaN or infinity, first in image {first}: convert the images again")


def _made_up(path: Path, values: np.ndarray, preprocess: Preprocess) -> Manifest:
    """A manifest for a .bin that has none, once its values are plausible for the preprocessing that was stated."""
    low, high = PLAUSIBLE[preprocess]
    least, most = float(values.min()), float(values.max())
    if least < low or most > high:
        raw = "looks like raw 0-255; " if least >= 0 and 3 < most <= 255 else ""
        raise ImageError(
            f"{path} has no manifest and holds values from {least:.4g} to {most:.4g}, outside [{low:g}, {high:g}] for "
            f"`{preprocess}`: {raw}convert the images again or state `preprocess`"
        )
    recipe, size = RECIPES[preprocess], values.shape[-1]
    return Manifest(
        count=len(values),
        shape=values.shape,
        channel_order=recipe.order,
        preprocess=preprocess,
        divisor=recipe.divisor,
        mean=recipe.mean,
        std=recipe.std,
        bytes=values.nbytes,
        sha256=hashlib.sha256(values.data).hexdigest(),
        images=tuple(
            ImageEntry(
                name=f"{path.name}[{i}]",
                sha256=None,
                offset=i * image_bytes(size),
                min=float(image.min()),
                max=float(image.max()),
                mean=float(image.mean(dtype=np.float64)),
            )
            for i, image in enumerate(values)
        ),
    )
