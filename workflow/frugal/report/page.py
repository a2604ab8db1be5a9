"""The page: every section's tables and words, put into page.html.j2 with its style and its script."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from frugal.files import publishing
from frugal.report import banner, cards, controls, gallery, holes, noise, provenance, strips, verdicts, words
from frugal.report.inputs import Campaign, Inputs

FOLDER = Path(__file__).parent
ASSETS = tuple(FOLDER / name for name in ("page.html.j2", "report.css", "report.js"))
SECTIONS = (
    ("verdicts", "Verdicts"),
    ("claims", "Claims"),
    ("figures", "Figures"),
    ("controls", "Controls, noise and cost"),
    ("strips", "The noisiest cases"),
    ("holes", "What is not ok"),
    ("provenance", "Where it comes from"),
    ("recorded", "Recorded campaigns"),
)


def build(inputs: Inputs) -> str:
    """The report as HTML: one file that asks for nothing else, and that can be read without its script."""
    style, script = ((FOLDER / name).read_text("utf-8") for name in ("report.css", "report.js"))
    here = inputs.here
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": words.code, "capitalised": words.capitalised}
    names = words.case_names(here.measurements)
    return environment.get_template("page.html.j2").render(
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        sections=SECTIONS,
        machines=here.machines,
        notices=banner.notices(inputs),
        facts=banner.facts(inputs),
        summaries=verdicts.summaries(here, "verdicts"),
        pairs=verdicts.pairs(here, names, "pairs"),
        claims=cards.summary(inputs, "claim-summary"),
        cards=cards.cards(inputs),
        not_run=cards.not_run(inputs, "claims-not-run"),
        pictures=gallery.gallery(inputs.figures, inputs.captions),
        controls=controls.sessions(here, "control-sessions"),
        control_pairs=controls.over_sessions(here, "control-pairs"),
        noise=noise.noise(here, "noise"),
        cost=noise.cost(here, inputs.plan, "cost"),
        strips=strips.noisiest(here, inputs.samples, names),
        holes=holes.holes(here, names, "not-ok"),
        origins=[(machine, provenance.facts(here, machine)) for machine in here.machines],
        sessions=provenance.sessions(here, "sessions"),
        substitutes=provenance.substitutes(inputs.availability, "substitutes"),
        findings=provenance.findings(here, "findings"),
        configurations=provenance.configurations(here),
        recorded=[_recorded(campaign) for campaign in inputs.recorded],
    )


def write(path: str | Path, html: str) -> None:
    """Write the page beside its place and rename it."""
    with publishing(path) as file:
        file.write(html.encode())


def _recorded(campaign: Campaign) -> dict:
    """A recorded campaign as the page shows it: who measured when, verdicts, noise, and what is not ok."""
    label = campaign.recorded
    return {
        "label": label,
        "machines": campaign.machines,
        "finished": words.moment(campaign.runs["finished_at"].max()) if len(campaign.runs) else words.NONE,
        "presets": words.listing(sorted(campaign.runs["preset"].unique())),
        "summaries": verdicts.summaries(campaign, f"{label}-verdicts"),
        "pairs": verdicts.pairs(campaign, words.case_names(campaign.measurements), f"{label}-pairs"),
        "controls": controls.sessions(campaign, f"{label}-controls"),
        "noise": noise.noise(campaign, f"{label}-noise"),
        "holes": holes.holes(campaign, words.case_names(campaign.measurements), f"{label}-not-ok"),
        "origins": [(machine, provenance.facts(campaign, machine)) for machine in campaign.machines],
    }


def _policy(style: str, script: str) -> str:
    """The page's own content security policy: pictures in it, this style, this script, and nothing from outside."""
    sums = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    return "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'".format(*sums)
