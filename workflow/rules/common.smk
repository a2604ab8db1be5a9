# The functions that rules share. No rule stands here, and no function stands beside a rule. Nothing here looks at the
# machine: parameters that depend on it would differ between a cluster's head node and its jobs and rerun everything.
import hashlib
import json
import time

from snakemake.exceptions import WorkflowError

# The library is found beside this file, so that the workflow also runs as a module and without an installation.
REPOSITORY = Path(workflow.current_basedir).parent.parent
LIBRARY = [str(REPOSITORY / "workflow"), str(REPOSITORY)]
sys.path[:0] = [folder for folder in LIBRARY if folder not in sys.path]

from frugal import config as campaign
from frugal import script as adapter  # `script` is a word of Snakemake
from frugal.controls.builds import builds as control_builds
from frugal.cusnn.builds import builds as cusnn_builds
from frugal.cusnn.network_offered import measured as measured_networks
from frugal.data import choose
from frugal.data import sources as data_sources
from frugal.dtr import offered as dtr_offered
from frugal.doctor.reach import logs as published_logs
from frugal.errors import FrugalError
from frugal.preprocess import preprocess
from frugal.provenance import new_ulid, source_hash
from frugal.sft import offered as sft_offered
from frugal.sft import shards as sft_shards
from frugal.sft.stems import builds as pair_builds

STARTED = time.time()
adapter.hand_down(LIBRARY, campaign_id=new_ulid())

try:
    config.update(campaign.typed(config, workflow.config_settings.config))
    CONFIG = campaign.load(config)
    SOURCES = data_sources.load()
    NETWORKS = campaign.networks(CONFIG)
    OWN_WEIGHTS = choose.own_weights(CONFIG.cusnn.weights, SOURCES, NETWORKS, CONFIG.cusnn.definition)
    OWN_IMAGES = choose.own_images(CONFIG.data.images)
    RECORDED = choose.recorded(CONFIG.recorded, REPOSITORY / "results" / "recorded")
except FrugalError as problem:
    raise WorkflowError(str(problem)) from None

