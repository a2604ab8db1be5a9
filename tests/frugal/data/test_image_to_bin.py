"""frugal.data.image_to_bin: bytes, manifest, scale and crop, folders, limits and arrays."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import DIM, noise, png, raw, refusal
from PIL import Image

from frugal.data.image_to_bin import ImageError, image_to_bin, read_bin

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
