"""The columns of every table, once, as dataclasses: frugal.records.schema derives the Arrow schemas from them.

A field's type is the column's type, `| None` makes it nullable (null = not measured), and its text is its meaning.
A suffix names the SI unit (`_s`, `_bytes`, `_j`, `_hz`, `_w`, `_c` for degrees Celsius); the statistics of the long
table `measurements` carry theirs in `unit` (an SI symbol or `1`). Adding a nullable column raises the minor version of
`SCHEMA_VERSION`; anything else the major one.
"""

# ruff: noqa: RUF009 - `column` and `optional` return field specifications, which are not shared defaults

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import pyarrow as pa

Int32 = Annotated[int, pa.int32()]
Int64 = Annotated[int, pa.int64()]


class RowKey(NamedTuple):
    """What names a measurement row inside one session."""

    case_id: str
    arm: str
    regime: str | None
    l2: str | None
    metric: str


def column(meaning: str) -> Any:
    """A column that every row has."""
    return field(metadata={"meaning": meaning})


def optional(meaning: str) -> Any:
    """A column that is null where nothing was measured."""
    return field(default=None, metadata={"meaning": meaning})


@dataclass(kw_only=True, slots=True)
class Run:
    """One session process: what ran, where, and with which software."""

    run_id: str = column("ULID of this session's process")
    campaign_id: str = column("ULID of the workflow call, or of the one that it resumes")
    experiment: str = column("name of the experiment")
    preset: str = column("smoke, quick, sweep or headline")
    session: Int32 = column("index of the session, from 0")
    sessions_planned: Int32 = column("sessions that the design asks for")
    process_restarts: Int32 = column("how often the process was started again after it was killed")
    started_at: datetime = column("start of the job")
    finished_at: datetime = column("end of the job; of two equal rows the newer one is kept")
    wall_s: float = column("duration of the job")
    git_sha: str | None = optional("commit of this repository")
    git_dirty: bool | None = optional("whether tracked files differed from that commit")
    package_version: str = column("version of frugal")
    config_hash: str = column("SHA-256 of config_json")
    config_json: str = column("the validated config in canonical JSON")
    lock_hash: str = column("SHA-256 of the pinned constraints and of the installed packages")
    container_digest: str | None = optional("digest of the container image (FRUGAL_IMAGE_DIGEST)")
    python: str = column("version of Python")
    snakemake: str | None = optional("version of Snakemake")
    torch: str = column("version of torch")
    torch_git: str = column("commit that torch was built from")
    torch_cuda: str | None = optional("CUDA version that torch was built for")
    cudnn: str | None = optional("version of cuDNN")
    numba: str = column("version of Numba")
    numba_cuda: str | None = optional("version of numba-cuda")
    numpy: str = column("version of NumPy")
    pyarrow: str = column("version of pyarrow")
    os: str = column("operating system and release")
    kernel: str = column("kernel release")
    libc: str = column("C library and version")
    virtualization: str | None = optional("hypervisor or container, where one is seen")
    machine_hash: str = column("salted SHA-256 of the machine id: tells machines apart without naming them")
    device_key: str = column("device model, such as nvidia-h200-9.0-132sm")
    device_kind: str = column("cuda, cpu or cudasim")
    hardware_class: str = column("gpu or cpu")
    cpu_model: str = column("CPU model")
    cpu_cores: Int32 = column("logical cores of the machine")
    cpu_affinity_n: Int32 = column("logical cores that the process may use")
    cpu_governor: str | None = optional("frequency governor")
    cpu_turbo: bool | None = optional("whether turbo frequencies are allowed")
    threads: Int32 = column("threads given to torch and Numba")
    ram_bytes: Int64 = column("main memory")
    llc_bytes: Int64 | None = optional("last-level cache")
    gpu_name: str | None = optional("GPU model")
    gpu_uuid_hash: str | None = optional("salted SHA-256 of the GPU's uuid")
    compute_capability: str | None = optional("such as 9.0")
    sm_count: Int32 | None = optional("streaming multiprocessors")
    l2_bytes: Int64 | None = optional("L2 cache")
    mem_bytes: Int64 | None = optional("device memory")
    ecc: bool | None = optional("whether ECC is on")
    mig: bool | None = optional("whether the device is a MIG slice")
    driver: str | None = optional("version of the driver")
    cuda_driver: str | None = optional("CUDA version of the driver")
    sm_hz_max: float | None = optional("highest SM clock")
    mem_hz_max: float | None = optional("highest memory clock")
    power_limit_w: float | None = optional("enforced power limit")
    power_regime: str = column("boost, unless an operator locked the clocks")
    clocks_locked: bool | None = optional("whether an operator locked the clocks")
    copy_bytes_per_s: float | None = optional("this session's measured copy bandwidth (read plus write)")
    flops_fp32: float | None = optional("this session's measured fp32 matmul rate in FLOP/s")
    flops_tf32: float | None = optional("this session's measured TF32 matmul rate in FLOP/s")
    flops_fp16: float | None = optional("this session's measured fp16 matmul rate in FLOP/s (fp32 accumulation)")
    peak_source: str | None = optional("where the datasheet ceilings come from")
    launch_s: float | None = optional("host time of one launch")
    event_floor_s: float | None = optional("what two adjacent events with nothing between them read")
    energy_tick_s: float | None = optional("period of the energy counter")
    idle_w: float | None = optional("power with an open context and no work")
    settled_sm_hz: float | None = optional("SM clock after warm-up")
    foreign_pids: Int32 | None = optional("other processes on the device")
    load_1min: float | None = optional("load average at the start")
    steal_fraction: float | None = optional("share of CPU time that the hypervisor took")
    controls_passed: bool = column("false when a control of this session was red: it then carries no verdict")
    controls_json: str = column(
        "the controls' outcomes in canonical JSON: name to colour, measured, unit, wanted, words"
    )
    doctor_json: str = column("the doctor's findings")


