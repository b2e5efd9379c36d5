"""The page in a real browser: what a reader does with mouse, finger and keys; no error, and no network."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from anomalib_tiled.report.content import Content, ShownImage
from anomalib_tiled.report.page import render

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
TABS = ("images", "part", "drift", "run")

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Debian's Chromium; none is downloaded."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: there is no chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Open content as a file: ``open_page(content, viewport=PHONE)``; it allows no error and no request."""
    troubles: list[str] = []
    contexts = []

    def opened(content: Content, **settings: object) -> Page:
        path = tmp_path / "report.html"
        path.write_text(render(content), encoding="utf-8")
        contexts.append(browser.new_context(**{"viewport": LAPTOP, **settings}))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: note_request(request.url, path.as_uri()))
        page.goto(path.as_uri())
        return page

    def note_request(url: str, own: str) -> None:
        if url != own and not url.startswith("data:"):
            troubles.append(f"request: {url}")

    yield opened
    for context in contexts:
        context.close()
    assert not troubles


def decided(content: Content, threshold: float) -> dict[str, int]:
    """Count what a threshold decides, by numpy."""
    labelled = [image for image in content.images if image.truth is not None]
    truth = np.array([image.truth for image in labelled], dtype=bool)
    scores = np.array([np.inf if image.score is None else image.score for image in labelled])
    alarms = scores > threshold
    return {
        "found": int((alarms & truth).sum()),
        "missed": int((~alarms & truth).sum()),
        "false_alarm": int((alarms & ~truth).sum()),
        "passed": int((~alarms & ~truth).sum()),
    }


