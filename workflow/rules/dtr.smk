# DTR: training under a budget of bytes: logs of steps, their simulation, and steps that are timed and measured.


rule dtr_capture:
    input:
        device="<results>/device/{label}.json",
    output:
        captured_files("{label}"),
    log:
        "<logs>/dtr_capture/{label}.log",
    benchmark:
        "<benchmarks>/dtr_capture/{label}.jsonl"
    conda:
        "../../envs/kernels.yaml"
    threads: timing_threads
    resources:
        gpu=1,
    params:
        dtr=dtr_params("capture"),
        device_key=device_key,
        source=source_hash("frugal.dtr.captures"),
    message:
        "logging the steps of DTR's programs on {wildcards.label}"
    script:
        "../scripts/dtr_capture.py"


rule dtr_bench:
    input:
        device="<results>/device/{label}.json",
        kernels=control_reports,
        logs=captured_files("{label}"),
    output:
        f"{RAW}/{{label}}/dtr/steps/{{shard}}/session-{{session}}.parquet",
    log:
        "<logs>/dtr_bench/{label}/{shard}/session-{session}.log",
    benchmark:
        "<benchmarks>/dtr_bench/{label}/{shard}/session-{session}.jsonl"
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
        dtr=dtr_params(),
        device_key=device_key,
        source=source_hash("frugal.dtr.bench_step", "frugal.jobs"),
    message:
        "timing steps under budgets ({wildcards.shard}) on {wildcards.label}, session {wildcards.session}"
    script:
        "../scripts/dtr_bench.py"


rule dtr_count:
    input:
        device="<results>/device/{label}.json",
        logs=log_inputs,
    output:
        f"{RAW}/{{label}}/dtr/{{experiment}}/{{shard}}.parquet",
    log:
        "<logs>/dtr_count/{label}/{experiment}/{shard}.log",
    benchmark:
        "<benchmarks>/dtr_count/{label}/{experiment}/{shard}.jsonl"
    wildcard_constraints:
        experiment="simulate|chain|static|memory|reach|fragmentation",
        shard="[^/]+",
    conda:
        "../../envs/kernels.yaml"
    # Simulations use all cores by themselves; a plan and a step without a clock use one.
    threads: lambda wildcards: timing_threads(wildcards) if wildcards.experiment == "simulate" else 1
    resources:
        gpu=lambda wildcards: 1 if wildcards.experiment in ("memory", "reach", "fragmentation") else 0,
    params:
        preset=CONFIG.preset,
        dtr=lambda wildcards: dtr_params(wildcards.experiment),
        device_key=device_key,
        source=lambda wildcards: source_hash("frugal.dtr.rows", f"frugal.dtr.count_{wildcards.experiment}"),
    message:
        "DTR: {wildcards.experiment} ({wildcards.shard}) on {wildcards.label}"
    script:
        "../scripts/dtr_count.py"


rule dtr_residency:
    output:
        "<results>/dtr/residency.parquet",
    log:
        "<logs>/dtr_residency.log",
    benchmark:
        "<benchmarks>/dtr_residency.jsonl"
    conda:
        "../../envs/kernels.yaml"
    params:
        source=source_hash("frugal.dtr.residency"),
    message:
        "what of the chain is there at each moment"
    script:
        "../scripts/dtr_residency.py"


rule dtr_reach:
    input:
        runs="<results>/runs.parquet",
        measurements="<results>/measurements.parquet",
    output:
        "<results>/dtr/reach.csv",
    log:
        "<logs>/dtr_reach.log",
    benchmark:
        "<benchmarks>/dtr_reach.jsonl"
    conda:
        "../../envs/core.yaml"
    params:
        source=source_hash("frugal.dtr.reach_table"),
    message:
        "writing the largest sizes under each cap as CSV"
    script:
        "../scripts/dtr_reach.py"
