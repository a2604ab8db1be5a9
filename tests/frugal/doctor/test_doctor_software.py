"""Python, packages, NumPy, Snakemake, profile: each level of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from frugal.doctor import software
from frugal.errors import FrugalError

PROJECT = """[project]
dependencies = ["torch>=2.11,<2.14", "numpy>=2.1,<2.5  # why", "PyYAML>=6", "snakemake>=9.25,<10"]
"""
TESTED = "# pins\ntorch==2.13.0\nnumpy==2.4.6\npyyaml==6.0.3\nsnakemake==9.27.1\ntriton==3.5.0\n"
AS_TESTED = {"torch": "2.13.0+cpu", "numpy": "2.4.6", "pyyaml": "6.0.3.0", "snakemake": "9.27.1"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "envs").mkdir()
    (tmp_path / "pyproject.toml").write_text(PROJECT.replace("  # why", ""))
    (tmp_path / "envs" / "constraints.txt").write_text(TESTED)
    return tmp_path


@pytest.mark.parametrize(
    ("version", "level"), [((3, 11), "PASS"), ((3, 12), "PASS"), ((3, 10), "FAIL"), ((3, 13), "FAIL")]
)
def test_python(version: tuple[int, int], level: str):
    check = software.python(version)
    assert (check.level, check.found) == (level, f"3.{version[1]}")
    assert check.mend == ("make setup PYTHON=python3.11" if level == "FAIL" else None)


@pytest.mark.parametrize(
    ("version", "level"), [("2.4.6", "PASS"), ("2.5.0", "FAIL"), ("2.5.0rc1", "PASS"), ("3.0", "FAIL"), (None, "FAIL")]
)
def test_numpy(version: str | None, level: str):
    assert software.numpy(version).level == level


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        ({}, "PASS", "4 as tested"),
        ({"torch": "2.11.0+cu130"}, "WARN", "torch 2.11.0+cu130 (tested: 2.13.0)"),
        ({"triton": "3.4.0"}, "WARN", "triton 3.4.0 (tested: 3.5.0)"),
        ({"torch": "2.14.0"}, "FAIL", "torch 2.14.0 (torch<2.14,>=2.11)"),
        ({"numpy": None}, "FAIL", "numpy is not installed"),
        ({"torch": "2.11.0", "numpy": None}, "FAIL", "numpy is not installed"),
    ],
)
def test_pins(checkout: Path, changes: dict, level: str, says: str):
    versions = AS_TESTED | changes
    check = software.pins(checkout, versions.get)
    assert (check.level, check.found) == (level, says)
    assert check.mend == (None if level == "PASS" else "make setup")


def test_of_a_conda_environment_only_what_is_there_is_looked_at(checkout: Path):
    assert software.pins(checkout, {"numpy": "2.4.6"}.get, whole=False).level == "PASS"
    assert software.pins(checkout, {"numpy": "2.6"}.get, whole=False).level == "FAIL"


def test_many_other_versions_are_counted(checkout: Path):
    lines = "".join(f"package{i}==1.0\n" for i in range(9))
    (checkout / "envs" / "constraints.txt").write_text(lines)
    found = software.pins(checkout, lambda name: "2.0", whole=False)
    assert found.level == "FAIL"  # numpy 2.0 is below its range
    (checkout / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    found = software.pins(checkout, lambda name: "2.0")
    assert (found.level, found.found.count("tested"), found.found.endswith("and 4 more")) == ("WARN", 5, True)


def test_without_a_checkout_nothing_is_known(tmp_path: Path):
    check = software.pins(tmp_path)
    assert check.level == "WARN"
    assert "no checkout" in check.found


def test_a_damaged_project_file_is_one_sentence(checkout: Path):
    (checkout / "pyproject.toml").write_text("[project")
    with pytest.raises(FrugalError, match="cannot be read"):
        software.pins(checkout)


def test_this_checkouts_own_pins_are_read():
    check = software.pins()
    assert "checkout" not in check.found
    assert check.found


@pytest.mark.parametrize(
    ("version", "level"), [("9.27.1", "PASS"), ("9.24.0", "FAIL"), ("10.0", "FAIL"), (None, "FAIL")]
)
def test_snakemake(checkout: Path, version: str | None, level: str):
    assert software.snakemake(version, checkout).level == level


def test_the_profile_is_looked_for_where_snakemake_does(tmp_path: Path):
    folder, repository = tmp_path / "campaign", tmp_path / "frugal"
    assert software.profile(folder, {}, repository).level == "WARN"
    for place in (folder, repository, repository / "workflow"):
        path = place / "profiles/default/profile.v9+.yaml"
        path.parent.mkdir(parents=True)
        path.touch()
        check = software.profile(folder, {}, repository)
        assert (check.level, check.found) == ("PASS", "default")
        path.unlink()
    check = software.profile(folder, {"SNAKEMAKE_PROFILE": "slurm"}, repository)
    assert (check.level, check.mend) == ("WARN", "unset SNAKEMAKE_PROFILE")


def test_torchs_cuda_is_read_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    assert software.torch_cuda() == torch.version.cuda
    for text, version in (
        ("cuda: Optional[str] = '13.0'\n", "13.0"),
        ("cuda = '12.8'\n", "12.8"),
        ("cuda = None\n", None),
    ):
        (tmp_path / "version.py").write_text(f"__version__ = '2.11.0'\n{text}hip = '6.0'\n")
        spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
        monkeypatch.setattr(software.importlib.util, "find_spec", lambda name, spec=spec: spec)
        assert software.torch_cuda() == version
    monkeypatch.setattr(software.importlib.util, "find_spec", lambda name: None)
    assert software.torch_cuda() is None


def test_a_conda_environment_is_known_by_its_folder(tmp_path: Path):
    assert not software.is_conda(tmp_path)
    (tmp_path / "conda-meta").mkdir()
    assert software.is_conda(tmp_path)
