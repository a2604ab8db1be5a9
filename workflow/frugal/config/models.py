"""The keys of `config.yaml`: their types, limits, defaults and, as docstrings, their meaning.

This is the one source: the JSON schema, the committed `config.yaml`, the table in the documentation and the text of
every error are made from it. `null` always means "what the preset or the machine says".
"""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from .dtr_section import Dtr
from .section import NonEmpty, Positive, Section, list_of

Preset = Literal["smoke", "quick", "sweep", "headline"]
Regime = Literal["cold", "hot", "graph", "graph_rotated", "wall"]
System = Literal["cusnn", "sft", "dtr", "method"]
MethodExperiment = Literal["equal", "noise", "energy"]
Network = Literal["densenet121", "densenet169", "densenet201", "resnet50", "resnet101", "resnet152"]
Definition = Literal["torchvision_v1.5", "keras_v1"]
Baseline = Literal[
    "cudnn_fp32", "cudnn_fp32_cl", "cudnn_tf32", "cudnn_tf32_cl", "cudnn_fp16_cl",
    "torch_compile_fp32", "torch_compile_tf32", "onednn_fp32", "onednn_fp32_cl", "gemm_fp32",
]  # fmt: skip
Ours = Literal["sparse", "dense_twin", "paper_scheme", "paper_dispatch"]
CusnnExperiment = Literal["sparsity", "layers", "break_even", "ladder", "networks"]
SftNetwork = Literal[
    "vgg16", "vgg16_bn", "darknet19", "darknet19_bn", "resnet18", "resnet34", "resnet50", "unet_small",
]  # fmt: skip
SftMethod = Literal[
    "vanilla", "checkpoint", "checkpoint_blocks", "save_on_cpu", "compile", "activation_budget", "sft_artifact",
    "tiled_1seg", "tiled", "strips", "planned",
]  # fmt: skip
SftExperiment = Literal[
    "sizes", "pareto", "tile_rate", "streaming", "memory", "largest", "macs", "prediction", "exactness", "training",
    "kernels",
]  # fmt: skip
# What NVVM of CUDA 13 can target.
Capability = Literal["7.5", "8.0", "8.6", "8.7", "8.8", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"]


def _even(rounds: int) -> int:
    if rounds % 2:
        raise ValueError("rounds must be even: a palindrome has two")
    return rounds


def _folder_or_url(mirror: str) -> str:
    url = urlsplit(mirror)
    is_url = url.scheme in ("http", "https") and bool(url.netloc)
    if not is_url and not Path(mirror).is_dir():
        raise ValueError("it is neither a folder that exists nor an http(s) URL")
    return mirror


def _relabelled(labels: dict) -> dict:
    bad = [label for label in labels if not (label.isascii() and label.replace("_", "").isalnum() and label.islower())]
    if bad or not labels:
        raise ValueError(
            "there must be at least one label, and a label holds only lower-case letters, digits and _"
            + (f", unlike {', '.join(bad)}" if bad else "")
        )
    return labels


class DeviceLabel(Section):
    """One kind of machine that measures. `{}` is right for the machine where the workflow runs."""

    kind: Literal["auto", "cpu", "cuda"] = Field("auto", examples=["cpu"])
    """What measures: `auto` takes the first visible NVIDIA GPU and, where there is none, the CPU."""


class Container(Section):
    """The container in which jobs run when Snakemake is called with `--sdm apptainer`."""

    image: NonEmpty | None = Field(None, examples=["docker://example.org/frugal:0.1.0"])
    """The image, as Snakemake's `container:` takes it; null: none."""


class Timing(Section):
    """How much is measured, and by which rules. A null takes the number of the preset (docs/methodology.md)."""

    sessions: Positive | None = Field(None, examples=[8])
    """Fresh processes that each measure every case: the top level of variance. Raising it later adds sessions."""

    rounds: Annotated[int, Field(ge=2, json_schema_extra={"multipleOf": 2}), AfterValidator(_even)] | None = Field(
        None, examples=[2]
    )
    """Blocks of each implementation in one session. Two rounds make one palindrome, in which linear drift cancels."""

    n_min: Positive | None = Field(None, examples=[30])
    """The fewest samples of a block. Below 6 a block's median has no confidence interval."""

    block_min_s: Annotated[float, Field(ge=0)] | None = Field(None, examples=[0.25])
    """The shortest time of a block, in seconds."""

    block_max_s: Annotated[float, Field(gt=0)] | None = Field(None, examples=[2.0])
    """The longest time of a block, in seconds. A slow implementation still gets three samples."""

    margin_kernel: Annotated[float, Field(gt=0, lt=1)] = Field(0.01, examples=[0.01])
    """Two kernels or layers within this fraction of each other are called the same; in `quick` at least 0.05."""

    margin_end_to_end: Annotated[float, Field(gt=0, lt=1)] = Field(0.02, examples=[0.02])
    """The same for whole networks, training steps and searches; in `quick` at least 0.05."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(1, examples=[1])
    """The campaign's seed: inputs and the order of cases and implementations follow from it."""

    regimes: list_of(Regime) | None = Field(None, examples=[["graph", "wall"]])
    """The regimes to measure in (docs/methodology.md); null: those that each implementation names as its own."""

    flush: Literal["write", "write_read"] = Field("write", examples=["write"])
    """How the cache is emptied before a cold sample. `write_read` reads a clean buffer after writing, so that no dirty
    line is written back during the sample."""

    spin_factor: Annotated[float, Field(ge=1)] = Field(2.0, examples=[2.0])
    """How many times the host's enqueue time the GPU spins before a sample, so that the host is never what is timed."""

    threads: Positive | None = Field(None, examples=[8])
    """CPU threads of a timing job; null: all cores that the job has."""

    affinity: list_of(Annotated[int, Field(ge=0)]) | None = Field(None, examples=[[0, 1]])
    """The CPUs (their numbers) that a timing job is bound to; null: it is left where the system puts it."""

    case_timeout_s: Annotated[float, Field(gt=0)] | None = Field(None, examples=[120.0])
    """How long one step of an implementation may take (a verification, a block), in seconds. A slow one gets its three
    samples within this time; one that hangs is stopped after it and its rows say `timeout`. Null: 20 in `smoke`, else
    120."""

    first_call_timeout_s: Annotated[float, Field(gt=0)] = Field(600.0, examples=[600.0])
    """The same for an implementation's first call, which may compile and tune."""

    energy: bool | None = Field(None, examples=[True])
    """Whether energy is measured where a case asks for it; null: on a GPU, from `quick` on."""

    energy_span_s: Annotated[float, Field(ge=2)] = Field(5.0, examples=[5.0])
    """The shortest span of an energy measurement, in seconds: the counter ticks ten times a second."""

    poll_s: Annotated[float, Field(ge=0.01, le=1)] = Field(0.05, examples=[0.05])
    """How often clocks, temperature and power are read beside the timing, in seconds. A clock is read in steps of
    15 MHz, so that a block needs several reads: 50 ms give five in the shortest block of `headline`."""

    discard_clock_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.75, examples=[0.75])
    """A sample taken at less than this fraction of the settled clock is left out, unless the power cap did it: the
    device was slowed down."""

    clock_shift_min: Annotated[float, Field(ge=0, lt=1)] = Field(0.002, examples=[0.002])
    """Two implementations whose mean clocks differ by more than this fraction are also compared in clock cycles."""

    force: bool = Field(False, examples=[True])
    """Run `headline` on a CPU all the same; its rows keep `hardware_class` cpu."""

    cooldown_s: Annotated[float, Field(ge=0)] = Field(0.0, examples=[10.0])
    """Rest before each session, in seconds, so that one session's heat is not the next one's."""


