"""Mend what was true of another machine, of another network connection, or of a run that was killed.

The workflow itself never looks at the machine while it plans: it asks once, in a job, and keeps the answer in a file.
`make figures` calls this first, so that a copied folder, a new GPU or a connection that came back is noticed. An
outdated answer is replaced and not removed: while its results exist, Snakemake does not ask for a missing answer again.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import psutil

from frugal import config, provenance
from frugal.data import sources
from frugal.errors import FrugalError


def stale(configfile: Path, results: Path, data: Path, folder: Path = Path()) -> list[str]:
    """Replace outdated answers and remove the lock of a run that was killed; return one line for each.

    Nothing is touched that is still true. Raises FrugalError while another run works in `folder`.
    """
    cfg = config.read(configfile) if configfile.exists() else config.load({})
    return _lock(folder) + _devices(cfg, results) + _sources(cfg, data / "availability.json")


def _lock(folder: Path) -> list[str]:
    """Snakemake keeps its lock when it is killed, and then refuses to run until it is told that nobody else does."""
    locks = [path for path in (folder / ".snakemake" / "locks").glob("*") if path.is_file()]
    if not locks:
        return []
    if running := _snakemake_in(folder.resolve()):
        raise FrugalError(f"another run (process {running}) works in this folder: wait for it, or stop it")
    for path in locks:
        path.unlink()
    return [f"{folder / '.snakemake' / 'locks'}: the lock of a killed run is removed; it goes on where it was"]


def _snakemake_in(folder: Path) -> int | None:
    """The process number of a Snakemake whose working folder is `folder`, if one lives."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            # the whole word: who reads .snakemake/log here, or the shell that also calls us, is no run
            if any(Path(part).name == "snakemake" for part in process.cmdline()) and Path(process.cwd()) == folder:
                return process.pid
    return None


def _devices(cfg: config.Config, results: Path) -> list[str]:
    if set(cfg.devices) != {"local"}:
        return []  # the labels name other machines than this one
    path = results / "device" / "local.json"
    if not path.exists():
        return []
    now = provenance.device_record(kind=cfg.devices["local"].kind)
    with contextlib.suppress(ValueError):  # a damaged file says nothing that is true
        if json.loads(path.read_text()) == now:
            return []
    provenance.write_device_record(now, path)
    return [f"{path}: this machine is now {now['device_key']}; it is measured anew"]


def _sources(cfg: config.Config, path: Path) -> list[str]:
    if not path.exists():
        return []
    before = sources.read_probe(path)
    listed = sources.load()  # a name may have left data/sources.yaml since
    missing = [name for name, there in before.items() if there.where == "none" and name in listed]
    found = {name: there for name, there in sources.probe(missing, cfg.mirror).items() if there.where != "none"}
    if not found:
        return []
    sources.write_probe(path, before | found)
    return [f"{path}: {', '.join(found)} can be had now; what stood in is replaced"]
