"""One picture file as pixels of the wanted size, or a stated refusal. Files are a user's own: nothing is trusted.

What becomes of a file (``outcome``; those that are not ``converted`` make the exit status 1, ``skipped`` apart):

=============  ====================================================================================================
converted      PNG, JPEG (MPO included), GIF and WebP. ``notes`` says what was done to the unusual ones:
               ``greyscale`` repeated in three channels · ``palette`` looked up · ``transparent`` laid over black ·
               ``cmyk`` to RGB by Pillow's formula, colour profiles are not applied · ``16-bit`` cut to the high byte ·
               ``animated`` the first frame · ``rotated`` as the EXIF orientation says · ``exif-unreadable`` left as it
               lies · ``reduced`` a JPEG of more than 25 million pixels is decoded at a half, a quarter or an eighth of
               its size (never below twice the wanted size), so that memory stays bounded
empty          a file of 0 bytes
not_an_image   the content is no picture that Pillow knows, whatever the name says; or not a regular file
unsupported    a picture of another kind (TIFF, BMP, …), or an array of another shape, type or name
corrupt        the header is a picture's, the rest cannot be decoded (cut off, bad checksum, …)
too_large      more pixels than are decoded in one piece (89 million; a JPEG, which is reduced, 179 million), sides so
               unequal that scaling makes that many, or a file of more than 512 MiB
unreadable     missing, or permission denied
skipped        in a folder: a name without a picture's ending; hidden files are not mentioned at all
=============  ====================================================================================================
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Outcome = Literal[
    "converted", "empty", "not_an_image", "unsupported", "corrupt", "too_large", "unreadable", "skipped"
]  # fmt: skip
Fit = Literal["crop", "pad"]

FORMATS = ("PNG", "JPEG", "MPO", "GIF", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp", ".npy")
MAX_FILE_BYTES = 512 << 20
MAX_PIXELS = 89_478_485  # Pillow's own warning threshold: 0.25 GiB of 8-bit RGB
MAX_JPEG_PIXELS = 178_956_970  # where Pillow takes a file for a decompression bomb
REDUCE_ABOVE_PIXELS = 25_000_000
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # EXIF tag; 1 is upright


class Refused(Exception):
    """A file is not converted: ``outcome`` as in the module's table, and the reason."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Pixels uint8 (size, size, 3) in the order red, green, blue, and how they came about.

    ``source_size`` (width, height) is upright; ``resized`` is the size after scaling; ``box`` is the part of the scaled
    picture that is kept (left, top, right, bottom); with ``fit="pad"`` it lies at the top left and the rest is black.
    """

    pixels: np.ndarray
    source_size: tuple[int, int]
    resized: tuple[int, int]
    box: tuple[int, int, int, int]
    notes: tuple[str, ...]


def read(path: Path) -> bytes:
    """The file's bytes; raises Refused for what is missing, empty, not a regular file, or too large."""
    try:
        if not path.exists():
            raise Refused("unreadable", "no such file")
        if not path.is_file():  # a pipe would block, a device would never end
            raise Refused("not_an_image", "not a regular file")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise Refused("too_large", f"{size:,} bytes; at most {MAX_FILE_BYTES:,} are read")
        data = path.read_bytes()
    except OSError as problem:
        raise Refused("unreadable", str(problem.strerror).lower()) from None
    if not data:
        raise Refused("empty", "0 bytes")
    return data


def decode(data: bytes, size: int, resize: int, fit: Fit) -> Picture:
    """Decode one picture and fit it to ``size`` x ``size`` (see `fitted`); raises Refused."""
    opened = _open(data)
    notes = []
    try:
        if opened.format != "MPO" and getattr(opened, "n_frames", 1) > 1:  # an MPO's other pictures are previews
            notes.append("animated")
        full = opened.size
        if opened.format in ("JPEG", "MPO") and full[0] * full[1] > REDUCE_ABOVE_PIXELS:
            opened.draft(opened.mode, (2 * max(size, resize),) * 2)
        opened.load()
        if opened.size != full:
            notes.append("reduced")
        turned = _orientation(opened, notes)
        rgb = _rgb(ImageOps.exif_transpose(opened) if turned > 1 else opened, data, notes)
    except Exception as problem:
        # Decoders meet bytes that nobody foresaw: Pillow raises OSError, SyntaxError, ValueError, struct.error and
        # others for them, and one file must never stop the files after it.
        raise Refused("corrupt", " ".join(str(problem).split()) or type(problem).__name__) from None
    source = full[::-1] if turned >= 5 else full  # 5 to 8 lie on their side
    pixels, resized, box = fitted(rgb, source, size, resize, fit)
    return Picture(pixels=pixels, source_size=source, resized=resized, box=box, notes=tuple(notes))


