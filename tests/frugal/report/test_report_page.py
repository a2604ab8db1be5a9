"""What the report says of campaigns of every kind."""

import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy.stats import gmean

from frugal import config, plan, records, report
from frugal.errors import FrugalError
from frugal.report.gallery import gallery
from frugal.report.inputs import FigureFiles
from tests.frugal.report import made_up
from tests.frugal.report.reading_pages import Page

SECTIONS = ["banner", "verdicts", "claims", "figures", "controls", "strips", "holes", "provenance", "recorded"]


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Three sessions in which nothing went wrong, beside a recorded campaign, with claims and figures."""
    folder = tmp_path_factory.mktemp("usual")
    made_up.campaign(folder / "results", polled=True)
    made_up.campaign(
        folder / "results/recorded/nvidia-a100", run=lambda _: {"gpu_name": "NVIDIA A100", "device_key": "a"}
    )
    made_up.claims(folder / "results", {}, {"recorded": "nvidia-a100", "device_key": "a"})
    made_up.figures(folder / "results")
    return folder / "results"


@pytest.fixture(scope="module")
def usual_page(usual):
    return Page(made_up.page(usual, (usual / "recorded/nvidia-a100",)))


# ---- the page as a document ------------------------------------------------------------------------------------------


def test_the_sections_stand_in_their_order(usual_page):
    assert list(usual_page.sections) == SECTIONS
    assert all(usual_page.sections.values())


def test_headings_skip_no_level_and_ids_are_unique(usual_page):
    assert usual_page.headings[0] == 1
    assert usual_page.headings.count(1) == 1
    assert all(
        later - earlier <= 1 for earlier, later in zip(usual_page.headings, usual_page.headings[1:], strict=False)
    )
    assert len(usual_page.ids) == len(set(usual_page.ids))


def test_links_inside_the_page_lead_somewhere_and_no_address_is_outside(usual_page):
    targets = [given["href"] for tag, given in usual_page.tags if tag == "a"]
    assert {target[1:] for target in targets if target.startswith("#")} <= set(usual_page.ids)
    loaded = [given.get(name) for tag, given in usual_page.tags for name in ("src", "href") if tag != "a"]
    assert all(address.startswith("data:") for address in loaded if address)
    assert not any(re.match(r"[a-z]+:|//", target) for target in targets)


def test_what_labels_points_to_exists(usual_page):
    named = [given["aria-labelledby"] for _, given in usual_page.tags if given.get("aria-labelledby")]
    assert len(named) > len(SECTIONS)
    assert set(named) <= set(usual_page.ids)


def test_what_comes_from_outside_is_text_and_never_markup(tmp_path):
    evil = "<script>alert(1)</script> & <b>bold</b>"
    made_up.campaign(tmp_path, row=lambda n: {"status": "failed", "value": None, "reason": evil, "layer": evil})
    made_up.claims(tmp_path, {"statement": evil, "reason": evil, "query_json": json.dumps({"a": evil})})
    html = made_up.page(tmp_path)
    assert "<script>alert" not in html
    assert evil in Page(html).sections["holes"]
    assert evil in Page(html).sections["claims"]


def test_the_same_inputs_give_the_same_page(usual):
    assert made_up.page(usual) == made_up.page(usual)


# ---- the banner ------------------------------------------------------------------------------------------------------


def test_a_good_campaign_raises_no_objection(usual_page):
    banner = usual_page.sections["banner"]
    assert "No objection." in banner
    assert not {"Stop", "Caution"} & set(banner.split())
    assert "3 of 3" in banner
    assert "Timed 6 cases, 2 implementations" in banner


def red(session):
    planted = made_up.GREEN["planted"] | {"colour": "red", "measured": 0.99}
    given = {"controls_passed": False, "controls_json": json.dumps(made_up.GREEN | {"planted": planted})}
    return given if session == 1 else {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"run": red}, "Stop Controls were red in 1 of 3 sessions. The control planted did not come out as it must"),
        ({"run": lambda _: {"controls_json": "{}"}}, "Caution These sessions ran no controls."),
        ({"run": lambda _: {"git_dirty": True}}, "Caution Dirty tree."),
        ({"sessions": 1}, "Caution Conditional: one process measured, so there is no verdict."),
        ({"sessions": 2, "planned": 3}, "Caution 2 of 3 planned sessions of layers are here."),
        ({"run": lambda k: {"git_sha": f"{k}"}}, "Note The runs come from 3 commits."),
        ({"run": lambda k: {"foreign_pids": k}}, "Caution Other processes used the device in 2 sessions."),
        (
            {"row": lambda _: {"axes_json": '{"weights": "random"}'}},
            "Caution Random weights stand in for the trained ones",
        ),
        (
            {"row": lambda _: {"status": "oom", "value": None, "reason": "31 GiB were asked for"}},
            "Stop No case gave a value.",
        ),
        (
            {"row": lambda n: {"status": "oom", "value": None, "reason": "31 GiB"} if n == 3 else {}},
            "Note 1 row of 36 is not ok.",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_the_banner_says_what_speaks_against_a_campaign(tmp_path, given, words):
    made_up.campaign(tmp_path, **given)
    banner = Page(made_up.page(tmp_path)).sections["banner"]
    assert words in banner
    # 36 rows that are all right but one are no objection
    assert ("No objection." in banner) == words.startswith("Note")


def test_graver_notices_come_first(tmp_path):
    made_up.campaign(tmp_path, run=lambda k: red(k) | {"git_dirty": True, "git_sha": str(k)})
    banner = Page(made_up.page(tmp_path)).sections["banner"]
    assert banner.index("Stop") < banner.index("Caution") < banner.index("Note")


# ---- verdicts and comparisons ----------------------------------------------------------------------------------------


def test_the_summary_counts_verdicts_and_takes_the_geometric_mean(usual, usual_page):
    pairs = records.read(usual, "comparisons").to_pydict()
    (row,) = usual_page.tables["verdicts-1"][1:]
    assert row == [
        "sparse", "cudnn_fp32", f"{gmean(pairs['ratio']):.2f}×", f"{pairs['verdict'].count('FASTER')} FASTER", "6",
        f"{min(pairs['ratio']):.2f} to {max(pairs['ratio']):.2f}", "time, graph, L2 resident",
    ]  # fmt: skip
    assert "cuSNN layers" in usual_page.sections["verdicts"]


def test_every_comparison_stands_with_its_interval(usual, usual_page):
    rows = usual_page.tables["pairs"][1:]
    expected = sorted(records.read(usual, "comparisons").to_pylist(), key=lambda pair: -pair["ratio"])
    assert [row[4] for row in rows] == [f"{pair['ratio']:.2f}×" for pair in expected]
    assert [row[5] for row in rows] == [f"{pair['ratio_low']:.2f} to {pair['ratio_high']:.2f}" for pair in expected]
    assert rows[0][0] == f"resnet50 layer{int(expected[0]['case_id'], 16)}.conv2, batch 1"


def test_one_session_has_no_verdict_and_says_so_at_every_ratio(tmp_path):
    made_up.campaign(tmp_path, sessions=1, run=lambda _: {"preset": "smoke"})
    page = Page(made_up.page(tmp_path))
    assert page.tables["verdicts-1"][1][3] == "6 no verdict"
    assert page.tables["pairs"][0][5] == "range of rounds"
    assert {row[6] for row in page.tables["pairs"][1:]} == {"· no verdict"}


def test_without_comparisons_the_page_says_why(tmp_path):
    made_up.campaign(tmp_path, row=lambda n: {"role": "ours"})
    page = Page(made_up.page(tmp_path))
    assert page.sections["verdicts"].startswith("Verdicts Nothing was compared:")
    assert "Nothing was compared, so there is no noise" in page.sections["controls"]


# ---- claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "badge"),
    [
        ({"verdict": "reproduced"}, "✓ reproduced"),
        ({"verdict": "trend"}, "↗ trend"),
        ({"verdict": "not_reproduced"}, "✗ not reproduced"),
        ({"verdict": "not_comparable"}, "≠ not comparable"),
        ({"verdict": "reproduced", "origin": "ours"}, "✓ met"),
        ({"verdict": "not_reproduced", "origin": "ours"}, "✗ not met"),
    ],
)
def test_a_card_shows_expected_and_measured(tmp_path, given, badge):
    made_up.campaign(tmp_path)
    made_up.claims(tmp_path, given)
    text = Page(made_up.page(tmp_path)).sections["claims"]
    word = "Goal" if given.get("origin") == "ours" else "Published"
    assert f"{word} at least 2.50, V100; counts from 2.25 on, as a trend from 1" in text
    assert f"{badge} this machine (NVIDIA H200)" in text
    assert "Measured 2.60 (95 % interval 2.40 to 2.80) preset quick, 6 rows, 3 sessions" in text
    assert "snakemake --cores all -- claims" in text


def test_goals_are_counted_apart_from_published_claims(tmp_path):
    made_up.campaign(tmp_path)
    made_up.claims(tmp_path, {}, {"claim_id": "cusnn.b", "origin": "ours"}, {"claim_id": "cusnn.c", "verdict": "trend"})
    page = Page(made_up.page(tmp_path))
    head, *rows = page.tables["claim-summary"]
    counted = {row[0]: dict(zip(head[2:], row[2:], strict=True)) for row in rows}
    assert counted["published claims"] == {
        "reproduced": "1", "trend": "1", "not reproduced": "0", "not run": "0", "not comparable": "0"
    }  # fmt: skip
    assert counted["our own goals"]["reproduced"] == "1"


def test_a_card_names_the_machine_of_each_answer(usual_page):
    text = usual_page.sections["claims"]
    assert "this machine (NVIDIA H200)" in text
    assert "recorded on NVIDIA A100" in text


def test_what_was_not_run_is_listed_with_what_to_type(tmp_path):
    made_up.campaign(tmp_path)
    never = {"measured": None, "low": None, "high": None, "verdict": "not_run", "preset": None, "n_rows": 0}
    made_up.claims(tmp_path, never | {"reason": "frugal does not measure sft yet", "device_key": None})
    page = Page(made_up.page(tmp_path))
    (row,) = page.tables["claims-not-run"][1:]
    assert row == ["cusnn.made.up", "It runs 2.5 times as fast", "published in the paper", "2.50 on V100",
                   "frugal does not measure sft yet"]  # fmt: skip
    assert "article" not in {tag for tag, given in page.tags if str(given.get("id")).startswith("claim-cusnn")}


def test_a_number_line_puts_what_is_greater_to_the_right(tmp_path):
    made_up.campaign(tmp_path)
    made_up.claims(tmp_path, {"measured": 1.2, "low": 1.1, "high": 1.3, "verdict": "not_reproduced"})
    html = made_up.page(tmp_path)
    line = html[html.index('class="drawing number-line"') :]
    published = float(re.search(r'class="line published" d="M([\d.]+) ', line)[1])
    measured = float(re.search(r'class="dots measured" d="M([\d.]+) ', line)[1])
    accepted = float(re.search(r'class="accepted" x="([\d.]+)"', line)[1])
    assert measured < accepted < published


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_figures_carry_their_own_words(usual_page):
    pictures = [given for tag, given in usual_page.tags if tag == "img"]
    assert len(pictures) == len(made_up.NAMES)
    assert {given["alt"] for given in pictures} == {"A blue square & its edge."}
    assert "Made up: cusnn_roofline" in usual_page.sections["figures"]
    assert "least time that the machine's bandwidth" in usual_page.sections["figures"]


def test_captions_are_read_as_restructured_text_and_nothing_is_included(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden words")
    figure = FigureFiles("a", made_up.PICTURE % b"a", b"")
    caption = f"An *emphasis*.\n\n.. include:: {secret}\n\n.. raw:: html\n\n   <b>raw</b>\n"
    (picture,) = gallery([figure], {"a": caption})
    assert "<em>emphasis</em>" in picture.caption
    assert "hidden words" not in picture.caption
    assert "<b>raw" not in picture.caption


def test_a_heavy_figure_is_shown_as_png_and_the_page_stays_within_its_budget():
    light, heavy = made_up.PICTURE % b"light", (made_up.PICTURE % b"heavy").ljust(2_000_000)
    figures = [FigureFiles("a", heavy, b"png" * 100), FigureFiles("b", light, b"")]
    kinds = [picture.source[:18] for picture in gallery(figures, {})]
    assert kinds == ["data:image/png;bas", "data:image/svg+xml"]
    sources = [picture.source for picture in gallery(figures, {}, budget=len(light) + 299)]
    assert sources[0].startswith("data:image/png")
    assert sources[1] == ""


def test_a_figure_that_finds_no_room_is_named_with_its_files(usual, monkeypatch):
    monkeypatch.setattr("frugal.report.gallery.gallery.__defaults__", (0,))
    text = Page(made_up.page(usual)).sections["figures"]
    assert text.count("This figure is too large to stand in the page") == len(made_up.NAMES)


# ---- controls, noise, cost -------------------------------------------------------------------------------------------


def test_controls_show_the_worst_session_and_the_range(tmp_path):
    made_up.campaign(tmp_path, run=red)
    rows = {row[0]: row[1:] for row in Page(made_up.page(tmp_path)).tables["control-sessions"][1:]}
    assert rows["planted"] == ["✗ red", "2 of 3", "0.8300 to 0.9900", "0.7500 to 0.8400", "ours has 1.2 times the work"]
    assert rows["null"] == ["✓ green", "3 of 3", "1.002", "0.9500 to 1.050", "two names of one function"]
    assert rows["wrong"][2:4] == ["3", "3"]
    assert rows["peak"][2:4] == ["–", "–"]


def test_a_controls_number_has_its_unit(tmp_path):
    copy = {"colour": "green", "measured": 1.234e10, "unit": "B/s", "wanted": None, "words": "no datasheet is known"}
    made_up.campaign(tmp_path, run=lambda _: {"controls_json": json.dumps({"copy": copy})})
    rows = {row[0]: row[1:] for row in Page(made_up.page(tmp_path)).tables["control-sessions"][1:]}
    assert rows["copy"][2:4] == ["12.34 GB/s", "–"]


def test_controls_are_kept_out_of_what_is_counted(tmp_path):
    made_up.campaign(tmp_path, row=lambda n: {"system": "control", "experiment": "null", "status": "ok"})
    page = Page(made_up.page(tmp_path))
    assert "verdicts-1" not in page.tables
    assert "strip-1" not in page.ids
    assert [row[0] for row in page.tables["control-pairs"][1:]] == ["null: sparse against cudnn_fp32"] * 6


def test_noise_is_the_median_over_pairs_and_the_ninth_decile(usual, usual_page):
    pairs = records.read(usual, "comparisons").to_pydict()
    (row,) = usual_page.tables["noise"][1:]
    half = np.sqrt(np.array(pairs["ratio_high"]) / np.array(pairs["ratio_low"])) - 1
    for place, values in ((4, pairs["sd_session"]), (5, pairs["sd_round"]), (6, half), (7, pairs["mde"])):
        said = [float(number) for number in re.findall(r"([\d.]+) %", row[place])]
        # two significant digits are shown
        assert said == pytest.approx([100 * np.median(values), 100 * np.quantile(values, 0.9)], rel=0.05)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(4, 5, "as planned"), (1, 3, "1.50× above the plan"), (9, 20, "2× below the plan")],
)
def test_time_taken_stands_beside_the_plan(tmp_path, low, high, words):
    made_up.campaign(tmp_path)  # 3 sessions of 90 s
    planned = {"system": "cusnn", "minutes_low": low, "minutes": (low + high) / 2, "minutes_high": high}
    plan = {"preset": "quick", "learned_from": {"local": "nvidia-h200"}, "systems": [planned]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    page = Page(made_up.page(tmp_path, plan=tmp_path / "plan.json"))
    assert page.tables["cost"][1] == ["cuSNN", "3", "4.5 min", f"{low} min to {high} min", words]
    assert "one for preset quick; it reckoned local from nvidia-h200" in page.sections["controls"]


def test_what_a_plan_is_read_for_stands_in_the_plans_that_are_written(tmp_path):
    plan.write(plan.plan(config.load({}), results=tmp_path), tmp_path / "plan.json")
    made_up.campaign(tmp_path)
    row = Page(made_up.page(tmp_path, plan=tmp_path / "plan.json")).tables["cost"][1]
    assert re.search(r"\d .* to .*\d", row[3])
    assert "the plan" in row[4] or row[4] == "as planned"


def test_without_a_plan_the_page_says_how_to_get_one(tmp_path):
    made_up.campaign(tmp_path)
    page = Page(made_up.page(tmp_path))
    assert page.tables["cost"][1] == ["cuSNN", "3", "4.5 min", "–", "–"]
    assert "No plan lies beside these results: snakemake --cores 1 plan" in page.sections["controls"]


# ---- strips ----------------------------------------------------------------------------------------------------------


def test_the_noisiest_cases_come_first_each_once(usual, usual_page):
    samples = records.read(usual, "samples").to_pandas()
    medians = samples.groupby(["case_id", "arm", "session", "round"])["value"].median()
    spread = np.log(medians).groupby(level=["case_id", "arm"]).std()
    worst = spread.groupby(level="case_id").max().sort_values(ascending=False)
    drawn = re.findall(r"resnet50 layer(\d)\.conv2, batch 1: (\w+)", usual_page.sections["strips"])
    assert [int(case) for case, _ in drawn] == [int(case, 16) for case in worst.index]
    assert all(spread[f"{int(case):016x}"].idxmax() == arm for case, arm in drawn)


def test_a_strip_holds_every_sample_with_clock_and_temperature(usual):
    html = made_up.page(usual)
    strip = html[html.index('id="strip-1"') : html.index('id="strip-2"')]
    time, clock, die = re.findall(r'<svg class="drawing strip.*?</svg>', strip)
    assert len(re.findall(r"h0", time)) == 3 * 2 * made_up.SAMPLES
    assert "SM clock: 1.965 GHz to 1.980 GHz" in clock
    assert "die: 45 °C to 47 °C" in die
    places = [float(x) for x in re.findall(r"M([\d.]+) [\d.]+h0", time)]
    assert places == sorted(places)


def test_samples_beyond_the_scale_are_counted_and_drawn_at_its_edge(tmp_path):
    made_up.campaign(tmp_path, cases=1, sessions=1)
    samples = records.read(tmp_path, "samples").to_pylist()
    samples[3]["value"] *= 50
    table = records.read(tmp_path, "samples").from_pylist(samples, schema=records.SCHEMAS["samples"])
    records.write_table(tmp_path / "samples.parquet", table, "samples")
    html = made_up.page(tmp_path)
    assert "1 sample of 24 beyond the edges, up to 5" in html
    edge = re.search(r'class="dots beyond" d="(.*?)"', html)[1]
    assert re.fullmatch(r"M[\d.]+ 3\.0h0", edge)


def test_without_polls_the_page_says_so(tmp_path):
    made_up.campaign(tmp_path)
    assert "No clock and no temperature was polled" in Page(made_up.page(tmp_path)).sections["strips"]


# ---- holes, provenance, recorded -------------------------------------------------------------------------------------


def test_what_is_not_ok_is_grouped_by_status_and_reason(tmp_path):
    lost = {0: ("oom", "31 GiB"), 2: ("oom", "31 GiB"), 5: ("timeout", "20 s"), 6: ("failed", None)}

    def row(number):
        status, reason = lost.get(number, ("ok", None))
        return {} if status == "ok" else {"status": status, "reason": reason, "value": None}

    made_up.campaign(tmp_path, row=row)
    rows = Page(made_up.page(tmp_path)).tables["not-ok"][1:]
    assert [row[:3] for row in rows] == [
        ["oom", "31 GiB", "2"], ["failed", "no reason was given", "1"], ["timeout", "20 s", "1"]
    ]  # fmt: skip
    assert rows[0][5] == "resnet50 layer0.conv2, batch 1 and resnet50 layer1.conv2, batch 1"


def test_provenance_gives_facts_that_agree_once_and_others_as_a_range(tmp_path):
    def run(session):
        return {"copy_bytes_per_s": (4.1 + session / 10) * 1e12, "threads": 16, "driver": None, "ecc": True}

    made_up.campaign(tmp_path, run=run)
    text = Page(made_up.page(tmp_path)).sections["provenance"]
    assert "copy 4.10 TB/s to 4.30 TB/s" in text
    assert "threads 16" in text
    assert "ECC yes" in text
    assert "driver" not in text


def test_provenance_shows_what_the_doctor_found_and_the_configuration(tmp_path):
    found = {"load": {"level": "WARN", "found": "3.1 on 2 cores"}, "timer": {"level": "PASS", "found": "30 ns"}}
    made_up.campaign(tmp_path, run=lambda _: {"doctor_json": json.dumps(found)})
    page = Page(made_up.page(tmp_path))
    assert page.tables["findings"][1:] == [["! WARN", "load", "3.1 on 2 cores", "3"]]
    assert '"a": 1' in page.sections["provenance"]


def test_files_that_could_not_be_had_are_named(tmp_path):
    made_up.campaign(tmp_path)
    probe = tmp_path / "availability.json"
    probe.write_text(json.dumps({"a.pth": {"where": "none", "reason": "no connection"}, "b.pth": {"where": "url"}}))
    page = Page(made_up.page(tmp_path, availability=probe))
    assert page.tables["substitutes"][1:] == [["a.pth", "no connection"]]


def test_recorded_campaigns_are_labelled_and_kept_apart(usual_page):
    text = usual_page.sections["recorded"]
    assert "Recorded on NVIDIA A100 results/recorded/nvidia-a100 · preset quick" in text
    assert "A100" not in usual_page.sections["verdicts"]
    assert usual_page.tables["nvidia-a100-verdicts-1"][1][4] == "6"


def test_the_time_of_the_last_job_is_when_it_finished(tmp_path):
    made_up.campaign(tmp_path, run=lambda k: {"finished_at": datetime(2026, 2, 1, 9, k, tzinfo=UTC)})
    assert "Finished 1 February 2026, 09:02 UTC" in Page(made_up.page(tmp_path)).sections["banner"]


# ---- what is not there -----------------------------------------------------------------------------------------------


def test_an_empty_folder_gives_a_page_that_says_what_to_type(tmp_path):
    page = Page(made_up.page(tmp_path))
    assert "Stop Nothing was measured here. Type make figures" in page.sections["banner"]
    assert "snakemake --cores all claims" in page.sections["claims"]
    assert "No figure was drawn" in page.sections["figures"]
    assert "Nothing was attempted on this machine." in page.sections["holes"]
    assert "No recorded campaign is shown" in page.sections["recorded"]
    assert page.tables == {}


def test_a_recorded_campaign_alone_is_shown_as_recorded(usual):
    page = Page(made_up.page(usual / "nowhere", (usual / "recorded/nvidia-a100",)))
    assert "Nothing was measured here." in page.sections["banner"]
    assert "6 FASTER" in page.sections["recorded"]


def test_a_damaged_plan_ends_in_a_sentence(tmp_path):
    made_up.campaign(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(FrugalError, match=r"plan\.json is damaged .*: delete it, and run the same command again"):
        made_up.page(tmp_path, plan=tmp_path / "plan.json")


def test_a_recorded_folder_that_is_not_there_ends_in_a_sentence(tmp_path):
    with pytest.raises(FrugalError, match="there is no such recorded campaign"):
        made_up.page(tmp_path, (tmp_path / "nvidia-x",))


def test_writing_replaces_the_page_whole(tmp_path):
    report.write(tmp_path / "a" / "report.html", "one")
    report.write(tmp_path / "a" / "report.html", "zwei ×")
    assert (tmp_path / "a" / "report.html").read_text("utf-8") == "zwei ×"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report.html"]
