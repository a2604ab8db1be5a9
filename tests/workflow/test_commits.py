"""`frugal compare` on this repository itself: a commit that makes our CPU kernel do its work many times is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from campaign_folder import REPOSITORY, SMALL

TIMES = 20
ONCE = "    _conv(*_arguments(x, w_packed, bias, stride, fused, out, skip))\n"
LOOP = "    _loop(times, *_arguments(x, w_packed, bias, stride, fused, out, skip))\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose last commit does each convolution of the CPU twin TIMES times."""
    folder = tmp_path / "clone"
    if git(REPOSITORY, "rev-parse", "--is-inside-work-tree", check=False).returncode:
        pytest.skip("this is no git checkout, so there are no commits to compare")
    git(tmp_path, "clone", "--quiet", "--local", str(REPOSITORY), str(folder))
    twin = folder / "kernels" / "sparse" / "cpu.py"
    text = twin.read_text()
    assert ONCE in text
    assert LOOP in text
    slow = text.replace(ONCE, f"    for _ in range({TIMES}):\n    {ONCE}")
    slow = slow.replace(LOOP, LOOP.replace("times", f"{TIMES} * times"))
    twin.write_text(slow)
    git(folder, "-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "commit", "--quiet", "--all",
        "--message", "Do everything again and again")  # fmt: skip
    small = {key: value for key, value in SMALL.items() if key != "preset"}
    # compiled loops of a millisecond spread less on a contested machine than single calls
    timing = {"block_max_s": 0.1, "n_min": 6, "regimes": ["graph"], "threads": 1}
    (folder / "small.yaml").write_text(yaml.safe_dump(small | {"timing": timing}))
    return folder


def git(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=check)


def test_a_commit_that_slows_a_kernel_down_is_found(clone: Path):
    frugal = [sys.executable, "-c", "import sys; from frugal.cli import main; sys.exit(main())"]
    kept = {name: value for name, value in os.environ.items() if name != "FRUGAL_MIRROR"}
    ours = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY / "workflow")}
    options = ["--preset", "smoke", "--sessions", "3", "--configfile", "small.yaml", "--cores", "2"]
    done = subprocess.run(
        [*frugal, "compare", "HEAD~1", "HEAD", *options],
        cwd=clone,
        env=kept | ours,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    (path,) = (clone / "results" / "compare").glob("*/comparison.json")
    pairs = json.loads(path.read_text())["pairs"]
    assert len(pairs) == 2  # a 1×1 and a 3×3 shape of ResNet-50
    assert all(pair["ratio"] < 0.5 for pair in pairs)
    slower = [pair for pair in pairs if pair["verdict"] == "SLOWER"]
    assert slower
    # a machine may be too contested for a verdict on every shape; none may be another one
    assert {pair["verdict"] for pair in pairs} <= {"SLOWER", "INCONCLUSIVE", None}
    assert len(git(clone, "worktree", "list").stdout.splitlines()) == 1
