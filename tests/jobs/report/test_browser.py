"""The page in a real browser, from the disk: filters, pages, clicks, keys; skipped where there is no Chromium."""

import shutil
import time

import pytest
import reports

from noiseweave.engine.pictures import images
from noiseweave.jobs.report import job as report

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver here"),
]
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--window-size=1200,900",
)
CAPTION = "<img src=x onerror=window.hacked=1> </script> a quiet caption"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """The page of 130 samples, 5 of them copies, and one with a caption that is none of ours."""
    folder = tmp_path_factory.mktemp("report")
    png = images.encode(reports.picture(5))
    hostile = ("<b>key", {"png": png, "txt": CAPTION.encode(), "json": b'{"mode": "<i>odd"}'})
    output = reports.build(folder, count=130, rejected=5, extra=[hostile])
    report.write(output)
    return f"file://{output}/report.html"


@pytest.fixture
def opened(browser, page):
    browser.get(page)
    return browser


def all_of(browser, css):
    return browser.find_elements("css selector", css)


def one(browser, css):
    return browser.find_element("css selector", css)


def where(browser):
    return one(browser, "#pager-top .where").text


def choose(browser, name, value):
    from selenium.webdriver.support.ui import Select

    Select(one(browser, f"#filters [name={name}]")).select_by_value(value)


def clear(browser):
    one(browser, "#filters button[type=reset]").click()
    end = time.monotonic() + 5
    while where(browser) != "1–48 of 131":
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_opens_from_the_disk_without_a_word_and_without_a_request(opened):
    assert opened.get_log("browser") == []
    asked = opened.execute_script("return performance.getEntriesByType('resource').map((r) => r.name)")
    assert [url for url in asked if not url.startswith("data:")] == []
    tiles = {
        t.find_element("css selector", "dt").text: t.find_element("css selector", ".value").text
        for t in all_of(opened, ".tile")
    }
    assert (tiles["Kept"], tiles["Quarantined"], tiles["Inversions saved"]) == ("126", "3", "50%")
    assert len(all_of(opened, "#charts svg")) == 2
    assert [row.text.split()[:2] for row in all_of(opened, "#workers tbody tr")] == [
        ["generate", "blue/2"],
        ["generate", "red/1"],
    ]
    assert "<b>only txt</b>" in one(opened, "#bad").text
    drawn = opened.execute_script(
        "return [...document.querySelectorAll('#cards img')].every((i) => i.complete && i.naturalWidth === 8)"
    )
    assert drawn


def test_pages_by_button_and_key(opened):
    from selenium.webdriver.common.keys import Keys

    assert where(opened) == "1–48 of 131"
    assert len(all_of(opened, "#cards li")) == 48
    one(opened, "#pager-top [aria-label='Last page']").click()
    assert where(opened) == "97–131 of 131"
    assert len(all_of(opened, "#cards li")) == 35
    assert not one(opened, "#pager-top [aria-label='Next page']").is_enabled()
    one(opened, "body").send_keys(Keys.ARROW_LEFT)
    assert where(opened) == "49–96 of 131"


def test_filters(opened):
    choose(opened, "verdict", "copy")
    assert where(opened) == "1–5 of 5"
    assert [badge.text for badge in all_of(opened, ".badge")] == ["copy"] * 5
    clear(opened)
    choose(opened, "mode", "linear")
    assert where(opened) == "1–48 of 65"
    choose(opened, "class", "2")
    assert where(opened) == "1–22 of 22"  # 2, 8, ... 128: even, and 2 modulo 3
    clear(opened)
    one(opened, "[name=low]").send_keys("0.9")
    one(opened, "[name=high]").send_keys("0.95")
    assert where(opened) == "1–6 of 6"
    one(opened, "[name=text]").send_keys("nowhere")
    assert where(opened) == "0 samples"
    assert one(opened, "#nothing").is_displayed()
    clear(opened)
    bar = all_of(opened, "#charts .picks .hit")[0]
    opened.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", bar)
    assert one(opened, "[name=low]").get_attribute("value") == "0"


def test_lineage_on_a_click(opened):
    from selenium.webdriver.common.keys import Keys

    all_of(opened, "#cards .card")[1].click()
    dialog = one(opened, "#detail")
    assert dialog.is_displayed()
    assert one(opened, "#detail-title").text == "s000001"
    assert "first parent: p1, class 1, weight 0.5, in a.tar" in dialog.text
    assert str(2**62 + 1) in dialog.text
    assert len(all_of(opened, "#detail img")) == 3
    one(opened, "#detail").send_keys(Keys.ARROW_RIGHT)
    assert one(opened, "#detail-title").text == "s000002"
    one(opened, "#close").click()
    assert not dialog.is_displayed()


def test_a_hostile_caption_is_text(opened):
    one(opened, "[name=text]").send_keys("quiet")
    assert where(opened) == "1–1 of 1"
    assert one(opened, "#cards .caption").text == CAPTION
    one(opened, "#cards .card").click()
    assert one(opened, "#detail-title").text == "<b>key"
    assert CAPTION in one(opened, "#detail").text
    assert len(all_of(opened, "#detail img")) == 1, "its parents are not there, and no other picture is"
    one(opened, "#close").click()
    assert opened.execute_script("return window.hacked") is None
    assert opened.get_log("browser") == []
