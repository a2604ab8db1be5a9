"""What one session is told, as data that goes from one process to another."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from frugal.timing.design import Design

_DESIGN = {f.name for f in dataclasses.fields(Design)} - {"preset", "sessions", "threads"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One session of one experiment.

    `cases`: "package.module:function", called in the child as `function(machine, record, say, **arguments)`. It gives
    (Case, arms) pairs; `machine` is the device (frugal.timing.Device), `record` the device file's content.
    `timing`: the configuration's section of that name (its null stands for the preset's number). `kernels`: reports of
    built kernels, for the controls. `threads`: the cores that the job has. `log`: its log, relative to the results.
    `out`: the job file to write. What `arguments` holds must be JSON or a path.
    """

    experiment: str
    preset: str
    timing: Mapping[str, object]
    cases: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    device: str | Path
    session: int
    sessions: int
    threads: int
    config_json: str = "{}"
    campaign_id: str | None = None
    log: str
    out: str | Path
    kernels: tuple[str | Path, ...] = ()

    def design(self) -> Design:
        """The preset with what the configuration says; DesignError where that cannot be run."""
        given = {name: value for name, value in self.timing.items() if name in _DESIGN}
        return Design.of(self.preset, **given, sessions=self.sessions, threads=self.own_threads)

    @property
    def own_threads(self) -> int:
        """Threads of torch and Numba: what the configuration says, else one for each core that the job is bound to."""
        bound = self.timing.get("affinity")
        asked = self.timing.get("threads")
        return int(asked or (min(self.threads, len(bound)) if bound else self.threads))  # type: ignore[arg-type]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), default=os.fspath)

    @classmethod
    def from_json(cls, text: str) -> Job:
        given = json.loads(text)
        return cls(**given | {"kernels": tuple(given["kernels"])})
