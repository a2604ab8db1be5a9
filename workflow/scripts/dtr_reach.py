"""Write the largest sizes under each cap of memory as CSV."""

from frugal.script import job

with job(snakemake) as say:
    from frugal import records
    from frugal.dtr import reach_table
    from frugal.files import publishing

    runs = records.read(snakemake.input.runs, "runs").to_pandas()
    rows = records.read(snakemake.input.measurements, "measurements").to_pandas()
    found = reach_table.table(rows.merge(runs[["run_id", "device_key"]], on="run_id"))
    with publishing(snakemake.output[0]) as file:
        found.to_csv(file, index=False)
    say(f"{len(found)} arms under caps")
