"""Which cases and arms DTR's campaign has, by preset and kind of device (frugal.dtr.cases has the table).

Read while planning: no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GIB = 2**30

STEPS = ("budgets", "arms", "operators", "simulator")  # timed, in sessions
COUNTED = ("simulate", "chain", "static", "memory", "reach", "fragmentation")
CAPTURED, PUBLISHED = "captured", "published"

# A step's sizes: batch is the number of rows or images. `published`: of the prototype's runs, and where there were none
# of the published logs; `small`: for a CPU, as little as still has more activations than parameters.
SIZES: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "published": {
        "resnet32": {"batch": 56, "h": 224, "w": 224},
        "resnet1202": {"batch": 64, "h": 32, "w": 32},
        "densenet100": {"batch": 32, "h": 32, "w": 32},
        "densenet121": {"batch": 84, "h": 224, "w": 224},
        "unet": {"batch": 6, "h": 416, "w": 608},
        "inceptionv4": {"batch": 64, "h": 299, "w": 299},
        "unrolled_gan": {"batch": 512, "hidden": 2048, "noise": 4096, "steps": 60},
        "lstm": {"batch": 512, "seq": 256, "input": 512, "hidden": 1700},
        "gru": {"batch": 512, "seq": 128, "input": 512, "hidden": 1700},
        "treelstm": {"batch": 640, "depth": 9, "input": 100, "hidden": 300},
        "transformer": {
            "batch": 10,
            "seq": 512,
            "target": 20,
            "layers": 12,
            "decoder_layers": 6,
            "hidden": 512,
            "heads": 16,
        },
    },
    "small": {
        "resnet32": {"batch": 8, "h": 32, "w": 32},
        "resnet1202": {"batch": 2, "h": 32, "w": 32},
        "densenet100": {"batch": 4, "h": 32, "w": 32},
        "densenet121": {"batch": 2, "h": 64, "w": 64},
        "unet": {"batch": 2, "h": 64, "w": 96, "width_divisor": 4},
        "inceptionv4": {"batch": 2, "h": 139, "w": 139, "width_divisor": 4},
        "unrolled_gan": {"batch": 64, "hidden": 64, "noise": 16, "steps": 3},
        "lstm": {"batch": 64, "seq": 16, "input": 32, "hidden": 64},
        "gru": {"batch": 64, "seq": 16, "input": 32, "hidden": 64},
        "treelstm": {"batch": 100, "depth": 4, "input": 10, "hidden": 300},
        "transformer": {
            "batch": 8,
            "seq": 64,
            "target": 20,
            "layers": 2,
            "decoder_layers": 2,
            "hidden": 64,
            "heads": 4,
        },
    },
}
# Budgets at which the paper says how slow a step is, in shares of the unbudgeted peak (workflow/claims.yaml).
PUBLISHED_BUDGETS = {"inceptionv4": (0.38,), "transformer": (0.42, 0.24), "treelstm": (0.45,)}

RATIO_STEPS = {"headline": 20}  # of the simulator between 0 and 1; else:
RATIO_STEPS_MORE = 10
NAMED = ("h_dtr", "h_dtr_eq", "h_local", "h_msps", "h_lru", "h_size")
ABLATIONS = tuple(
    f"ab.{above}.{below}"
    for above in ("e", "eq", "local", "one")
    for below in ("size_stale", "size", "stale", "none")
)  # fmt: skip
DRAWING = ("h_rand", "ab.one.none")
# Ways to deallocate beside `evict`; what maintains neighbourhoods or classes cannot be banished from.
DEALLOCATED = (("h_dtr", "ignore"), ("h_dtr_unopt", "ignore"), ("h_local", "ignore"),
               ("h_dtr_unopt", "banish"), ("h_local", "banish"))  # fmt: skip
E_STARS = ("lazy", "cached")

CHAIN_LAYERS = {"smoke": (8, 64, 128, 256)}  # else:
CHAIN_LAYERS_MORE = (8, 16, 64, 128, 256, 512, 1024, 2048, 4096)
CHAIN_BOUNDS = ("2sqrt", "sqrt", "log2")
CHAIN_HEURISTICS = ("h_dtr", "h_dtr_eq", "h_local", "h_lru", "h_size")
CHAIN_PLANNERS = ("chen_sqrt", "chen_greedy", "revolve")
MILP_LAYERS = 16  # a chain's, up to which the optimum is looked for
ADVERSARY_BUDGETS = {"smoke": (4, 8)}  # units; else:
ADVERSARY_BUDGETS_MORE = (4, 8, 16, 32)
ADVERSARY_LAYERS = {"smoke": 256}  # N; else:
ADVERSARY_LAYERS_MORE = 1024
ADVERSARY_HEURISTICS = ("h_dtr", "h_dtr_eq", "h_local", "h_lru")
RESIDENCY_LAYERS = 80

STATIC_RATIOS = {"smoke": (0.8, 0.5)}  # else:
STATIC_RATIOS_MORE = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
STATIC_HEURISTICS = ("h_dtr", "h_dtr_eq", "h_lru")
STATIC_CHAINS = {"smoke": (8,)}  # layers; else:
STATIC_CHAINS_MORE = (8, 12, 16, 32)

ARM_BUDGETS = (0.8, 0.5, 0.3)  # of dtr beside what a user would take, in `arms`; in `smoke` the section's first
GROUPS = {"eager": ("checkpoint_blocks", "checkpoint_sqrt", "selective_matmul", "selective_sdpa", "save_on_cpu"),
          "compiled": ("activation_budget",)}  # fmt: skip
COMPILED = GROUPS["compiled"]
ACTIVATION_BUDGETS = (0.0, 0.25, 0.5, 0.75, 1.0)
STATIC_GRAPHS = ("resnet32", "resnet1202", "densenet100", "densenet121", "unet", "inceptionv4", "transformer")
OPERATORS = {"smoke": 200, "quick": 1000}  # of one class in a chain; else:
OPERATORS_MORE = 2000
OPERATOR_CLASSES = ("add", "view", "in_place", "convolution")  # in `smoke`; else also:
OPERATOR_CLASSES_MORE = (*OPERATOR_CLASSES, "multiply", "many_results", "matrix", "dropout", "batch_norm")
SIMULATED_RATIO = 0.5

# What grows in `reach`, and the greatest that is tried: by preset `smoke`, else.
REACH = {
    "resnet1202": ("batch", 8, 1024),
    "unet": ("batch", 32, 1024),
    "transformer": ("batch", 64, 4096),
    "treelstm": ("depth", 8, 16),
    "lstm": ("seq", 64, 65536),
    "resnet32": ("batch", 64, 4096),
}
REACH_SMOKE = ("lstm",)
REACH_PROBES = {"smoke": 16}  # sizes between none and the greatest; else:
REACH_PROBES_MORE = 128
MOMENTS = 64
FRAGMENTED_BUDGETS = (0.8, 0.5, 0.3)


@dataclass(frozen=True)
class Subject:
    """A program: the axes of a case. sizes: of a captured one; more: axes of one experiment alone."""

    network: str
    sizes: tuple[tuple[str, int], ...] = ()
    more: tuple[tuple[str, object], ...] = ()

    def axes(self) -> dict[str, object]:
        """As the rows name them."""
        return {"network": self.network, **dict(self.sizes), **dict(self.more)}

    def columns(self) -> dict[str, object]:
        """Columns of the rows that repeat axes."""
        named = {"batch": "n", "h": "h", "w": "w"}
        return {"network": self.network} | {named[key]: value for key, value in self.sizes if key in named}

    def having(self, **more: object) -> Subject:
        """The same program with further axes."""
        return Subject(self.network, self.sizes, (*self.more, *more.items()))

    def grown(self, key: str, size: int) -> Subject:
        """The same program with another size."""
        return Subject(self.network, tuple((k, size if k == key else v) for k, v in self.sizes), self.more)


@dataclass(frozen=True)
class Method:
    """An arm: a heuristic, a planner or a way to train, with its settings."""

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def arm(self) -> str:
        """`dtr@budget=0.5`."""
        shown = ",".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.name}@{shown}" if shown else self.name

    @property
    def role(self) -> str:
        return "ours" if self.name == "dtr" or self.name.startswith(("h_", "ab.")) else "baseline"


def sizes(dtr: Mapping[str, object], kind: str) -> str:
    """`small` or `published`."""
    return str(dtr["sizes"] or ("published" if kind == "cuda" and dtr["preset"] != "smoke" else "small"))


def subject(dtr: Mapping[str, object], network: str, kind: str) -> Subject:
    """A network at the campaign's sizes."""
    return Subject(network, tuple(SIZES[sizes(dtr, kind)][network].items()))


