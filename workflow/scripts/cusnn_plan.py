"""Measure which kernel is fastest for each convolution of one network at one batch size."""

from frugal.script import job

with job(snakemake) as say:
    from frugal.cusnn import calibrate

    calibrate.write_plan(
        weights=snakemake.input.weights,
        images=snakemake.input.images,
        device=snakemake.input.device,
        kernels=list(snakemake.input.kernels),
        batch=int(snakemake.wildcards.batch),
        deterministic=snakemake.params.cusnn["deterministic"],
        more=snakemake.params.cusnn["variants"],
        threads=snakemake.threads,
        out=snakemake.output[0],
        say=say,
    )