@dataclass(kw_only=True, slots=True)
class Measurement:
    """One case x arm x regime x metric x session. Long form: a new metric needs no new column."""

    run_id: str = column("the session's row in runs")
    case_id: str = column("first 16 hex digits of SHA-256 of {system, experiment, axes}; the same on every machine")
    session: Int32 = column("index of the session, from 0")
    system: str = column("cusnn, sft, folded, dtr or syno; method, or control for the controls of a session")
    experiment: str = column("name of the experiment")
    network: str | None = optional("name of the network")
    layer: str | None = optional("name of the layer")
    arm: str = column("<method> or <method>@<key>=<value>,…")
    role: str = column("ours, paper_emulation, baseline or control")
    axes_json: str = column("all axes of the case in canonical JSON")
    n: Int32 | None = optional("batch")
    c: Int32 | None = optional("input channels")
    h: Int32 | None = optional("input height")
    w: Int32 | None = optional("input width")
    k: Int32 | None = optional("output channels")
    r: Int32 | None = optional("filter height")
    s: Int32 | None = optional("filter width")
    stride: Int32 | None = optional("stride")
    pad: Int32 | None = optional("padding")
    groups: Int32 | None = optional("groups of the convolution")
    arm_json: str | None = optional("the arm's own settings in canonical JSON")
    dtype: str = column("dtype of the arm")
    tf32: bool | None = optional("whether the arm may use TF32")
    layout: str | None = optional("memory layout of the arm")
    compiled: bool | None = optional("whether torch.compile made the arm")
    graph: bool | None = optional("whether the arm ran inside a CUDA graph")
    dataset: str | None = optional("data set of the inputs")
    dataset_sha256: str | None = optional("SHA-256 of the data set's file")
    seed: Int64 = column("seed of the inputs")
    sparsity_target: float | None = optional("share of zeros asked for")
    sparsity_measured: float | None = optional("share of zeros in the inputs")
    sparsity_pattern: str | None = optional("real, iid or blocky")
    source_hash: str = column("SHA-256 of the arm's modules: a change makes old rows stale")
    binary_hash: str | None = optional("SHA-256 of the kernel's binary")
    registers: Int32 | None = optional("registers a thread")
    spill_bytes: Int32 | None = optional("spilled bytes a thread")
    shared_bytes: Int32 | None = optional("shared memory a block")
    occupancy: float | None = optional("resident warps over the most that an SM can hold")
    first_call_s: float | None = optional("first call at the timed shape: compilation and autotuning")
    regime: str | None = optional("cold, hot, graph or wall; null for accuracy, flops, …")
    l2: str | None = optional("resident or rotated, in regime graph")
    metric: str = column("time, energy_gross, peak_live, accuracy, sparsity, …")
    unit: str = column("SI symbol of the statistics, or 1")
    higher_is_better: bool = column("direction of the metric")
    conditional: bool = column("true where one session stands alone: it holds for that process only")
    n_samples: Int32 = column("samples behind the statistics")
    n_blocks: Int32 = column("blocks behind the statistics")
    batch_m: Int32 | None = optional("executions a sample, back to back; the sample is divided by it")
    n_discarded: Int32 = column("samples excluded by a thermal or hardware slowdown or a low clock")
    n_mild: Int32 = column("samples beyond Tukey's inner fence (1.5 IQR); kept")
    n_severe: Int32 = column("samples beyond Tukey's outer fence (3 IQR); kept")
    stop_reason: str | None = optional("why blocks ended: target, max_samples or max_time")
    warmup_s: float | None = optional("warm-up before the blocks")
    settled: bool | None = optional("whether time and clock had settled after it")
    order_seed: Int64 = column("seed of the order of cases and arms")
    value: float | None = optional("exp mean of ln block medians for times, else the number")
    ci_low: float | None = optional("lower bound of this session's interval")
    ci_high: float | None = optional("upper bound of this session's interval")
    ci_level: float | None = optional("level of the interval")
    ci_method: str | None = optional("order_stat with one block, else null")
    mean: float | None = optional("mean of the samples")
    stdev: float | None = optional("standard deviation of the samples")
    mad: float | None = optional("median absolute deviation of the samples")
    min: float | None = optional("least sample")
    q25: float | None = optional("first quartile")
    q75: float | None = optional("third quartile")
    p95: float | None = optional("95th percentile, where 59 samples allow a bound")
    p99: float | None = optional("99th percentile, where 299 samples allow a bound")
    max: float | None = optional("greatest sample")
    sm_hz: float | None = optional("mean SM clock inside the blocks")
    mem_hz: float | None = optional("mean memory clock inside the blocks")
    temp_start_c: float | None = optional("die temperature before")
    temp_end_c: float | None = optional("die temperature after")
    power_w: float | None = optional("mean power inside the blocks")
    event_reasons: Int64 | None = optional("clock event reasons seen, or-ed (NVML bits)")
    launch_bound: bool | None = optional("the host's launches, not the kernel, set the time: no kernel verdict")
    cpu_s: float | None = optional("CPU time of the process")
    involuntary_switches: Int64 | None = optional("involuntary context switches")
    flop: float | None = optional("FLOP of the arm's own work (a multiply-add is 2); sparse: kept work only")
    flop_dense_equiv: float | None = optional("FLOP of the dense operator")
    bytes_min: float | None = optional("bytes that must move at least")
    roofline_s: float | None = optional("max(bytes_min / bandwidth, flop / peak) with this machine's measured ceilings")
    roofline_fraction: float | None = optional("roofline_s over the median")
    roof: str | None = optional("memory or compute")
    energy_source: str | None = optional("counter (the GPU's), rapl (a CPU's) or power_poll")
    energy_window_s: float | None = optional("span that energy was measured over")
    energy_ticks: Int32 | None = optional("ticks of the energy counter in that span")
    base_bytes: Int64 | None = optional("parameters and inputs that existed before")
    verified_before: bool | None = optional("right against float64 before timing")
    verified_after: bool | None = optional("right against float64 after timing")
    tolerance_rule: str | None = optional("which rule of verification applied")
    max_abs_err: float | None = optional("greatest absolute error")
    max_rel_err: float | None = optional("greatest relative error")
    err_bound: float | None = optional("the bound that applied at the worst element")
    status: str = column("ok, skipped, unsupported, oom, incorrect, unstable, timeout or failed")
    reason: str | None = optional("why the status is not ok, in words")
    log: str = column("path of the job's log, relative to the working folder")

    @property
    def key(self) -> RowKey:
        """What names this row inside its session."""
        return RowKey(self.case_id, self.arm, self.regime, self.l2, self.metric)


