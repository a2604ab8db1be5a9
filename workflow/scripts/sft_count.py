"""One shard of an experiment of SFT's that no session times: memory, largest images, multiply-adds, errors, losses."""

from frugal.script import campaign_id, job

with job(snakemake) as say:
    from frugal import config
    from frugal.sft import rows

    rows.write(
        experiment=snakemake.wildcards.experiment,
        shard=snakemake.wildcards.shard,
        sft=snakemake.params.sft,
        photographs=snakemake.params.photographs,
        device=snakemake.input.device,
        preset=snakemake.params.preset,
        threads=snakemake.threads,
        config_json=config.record_json(config.load(snakemake.config)),
        campaign_id=campaign_id(),
        log=snakemake.log[0],
        out=snakemake.output[0],
        say=say,
    )
