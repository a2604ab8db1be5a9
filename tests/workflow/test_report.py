"""Both reports of a finished campaign, the project's own and Snakemake's, opened in a browser."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from campaign_folder import Campaign
from frugal import figures
from tests import chromium

DRAWN = [name for name in figures.NAMES if name.startswith("cusnn_")]  # the small campaign measures cuSNN alone
in_a_browser = pytest.mark.skipif(
    not chromium.installed(), reason="no Chromium with its driver here: apt-get install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def reported(finished: Campaign, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The small campaign, run on to its report, and Snakemake's own page made of it."""
    copy = finished.copy_to(tmp_path_factory.mktemp("reported") / "copy")
    for arguments in (("--", "report"), ("--report", "snakemake.html", "--", "report")):
        done = copy.run(*arguments)
        assert done.returncode == 0, done.stdout[-3000:]
    return copy


def test_the_report_is_made_once(reported: Campaign):
    assert (reported.folder / "results/report.html").stat().st_size > 50_000
    assert "Nothing to be done" in reported.run("--", "report").stdout


@in_a_browser
def test_the_report_of_a_real_smoke_campaign(reported: Campaign):
    with chromium.opened(reported.folder / "results/report.html") as driver:
        assert chromium.complaints(driver) == []
        text = driver.find_element(By.TAG_NAME, "main").text
        assert "Conditional: one process measured, so there is no verdict." in text
        assert "Random weights stand in for the trained ones of resnet50." in text
        assert "These sessions ran no controls" not in text
        for name in DRAWN:
            picture = driver.find_element(By.CSS_SELECTOR, f"#figure-{name} img")
            assert int(picture.get_property("naturalWidth")) > 0
        for table in ("verdicts-1", "claim-summary", "control-sessions", "cost", "sessions"):
            assert driver.find_elements(By.CSS_SELECTOR, f"#{table} tbody tr")
        planned = driver.find_elements(By.CSS_SELECTOR, "#cost tbody tr td")[2].text
        assert " to " in planned


@in_a_browser
def test_snakemakes_report_shows_figures_by_category_with_their_captions(reported: Campaign):
    page = reported.folder / "snakemake.html"
    with chromium.opened(page) as driver:
        assert chromium.requests(driver) == [page.resolve().as_uri()]
        assert [line for line in chromium.complaints(driver) if line.startswith("SEVERE")] == []
        click(driver, "//*[normalize-space(text())='cuSNN']")
        rows = WebDriverWait(driver, 20).until(lambda d: d.find_elements(By.XPATH, "//tr[td]"))
        assert [row.find_element(By.TAG_NAME, "td").text for row in rows] == sorted(DRAWN)
        click(driver, "//tr[td='cusnn_roofline']//a[@iconname='information-circle']")
        WebDriverWait(driver, 20).until(lambda d: "least time that the machine" in body(d))
        click(driver, "//*[normalize-space(text())='Results']")
        click(driver, "//*[normalize-space(text())='Report' and not(ancestor::h1)]")
        WebDriverWait(driver, 20).until(lambda d: "the whole campaign" in body(d))


def body(driver) -> str:
    return driver.find_element(By.TAG_NAME, "body").text


def click(driver, path: str) -> None:
    """Click on what an XPath finds last, once it is there: the page's title comes before the list of categories."""
    WebDriverWait(driver, 20).until(lambda d: d.find_elements(By.XPATH, path))[-1].click()
