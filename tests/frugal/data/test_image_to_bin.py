"""frugal.data.image_to_bin and decode: every kind of file, and the pixels against computations of their own."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from frugal.data import decode as decoding
from frugal.data.image_to_bin import ImageError, Report, image_to_bin, read_bin
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

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


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return png(noise(40, 50), tmp_path / "good.png")


# ---------------------------------------------------------------------------------------------- bytes and manifest


def test_the_standard_image_takes_602112_bytes_in_nchw_order(tmp_path: Path) -> None:
    pixels = noise(256, 256)
    image_to_bin(png(pixels, tmp_path / "a.png"), tmp_path / "a.bin", preprocess="none")
    data = (tmp_path / "a.bin").read_bytes()
    assert len(data) == 602_112
    for channel, row, column in [(0, 0, 0), (1, 2, 3), (2, 223, 223), (2, 0, 17)]:
        at = 4 * ((channel * 224 + row) * 224 + column)
        assert struct.unpack_from("<f", data, at)[0] == pixels[row + 16, column + 16, channel]


def test_the_manifest_says_where_everything_is(tmp_path: Path) -> None:
    sources = [png(noise(60 + i, 50, i), tmp_path / f"{i}.png") for i in range(3)]
    image_to_bin(sources, tmp_path / "all.bin", **DIM)
    data = (tmp_path / "all.bin").read_bytes()
    told = json.loads((tmp_path / "all.bin.json").read_text())
    assert told["sha256"] == hashlib.sha256(data).hexdigest()
    assert (told["count"], told["shape"], told["bytes"]) == (3, [3, 3, 32, 32], len(data))
    assert (told["layout"], told["dtype"], told["byte_order"]) == ("NCHW", "float32", "little")
    assert (told["fit"], told["resize"], told["preprocess"], told["channel_order"]) == (
        "crop",
        36,
        "torchvision",
        "RGB",
    )
    for i, (source, image) in enumerate(zip(sources, told["images"], strict=True)):
        alone = tmp_path / f"alone{i}.bin"
        image_to_bin(source, alone, **DIM)
        assert data[image["offset"] :][: 3 * 32 * 32 * 4] == alone.read_bytes()
        values = np.frombuffer(alone.read_bytes(), "<f4")
        assert (image["min"], image["max"]) == (float(values.min()), float(values.max()))
        assert image["mean"] == pytest.approx(math.fsum(values) / len(values), rel=1e-9)  # float64 sums, two orders
        assert image["name"] == source.name
        assert image["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert image["source_size"] == [60 + i, 50]
    assert str(tmp_path) not in (tmp_path / "all.bin.json").read_text()


@pytest.mark.parametrize(
    ("preprocess", "order", "scale", "mean", "std"),
    [
        ("torchvision", (0, 1, 2), 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("keras_caffe", (2, 1, 0), 1.0, (103.939, 116.779, 123.68), (1, 1, 1)),
        ("none", (0, 1, 2), 1.0, (0, 0, 0), (1, 1, 1)),
    ],
)
def test_preprocessing_in_float64(
    tmp_path: Path, preprocess: str, order: tuple, scale: float, mean: tuple, std: tuple
) -> None:
    pixels = noise(36, 36)
    image_to_bin(png(pixels, tmp_path / "a.png"), tmp_path / "a.bin", preprocess=preprocess, **DIM)
    got, manifest = read_bin(tmp_path / "a.bin", preprocess)
    want = (pixels[2:34, 2:34, order].astype(np.float64) * scale - np.array(mean)) / np.array(std)
    # three float32 roundings (divide, subtract, divide) of values below 256, the largest std quotient 4.5
    assert np.abs(got[0].numpy() - want.transpose(2, 0, 1)).max() <= 3 * 4.5 * 2**-24 * np.abs(want).max() + 1e-6
    assert manifest.channel_order == ("BGR" if order[0] else "RGB")


def test_equal_pictures_give_equal_bytes_wherever_and_whenever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "in").mkdir(parents=True)
        for i in (2, 1, 3) if folder == "one" else (3, 2, 1):
            path = png(noise(50, 40, i), tmp_path / folder / "in" / f"{i}.png")
            os.utime(path, (i, i) if folder == "one" else None)
    image_to_bin(tmp_path / "one" / "in", tmp_path / "one" / "x.bin", **DIM)
    monkeypatch.chdir(tmp_path / "two")
    image_to_bin("in", "x.bin", **DIM)
    for name in ("x.bin", "x.bin.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_output_is_replaced_by_rename_and_dated_now(tmp_path: Path, good: Path) -> None:
    (tmp_path / "cache").write_bytes(b"shared")
    (tmp_path / "x.bin").symlink_to(tmp_path / "cache")
    image_to_bin(good, tmp_path / "x.bin", **DIM)
    assert (tmp_path / "cache").read_bytes() == b"shared"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "good.png", "x.bin", "x.bin.json"]


# ------------------------------------------------------------------------------------------------- scale and crop

sizes = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(width=sizes, height=sizes, size=st.integers(1, 40), extra=st.integers(0, 12), seed=st.integers(0, 99))
def test_crop_against_pil_and_numpy(width: int, height: int, size: int, extra: int, seed: int) -> None:
    pixels, resize = noise(width, height, seed), size + extra
    # torchvision.transforms.Resize(int) and CenterCrop on a PIL image, written out
    long = int(resize * max(width, height) / min(width, height))
    scaled = (resize, long) if width <= height else (long, resize)
    resized = np.asarray(Image.fromarray(pixels).resize(scaled, Image.Resampling.BILINEAR))
    top, left = round((scaled[1] - size) / 2.0), round((scaled[0] - size) / 2.0)
    want = resized[top : top + size, left : left + size]
    with tempfile.TemporaryDirectory() as folder:
        path = png(pixels, Path(folder) / "a.png")
        got = raw(path, Path(folder), size=size, resize=resize)[0]
        entry = json.loads((Path(folder) / "raw.bin.json").read_text())["images"][0]
    np.testing.assert_array_equal(got, want.transpose(2, 0, 1))
    assert entry["crop"] == [left, top, left + size, top + size]
    assert entry["resized"] == list(scaled)


@settings(max_examples=60, deadline=None)
@given(width=sizes, height=sizes, size=st.integers(1, 40), seed=st.integers(0, 99))
def test_pad_lies_at_the_top_left_on_black(width: int, height: int, size: int, seed: int) -> None:
    pixels = noise(width, height, seed)
    longer = max(width, height)
    scaled = (max(1, math.floor(size * width / longer)), max(1, math.floor(size * height / longer)))
    want = np.zeros((size, size, 3), np.uint8)
    want[: scaled[1], : scaled[0]] = np.asarray(Image.fromarray(pixels).resize(scaled, Image.Resampling.BILINEAR))
    with tempfile.TemporaryDirectory() as folder:
        got = raw(png(pixels, Path(folder) / "a.png"), Path(folder), size=size, fit="pad")[0]
    np.testing.assert_array_equal(got, want.transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(100, 80), (61, 200), (20, 30)])
def test_the_filter_is_antialiased_bilinear(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Against torch's own antialiased bilinear interpolation in float64, which shares no code with Pillow."""
    pixels = noise(*shape)
    got = raw(png(pixels, tmp_path / "a.png"), tmp_path)[0]
    scaled = json.loads((tmp_path / "raw.bin.json").read_text())["images"][0]
    planes = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float64))[None]
    want = torch.nn.functional.interpolate(planes, size=scaled["resized"][::-1], mode="bilinear", antialias=True)[0]
    left, top, right, bottom = scaled["crop"]
    # Pillow filters rows, rounds to 8 bits (0.5), filters columns (a mean, so 0.5 stays), rounds again (0.5)
    assert np.abs(got - want[:, top:bottom, left:right].numpy()).max() <= 1.0 + 1e-2


