# One HTML page over everything: verdicts, claims, figures, controls, what failed, and where it comes from.


rule report_page:
    input:
        runs=rules.aggregate.output.runs,
        measurements=rules.aggregate.output.measurements,
        samples=rules.aggregate.output.samples,
        comparisons=rules.compare.output,
        claims=rules.evaluate_claims.output,
        figures=figure_files(FIGURES),
        recorded=recorded_files(),
        availability="data/availability.json",
        plan="<results>/plan.json",
        captions=[str(REPOSITORY / f"workflow/report/{name}.rst") for name in FIGURES],
        page=[
            str(REPOSITORY / f"workflow/frugal/report/{name}") for name in ("page.html.j2", "report.css", "report.js")
        ],
    output:
        report(
            "<results>/report.html",
            caption="../report/report_page.rst",
            category="Report",
            labels={"page": "the whole campaign"},
        ),
    log:
        "<logs>/report_page.log",
    benchmark:
        "<benchmarks>/report_page.jsonl"
    conda:
        "../../envs/core.yaml"
    params:
        source=source_hash("frugal.report"),
    message:
        "writing the report"
    script:
        "../scripts/report_page.py"
