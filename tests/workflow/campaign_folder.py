"""A folder in which the workflow is run as a user would, with the smallest campaign that goes through every rule."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]

# As little as goes through every rule: one network with random weights, few photographs, one kernel build.
SMALL = {
    "preset": "smoke",
    "systems": ["cusnn"],
    "recorded": [],
    "data": {"n_images": 6, "size": 64},
    "kernels": {"capabilities": ["9.0"]},
    "timing": {"block_max_s": 0.02, "n_min": 3, "regimes": ["wall"]},
    "cusnn": {
        "networks": ["resnet50"], "weights": "synthetic", "ours": ["sparse"], "baselines": ["onednn_fp32"],
        "batch_sizes": [1], "sparsities": [0.5],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Campaign:
    """A working folder with a config.yaml, in which the workflow is run as a user would."""

    folder: Path

    def configure(self, **changes: object) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(SMALL | changes))

    def command(self, *arguments: str) -> list[str]:
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
        profile = ["--workflow-profile", str(REPOSITORY / "workflow/profiles/default")]
        return [*snakemake, *profile, "--cores", "2", *arguments]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )

    def start(self) -> subprocess.Popen:
        """The run to the figures in the background, in a process group of its own."""
        return subprocess.Popen(
            self.command("--", "figures"),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def environment(self, **changes: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "FRUGAL_MIRROR"}
        return kept | {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"} | changes

    def copy_to(self, folder: Path) -> Campaign:
        """The same folder elsewhere, with the dates that Snakemake compares."""
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        return Campaign(folder)