SESSIONS = campaign.sessions(CONFIG)
# The section `cusnn` with each of the preset's numbers filled in.
CUSNN = campaign.cusnn(CONFIG)
# The same of the section `sft`, and where its images are written, once a size.
SFT = campaign.sft(CONFIG)
MOSAICS = "data/mosaics"
# The same of the section `dtr`, and the published logs that it simulates where they can be had.
DTR = campaign.dtr(CONFIG)
PUBLISHED_LOGS = published_logs(CONFIG, SOURCES)
LABELS = sorted(CONFIG.devices)
# The pinned tools, for what they build: without conda a new compiler would go unnoticed.
TOOLS = hashlib.sha256((REPOSITORY / "envs" / "constraints.txt").read_bytes()).hexdigest()
# What one session depends on: more sessions, another margin or a permission measure nothing anew.
JUDGING_KEYS = {"sessions", "margin_kernel", "margin_end_to_end", "clock_shift_min", "force"}
SESSION_KEYS = set(type(CONFIG.timing).model_fields) - JUDGING_KEYS
RAW = f"<results>/raw/{CONFIG.preset}"
SYSTEM_NAMES = {"cusnn": "cuSNN", "sft": "SFT", "dtr": "DTR", "method": "Method"}
# What of the section `cusnn` each experiment on layers depends on.
ARM_KEYS = ("batch_sizes", "ours", "baselines", "regimes", "deterministic", "variants")
LAYER_KEYS = {
    "layers": (*ARM_KEYS, "layers", "kernel_sizes"),
    "break_even": (*ARM_KEYS, "kernel_sizes", "sparsities"),
    "ladder": ARM_KEYS,
}
CUSNN_FIGURES = [
    "cusnn_sparsity",
    "cusnn_layer_speedup",
    "cusnn_layer_time",
    "cusnn_break_even",
    "cusnn_end_to_end",
    "cusnn_energy",
    "cusnn_ladder",
    "cusnn_gain",
    "cusnn_error",
    "cusnn_prediction",
    "cusnn_roofline",
]
# What of the section `sft` each of its experiments depends on.
SFT_CASES = (
    "networks",
    "width_divisor",
    "sizes",
    "beside",
    "batch_sizes",
    "precisions",
    "channels_last",
    "norms",
    "inputs",
    "seed",
)
SFT_ARMS = ("methods", "checkpoint_segments", "tiles", "budgets_gib", "host_budget_gib")
SFT_KEYS = {
    "steps": (*SFT_CASES, *SFT_ARMS),
    "memory": (*SFT_CASES, *SFT_ARMS),
    "largest": (*SFT_CASES, "checkpoint_segments", "host_budget_gib", "caps_gib"),
    "macs": ("networks", "seed"),
    "prediction": SFT_CASES,
    "exactness": ("networks", "norms", "seed"),
    "training": ("width_divisor", "sizes", "seed"),
    "counted": (*SFT_CASES, *SFT_ARMS, "caps_gib", "experiments"),
}
SFT_FIGURES = [
    "sft_time_vs_size",
    "sft_max_size",
    "sft_macs",
    "sft_pareto",
    "sft_prediction",
    "sft_exactness",
    "sft_tile_rate",
    "sft_streaming",
    "sft_trajectory",
    "sft_kernel",
]
# What of the section `dtr` each of its experiments depends on.
DTR_CASES = ("networks", "sizes", "seed")
DTR_ARMS = ("budgets", "methods", "heuristic")
DTR_KEYS = {
    "capture": DTR_CASES,
    "steps": (*DTR_CASES, *DTR_ARMS),
    "simulate": (*DTR_CASES, "ratios", "draws"),
    "chain": ("seed", "solver_s"),
    "static": (*DTR_CASES, "solver_s"),
    "memory": (*DTR_CASES, *DTR_ARMS),
    "reach": (*DTR_CASES, *DTR_ARMS, "caps_gib"),
    "fragmentation": (*DTR_CASES, "heuristic"),
}
DTR_FIGURES = [
    "dtr_pareto",
    "dtr_ablation",
    "dtr_dealloc",
    "dtr_accesses",
    "dtr_chain",
    "dtr_static",
    "dtr_prototype",
    "dtr_predicted_measured",
    "dtr_arms",
    "dtr_reach",
    "dtr_overhead",
    "dtr_fragmentation",
]
METHOD_FIGURES = ["method_equal", "method_noise"]
FIGURES = [
    *(CUSNN_FIGURES if "cusnn" in CONFIG.systems else []),
    *(SFT_FIGURES if "sft" in CONFIG.systems else []),
    *(DTR_FIGURES if "dtr" in CONFIG.systems else []),
    *(METHOD_FIGURES if "method" in CONFIG.systems else []),
]


# ---- data ------------------------------------------------------------------------------------------------------------


def weight_sources(network):
    """The published weights of a network, best first; none where the user has weights or wants synthetic ones."""
    return choose.weight_files(SOURCES, network, CONFIG.cusnn.definition) if CONFIG.cusnn.weights == "auto" else []


def image_sources():
    """The published image sets, best first; none where the user has images."""
    return [] if CONFIG.data.images else choose.image_files(SOURCES)


def source_groups():
    """The files of data/sources.yaml that this campaign would use: for the images and each network, its alternatives."""
    logs = [[name] for name in PUBLISHED_LOGS.values()]
    return [image_sources(), *(weight_sources(network) for network in NETWORKS), *logs]


def downloaded(names):
    """The first of the files that the probe found, as the path of its download; none: what stands in is used."""
    with checkpoints.sources.get().output[0].open() as file:
        found = json.load(file)
    return [f"data/downloads/{name}" for name in names if found[name]["where"] != "none"][:1]


def weights_input(wildcards):
    """The file that a network's weights are made of: the user's own, a download, or none (synthetic weights)."""
    own = OWN_WEIGHTS.get(wildcards.network)
    return [own] if own else downloaded(weight_sources(wildcards.network))


def images_input(wildcards):
    """The user's images, a download, or none (the photographs that the Python packages ship)."""
    return OWN_IMAGES or downloaded(image_sources())


def bin_of(network):
    """The image file with the preprocessing that belongs to a network's weights."""
    return f"data/bins/{preprocess(network, CONFIG.cusnn.definition)}.bin"


def weights_of(network):
    """A network's weights, converted."""
    return f"data/weights/{network}-{CONFIG.cusnn.definition}.safetensors"


# ---- kernels ---------------------------------------------------------------------------------------------------------


