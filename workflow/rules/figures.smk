# Figures: one job a figure, from Parquet alone.


rule figure:
    input:
        runs=rules.aggregate.output.runs,
        measurements=rules.aggregate.output.measurements,
        comparisons=rules.compare.output,
        recorded=recorded_files(),
    output:
        png=report(
            "<results>/figures/{name}.png",
            caption="../report/{name}.rst",
            category="cuSNN",
            labels={"figure": "{name}"},
        ),
        svg="<results>/figures/{name}.svg",
        pdf="<results>/figures/{name}.pdf",
    log:
        "<logs>/figure/{name}.log",
    benchmark:
        "<benchmarks>/figure/{name}.jsonl"
    wildcard_constraints:
        name="|".join(FIGURES),
    conda:
        "../../envs/core.yaml"
    params:
        recorded=CONFIG.recorded,
        source=source_hash("frugal.figures"),
    message:
        "drawing {wildcards.name}"
    script:
        "../scripts/figure.py"