# --------------------------------------------------------------------------------------- each kind of file, stated


def test_greyscale_is_repeated_in_three_channels(tmp_path: Path) -> None:
    pixels = noise(36, 36, channels=1)
    got = raw(png(pixels, tmp_path / "a.png"), tmp_path)[0]
    np.testing.assert_array_equal(got, np.stack([pixels[2:34, 2:34]] * 3))
    Image.fromarray(pixels > 127).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(raw(tmp_path / "bits.png", tmp_path)[0, 0], (pixels[2:34, 2:34] > 127) * 255)
    assert only(image_to_bin(tmp_path / "a.png", tmp_path / "a.bin", **DIM)) == ("converted", "greyscale")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_is_laid_over_black(tmp_path: Path, mode: str) -> None:
    pixels = noise(36, 36, channels=4)
    image = Image.fromarray(pixels)
    if mode == "LA":
        image = Image.merge("LA", (image.getchannel("G"), image.getchannel("A")))
        pixels = pixels[..., [1, 1, 1, 3]]
    if mode == "PA":  # a palette whose first colour is transparent
        index = pixels[..., 0] % 4
        colours = np.array([[200, 100, 50], [10, 20, 30], [0, 0, 255], [255, 255, 255]], np.uint8)
        image = Image.fromarray(index, "P")
        image.putpalette(colours.tobytes())
        pixels = np.concatenate([colours[index], np.where(index == 0, 0, 255)[..., None].astype(np.uint8)], 2)
        image.save(tmp_path / "a.png", transparency=0)
    else:
        image.save(tmp_path / "a.png")
    got = raw(tmp_path / "a.png", tmp_path)[0].transpose(1, 2, 0)
    want = pixels[..., :3] * (pixels[..., 3:] / 255.0)
    assert np.abs(got - want[2:34, 2:34]).max() <= 1.0  # Pillow composites in 8-bit fixed point, rounded
    assert "transparent" in only(image_to_bin(tmp_path / "a.png", tmp_path / "a.bin", **DIM))[1]