def kernel_reports(wildcards):
    """The kernels that a machine's session of cuSNN needs, as their reports: known once the machine is."""
    device = described(wildcards)
    sparse = cusnn_builds(CUSNN, CONFIG.kernels.capabilities, device)
    return [*reports("sparse", sparse), *control_reports(wildcards)]


def pair_reports(wildcards):
    """The kernels that a session of SFT's pairs of layers needs."""
    built = pair_builds(SFT, CONFIG.kernels.capabilities, described(wildcards))
    return [*reports("tiled", built), *control_reports(wildcards)]


def control_reports(wildcards):
    """The kernels of the controls, which every timing session measures."""
    return reports("control", control_builds(CONFIG.kernels.capabilities, described(wildcards)))


def described(wildcards):
    """The machine that measures, as its device file says."""
    return machine_of(wildcards.label)


def machine_of(label):
    """The same of a label."""
    with checkpoints.device.get(label=label).output[0].open() as file:
        return json.load(file)


def reports(family, builds):
    return [
        f"<results>/kernels/{family}/{variant}.sm_{capability.replace('.', '')}.json" for variant, capability in builds
    ]


# ---- timing ----------------------------------------------------------------------------------------------------------


def device_key(wildcards, input):
    """Which machine a session is for, so that a result is never taken for another machine's."""
    with open(input.device) as file:
        return json.load(file)["device_key"]


def network_inputs(wildcards, made):
    """The weights or the images (`made`: a network's) of an experiment on layers; the ladder has shapes of its own."""
    return [] if wildcards.experiment == "ladder" else [made(network) for network in NETWORKS]


def cusnn_params(*keys):
    """The keys of the section `cusnn` that a rule depends on, as its parameter."""
    return {key: CUSNN[key] for key in ("preset", *keys)}


def sft_params(experiment="steps"):
    """The keys of the section `sft` that an experiment depends on, as a rule's parameter."""
    timed = {"experiments": [name for name in SFT["experiments"] if name in sft_offered.STEPS]}
    known = {key: SFT[key] for key in ("preset", *SFT_KEYS[experiment])}
    return known | timed if experiment in ("steps", "memory") else known


def counted_modules(job):
    """The modules of a job of SFT's that times nothing."""
    return ["frugal.sft.rows", *(f"frugal.sft.count_{name}" for name in sft_shards.experiments(job, SFT))]


def dtr_params(experiment="steps"):
    """The keys of the section `dtr` that an experiment depends on, as a rule's parameter."""
    known = {key: DTR[key] for key in ("preset", *DTR_KEYS[experiment])}
    timed = {"experiments": [name for name in DTR["experiments"] if name in dtr_offered.STEPS]}
    return known | timed if experiment == "steps" else known


def captured_files(label):
    """The logs of a machine's own steps, and their costs."""
    return [
        f"<results>/dtr/logs/{label}/{network}.{suffix}"
        for network in DTR["networks"]
        for suffix in ("dtrlog.parquet", "costs.json")
    ]


def log_inputs(wildcards):
    """What an experiment of DTR's that is not timed reads: the captured logs, or the published one that it names."""
    name, _, origin = wildcards.shard.rpartition("-")
    if origin == dtr_offered.PUBLISHED:
        return [f"data/downloads/{PUBLISHED_LOGS[name]}"]
    return [] if wildcards.experiment == "chain" else captured_files(wildcards.label)


def network_plans(wildcards):
    """The measured choices that whole networks run with: on a GPU, where the policy leaves a choice."""
    if CONFIG.cusnn.policy != "auto" or described(wildcards)["device_kind"] != "cuda":
        return []
    cases = measured_networks(CONFIG.preset, NETWORKS, CUSNN["batch_sizes"])
    return [f"<results>/cusnn/plans/{wildcards.label}/{network}-b{batch}.json" for network, batch in cases]


def timing_threads(wildcards):
    """A timing job has the machine to itself: all cores that Snakemake was given."""
    return CONFIG.timing.threads or workflow.cores or 1


# ---- records and figures ---------------------------------------------------------------------------------------------


def checkpoint_files():
    """What the checkpoints of this campaign write."""
    sources = ["data/availability.json"] if set(CONFIG.systems) - {"method"} else []
    return [*sources, *expand("<results>/device/{label}.json", label=LABELS)]


