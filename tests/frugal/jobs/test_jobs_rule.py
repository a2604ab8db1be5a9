"""What a rule's script makes of Snakemake's object."""

from types import SimpleNamespace

import pytest

from frugal import config
from frugal.jobs.rule import session
from frugal.provenance.sources import imported_modules, package_folders


def rule(chosen: dict, **given: object) -> SimpleNamespace:
    return SimpleNamespace(
        config=given,
        params=SimpleNamespace(preset="smoke", timing=chosen),
        input=SimpleNamespace(device="device.json", kernels=["a.json"]),
        wildcards=SimpleNamespace(session="2"),
        threads=3,
        log=["logs/session-2.log"],
        output=["session-2.parquet"],
    )


def test_a_job_has_what_the_rule_and_the_configuration_say():
    asked = rule({"regimes": None, "n_min": 7}, timing={"sessions": 5, "force": True})
    made = session(asked, experiment="layers", cases="a.b:c", arguments={"x": 1}, campaign_id="01C")
    assert (made.experiment, made.cases, made.arguments, made.campaign_id) == ("layers", "a.b:c", {"x": 1}, "01C")
    assert (made.preset, made.device, made.session, made.sessions, made.threads) == ("smoke", "device.json", 2, 5, 3)
    assert (made.log, made.out, made.kernels) == ("logs/session-2.log", "session-2.parquet", ("a.json",))
    assert made.timing == {"regimes": None, "n_min": 7, "force": True}
    assert made.config_json == config.record_json(config.load(asked.config))


@pytest.mark.parametrize(
    ("own", "designs", "wanted"),
    [(None, None, None), (None, ["wall"], ["wall"]), (["cold"], ["wall"], ["cold"]), ([], ["wall"], ["wall"])],
)
def test_a_systems_own_regimes_outrank_the_designs(own, designs, wanted):
    made = session(rule({"regimes": designs}), experiment="layers", cases="a:b", arguments={}, regimes=own)
    assert made.timing["regimes"] == wanted


def test_a_session_does_not_depend_on_the_code_that_reads_the_configuration():
    found = imported_modules(["frugal.jobs"], package_folders())
    assert not [name for name in found if name.startswith("frugal.config") or name == "frugal.jobs.rule"]
