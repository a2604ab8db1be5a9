"""The command `frugal`: what it prints, what it writes, its exit status."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugal import __version__, cli, provenance
from frugal.data.image_to_bin import read_bin

COMMANDS = {"compare", "doctor", "image-to-bin", "migrate", "plan", "refresh"}


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two pictures, which is the working folder."""
    rng = np.random.default_rng(0)
    for name, (width, height) in {"a.png": (40, 50), "b.png": (64, 48)}.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_pictures_become_a_bin_and_each_is_reported(photographs: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--size", "32", "--preprocess", "keras_caffe", "--fit", "pad"]
    assert cli.main(["image-to-bin", "a.png", "b.png", "-o", "out/x.bin", *options]) == 0
    assert capsys.readouterr() == ("a.png: converted\nb.png: converted\n", "")
    images, manifest = read_bin(photographs / "out/x.bin", "keras_caffe")
    assert images.shape == (2, 3, 32, 32)
    assert (manifest.fit, manifest.channel_order) == ("pad", "BGR")


def test_a_folder_is_taken_up_to_the_limit(photographs: Path):
    assert cli.main(["image-to-bin", ".", "-o", "x.bin", "--size", "32", "--resize", "40", "--limit", "1"]) == 0
    manifest = read_bin(photographs / "x.bin")[1]
    assert [image.name for image in manifest.images] == ["a.png"]
    assert manifest.resize == 40


def test_the_default_is_what_torchvisions_networks_read(photographs: Path):
    assert cli.main(["image-to-bin", "a.png", "-o", "x.bin"]) == 0
    manifest = read_bin(photographs / "x.bin")[1]
    assert (manifest.shape, manifest.preprocess, manifest.fit, manifest.resize) == (
        (1, 3, 224, 224),
        "torchvision",
        "crop",
        256,
    )


def test_a_bad_picture_is_reported_and_the_status_says_so(photographs: Path, capsys: pytest.CaptureFixture[str]):
    (photographs / "broken.png").write_text("no picture")
    assert cli.main(["image-to-bin", "broken.png", "a.png", "-o", "x.bin", "--size", "32"]) == 1
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first.startswith("broken.png: ")
    assert "(" in first
    assert second == "a.png: converted"
    assert err == ""
    assert read_bin(photographs / "x.bin")[1].count == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["a.png", "-o", "x.bin", "--size", "0"], "frugal: size = 0: it must be at least 1 pixel"),
        (["a.png", "-o", "x.bin", "--limit", "0"], "frugal: limit = 0: it must be at least 1 image"),
        (["a.png", "-o", "x.bin", "--resize", "9"], "frugal: resize = 9: "),
        (["nowhere.png", "-o", "x.bin"], "frugal: no picture could be converted: nowhere.png: "),
        (["a.png", "-o", "b.png/x.bin"], "frugal: b.png: "),
    ],
    ids=["size", "limit", "resize", "no file", "folder is a file"],
)
def test_what_cannot_be_done_is_one_sentence(
    photographs: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
):
    assert cli.main(["image-to-bin", *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(says)
    assert err.count("\n") == 1
    assert not (photographs / "x.bin").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["image-to-bin", "a.png", "-o", "x", "--fit", "wild"], "--fit: invalid choice: 'wild' (choose from"),
        (["image-to-bin", "a.png", "-o", "x", "--size", "big"], "--size: invalid int value: 'big'"),
        (["image-to-bin", "a.png"], "the following arguments are required: -o/--out"),
        (["image-to-bin", "-o", "x"], "the following arguments are required: IMAGE"),
        ([], "the following arguments are required: COMMAND"),
        (["mend"], "invalid choice: 'mend'"),
    ],
)
def test_a_wrong_option_is_named_in_one_line_after_the_usage(
    capsys: pytest.CaptureFixture[str], options: list[str], says: str
):
    with pytest.raises(SystemExit) as ended:
        cli.main(options)
    assert ended.value.code == 2
    usage, _, problem = capsys.readouterr().err.rstrip().rpartition("\n")
    assert usage.startswith("usage: frugal")
    assert says in problem


def test_the_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"frugal {__version__}\n"


