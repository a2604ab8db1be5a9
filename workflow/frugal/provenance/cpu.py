"""What the CPU is. Everything is read from /proc, /sys and psutil, and nothing is set."""

import platform
import re
from pathlib import Path

from .software import read

_NOISE = re.compile(r"\((?:R|TM)\)|\bCPU\b|\bProcessor\b|\b\d+-Core\b|@.*$", re.IGNORECASE)


def cpu_record(root: Path = Path("/")) -> dict:
    """The columns of `runs` on the CPU and the memory (bytes); what this system does not tell is None."""
    import psutil

    logical = psutil.cpu_count() or 1
    return {
        "cpu_model": cpu_model(root),
        "cpu_cores": logical,
        "cpu_affinity_n": affinity_count(logical),
        "cpu_governor": read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "cpu_turbo": turbo(root),
        "ram_bytes": psutil.virtual_memory().total,
        "llc_bytes": llc_bytes(root),
    }


def cpu_model(root: Path = Path("/")) -> str:
    """The marketing name without trademarks and clock: "Intel Xeon Platinum 8480+"."""
    match = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", read(root / "proc/cpuinfo"), re.MULTILINE)
    name = match.group(1) if match else platform.processor() or platform.machine()
    return " ".join(_NOISE.sub(" ", name).split()) or platform.machine()


def affinity_count(logical: int) -> int:
    """How many logical CPUs this process may run on."""
    import psutil

    process = psutil.Process()
    # macOS has no affinity.
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else logical


def turbo(root: Path = Path("/")) -> bool | None:
    """Whether the CPU may exceed its nominal clock."""
    cpu = root / "sys/devices/system/cpu"
    if no_turbo := read(cpu / "intel_pstate/no_turbo"):
        return no_turbo == "0"
    boost = read(cpu / "cpufreq/boost")
    return boost == "1" if boost else None


def llc_bytes(root: Path = Path("/")) -> int | None:
    """The size of the last-level cache in bytes: the sum of its instances, each shared by some of the cores."""
    instances: dict[int, dict[str, int]] = {}
    for cache in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        size = re.fullmatch(r"(\d+)([KM])", read(cache / "size"))
        level = read(cache / "level")
        if size and level.isdigit() and read(cache / "type") != "Instruction":
            shared = read(cache / "shared_cpu_list")
            instances.setdefault(int(level), {})[shared] = int(size[1]) * (1024 if size[2] == "K" else 1024**2)
    return sum(instances[max(instances)].values()) if instances else None
