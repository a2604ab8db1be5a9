"""The report in a real browser, opened from the disk: complete, quiet, readable, usable by keys and without scripts.

The page is that of the recorded campaign, taken as if this machine had measured it: 98 layers, seven implementations,
three sessions, with its real figures.
"""

import shutil
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from frugal import figures, report
from tests import chromium
from tests.frugal.report import made_up

pytestmark = pytest.mark.skipif(
    not chromium.installed(), reason="no Chromium with its driver here: apt-get install chromium chromium-driver"
)
RECORDED = made_up.ROOT / "results" / "recorded" / "nvidia-h200"
DRAWN = ("cusnn_sparsity", "cusnn_layer_speedup", "cusnn_roofline")
LEAST_CONTRAST = 4.5  # WCAG 2.2, success criterion 1.4.3, text of any size
MOST_BYTES = 15_000_000


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("page") / "results"
    shutil.copytree(RECORDED, results)
    made_up.claims(results, {}, {"claim_id": "cusnn.b", "origin": "ours", "verdict": "not_reproduced"})
    frames = figures.load(results, [RECORDED])
    for name in DRAWN:
        figures.draw(name, frames, results / "figures" / name)
    report.write(results / "report.html", made_up.page(results, (RECORDED,)))
    return results / "report.html"


@pytest.fixture(scope="module")
def desk(page):
    """The page in a wide window, in the light theme. Tests leave it as it was."""
    with chromium.opened(page) as driver:
        yield driver


def test_the_page_is_small_enough_to_send(page):
    assert page.stat().st_size <= MOST_BYTES


def test_it_asks_for_nothing_and_complains_of_nothing(page):
    with chromium.opened(page) as driver:
        assert chromium.requests(driver) == [page.resolve().as_uri()]
        assert chromium.complaints(driver) == []
        # the same observer sees a request and a complaint where there is one
        driver.execute_script("document.body.append(Object.assign(new Image(), {src: 'missing.png'}))")
        driver.get("about:blank")
        assert any("Content Security Policy" in line for line in chromium.complaints(driver))


def test_every_figure_is_shown(desk):
    shown = desk.execute_script("return [...document.images].map(image => [image.naturalWidth, image.alt.length])")
    assert len(shown) == len(DRAWN)
    assert all(width > 0 and words > 20 for width, words in shown)


# ---- reading ---------------------------------------------------------------------------------------------------------

# Every text on the page that can be seen, with its colour and what lies behind it; colours as [r, g, b, a].
TEXTS = """
document.querySelectorAll("details").forEach(details => details.open = true);
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgba = colour => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].map((part, place) => place < 3 ? part : part / 255);
};
const found = new Map();
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
  if (element.closest(".spoken, script, style")) continue;
  const style = getComputedStyle(element);
  const behind = [];
  for (let node = element; node; node = node.parentElement) behind.push(getComputedStyle(node).backgroundColor);
  const colour = element instanceof SVGElement ? style.fill : style.color;
  found.set([colour, ...behind].join("|"), [walker.currentNode.data.trim().slice(0, 40), colour, behind]);
}
return [...found.values()].map(([text, colour, behind]) => [text, rgba(colour), behind.map(rgba)]);
"""


def over(upper: list[float], lower: list[float]) -> list[float]:
    """A colour painted over an opaque one."""
    share = upper[3]
    return [share * a + (1 - share) * b for a, b in zip(upper[:3], lower[:3], strict=True)] + [1.0]


def luminance(colour: list[float]) -> float:
    """Relative luminance, as WCAG 2.2 defines it, of [r, g, b, …] from 0 to 255."""
    parts = [part / 255 for part in colour[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], other: list[float]) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_the_standard_does():
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21)
    assert contrast([119, 119, 119], [255, 255, 255]) == pytest.approx(4.48, abs=0.01)  # #777: WebAIM's checker


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_and_can_be_read(page, width, dark):
    with chromium.opened(page, width=width, dark=dark) as driver:
        assert driver.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
        poor = []
        for text, colour, layers in driver.execute_script(TEXTS):
            ground = [255.0, 255.0, 255.0, 1.0]
            for layer in reversed(layers):
                ground = over(layer, ground)
            if contrast(over(colour, ground), ground) < LEAST_CONTRAST:
                poor.append((text, colour, ground))
        assert poor == []
        # with every part unfolded too
        assert driver.execute_script("return document.documentElement.scrollWidth") == width
        behind = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, behind[4:-1].split(","))) < 3 * 64) == dark


def test_a_screen_reader_finds_landmarks_and_names(desk):
    nodes = desk.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    roles = [role for role, _ in named]
    assert [roles.count(role) for role in ("main", "banner", "contentinfo", "navigation")] == [1, 1, 1, 1]
    wanted = {"navigation", "region", "table", "image", "button", "link", "searchbox", "article", "DisclosureTriangle"}
    assert wanted - {"searchbox"} <= set(roles)
    assert [pair for pair in named if pair[0] in wanted and not pair[1].strip()] == []


# ---- tables ----------------------------------------------------------------------------------------------------------


