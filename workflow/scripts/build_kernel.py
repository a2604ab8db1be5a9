"""Build one kernel variant for one compute capability."""

from frugal.script import job

with job(snakemake) as say:
    import importlib
    from pathlib import Path

    from kernels.build import build

    family = importlib.import_module(f"kernels.{snakemake.wildcards.family}")
    digits = snakemake.wildcards.capability
    capability = f"{digits[:-1]}.{digits[-1]}"
    report = build(
        family.parse(snakemake.wildcards.variant).source(capability),
        capability,
        Path(snakemake.output[0]).with_suffix(""),
    )
    name = f"{snakemake.wildcards.variant} for {capability}"
    say(f"{name}: {report.registers} registers, {report.local_bytes} bytes of local memory")