def subjects(dtr: Mapping[str, object], kind: str) -> list[Subject]:
    """What is trained, in the configuration's order."""
    return [subject(dtr, network, kind) for network in dtr["networks"]]


# ---- the simulator ---------------------------------------------------------------------------------------------------


def ratios(dtr: Mapping[str, object]) -> list[float]:
    """Budgets of the simulator, ascending."""
    steps = RATIO_STEPS.get(str(dtr["preset"]), RATIO_STEPS_MORE)
    first = 1 if steps == RATIO_STEPS_MORE else 2  # 0.1
    return sorted(dtr["ratios"] or [number / steps for number in range(first, steps + 1)])


def simulated(dtr: Mapping[str, object]) -> list[Method]:
    """The arms of `simulate`, each at every ratio."""
    draws = [{"seed": seed} for seed in range(int(dtr["draws"]))]
    each: list[tuple[str, dict[str, object]]] = []
    for name in (*NAMED, "h_rand", "h_dtr_unopt", *ABLATIONS):
        each += [(name, more) for more in (draws if name in DRAWING else [{}])]
    each += [(name, {"dealloc": mode}) for name, mode in DEALLOCATED]
    each += [("h_dtr", {"e_star": how}) for how in E_STARS]
    return [Method(name, {"ratio": ratio, **more}) for name, more in each for ratio in ratios(dtr)]


