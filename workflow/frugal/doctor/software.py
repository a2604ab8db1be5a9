"""What is installed, beside what is tested (envs/constraints.txt) and what is allowed (pyproject.toml)."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from frugal.errors import FrugalError
from frugal.provenance.software import REPOSITORY, installed, read

from .check import WARN, Check, graded

PYTHONS = ((3, 11), (3, 12))
NAMED = 5  # packages of a kind in one line
Versions = Callable[[str], str | None]


def python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    """The interpreter."""
    return graded(
        "python",
        fail=version not in PYTHONS,
        found="{}.{}".format(*version),
        wanted=" or ".join("{}.{}".format(*allowed) for allowed in PYTHONS),
        mend="make setup PYTHON=python3.11",
    )


def numpy(version: str | None) -> Check:
    """NumPy 2.5 removed a name that numba-cuda 0.30 uses, and breaks the build of kernels, whatever pip allowed."""
    return graded(
        "numpy",
        fail=version is None or Version(version) >= Version("2.5"),
        found=version or "not installed",
        wanted="below 2.5: numba-cuda uses numpy.row_stack, which 2.5 removed",
        mend="pip install 'numpy<2.5'",
    )


def pins(repository: Path = REPOSITORY, version_of: Versions = installed, whole: bool = True) -> Check:
    """Installed versions beside the tested ones: another one inside pyproject.toml's range is a WARN, outside a FAIL.

    `whole`: every package that frugal asks for should be here. Of a conda environment only what is there is looked at:
    it belongs to some of the rules.
    """
    wanted = "the versions of envs/constraints.txt"
    try:
        tested, ranges = _tested(repository), _ranges(repository)
    except OSError:
        return Check(
            "packages", WARN, "not known: this is no checkout of frugal", wanted, "run in a checkout of frugal"
        )
    versions = {name: version_of(name) for name in {*tested, *ranges}}
    absent = [name for name in sorted(ranges) if versions[name] is None] if whole else []
    outside = [
        f"{name} {versions[name]} ({ranges[name]})"
        for name in sorted(ranges)
        if versions[name] is not None and not _allowed(versions[name], ranges[name])
    ]
    other = [
        f"{name} {versions[name]} (tested: {tested[name]})"
        for name in sorted(tested)
        if versions[name] is not None and not _same(versions[name], tested[name])
    ]
    found = [*(f"{name} is not installed" for name in absent), *outside] or other
    return graded(
        "packages",
        fail=bool(absent or outside),
        warn=bool(other),
        found=_some(found) or f"{sum(version is not None for version in versions.values())} as tested",
        wanted=wanted,
        mend="make setup",
    )


def snakemake(version: str | None, repository: Path = REPOSITORY) -> Check:
    """The workflow engine itself; a script of the library does without."""
    allowed = _ranges(repository).get("snakemake") if (repository / "pyproject.toml").is_file() else None
    return graded(
        "snakemake",
        fail=version is None or (allowed is not None and not _allowed(version, allowed)),
        found=version or "not installed",
        wanted=str(allowed or "any version"),
        mend="make setup",
    )


def profile(folder: Path, environ: Mapping[str, str], repository: Path = REPOSITORY) -> Check:
    """Whether a plain `snakemake` finds the workflow's options, and nothing overrides them."""
    places = (folder, repository, repository / "workflow")  # the working folder, and those of the two Snakefiles
    other = environ.get("SNAKEMAKE_PROFILE")
    there = any(list((place / "profiles/default").glob("*.yaml")) for place in places)
    return graded(
        "profile",
        warn=bool(other) or not there,
        found=f"SNAKEMAKE_PROFILE is {other}" if other else "default" if there else "none",
        wanted="profiles/default, whose options decide what runs again",
        mend="unset SNAKEMAKE_PROFILE" if other else "call snakemake in a checkout of frugal, or with its --snakefile",
    )


def torch_cuda() -> str | None:
    """The CUDA version of the installed torch ("13.0"); None without CUDA. It is not imported: that takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    match = re.search(r"^cuda\b.*?= *'([\d.]+)'", read(Path(spec.origin).with_name("version.py")), re.MULTILINE)
    return match[1] if match else None


def is_conda(prefix: Path = Path(sys.prefix)) -> bool:
    """Whether this interpreter is a conda environment's."""
    return (prefix / "conda-meta").is_dir()


def _tested(repository: Path) -> dict[str, str]:
    lines = (repository / "envs" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name.strip()): version.strip() for name, version in pairs}


def _ranges(repository: Path) -> dict[str, Requirement]:
    try:
        project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (tomllib.TOMLDecodeError, KeyError):
        raise FrugalError(f"{repository / 'pyproject.toml'} cannot be read: restore it with git checkout") from None
    return {canonicalize_name(wanted.name): wanted for wanted in map(Requirement, project["dependencies"])}


def _allowed(version: str, wanted: Requirement) -> bool:
    try:
        return wanted.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return False


def _same(version: str, tested: str) -> bool:
    """Without the part that names a build, and without trailing zeros: 2.13.0+cpu, 2.13.0 and 2.13 are one version."""
    return Version(version.split("+")[0]) == Version(tested)


def _some(found: list[str]) -> str:
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more
