"""The page in a real browser: columns sort, jobs show their curves, nothing is fetched, nothing complains."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rnnlab.experiments.reports.command import report
from rnnlab.experiments.sweeps.folder import Status, write_about

from .conftest import add_job

pytest.importorskip("plotly", reason="the page needs plotly")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, which drives the browser")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1000",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield made
    made.quit()


def opened(browser: Any, folder: Path) -> Any:
    (page,) = [file for file in report(folder) if file.suffix == ".html"]
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "yes"
    return browser


def complaints(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


def column(browser: Any, table: str, index: int) -> list[str]:
    return [
        cell.text for cell in browser.find_elements("css selector", f"#{table} tbody td:nth-child({index})")
    ]


def head(browser: Any, table: str, name: str) -> Any:
    buttons = browser.find_elements("css selector", f"#{table} thead button")
    return next(button for button in buttons if button.text.split(" ")[0] == name)


def test_a_column_sorts_and_a_job_shows_its_curve(browser: Any, make_sweep) -> None:
    page = opened(browser, make_sweep())
    assert "14 of 18 finished" in page.find_element("id", "summary").text
    assert column(page, "settings", 2)[:2] == ["lstm", "gru"]
    head(page, "settings", "parameters").click()
    sizes = [int(text.replace(",", "")) for text in column(page, "settings", 6)]
    assert sizes == sorted(sizes) and len(set(sizes)) > 3
    head(page, "settings", "parameters").click()
    assert [int(text.replace(",", "")) for text in column(page, "settings", 6)] == sizes[::-1]
    assert (
        page.find_element("css selector", "#settings th[aria-sort]").get_attribute("aria-sort")
        == "descending"
    )

    named = "return document.getElementById('curve-plot').data.filter((t) => t.showlegend).map((t) => t.name)"
    keys = {name.partition("=")[0] for name in page.execute_script(named)}
    assert len(keys) == 1 and len(page.execute_script(named)) > 1, "one colour a value of the telling key"

    page.find_element("css selector", '#jobs tr[data-job="000000000010"]').click()
    assert (
        page.find_element("css selector", "#details code").text
        == "rnnlab train cell=lstm model.num_layers=2 seed=1"
    )
    lines = page.execute_script(
        "return document.getElementById('curve-plot').data"
        ".filter((trace) => trace.showlegend).map((trace) => [trace.name, trace.y.length])"
    )
    assert lines == [["cell=lstm model.num_layers=2 seed=1", 8]]
    drawn = page.find_elements("css selector", "#curve-plot .scatterlayer .trace path.js-line")
    assert len(drawn) == 17
    page.find_element("css selector", '#jobs tr[data-job="000000000010"]').click()
    assert page.find_elements("css selector", "#details code") == []

    page.find_element("css selector", "#settings tbody tr").click()
    assert len(page.find_elements("css selector", "#details .job")) == 3
    assert page.execute_script("return document.querySelectorAll('.plot .main-svg').length") >= 6
    assert "the loss is nan in epoch 2" in page.find_element("id", "unfinished").text
    assert "its process ended without a word" in page.find_element("id", "unfinished").text
    named = page.execute_script(
        "return document.getElementById('size-plot').data[1].text.filter((text) => text)"
    )
    assert named[-1] == "lstm 2"  # the best of the front has its name beside it
    before = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    page.execute_script("document.getElementById('theme').click()")
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") != before
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert complaints(page) == []


def test_hostile_names_run_nothing(browser: Any, tmp_path: Path) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    link = '<a href="javascript:document.title=1">x</a>'
    for number, name in enumerate((evil, link, "${7*7}")):
        metrics = {"test/loss": 0.5 + number}
        status = Status("finished", 1, seconds=1.0, metrics=metrics, parameters=5, reason=evil)
        add_job(tmp_path, number, {evil: name, "seed": number}, status)
    add_job(tmp_path, 3, {evil: evil, "seed": 3}, Status("failed", 1, reason=evil))
    write_about(tmp_path, {"jobs": [f"{n:012x}" for n in range(4)], "objectives": []})
    page = opened(browser, tmp_path)
    for row in page.find_elements("css selector", "#jobs tbody tr"):
        page.execute_script("arguments[0].click()", row)
    assert page.title.endswith("report")
    assert page.find_elements("css selector", "img, main a, svg a") == []
    assert evil in page.find_element("id", "jobs").text
    assert complaints(page) == []


def test_an_empty_sweep_is_a_page_too(browser: Any, tmp_path: Path) -> None:
    add_job(tmp_path, 0, {"cell": "gru"}, Status())
    write_about(tmp_path, {"jobs": [f"{0:012x}"], "objectives": []})
    page = opened(browser, tmp_path)
    assert "nothing to rank" in page.find_element("id", "leaderboard-says").text
    assert complaints(page) == []
