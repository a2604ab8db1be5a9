# cuSNN: how many zeros there are, and what skipping them saves.


rule cusnn_sparsity:
    input:
        device="<results>/device/{label}.json",
        weights=lambda wildcards: weights_of(wildcards.network),
        images=lambda wildcards: bin_of(wildcards.network),
    output:
        f"{RAW}/{{label}}/cusnn/sparsity/{{network}}.parquet",
    log:
        "<logs>/cusnn_sparsity/{label}/{network}.log",
    benchmark:
        "<benchmarks>/cusnn_sparsity/{label}/{network}.jsonl"
    conda:
        "../../envs/torch.yaml"
    params:
        preset=CONFIG.preset,
        source=source_hash("frugal.cusnn.rows"),
    message:
        "counting the zeros that reach each convolution of {wildcards.network}"
    script:
        "../scripts/cusnn_sparsity.py"


rule bench_layer:
    input:
        device="<results>/device/{label}.json",
        weights=lambda wildcards: network_inputs(wildcards, weights_of),
        images=lambda wildcards: network_inputs(wildcards, bin_of),
        kernels=kernel_reports,
    output:
        f"{RAW}/{{label}}/cusnn/{{experiment}}/session-{{session}}.parquet",
    log:
        "<logs>/bench_layer/{label}/{experiment}/session-{session}.log",
    benchmark:
        "<benchmarks>/bench_layer/{label}/{experiment}/session-{session}.jsonl"
    wildcard_constraints:
        experiment="layers|break_even|ladder",
        session=r"\d+",
    conda:
        "../../envs/kernels.yaml"
    threads: timing_threads
    resources:
        gpu=1,
    params:
        preset=CONFIG.preset,
        timing=CONFIG.timing.model_dump(include=SESSION_KEYS),
        cusnn=lambda wildcards: cusnn_params(*LAYER_KEYS[wildcards.experiment]),
        device_key=device_key,
        source=source_hash("frugal.cusnn.bench_layer", "frugal.jobs"),
    message:
        "timing convolution layers ({wildcards.experiment}) on {wildcards.label}, session {wildcards.session}"
    script:
        "../scripts/bench_layer.py"


rule cusnn_plan:
    input:
        device="<results>/device/{label}.json",
        weights=lambda wildcards: weights_of(wildcards.network),
        images=lambda wildcards: bin_of(wildcards.network),
        kernels=kernel_reports,
    output:
        "<results>/cusnn/plans/{label}/{network}-b{batch}.json",
    log:
        "<logs>/cusnn_plan/{label}/{network}-b{batch}.log",
    benchmark:
        "<benchmarks>/cusnn_plan/{label}/{network}-b{batch}.jsonl"
    wildcard_constraints:
        batch=r"\d+",
    conda:
        "../../envs/kernels.yaml"
    threads: timing_threads
    resources:
        gpu=1,
    params:
        cusnn=cusnn_params("deterministic", "variants"),
        device_key=device_key,
        source=source_hash("frugal.cusnn.calibrate"),
    message:
        "choosing kernels for {wildcards.network}, batch {wildcards.batch}, on {wildcards.label}"
    script:
        "../scripts/cusnn_plan.py"


rule bench_network:
    input:
        device="<results>/device/{label}.json",
        weights=[weights_of(network) for network in NETWORKS],
        images=[bin_of(network) for network in NETWORKS],
        kernels=kernel_reports,
        plans=network_plans,
    output:
        f"{RAW}/{{label}}/cusnn/networks/session-{{session}}.parquet",
    log:
        "<logs>/bench_network/{label}/session-{session}.log",
    benchmark:
        "<benchmarks>/bench_network/{label}/session-{session}.jsonl"
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
        cusnn=cusnn_params("batch_sizes", "ours", "baselines", "regimes", "deterministic", "policy"),
        device_key=device_key,
        source=source_hash("frugal.cusnn.bench_network", "frugal.jobs"),
    message:
        "timing whole networks on {wildcards.label}, session {wildcards.session}"
    script:
        "../scripts/bench_network.py"


rule cusnn_export:
    input:
        device=f"<results>/device/{LABELS[0]}.json",
        runs="<results>/runs.parquet",
        measurements="<results>/measurements.parquet",
    output:
        multiext("<results>/cusnn/layers_{network}_b{batch}", ".csv", ".json"),
    log:
        "<logs>/cusnn_export/{network}_b{batch}.log",
    benchmark:
        "<benchmarks>/cusnn_export/{network}_b{batch}.jsonl"
    wildcard_constraints:
        batch=r"\d+",
    conda:
        "../../envs/core.yaml"
    params:
        source=source_hash("frugal.cusnn.export"),
    message:
        "writing the times of {wildcards.network}'s layers at batch {wildcards.batch} as CSV"
    script:
        "../scripts/cusnn_export.py"


rule cusnn_break_even:
    input:
        runs="<results>/runs.parquet",
        measurements="<results>/measurements.parquet",
    output:
        "<results>/cusnn/break_even.csv",
    log:
        "<logs>/cusnn_break_even.log",
    benchmark:
        "<benchmarks>/cusnn_break_even.jsonl"
    conda:
        "../../envs/core.yaml"
    params:
        source=source_hash("frugal.cusnn.break_even_table"),
    message:
        "finding the zeros from which on skipping pays"
    script:
        "../scripts/cusnn_break_even.py"