class Data(Section):
    """The images that the networks see."""

    images: NonEmpty | None = Field(None, examples=["photographs/"])
    """A folder of images, one image, or a `.bin` that `frugal image-to-bin` wrote; null: the photographs that come with
    the Python packages."""

    n_images: Positive = Field(32, examples=[32])
    """The most images that are used."""

    size: Annotated[int, Field(ge=32, le=1024)] = Field(224, examples=[224])
    """Height and width of a network's input, in pixels."""


class Kernels(Section):
    """What is built without a GPU."""

    capabilities: list_of(Capability) = Field(["7.5", "8.0", "8.9", "9.0"], examples=[["8.0", "9.0"]])
    """The compute capabilities to build kernels for where there is no GPU; else its own alone. Text, so in quotes."""


class Cusnn(Section):
    """cuSNN: convolutions that skip the zeros which ReLU leaves."""

    networks: list_of(Network) = Field(["densenet169", "resnet50"], examples=[["resnet50"]])
    """The networks that are measured, whole and layer by layer."""

    definition: Definition = Field("torchvision_v1.5", examples=["keras_v1"])
    """Where a ResNet strides: on the 3×3 convolution (`torchvision_v1.5`), or on the first 1×1 (`keras_v1`: what the
    paper timed). A DenseNet is the same graph in both."""

    weights: NonEmpty = Field("auto", examples=["synthetic"])
    """`auto`: published weights where the network or the mirror has them, else synthetic; `synthetic`: random weights
    whose biases give each layer its published sparsity; or a path to a folder of weight files or to one file."""

    batch_sizes: list_of(Positive) | None = Field(None, examples=[[1, 8]])
    """Images in one call; null: 1 and 2 in `smoke`, else 1 and 8."""

    experiments: list_of(CusnnExperiment) = Field(
        ["sparsity", "layers", "break_even", "ladder", "networks"], examples=[["layers", "networks"]]
    )
    """`sparsity`: the zeros in each layer's input; `layers`: the time of single layers; `break_even`: the same at
    chosen sparsities; `ladder`: our kernels step by step, and what each choice in the last one is worth;
    `networks`: time, energy and memory of whole networks."""

    layers: Literal["distinct", "all"] = Field("distinct", examples=["all"])
    """`distinct`: each shape once (in `smoke` three of them); `all`: each layer with its own input."""

    kernel_sizes: list_of(Literal[1, 3]) = Field([3, 1], examples=[[3]])
    """Which convolutions are layers to be measured: 3×3, 1×1 or both; those of stride 1 and 2."""

    sparsities: list_of(Annotated[float, Field(ge=0, le=1)]) | None = Field(None, examples=[[0.0, 0.5, 0.9]])
    """Shares of zeros at which `break_even` measures; null: three in `smoke`, five in `quick`, else nine."""

    ours: list_of(Ours) = Field(["sparse", "dense_twin"], examples=[["sparse"]])
    """Which of our kernels are measured: `sparse` skips zeros, `dense_twin` is the same code without skipping,
    `paper_scheme` is the paper's own scheme, and `paper_dispatch` the same with its choice between sparse and dense
    (the latter two on a GPU)."""

    baselines: list_of(Baseline, at_least=0) = Field(
        [
            "cudnn_fp32",
            "cudnn_fp32_cl",
            "cudnn_tf32",
            "cudnn_tf32_cl",
            "cudnn_fp16_cl",
            "torch_compile_fp32",
            "torch_compile_tf32",
            "onednn_fp32",
            "onednn_fp32_cl",
        ],
        examples=[["cudnn_fp32", "cudnn_tf32"]],
    )
    """What ours is measured beside, as far as the machine has it: cuDNN on a GPU, oneDNN on a CPU. `_cl` means
    channels-last; `torch_compile`: with max-autotune, on a GPU, for DenseNet-169 and ResNet-50 at batch 1 and 8 (to
    tune all takes hours); `gemm_fp32`: one matrix product, a stand-in for the algorithms that the paper allowed
    cuDNN."""

    regimes: list_of(Regime) | None = Field(None, examples=[["graph"]])
    """The regimes of this system; null: those of `timing.regimes`."""

    deterministic: bool = Field(True, examples=[False])
    """Whether our kernels add up in a fixed order, so that two runs agree bit for bit."""

    policy: Literal["auto", "always", "never"] = Field("auto", examples=["never"])
    """Which layers of a whole network skip zeros: those where skipping pays, `always` all, or `never` any (the dense
    twins)."""

    variants: list_of(NonEmpty, at_least=0) = Field([], examples=[["v3_ballot_k3s1_t6x7_o1_w8_skip_row_m4"]])
    """Names of further kernels to build and to choose from."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(1, examples=[1])
    """The seed of synthetic weights."""


class Sft(Section):
    """SFT: training on images whose activations do not fit."""

    networks: list_of(SftNetwork) | None = Field(None, examples=[["vgg16"]])
    """The networks that are trained; null: vgg16, darknet19 and resnet18 in `smoke` and `quick`, else vgg16, darknet19,
    resnet50 and unet_small."""

    width_divisor: Literal[1, 4, 8, 16] | None = Field(None, examples=[4])
    """What the networks' channels are divided by; null: 16 in `smoke`, 4 in `quick`, else 1."""

    sizes: list_of(Annotated[int, Field(ge=32, multiple_of=32)]) | None = Field(None, examples=[[1024, 2048]])
    """Sides of the square images, in pixels, multiples of 32; null: 256 and 512 in `smoke`, 1024 and 2048 in `quick`,
    up to 10240 in `sweep`, and in `headline` the published ones up to 20480, with 4096 × 1536 and batches of 2 and
    4 at 2048 beside them."""

    batch_sizes: list_of(Positive) = Field([1], examples=[[1, 2]])
    """Images in one step."""

    methods: list_of(SftMethod) | None = Field(None, examples=[["vanilla", "planned"]])
    """Ways to train (docs/sft.md); null: in `smoke` those that a first look needs, else all that the device has."""

    checkpoint_segments: Annotated[int, Field(ge=2, le=20)] = Field(5, examples=[5])
    """Into how many segments the method `checkpoint` cuts a chain."""

    tiles: Positive | None = Field(None, examples=[8])
    """Tiles on a side of `sft_artifact` and `tiled_1seg`; null: 2 in `smoke`, else what was published for a size: 4,
    from 4096 pixels on 8, from 10240 on 16, from 20480 on 32."""

    precisions: list_of(Literal["fp32", "tf32", "bf16"]) | None = Field(None, examples=[["fp32"]])
    """`bf16` is autocast; null: fp32 in `smoke` and `quick`, fp32 and bf16 in `sweep`, all in `headline`, and on a CPU
    fp32 alone."""

    channels_last: Literal["auto", "on", "off", "both"] = Field("auto", examples=["both"])
    """The layout of networks and images: `auto` is channels-last for bf16 alone."""

    norms: Literal["frozen", "train"] = Field("frozen", examples=["train"])
    """Whether batch norms use their running statistics or those of the image; `training` always takes the image's."""

    inputs: list_of(Literal["device", "host"]) = Field(["device"], examples=[["device", "host"]])
    """Where the image lies before a step: on the device, or in main memory, from where each method brings it."""

    budgets_gib: list_of(Annotated[float, Field(gt=0)]) | None = Field(None, examples=[[9.5, 37.0]])
    """What the planned methods may use, in GiB; null: 8 MiB in `smoke`, 0.25 in `quick`, 9.5 in `sweep`, 9.5 and 37 in
    `headline`."""

    host_budget_gib: Annotated[float, Field(ge=0)] = Field(0.0, examples=[64.0])
    """Pinned main memory that plans may use besides, in GiB."""

    caps_gib: list_of(Annotated[float, Field(gt=0)]) | None = Field(None, examples=[[11.0, 24.0]])
    """The memory under which `largest` searches, in GiB; null: 32 MiB in `smoke`, 0.25 and 0.5 in `quick`, else 11, 24,
    40 and 80."""

    experiments: list_of(SftExperiment) = Field(
        [
            "sizes", "pareto", "tile_rate", "streaming", "memory", "largest", "macs", "prediction", "exactness",
            "training", "kernels",
        ],
        examples=[["sizes", "memory"]],
    )  # fmt: skip
    """`sizes`: the time of a step by the image's size; `pareto`: time against memory; `tile_rate`: pixels per second by
    the tile's size; `streaming`: images in main memory; `memory`: peaks of each method; `largest`: the largest image
    under a cap; `macs`: multiply-adds of each schedule; `prediction`: predicted against measured; `exactness`: errors
    against float64; `training`: the loss over steps; `kernels`: two layers in one kernel."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(0, examples=[0])
    """The seed of the networks' weights and of the targets."""


