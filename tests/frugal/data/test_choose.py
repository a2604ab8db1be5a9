"""Which file serves which network, and the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from frugal.data import sources
from frugal.data.choose import image_files, log_files, own_images, own_weights, recorded, weight_files
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
    assert chosen | set(image_files(published)) | set(log_files(published).values()) == set(published)


def test_a_file_is_taken_as_it_stands_and_must_be_there(tmp_path: Path):
    mine = tmp_path / "mine.pth"
    mine.touch()
    assert own_weights(str(mine), SOURCES, ["resnet50"], "keras_v1") == {"resnet50": str(mine)}
    with pytest.raises(FrugalError, match=r"cusnn\.weights = .*: there is no such file or folder"):
        own_weights("weights/not-there.pth", SOURCES, ["resnet50"], "keras_v1")


@pytest.mark.parametrize("given", ["auto", "synthetic"])
def test_words_are_no_files(given):
    assert own_weights(given, SOURCES, ["resnet50"], "keras_v1") == {}


def test_a_folder_gives_the_published_name_first_then_the_networks_own(tmp_path: Path):
    wanted = [*KERAS, *TORCHVISION, "densenet169.safetensors", "densenet169.pth"]
    for name in ("r50-tv.pth", "resnet50.pth", "notes.txt"):
        (tmp_path / name).touch()
    for name in reversed(wanted):
        (tmp_path / name).touch()
        found = own_weights(str(tmp_path), SOURCES, ["densenet169"], "keras_v1")
        assert found == {"densenet169": str(tmp_path / name)}


def test_a_folder_without_them_is_one_sentence_that_names_what_is_looked_for(tmp_path: Path):
    (tmp_path / "resnet50.pth").mkdir()  # a folder is no file
    (tmp_path / "r50-keras.safetensors").touch()  # another definition of a ResNet is another graph
    with pytest.raises(FrugalError) as raised:
        own_weights(str(tmp_path), SOURCES, ["resnet50"], "torchvision_v1.5")
    assert str(raised.value) == (
        f"config: cusnn.weights = {tmp_path}: no weights of resnet50 are there: name a file r50-tv.pth or "
        "resnet50.safetensors or resnet50.pth"
    )


def test_images_are_a_file_or_every_image_of_a_folder(tmp_path: Path):
    assert own_images(None) == []
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    assert own_images(str(tmp_path)) == [str(tmp_path / "a.JPG"), str(tmp_path / "b.png")]
    assert own_images(str(tmp_path / "b.png")) == [str(tmp_path / "b.png")]
    with pytest.raises(FrugalError, match=r"data\.images = .*: there is no such file or folder"):
        own_images(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FrugalError, match="holds no image"):
        own_images(str(tmp_path / "empty"))


def test_a_recorded_campaign_must_be_there_unless_none_is(tmp_path: Path):
    assert recorded(["nvidia-h200"], tmp_path / "recorded") == []
    (tmp_path / "recorded/nvidia-h200").mkdir(parents=True)
    assert recorded(["nvidia-h200"], tmp_path / "recorded") == [tmp_path / "recorded/nvidia-h200"]
    with pytest.raises(FrugalError, match="there is no campaign nvidia-h20: use nvidia-h200"):
        recorded(["nvidia-h20"], tmp_path / "recorded")