def fitted(
    image: Image.Image, source: tuple[int, int], size: int, resize: int, fit: Fit
) -> tuple[np.ndarray, tuple[int, int], tuple[int, int, int, int]]:
    """Scale an RGB image with antialiased bilinear filtering and bring it to ``size`` x ``size``.

    ``crop``: the shorter side becomes ``resize`` (the longer one is cut to whole pixels), then the central square is
    kept, as torchvision's Resize and CenterCrop do on PIL images. ``pad``: the longer side becomes ``size``, and the
    picture lies at the top left on black. Returns the pixels uint8 (size, size, 3), the scaled size, and the box kept.

    ``source`` (width, height) is the picture's own size and decides the geometry: a JPEG that was decoded reduced has
    sides rounded up to whole pixels, so its shape can be off by half of one.
    """
    width, height = source
    if fit == "pad":
        resized = (max(1, size * width // max(width, height)), max(1, size * height // max(width, height)))
        canvas = Image.new("RGB", (size, size))
        canvas.paste(image.resize(resized, Image.Resampling.BILINEAR), (0, 0))
        return np.asarray(canvas), resized, (0, 0, *resized)
    shorter = min(width, height)
    resized = (resize * width // shorter, resize * height // shorter)
    if resized[0] * resized[1] > MAX_PIXELS:
        raise Refused("too_large", f"{width} x {height} pixels: the sides are too unequal to scale; crop it first")
    left, top = (round((side - size) / 2) for side in resized)
    box = (left, top, left + size, top + size)
    # `box` in source coordinates would filter differently at the rim; scale the whole picture, then cut.
    return np.asarray(image.resize(resized, Image.Resampling.BILINEAR).crop(box)), resized, box


def array_pictures(data: bytes, name: str, size: int) -> list[Picture]:
    """The pictures of a ``.npy`` file: uint8 (n, size, size, 3), whose name says its channel order.

    ``*_nhwc_bgr.npy`` or ``*_nhwc_rgb.npy``. They have the wanted size already and are not scaled. Raises Refused.
    """
    order = next((order for order in ("bgr", "rgb") if name.endswith(f"_nhwc_{order}.npy")), None)
    if order is None:
        raise Refused("unsupported", "an array's name must end in _nhwc_bgr.npy or _nhwc_rgb.npy, to state its order")
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as problem:
        raise Refused("corrupt", " ".join(str(problem).split())) from None
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.shape[1:] != (size, size, 3):
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise Refused("unsupported", f"{found}; an array must be uint8 (n, {size}, {size}, 3)")
    rgb = array if order == "rgb" else array[..., ::-1]
    return [
        Picture(pixels=p, source_size=(size, size), resized=(size, size), box=(0, 0, size, size), notes=("array",))
        for p in rgb
    ]


def _open(data: bytes) -> Image.Image:
    """Read the header alone; kind and size are judged before a pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # DecompressionBombWarning: the limits below decide
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise Refused("too_large", f"more than {MAX_JPEG_PIXELS:,} pixels; scale it down first") from None
    except UnidentifiedImageError:
        if data.startswith((PNG_SIGNATURE, b"\xff\xd8\xff", b"GIF8")):
            raise Refused("corrupt", "the header cannot be read") from None
        raise Refused("not_an_image", "the content is no picture that is known here") from None
    except Exception as problem:  # as in `decode`: a damaged header raises whatever its reader stumbles over
        raise Refused("corrupt", " ".join(str(problem).split()) or type(problem).__name__) from None
    if image.format not in FORMATS:
        raise Refused("unsupported", f"{image.format} picture; convert it to PNG or JPEG")
    most = MAX_JPEG_PIXELS if image.format in ("JPEG", "MPO") else MAX_PIXELS
    if image.width * image.height > most:
        raise Refused(
            "too_large", f"{image.width} x {image.height} pixels; at most {most:,} are decoded, scale it down first"
        )
    return image


def _orientation(image: Image.Image, notes: list[str]) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none or it makes no sense."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # as in `decode`; the pixels may be sound all the same
        notes.append("exif-unreadable")
        return 1
    if orientation not in range(2, 9):
        return 1
    notes.append("rotated")
    return orientation


def _rgb(image: Image.Image, data: bytes, notes: list[str]) -> Image.Image:
    """Any mode to 8-bit RGB; what was done goes into ``notes``."""
    # Pillow cuts 16-bit colour to the high byte while it decodes; byte 24 of a PNG (IHDR's bit depth) still tells.
    if image.mode.startswith("I") or (data.startswith(PNG_SIGNATURE) and data[24] == 16):
        notes.append("16-bit")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow keeps whole: the high byte, as for colour
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("1", "L", "LA"):
        notes.append("greyscale")
    if image.mode == "P":
        notes.append("palette")
    if image.mode == "CMYK":
        notes.append("cmyk")
    if image.has_transparency_data:
        notes.append("transparent")
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture).convert("RGB")
    return image.convert("RGB")
