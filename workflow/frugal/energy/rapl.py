"""The energy counters of a CPU: RAPL through Linux' powercap tree (https://docs.kernel.org/power/powercap/powercap.html).

Each package has one; the domains inside it (cores, DRAM on some) are parts of it and not added. Since 2020 most systems
let only root read them, against a side channel (CVE-2020-8694).
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/class/powercap")


class Packages:
    """The readable package counters. Each starts again from 0 after `max_energy_range_uj`, after minutes to hours."""

    def __init__(self, root: Path = ROOT) -> None:
        found = [folder for folder in sorted(root.glob("*:[0-9]*")) if folder.name.count(":") == 1]
        self._folders = [folder for folder in found if _number(folder / "energy_uj") is not None and _package(folder)]
        self._last: list[int] = []
        self._wraps: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._folders)

    def energy_j(self) -> float | None:
        """J of all packages since the first call plus an arbitrary constant; None when a counter has become silent."""
        now = [_number(folder / "energy_uj") for folder in self._folders]
        values = [value for value in now if value is not None]
        if not values or len(values) < len(now):
            return None
        if not self._last:
            self._wraps = [0] * len(values)
        else:
            for i, (value, last) in enumerate(zip(values, self._last, strict=True)):
                if value < last:
                    self._wraps[i] += _number(self._folders[i] / "max_energy_range_uj") or 0
        self._last = values
        return sum(values + self._wraps) * 1e-6


def _package(folder: Path) -> bool:
    """Not `psys`, which is the whole board and holds the packages."""
    try:
        return (folder / "name").read_text().strip().startswith("package")
    except OSError:
        return False


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
