"""Pictures to the file that networks read: float32, little-endian, NCHW in C order, with a manifest beside it.

An image of 3 x 224 x 224 takes 602,112 bytes; images follow one another without any header. The manifest
``<out>.json`` says what the bytes mean: preprocessing, channel order, size, the SHA-256 of the whole, and for each
image its source, crop and offset. Preprocessing belongs to the weights:

``torchvision``  red, green, blue; (pixel / 255 - mean) / std with mean (.485, .456, .406) and std (.229, .224, .225).
                 All torchvision networks and Keras' DenseNets.
``keras_caffe``  blue, green, red; pixel - (103.939, 116.779, 123.68). Keras' ResNets.
``none``         red, green, blue; pixel as it is, 0 to 255.

What becomes of each kind of file (grey, CMYK, 16-bit, animated, rotated, huge, corrupt, empty, not an image, …) stands
in `frugal.data.decode`. Equal files and an equal Pillow give equal bytes; no date and no folder enters them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import PIL

from frugal.data.bins import (
    RECIPES,
    ImageEntry,
    ImageError,
    Manifest,
    Preprocess,
    Recipe,
    image_bytes,
    manifest_path,
    read_bin,
)
from frugal.data.decode import SUFFIXES, Fit, Outcome, Picture, Refused, array_pictures, decode, read
from frugal.files import publishing

__all__ = ["FileOutcome", "ImageError", "Manifest", "Report", "image_to_bin", "preprocessed", "read_bin"]


@dataclass(frozen=True, kw_only=True)
class FileOutcome:
    """What became of one file; ``reason`` is the cause of a refusal, or what was done to an unusual picture."""

    path: Path
    outcome: Outcome
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """All files in the order in which they were taken, and how many images the .bin holds."""

    out: Path
    count: int
    outcomes: tuple[FileOutcome, ...]

    @property
    def failed(self) -> tuple[FileOutcome, ...]:
        """The files that were meant as pictures and are not in the .bin."""
        return tuple(o for o in self.outcomes if o.outcome not in ("converted", "skipped"))

    @property
    def exit_status(self) -> int:
        """1 if any file failed, else 0."""
        return 1 if self.failed else 0

    @property
    def summary(self) -> str:
        """One line: images written, and the files that failed with their reasons."""
        images = f"{self.out}: {self.count} image{'' if self.count == 1 else 's'}"
        return images + "".join(f"; {o.path}: {o.outcome} ({o.reason})" for o in self.failed)


def image_to_bin(
    paths: Path | str | Iterable[Path | str],
    out: Path | str,
    *,
    size: int = 224,
    resize: int | None = None,
    preprocess: Preprocess = "torchvision",
    fit: Fit = "crop",
    limit: int | None = None,
) -> Report:
    """Write the pictures to ``out`` (float32 NCHW) and the manifest to ``<out>.json``, each by rename.

    ``paths``: files and folders; a folder stands for the pictures in it and in its sub-folders, sorted by path; or one
    ``.bin``, which is checked by `read_bin` and copied. ``fit`` and ``resize`` (the shorter side before the crop,
    default size x 256 / 224) as in `frugal.data.decode.fitted`. ``limit``: stop after so many images. A file that
    cannot be converted is reported and the others go on; raises ImageError for a bad option and when not one image
    could be converted (nothing is written then).
    """
    resize = round(size * 256 / 224) if resize is None else resize
    _check_options(size, resize, preprocess, fit, limit)
    out, paths = Path(out), [paths] if isinstance(paths, str | Path) else list(paths)
    if len(paths) == 1 and Path(paths[0]).suffix == ".bin":
        return _copy_bin(Path(paths[0]), out, size, preprocess, limit)
    digest, outcomes, entries = hashlib.sha256(), [], []
    with publishing(out) as file:
        for path, name in _files(paths):
            if len(entries) == limit:
                break
            if name is None:
                outcomes.append(FileOutcome(path=path, outcome="skipped", reason="its name has no picture's ending"))
                continue
            outcome, pictures, sha256 = _pictures(path, size, resize, fit)
            outcomes.append(outcome)
            for i, picture in enumerate(pictures[: None if limit is None else limit - len(entries)]):
                values = preprocessed(picture.pixels, RECIPES[preprocess])
                label = f"{name}[{i}]" if "array" in picture.notes else name
                entries.append(_entry(label, sha256, file.tell(), values, picture))
                digest.update(data := values.astype("<f4").tobytes())
                file.write(data)
        if not entries:
            raise ImageError(_nothing(outcomes))
    recipe = RECIPES[preprocess]
    manifest = Manifest(
        count=len(entries),
        shape=(len(entries), 3, size, size),
        channel_order=recipe.order,
        preprocess=preprocess,
        divisor=recipe.divisor,
        mean=recipe.mean,
        std=recipe.std,
        fit=fit,
        resize=resize if fit == "crop" else None,
        pillow=PIL.__version__,
        bytes=len(entries) * image_bytes(size),
        sha256=digest.hexdigest(),
        images=tuple(entries),
    )
    manifest.write(manifest_path(out))
    return Report(out=out, count=len(entries), outcomes=tuple(outcomes))


def preprocessed(pixels: np.ndarray, recipe: Recipe) -> np.ndarray:
    """uint8 (H, W, 3) in the order RGB to float32 (3, H, W): (pixel / divisor - mean) / std in the recipe's order.

    Computed in float32, operation by operation as torchvision's ToTensor and Normalize do, so that the bits agree.
    """
    chw = (pixels if recipe.order == "RGB" else pixels[..., ::-1]).transpose(2, 0, 1)
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (recipe.mean, recipe.std))
    return (chw.astype(np.float32) / np.float32(recipe.divisor) - mean) / std


def _check_options(size: int, resize: int, preprocess: str, fit: str, limit: int | None) -> None:
    if size < 1:
        raise ImageError(f"size = {size}: it must be at least 1 pixel, for example 224")
    if fit not in get_args(Fit):
        raise ImageError(f"fit = {fit}: it must be one of {', '.join(get_args(Fit))}")
    if preprocess not in RECIPES:
        raise ImageError(f"preprocess = {preprocess}: it must be one of {', '.join(RECIPES)}")
    if fit == "crop" and resize < size:
        raise ImageError(f"resize = {resize}: the shorter side before the crop must be at least size = {size}")
    if limit is not None and limit < 1:
        raise ImageError(f"limit = {limit}: it must be at least 1 image")


def _files(paths: Iterable[Path | str]) -> Iterator[tuple[Path, str | None]]:
    """Each file with its name for the manifest, relative to the folder that was given; None: not meant as a picture."""
    for given in map(Path, paths):
        if not given.is_dir():
            yield given, given.name
            continue
        inside = [Path(folder) / name for folder, _, names in os.walk(given) for name in names]
        relative = sorted(path.relative_to(given).as_posix() for path in inside)
        shown = [name for name in relative if not any(part.startswith(".") for part in name.split("/"))]
        # In a folder, a file that is no picture by its name is no mistake; given by itself, it is.
        yield from ((given / name, name if name.lower().endswith(SUFFIXES) else None) for name in shown)


def _pictures(path: Path, size: int, resize: int, fit: Fit) -> tuple[FileOutcome, list[Picture], str | None]:
    """The pictures of one file (several for an array), what became of it, and its SHA-256."""
    try:
        data = read(path)
        is_array = path.suffix.lower() == ".npy"
        pictures = array_pictures(data, path.name, size) if is_array else [decode(data, size, resize, fit)]
    except Refused as refusal:
        return FileOutcome(path=path, outcome=refusal.outcome, reason=refusal.reason), [], None
    notes = ", ".join(pictures[0].notes) if pictures else None
    return FileOutcome(path=path, outcome="converted", reason=notes or None), pictures, hashlib.sha256(data).hexdigest()


def _entry(name: str, sha256: str | None, offset: int, values: np.ndarray, picture: Picture) -> ImageEntry:
    return ImageEntry(
        name=name,
        sha256=sha256,
        offset=offset,
        min=float(values.min()),
        max=float(values.max()),
        mean=float(values.mean(dtype=np.float64)),
        source_size=picture.source_size,
        resized=picture.resized,
        crop=picture.box,
        notes=picture.notes,
    )


def _copy_bin(path: Path, out: Path, size: int, preprocess: Preprocess, limit: int | None) -> Report:
    """Take the first ``limit`` images of a .bin that `read_bin` accepts."""
    tensor, manifest = read_bin(path, preprocess, size)
    if manifest.shape[-1] != size:
        raise ImageError(f"{path} holds images of {manifest.shape[-1]} pixels, but size = {size}: convert them again")
    data = tensor[:limit].numpy().astype("<f4").tobytes()
    with publishing(out) as file:
        file.write(data)
    count = len(data) // image_bytes(size)
    manifest.model_copy(
        update={
            "count": count,
            "shape": (count, 3, size, size),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "images": manifest.images[:count],
        }
    ).write(manifest_path(out))
    return Report(out=out, count=count, outcomes=(FileOutcome(path=path, outcome="converted", reason="bin"),))


def _nothing(outcomes: list[FileOutcome]) -> str:
    if not outcomes:
        return "no pictures were found: give PNG or JPEG files, or folders that hold some"
    shown = "; ".join(f"{o.path}: {o.outcome} ({o.reason})" for o in outcomes[:3])
    more = f"; and {len(outcomes) - 3} more" if len(outcomes) > 3 else ""
    return f"no picture could be converted: {shown}{more}: give PNG or JPEG files, or folders that hold some"
