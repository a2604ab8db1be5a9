"""A repository whose workflow takes a second: its rule bench_layer writes rows of times that a file names.

`times.json` of each commit: arm -> seconds in the median, or a status. The times scatter by one per mille, by the
session and the commit's role alone, so that a comparison always gives the same.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

SNAKEFILE = """
import sys
configfile: "config.yaml"
include: "workflow/rules/fake.smk"
"""

RULES = """
rule bench_layer:
    output: "results/raw/{preset}/local/cusnn/layers/session-{session}.parquet"
    params: tree=workflow.basedir, python=sys.executable
    shell: "{params.python} {params.tree}/measure.py {params.tree} {output} {wildcards.preset} {wildcards.session}"
"""

MEASURE = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from record_rows import a_row, a_run, blocks
from frugal.records import write_job

tree, out, preset, session = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
role = tree.name
with open(os.environ["FRUGAL_TEST_NOTES"], "a") as notes:
    notes.write(f"{role} {session}\\n")
times = json.loads((tree / "times.json").read_text())
if "fail" in times:
    Path("logs").mkdir(exist_ok=True)
    print("logs/bench_layer.log\\n    " + times["fail"], file=sys.stderr)
    sys.exit(1)
time.sleep(times.get("sleep_s", 0))
run = a_run(run_id=f"01{role}{session}", session=session, preset=preset, device_kind="cpu", device_key="cpu-made-up-2c")
rng = np.random.default_rng([session, len(role), ord(role[0])])
rows, samples = [], {}
for arm, seconds in times["arms"].items():
    for case in range(3):
        known = {"run_id": run.run_id, "session": session, "case_id": f"{case:016x}", "arm": arm, "network": "net",
                 "layer": f"conv{case}", "n": 1, "role": "baseline" if arm.startswith("lib") else "ours"}
        if isinstance(seconds, str):
            rows.append(a_row(status=seconds, value=None, **known))
            continue
        values = [[seconds * np.exp(rng.normal(0, 0.001)) for _ in range(7)] for _ in range(2)]
        rows.append(a_row(**known, value=seconds))
        samples[rows[-1].key] = blocks(*values)
write_job(out, run, rows, samples)
"""


class TinyRepository:
    """Commits of the workflow above. `notes` tells which sessions were measured, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes_file = folder / "repository", folder / "notes"
        self.folder.mkdir()
        self.notes_file.touch()
        self.git("init", "--quiet", "--initial-branch", "main")
        self.write("readme", "nothing to measure yet")
        self.commit("before")
        self.git("tag", "before")
        self.write("Snakefile", SNAKEFILE)
        self.write("workflow/rules/fake.smk", RULES)
        self.write("measure.py", MEASURE)
        self.write(".gitignore", "results\n")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def times(self, name: str, sleep_s: float = 0, fail: str | None = None, **arms: float | str) -> None:
        """A commit with these times, tagged `name`."""
        self.write("times.json", json.dumps({"arms": arms, "sleep_s": sleep_s} | ({"fail": fail} if fail else {})))
        self.commit(name)
        self.git("tag", name)

    def commit(self, message: str) -> None:
        self.git("add", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "user.name=somebody", "-c", "user.email=somebody@example.org", *arguments]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def environment(self) -> dict[str, str]:
        """What the fake workflow needs: the library under test, and where to note what it measures."""
        library = [str(ROOT / "workflow"), str(ROOT), str(ROOT / "tests" / "frugal")]
        return {"PYTHONPATH": os.pathsep.join(library), "FRUGAL_TEST_NOTES": str(self.notes_file), "COLUMNS": "200"}

    @property
    def notes(self) -> list[str]:
        return self.notes_file.read_text().splitlines()

    def worktrees(self) -> int:
        return len(self.git("worktree", "list").splitlines())
