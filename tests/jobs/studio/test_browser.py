"""The page in a real browser; skipped without Chromium, its driver, selenium or the extra."""

import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import sampling
from augments import digits as all_digits
from PIL import Image
from sklearn.datasets import load_digits

from noiseweave.engine.pictures import images
from noiseweave.jobs.reading import class_names

pytest.importorskip("gradio", reason="no Gradio here: pip install 'noiseweave[studio]'")
webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver here"),
]
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage"),
)
WAIT = 120
INLINE = ("--cluster.address", "inline")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two digits as pictures, and where the page saves to."""
    folder = tmp_path_factory.mktemp("studio")
    for name, image in zip("ab", load_digits().images[[3, 8]], strict=True):
        Image.fromarray((image * 255 / 16).round().astype(np.uint8)).save(folder / f"{name}.png")
    return folder


@contextlib.contextmanager
def served(folder, *more, name="digits-ddpm"):
    """The address of a page of a model, as a command starts it; at its end its uploads are gone."""
    temporary = folder / f"tmp-{Path(name).name}"
    temporary.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["studio", *more, "--model.name", name, "--output", "out", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, "-m", "noiseweave", *words], cwd=folder, env=environment
    ) as process:
        address = f"http://127.0.0.1:{port}/"
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(address).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
        assert any(temporary.glob("noiseweave-studio-*"))
        process.terminate()
    assert process.returncode == 143
    assert not any(temporary.glob("noiseweave-studio-*"))


@pytest.fixture(scope="module")
def address(folder):
    """A page without an input."""
    with served(folder) as address:
        yield address


@pytest.fixture
def classes_address(folder):
    """A page of a small model that knows three classes by name."""
    name = sampling.tiny(folder / "classes", "flow", 3)
    class_names.write(name, ["daisy", "rose", "tulip"])
    with served(folder, name=name) as address:
        yield address


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """The folder and the address of a page whose input is 90 digits in class folders."""
    folder = tmp_path_factory.mktemp("paired")
    for i, (image, label) in enumerate(zip(*all_digits(), strict=True)):
        path = folder / "in" / f"class {label}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    with served(folder, "in") as address:
        yield folder, address


@pytest.fixture(params=["en-US"])
def browser(request, tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, "--window-size=1280,1000", f"--user-data-dir={tmp_path}", f"--lang={request.param}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"intl.accept_languages": request.param})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def within(seconds, found):
    """What ``found`` gives, once it gives something; None where it does not in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.05)
    return None


def until(found):
    """What ``found`` gives, once it gives something."""
    value = within(WAIT, found)
    assert value, "nothing came"
    return value


def one(browser, css):
    return until(lambda: browser.find_elements("css selector", css))[0]


def text_of(browser, css):
    return one(browser, css).get_attribute("textContent")


def unfold(browser, css):
    """Open what is folded until a part is there."""

    def found():
        there = browser.find_elements("css selector", css)
        if not there:
            browser.execute_script(
                "document.querySelectorAll('.label-wrap:not(.open)').forEach((e) => e.click())"
            )
        return there

    until(found)


def controls_of(grid):
    """A selector of all controls of a part of the page but its files."""
    return f"{grid} input:not([type=file]), {grid} button, {grid} textarea"


