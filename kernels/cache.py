"""Built kernels in the user's cache folder: for scripts, which have no rule that builds before anything runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

from kernels.build import BuildError, KernelSource, build, read_report, tools

log = logging.getLogger(__name__)


def built(source: KernelSource, capability: str, into: Path | None = None) -> Path:
    """Build a kernel for a compute capability such as "9.0", or find it built: its path without suffix.

    into: the folder that it lies in; None: one in the user's cache, under a key of its source and the installed tools.
    Takes seconds the first time. Raises BuildError.
    """
    prefix = (into or folder() / _key(source.sha256)) / file_name(source.variant, capability)
    if not is_built(prefix, source.sha256):
        log.info("building kernel %s for compute capability %s", source.variant, capability)
        build(source, capability, prefix)
    return prefix


def file_name(variant: str, capability: str) -> str:
    """A built kernel's file name without suffix, as the rule `build_kernel` has it."""
    return f"{variant}.sm_{capability.replace('.', '')}"


def folder() -> Path:
    """`frugal/kernels` in $XDG_CACHE_HOME, else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "frugal" / "kernels"


def is_built(prefix: Path, source_sha256: str) -> bool:
    """Whether a build of this very source lies there; a report is written last, so it stands for all of it."""
    try:
        return read_report(prefix).source_sha256 == source_sha256
    except BuildError:
        return False


def _key(source_sha256: str) -> str:
    """A folder for what one source gives with the installed tools: another compiler gets another."""
    return hashlib.sha256(json.dumps([source_sha256, tools()]).encode()).hexdigest()[:16]