def chain_layers(dtr: Mapping[str, object]) -> Sequence[int]:
    return CHAIN_LAYERS.get(str(dtr["preset"]), CHAIN_LAYERS_MORE)


def static_subjects(dtr: Mapping[str, object], kind: str) -> list[Subject]:
    """Programs whose graph is the same in every step; in `smoke` the first."""
    found = [each for each in subjects(dtr, kind) if each.network in STATIC_GRAPHS]
    return found[: 1 if dtr["preset"] == "smoke" else None]


def static_ratios(dtr: Mapping[str, object]) -> Sequence[float]:
    return STATIC_RATIOS.get(str(dtr["preset"]), STATIC_RATIOS_MORE)


def static_chains(dtr: Mapping[str, object]) -> Sequence[int]:
    """Layers of the chains whose optimum is looked for."""
    return STATIC_CHAINS.get(str(dtr["preset"]), STATIC_CHAINS_MORE)


def adversaries(dtr: Mapping[str, object]) -> list[tuple[int, int]]:
    """(N, B) of the graphs that an adversary makes."""
    layers = ADVERSARY_LAYERS.get(str(dtr["preset"]), ADVERSARY_LAYERS_MORE)
    return [(layers, budget) for budget in ADVERSARY_BUDGETS.get(str(dtr["preset"]), ADVERSARY_BUDGETS_MORE)]


# ---- steps -----------------------------------------------------------------------------------------------------------


