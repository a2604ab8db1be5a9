"""`Budget`: what a user writes around a training step.

with Budget("6GiB") as b:
    net = b.wrap(model)
    loss = loss_fn(net(x), y)
    loss.backward()
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules import module as hooks

from frugal.dtr.costs import CostTable, Roofline, source
from frugal.dtr.errors import BudgetError, DtrError
from frugal.dtr.forget import close, sweep
from frugal.dtr.policy import Policy
from frugal.dtr.report import Report, report_of
from frugal.dtr.runtime import Runtime
from frugal.dtr.settings import Settings
from frugal.dtr.sizes import parse_bytes
from frugal.dtr.specs import Specs
from frugal.dtr.wrapper import Enter, Leave, Managed

# name -> (numerator, denominator) of frugal.dtr.policy
RUNTIME_HEURISTICS = {
    "h_dtr": ("e", "size_stale"),
    "h_dtr_eq": ("eq", "size_stale"),
    "h_local": ("local", "size_stale"),
    "h_msps": ("rev", "size"),
    "h_lru": ("one", "lru"),
    "h_size": ("one", "size"),
    "h_rand": ("one", "none"),
} | {f"ab.{n}.{d}": (n, d) for n in ("e", "eq", "local", "one") for d in ("size_stale", "size", "stale", "none")}

_open = threading.local()


class Budget:
    """Managed tensors stay within `budget_bytes`, by evicting some and computing them again when they are needed.

    budget_bytes: an int, a string with a unit ("6GiB", "6e9"), or None for no limit (counters only). Parameters, inputs
    and gradients count. heuristic: a name of RUNTIME_HEURISTICS. scope: "managed" counts the bytes of managed storages;
    "device" adds what else the CUDA allocator holds, and the workspaces of kernels as they are learned.
    dealloc: "evict" frees a tensor when its last wrapper dies, "ignore" leaves it until room is needed.
    cost: "measured" (each key timed in its first runs), "flops" (a roofline), a Roofline, a CostTable or its path.
    clock: "cost" (staleness in Σ cost: decisions do not depend on the machine's clock) or "wall".
    min_evict_bytes: smaller storages are given up last. sampling: None, or "sqrt": score about √n candidates.
    contiguous: of the 16 cheapest storages give up the one that leaves the largest range of free memory, so that an
    operator's need is met in one piece; decisions then depend on addresses, and are not the simulator's.
    thrash: the limit of (base + remat) / base in a step; on_thrash: "raise", "warn" or "grow".
    unknown: "reserve" frees `reserve_bytes` (default: the largest need so far) before an operator of unknown size.
    capture: record a log. debug: compare checksums of replays.
    ValueError for a value that is not allowed, and for a Budget within a Budget of the same thread.
    """

    def __init__(
        self,
        budget_bytes: int | str | None,
        *,
        heuristic: str = "h_dtr_eq",
        device: str | torch.device | None = None,
        scope: str = "managed",
        dealloc: str = "evict",
        cost: str | Path | CostTable | Roofline = "measured",
        clock: str = "cost",
        min_evict_bytes: int = 0,
        sampling: str | None = None,
        contiguous: bool = False,
        thrash: float = 2.0,
        on_thrash: str = "raise",
        unknown: str = "reserve",
        reserve_bytes: int | None = None,
        seed: int = 0,
        capture: bool = False,
        debug: bool = False,
    ) -> None:
        self.budget_bytes = parse_bytes(budget_bytes)
        self.device = torch.device(device) if device is not None else None
        _one_of("scope", scope, ("managed", "device"))
        _one_of("dealloc", dealloc, ("evict", "ignore"))
        _one_of("clock", clock, ("cost", "wall"))
        _one_of("on_thrash", on_thrash, ("raise", "warn", "grow"))
        _one_of("unknown", unknown, ("reserve",))
        _one_of("sampling", sampling, (None, "sqrt"))
        if not thrash >= 1:
            raise ValueError(f"thrash = {thrash!r}: it must be at least 1, the time of a step without a budget")
        if scope == "device" and (self.device is None or self.device.type != "cuda"):
            raise ValueError('scope = "device" counts a GPU\'s memory: give device="cuda", or scope="managed"')
        if heuristic not in RUNTIME_HEURISTICS:
            near = difflib.get_close_matches(heuristic, RUNTIME_HEURISTICS, 1)
            advice = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"heuristic = {heuristic!r}: {advice}allowed are {', '.join(RUNTIME_HEURISTICS)}")
        self._specs = Specs(source(cost))
        self._policy = (*RUNTIME_HEURISTICS[heuristic], seed, sampling, min_evict_bytes, contiguous)
        if contiguous and self._policy[:2] == ("one", "none"):
            raise ValueError(
                f"contiguous=True chooses among the cheapest, which {heuristic} does not know: leave it out"
            )
        self._capture = capture
        self._settings = Settings(
            eager=dealloc == "evict",
            wall=clock == "wall",
            device_scope=scope == "device",
            thrash=thrash,
            on_thrash=on_thrash,
            reserve_bytes=reserve_bytes,
            debug=debug,
        )
        self._runtime: Runtime | None = None
        self._benchmark = False

    # ---- the block -------------------------------------------------------------------------------------------------

    def __enter__(self) -> Budget:
        if getattr(_open, "budget", None) is not None:
            raise ValueError("a Budget is open in this thread already: leave its block first, or use that one")
        _open.budget = self
        self._runtime = Runtime(self.budget_bytes, Policy(*self._policy), self._specs, self._settings)
        if self._capture:
            from frugal.dtr.capture import Recorder

            self._runtime.recorder = Recorder(self._specs)
        # Another algorithm at the replay would give other bits; the tuner may choose another each time.
        self._benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        _open.budget = None
        torch.backends.cudnn.benchmark = self._benchmark
        close(self.runtime, keep=kind is None)

    @property
    def runtime(self) -> Runtime:
        """The runtime of the block, or of the last one. DtrError before the first."""
        if self._runtime is None:
            raise DtrError("this Budget has not been entered yet: use it in a `with` block")
        return self._runtime

    def _entered(self) -> Runtime:
        runtime = self.runtime
        if runtime.closed:
            raise DtrError("this Budget's block has been left: enter it again with `with`")
        return runtime

    # ---- tensors ---------------------------------------------------------------------------------------------------

    def wrap(self, model: torch.nn.Module) -> Callable[..., Any]:
        """A callable that runs `model` on managed tensors, sharing its parameters and buffers.

        Gradients arrive in the parameters' `.grad` as plain tensors; buffers change as they always do.
        """
        if not isinstance(model, torch.nn.Module):
            raise ValueError(
                f"Budget.wrap takes a torch.nn.Module, not {type(model).__name__}: use Budget.manage for tensors"
            )
        names = {id(part): name for name, part in model.named_modules()}

        def run(*args: Any, **kwargs: Any) -> Any:
            runtime = self._entered()
            with runtime.lock:
                runtime.settle()
                sweep(runtime)
            originals = dict([*model.named_parameters(), *model.named_buffers()])
            for parameter in model.parameters():
                if parameter.grad is not None:
                    with runtime.lock:
                        runtime.constant(parameter.grad)
            swapped = {name: self.manage(tensor) for name, tensor in originals.items()}
            given = dict(swapped)
            managed = [self._manage_all(value) for value in args]
            named = {name: self._manage_all(value) for name, value in kwargs.items()}
            with _modules(runtime, names):
                result = torch.func.functional_call(model, given, tuple(managed), named)
            for name, tensor in given.items():
                if tensor is not swapped[name]:  # the model bound the buffer anew
                    _bind(model, name, self.release(tensor).detach())
            return result

        return run

    def manage(self, tensor: torch.Tensor) -> torch.Tensor:
        """A managed tensor on the memory of a plain one, which stays; gradients flow back to the plain one."""
        runtime = self._entered()
        if type(tensor) is Managed:
            return tensor
        if self.device is None:
            self.device = tensor.device
        if tensor.requires_grad and torch.is_grad_enabled():
            return Enter.apply(tensor, runtime)
        return runtime.constant_wrapper(tensor)

    def release(self, tensor: torch.Tensor) -> torch.Tensor:
        """A plain tensor with a managed one's values, made again if need be; differentiable."""
        return Leave.apply(tensor, False) if type(tensor) is Managed else tensor

    def _manage_all(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.manage(value)
        if type(value) in (list, tuple):
            return type(value)(self._manage_all(part) for part in value)
        if type(value) is dict:
            return {key: self._manage_all(part) for key, part in value.items()}
        return value

    # ---- questions -------------------------------------------------------------------------------------------------

    def set_budget(self, budget_bytes: int | str | None) -> None:
        """Another budget from now on; a smaller one evicts at once. BudgetError where that does not suffice."""
        new = parse_bytes(budget_bytes)
        runtime = self._entered()
        with runtime.lock:
            runtime.settle()
            old, runtime.budget = runtime.given, new
            runtime.given = new
            try:
                if new is not None and runtime.mem > new:
                    runtime.free(0, None)
            except BudgetError:
                runtime.budget = runtime.given = old
                raise
        self.budget_bytes = new

    def report(self) -> Report:
        """The counters of the block so far, or of the last one."""
        return report_of(self.runtime.tallies, self.device)

    def costs(self) -> CostTable:
        """The costs in use, for a Budget that is to take the same decisions."""
        return self._specs.table()

    def log(self, **metadata: str) -> Any:
        """The log of the block so far (`frugal.dtr.Log`), with metadata. DtrError without capture=True."""
        if self.runtime.recorder is None:
            raise DtrError("this Budget records no log: make it with capture=True")
        return self.runtime.recorder.log(**metadata)

    def trace(self) -> str:
        """The decisions so far, as the simulator writes them (C, R, E, D). DtrError without capture=True."""
        self.log()
        return "".join(self.runtime.trace)


@dataclass(frozen=True)
class StepResult:
    """A step's loss (a plain tensor, detached) and the Budget's report."""

    loss: torch.Tensor
    report: Report


def budgeted_step(
    model: torch.nn.Module,
    loss_fn: Callable[[Any], torch.Tensor],
    inputs: Any,
    *,
    budget_bytes: int | str | None,
    **kw: Any,
) -> StepResult:
    """Forward and backward of `loss_fn(model(*inputs))` within a budget; gradients land in `.grad` as plain tensors.

    inputs: a tensor, or a sequence of arguments. kw: of Budget.
    """
    given = inputs if isinstance(inputs, (list, tuple)) else (inputs,)
    with Budget(budget_bytes, **kw) as budget:
        loss = loss_fn(budget.wrap(model)(*given))
        loss.backward()
        plain = budget.release(loss).detach()
        del loss
    return StepResult(plain, budget.report())


def _one_of(name: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name} = {value!r}: allowed are {', '.join(map(repr, allowed))}")


def _bind(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    *path, last = name.split(".")
    setattr(model.get_submodule(".".join(path)), last, tensor)


@contextmanager
def _modules(runtime: Runtime, names: dict[int, str]) -> Iterator[None]:
    """Operators know the module that runs, for messages and logs."""
    stack = [runtime.module]

    def begin(part: torch.nn.Module, args: Any) -> None:
        stack.append(runtime.module)
        runtime.module = names.get(id(part), runtime.module)

    def end(part: torch.nn.Module, args: Any, result: Any) -> None:
        runtime.module = stack.pop()

    handles = [
        hooks.register_module_forward_pre_hook(begin),
        hooks.register_module_forward_hook(end, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        runtime.module = stack[0]
