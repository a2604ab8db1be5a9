"""Whether the system has ended processes for want of memory: a counter that outlives them."""

from __future__ import annotations

import re
from pathlib import Path


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes of this one's control group the kernel has killed for want of memory; None where it says not.

    Version 2 of control groups counts in memory.events, version 1 in memory.oom_control; a system without either, or a
    process in the root group, has the machine's own counter in /proc/vmstat. `root` is the file system's root.
    """
    for path in _counters(root):
        try:
            found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return int(found[1])
    return None


def _counters(root: Path) -> list[Path]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    mounted, found = root / "sys/fs/cgroup", []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            folder, name = mounted, "memory.events"
        elif "memory" in controllers.split(","):
            folder, name = mounted / controllers, "memory.oom_control"
        else:
            continue
        # inside a container the path is the host's, and the group is mounted at the top
        found += [folder / group.lstrip("/") / name, folder / name]
    return [*found, root / "proc/vmstat"]