def budgets(dtr: Mapping[str, object], subject: Subject) -> list[float]:
    """Shares of the unbudgeted peak, descending; of a network that the paper measured at its sizes also the paper's."""
    published = dict(subject.sizes) == SIZES["published"][subject.network]
    return sorted({*dtr["budgets"], *(PUBLISHED_BUDGETS.get(subject.network, ()) if published else ())}, reverse=True)


def budget_methods(dtr: Mapping[str, object], subject: Subject) -> list[Method]:
    """The arms of `budgets`."""
    within = [Method("dtr", {"budget": ratio}) for ratio in budgets(dtr, subject)]
    return [Method("plain"), Method("dtr"), *within]


def arm_methods(dtr: Mapping[str, object], subject: Subject, group: str, kind: str) -> list[Method]:
    """The arms of `arms`, as far as the network and the device have them; none but plain and dtr: no case."""
    others = []
    for name in dtr["methods"]:
        if name not in GROUPS[group] or (name in ("selective_matmul", "selective_sdpa", "activation_budget")
                                         and (subject.network not in STATIC_GRAPHS)):  # fmt: skip
            continue
        if name == "activation_budget":
            others += [Method(name, {"budget": share}) for share in ACTIVATION_BUDGETS] if kind == "cuda" else []
        else:
            others.append(Method(name))
    if not others:
        return []
    shares = dtr["budgets"][:1] if dtr["preset"] == "smoke" else ARM_BUDGETS
    return [Method("plain"), *(Method("dtr", {"budget": share}) for share in shares), *others]


def step_subjects(experiment: str, dtr: Mapping[str, object], kind: str) -> list[Subject]:
    """The cases of a timed experiment over steps of training; in `smoke` `arms` has one network."""
    found = subjects(dtr, kind)
    if experiment == "budgets":
        return found
    chosen = found[:1] if dtr["preset"] == "smoke" else found
    return [each.having(group=group) for each in chosen for group in GROUPS if arm_methods(dtr, each, group, kind)]


def step_methods(experiment: str, dtr: Mapping[str, object], subject: Subject, kind: str) -> list[Method]:
    if experiment == "budgets":
        return budget_methods(dtr, subject)
    return arm_methods(dtr, subject, str(dict(subject.more)["group"]), kind)


def timed_experiments(dtr: Mapping[str, object]) -> list[str]:
    return [name for name in STEPS if name in dtr["experiments"]]


def operator_classes(dtr: Mapping[str, object]) -> Sequence[str]:
    """The cases of `operators`."""
    return OPERATOR_CLASSES if dtr["preset"] == "smoke" else OPERATOR_CLASSES_MORE


def simulator_subjects(dtr: Mapping[str, object], kind: str) -> list[Subject]:
    """The cases of `simulator`; in `smoke` one."""
    return subjects(dtr, kind)[: 1 if dtr["preset"] == "smoke" else None]


def simulator_methods() -> list[Method]:
    """The arms of `simulator`."""
    return [
        *(Method(name) for name in ("h_dtr_eq", "h_local", "h_dtr")),
        *(Method("h_dtr", {"e_star": how}) for how in E_STARS),
    ]


def shards(dtr: Mapping[str, object], kind: str) -> list[str]:
    """Names of the jobs that time, one session each: in `smoke` one does all, so that little time goes to starts.

    Elsewhere `<experiment>-<network>`, `operators` and `simulator`: each stays within minutes on a GPU.
    """
    asked = timed_experiments(dtr)
    if dtr["preset"] == "smoke":
        return ["all"] if asked else []
    own = [name for name in ("operators", "simulator") if name in asked]
    steps = [f"{name}-{each.network}" for name in ("budgets", "arms") if name in asked
             for each in step_subjects(name, dtr, kind)]  # fmt: skip
    return [*dict.fromkeys(steps), *own]


