# Figures: one job a figure, from Parquet alone. A rule each, because a caption belongs to a rule.
for name in FIGURES:

    rule:
        name:
            f"figure_{name}"
        input:
            runs=rules.aggregate.output.runs,
            measurements=rules.aggregate.output.measurements,
            samples=rules.aggregate.output.samples,
            comparisons=rules.compare.output,
            recorded=recorded_files(),
        output:
            png=report(
                f"<results>/figures/{name}.png",
                caption=f"../report/{name}.rst",
                category=SYSTEM_NAMES[name.split("_")[0]],
                labels={"figure": name},
            ),
            svg=f"<results>/figures/{name}.svg",
            pdf=f"<results>/figures/{name}.pdf",
        log:
            f"<logs>/figure/{name}.log",
        benchmark:
            f"<benchmarks>/figure/{name}.jsonl"
        conda:
            "../../envs/core.yaml"
        params:
            name=name,
            published=published_hash(),
            source=source_hash("frugal.figures"),
        message:
            f"drawing {name}"
        script:
            "../scripts/figure.py"
