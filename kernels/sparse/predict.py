"""What a launch of v3_ballot should take, from counts of what it does: the model that plans, and that figures show.

With TH × TW the tile, o outputs a lane, V warps a block, S splits, m channels a warp (steps), P_t tested positions of
the window with F_t multiply-adds, F_u the other multiply-adds, s the share of zeros, b = ⌈blocks / SMs⌉:

    slots       = a·P_t + (1 - s)·F_t + F_u + 31                instructions of a warp a channel; a: see SLOTS
    arithmetic  = b·V·m·slots / (0.73·FMA/32 a clock) / clock   (dense: P_t = F_t = 0)
    weights     = 4·k²·32·o·V·m·blocks / L2 rate
    latency     = m·0.16 µs                                     loads of the next channel that are not hidden
    reduction   = 3.2·b·(2·4·32·o·TH·TW·V / 128) / clock        shared memory at 128 bytes a clock, both ways
    tickets     = 1.2 µs + 0.021 µs·S·o·TH·TW/V if S > 1        store, fence, ticket; then each thread reads its slots
    time        = node + start + max(arithmetic, weights) + latency + reduction + tickets;    start = 0.53 µs

The numbers were fitted by least squares of log time to 1472 launches on an H200 (30 kernels, 8 shapes, batch 1 and 8,
s from 0 to 1; probe of 2026-11-21). Of these same launches half are within 5.4 % and nine tenths within 14.3 %; how far
the model holds for other shapes and GPUs was not measured.

v6_fused has the same terms with numbers of its own (`V6`), its cluster in the place of tickets, and no node: launches
overlap. Fitted to 1923 launches (34 kernels, 11 shapes, batch 1 to 8; probe of 2026-11-21), it holds less well: half
are within 18 %, nine tenths within 43 %. What it leaves out: clusters do not fill every multiprocessor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernels.sparse.taps import taps, window

if TYPE_CHECKING:
    from kernels.sparse.planning import Plan
    from kernels.sparse.shape import ConvShape

SLOTS = {"row": 3.5, "branch": 4.9}  # of a tested position besides its multiply-adds, by `fetch`
SLOTS_STEP = 31.0  # of a channel: window and weights in, masks, loop
ISSUE = 0.73  # share of the multiply-add rate that straight-line code of few warps reaches
START_S = 0.53e-6  # indices, first loads
STEP_S = 0.16e-6
REDUCTION = 3.2  # times the shared memory's bandwidth bound: barriers, and one chunk after the other
TICKET_S = 1.19e-6
SLOT_S = 0.021e-6


@dataclass(frozen=True)
class Costs:
    """What a rung's terms are multiplied with; see the module."""

    issue: float = ISSUE
    step_s: float = STEP_S
    reduction: float = REDUCTION
    start_s: float = START_S
    node: bool = True
    shared_s: float = TICKET_S
    slot_s: float = SLOT_S


V3 = Costs()
V6 = Costs(issue=0.78, step_s=0.30e-6, reduction=4.7, start_s=0.30e-6, node=False, shared_s=1.15e-6, slot_s=0.0)


@dataclass(frozen=True)
class Machine:
    """A GPU as the model knows it."""

    sm_count: int
    clock_hz: float
    fma_per_clock_per_sm: int = 128
    l2_bytes_per_s: float = 5.5e12
    """Rate at which all SMs together read weights that sit in the second-level cache."""
    node_s: float = 0.98e-6
    """An empty kernel's share of a CUDA graph."""


H200 = Machine(sm_count=132, clock_hz=1.98e9)


@dataclass(frozen=True)
class Prediction:
    """seconds: of one launch in a CUDA graph; bound: the largest term; terms: seconds by name, see the module."""

    seconds: float
    bound: str
    terms: dict[str, float]


def predict(plan: Plan, shape: ConvShape, sparsity: float, machine: Machine = H200) -> Prediction:
    """The model's time of a plan at an input sparsity (share of zeros, 0 to 1). Formulas: see the module.

    Raises ValueError for a rung other than v3_ballot and v6_fused or a sparsity outside 0 to 1.
    """
    variant = plan.variant
    if variant.rung not in ("v3_ballot", "v6_fused"):
        raise ValueError(f"plan of {variant.rung}: the model describes v3_ballot and v6_fused; show others without it.")
    costs = V6 if variant.rung == "v6_fused" else V3
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity = {sparsity}: a share of zeros from 0 to 1 is needed.")
    blocks = plan.grid[0] * plan.grid[1] * plan.grid[2]
    rounds = -(-blocks // machine.sm_count)
    steps = plan.channels_per_warp
    lanes = machine.fma_per_clock_per_sm / 32
    values = variant.outputs_per_lane * variant.th * variant.tw
    exchanged = 2 * 4 * 32 * values * variant.warps
    weight_bytes = 4 * shape.k**2 * 32 * variant.outputs_per_lane * variant.sharers * steps * blocks
    instructions = rounds * variant.warps * steps * slots(variant, sparsity)
    terms = {
        "node": machine.node_s if costs.node else 0.0,
        "start": costs.start_s,
        "arithmetic": instructions / (costs.issue * lanes) / machine.clock_hz,
        "weights": weight_bytes / machine.l2_bytes_per_s,
        "latency": steps * costs.step_s,
        "reduction": costs.reduction * rounds * exchanged / 128 / machine.clock_hz,
        "tickets": costs.shared_s + costs.slot_s * plan.splits * values / variant.warps if plan.splits > 1 else 0.0,
    }
    hidden = min(terms["arithmetic"], terms["weights"])
    return Prediction(sum(terms.values()) - hidden, max(terms, key=terms.__getitem__), terms)


def slots(variant, sparsity: float) -> float:
    """Instructions that a warp issues for one input channel of its tile."""
    shape = variant.th, variant.tw, variant.k, variant.stride
    rows, cols = window(*shape)
    total = SLOTS_STEP
    for i in range(rows):
        for j in range(cols):
            products = len(taps(i, j, *shape)) * variant.outputs_per_lane
            tested = variant.skip and products >= variant.min_taps
            total += SLOTS[variant.fetch] + (1 - sparsity) * products if tested else products
    return total