def unnamed(browser, css):
    """The controls that nothing gives a name to."""
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter((e) => !(e.labels?.length || e.ariaLabel "
        "|| e.title || e.textContent.trim() || e.getAttribute('aria-labelledby') || e.closest('label')))"
        ".map((e) => e.outerHTML)",
        css,
    )


def upload(browser, name, path):
    one(browser, f"#{name} input[type=file]").send_keys(str(path))
    until(lambda: browser.find_elements("css selector", f"#{name} img"))


def result(browser, before=None):
    """Address and pixels of the picture that is shown, once it is another one than before."""

    def shown():
        found = browser.find_elements("css selector", "#result img")
        address = found[0].get_attribute("src") if found else None
        return address if address != before else None

    address = until(shown)
    with urllib.request.urlopen(address) as answer:
        return address, np.asarray(Image.open(io.BytesIO(answer.read())))


def move(browser, name, value):
    """Type a value into a slider's number."""
    number = one(browser, f"#{name} input[type=number]")
    browser.execute_script(
        "const [e, v] = arguments; e.focus(); e.value = v; e.dispatchEvent(new Event('input', {bubbles: true}));"
        "e.dispatchEvent(new Event('change', {bubbles: true})); e.blur();",
        number,
        value,
    )


def apart(image, path, part=np.s_[:]):
    """The largest difference to a part of a picture's file, as the model takes it."""
    wanted = images.fit(images.decode(path.read_bytes(), 1), 16)[..., 0][part]
    return np.abs(image.astype(int) - wanted).max()


def two_uploads(browser, address, folder):
    """Open the page with two pictures; the first ``result`` of them."""
    browser.get(address)
    upload(browser, "picture_1", folder / "a.png")
    until(lambda: "second picture" in text_of(browser, "#line"))
    upload(browser, "picture_2", folder / "b.png")
    return result(browser)


def test_two_uploads_and_a_ratio(browser, address, folder):
    middle, image = two_uploads(browser, address, folder)
    assert apart(image, folder / "a.png") > 20
    assert apart(image, folder / "b.png") > 20
    move(browser, "ratio", "0")
    first, image = result(browser, middle)
    assert apart(image, folder / "a.png") <= 1
    move(browser, "ratio", "1")
    _, image = result(browser, first)
    assert apart(image, folder / "b.png") <= 1
    unfold(browser, "#command textarea")
    until(lambda: "--fusion.ratio 1" in one(browser, "#command textarea").get_attribute("value"))
    made = run_as_shown(browser, folder, "")
    assert (np.asarray(Image.open(made / "fused.png")) == image).all()
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    asked = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    assert len(urls) > 10
    assert [url for url in urls if not url.startswith((address, "data:", "blob:", "chrome:"))] == []


def test_a_number_out_of_its_range_is_drawn_as_it_is_shown_once_it_is_left(browser, address, folder):
    browser.get(address)
    upload(browser, "picture_1", folder / "a.png")
    until(lambda: "second picture" in text_of(browser, "#line"))
    upload(browser, "picture_2", folder / "b.png")
    result(browser)
    number = one(browser, "#ratio input[type=number]")
    number.send_keys(webdriver.Keys.CONTROL, "a")
    number.send_keys("5")
    until(lambda: "fusion.ratio=5" in text_of(browser, "#line"))
    number.send_keys(webdriver.Keys.TAB)
    _, image = result(browser)
    assert number.get_attribute("value") == "1"
    assert apart(image, folder / "b.png") <= 1


def test_what_a_page_draws_ends_when_it_is_left(browser, address, folder):
    def kept():
        return len({path.read_bytes() for path in folder.glob("tmp-digits-ddpm/*/*/*.png")})

    opened(browser, address, "Sample")
    before = kept()
    one(browser, "#sample_steps input[type=number]")
    move(browser, "sample_steps", "100")
    move(browser, "count", "64")
    until(lambda: "processing" in text_of(browser, "#sample_line"))
    opened(browser, address, "Sample")
    one(browser, "#count input[type=number]")
    move(browser, "count", "1")
    until(lambda: "Drawn in" in text_of(browser, "#sample_line"))
    assert kept() - before < 60


@pytest.mark.parametrize("browser", ["zh-CN"], indirect=True)
def test_a_chinese_browser_reads_chinese(browser, address):
    browser.get(address)
    until(lambda: "digits-ddpm" in text_of(browser, "#about"))
    assert "第二张图片的权重" in text_of(browser, "#ratio")
    assert "工作室" in text_of(browser, "#title")
    assert "自身噪声较强之处" in text_of(browser, "#region")
    assert "__i18n__" not in browser.find_element("css selector", "body").text


@pytest.mark.parametrize("width", [1280, 420])
def test_no_part_is_wider_than_the_window_and_every_control_has_a_label(browser, address, width):
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(address)
    one(browser, "#ratio input[type=number]")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert unnamed(browser, controls_of("#fuse_grid")) == []


def press(browser, css):
    browser.execute_script("arguments[0].click()", one(browser, css))


def tab(browser, name):
    """Open a tab; in a narrow window the last ones are in a menu."""
    script = (
        "const found = [...document.querySelectorAll('button[role=tab], .overflow-dropdown button')]"
        ".find((e) => e.textContent.trim() === arguments[0]); found?.click(); return Boolean(found)"
    )
    until(lambda: browser.execute_script(script, name))


def counted(browser):
    """Pairs that the page says there are."""
    return int(until(lambda: re.search(r"(\d+) pairs of 90", text_of(browser, "#pairs_line")))[1])


def test_pairs_follow_a_slider_and_a_run_is_started_and_comes_to_its_end(browser, paired):
    folder, address = paired
    browser.get(address)
    one(browser, "#fuse_grid, #ratio")
    unfold(browser, "#steps input[type=number]")
    move(browser, "steps", "4")
    move(browser, "skip", "1")
    tab(browser, "Pairs")
    first = counted(browser)
    one(browser, "#pairs_figures svg rect")
    move(browser, "threshold", "0.9")
    until(lambda: counted(browser) < first)
    pairs = counted(browser)
    one(browser, "#pairs_ends img")
    unfold(browser, "#pairs_command textarea")
    command = until(lambda: one(browser, "#pairs_command textarea").get_attribute("value"))
    assert "--pairing.threshold 0.9" in command
    assert "--inversion.num_steps 4 --inversion.skip 1" in command
    press(browser, "#pairs_run")
    until(lambda: command in text_of(browser, "#pairs_ran"))
    tab(browser, "Runs")
    until(lambda: "running" in text_of(browser, "#runs_found"))
    until(lambda: browser.find_elements("css selector", "#stop:not([disabled])"))
    until(lambda: browser.find_elements("css selector", "#runs_found .state.done"))
    assert f"{pairs} of {pairs} planned pictures" in text_of(browser, "#runs_found")
    assert command in text_of(browser, "#runs_found")
    assert json.loads((folder / "out/augment-001/report.json").read_text())["pairs"] == pairs
    browser.get(one(browser, "#runs_found a").get_attribute("href"))
    assert "augment-001" in until(lambda: text_of(browser, "h1"))
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def opened(browser, address, name):
    """A tab of the page, once the model is there."""
    browser.get(address)
    until(lambda: "16x16" in text_of(browser, "#about"))
    tab(browser, name)


def pixels_at(browser, css):
    with urllib.request.urlopen(one(browser, css).get_attribute("src")) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())).convert("L"))


