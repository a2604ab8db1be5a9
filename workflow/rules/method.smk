# The method measured by itself: equal arms, noise, energy.


rule bench_method:
    input:
        device="<results>/device/{label}.json",
        kernels=control_reports,
    output:
        f"{RAW}/{{label}}/method/{{experiment}}/session-{{session}}.parquet",
    log:
        "<logs>/bench_method/{label}/{experiment}/session-{session}.log",
    benchmark:
        "<benchmarks>/bench_method/{label}/{experiment}/session-{session}.jsonl"
    wildcard_constraints:
        experiment="equal|noise|energy",
        session=r"\d+",
    conda:
        "../../envs/kernels.yaml"
    threads: timing_threads
    resources:
        gpu=1,
    params:
        preset=CONFIG.preset,
        timing=CONFIG.timing.model_dump(include=SESSION_KEYS),
        device_key=device_key,
        source=source_hash("frugal.method.cases", "frugal.jobs"),
    message:
        "measuring the method ({wildcards.experiment}) on {wildcards.label}, session {wildcards.session}"
    script:
        "../scripts/bench_method.py"
