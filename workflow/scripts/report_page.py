"""Write the report: one HTML page over the whole campaign."""

from frugal.script import job

with job(snakemake) as say:
    from pathlib import Path

    from frugal import report

    results = Path(snakemake.input.runs).parent
    inputs = report.read(
        results,
        sorted({Path(path).parent for path in snakemake.input.recorded}),
        captions=snakemake.input.captions,
        availability=snakemake.input.availability,
        figures=list(dict.fromkeys(Path(path).stem for path in snakemake.input.figures)),
        plan=snakemake.input.plan,
    )
    report.write(snakemake.output[0], report.build(inputs))
    say(f"{snakemake.output[0]} can be opened in a browser")