def test_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(noise(36, 36)).quantize(16)
    image.save(tmp_path / "a.png")
    want = np.asarray(image.convert("RGB"))[2:34, 2:34].transpose(2, 0, 1)
    np.testing.assert_array_equal(raw(tmp_path / "a.png", tmp_path)[0], want)
    assert only(image_to_bin(tmp_path / "a.png", tmp_path / "a.bin", **DIM)) == ("converted", "palette")


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    inks = {"red": (0, 255, 255, 0), "cyan": (255, 0, 0, 0), "black": (0, 0, 0, 255), "white": (0, 0, 0, 0)}
    colours = {"red": (255, 0, 0), "cyan": (0, 255, 255), "black": (0, 0, 0), "white": (255, 255, 255)}
    for name, ink in inks.items():
        Image.new("CMYK", (40, 40), ink).save(tmp_path / f"{name}.jpg", quality=95)
        got = raw(tmp_path / f"{name}.jpg", tmp_path)[0].mean((1, 2))
        assert np.abs(got - colours[name]).max() <= 3  # JPEG at quality 95 on a flat colour
    assert only(image_to_bin(tmp_path / "red.jpg", tmp_path / "a.bin", **DIM)) == ("converted", "cmyk")


def sixteen_bit_png(samples: np.ndarray) -> bytes:
    """A PNG of 16-bit samples (h, w) grey or (h, w, 3) colour, written by hand: Pillow cannot write the latter."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, 16, 0 if samples.ndim == 2 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_is_cut_to_the_high_byte(tmp_path: Path, channels: int) -> None:
    shape = (36, 36) if channels == 1 else (36, 36, 3)
    samples = np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(sixteen_bit_png(samples))
    want = (samples >> 8)[2:34, 2:34].reshape(32, 32, -1).transpose(2, 0, 1)
    np.testing.assert_array_equal(raw(tmp_path / "a.png", tmp_path)[0], np.broadcast_to(want, (3, 32, 32)))
    reason = only(image_to_bin(tmp_path / "a.png", tmp_path / "a.bin", **DIM))[1]
    assert reason == ("16-bit, greyscale" if channels == 1 else "16-bit")


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_animated_gives_the_first_frame(tmp_path: Path, kind: str) -> None:
    first, second = Image.new("RGB", (40, 40), (255, 0, 0)), Image.new("RGB", (40, 40), (0, 0, 255))
    path = tmp_path / f"a.{kind.lower()}"
    first.save(path, kind, save_all=True, append_images=[second], lossless=True)
    np.testing.assert_array_equal(raw(path, tmp_path)[0].mean((1, 2)), (255, 0, 0))
    assert "animated" in only(image_to_bin(path, tmp_path / "a.bin", **DIM))[1]


@pytest.mark.parametrize("orientation", range(1, 10))
def test_the_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    """What a viewer shows (EXIF 2.3, table 6): the stored rows and columns mapped back by numpy."""
    upright = smooth(60, 40)
    to_stored = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }.get(orientation, lambda a: a)
    exif = Image.Exif()
    exif[0x0112] = orientation
    png(np.ascontiguousarray(to_stored(upright)), tmp_path / "a.png", exif=exif.tobytes())
    want = raw(png(upright, tmp_path / "upright.png"), tmp_path)
    np.testing.assert_array_equal(raw(tmp_path / "a.png", tmp_path), want)
    report = image_to_bin(tmp_path / "a.png", tmp_path / "a.bin", **DIM)
    assert only(report) == ("converted", "rotated" if 2 <= orientation <= 8 else None)  # 9 is not in the standard
    assert read_bin(tmp_path / "a.bin")[1].images[0].source_size == (60, 40)


def test_a_damaged_exif_leaves_the_picture_as_it_lies(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(40, 40))
    image.save(tmp_path / "plain.jpg", quality=90)
    image.save(tmp_path / "a.jpg", quality=90, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    np.testing.assert_array_equal(raw(tmp_path / "a.jpg", tmp_path), raw(tmp_path / "plain.jpg", tmp_path))


def test_a_large_jpeg_is_decoded_reduced_but_looks_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(smooth(1200, 900)).save(tmp_path / "a.jpg", quality=95)
    full = raw(tmp_path / "a.jpg", tmp_path)
    monkeypatch.setattr(decoding, "REDUCE_ABOVE_PIXELS", 1200 * 900 - 1)
    report = image_to_bin(tmp_path / "a.jpg", tmp_path / "a.bin", **DIM)
    assert only(report) == ("converted", "reduced")
    entry = read_bin(tmp_path / "a.bin")[1].images[0]
    assert (entry.source_size, entry.resized) == ((1200, 900), (48, 36))
    # Decoded at an eighth: 150 x 113 for 112.5 rows, so the ramp of 255 levels is shifted by at most half a row of 113
    # (1.2 levels); both ways round to 8 bits twice (1 level each).
    assert np.abs(raw(tmp_path / "a.jpg", tmp_path) - full).max() <= 1.2 + 2


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a PNG that claims a size; nothing of it is ever decoded."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))


@pytest.mark.parametrize(("width", "height"), [(9_460, 9_460), (13_400, 13_400), (2_000_000_000, 2_000_000_000)])
def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path, good: Path, width: int, height: int) -> None:
    data = png_header(width, height) + struct.pack(">I", 4) + b"IDAT" + zlib.compress(b"")[:4] + b"\0" * 4
    (tmp_path / "bomb.png").write_bytes(data)
    outcome, reason = refusal(tmp_path / "bomb.png", tmp_path, good)
    assert outcome == "too_large"
    assert "scale it down first" in reason


def test_a_thread_of_pixels_is_refused_before_it_is_scaled(tmp_path: Path, good: Path) -> None:
    Image.new("L", (60_000, 1)).save(tmp_path / "line.png")
    report = image_to_bin([tmp_path / "line.png", good], tmp_path / "a.bin")
    assert report.outcomes[0].outcome == "too_large"
    assert "crop it first" in report.outcomes[0].reason


def test_a_huge_file_is_not_read(tmp_path: Path, good: Path) -> None:
    with open(tmp_path / "big.png", "wb") as file:
        file.truncate(decoding.MAX_FILE_BYTES + 1)  # sparse: it takes no room
    assert refusal(tmp_path / "big.png", tmp_path, good) == (
        "too_large",
        "536,870,913 bytes; at most 536,870,912 are read",
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cut_picture_is_corrupt_at_whatever_byte(tmp_path: Path, good: Path, kind: str) -> None:
    whole = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(whole, kind)
    data = whole.getvalue()
    for length in (9, 20, 30, 60, len(data) // 2, len(data) * 9 // 10):
        (tmp_path / "cut.png").write_bytes(data[:length])
        outcome, reason = refusal(tmp_path / "cut.png", tmp_path, good)
        assert outcome == "corrupt"
        assert reason
        assert "\n" not in reason


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_no_damage_stops_the_files_after_it(data: st.DataObject) -> None:
    whole = io.BytesIO()
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP"]))
    Image.fromarray(noise(24, 24)).save(whole, kind)
    damaged = bytearray(whole.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "damaged").write_bytes(damaged)
        png(noise(40, 40), Path(folder) / "good.png")
        report = image_to_bin([Path(folder) / "damaged", Path(folder) / "good.png"], Path(folder) / "a.bin", **DIM)
        assert report.outcomes[1].outcome == "converted"
        assert report.count == 2 - report.exit_status
        read_bin(Path(folder) / "a.bin")


def test_empty_text_and_other_kinds(tmp_path: Path, good: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture at all, whatever the name says\n")
    Image.fromarray(noise(40, 40)).save(tmp_path / "a.tiff")
    os.mkfifo(tmp_path / "pipe.png")
    assert refusal(tmp_path / "empty.png", tmp_path, good) == ("empty", "0 bytes")
    assert refusal(tmp_path / "text.png", tmp_path, good)[0] == "not_an_image"
    told = refusal(tmp_path / "a.tiff", tmp_path, good)
    assert told == ("unsupported", "TIFF picture; convert it to PNG or JPEG")
    assert refusal(tmp_path / "pipe.png", tmp_path, good) == ("not_an_image", "not a regular file")
    assert refusal(tmp_path / "gone.png", tmp_path, good) == ("unreadable", "no such file")


def test_a_name_says_nothing_about_the_content(tmp_path: Path) -> None:
    Image.fromarray(noise(40, 40)).save(tmp_path / "really_png.jpg", "PNG")
    assert only(image_to_bin(tmp_path / "really_png.jpg", tmp_path / "a.bin", **DIM)) == ("converted", None)


# -------------------------------------------------------------------------------------------- folders, limits, arrays


def test_a_folder_is_taken_in_order_and_other_files_are_skipped(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "b").mkdir(parents=True)
    (photos / ".thumbnails").mkdir()
    for i, name in enumerate(["c.PNG", "a.png", "b/z.png", ".thumbnails/t.png", ".hidden.png"]):
        png(noise(40, 40, i), photos / name)
    (photos / "notes.txt").write_text("mine")
    report = image_to_bin(photos, tmp_path / "a.bin", **DIM)
    assert [(o.path.relative_to(photos).as_posix(), o.outcome) for o in report.outcomes] == [
        ("a.png", "converted"),
        ("b/z.png", "converted"),
        ("c.PNG", "converted"),
        ("notes.txt", "skipped"),
    ]
    assert report.exit_status == 0
    assert [image.name for image in read_bin(tmp_path / "a.bin")[1].images] == ["a.png", "b/z.png", "c.PNG"]


def test_limit_counts_images_not_files(tmp_path: Path) -> None:
    paths = [png(noise(40, 40, i), tmp_path / f"{i}.png") for i in range(4)]
    paths[0].write_bytes(b"")
    report = image_to_bin(paths, tmp_path / "a.bin", limit=2, **DIM)
    assert [o.outcome for o in report.outcomes] == ["empty", "converted", "converted"]
    assert [image.name for image in read_bin(tmp_path / "a.bin")[1].images] == ["1.png", "2.png"]


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_an_array_is_taken_as_it_is_in_the_order_of_its_name(tmp_path: Path, order: str) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    path = tmp_path / f"x_u8_nhwc_{order}.npy"
    np.save(path, array)
    want = (array if order == "rgb" else array[..., ::-1]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(raw(path, tmp_path), want)
    np.testing.assert_array_equal(raw(path, tmp_path, limit=2), want[:2])
    image_to_bin(path, tmp_path / "k.bin", preprocess="keras_caffe", size=32)
    bgr = want[:, ::-1] - np.array((103.939, 116.779, 123.68), np.float32).reshape(3, 1, 1)
    np.testing.assert_array_equal(read_bin(tmp_path / "k.bin")[0].numpy(), bgr.astype(np.float32))
    assert [image.name for image in read_bin(tmp_path / "k.bin")[1].images] == [f"{path.name}[{i}]" for i in range(3)]


@pytest.mark.parametrize(
    ("name", "array", "told"),
    [
        ("x.npy", np.zeros((1, 32, 32, 3), np.uint8), "must end in _nhwc_bgr.npy or _nhwc_rgb.npy"),
        ("x_nhwc_rgb.npy", np.zeros((1, 32, 32, 3), np.float32), "float32 (1, 32, 32, 3); an array must be uint8"),
        ("x_nhwc_rgb.npy", np.zeros((1, 30, 32, 3), np.uint8), "must be uint8 (n, 32, 32, 3)"),
        ("x_nhwc_rgb.npy", np.array([{}], object), "allow_pickle=False"),
    ],
)
def test_another_array_is_refused(tmp_path: Path, good: Path, name: str, array: np.ndarray, told: str) -> None:
    np.save(tmp_path / name, array, allow_pickle=True)
    assert told in refusal(tmp_path / name, tmp_path, good)[1]


def test_nothing_to_convert_is_one_sentence_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ImageError, match="no pictures were found: give PNG or JPEG files"):
        image_to_bin(tmp_path / "in", tmp_path / "a.bin")
    for i in range(5):
        (tmp_path / "in" / f"{i}.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"0\.png: empty \(0 bytes\); .* and 2 more"):
        image_to_bin(tmp_path / "in", tmp_path / "a.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"size": 0}, "size = 0: it must be at least 1 pixel"),
        ({"size": 300, "resize": 256}, "resize = 256: the shorter side before the crop must be at least size = 300"),
        ({"preprocess": "caffe"}, "preprocess = caffe: it must be one of torchvision, keras_caffe, none"),
        ({"fit": "stretch"}, "fit = stretch: it must be one of crop, pad"),
        ({"limit": 0}, "limit = 0: it must be at least 1 image"),
    ],
)
def test_a_bad_option_is_one_sentence(tmp_path: Path, good: Path, option: dict, told: str) -> None:
    with pytest.raises(ImageError, match=told):
        image_to_bin(good, tmp_path / "a.bin", **option)
