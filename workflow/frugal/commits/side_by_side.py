"""The whole comparison: which commits, which campaign, the sessions, the verdicts."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from frugal import config
from frugal.clock import Clock, SystemClock
from frugal.commits import judge, repository, sessions
from frugal.commits.judge import Comparison
from frugal.commits.repository import Commit
from frugal.commits.sessions import Side
from frugal.errors import FrugalError
from frugal.records import canonical_json

_PATHS = (("data", "images"), ("cusnn", "weights"), (None, "mirror"))


def compare(
    base: str,
    head: str,
    *,
    preset: str = "quick",
    count: int | None = None,
    experiment: str = "cusnn/layers",
    configfile: Path | None = None,
    overrides: Sequence[str] = (),
    results: Path = Path("results"),
    cores: str = "all",
    keep: bool = False,
    clock: Clock | None = None,
    say: Callable[[str], None] = print,
) -> Comparison:
    """Measure two commits of the working folder's repository and judge the second against the first.

    base, head: what git calls a commit. `count`: sessions of each (None: the preset's, or the configuration's).
    `experiment`: one of TIMED. `configfile` as `frugal.config.read` takes it, and `overrides` of its keys such as
    `cusnn.networks=[resnet50]` (YAML behind the sign); keys at their default are left to each commit. Everything is
    kept below `results`/compare, where the same call goes on; the worktrees are removed unless `keep`.

    FrugalError, one sentence, for a name that is no commit, a commit without the rule that measures, a configuration
    that one of them refuses, a workflow that fails, another call at work in the same folder, and no case in common.
    """
    here = repository.top(Path())
    commits = repository.resolve(here, base), repository.resolve(here, head)
    rule = _rule(experiment)
    for commit in commits:
        if not repository.has_rule(here, commit, rule):
            raise FrugalError(f"{commit} has no rule {rule}, which measures {experiment}: choose a later commit")
    if repository.is_dirty(here):
        say("note: files here differ from their commit; what is measured is the commits as they were made")
    cfg = _campaign(configfile, overrides, preset, count, experiment)
    settings = cfg.model_dump(mode="json", exclude_defaults=True) | {"preset": cfg.preset}
    count = config.sessions(cfg)
    folder = _folder(results, commits, settings, experiment)
    sides = tuple(
        Side(role, commit, folder / "trees" / role, folder / role)
        for role, commit in zip(("base", "head"), commits, strict=True)
    )
    files = [[side.session(preset, experiment, k) for k in range(count)] for side in sides]
    with _alone(folder):
        if not all(path.exists() for of_side in files for path in of_side):
            with (
                repository.worktree(here, commits[0], sides[0].tree, keep),
                repository.worktree(here, commits[1], sides[1].tree, keep),
            ):
                sessions.measure(
                    sides, settings, experiment, count,
                    cores=cores, cache=folder.parent / "cache", clock=clock or SystemClock(), say=say,
                )  # fmt: skip
    return judge.judge(commits, *files, experiment=experiment, timing=cfg.timing, folder=folder)


def _rule(experiment: str) -> str:
    if experiment not in sessions.TIMED:
        raise FrugalError(f"experiment {experiment} is not one that can be compared: use {', '.join(sessions.TIMED)}")
    return sessions.TIMED[experiment]


def _campaign(
    configfile: Path | None, overrides: Sequence[str], preset: str, count: int | None, experiment: str
) -> config.Config:
    """The configuration of both commits: no figures, no other systems, one machine, and paths that hold elsewhere."""
    given = config.read(configfile).model_dump(mode="json", exclude_defaults=True)
    given = {key: value for key, value in given.items() if key not in ("recorded", "container", "pathvars")}
    for text in overrides:
        _override(given, text)
    given |= {"preset": preset, "systems": [experiment.split("/")[0]], "recorded": []}
    if "devices" in given:
        given["devices"] = {"local": given["devices"].get("local", {})}
    if count is not None:
        given["timing"] = given.get("timing", {}) | {"sessions": count}
    downloads = Path("data") / "downloads"
    mirror = os.environ.get("FRUGAL_MIRROR") or (str(downloads) if downloads.is_dir() else None)
    if mirror:
        given.setdefault("mirror", mirror)
    for section, key in _PATHS:
        values = given if section is None else given.get(section, {})
        if isinstance(values.get(key), str) and Path(values[key]).exists():
            values[key] = str(Path(values[key]).resolve())
    return config.load(given)


def _override(given: dict, text: str) -> None:
    """Set one key, `section.key=value`."""
    path, sign, value = text.partition("=")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        sign = ""
    if not sign or not path:
        raise FrugalError(f"--config {text}: write KEY=VALUE, for example cusnn.networks=[resnet50]")
    *sections, key = path.split(".")
    for section in sections:
        given = given.setdefault(section, {})
        if not isinstance(given, dict):
            raise FrugalError(f"--config {text}: {section} is no section of the configuration")
    given[key] = parsed


def _folder(results: Path, commits: tuple[Commit, Commit], settings: dict, experiment: str) -> Path:
    """One folder for each pair of commits and campaign; more sessions of the same campaign are found there again."""
    timing = {key: value for key, value in settings.get("timing", {}).items() if key != "sessions"}
    named = canonical_json([settings | {"timing": timing}, experiment])
    digest = hashlib.sha256(named.encode()).hexdigest()[:6]
    return (results / "compare" / f"{commits[0].short}-{commits[1].short}-{digest}").resolve()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else measures into this folder meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FrugalError(f"another frugal compare measures into {folder}: wait for it, or stop it") from None
        yield
