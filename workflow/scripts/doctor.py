"""Look at everything that the campaign needs of this machine."""

from frugal.script import job

with job(snakemake) as say:
    from frugal import config, doctor, plan
    from frugal.errors import FrugalError

    cfg = config.load(snakemake.config)
    checks = doctor.doctor(cfg, need=plan.need(plan.plan(cfg)))
    say(doctor.text(checks))
    if doctor.exit_status(checks):
        failed = ", ".join(check.name for check in checks if check.level == doctor.FAIL)
        raise FrugalError(f"this machine is not ready ({failed}): type what stands behind `mend` above")