def raw_files(wildcards):
    """Every file of rows that this campaign makes; which of SFT's, depends on the machines that measure."""
    files = []
    if "cusnn" in CONFIG.systems:
        if "sparsity" in CONFIG.cusnn.experiments:
            files += expand(f"{RAW}/{{label}}/cusnn/sparsity/{{network}}.parquet", label=LABELS, network=NETWORKS)
        files += expand(
            f"{RAW}/{{label}}/cusnn/{{experiment}}/session-{{k}}.parquet",
            label=LABELS,
            experiment=[name for name in campaign.CUSNN_TIMED if name in CONFIG.cusnn.experiments],
            k=range(SESSIONS),
        )
    if "sft" in CONFIG.systems:
        for label in LABELS:
            files += [f"{RAW}/{label}/sft/{name}.parquet" for name in sft_files(machine_of(label)["device_kind"])]
    if "dtr" in CONFIG.systems:
        for label in LABELS:
            files += [f"{RAW}/{label}/dtr/{name}.parquet" for name in dtr_files(machine_of(label)["device_kind"])]
    if "method" in CONFIG.systems:
        files += expand(
            f"{RAW}/{{label}}/method/{{experiment}}/session-{{k}}.parquet",
            label=LABELS,
            experiment=CONFIG.method.experiments,
            k=range(SESSIONS),
        )
    return files


def sft_files(kind):
    """SFT's files of rows on a machine of a kind, without their suffix."""
    timed = [f"steps/{shard}" for shard in sft_shards.steps(SFT, kind)]
    timed += ["kernels"] if "kernels" in SFT["experiments"] else []
    return [
        *(f"{name}/session-{k}" for name in timed for k in range(SESSIONS)),
        *(f"{job}/{shard}" for job, shard in sft_shards.counted(SFT, kind)),
    ]


def dtr_files(kind):
    """DTR's files of rows on a machine of a kind, without their suffix; published logs where they can be had."""
    there = [name for name, file in PUBLISHED_LOGS.items() if downloaded([file])]
    return [
        *(f"steps/{shard}/session-{k}" for shard in dtr_offered.shards(DTR, kind) for k in range(SESSIONS)),
        *(
            f"{name}/{shard}"
            for name in dtr_offered.counted(DTR, kind)
            for shard in dtr_offered.counted_shards(name, DTR, kind)
        ),
        *(f"{name}/{log}-published" for name in dtr_offered.of_logs(DTR) for log in there),
    ]


def dtr_tables():
    """What DTR writes beside its figures: which values are there on a chain, and the largest sizes under caps."""
    tables = ["<results>/dtr/residency.parquet"] if "chain" in DTR["experiments"] else []
    return tables + (["<results>/dtr/reach.csv"] if "reach" in DTR["experiments"] else [])


def cusnn_tables():
    """What cuSNN writes beside its figures: the layers' times as CSV, and the break-even table."""
    asked, tables = CONFIG.cusnn.experiments, []
    if "layers" in asked and 3 in CONFIG.cusnn.kernel_sizes:
        batches = CUSNN["batch_sizes"]
        tables += expand("<results>/cusnn/layers_{network}_b{batch}.csv", network=NETWORKS, batch=batches)
    if "break_even" in asked:
        tables.append("<results>/cusnn/break_even.csv")
    return tables


def recorded_files():
    """The tables of the recorded campaigns that the configuration names and this copy of the project holds."""
    return sorted(str(path) for folder in RECORDED for path in folder.glob("*.parquet"))


def claims_hash():
    """The claims and the published numbers: an edit of either judges anew."""
    claims = (REPOSITORY / "workflow" / "claims.yaml").read_bytes()
    return hashlib.sha256(claims + published_hash().encode()).hexdigest()


def published_hash():
    """The published numbers, which figures draw too."""
    files = sorted((REPOSITORY / "workflow" / "paper").glob("*.csv"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def figure_files(names):
    return expand("<results>/figures/{name}.{format}", name=names, format=["png", "svg", "pdf"])


# ---- words -----------------------------------------------------------------------------------------------------------


def tell_failures():
    """After a failed run: the cause of each failure, its log, and what to type next."""
    found = adapter.failures(Path("logs"), STARTED)
    for path, cause in found:
        print(f"\n{path}\n    {cause}", file=sys.stderr)
    print(
        f"\n{len(found) or 'Some'} job(s) failed; their causes are above and in the logs. Finished work is kept: mend the"
        " cause and run the same command again.",
        file=sys.stderr,
    )
