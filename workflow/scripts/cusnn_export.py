"""Write the times of one network's layers at one batch size in the form of the paper's artifact."""

from frugal.script import job

with job(snakemake) as say:
    import json
    from pathlib import Path

    from frugal import records
    from frugal.cusnn import export

    device = json.loads(Path(snakemake.input.device).read_text(encoding="utf-8"))
    runs = records.read(snakemake.input.runs, "runs").to_pandas()
    table = records.read(snakemake.input.measurements, "measurements").to_pandas()
    export.write(
        table.merge(runs[["run_id", "device_key"]], on="run_id"),
        snakemake.wildcards.network,
        int(snakemake.wildcards.batch),
        device["device_key"],
        snakemake.output[0],
    )