@dataclass(kw_only=True, slots=True)
class Sample:
    """One timed execution of the row whose key it is filed under (m back to back, divided by m)."""

    round: Int32 = column("round of the palindromes, from 0")
    position: Int32 = column("place of the arm in its round, from 0")
    block: Int32 = column("block of the arm, from 0")
    index: Int32 = column("index in the block, from 0")
    start_ns: Int64 = column("start on the monotonic clock, in nanoseconds")
    value: float = column("the sample, in the row's unit")
    sm_hz: float | None = optional("polled SM clock")
    temp_c: float | None = optional("polled die temperature")
    power_w: float | None = optional("polled power")
    event_reasons: Int64 | None = optional("polled clock event reasons (NVML bits)")
    flag: str = column("ok, mild, severe (Tukey's fences) or excluded")


@dataclass(kw_only=True, slots=True)
class SampleKey:
    """The columns of `samples` that a sample takes from its row."""

    run_id: str = column("the session's row in runs")
    case_id: str = column("the case")
    arm: str = column("the arm")
    regime: str = column("cold, hot, graph or wall")
    l2: str | None = optional("resident or rotated, in regime graph")
    metric: str = column("the metric")
    session: Int32 = column("index of the session, from 0")


@dataclass(kw_only=True, slots=True)
class Comparison:
    """One of our arms against one baseline, over all sessions. A ratio above 1 means that ours is better."""

    case_id: str = column("the case")
    device_key: str = column("the device")
    system: str = column("the system")
    experiment: str = column("name of the experiment")
    regime: str | None = optional("cold, hot, graph or wall; null for accuracy, flops, …")
    l2: str | None = optional("resident or rotated, in regime graph")
    metric: str = column("the metric")
    candidate: str = column("our arm")
    baseline: str = column("the arm it is compared with")
    n_sessions: Int32 = column("sessions in which both arms were measured")
    n_rounds: Int32 = column("rounds in which both arms were measured, over all those sessions")
    ratio: float | None = optional("exp mean of session means of ln ratios of block medians")
    ratio_low: float | None = optional("lower bound")
    ratio_high: float | None = optional("upper bound")
    ci_method: str = column("t_sessions, exact (no spread), range_of_rounds (one session) or none")
    ratio_cycles: float | None = optional("the ratio in SM cycles instead of seconds")
    ratio_cycles_low: float | None = optional("its lower bound")
    ratio_cycles_high: float | None = optional("its upper bound")
    margin: float = column("relative difference that counts as the same")
    mde: float | None = optional("relative difference that this design finds with 80 % power")
    p_raw: float | None = optional("two-sided p of a ratio of 1 (t over sessions)")
    p_holm: float | None = optional("p after Holm's correction in the family")
    family: str = column("experiment/baseline/regime: the comparisons that are corrected together, a device at a time")
    sd_session: float | None = optional("standard deviation of the sessions' mean ln ratios")
    sd_round: float | None = optional("pooled standard deviation of ln ratios between rounds of a session")
    verdict: str | None = optional(
        "SAME, FASTER, SLOWER, BETTER, WORSE, INCONCLUSIVE or CLOCK_SHIFT; null: none allowed"
    )
    reason_code: str = column("why that verdict")
    conditional: bool = column("one session only: it holds for that process")
    best_baseline: bool = column("this baseline is the best one of the case")


