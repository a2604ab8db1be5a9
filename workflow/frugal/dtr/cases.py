"""What DTR's campaign measures: its experiments, their cases (axes) and arms, as the rows name them.

Programs. `network` names a network (frugal.dtr.programs), whose step this machine captured (origin `captured`), or that
of a published log (origin `published`: resnet32, inceptionv4, transformer, lstm, treelstm; only where the mirror has
it). A captured program's axes are network, batch and the network's own sizes (h, w; seq; depth; hidden; …), the same in
every experiment; of a published one network and origin alone. The columns network, n, h and w repeat them.

Budgets. `ratio` is a budget over the program's unbudgeted peak, `Log.baseline().memory`; a budget in bytes is
int(peak × ratio). In every arm arm_json says `budget_bytes`. Arms are `<method>` or `<method>@<key>=<value>,…`.

| experiment | its cases | axes beside those of the program | arms | metrics (unit) |
|---|---|---|---|---|
| simulate | one log in the simulator | origin | <heuristic>@ratio=…[,dealloc=ignore or banish][,e_star=lazy or cached][,seed=…] (a heuristic of frugal.dtr.HEURISTICS; absent keys: dealloc evict, e_star maintained, no seed: it draws no lots); plain | overhead, tensor_accesses, heuristic_evals, remats, evictions (1), peak (B); of plain peak (B: ratio 1.0), constants, bottleneck, smallest (B: below it no schedule exists), time_compute (s), operators, storages (1) |
| chain | the unit chain and its backward pass | layers, bound (2sqrt, sqrt, log2: the budget ⌈2√n⌉, ⌈√n⌉, ⌈log₂ n⌉ units); network chain | h_dtr, h_dtr_eq, h_local, h_lru, h_size; chen_sqrt, chen_greedy, revolve, and milp where layers is small | remats_per_layer, operations_per_layer (1: first runs among them) |
| adversary | the graph that an adversary makes against a heuristic | layers (N), bound (B, units); network adversary (job `chain`) | h_dtr, h_dtr_eq, h_local, h_lru | remats_per_layer (1) |
| static | one graph, views collapsed, at one budget | origin (captured, published, made), ratio; of network chain layers | h_dtr, h_dtr_eq, h_lru, and all of frugal.dtr.static.METHODS: chen_sqrt, chen_sqrt_linear, chen_greedy, chen_greedy_linear, revolve, milp, lp_rounding, lp_bound | overhead (1), peak (B; not of lp_bound); arm_json has `bound` (as an overhead), `gap`, and of milp `optimal` |
| budgets | timed steps | | plain, dtr (no budget), dtr@budget=<ratio> | time (s), regime wall |
| arms | timed steps | group (eager, compiled) | plain, dtr@budget=…, and a user's: the methods of frugal.dtr.methods | time (s), regime wall |
| operators | timed: many operators of one class on 8 elements, forward and backward | class, ops (dispatched in a step) | plain, dtr | time (s) of all, regime wall |
| simulator | timed: a log in the simulator at ratio 0.5 | origin | h_dtr_eq, h_local, h_dtr, h_dtr@e_star=lazy, h_dtr@e_star=cached | time (s), regime wall, one thread |
| memory | one step of each arm of `budgets` and `arms`; on a GPU in a process of its own | | those | peak_total (B: of tensors at once, those that stay included), differing (1: how many of the loss, the gradients and the buffers are not plain's bit for bit); on a GPU peak_allocated, peak_reserved (B); of dtr also peak_managed (B), over_budget (B: peak_managed − budget, at most 0), ops, remats, evictions, eager_evictions (1), time_base, time_remat, time_search, time_cost_model, time_dispatch (s), overhead_counted (1: (base + remat) ÷ base by one table of costs), and by the simulator on the captured log under the same budget overhead_predicted, peak_predicted (B), remats_predicted, evictions_predicted (1) |
| reach | bisection under a cap of memory, fresh processes on a GPU | cap_gib, device (cuda, or meta: bytes of live tensors are counted), grows (batch, seq or depth, which then is no axis) | plain, dtr, and a user's | max_size (1), time_per_sample (s) at it |
| fragmentation | one step, looked at every so many operators; a GPU's allocator | moment (0 to 63) | dtr@budget=…,expandable=0 or 1, plain@expandable=… | allocated, reserved, largest_hole (B) |

Roles: `ours` dtr and every heuristic; `baseline` all others. Every attempted case leaves rows: what does not fit has the
status `oom`; what passes its limit of recomputation `failed`, with a reason that begins with `ThrashError`; what a method or
a machine does not offer `unsupported`; none of them has a value.

`results/dtr/residency.parquet` is a table for the heat map of the chain of 80 layers at 2√n: arm (h_dtr, h_dtr_eq,
h_lru), moment (operators run so far), tensor (the layers' values, then the gradients, the last layer's first); a row
for each tensor that is there. `results/dtr/reach.csv` lists `reach`.
"""  # noqa: E501 - a table's rows are lines

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from frugal.dtr import methods
from frugal.dtr.budget import Budget
from frugal.dtr.captures import NOMINAL, Capture
from frugal.dtr.costs import CostTable
from frugal.dtr.errors import BudgetError, DtrError, Unsupported
from frugal.dtr.offered import COMPILED, Method
from frugal.dtr.programs import Program
from frugal.timing import arms


