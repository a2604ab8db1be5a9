# SFT: what training on images takes that do not fit, step by step and schedule by schedule.


rule bench_step:
    input:
        device="<results>/device/{label}.json",
        kernels=control_reports,
    output:
        f"{RAW}/{{label}}/sft/steps/{{shard}}/session-{{session}}.parquet",
    log:
        "<logs>/bench_step/{label}/{shard}/session-{session}.log",
    benchmark:
        "<benchmarks>/bench_step/{label}/{shard}/session-{session}.jsonl"
    wildcard_constraints:
        session=r"\d+",
    conda:
        "../../envs/kernels.yaml"
    threads: timing_threads
    resources:
        gpu=1,
    params:
        preset=CONFIG.preset,
        timing=CONFIG.timing.model_dump(include=SESSION_KEYS),
        sft=sft_params(),
        photographs=MOSAICS,
        device_key=device_key,
        source=source_hash("frugal.sft.bench_step", "frugal.jobs"),
    message:
        "timing steps of training ({wildcards.shard}) on {wildcards.label}, session {wildcards.session}"
    script:
        "../scripts/bench_step.py"


rule bench_pair:
    input:
        device="<results>/device/{label}.json",
        kernels=pair_reports,
    output:
        f"{RAW}/{{label}}/sft/kernels/session-{{session}}.parquet",
    log:
        "<logs>/bench_pair/{label}/session-{session}.log",
    benchmark:
        "<benchmarks>/bench_pair/{label}/session-{session}.jsonl"
    wildcard_constraints:
        session=r"\d+",
    conda:
        "../../envs/kernels.yaml"
    threads: timing_threads
    resources:
        gpu=1,
    params:
        preset=CONFIG.preset,
        timing=CONFIG.timing.model_dump(include=SESSION_KEYS),
        sft={"preset": CONFIG.preset},
        device_key=device_key,
        source=source_hash("frugal.sft.bench_kernels", "frugal.jobs"),
    message:
        "timing two layers in one kernel on {wildcards.label}, session {wildcards.session}"
    script:
        "../scripts/bench_pair.py"


rule sft_count:
    input:
        device="<results>/device/{label}.json",
    output:
        f"{RAW}/{{label}}/sft/{{experiment}}/{{shard}}.parquet",
    log:
        "<logs>/sft_count/{label}/{experiment}/{shard}.log",
    benchmark:
        "<benchmarks>/sft_count/{label}/{experiment}/{shard}.jsonl"
    wildcard_constraints:
        experiment="counted|memory|largest|macs|prediction|exactness|training",
        shard="[^/]+",
    conda:
        "../../envs/kernels.yaml"
    resources:
        gpu=lambda wildcards: 0 if wildcards.experiment == "macs" else 1,
    params:
        preset=CONFIG.preset,
        sft=lambda wildcards: sft_params(wildcards.experiment),
        photographs=MOSAICS,
        device_key=device_key,
        source=lambda wildcards: source_hash(*counted_modules(wildcards.experiment)),
    message:
        "SFT: {wildcards.experiment} ({wildcards.shard}) on {wildcards.label}"
    script:
        "../scripts/sft_count.py"
