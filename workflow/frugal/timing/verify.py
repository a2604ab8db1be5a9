"""Right before fast: NaN poisoning, comparison with float64, and checksums of inputs.

A sum of K products computed in float32 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1) satisfies, per
element, with S the same operator on absolute values in float64 and γ_K = K·2⁻²⁴ / (1 − K·2⁻²⁴):

    |y − y64| ≤ (2·u_in + u_in² + γ_K)·S + u_out·|y64|        rule `a_priori`

u_in is 2⁻¹¹ where the hardware rounds the operands (TF32), 0 where the reference gets the operands already rounded to
the arm's dtype, as here; u_out is half the spacing of the output's dtype. Baselines get four times that bound, since
Winograd and FFT are no plain sums (`a_priori_x4`). What sums in another order, or has no S (whole networks, gradients),
may instead have twice the error of the baseline with the same dtype (`baseline_x2`):

    max|y − y64| ≤ 2·max|y_base − y64| + u_out·max|y64|

A baseline whose case has no S has nothing above it but the relative Frobenius norm (`norm`): 1e-3 for float32, 1e-2 for
TF32 and float16, 5e-2 for bfloat16, an order of magnitude above what they show in whole networks; an arm that promises
more states its own bound. Integers are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frugal.timing.arms import Arm, Case, Inputs, Reference

U_OUT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
U_TF32 = 2.0**-11
NORM_BOUND = {"float64": 1e-9, "float32": 1e-3, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 5e-2}
BASELINE_SLACK = 4.0
OVER_BASELINE = 2.0


@dataclass(frozen=True)
class Check:
    """The outcome of one verification. `reason` is None when `ok`; errors are null when nothing could be compared.

    `max_rel_err` is max|y − y64| / max|y64|; `err_bound` the bound at the element that comes nearest to its own.
    """

    ok: bool
    reason: str | None = None
    rule: str | None = None
    max_abs_err: float | None = None
    max_rel_err: float | None = None
    err_bound: float | None = None


class Verifier:
    """Checks outputs on one set of inputs. Check baselines first: the others may be measured against their error."""

    def __init__(self, case: Case, inputs: Inputs) -> None:
        self._case = case
        self.inputs = inputs  # may be replaced by equal ones, where an arm has spoiled these
        self._references: dict[str, tuple[Reference, ...]] = {}
        self._baseline_errors: dict[tuple[str, bool], list[float]] = {}

    def check(self, arm: Arm, outputs: Sequence[Tensor]) -> Check | None:
        """Compare the outputs of an arm; None when the case has no reference."""
        if self._case.reference is None:
            return None
        references = self.reference(arm.dtype)
        if len(outputs) != len(references):
            return Check(False, f"outputs: {len(outputs)} where the reference has {len(references)}")
        checks = []
        errors = self._baseline_errors.get(_precision(arm), [])
        for index, (output, reference) in enumerate(zip(outputs, references, strict=True)):
            base = errors[index] if index < len(errors) else None
            checks.append(_compare(arm, output, reference, base))
        worst = next((check for check in checks if not check.ok), None) or max(
            checks, key=lambda check: check.max_rel_err or 0.0
        )
        if worst.ok and arm.role == "baseline":
            self._baseline_errors.setdefault(_precision(arm), [check.max_abs_err or 0.0 for check in checks])
        return worst

    def reference(self, dtype: str) -> tuple[Reference, ...]:
        """The right answer for the inputs rounded to `dtype`; computed once for each dtype."""
        if dtype not in self._references:
            assert self._case.reference is not None
            found = self._case.reference(rounded(self.inputs, dtype))
            self._references[dtype] = (found,) if isinstance(found, Reference) else tuple(found)
        return self._references[dtype]


def rounded(inputs: Inputs, dtype: str) -> Mapping[str, Tensor]:
    """The inputs with floating values rounded to `dtype`, in their own dtype."""
    kind = getattr(torch, dtype)
    if not kind.is_floating_point:
        return inputs
    return {k: v.to(kind).to(v.dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def poison(outputs: Iterable[Tensor]) -> None:
    """Fill with NaN, integers with their least value, so that an element nobody writes shows."""
    with torch.inference_mode():  # what a library allocated in inference mode may only be changed there
        for output in outputs:
            output.detach().fill_(_poison_value(output.dtype))


def tensors(result: object, static: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
    """What a run returned as a tuple of tensors; `static` (the arm's own buffers) when it returned None."""
    if result is None:
        return tuple(static)
    if isinstance(result, Tensor):
        return (result,)
    if isinstance(result, Sequence) and all(isinstance(item, Tensor) for item in result):
        return tuple(result)
    raise TypeError(f"run() returned a {type(result).__name__}: it must return a tensor, a sequence of tensors or None")


def checksum(inputs: Inputs) -> dict[str, int]:
    """One number a tensor from the sum of its bits; any single changed element changes it."""
    return {name: _bits(value) for name, value in inputs.items()}


def _bits(value: Tensor) -> int:
    flat = value.detach().contiguous().view(-1)
    size = flat.element_size()
    if flat.is_complex():
        flat, size = torch.view_as_real(flat).view(-1), size // 2
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return int(flat.view(kinds[size]).sum(dtype=torch.int64))


def _compare(arm: Arm, output: Tensor, reference: Reference, base_error: float | None) -> Check:
    y64 = reference.y
    if output.shape != y64.shape:
        return Check(False, f"shape {tuple(output.shape)} where the reference has {tuple(y64.shape)}")
    y = output.detach().to(y64.device)
    if not y.is_floating_point():
        return _compare_exactly(y, y64)
    y, y64 = y.double(), y64.double()
    if bool(torch.isnan(y).any()):
        return Check(False, f"unwritten: {int(torch.isnan(y).sum())} elements are NaN")
    error = (y - y64).abs()
    greatest, scale = _max(error), _max(y64.abs())
    known = {"max_abs_err": _finite(greatest), "max_rel_err": _finite(greatest / scale) if scale > 0 else None}
    u_out = U_OUT.get(arm.dtype, U_OUT["float32"])
    reasons = []
    if reference.s is not None and arm.tolerance in ("auto", "a_priori"):
        bound = _a_priori(arm, reference.s.double(), y64, reference.terms, u_out)
        excess = error - bound
        at = int(excess.argmax())
        rule = "a_priori_x4" if arm.role == "baseline" else "a_priori"
        if not float(excess.flatten()[at]) > 0:
            return Check(True, None, rule, err_bound=float(bound.flatten()[at]), **known)
        reasons.append(f"error {float(error.flatten()[at]):.3g} > {float(bound.flatten()[at]):.3g} ({rule})")
    if base_error is not None and arm.role != "baseline" and arm.tolerance in ("auto", "baseline"):
        limit = OVER_BASELINE * base_error + u_out * scale
        if greatest <= limit:
            return Check(True, None, "baseline_x2", err_bound=limit, **known)
        reasons.append(f"error {greatest:.3g} > {limit:.3g} (baseline_x2)")
    if arm.tolerance == "norm" or (reference.s is None and arm.role == "baseline"):
        limit = arm.norm_bound or NORM_BOUND["tf32" if arm.tf32 and arm.dtype == "float32" else arm.dtype]
        found = float(torch.linalg.vector_norm(error)) / max(float(torch.linalg.vector_norm(y64)), 1e-300)
        if found <= limit:
            return Check(True, None, "norm", err_bound=limit, **known)
        reasons.append(f"relative error {found:.3g} > {limit:.3g} (norm)")
    reason = "; ".join(reasons) or "no rule applies: the reference has no S and no baseline of this dtype was right"
    return Check(False, reason, None, **known)


def _compare_exactly(y: Tensor, expected: Tensor) -> Check:
    wrong = int((y.to(torch.int64) != expected.to(torch.int64)).sum())
    if wrong == 0:
        return Check(True, None, "exact", max_abs_err=0.0, max_rel_err=0.0, err_bound=0.0)
    left = int((y == _poison_value(y.dtype)).sum()) if y.dtype != torch.bool else 0
    return Check(False, f"unwritten: {left} elements" if left else f"{wrong} of {y.numel()} integers differ")


def _a_priori(arm: Arm, s: Tensor, y64: Tensor, terms: int, u_out: float) -> Tensor:
    u_sum = 2.0**-53 if arm.dtype == "float64" else 2.0**-24
    gamma = terms * u_sum / (1 - terms * u_sum)
    u_in = U_TF32 if arm.tf32 else 0.0
    slack = 1.0
    if arm.role == "baseline":
        # Winograd and FFT spread an error over the tile or the plane that they transform at once, also to an output
        # whose own sum has hardly a term (a window of zeros): the plane's largest S stands for each of its outputs.
        slack = BASELINE_SLACK
        s = s.amax(dim=(-2, -1), keepdim=True) if s.dim() == 4 else s
    return slack * ((2 * u_in + u_in**2 + gamma) * s + u_out * y64.abs())


def _precision(arm: Arm) -> tuple[str, bool]:
    return arm.dtype, bool(arm.tf32)


def _poison_value(dtype: torch.dtype) -> float | int | bool:
    if dtype == torch.bool:
        return False
    return float("nan") if dtype.is_floating_point or dtype.is_complex else torch.iinfo(dtype).min


def _max(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