def run_as_shown(browser, folder, prefix, *more):
    """Save what the tab shows, and run the command that it shows; the files of its output."""
    unfold(browser, f"#{prefix}command textarea")
    browser.execute_script("arguments[0].click()", one(browser, f"#{prefix}save"))
    until(lambda: "Saved" in text_of(browser, f"#{prefix}saved"))
    command = one(browser, f"#{prefix}command textarea").get_attribute("value").split()
    words = [sys.executable, "-m", *command, *more]
    assert subprocess.run(words, cwd=folder, check=False).returncode == 0
    return folder / command[command.index("--output") + 1]


def paint(browser, canvas, line):
    """A stroke across the middle; once more where the canvas had not taken its picture yet."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)

    def painted():
        stroke = webdriver.ActionChains(browser).move_to_element(canvas).click_and_hold()
        stroke.move_by_offset(20, 10).release().perform()
        return within(10, lambda: "Drawn in" in text_of(browser, line))

    until(painted)


def test_a_region_is_painted_and_the_second_picture_shows_there(browser, address, folder):
    everywhere, _ = two_uploads(browser, address, folder)
    move(browser, "ratio", "1")
    second, _ = result(browser, everywhere)
    browser.execute_script("document.querySelector('#region input[value=file]').click()")
    until(lambda: "Paint where" in text_of(browser, "#line"))
    paint(browser, one(browser, "#region_painted canvas"), "#line")
    _, image = result(browser, second)
    assert apart(image, folder / "a.png") > 20
    assert apart(image, folder / "b.png") > 20
    assert apart(image[:, :2], folder / "a.png", np.s_[:, :2]) < apart(
        image[:, :2], folder / "b.png", np.s_[:, :2]
    )
    made = run_as_shown(browser, folder, "")
    assert (np.asarray(Image.open(made / "fused.png")) == image).all()


def test_a_hole_is_painted_and_repaired(browser, address, folder):
    opened(browser, address, "Repair")
    upload(browser, "repair_picture", folder / "a.png")
    canvas = one(browser, "#painted canvas")
    until(lambda: "Paint the hole" in text_of(browser, "#repair_line"))

    paint(browser, canvas, "#repair_line")
    tiles = until(lambda: browser.find_elements("css selector", "#repair_variants .thumbnail-item img"))
    assert len(tiles) == 2
    first = pixels_at(browser, "#repair_variants .thumbnail-item img")
    before = np.asarray(Image.open(folder / "a.png"))
    assert first.shape == before.shape == (8, 8)
    changed = (first != before).mean()
    assert 0 < changed < 0.5
    made = run_as_shown(browser, folder, "repair_", *INLINE)
    files = sorted((made / "restored").iterdir())
    assert len(files) == 2
    assert (np.asarray(Image.open(files[0])) == first).all()
    compared = {e.get_attribute("src") for e in browser.find_elements("css selector", "#compare img")}
    browser.execute_script("document.querySelectorAll('#compared input')[1].click()")
    until(
        lambda: (
            {e.get_attribute("src") for e in browser.find_elements("css selector", "#compare img")} - compared
        )
    )
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def test_a_class_is_sampled(browser, classes_address, folder):
    opened(browser, classes_address, "Sample")
    choice = until(lambda: browser.find_elements("css selector", "#classes input"))[0]
    browser.execute_script("arguments[0].focus()", choice)
    choice.send_keys("rose", webdriver.Keys.ENTER)
    until(lambda: "Drawn in" in text_of(browser, "#sample_line"))
    tiles = until(lambda: browser.find_elements("css selector", "#drawn_pictures .thumbnail-item"))
    assert [tile.text.strip() for tile in tiles] == ["rose"] * 4
    shown = pixels_at(browser, "#drawn_pictures .thumbnail-item img")
    one(browser, "#film img")
    made = run_as_shown(browser, folder, "sample_", *INLINE)
    found = next(iter(sampling.read(made).values()))
    assert found["cls"] == b"1"
    assert (np.asarray(Image.open(io.BytesIO(found["png"]))) == shown).all()
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


@pytest.mark.parametrize("width", [1280, 420])
def test_pairs_and_runs_fit_the_window_and_their_controls_have_labels(browser, paired, width):
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(paired[1])
    tab(browser, "Pairs")
    one(browser, "#pairs_figures svg")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert unnamed(browser, "#pairs_grid input, #pairs_grid button, #stop, #pairs_run") == []
    assert browser.execute_script(
        "return [...document.querySelectorAll('#pairs_ends img')].every((e) => e.alt)"
    )
    tab(browser, "Runs")
    one(browser, "#runs_found *")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("name", ["Repair", "Sample"])
def test_no_tab_is_wider_than_the_window_and_every_control_has_a_label(browser, address, width, name):
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    opened(browser, address, name)
    grid = f"#{name.lower()}_grid"
    until(lambda: one(browser, grid).is_displayed())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert unnamed(browser, controls_of(grid)) == []


@pytest.mark.parametrize("browser", ["zh-CN"], indirect=True)
def test_the_other_tabs_are_chinese_too(browser, address):
    for name, css, words in (("修复", "#repair_grid", "修复前后"), ("采样", "#sample_grid", "绘制图片")):
        opened(browser, address, name)
        until(lambda css=css, words=words: words in one(browser, css).text)
        assert "__i18n__" not in one(browser, css).text
