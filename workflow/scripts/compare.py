"""Compare ours with every baseline, case by case."""

from frugal.script import job

with job(snakemake) as say:
    from frugal import block_medians, records
    from frugal.compare import compare

    table = compare(
        records.read(snakemake.input.measurements, "measurements"),
        records.read(snakemake.input.samples, "samples", block_medians.COLUMNS),
        records.read(snakemake.input.runs, "runs"),
        margin_kernel=snakemake.params.margin_kernel,
        margin_end_to_end=snakemake.params.margin_end_to_end,
        clock_shift_min=snakemake.params.clock_shift_min,
    )
    records.write_table(snakemake.output[0], table, "comparisons")
    say(f"{table.num_rows} comparisons")
