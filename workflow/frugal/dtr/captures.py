"""The logs that this machine captures of its own programs, and the tables of costs that their runs go by.

A folder holds of each program `<network>.dtrlog.parquet` and `<network>.costs.json`: costs are medians of timed runs,
and a Budget that takes them from the table decides as the simulator does on the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from frugal import provenance
from frugal.dtr.budget import Budget
from frugal.dtr.capture import capture_log
from frugal.dtr.costs import SAMPLES, CostTable
from frugal.dtr.errors import BudgetError
from frugal.dtr.logs import Log, read_log
from frugal.dtr.offered import Subject
from frugal.dtr.programs import Program, program
from frugal.memory import in_fresh_process
from frugal.timing.flags import flags

Say = Callable[[str], None]
NOMINAL = "flops"


@dataclass(frozen=True)
class Capture:
    """A program's log, and the costs in it as a Budget takes them."""

    log: Log
    costs: CostTable

    @property
    def nominal(self) -> bool:
        """Whether costs are a roofline's, because the program does not fit on the device without a budget."""
        return self.log.metadata["cost_source"] == NOMINAL

    def budget_bytes(self, ratio: float) -> int:
        """A share of the unbudgeted peak."""
        return int(self.log.baseline().memory * ratio)


def files(network: str, folder: str | Path) -> tuple[Path, Path]:
    """Of a program in a folder: its log, and its costs."""
    return Path(folder, f"{network}.dtrlog.parquet"), Path(folder, f"{network}.costs.json")


def read(network: str, folder: str | Path) -> Capture:
    """What `write` wrote. LogError or DtrError for files that are not there or damaged."""
    log, costs = files(network, folder)
    return Capture(read_log(log), CostTable.read(costs))


def write(
    subjects: Iterable[Subject], folder: str | Path, *, device: str | Path, kind: str, seed: int, say: Say
) -> None:
    """Capture every program's step on the machine of the device file, each on a GPU in a process of its own.

    One that does not fit there is captured without numbers, with nominal costs. Raises FrugalError where this machine
    is another one, and for a step that fails otherwise.
    """
    provenance.check_device(device)
    for subject in subjects:
        given = {"network": subject.network, "sizes": dict(subject.sizes), "folder": str(folder), "device": kind,
                 "seed": seed}  # fmt: skip
        if kind == "cuda":
            call = "frugal.dtr.captures:capture"
            done = in_fresh_process(call, given)
            if done.status == "oom":
                done = in_fresh_process(call, given | {"device": "meta"})
            done.expect_ok(f"capturing {subject.network}")
        else:
            capture(**given)
        log = read_log(files(subject.network, folder)[0])
        peak, source = log.baseline().memory / 2**20, log.metadata["cost_source"]
        say(f"{subject.network}: {len(log)} instructions, {peak:.1f} MiB without a budget, costs {source}")


def capture(network: str, sizes: Mapping[str, int], folder: str, device: str, seed: int) -> None:
    """Write a program's log and costs; on the meta device, where nothing can be timed, with nominal costs."""
    made = program(network, sizes, device, seed)
    with flags(tf32=False, autotune=False):
        table = _nominal(made) if device == "meta" else _measured(made)
        made.begin()
        log = capture_log(made.model, made.inputs, made.loss, cost=table, steps=1, name=network)
    metadata = {
        **log.metadata, "cost_source": NOMINAL if device == "meta" else "measured", "seed": str(seed),
        "sizes": ",".join(f"{key}={value}" for key, value in sizes.items()),
    }  # fmt: skip
    to_log, to_costs = files(network, folder)
    table.save(to_costs)
    Log(log.table, metadata, log.source).save(to_log)


def _measured(made: Program) -> CostTable:
    budget = Budget(None, cost="measured")
    for _ in range(SAMPLES + 2):  # the first of each key is dropped, and one step may meet a key once
        _step(budget, made)
    return budget.costs()


def _nominal(made: Program) -> CostTable:
    budget = Budget(None, cost=NOMINAL)
    _step(budget, made)
    return budget.costs()


def _step(budget: Budget, made: Program) -> None:
    made.begin()
    try:
        with budget:
            made.loss(budget.wrap(made.model)(*made.inputs)).backward()
    except BudgetError as problem:  # without a budget: the device's memory ran out
        raise MemoryError(str(problem)) from None
