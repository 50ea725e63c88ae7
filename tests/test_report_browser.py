"""The page in a real browser: it draws, sorts and fits; skipped where there is no Chromium."""

import shutil
import time

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.report_page import render

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver on the PATH"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(folder / "cache"))
        (folder / "report.html").write_text(render(folder / "results"))
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.get((folder / "report.html").as_uri())
    for _ in range(300):
        if driver.execute_script("return document.documentElement.dataset.ready"):
            break
        time.sleep(0.1)
    yield driver
    driver.quit()


def test_the_console_stays_empty_and_every_chart_is_drawn(browser):
    assert browser.get_log("browser") == []
    drawn, wanted = browser.execute_script(
        "return [document.querySelectorAll('.plot.vega-embed svg').length,"
        " document.querySelectorAll('figure.chart').length]"
    )
    assert drawn == wanted > 0


def test_clicking_a_head_sorts_by_number_in_both_directions(browser):
    click = (
        "const caption = document.getElementById('g1-costs');"
        "const head = caption.closest('table').querySelectorAll('thead th')[2];"
        "head.querySelector('button').click();"
        "const rows = [...head.closest('table').tBodies[0].rows];"
        "return [head.getAttribute('aria-sort'), rows.map(r => Number(r.cells[2].dataset.order))]"
    )
    first, falling = browser.execute_script(click)
    second, rising = browser.execute_script(click)
    assert (first, second) == ("descending", "ascending")
    assert falling == sorted(falling, reverse=True)
    assert rising == falling[::-1]
    assert rising[0] == 9, "as text, 9 would come after 100"


def test_every_image_shows(browser):
    widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert widths
    assert all(width > 0 for width in widths)


@pytest.mark.parametrize("width", [375, 320])
def test_a_phone_never_scrolls_the_page_sideways(browser, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