def column(driver, table: str, place: int) -> list[str]:
    """The texts of a column, of the rows that are shown."""
    return driver.execute_script(
        "return [...document.getElementById(arguments[0]).tBodies[0].rows].filter(row => !row.hidden)"
        ".map(row => row.cells[arguments[1]].textContent.trim())", table, place,
    )  # fmt: skip


def head(driver, table: str, place: int):
    return driver.find_elements(By.CSS_SELECTOR, f"#{table} thead th")[place]


def test_a_click_sorts_a_column_of_numbers_and_another_click_turns_it(desk):
    cell = head(desk, "verdicts-1", 2)
    cell.find_element(By.TAG_NAME, "button").click()
    texts = column(desk, "verdicts-1", 2)
    rising = [float(text.rstrip("×")) for text in texts]
    assert cell.get_attribute("aria-sort") == "ascending"
    assert rising == sorted(rising)
    assert len(set(rising)) > 5
    cell.find_element(By.TAG_NAME, "button").click()
    assert cell.get_attribute("aria-sort") == "descending"
    falling = column(desk, "verdicts-1", 2)
    assert sorted(falling) == sorted(texts)
    assert [float(text.rstrip("×")) for text in falling] == [*reversed(rising)]


def test_keys_sort_a_column_of_words(desk):
    cell = head(desk, "verdicts-1", 1)
    cell.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert column(desk, "verdicts-1", 1) == sorted(column(desk, "verdicts-1", 1))
    assert cell.get_attribute("aria-sort") == "ascending"
    assert len(desk.find_elements(By.CSS_SELECTOR, "#verdicts-1 [aria-sort]")) == 1


def test_what_has_no_number_comes_last_in_both_directions(desk):
    # the runs that count zeros measured no copy rate
    place = [cell.text.strip(" ↕") for cell in desk.find_elements(By.CSS_SELECTOR, "#sessions thead th")].index("copy")
    for _ in range(2):
        desk.execute_script("arguments[0].click()", head(desk, "sessions", place).find_element(By.TAG_NAME, "button"))
        texts = column(desk, "sessions", place)
        assert len(texts) > 4
        assert [text == "–" for text in texts] == [False] * (len(texts) - 2) + [True] * 2


def test_a_filter_shows_the_rows_with_all_its_words(desk):
    desk.execute_script("document.getElementById('pairs').closest('details').open = true")
    label = desk.find_element(By.CSS_SELECTOR, "label[for='pairs-filter']")
    assert label.text == "Show rows that contain"
    field = desk.find_element(By.ID, "pairs-filter")
    field.send_keys("RESNET50 cudnn_tf32_cl faster")
    shown = desk.execute_script(
        "return [...document.getElementById('pairs').tBodies[0].rows].filter(row => row.checkVisibility())"
        ".map(row => row.textContent.toLowerCase())"
    )
    rows = desk.execute_script(
        "return [...document.getElementById('pairs').tBodies[0].rows].map(row => row.textContent.toLowerCase())"
    )
    expected = [row for row in rows if all(word in row for word in ("resnet50", "cudnn_tf32_cl", "faster"))]
    assert shown == expected
    assert 0 < len(shown) < len(rows)
    told = field.find_element(By.XPATH, "ancestor::*[contains(@class, 'filter')]//*[@role='status']").text
    assert told == f"{len(shown)} of {len(rows)} rows"
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(Keys.DELETE)
    assert len(column(desk, "pairs", 0)) == len(rows)


# ---- keys and themes -------------------------------------------------------------------------------------------------


def test_the_first_key_leads_past_the_contents(page):
    with chromium.opened(page) as driver:
        driver.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
        link = driver.switch_to.active_element
        assert link.text == "Skip to the report"
        assert link.rect["y"] >= 0
        link.send_keys(Keys.ENTER)
        assert driver.current_url.endswith("#main")
        assert driver.execute_script("return document.querySelector('main').getBoundingClientRect().top") <= 20


def test_the_switch_of_the_theme_wins_over_the_system_and_is_kept(page):
    with chromium.opened(page) as driver:
        ground = "return getComputedStyle(document.body).backgroundColor"
        light = driver.execute_script(ground)
        button = driver.find_element(By.CSS_SELECTOR, "button.theme")
        assert button.text == "Dark theme"
        button.send_keys(Keys.SPACE)
        dark = driver.execute_script(ground)
        assert dark != light
        driver.refresh()
        assert driver.execute_script(ground) == dark
        assert driver.find_element(By.CSS_SELECTOR, "button.theme").text == "Light theme"


# ---- without scripts -------------------------------------------------------------------------------------------------


def test_without_scripts_everything_is_there_and_nothing_is_dead(page, tmp_path):
    with chromium.opened(page, width=390, scripts=False) as driver:
        nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
        names = [node.get("name", {}).get("value", "") for node in nodes if not node["ignored"]]
        assert roles.count("image") > len(DRAWN)
        assert {"Verdicts", "Claims", "Figures", "What is not ok", "Recorded campaigns"} <= set(names)
        assert "button" not in roles  # a button that does nothing would be made by no script
        assert "searchbox" not in roles
        width = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]["width"]
        assert width == 390
        assert chromium.requests(driver) == [page.resolve().as_uri()]
