"""`HostImage`: an image in host memory of which windows go to the device as they are wanted, in the bytes it has."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from frugal.sft.copies import Copies, by_rows, dtype_of, from_rows
from frugal.sft.errors import SftError, ShapeError
from frugal.sft.ranges import Range

LAYOUTS = ("HWC", "CHW", "NHWC", "NCHW")
KINDS = (np.uint8, np.float16, np.float32, np.float64)
AHEAD = 1  # windows of a map that are on their way while one is computed

Window = tuple[Range, Range]


class HostImage:
    """Images in host memory: arrays, or memory maps of which no more than the windows that are wanted is read.

    array: uint8 or floating point in the order `layout`, HWC, CHW, NHWC or NCHW; it may be read-only, mirrored or a
    view with gaps. The network sees (x · scale − mean) ÷ std and beyond the image zeros, as if the whole had been made
    so; mean and std are one number, or one a channel. scale: by default 1/255 for bytes, 1 for floating point.
    prefetch: windows that are on their way while one is computed. There is no gradient of it.

    Raises SftError, a ValueError, for another layout, type or number of dimensions, for a mean, std or scale that is
    not finite, and for a std that is not above 0; ShapeError for an image without pixels.
    """

    requires_grad = False

    def __init__(
        self,
        array: np.ndarray,
        layout: str = "HWC",
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        scale: float | None = None,
        prefetch: int = 2,
    ) -> None:
        if layout not in LAYOUTS:
            raise SftError(f"layout {layout!r} is not known: take one of {', '.join(LAYOUTS)}")
        if not isinstance(array, np.ndarray):
            raise SftError(f"an image of type {type(array).__name__}: give a NumPy array or memory map")
        if array.dtype.newbyteorder("=") not in [np.dtype(kind) for kind in KINDS]:
            raise SftError(f"an image of {array.dtype}: give {', '.join(kind.__name__ for kind in KINDS)}")
        if array.ndim != len(layout):
            raise SftError(f"an array of shape {array.shape} as {layout}: it must have {len(layout)} dimensions")
        if not isinstance(prefetch, int) or prefetch < 1:
            raise SftError(f"prefetch = {prefetch!r}: give the number of windows on their way, 1 at least")
        self.array, self.layout, self.prefetch = array, layout, prefetch
        sizes = {"N": 1} | dict(zip(layout, array.shape, strict=True))
        self.shape = tuple(sizes[axis] for axis in "NCHW")
        if not all(self.shape):
            raise ShapeError(f"an image of {self.shape} (N, C, H, W): it has no pixels")
        self.mean = _per_channel("mean", 0.0 if mean is None else mean, self.shape[1])
        self.std = _per_channel("std", 1.0 if std is None else std, self.shape[1])
        if any(each <= 0 for each in self.std):
            raise SftError(f"std = {std}: each must be above 0, for it is what is divided by")
        self.scale = (1 / 255 if array.dtype == np.uint8 else 1.0) if scale is None else scale
        if not math.isfinite(self.scale):
            raise SftError(f"scale = {scale}: give a finite number")

    def dim(self) -> int:
        return 4

    def window(self, rows: Range, columns: Range) -> np.ndarray:
        """A view of the array, in its own order, with the batch in front."""
        array = self.array if self.array.ndim == 4 else self.array[None]
        if self.layout.endswith("HWC"):
            return array[:, rows[0] : rows[1], columns[0] : columns[1]]
        return array[:, :, rows[0] : rows[1], columns[0] : columns[1]]


@dataclass(frozen=True)
class Place:
    """Where and how a network computes: device, the images' type, and whether maps are channels_last."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool

    @classmethod
    def of(cls, x: Tensor) -> Place:
        """As a tensor lies there."""
        last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        return cls(x.device, x.dtype, last)

    @classmethod
    def of_model(cls, model: nn.Module) -> Place:
        """As a model's parameters lie there: channels_last if that is how a convolution's weights do."""
        parameters = [p for p in model.parameters() if p.is_floating_point()]
        if not parameters:
            return cls(torch.device("cpu"), torch.float32, False)
        return cls(parameters[0].device, parameters[0].dtype, any(cls.of(p).channels_last for p in parameters))


def windows_of(
    source: Tensor | HostImage, hosted: bool, windows: Sequence[Window | None], copies: Copies, place: Place
) -> Iterator[Tensor | None]:
    """A map's windows in turn, [N, C, h, w] on the device; None gives None.

    hosted: whether the map lies in host memory. Then, and of images in host memory, windows are under way before their
    turn comes; of a map on the device they are views.
    """
    if isinstance(source, HostImage):
        begin, ahead = _of_image(source, copies, place), source.prefetch
    elif hosted:
        begin, ahead = _of_map(source, copies, place), AHEAD
    else:
        for window in windows:
            yield None if window is None else source[:, :, slice(*window[0]), slice(*window[1])]
        return
    coming: deque[Callable[[], Tensor] | None] = deque()
    for window in windows:
        coming.append(None if window is None else begin(window))
        if len(coming) > ahead:
            yield _arrived(coming)
    while coming:
        yield _arrived(coming)


def _arrived(coming: deque[Callable[[], Tensor] | None]) -> Tensor | None:
    ready = coming.popleft()
    return None if ready is None else ready()


def _of_map(source: Tensor, copies: Copies, place: Place) -> Callable[[Window], Callable[[], Tensor]]:
    last = place.channels_last

    def begin(window: Window) -> Callable[[], Tensor]:
        rows, columns = window
        arrived = copies.fetch([by_rows(source[:, :, slice(*rows), slice(*columns)], last)])
        return lambda: from_rows(arrived().pop(), last)

    return begin


def _of_image(image: HostImage, copies: Copies, place: Place) -> Callable[[Window], Callable[[], Tensor]]:
    working = torch.float64 if torch.float64 in (place.dtype, dtype_of(image.array)) else torch.float32
    # By `fetch`, for a tensor of Python's numbers is made on a GPU by a copy that the host waits for.
    mean, std = copies.fetch([torch.tensor((image.mean, image.std), dtype=working)])().pop()[:, :, None, None]
    format_ = torch.channels_last if place.channels_last else torch.contiguous_format

    def begin(window: Window) -> Callable[[], Tensor]:
        arrived = copies.fetch([image.window(*window)], image.prefetch)

        def ready() -> Tensor:
            x = arrived().pop()
            x = x.permute(0, 3, 1, 2) if image.layout.endswith("HWC") else x
            x = x.to(working).contiguous(memory_format=format_)  # its own memory: no window shares it
            if image.scale != 1:
                x.mul_(image.scale)
            return x.sub_(mean).div_(std).to(place.dtype)

        return ready

    return begin


def _per_channel(what: str, value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    values = [float(each) for each in np.atleast_1d(np.asarray(value, dtype=np.float64))]
    if len(values) not in (1, channels):
        raise SftError(f"{what} of {len(values)} numbers for {channels} channels: give one number, or one a channel")
    if not all(math.isfinite(each) for each in values):
        raise SftError(f"{what} = {value}: give finite numbers")
    return tuple(values * channels if len(values) == 1 else values)
