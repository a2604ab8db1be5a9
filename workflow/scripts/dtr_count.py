"""One shard of an experiment of DTR's that no session times: simulations, plans, peaks, largest sizes."""

from frugal.script import campaign_id, job

with job(snakemake) as say:
    from pathlib import Path

    from frugal import config
    from frugal.dtr import rows

    logs = list(snakemake.input.logs)
    rows.write(
        experiment=snakemake.wildcards.experiment,
        shard=snakemake.wildcards.shard,
        dtr=snakemake.params.dtr,
        # a published log is one file; captured ones have a folder, and what simulates no log has neither
        logs=logs[0] if len(logs) == 1 else Path(logs[0]).parent if logs else "",
        device=snakemake.input.device,
        preset=snakemake.params.preset,
        threads=snakemake.threads,
        config_json=config.record_json(config.load(snakemake.config)),
        campaign_id=campaign_id(),
        log=snakemake.log[0],
        out=snakemake.output[0],
        say=say,
    )