class Method(Section):
    """The method measured by itself: whether equal implementations come out equal, and how much noise there is."""

    experiments: list_of(MethodExperiment) = Field(["equal", "noise", "energy"], examples=[["noise"]])
    """`equal`: forty operations, each under two names; `noise`: four operations in every regime; `energy`: whether the
    energy of one operation repeats."""


class Config(Section):
    """A campaign: what is measured, how much of it, and beside what."""

    preset: Preset = Field("smoke", examples=["quick"])
    """How much is measured: `smoke` shows that everything works, `quick` gives first verdicts, `sweep` covers more
    cases, `headline` is for numbers that are quoted."""

    systems: list_of(System) = Field(["cusnn", "sft"], examples=[["cusnn"]])
    """The systems that are measured; `method` is how frugal measures itself."""

    mirror: Annotated[NonEmpty, AfterValidator(_folder_or_url)] | None = Field(
        None, examples=["https://example.org/mirror"]
    )
    """A folder or URL that holds the files of `data/sources.yaml` under their names; it is asked first. Null: the
    environment variable FRUGAL_MIRROR, if set."""

    offline: Literal["auto", "never"] = Field("auto", examples=["never"])
    """What happens when a download cannot be had: `auto` takes what the Python packages bring and says so, `never`
    fails."""

    recorded: list_of(NonEmpty, at_least=0) = Field(["nvidia-h200"], examples=[["nvidia-h200"]])
    """The recorded campaigns (folders of `results/recorded/`) that figures show beside this machine's."""

    devices: Annotated[dict[str, DeviceLabel], AfterValidator(_relabelled)] = Field(
        {"local": DeviceLabel()}, examples=[{"local": {}}]
    )
    """The machines that measure, by a label of your choice. Usually one; on a cluster one a GPU type."""

    container: Container = Field(Container(), examples=[{"image": None}])
    timing: Timing = Field(Timing(), examples=[{"sessions": 3}])
    data: Data = Field(Data(), examples=[{"n_images": 32}])
    kernels: Kernels = Field(Kernels(), examples=[{"capabilities": ["9.0"]}])
    cusnn: Cusnn = Field(Cusnn(), examples=[{"networks": ["resnet50"]}])
    sft: Sft = Field(Sft(), examples=[{"networks": ["vgg16"]}])
    dtr: Dtr = Field(Dtr(), examples=[{"networks": ["transformer"]}])
    method: Method = Field(Method(), examples=[{"experiments": ["noise"]}])

    pathvars: dict[str, str] | None = Field(None, examples=[{"results": "results"}])
    """Snakemake's path variables. Read by Snakemake and not by this workflow."""