def settle(page: Page) -> None:
    """Wait until what was asked for is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def counts(page: Page) -> dict[str, int]:
    settle(page)
    names = ("found", "missed", "false_alarm", "passed")
    return {name: int(page.locator(f"#count-{name} b").inner_text()) for name in names}


def threshold(page: Page) -> float:
    settle(page)
    return float(page.locator("#threshold").input_value())


def middle(page: Page, selector: str) -> tuple[float, float]:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def names(page: Page, gallery: str = "#gallery") -> list[str]:
    settle(page)
    return page.locator(f"{gallery} .name").all_text_contents()


def of_outcome(content: Content, at: float, *, truth: bool, alarm: bool) -> list[ShownImage]:
    return [
        image
        for image in content.images
        if image.truth == truth and (np.inf if image.score is None else image.score > at) == alarm
    ]


def test_the_threshold_of_the_run_stands_first(open_page: Open, content: Content) -> None:
    page = open_page(content)
    assert threshold(page) == content.scale.threshold
    found = counts(page)
    assert found == decided(content, content.scale.threshold)
    precision, recall = found["found"] / (found["found"] + found["false_alarm"]), found["found"] / 8
    assert page.inner_text("#rate-precision") == f"{100 * precision:.1f} %"
    assert page.inner_text("#rate-recall") == f"{100 * recall:.1f} %"
    assert page.inner_text("#rate-f1") == f"{2 * precision * recall / (precision + recall):.3f}"


def test_a_mouse_drags_the_threshold(open_page: Open, content: Content) -> None:
    page = open_page(content)
    x, y = middle(page, ".handle")
    page.mouse.move(x, y)
    page.mouse.down()
    for step in (40, 90, 150):
        page.mouse.move(x + step, y)
        at = threshold(page)
        assert at > content.scale.threshold
        assert counts(page) == decided(content, at)
    page.mouse.up()
    page.mouse.move(x, y)
    assert threshold(page) == at
    missed = of_outcome(content, at, truth=True, alarm=False)
    page.click("#show-missed")
    assert names(page) == [image.name for image in sorted(missed, key=lambda image: image.score or 0.0)]
    assert set(page.locator("#gallery .badge:not(.uncertain)").all_text_contents()) == {"Missed"}


def test_images_on_the_wrong_side_of_the_threshold_stand_out(open_page: Open, content: Content) -> None:
    """The bar of the one image at 0.62, which is anomalous, is soft while it is found, and strong when it is missed."""
    page = open_page(content)
    handle = page.locator(".handle")
    low, high = (float(handle.get_attribute(f"aria-value{end}") or "nan") for end in ("min", "max"))
    axis = page.locator("#histogram .u-over").bounding_box()
    assert axis is not None
    x, y = axis["x"] + axis["width"] * (0.62 - low) / (high - low), axis["y"] + axis["height"] - 20

    def colour() -> tuple[int, ...]:
        settle(page)
        picture = page.screenshot(clip={"x": x, "y": y, "width": 1, "height": 1})
        return Image.open(BytesIO(picture)).convert("RGB").getpixel((0, 0))

    soft, strong = (240, 189, 151), (194, 80, 10)
    assert colour() == soft
    page.fill("#threshold", "0.7")
    assert colour() == strong
    page.click("#no-miss")
    assert colour() == soft


def test_a_finger_drags_the_threshold(open_page: Open, content: Content) -> None:
    page = open_page(content, viewport=PHONE, has_touch=True, is_mobile=True)
    x, y = middle(page, ".handle")
    touch = page.context.new_cdp_session(page)
    moves = [
        ("touchStart", [(x, y)]),
        *[("touchMove", [(x + step, y - step)]) for step in (10, 30, 60)],
        ("touchEnd", []),
    ]
    for kind, places in moves:
        points = [{"x": across, "y": down} for across, down in places]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert threshold(page) > content.scale.threshold + 0.05
    assert counts(page) == decided(content, threshold(page))
    assert page.evaluate("scrollY") == 0


def test_keys_move_the_threshold(open_page: Open, content: Content) -> None:
    page = open_page(content)
    handle = page.locator(".handle")
    handle.focus()
    steps = [threshold(page)]
    for key in ("ArrowRight", "PageUp", "End"):
        handle.press(key)
        steps.append(threshold(page))
    assert steps == sorted(set(steps))
    assert counts(page)["passed"] == 11  # the part was not found in the twelfth
    handle.press("Home")
    handle.press("ArrowLeft")
    assert counts(page)["missed"] == 0
    assert float(handle.get_attribute("aria-valuenow") or "nan") == threshold(page)


def test_a_number_sets_the_threshold(open_page: Open, content: Content) -> None:
    page = open_page(content)
    page.fill("#threshold", "0.6")
    assert counts(page) == decided(content, 0.6)
    page.fill("#threshold", "7")
    page.press("#threshold", "Tab")
    assert threshold(page) <= 1


def test_uncertain_images_are_counted_and_shown(open_page: Open, content: Content) -> None:
    page = open_page(content)
    low, high = content.scale.uncertain or (0.0, 0.0)
    within = [image for image in content.images if image.score is not None and low < image.score <= high]
    settle(page)
    assert int(page.inner_text("#uncertain-anomalous b")) == sum(image.truth is True for image in within)
    assert int(page.inner_text("#uncertain-normal b")) == sum(image.truth is False for image in within)
    page.click("#show-uncertain")
    assert set(names(page)) == {image.name for image in within}
    page.fill("#threshold", "0.6")
    settle(page)
    assert page.inner_text("#band") == "uncertain from 0.5500 to 0.6500"


def all_thresholds(content: Content) -> np.ndarray:
    scores = np.unique([image.score for image in content.images if image.score is not None])
    return np.concatenate([[scores[0] - 0.01], (scores[1:] + scores[:-1]) / 2, [scores[-1] + 0.01]])


def f1(found: dict[str, int]) -> float:
    return 2 * found["found"] / (2 * found["found"] + found["missed"] + found["false_alarm"])


def cost(found: dict[str, int], miss: float, false_alarm: float, prevalence: float) -> float:
    missed = found["missed"] / (found["missed"] + found["found"])
    alarmed = found["false_alarm"] / (found["false_alarm"] + found["passed"])
    return prevalence * miss * missed + (1 - prevalence) * false_alarm * alarmed


def test_presets_find_what_trying_all_thresholds_finds(open_page: Open, content: Content) -> None:
    page = open_page(content)
    tried = [decided(content, at) for at in all_thresholds(content)]
    page.click("#best-f1")
    assert counts(page) == decided(content, threshold(page))
    assert f1(counts(page)) == max(map(f1, tried))
    page.click("#no-miss")
    assert counts(page)["missed"] == 0
    assert counts(page)["false_alarm"] == min(found["false_alarm"] for found in tried if found["missed"] == 0)
    page.click("#no-false-alarm")
    fewest = min(found["false_alarm"] for found in tried)
    assert counts(page)["false_alarm"] == fewest
    assert counts(page)["missed"] == min(found["missed"] for found in tried if found["false_alarm"] == fewest)
    page.fill("#rate", "20")
    page.click("#rate-form button")
    allowed = [found for found in tried if found["false_alarm"] <= 0.2 * 12]
    assert counts(page)["missed"] == min(found["missed"] for found in allowed)
    assert page.inner_text("#said").startswith(f"Threshold {threshold(page)}: ")
    page.click("#own")
    assert threshold(page) == content.scale.threshold


@pytest.mark.parametrize(("miss", "false_alarm", "prevalence"), [(10, 1, 40), (1, 10, 2), (500, 3, 0.5), (1, 1, 50)])
def test_the_least_cost_is_what_trying_all_thresholds_finds(
    open_page: Open, content: Content, miss: float, false_alarm: float, prevalence: float
) -> None:
    page = open_page(content)
    assert page.input_value("#prevalence") == "40"
    for name, value in {"#cost-miss": miss, "#cost-false-alarm": false_alarm, "#prevalence": prevalence}.items():
        page.fill(name, str(value))
    page.click("#cost-form button")
    costs = [cost(decided(content, at), miss, false_alarm, prevalence / 100) for at in all_thresholds(content)]
    reached = cost(counts(page), miss, false_alarm, prevalence / 100)
    assert reached == pytest.approx(min(costs))
    said = re.fullmatch(r"now a cost of ([\d.,]+) per 1,000 parts", page.inner_text("#cost"))
    assert said is not None
    assert float(said[1].replace(",", "")) == pytest.approx(1000 * reached, rel=1e-3)


def test_it_says_how_the_threshold_becomes_real(open_page: Open, content: Content) -> None:
    page = open_page(content, permissions=["clipboard-read", "clipboard-write"])
    page.click("summary")
    page.fill("#threshold", "0.57")
    settle(page)
    command = "anomalib tiled predict --ckpt_dir results/v3 --data path/to/images --threshold 0.57 --uncertain 0.1"
    assert page.inner_text("#command-line") == command
    assert (
        page.inner_text("#configuration-line") == "thresholding:\n  image_sensitivity: 0.43\n  uncertain: {width: 0.1}"
    )
    page.click("[data-copies=command-line]")
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == command


def test_a_threshold_on_the_scale_of_the_model_is_a_manual_one(open_page: Open, content: Content) -> None:
    scale = replace(content.scale, threshold=-2.0, uncertain=None, is_normalized=False, configured_by="manual")
    images = [replace(image, score=None if image.score is None else 40 * image.score - 20) for image in content.images]
    page = open_page(replace(content, scale=scale, images=images))
    page.click("summary")
    page.fill("#threshold", "-1.25")
    settle(page)
    lines = "thresholding:\n  method:\n    class_path: ManualThreshold\n    init_args:\n      value: -1.25"
    assert page.inner_text("#configuration-line") == lines
    assert page.inner_text("#command-line").endswith(" --threshold=-1.25")


def test_images_are_filtered_and_sorted(open_page: Open, content: Content) -> None:
    page = open_page(content)
    assert len(names(page)) == 20
    page.select_option("#sort", label="lowest score first")
    by_score = sorted(content.images, key=lambda image: np.inf if image.score is None else image.score)
    assert names(page) == [image.name for image in by_score]
    page.select_option("#folder", label="burn")
    assert names(page) == [image.name for image in by_score if image.folder == "burn"]
    page.select_option("#folder", label="all")
    page.fill("#score-from", "0.5")
    page.fill("#score-to", "0.8")
    assert names(page) == [image.name for image in by_score if image.score is not None and 0.5 <= image.score <= 0.8]
    page.fill("#score-from", "")
    page.fill("#score-to", "")
    page.fill("#search", "SCRIPT>")
    assert names(page) == ["</script><script>alert(2)</script>.png"]
    assert page.inner_text("#found") == "1 image of 20"


def test_images_of_a_place_are_filtered(open_page: Open, content: Content) -> None:
    page = open_page(content)
    page.select_option("#place", label="r00_c00")
    shown = {image.name: image for image in content.images if image.name in names(page)}
    assert content.images[12].name in shown
    for image in shown.values():
        within = [region.left < 480 and region.top < 480 for region in image.regions]
        assert any(within) or max(image.tiles, key=lambda name: image.tiles[name]) == "r00_c00"
    assert page.input_value("#sort") == "place"
    page.select_option("#place", label="edge")
    assert all(
        image.named_regions["edge"] >= image.named_regions["chip"]
        for image in content.images
        if image.name in names(page)
    )


def test_an_image_opens_and_the_keys_lead_on(open_page: Open, content: Content) -> None:
    page = open_page(content)
    page.select_option("#sort", label="highest score first")
    order = names(page)
    page.locator("#gallery button").nth(1).click()
    assert page.inner_text("#viewer-name") == order[1]
    assert page.get_attribute("#original", "href") == next(i.link for i in content.images if i.name == order[1])
    assert page.locator("#sheet .boxes .box").count() == 1
    assert page.inner_text(".regions tbody tr").split("\t")[1:3] == ["11,200", "0.9300"]
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#viewer-name") == order[2]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#viewer-place") == "1 of 20"
    assert "The original is gone from this path." in page.inner_text("#viewer-facts")
    assert "no 12 matches with the reference" in page.inner_text("#viewer-facts")
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()


def test_an_image_zooms_and_moves(open_page: Open, content: Content) -> None:
    page = open_page(content)
    page.locator("#gallery button").nth(4).click()
    whole = page.locator("#sheet").bounding_box()
    assert whole is not None
    page.mouse.move(*middle(page, "#stage"))
    page.mouse.wheel(0, -600)
    page.wait_for_function("document.getElementById('stage').classList.contains('zoomed')")
    larger = page.locator("#sheet").bounding_box()
    assert larger is not None
    assert larger["width"] > 1.5 * whole["width"]
    page.mouse.down()
    page.mouse.move(600, 300)
    page.mouse.up()
    moved = page.locator("#sheet").bounding_box()
    assert moved is not None
    assert moved["x"] - larger["x"] == pytest.approx(600 - (whole["x"] + whole["width"] / 2), abs=1)
    page.keyboard.press("0")
    assert page.locator("#sheet").bounding_box() == whole
    page.get_by_role("button", name="Zoom to region 1").click()
    box = page.locator("#sheet .box").bounding_box()
    stage = page.locator("#stage").bounding_box()
    assert box is not None
    assert stage is not None
    assert box["x"] + box["width"] / 2 == pytest.approx(stage["x"] + stage["width"] / 2, abs=2)


def test_layers_are_switched(open_page: Open, content: Content) -> None:
    page = open_page(content)
    page.click("#show-missed")
    pixels = "document.querySelector('#gallery canvas').toDataURL()"
    page.wait_for_function("document.querySelector('#gallery canvas').width > 1")
    seen = {page.evaluate(pixels)}
    for layer in ("heat", "truth", "mask"):
        before = page.evaluate(pixels)
        page.click(f"#images [data-layer={layer}]")
        if layer != "mask":  # of a missed image, it is empty
            page.wait_for_function(f"(before) => {pixels} !== before", arg=before)
        seen.add(page.evaluate(pixels))
    assert len(seen) == 3
    page.click("#images [data-layer=boxes]")
    page.click("#show-false_alarm")
    assert not page.locator("#gallery .boxes").first.is_visible()
    page.locator("#gallery button").nth(1).click()
    assert not page.locator("#viewer [data-layer=heat]").is_checked()


def test_a_place_lists_its_images(open_page: Open, content: Content) -> None:
    page = open_page(content)
    page.click("#tab-part")
    weakest = page.locator("#weak button").evaluate_all("all => all.map((each) => each.dataset.weak)")
    assert weakest == [tile.name for tile in content.part.tiles if not tile.left_out]
    page.click("[data-tile=r00_c00]")
    assert page.inner_text("#there-heading").endswith(" at r00_c00")
    here = [i for i in content.images if any(each.left < 480 and each.top < 480 for each in i.regions)]
    assert {image.name for image in here} <= set(names(page, "#there"))
    assert page.get_attribute("[data-weak=r00_c00]", "aria-pressed") == "true"
    page.select_option("#measure", label="false alarms")
    alarms = {tile.name: tile.false_alarms or 0 for tile in content.part.tiles if not tile.left_out}
    listed = page.locator("#weak button").evaluate_all("all => all.map((each) => each.dataset.weak)")
    assert [alarms[name] for name in listed] == sorted(alarms.values(), reverse=True)
    page.focus("[data-tile=r00_c00]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert " at r00_c01" in page.inner_text("#there-heading")
    page.locator("#there button").first.click()
    assert page.locator("#viewer").is_visible()


def test_a_place_shows_the_defect_that_was_missed_there_first(open_page: Open, content: Content) -> None:
    """The one at (90, 160) of the small picture is in the second row of tiles, and has no region."""
    page = open_page(content)
    page.click("#tab-part")
    page.click("[data-weak=r01_c00]")
    page.get_by_text("1 image with a defect there that no region shows").wait_for()
    assert names(page, "#there")[0] == content.images[19].name
    assert "a defect without a region here" in page.locator("#there button").first.inner_text()


def test_notes_are_announced_at_the_top(open_page: Open, content: Content) -> None:
    page = open_page(content)
    page.get_by_role("button", name="2 notes on these results").click()
    assert page.locator("#run .notice").is_visible()


def test_drift_shows_windows_and_findings(open_page: Open, content: Content) -> None:
    page = open_page(content)
    page.click("#tab-drift")
    assert page.input_value("#quantity") == "brightness"
    page.locator("#windows canvas").wait_for()
    assert page.locator("#window-table tr.marked").count() == 5
    page.select_option("#quantity", label="score")
    assert page.locator("#window-table tr.marked").count() == 0
    assert page.locator("#findings tbody tr").count() == 4
    page.check("#only-moved")
    assert page.locator("#findings tbody tr").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_every_tab_fits(open_page: Open, content: Content, scheme: str, viewport: dict[str, int]) -> None:
    page = open_page(content, viewport=viewport, color_scheme=scheme)
    for tab in TABS:
        page.click(f"#tab-{tab}")
        settle(page)
        assert [tab for tab in TABS if page.locator(f"#{tab}").is_visible()] == [tab]
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    red, *_ = map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert (red > 128) == (scheme == "light")


def test_tabs_are_moved_through_by_keys(open_page: Open, content: Content) -> None:
    page = open_page(content)
    page.focus("#tab-images")
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#tab-run", "aria-selected") == "true"
    assert page.locator("#run").is_visible()
    page.keyboard.press("ArrowRight")
    assert page.locator("#images").is_visible()


def test_every_control_has_a_name(open_page: Open, content: Content) -> None:
    page = open_page(content)
    unnamed = """all => all.filter((each) => !(each.labels?.length || each.ariaLabel || each.textContent.trim()))
        .map((each) => each.outerHTML)"""
    assert page.locator("input, select, button, [role=button], [role=slider]").evaluate_all(unnamed) == []


def test_names_of_files_do_nothing(open_page: Open, content: Content) -> None:
    """What they would do is caught by `open_page`: dialogs, errors, requests."""
    page = open_page(content)
    assert {image.name for image in content.images} == set(names(page))
    page.locator("#gallery button").first.click()
    for _ in content.images:
        page.keyboard.press("ArrowRight")
    assert page.locator("img, script[src], iframe").count() == 0


def without_truth(content: Content) -> Content:
    images = [replace(image, truth=None, truth_mask=None) for image in content.images]
    scale = replace(content.scale, uncertain=None)
    return replace(content, images=images, scale=scale, is_labelled=False, drift=None)


def test_unlabelled_images_are_counted(open_page: Open, content: Content) -> None:
    page = open_page(without_truth(content))
    settle(page)
    alarms = sum(image.score is None or image.score > 0.5 for image in content.images)
    assert page.inner_text("#count-alarm b") == str(alarms)
    assert page.inner_text("#rate-alarm-rate") == f"{100 * alarms / 20:.1f} %"
    assert not any(page.locator(name).is_visible() for name in ("#best-f1", "#no-miss", "#rate-form", "#cost-form"))
    page.fill("#threshold", "0.9")
    settle(page)
    assert page.inner_text("#count-alarm b") == "2"


def without_pictures(content: Content) -> Content:
    nothing = {"picture": None, "heat_map": None, "mask": None, "truth_mask": None}
    images = [replace(image, **nothing, regions=[], tiles={}, named_regions={}) for image in content.images]
    scale = replace(content.scale, pixel_threshold=None)
    return replace(content, images=images, scale=scale, part=replace(content.part, picture=None))


LACKING: dict[str, Callable[[Content], Content]] = {
    "no image": lambda content: replace(content, images=[]),
    "one image": lambda content: replace(content, images=content.images[:1]),
    "normal images alone": lambda content: replace(content, images=content.images[:11], drift=None),
    "equal scores": lambda content: replace(content, images=[replace(each, score=0.5) for each in content.images]),
    "no picture, map or tile score": without_pictures,
    "no tile": lambda content: replace(content, part=replace(content.part, tiles=[])),
    "no window": lambda content: replace(content, drift={**(content.drift or {}), "windows": [], "findings": []}),
    "nothing known of the run": lambda content: replace(content, metrics={}, facts=[], configuration="", notes=[]),
}


@pytest.mark.parametrize("lacking", LACKING.values(), ids=LACKING)
def test_what_is_missing_is_no_error(open_page: Open, content: Content, lacking: Callable[[Content], Content]) -> None:
    page = open_page(lacking(content))
    for tab in page.locator("[role=tab]").all():
        tab.click()
        settle(page)
    page.click("#tab-images")
    for preset in page.locator(".presets > button:visible").all():
        preset.click()
        settle(page)
    for weak in page.locator("#weak button:visible").all()[:1]:
        weak.click()
    for card in page.locator("#gallery button").all()[:1]:
        card.click()


def test_500_images_keep_few_pictures_in_memory(open_page: Open, many: Callable[[int], Content]) -> None:
    content = many(500)
    page = open_page(content)
    painted = "[...document.querySelectorAll('#gallery canvas')].filter((each) => each.width > 1).length"
    page.wait_for_function(f"{painted} > 3")
    for _ in range(8):
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(100)
    page.wait_for_function(f"{painted} > 3 && {painted} < 80")
    page.evaluate("scrollTo(0, 0)")
    x, y = middle(page, ".handle")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=10)
    page.mouse.up()
    assert counts(page) == decided(content, threshold(page))


@pytest.mark.parametrize(("score", "at"), [(float(np.float32(0.6)), 0.6), (0.7, float(np.float32(0.7)))])
def test_scores_and_thresholds_are_compared_in_single_precision(
    open_page: Open, content: Content, score: float, at: float
) -> None:
    """As everywhere else: in double precision, 0.7 is greater than the 0.7 of single precision, and 0.6 is smaller."""
    images = [replace(image, score=score) for image in content.images[:1]]
    page = open_page(replace(content, images=images, scale=replace(content.scale, threshold=at, uncertain=None)))
    settle(page)
    assert page.inner_text("#count-false_alarm b") == "0"


def test_a_band_that_is_not_around_the_threshold_keeps_its_width(open_page: Open, content: Content) -> None:
    page = open_page(replace(content, scale=replace(content.scale, uncertain=(0.35, 0.55))))
    settle(page)
    assert page.inner_text("#band") == "uncertain from 0.3500 to 0.5500"
    page.click("summary")
    assert page.inner_text("#command-line").endswith("--threshold 0.5")
    page.fill("#threshold", "0.6")
    settle(page)
    assert page.inner_text("#band") == "uncertain from 0.5000 to 0.7000"
    assert page.inner_text("#command-line").endswith("--threshold 0.6 --uncertain 0.2")