def test_help_lists_every_command_with_what_it_does(capsys: pytest.CaptureFixture[str]):
    (commands,) = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert set(commands.choices) == COMMANDS
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for action in commands._choices_actions:
        assert action.help
        assert f"{action.dest} {action.help}" in text


def test_refresh_prints_what_it_mends(photographs: Path, capsys: pytest.CaptureFixture[str]):
    device = photographs / "results/device/local.json"
    provenance.write_device_record({"device_key": "another machine"}, device)
    assert cli.main(["refresh"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{device.relative_to(photographs)}: this machine is now ")
    assert err == ""
    assert json.loads(device.read_text()) == provenance.device_record()
    assert cli.main(["refresh"]) == 0
    assert capsys.readouterr() == ("", "")


def test_refresh_reads_the_configuration_that_is_named(photographs: Path, capsys: pytest.CaptureFixture[str]):
    (photographs / "mine.yaml").write_text("preset: [quick\n")
    assert cli.main(["refresh"]) == 0
    assert cli.main(["refresh", "--configfile", "mine.yaml"]) == 1
    assert capsys.readouterr().err.startswith("frugal: mine.yaml: this is not YAML: ")


# ---- plan and doctor -------------------------------------------------------------------------------------------------

OWN = (
    "systems: [cusnn]\ndevices: {local: {kind: cpu}}\nrecorded: []\ncusnn: {weights: synthetic}\n"
    "data: {images: photographs}\n"
)


@pytest.fixture
def configured(photographs: Path) -> Path:
    """A working folder whose campaign asks for nothing from any network."""
    (photographs / "config.yaml").write_text(OWN)
    return photographs


def test_the_plan_is_a_table_or_json_and_writes_nothing(configured: Path, capsys: pytest.CaptureFixture[str]):
    before = sorted(configured.rglob("*"))
    assert cli.main(["plan"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("preset smoke: sessions 1, rounds 2, on local (cpu-")
    assert err == ""
    assert cli.main(["plan", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert [system["system"] for system in planned["systems"]] == ["cusnn"]
    assert sorted(configured.rglob("*")) == before


def test_the_plan_is_of_the_configuration_that_is_named(configured: Path, capsys: pytest.CaptureFixture[str]):
    (configured / "mine.yaml").write_text(OWN + "preset: quick\n")
    assert cli.main(["plan", "--configfile", "mine.yaml", "--results", "elsewhere"]) == 0
    assert capsys.readouterr().out.startswith("preset quick: sessions 3,")


def test_without_a_configuration_the_defaults_are_planned(photographs: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plan"]) == 0
    assert capsys.readouterr().out.startswith("preset smoke: ")


@pytest.mark.parametrize("command", ["plan", "doctor"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "frugal: mine.yaml: there is no such file"),
        ("preset: [quick", "frugal: mine.yaml: this is not YAML: "),
        ("preset: quikc", "frugal: config: preset = quikc: "),
    ],
    ids=["missing", "no YAML", "a wrong value"],
)
def test_a_configuration_that_cannot_be_used_is_one_sentence(
    photographs: Path, capsys: pytest.CaptureFixture[str], command: str, text: str | None, says: str
):
    if text is not None:
        (photographs / "mine.yaml").write_text(text)
    assert cli.main([command, "--configfile", "mine.yaml"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(says)
    assert err.count("\n") == 1


def test_the_doctor_says_how_everything_stands(configured: Path, capsys: pytest.CaptureFixture[str]):
    status = cli.main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[:-1]} <= {"PASS", "WARN", "FAIL", "wanted:", "mend:"}
    assert status == any(line.startswith("FAIL") for line in lines)
    assert cli.main(["doctor", "--json"]) == status
    checks = json.loads(capsys.readouterr().out)
    assert {"python", "free disk", "timer", "preset", "GPU"} <= {check["name"] for check in checks}
    assert all((check["mend"] is None) == (check["level"] == "PASS") for check in checks)


def test_the_doctors_status_is_1_where_something_fails(configured: Path, capsys: pytest.CaptureFixture[str]):
    (configured / "config.yaml").write_text(OWN + "preset: headline\n")
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  preset" in out
    assert "mend: snakemake --cores all --config preset=quick -- figures" in out
