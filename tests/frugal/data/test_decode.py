"""Every kind of picture file has the outcome that frugal.data.decode states, and the right pixels."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import DIM, noise, only, png, raw, refusal, smooth
from PIL import Image

from frugal.data import decode as decoding
from frugal.data.image_to_bin import image_to_bin, read_bin


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