class DoesNotFit(DtrError, MemoryError):
    """A budget that has no room for an operator, as what it is for a campaign: too little memory."""


@dataclass(frozen=True)
class Step:
    """An arm's step: forward and backward, gradients in the parameters' `.grad`.

    run: of a turn (frugal.dtr.programs) to the loss. budget: of `dtr`.
    """

    run: Callable[[int], Tensor]
    budget: Budget | None = None


def step(made: Program, method: Method, capture: Capture | None, heuristic: str) -> Step:
    """A method's step on a program. capture: what `dtr` takes ratios and costs from; None: it
    measures costs itself. Bytes, unlike a ratio, are a GPU's whole memory to `dtr`: what else is allocated counts.

    Raises frugal.timing.Unsupported for a network that the method cannot run; the step's `run` does so too, and raises
    DoesNotFit and ThrashError.
    """
    if method.name == "dtr":
        budget = Budget(
            budget_bytes(method, capture),
            heuristic=heuristic,
            cost=_costs(made, capture),
            seed=made.seed,
            **({"scope": "device", "device": "cuda"} if "budget_bytes" in method.settings and _on_gpu(made) else {}),
        )
        return Step(partial(_managed, made, budget), budget)
    try:
        forward = methods.forward_of(method.name, made.model, **method.settings)
    except Unsupported as problem:
        raise arms.Unsupported(str(problem)) from None
    return Step(partial(_free, made, forward, method.name in COMPILED))


def _costs(made: Program, capture: Capture | None) -> CostTable | str:
    if capture is not None and not capture.nominal:
        return capture.costs
    return NOMINAL if capture is not None or _device(made) == "meta" else "measured"


def _on_gpu(made: Program) -> bool:
    return _device(made) == "cuda"


def _device(made: Program) -> str:
    return next(made.model.parameters()).device.type


def budget_bytes(method: Method, capture: Capture | None) -> int | None:
    """Of `dtr`: a share of the unbudgeted peak, a number of bytes, or none."""
    if "budget_bytes" in method.settings:
        return int(method.settings["budget_bytes"])
    if "budget" not in method.settings or capture is None:
        return None
    return capture.budget_bytes(float(method.settings["budget"]))


def _managed(made: Program, budget: Budget, turn: int) -> Tensor:
    made.begin(turn)
    try:
        with budget:
            loss = made.loss(budget.wrap(made.model)(*made.inputs_of(turn)))
            loss.backward()
            return budget.release(loss).detach()
    except BudgetError as problem:
        asked = f"tried to allocate {problem.required_bytes} bytes for {problem.op}"  # what a row's reason keeps
        raise DoesNotFit(f"{asked}: {problem.short_bytes} bytes short") from None
    except Unsupported as problem:
        raise arms.Unsupported(str(problem)) from None


def _free(made: Program, forward: Callable[..., Tensor], compiled: bool, turn: int) -> Tensor:
    made.begin(turn)
    with _same_numbers() if compiled else nullcontext():
        try:
            loss = made.loss(forward(*made.inputs_of(turn)))
        except Unsupported as problem:
            raise arms.Unsupported(str(problem)) from None
        loss.backward()
    return loss.detach()


def _same_numbers() -> AbstractContextManager:
    """Compiled code draws other random numbers than plain PyTorch unless it is told not to."""
    from torch._inductor import config  # takes a second

    return config.patch(fallback_random=True)


def outputs(made: Program, loss: Tensor) -> list[Tensor]:
    """What steps are compared by: the loss and all gradients, in order."""
    return [loss, *(p.grad for p in made.model.parameters() if p.grad is not None)]


def report_values(budget: Budget) -> dict[str, float]:
    """What a step's report says, by the metrics of the table above; times in seconds."""
    report, limit = budget.report(), budget.budget_bytes
    over = {} if limit is None else {"over_budget": report.peak_managed_bytes - limit}
    return over | {
        "peak_managed": report.peak_managed_bytes,
        "ops": report.n_ops,
        "remats": report.n_remats,
        "evictions": report.n_evictions,
        "eager_evictions": report.n_eager,
        "time_base": report.base_s,
        "time_remat": report.remat_s,
        "time_search": report.search_s,
        "time_cost_model": report.cost_model_s,
        "time_dispatch": report.dispatch_s,
        "overhead_counted": report.thrash_factor,
    }
