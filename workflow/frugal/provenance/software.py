"""What runs: versions of packages, the state of the repository, the operating system. torch is imported on demand."""

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
# Where the code lives. Edited settings are in the configuration, which is recorded by itself.
_CODE = ("Snakefile", "workflow", "kernels", "envs", "data/sources.yaml")


def versions() -> dict[str, str | None]:
    """The columns of `runs` on Python and its packages. An optional package that is absent is None."""
    import torch

    cudnn = torch.backends.cudnn.version()
    return {
        "python": platform.python_version(),
        "snakemake": installed("snakemake"),
        "torch": str(torch.__version__),
        "torch_git": torch.version.git_version,
        "torch_cuda": torch.version.cuda,
        "cudnn": None if cudnn is None else str(cudnn),
        "numba": installed("numba"),
        "numba_cuda": installed("numba-cuda"),
        "numpy": installed("numpy"),
        "pyarrow": installed("pyarrow"),
    }


def installed(package: str) -> str | None:
    """The version of an installed package, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def lock_hash(repository: Path = REPOSITORY) -> str:
    """SHA-256 over envs/constraints.txt (what was tested) and the sorted `name==version` of what is installed."""
    constraints = repository / "envs" / "constraints.txt"
    pinned = constraints.read_bytes() if constraints.is_file() else b""
    frozen = sorted({f"{dist.name.lower().replace('_', '-')}=={dist.version}" for dist in metadata.distributions()})
    return hashlib.sha256(pinned + "\n".join(frozen).encode()).hexdigest()


def git_state(repository: Path = REPOSITORY) -> tuple[str | None, bool | None]:
    """(commit, whether tracked code differs from it); (None, None) where the package is not in its own repository.

    A package that was installed into some other project's folder must not take that project's commit for its own, so
    the code has to be tracked. A copy without its repository (a container, another machine) is told its commit by the
    environment variable FRUGAL_GIT_SHA, with `-dirty` behind it where the copy differs.
    """
    if _git(repository, "ls-files", "--error-unmatch", "workflow/frugal/__init__.py") is None:
        told = os.environ.get("FRUGAL_GIT_SHA")
        return (told.removesuffix("-dirty"), told.endswith("-dirty")) if told else (None, None)
    # A file that is not tracked counts only through a tracked one that uses it, which then differs itself.
    changes = _git(repository, "status", "--porcelain", "--untracked-files=no", "--", *_CODE)
    return _git(repository, "rev-parse", "HEAD"), None if changes is None else bool(changes)


def _git(repository: Path, *arguments: str) -> str | None:
    # No optional locks: a campaign must not get in the way of the user's own git commands.
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(repository), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def system(root: Path = Path("/")) -> dict[str, str | None]:
    """The columns of `runs` on the operating system; no host name."""
    libc = " ".join(platform.libc_ver()).strip()
    return {
        "os": _os_name(),
        "kernel": platform.release(),
        "libc": libc or "unknown",
        "virtualization": virtualization(root),
    }


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.mac_ver()[0]}".strip()


def virtualization(root: Path = Path("/")) -> str | None:
    """`container`, `vm` or both, with the maker of the virtual machine where it says so; None on bare metal."""
    kinds = [name for name in (".dockerenv", "run/.containerenv", ".singularity.d") if (root / name).exists()]
    found = ["container"] if kinds else []
    if " hypervisor" in read(root / "proc/cpuinfo"):
        maker = read(root / "sys/class/dmi/id/sys_vendor")
        found.append(f"vm ({maker})" if maker else "vm")
    return ", ".join(found) or None


def read(path: Path) -> str:
    """A small text file, stripped; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
