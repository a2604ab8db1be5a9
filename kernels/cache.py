"""Built kernels in the user's cache folder: for scripts, which have no rule that builds before anything runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

from kernels.build import BuildError, KernelSource, build, read_report, tools

log = logging.getLogger(__name__)


def built(source: KernelSource, capability: str) -> Path:
    """Build a kernel for a compute capability such as "9.0", or find it built: its path without suffix.

    It lies under a key of its source and the installed tools. Takes seconds the first time. Raises BuildError.
    """
    # Another compiler gives another kernel.
    key = hashlib.sha256(json.dumps([source.sha256, tools()]).encode()).hexdigest()[:16]
    prefix = folder() / key / f"{source.variant}.sm_{capability.replace('.', '')}"
    if not _whole(prefix, source):
        log.info("building kernel %s for compute capability %s", source.variant, capability)
        build(source, capability, prefix)
    return prefix


def folder() -> Path:
    """`frugal/kernels` in $XDG_CACHE_HOME, else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "frugal" / "kernels"


def _whole(prefix: Path, source: KernelSource) -> bool:
    """Whether a build of this very source lies there; a report is written last, so it stands for all of it."""
    try:
        return read_report(prefix).source_sha256 == source.sha256
    except BuildError:
        return False
