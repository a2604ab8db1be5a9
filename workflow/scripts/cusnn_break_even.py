"""Write from which share of zeros on skipping pays, by shape, batch size and baseline."""

from frugal.script import job

with job(snakemake) as say:
    from frugal import records
    from frugal.cusnn import break_even
    from frugal.files import publishing

    runs = records.read(snakemake.input.runs, "runs").to_pandas()
    table = records.read(snakemake.input.measurements, "measurements").to_pandas()
    found = break_even(table.merge(runs[["run_id", "device_key"]], on="run_id"))
    with publishing(snakemake.output[0]) as file:
        found.to_csv(file, index=False)
    say(f"{len(found)} shapes, batch sizes and baselines: {found['state'].value_counts().to_dict()}")