def of_shard(name: str, dtr: Mapping[str, object], kind: str) -> list[tuple[str, Subject]]:
    """(experiment, case) over steps of training of a job."""
    return [
        (experiment, each)
        for experiment in ("budgets", "arms")
        if experiment in dtr["experiments"]
        for each in step_subjects(experiment, dtr, kind)
        if name in ("all", f"{experiment}-{each.network}")
    ]


def memory_methods(dtr: Mapping[str, object], subject: Subject, kind: str) -> list[Method]:
    """The arms of `memory`: each of `budgets` and of `arms` once."""
    found = budget_methods(dtr, subject)
    if dtr["preset"] != "smoke" or subject.network == dtr["networks"][0]:
        for group in GROUPS:
            found += arm_methods(dtr, subject, group, kind)
    return list({method.arm: method for method in found}.values())


def reach_subjects(dtr: Mapping[str, object], kind: str) -> list[tuple[Subject, str, int]]:
    """(program, what grows, the greatest that is tried); in `smoke` two small programs."""
    smoke = dtr["preset"] == "smoke"
    wanted = [name for name in dtr["networks"] if name in (REACH_SMOKE if smoke else REACH)]
    found = []
    for name in wanted:
        key, small, large = REACH[name]
        found.append((subject(dtr, name, kind), key, small if smoke else large))
        if name == "transformer" and not smoke:  # published at two lengths
            found.append((subject(dtr, name, kind).grown("seq", 256), key, large))
    return found


def reach_step(dtr: Mapping[str, object], high: int) -> int:
    """Between two sizes that are tried."""
    return max(1, high // REACH_PROBES.get(str(dtr["preset"]), REACH_PROBES_MORE))


def reach_shard(subject: Subject, cap_gib: float) -> str:
    """The job of a program under a cap: `transformer-12gib`."""
    return f"{subject.network}-{cap_gib:g}gib"


def reach_methods(dtr: Mapping[str, object], subject: Subject) -> list[Method]:
    """Arms of `reach`, eager ones: what is compiled would be compiled anew for each size."""
    eager = [Method(m.name) for m in arm_methods(dtr, subject, "eager", "cuda") if m.name not in ("plain", "dtr")]
    return [Method("plain"), Method("dtr"), *eager]


def fragmentation_methods() -> list[Method]:
    """The arms of `fragmentation`."""
    within = [Method("dtr", {"budget": share}) for share in FRAGMENTED_BUDGETS]
    return [Method(m.name, {**m.settings, "expandable": how}) for m in (Method("plain"), *within) for how in (0, 1)]


def counted_shards(experiment: str, dtr: Mapping[str, object], kind: str) -> list[str]:
    """Names of the jobs of an experiment that is not timed: in `smoke` one; else one a program where that takes long.

    Published logs come beside, as `<name>-published`, where they can be had.
    """
    if dtr["preset"] == "smoke" or experiment == "chain":
        return ["all"]
    if experiment == "simulate":
        return [f"{name}-{CAPTURED}" for name in dtr["networks"]]
    if experiment == "static":
        return ["chains", *(f"{each.network}-{CAPTURED}" for each in static_subjects(dtr, kind))]
    if experiment == "reach":
        subjects_of = [each for each, _, _ in reach_subjects(dtr, kind)]
        return list(dict.fromkeys(reach_shard(each, cap) for each in subjects_of for cap in dtr["caps_gib"]))
    return list(dtr["networks"])


def of_logs(dtr: Mapping[str, object]) -> list[str]:
    """The experiments that a published log takes part in; plans in those presets that have the time."""
    smoke = dtr["preset"] == "smoke"
    return [name for name in ("simulate", "static") if name in dtr["experiments"] and not (smoke and name == "static")]


def counted(dtr: Mapping[str, object], kind: str) -> list[str]:
    """The experiments that are not timed; what looks at a GPU's allocator needs one."""
    return [name for name in COUNTED if name in dtr["experiments"] and (name != "fragmentation" or kind == "cuda")]
