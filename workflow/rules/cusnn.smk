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
        weights=[weights_of(network) for network in NETWORKS],
        images=[bin_of(network) for network in NETWORKS],
        kernels=kernel_reports,
    output:
        f"{RAW}/{{label}}/cusnn/layers/session-{{session}}.parquet",
    log:
        "<logs>/bench_layer/{label}/session-{session}.log",
    benchmark:
        "<benchmarks>/bench_layer/{label}/session-{session}.jsonl"
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
        cusnn=CONFIG.cusnn.model_dump(include={"layers", "batch_sizes", "ours", "baselines", "regimes"}),
        device_key=device_key,
        source=source_hash("frugal.cusnn.bench_layer", "frugal.jobs"),
    message:
        "timing convolution layers on {wildcards.label}, session {wildcards.session}"
    script:
        "../scripts/bench_layer.py"
