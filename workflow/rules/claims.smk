# The papers' claims, judged by what this machine and the recorded campaigns measured.


rule evaluate_claims:
    input:
        runs=rules.aggregate.output.runs,
        measurements=rules.aggregate.output.measurements,
        comparisons=rules.compare.output,
        recorded=recorded_files(),
    output:
        "<results>/claims.parquet",
    log:
        "<logs>/evaluate_claims.log",
    benchmark:
        "<benchmarks>/evaluate_claims.jsonl"
    conda:
        "../../envs/core.yaml"
    params:
        claims=claims_hash(),
        source=source_hash("frugal.claims"),
    message:
        "judging the claims"
    script:
        "../scripts/claims.py"
