"""A real browser for the tests of pages: Debian's Chromium, headless, with a profile of its own and no network use."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

_ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--force-color-profile=srgb", "--hide-scrollbars",
)  # fmt: skip


def installed() -> bool:
    """Whether there is a Chromium with its driver (.ci/run installs them where it may)."""
    return bool(shutil.which("chromedriver") and shutil.which("chromium"))


@contextlib.contextmanager
def opened(page: Path, *, width: int = 1440, dark: bool = False, scripts: bool = True) -> Iterator[webdriver.Chrome]:
    """The page from the disk, in a window of `width` CSS pixels whose scheme of colours is light or dark."""
    options = Options()
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with tempfile.TemporaryDirectory(prefix="frugal-chromium-") as profile:
        for argument in (*_ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},1000"):
            options.add_argument(argument)
        if not scripts:
            options.add_argument("--blink-settings=scriptEnabled=false")
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            # A window cannot be narrower than 500 pixels; a phone's screen is emulated.
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500},
            )
            wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
            features = [{"name": name, "value": value} for name, value in wishes.items()]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            driver.get("about:blank")  # the browser's own first page asks for much
            driver.get_log("performance")
            driver.get(page.resolve().as_uri())
            yield driver
        finally:
            driver.quit()


def requests(driver: webdriver.Chrome) -> list[str]:
    """The addresses that the page asked for, those inside the page (data:) left out."""
    found = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    return [address for address in found if not address.startswith("data:")]


def complaints(driver: webdriver.Chrome) -> list[str]:
    """What the browser wrote to its console."""
    return [f"{entry['level']}: {entry['message']}" for entry in driver.get_log("browser")]


def photograph(driver: webdriver.Chrome, path: Path) -> None:
    """The whole page as a picture, however long it is."""
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
    path.write_bytes(base64.b64decode(shot["data"]))
