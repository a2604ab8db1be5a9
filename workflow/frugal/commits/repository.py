"""What is asked of git: which commit a name means, and its files in a folder of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from frugal.errors import FrugalError


@dataclass(frozen=True)
class Commit:
    """`name` as it was typed, `sha` in full, `time` in seconds since 1970."""

    name: str
    sha: str
    time: int

    @property
    def short(self) -> str:
        return self.sha[:7]

    def __str__(self) -> str:
        return self.short if self.sha.startswith(self.name) else f"{self.name} ({self.short})"


def top(folder: Path) -> Path:
    """The top of the repository that a folder is in; FrugalError where there is none, or no git."""
    done = _git(folder, "rev-parse", "--show-toplevel")
    if done.returncode:
        raise FrugalError(f"{folder.resolve()} is in no git repository: call frugal compare in a clone of the project")
    return Path(done.stdout.strip())


def resolve(repository: Path, name: str) -> Commit:
    """The commit that a branch, tag, hash or expression such as HEAD~1 means; FrugalError where it means none."""
    done = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", name + "^{commit}")
    if done.returncode:
        raise FrugalError(
            f"{name} is no commit of this repository: name a branch, a tag or a hash that it has, such as HEAD~1"
        )
    sha = done.stdout.strip()
    return Commit(name, sha, int(_asked(repository, "show", "--no-patch", "--format=%ct", sha)))


def is_dirty(repository: Path) -> bool:
    """Whether tracked files differ from the commit that is checked out."""
    return bool(_asked(repository, "status", "--porcelain", "--untracked-files=no"))


def has_rule(repository: Path, commit: Commit, rule: str) -> bool:
    """Whether a commit's workflow has a rule of this name."""
    pattern = f"^(rule|checkpoint) {rule}:"
    return _git(repository, "grep", "--quiet", "-E", pattern, commit.sha, "--", "workflow/rules").returncode == 0


@contextmanager
def worktree(repository: Path, commit: Commit, path: Path, keep: bool = False) -> Iterator[Path]:
    """A commit's files in `path`, gone afterwards unless `keep`. What a killed call left there is replaced.

    The files get the commit's own date: a worktree that is made anew is then no newer than the results of the last one.
    """
    _remove(repository, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _asked(repository, "worktree", "add", "--detach", "--quiet", str(path), commit.sha)
    try:
        for folder, _, files in os.walk(path):
            for name in files:
                os.utime(os.path.join(folder, name), (commit.time, commit.time), follow_symlinks=False)
        yield path
    finally:
        if not keep:
            _remove(repository, path)


def _remove(repository: Path, path: Path) -> None:
    if path.exists():
        _git(repository, "worktree", "remove", "--force", "--force", str(path))
        shutil.rmtree(path, ignore_errors=True)
    _git(repository, "worktree", "prune")


def _asked(repository: Path, *arguments: str) -> str:
    done = _git(repository, *arguments)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise FrugalError(f"git {arguments[0]} failed in {repository} ({why[0]}): mend that and run again")
    return done.stdout.strip()


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # variables such as GIT_DIR, which hooks and `git rebase --exec` set, would name another repository or index
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, env=environment)
    except FileNotFoundError:
        raise FrugalError("git is not installed here: install it, or put it on the PATH") from None
