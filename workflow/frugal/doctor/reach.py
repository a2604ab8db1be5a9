"""Whether the published files that a campaign wants can be had: from a mirror, the network, or an earlier download."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from frugal import config
from frugal.config import Config
from frugal.data import choose
from frugal.data import sources as data_sources
from frugal.data.sources import Availability, Source

from .check import FAIL, PASS, WARN, Check

Probe = Callable[..., Mapping[str, Availability]]
_STAND_INS = {
    "images": "photographs of the Python packages",
    "weights": "random weights",
    "published log": "logs of this machine's own",
}


def groups(cfg: Config, listed: Mapping[str, Source]) -> dict[str, list[str]]:
    """{what it is for: alternatives, best first}; nothing for what the user brings."""
    networks = config.networks(cfg)
    found = {"images": choose.image_files(listed)} if networks and not cfg.data.images else {}
    if cfg.cusnn.weights == "auto":
        for network in networks:
            found[f"weights of {network}"] = choose.weight_files(listed, network, cfg.cusnn.definition)
    return found | {f"published log of {program}": [name] for program, name in logs(cfg, listed).items()}


def logs(cfg: Config, listed: Mapping[str, Source]) -> dict[str, str]:
    """{program: file} of the published logs that a campaign simulates where they can be had."""
    wanted = "dtr" in cfg.systems and cfg.dtr.logs == "auto" and {"simulate", "static"} & set(cfg.dtr.experiments)
    return choose.log_files(listed) if wanted else {}


def reach(cfg: Config, data: Path, probe: Probe = data_sources.probe) -> list[Check]:
    """One line for each thing that is wanted: where it can be had, or what stands in for it."""
    wanted = groups(cfg, data_sources.load())
    there = {name for names in wanted.values() for name in names if (data / "downloads" / name).is_file()}
    asked = sorted({name for names in wanted.values() if not there & set(names) for name in names})
    answers = probe(asked, cfg.mirror) if asked else {}
    return [_line(what, names, there, answers, cfg.offline) for what, names in wanted.items()]


def _line(what: str, names: Sequence[str], there: set[str], answers: Mapping[str, Availability], offline: str) -> Check:
    wanted = f"{names[0]}, from a mirror or the network" if names else "a published file"
    if first := next((name for name in names if name in there), None):
        return Check(what, PASS, f"{first}, downloaded before", wanted)
    if first := next((name for name in names if name in answers and answers[name].where != "none"), None):
        kind = {"url": "network", "mirror_url": "mirror", "mirror_folder": "mirror"}[answers[first].where]
        return Check(what, PASS, f"{first}, from the {kind}", wanted)
    stand_in = _STAND_INS[what.split(" of ")[0]]
    command = "snakemake --cores all --config mirror=MIRROR -- figures (MIRROR: a folder or URL that holds the file)"
    if offline == "never":
        return Check(what, FAIL, "not to be had, and `offline: never` forbids a substitute", wanted, command)
    return Check(what, WARN, f"not to be had: {stand_in} stand in, and figures say so", wanted, command)
