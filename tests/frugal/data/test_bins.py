"""frugal.data.bins.read_bin: what it accepts, and each thing that it refuses with its sentence."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frugal.data import photographs
from frugal.data.image_to_bin import ImageError, image_to_bin, read_bin


@pytest.fixture
def made(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    image_to_bin([tmp_path / "0.png", tmp_path / "1.png"], tmp_path / "x.bin", size=16)
    return tmp_path / "x.bin"


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 4),
    size=st.integers(1, 24),
    preprocess=st.sampled_from(["torchvision", "keras_caffe", "none"]),
    seed=st.integers(0, 99),
)
def test_round_trip(count: int, size: int, preprocess: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{i}.png" for i in range(count)]
        for path in paths:
            Image.fromarray(rng.integers(0, 256, (*rng.integers(1, 60, 2), 3), dtype=np.uint8)).save(path)
        image_to_bin(paths, folder / "x.bin", size=size, preprocess=preprocess)
        tensor, manifest = read_bin(folder / "x.bin", preprocess)
        data = (folder / "x.bin").read_bytes()
        assert tensor.shape == (count, 3, size, size) == manifest.shape
        assert tensor.dtype == torch.float32
        assert tensor.numpy().astype("<f4").tobytes() == data
        for i, image in enumerate(manifest.images):
            at = np.frombuffer(data, "<f4", 3 * size * size, image.offset)
            np.testing.assert_array_equal(at, tensor[i].numpy().ravel())
        (folder / "x.bin.json").unlink()  # the same bytes without a manifest
        bare, told = read_bin(folder / "x.bin", preprocess, size)
        assert torch.equal(bare, tensor)
        assert (told.sha256, told.count, told.channel_order) == (manifest.sha256, count, manifest.channel_order)
        assert [(i.offset, i.min, i.max, i.mean) for i in told.images] == [
            (i.offset, i.min, i.max, i.mean) for i in manifest.images
        ]


def test_another_preprocessing_is_an_error(made: Path) -> None:
    assert read_bin(made)[1].preprocess == "torchvision"
    with pytest.raises(
        ImageError,
        match="holds images for `torchvision`, but these weights expect `keras_caffe`: "
        "convert them again with --preprocess keras_caffe",
    ):
        read_bin(made, "keras_caffe")


def test_a_size_that_is_no_number_of_images_gives_the_remainder(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(2 * 602_112 + 5))
    with pytest.raises(
        ImageError, match=r"1,204,229 bytes, which is 2 images .* \(602,112 bytes each\) and 5 bytes over"
    ):
        read_bin(tmp_path / "x.bin", "none")
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(ImageError, match="0 bytes, which is 0 images"):
        read_bin(tmp_path / "x.bin", "none")


def test_a_damaged_copy_is_named_with_both_sums(made: Path, tmp_path: Path) -> None:
    data = bytearray(made.read_bytes())
    data[100] ^= 1
    (tmp_path / "entry").write_bytes(data)
    expected = hashlib.sha256(made.read_bytes()).hexdigest()
    made.unlink()
    made.symlink_to(tmp_path / "entry")  # as Snakemake's cache hands it out
    with pytest.raises(ImageError) as told:
        read_bin(made)
    assert str(told.value) == (
        f"cached copy of {made} is damaged (sha256 {hashlib.sha256(data).hexdigest()}, expected {expected}): "
        f"delete {tmp_path / 'entry'} and run again"
    )


def test_a_count_other_than_the_manifests_is_refused(made: Path) -> None:
    made.write_bytes(made.read_bytes()[: 3 * 16 * 16 * 4])
    with pytest.raises(ImageError, match="holds 1 images, its manifest lists 2"):
        read_bin(made)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_with_or_without_a_manifest(made: Path, value: float) -> None:
    values = np.fromfile(made, "<f4")
    values[3 * 16 * 16 + 7] = value
    values.tofile(made)
    manifest = json.loads((text := Path(f"{made}.json")).read_text())
    text.write_text(json.dumps(manifest | {"sha256": hashlib.sha256(values.tobytes()).hexdigest()}))
    with pytest.raises(ImageError, match="NaN or infinity, first in image 1"):
        read_bin(made)
    text.unlink()
    with pytest.raises(ImageError, match="NaN or infinity, first in image 1"):
        read_bin(made, "none", 16)


def test_raw_pixels_without_a_manifest_are_found_out(tmp_path: Path) -> None:
    np.random.default_rng(0).integers(0, 256, 3 * 16 * 16).astype("<f4").tofile(tmp_path / "x.bin")
    with pytest.raises(
        ImageError, match=r"outside \[-3, 3\] for `torchvision`: looks like raw 0-255; convert the images"
    ):
        read_bin(tmp_path / "x.bin", "torchvision", 16)
    with pytest.raises(ImageError, match=r"has no manifest .*: state its preprocess"):
        read_bin(tmp_path / "x.bin", size=16)
    assert read_bin(tmp_path / "x.bin", "none", 16)[0].max() > 200


@pytest.mark.parametrize(("preprocess", "extreme"), [("torchvision", 3.1), ("keras_caffe", -125.0), ("none", -1.0)])
def test_values_that_no_picture_has_are_refused(tmp_path: Path, preprocess: str, extreme: float) -> None:
    values = np.zeros(3 * 16 * 16, "<f4")
    values[5] = extreme
    values.tofile(tmp_path / "x.bin")
    with pytest.raises(ImageError, match="has no manifest and holds values from"):
        read_bin(tmp_path / "x.bin", preprocess, 16)


@pytest.mark.parametrize(("text", "told"), [("{", "the file: "), ('{"count": 2}', "shape: Field required")])
def test_a_bad_manifest_is_one_sentence(made: Path, text: str, told: str) -> None:
    Path(f"{made}.json").write_text(text)
    with pytest.raises(ImageError, match=f"is not a manifest of images \\({told}") as problem:
        read_bin(made)
    assert "\n" not in str(problem.value)


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"there is no such file; make it with `frugal image-to-bin IMAGES -o "):
        read_bin(tmp_path / "x.bin")


def test_a_users_own_bin_is_checked_and_copied(made: Path, tmp_path: Path) -> None:
    report = image_to_bin(made, tmp_path / "y.bin", size=16, limit=1)
    assert (report.count, report.exit_status) == (1, 0)
    tensor, manifest = read_bin(tmp_path / "y.bin", "torchvision")
    assert torch.equal(tensor, read_bin(made)[0][:1])
    assert [image.name for image in manifest.images] == ["0.png"]
    with pytest.raises(ImageError, match="these weights expect `none`"):
        image_to_bin(made, tmp_path / "z.bin", size=16, preprocess="none")
    with pytest.raises(ImageError, match="holds images of 16 pixels, but size = 224"):
        image_to_bin(made, tmp_path / "z.bin")


def test_the_packages_photographs_are_there_and_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = photographs.packaged()
    assert len(found) == len(photographs.PHOTOGRAPHS) == 16
    copied = photographs.packaged(tmp_path / "copies")
    assert [path.read_bytes() for path in copied] == [path.read_bytes() for path in found]
    report = image_to_bin(copied, tmp_path / "x.bin")
    assert (report.count, report.exit_status) == (16, 0)
    assert (tmp_path / "x.bin").stat().st_size == 16 * 602_112
    tensor, _ = read_bin(tmp_path / "x.bin")
    # photographs, not flat pictures: every channel of every image varies (1 is the spread that ImageNet's have)
    assert tensor.std((2, 3)).min() > 0.1
    monkeypatch.setattr(photographs.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(photographs.NoPhotographs, match="pip install scikit-learn scikit-image"):
        photographs.packaged()


def test_the_shared_photographs_convert_as_they_are(tmp_path: Path) -> None:
    folder = os.environ.get("FRUGAL_TEST_DATA")
    path = Path(folder or "", "cusnn", "images_32_u8_nhwc_bgr.npy")
    if folder is None or not path.is_file():
        pytest.skip("FRUGAL_TEST_DATA does not hold cusnn/images_32_u8_nhwc_bgr.npy, which may not be redistributed")
    image_to_bin(path, tmp_path / "x.bin")
    array = np.load(path)
    want = (array[..., ::-1] / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    got = read_bin(tmp_path / "x.bin", "torchvision")[0].numpy()
    # three float32 roundings of values below 2.7, times 1 / 0.224
    np.testing.assert_allclose(got, want.transpose(0, 3, 1, 2), rtol=0, atol=2e-6)
