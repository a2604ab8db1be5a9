"""Which file serves which network, and the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from frugal.data import sources
from frugal.data.choose import image_files, own_weights, weight_files
from frugal.data.sources import Source
from frugal.errors import FrugalError


def source(name: str, network: str | None, definition: str | None) -> Source:
    described = {"urls": [], "sha256": "0" * 64, "bytes": None, "licence": "MIT", "what": "made up"}
    return Source(name=name, network=network, definition=definition, **described)


SOURCES = {
    made.name: made
    for made in (
        source("r50-keras.safetensors", "resnet50", "keras_v1"),
        source("r50-tv.pth", "resnet50", "torchvision_v1.5"),
        source("d169-keras.safetensors", "densenet169", "keras_v1"),
        source("d169-tv.pth", "densenet169", "torchvision_v1.5"),
        source("d169-tv-older.pth", "densenet169", "torchvision_v1.5"),
        source("photographs.npy", None, None),
        source("more.npy", None, None),
    )
}
TORCHVISION, KERAS = ["d169-tv.pth", "d169-tv-older.pth"], ["d169-keras.safetensors"]


@pytest.mark.parametrize(
    ("network", "definition", "names"),
    [
        ("resnet50", "torchvision_v1.5", ["r50-tv.pth"]),
        ("resnet50", "keras_v1", ["r50-keras.safetensors"]),
        ("densenet169", "torchvision_v1.5", TORCHVISION + KERAS),
        ("densenet169", "keras_v1", KERAS + TORCHVISION),
        ("resnet18", "torchvision_v1.5", []),
    ],
)
def test_weights_fit_the_definition_and_a_densenet_takes_either(network: str, definition: str, names: list[str]):
    assert weight_files(SOURCES, network, definition) == names


def test_images_are_what_belongs_to_no_network():
    assert image_files(SOURCES) == ["photographs.npy", "more.npy"]


def test_every_published_file_is_chosen_for_something():
    published = sources.load()
    networks = {(s.network, s.definition) for s in published.values() if s.network}
    chosen = {name for network, definition in networks for name in weight_files(published, network, definition)}
    assert chosen | set(image_files(published)) == set(published)


def test_a_path_that_is_no_folder_is_taken_as_it_stands(tmp_path: Path):
    for given in (str(tmp_path / "mine.pth"), "weights/not-there.pth"):
        assert own_weights(given, SOURCES, "resnet50", "keras_v1") == given


def test_a_folder_gives_the_published_name_first_then_the_networks_own(tmp_path: Path):
    wanted = [*KERAS, *TORCHVISION, "densenet169.safetensors", "densenet169.pth"]
    for name in ("r50-tv.pth", "resnet50.pth", "notes.txt"):
        (tmp_path / name).touch()
    for name in reversed(wanted):
        (tmp_path / name).touch()
        assert own_weights(str(tmp_path), SOURCES, "densenet169", "keras_v1") == str(tmp_path / name)


def test_a_folder_without_them_is_one_sentence_that_names_what_is_looked_for(tmp_path: Path):
    (tmp_path / "resnet50.pth").mkdir()  # a folder is no file
    (tmp_path / "r50-keras.safetensors").touch()  # another definition of a ResNet is another graph
    with pytest.raises(FrugalError) as raised:
        own_weights(str(tmp_path), SOURCES, "resnet50", "torchvision_v1.5")
    assert str(raised.value) == (
        f"cusnn.weights = {tmp_path}: no weights of resnet50 are there: name a file r50-tv.pth or resnet50.safetensors "
        "or resnet50.pth"
    )
