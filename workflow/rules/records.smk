# From one file a job to the tables that everybody reads.


rule aggregate:
    input:
        # Snakemake takes a checkpoint whose file it finds up to date as run only if it knows of it from the start: one that
        # it meets after another has run would stay open, and its file's own name stand in for what it tells.
        checkpoints=ancient(checkpoint_files()),
        raw=raw_files,
    output:
        runs="<results>/runs.parquet",
        measurements="<results>/measurements.parquet",
        samples="<results>/samples.parquet",
    log:
        "<logs>/aggregate.log",
    benchmark:
        "<benchmarks>/aggregate.jsonl"
    conda:
        "../../envs/core.yaml"
    params:
        source=source_hash("frugal.aggregate"),
    message:
        "aggregating the rows of all jobs"
    script:
        "../scripts/aggregate.py"


rule compare:
    input:
        measurements=rules.aggregate.output.measurements,
        samples=rules.aggregate.output.samples,
        runs=rules.aggregate.output.runs,
    output:
        "<results>/comparisons.parquet",
    log:
        "<logs>/compare.log",
    benchmark:
        "<benchmarks>/compare.jsonl"
    conda:
        "../../envs/core.yaml"
    params:
        margin_kernel=CONFIG.timing.margin_kernel,
        margin_end_to_end=CONFIG.timing.margin_end_to_end,
        clock_shift_min=CONFIG.timing.clock_shift_min,
        source=source_hash("frugal.compare"),
    message:
        "comparing ours with every baseline"
    script:
        "../scripts/compare.py"
