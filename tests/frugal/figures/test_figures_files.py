"""Files: three formats, whole or not at all, the same bytes from the same data, and readable by machines."""

import hashlib
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import invented_campaigns as invented
import invented_experiments as experiments
import pytest
from matplotlib.figure import Figure

from frugal import figures
from frugal.errors import FrugalError
from frugal.figures import style

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """A folder with a smoke campaign and a recorded one of layers; returns (folder, frames)."""
    folder = tmp_path_factory.mktemp("campaign")
    return folder, invented.frames(folder, recorded=invented.h200)


@pytest.fixture(scope="module")
def drawn(campaign, tmp_path_factory):
    """The three files of the speed-up figure."""
    return figures.draw("cusnn_layer_speedup", campaign[1], tmp_path_factory.mktemp("drawn") / "speedup")


def digests(paths) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_three_formats_and_nothing_else(drawn):
    assert [path.name for path in drawn] == ["speedup.png", "speedup.svg", "speedup.pdf"]
    assert sorted(path.name for path in drawn[0].parent.iterdir()) == sorted(path.name for path in drawn)


@pytest.mark.parametrize("name", figures.NAMES)
def test_the_same_data_give_the_same_bytes(name, campaign, tmp_path):
    one = figures.draw(name, campaign[1], tmp_path / "one" / "figure")
    two = figures.draw(name, campaign[1], tmp_path / "two" / "figure")
    assert digests(one) == digests(two)


def test_another_process_with_another_hash_seed_gives_the_same_bytes(campaign, drawn, tmp_path):
    folder = campaign[0] / "results"
    code = (
        "import sys; from frugal import figures; "
        "figures.draw(sys.argv[1], figures.load(sys.argv[2], [sys.argv[3]]), sys.argv[4])"
    )
    arguments = ["cusnn_layer_speedup", str(folder), str(folder / "recorded/nvidia-h200"), str(tmp_path / "speedup")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert digests(tmp_path / path.name for path in drawn) == digests(drawn)


def test_figures_are_drawn_where_neither_torch_nor_numba_is(tmp_path):
    # The environment of the rules that draw has neither; figures ask kernels.sparse and frugal.cusnn all the same.
    invented.frames(tmp_path, recorded=experiments.everything)
    folder = tmp_path / "results"
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numba", "llvmlite"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from frugal import figures
frames = figures.load(sys.argv[1], [sys.argv[2]])
for name in figures.NAMES:
    figures.figure(name, frames)
"""
    subprocess.run([sys.executable, "-c", code, str(folder), str(folder / "recorded/nvidia-h200")], check=True)


def test_the_png_is_as_wide_as_a_text_column_at_200_dpi(drawn):
    width, _ = struct.unpack(">II", drawn[0].read_bytes()[16:24])
    assert width == round(style.WIDTH * 200)


def test_the_svg_has_text_a_title_and_a_description(drawn):
    root = ElementTree.parse(drawn[1]).getroot()
    words = " ".join("".join(text.itertext()) for text in root.iter(f"{SVG}text"))
    assert "recorded on NVIDIA H200" in words
    assert "1×1 256,14" in words
    title, description = root[0], root[1]
    assert (title.tag, description.tag) == (f"{SVG}title", f"{SVG}desc")
    assert root.get("role") == "img"
    assert root.get("aria-labelledby").split() == [title.get("id"), description.get("id")]
    assert title.text == "Speed-up over the dense library in fp32, layer by layer"
    assert "geometric mean over 96 layers 3×3" in description.text.replace("\N{NO-BREAK SPACE}", " ")


def test_no_file_tells_when_it_was_made(drawn):
    for path in drawn:
        content = path.read_bytes()
        assert b"CreationDate" not in content
        assert b"dc:date" not in content
        assert b"tIME" not in content


def test_the_pdf_embeds_truetype_fonts(drawn):
    content = drawn[2].read_bytes()
    assert re.search(rb"/FontFile2\b", content)
    assert not re.search(rb"/Subtype\s*/Type3\b", content)


def test_words_with_special_characters_stay_valid_xml(tmp_path):
    figure = Figure()
    style.describe(figure, "a < b & c", 'said "d" > e')
    _, svg, _ = figures.save(figure, tmp_path / "plain")
    root = ElementTree.parse(svg).getroot()
    assert [root[0].text, root[1].text] == ["a < b & c", 'said "d" > e']


def test_a_figure_that_nobody_described_can_be_saved(tmp_path):
    _, svg, _ = figures.save(Figure(), tmp_path / "plain")
    assert ElementTree.parse(svg).getroot()[0].text == "figure"


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    old = tmp_path / "figure.png"
    old.write_bytes(b"old")

    def full(self, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(FrugalError, match=r"no room for figure\.png"):
        figures.save(Figure(), tmp_path / "figure")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert old.read_bytes() == b"old"


def test_a_place_that_is_no_folder_is_told_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FrugalError, match="the figure cannot be written there"):
        figures.save(Figure(), tmp_path / "file" / "figure")


def test_a_name_that_is_not_known_is_answered_with_the_names_there_are(campaign):
    with pytest.raises(FrugalError, match=", ".join(figures.NAMES)):
        figures.figure("cusnn_stairs", campaign[1])
