"""The section `dtr` of the configuration (frugal.config.models)."""

from typing import Annotated, Literal

from pydantic import Field

from .section import Positive, Ratio, Section, list_of

DtrNetwork = Literal[
    "resnet32", "resnet1202", "densenet100", "densenet121", "unet", "inceptionv4", "unrolled_gan", "lstm", "gru",
    "treelstm", "transformer",
]  # fmt: skip
DtrMethod = Literal[
    "checkpoint_blocks", "checkpoint_sqrt", "selective_matmul", "selective_sdpa", "save_on_cpu", "activation_budget",
]  # fmt: skip
DtrExperiment = Literal[
    "simulate", "chain", "static", "budgets", "arms", "operators", "simulator", "memory", "reach", "fragmentation",
]  # fmt: skip


class Dtr(Section):
    """DTR: training under a budget of bytes, kept by evicting tensors and computing them again."""

    networks: list_of(DtrNetwork) | None = Field(None, examples=[["transformer"]])
    """The networks that are trained; null: resnet32, unet, lstm, treelstm and transformer in `smoke`, these and
    inceptionv4 in `quick`, else all."""

    sizes: Literal["small", "published"] | None = Field(None, examples=["published"])
    """The networks' sizes (docs/dtr.md); null: `published` on a GPU from `quick` on, else `small`."""

    logs: Literal["auto", "captured"] = Field("auto", examples=["captured"])
    """`auto`: the published logs are simulated too, where the mirror has them; `captured`: this machine's alone."""

    ratios: list_of(Ratio) | None = Field(None, examples=[[0.5, 0.8]])
    """Budgets of the simulator, as shares of a program's unbudgeted peak; null: 0.1, 0.2, … 1.0, and in `headline` in
    steps of 0.05."""

    draws: Positive | None = Field(None, examples=[10])
    """Seeds of the heuristic that draws lots; null: 3 in `smoke`, else 10."""

    budgets: list_of(Ratio) | None = Field(None, examples=[[0.5]])
    """Budgets of timed steps, as shares of the unbudgeted peak; null: 0.8 and 0.5 in `smoke`, else 1.0, 0.8, 0.6, 0.5,
    0.4 and 0.3, and of some networks the published ones."""

    heuristic: Literal["h_dtr_eq", "h_dtr", "h_local", "h_msps", "h_lru", "h_size", "h_rand"] = Field(
        "h_dtr_eq", examples=["h_lru"]
    )
    """What the runtime evicts by."""

    methods: list_of(DtrMethod) | None = Field(None, examples=[["checkpoint_blocks"]])
    """What else a user would take (docs/dtr.md); null: checkpoint_blocks and save_on_cpu in `smoke`, else all that the
    network and the device have."""

    caps_gib: list_of(Annotated[float, Field(gt=0)]) | None = Field(None, examples=[[4.0, 12.0]])
    """The memory under which `reach` searches, in GiB; one beyond the GPU's means all of it; null: 4 MiB in `smoke`,
    12 in `quick`, 12, 24 and 48 in `sweep`, 4, 8, 12, 24, 48 and 1024 in `headline`."""

    solver_s: Annotated[float, Field(gt=0)] | None = Field(None, examples=[60.0])
    """The longest time of one optimal plan, in seconds; null: 1 in `smoke`, else 60."""

    experiments: list_of(DtrExperiment) = Field(
        [
            "simulate", "chain", "static", "budgets", "arms", "operators", "simulator", "memory", "reach",
            "fragmentation",
        ],
        examples=[["simulate", "memory"]],
    )  # fmt: skip
    """`simulate`: logs under every budget and heuristic; `chain`: the chain of the theorem, and an adversary; `static`:
    plans made beforehand; `budgets`: the time of a step by the budget; `arms`: the same beside what a user would take;
    `operators`: the runtime's time for an operator; `simulator`: the simulator's time; `memory`: peaks, counters and
    predictions of each arm; `reach`: the largest batch, sequence or depth under a cap; `fragmentation`: a GPU's
    allocator over a step."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(0, examples=[0])
    """The seed of the networks' weights, their inputs and their dropout."""
