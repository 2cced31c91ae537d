"""The report in a real browser: a Chromium of the system, driven by Playwright."""

import io
import re
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from lldm3d.report.write import report

from ..evaluation.toys import SPACING, write_dataset

sync_api = pytest.importorskip("playwright.sync_api", reason="no browser is driven without playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="nothing finds what shuts out readers")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
# a container has no sandbox of its own, and a CI machine no graphics card
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
WIDE, NARROW = {"width": 760, "height": 600}, {"width": 360, "height": 740}
PATIENCE = 180_000  # ms, as other tests and work share the cores
PLACE = re.compile(r"x (\S+), y (\S+), z (\S+) mm · brightness (\d+) %")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """What opens pages."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS, timeout=PATIENCE)
        context = browser.new_context(has_touch=True)
        context.set_default_timeout(PATIENCE)
        sync_api.expect.set_options(timeout=PATIENCE)
        yield context
        browser.close()


@pytest.fixture(scope="module")
def opened(work, browser) -> Iterator:
    """The report of a whole work directory from its file; `opened.told` has what the browser said and asked for."""
    page = browser.new_page()
    page.set_viewport_size(WIDE)
    page.told = []
    page.on("console", lambda message: page.told.append(message.text))
    page.on("pageerror", lambda error: page.told.append(str(error)))
    page.on("request", lambda request: page.told.append(request.url))
    page.goto((work / "report/report.html").as_uri())
    sync_api.expect(page.locator(".place")).to_have_text([PLACE, PLACE])  # the page lets no test evaluate text
    yield page
    page.close()


@pytest.fixture
def page(opened):
    """The page with its viewer as it began."""
    opened.set_viewport_size(WIDE)
    opened.emulate_media(color_scheme="light")
    opened.click("#restart")
    return opened


def places(page) -> list[tuple[float, ...]]:
    """Where the cross-hair of each side is (x, y, z in mm), and how bright the image is there (%)."""
    texts = page.locator(".place").all_inner_texts()
    return [tuple(map(float, PLACE.match(text).groups())) for text in texts]


def picture(page, side: str = "real") -> np.ndarray:
    """What a canvas shows, [rows, columns, RGB]."""
    page.wait_for_timeout(150)  # a frame or two
    shot = Image.open(io.BytesIO(page.locator(f"#canvas-{side}").screenshot())).convert("RGB")
    return np.asarray(shot).astype(int)[8:-8, 8:-8]  # without the frame that marks the focus


def coloured(pixels: np.ndarray) -> int:
    """Number of pixels in the blue of the second class: neither grey nor yellow as the cross-hair."""
    return int((pixels[..., 2] > pixels[..., 0] + 30).sum())


def test_it_opens_from_its_file_without_an_error_and_asks_for_nothing_else(opened, work):
    assert [text for text in opened.told if not text.startswith(("data:", "blob:"))] == [
        (work / "report/report.html").as_uri()
    ]


def test_a_click_moves_the_cross_hair_of_both_sides(page):
    page.select_option("#view", "axial")
    before, box = places(page), page.locator("#canvas-real").bounding_box()
    page.locator("#canvas-real").click(position={"x": 0.35 * box["width"], "y": 0.3 * box["height"]})
    (x, y, z, _), synthetic = places(page)[0], places(page)[1]
    assert (x, y, z) == synthetic[:3] != before[0][:3]
    assert x > 0 and y > 0 and z == before[0][2]  # the patient's right is on the left, anterior above
    page.locator("#canvas-synthetic").click(position={"x": 0.6 * box["width"], "y": 0.6 * box["height"]})
    assert places(page)[0][:3] == places(page)[1][:3] and places(page)[0][0] < 0 > places(page)[0][1]


def test_a_touch_moves_the_cross_hair(page):
    page.select_option("#view", "coronal")
    page.locator("#canvas-real").scroll_into_view_if_needed()
    before, box = places(page), page.locator("#canvas-real").bounding_box()
    finger = page.context.new_cdp_session(page)  # Playwright's own tap lasts no time
    at = [{"x": box["x"] + 0.4 * box["width"], "y": box["y"] + 0.4 * box["height"]}]
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": at})
    page.wait_for_timeout(100)
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert places(page)[0][:3] == places(page)[1][:3] != before[0][:3]


def test_labels_are_laid_over_the_image_or_not(page):
    shown = coloured(picture(page))
    page.uncheck("#labels")
    assert shown > 100 and coloured(picture(page)) == 0
    page.check("#labels")
    page.fill("#opacity", "10")
    assert coloured(picture(page)) < shown


def test_the_contrast_is_that_of_both_sides(page):
    before = [picture(page, side).mean() for side in ("real", "synthetic")]
    page.fill("#bright", "40")
    assert all(picture(page, side).mean() > 1.2 * old for side, old in zip(("real", "synthetic"), before, strict=True))


def test_3d_is_drawn_and_turns_both(page):
    page.select_option("#view", "render")
    before = {side: picture(page, side) for side in ("real", "synthetic")}
    assert all((pixels.max(-1) > 30).mean() > 0.05 for pixels in before.values())
    page.focus("#canvas-real")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert all(np.abs(picture(page, side) - old).mean() > 1 for side, old in before.items())


def test_all_can_be_done_with_the_keyboard_alone(page):
    page.focus("#restart")
    while page.evaluate("document.activeElement.id") != "canvas-real":
        page.keyboard.press("Tab")
    (x, y, z, _), shown = places(page)[0], coloured(picture(page))
    for key in ("ArrowRight", "ArrowDown", "PageUp"):
        page.keyboard.press(key)
    assert places(page)[0][:3] == pytest.approx((x - SPACING[0], y - SPACING[1], z + SPACING[2]), abs=0.11)
    assert places(page)[0][:3] == places(page)[1][:3]
    page.keyboard.press("l")
    assert coloured(picture(page)) == 0 < shown
    page.keyboard.press("v")
    assert page.input_value("#view") == "axial"
    page.keyboard.press("n")
    sync_api.expect(page.locator("#case-real")).to_have_value("1")
    page.keyboard.press("p")
    sync_api.expect(page.locator("#case-real")).to_have_value("0")


def test_another_case_is_shown_at_the_same_place(page):
    page.keyboard.press("Escape")
    before = picture(page, "synthetic")
    page.select_option("#case-synthetic", "1")
    page.wait_for_timeout(300)
    assert np.abs(picture(page, "synthetic") - before).mean() > 1
    page.focus("#canvas-synthetic")
    page.keyboard.press("PageDown")
    assert places(page)[0][:3] == places(page)[1][:3]
    page.select_option("#case-synthetic", "0")


def test_tables_sort_by_the_column_that_is_clicked(page):
    table = page.locator("table", has=page.get_by_role("button", name="Value / floor")).first
    button, column = table.get_by_role("button", name="Value / floor"), "td:nth-child(6)"
    button.click()
    found = table.locator(column).all_inner_texts()
    numbers = [float(text.replace("−", "-").replace(",", "")) for text in found if text != "–"]
    assert numbers == sorted(numbers) and len(numbers) > 2 and "–" not in found[: len(numbers)]
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("Value / floor")
    last = found[len(numbers) - 1]
    button.focus()
    page.keyboard.press("Enter")
    found = table.locator(column).all_inner_texts()
    assert found[0] == last


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark")], ids=["wide-light", "narrow-dark"])
def test_nobody_is_shut_out(page, size, scheme):
    page.select_option("#view", "axial")  # 3D takes a second a frame without a graphics card
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=scheme)
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert all(page.locator("img").evaluate_all("all => all.map((image) => image.alt.length > 20)"))
    found = axe.Axe().run(page).response["violations"]
    assert not [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in found]


def test_without_webgl_there_are_the_pictures(work, browser):
    page, told = browser.new_page(), []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto((work / "report/report.html").as_uri())
    assert not told and page.locator("#viewer").is_hidden()
    assert page.get_by_alt_text("Real pairs on the left").is_visible()
    page.close()


def test_what_a_case_and_a_class_are_called_stays_text(tmp_path, browser):
    """Names from data are never markup or code."""
    name = "</script><img src=x onerror=alert(1)><!--"
    schema = {"labels": {"0": "background", "1": "liver", "2": name, "3": "tumour"}, "tubular": [], "inside": {}}
    write_dataset(tmp_path / "dataset", {"training": [0], "validation": [], "test": [1]}, **schema)
    report(tmp_path)
    page, asked = browser.new_page(), []
    page.on("dialog", lambda dialog: asked.append(dialog.message))
    page.goto((tmp_path / "report/report.html").as_uri())
    sync_api.expect(page.locator(".place").first).to_have_text(PLACE)
    assert not asked and page.locator("#viewer").is_visible() and name in page.locator("#viewer").inner_text()
    page.close()