@dataclass(kw_only=True, slots=True)
class Claim:
    """A published statement, or a goal of ours, beside what one machine's campaign measured."""

    claim_id: str = column("<system>.<topic>…")
    system: str = column("the system")
    origin: str = column("paper, artifact or ours (a goal of this project, never counted as a paper's claim)")
    statement: str = column("the claim in words")
    locator: str = column("where it was published")
    note: str | None = optional("what to know about the published value")
    paper_hardware: str = column("hardware of the published value")
    expected: float = column("published value; for comparator trend the number that is tested against")
    expected_low: float | None = optional("lower bound that counts as reproduced")
    expected_high: float | None = optional("upper bound that counts as reproduced")
    trend_bound: float | None = optional("the bound that still counts as trend")
    unit: str = column("unit of the values")
    comparator: str = column("at_least, at_most, within, equals or trend")
    measured: float | None = optional("our value")
    low: float | None = optional("lower bound of our value")
    high: float | None = optional("upper bound of our value")
    ci_method: str = column("t_sessions, exact (no spread, or a deterministic value) or none")
    n_rows: Int32 = column("rows behind our value")
    n_sessions: Int32 = column("sessions behind our value")
    recorded: str | None = optional("name of the recorded campaign; null: this machine")
    device_key: str | None = optional("the device; null where nothing has been measured at all")
    preset: str | None = optional("preset of the rows; null without rows")
    verdict: str = column("reproduced, trend, not_reproduced, not_run or not_comparable")
    reason: str = column("why, or what to type")
    command: str = column("what to type to measure it (again)")
    figure: str | None = optional("figure that shows it; null where there is none")
    query_json: str = column("the rows, as a query in canonical JSON")
    beside_json: str = column("further values of the same rows, in canonical JSON: a list of {name, value, low, high}")
