"""Forget what was true of another machine or another network connection.

The workflow itself never looks at the machine while it plans: it asks once, in a job, and keeps the answer in a file.
`make figures` calls this first, so that a copied folder, a new GPU or a connection that came back is noticed.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from frugal import config, provenance
from frugal.data import sources
from frugal.errors import FrugalError


def stale(configfile: Path, results: Path, data: Path) -> list[str]:
    """Remove outdated answers and return one line for each; nothing is removed that is still true."""
    try:
        given = yaml.safe_load(configfile.read_text()) if configfile.exists() else {}
    except yaml.YAMLError as problem:
        raise FrugalError(f"{configfile}: this is not YAML: {' '.join(str(problem).split())}") from None
    cfg = config.load(given or {})
    return _devices(cfg, results) + _sources(cfg, data / "availability.json")


def _devices(cfg: config.Config, results: Path) -> list[str]:
    if set(cfg.devices) != {"local"}:
        return []  # the labels name other machines than this one
    path = results / "device" / "local.json"
    if not path.exists():
        return []
    now = provenance.device_record(kind=cfg.devices["local"].kind)
    if json.loads(path.read_text()) == now:
        return []
    path.unlink()
    return [f"{path}: this machine is now {now['device_key']}; it is looked at again and measured anew"]


def _sources(cfg: config.Config, path: Path) -> list[str]:
    if not path.exists():
        return []
    before = sources.read_probe(path)
    missing = [name for name, there in before.items() if there.where == "none"]
    found = [name for name, there in sources.probe(missing, cfg.mirror).items() if there.where != "none"]
    if not found:
        return []
    path.unlink()
    return [f"{path}: {', '.join(found)} can be had now; what stood in is replaced"]
