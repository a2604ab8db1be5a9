"""Whether the system has ended processes for want of memory: a counter that outlives them."""

from __future__ import annotations

import re
from pathlib import Path

from frugal.doctor.system import control_groups


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes of this one's control group the kernel has killed for want of memory; None where it says not.

    Version 2 of control groups counts in memory.events, version 1 in memory.oom_control; a system without either, or a
    process in the root group, has the machine's own counter in /proc/vmstat. `root` is the file system's root.
    """
    groups = control_groups(root, "memory")
    counters = (folder / name for folder in groups for name in ("memory.events", "memory.oom_control"))
    for path in (*counters, root / "proc/vmstat"):
        try:
            found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return int(found[1])
    return None
