"""Count the zeros in the input of every convolution of one network."""

from frugal.script import campaign_id, job

with job(snakemake) as say:
    from frugal import config
    from frugal.cusnn import rows

    rows.write_sparsity(
        weights=snakemake.input.weights,
        images=snakemake.input.images,
        device=snakemake.input.device,
        preset=snakemake.params.preset,
        threads=snakemake.threads,
        config_json=config.record_json(config.load(snakemake.config)),
        campaign_id=campaign_id(),
        log=snakemake.log[0],
        out=snakemake.output[0],
        say=say,
    )
