"""The page as a file: what it holds, that data stays data, and that its policy lets in nothing but its own parts."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from anomalib_tiled.report.content import Content
from anomalib_tiled.report.page import SCRIPTS, render

PACKAGE = Path(str(files("anomalib_tiled.report")))
ASSETS = sorted((PACKAGE / "assets").iterdir())
TEMPLATE = PACKAGE / "page.html.jinja"
LARGEST = 25_000_000


class Elements(HTMLParser):
    """Elements with their attributes, and the text of scripts and styles, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is not None:
            tag, attributes = self.found[-1]
            self.raw.append((f"{tag} {attributes.get('type') or ''}".strip(), data))
        else:
            self.text.append(data.strip())

    def of(self, kind: str) -> str:
        return "".join(data for name, data in self.raw if name == kind)


@pytest.fixture(scope="module")
def page(content: Content) -> str:
    return render(content)


@pytest.fixture(scope="module")
def elements(page: str) -> Elements:
    return Elements(page)


def hash_of(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def test_the_policy_lets_in_the_script_the_style_and_pictures_of_the_page_alone(elements: Elements) -> None:
    policy = next(
        attributes["content"]
        for tag, attributes in elements.found
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert dict(directive.split(" ", 1) for directive in policy.split("; ")) == {
        "default-src": "'none'",
        "img-src": "data:",
        "script-src": hash_of(elements.of("script")),
        "style-src": hash_of(elements.of("style")),
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_policy_stands_before_anything_that_it_is_about(page: str) -> None:
    assert page.index("Content-Security-Policy") < min(page.index("<style"), page.index("<script"), page.index("<link"))


def test_names_of_files_stay_text(elements: Elements, content: Content) -> None:
    assert [tag for tag, _ in elements.found if tag in {"script", "style"}] == ["style", "script", "script"]
    assert not [tag for tag, _ in elements.found if tag in {"img", "iframe", "object", "embed", "b"}]
    attributes = [name for _, names in elements.found for name in names]
    assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert json.loads(elements.of("script application/json")) == json.loads(json.dumps(content.to_json()))


def test_the_data_block_has_no_character_that_could_end_it(elements: Elements) -> None:
    data = elements.of("script application/json")
    assert not set(data) & set("<>&\u2028\u2029")
    assert data.isascii()


def test_text_of_the_run_is_escaped(elements: Elements, page: str) -> None:
    assert "<b>Two</b> images are in both sets." in elements.text
    assert "/data/<b>boards</b>" in elements.text
    assert "&lt;script&gt;Padim" in page


def test_a_title_that_utf_8_cannot_hold_shows_a_question_mark(content: Content) -> None:
    page = render(replace(content, title="stray \udcff byte"))
    assert "<title>stray ? byte – report</title>" in page
    page.encode()


def test_numbers_are_those_of_the_metrics(elements: Elements) -> None:
    at = elements.text.index("image_F1Score")
    assert [text for text in elements.text[at:] if text][1] == "0.7368"
    assert "undefined" in elements.text


def test_drift_has_a_tab_only_if_something_was_checked(elements: Elements, content: Content) -> None:
    assert "The line has drifted" in elements.text
    unchecked = render(replace(content, drift=None))
    assert 'id="tab-drift"' not in unchecked
    calm = {**(content.drift or {}), "has_drifted": False}
    assert "Nothing has moved" in render(replace(content, drift=calm))


@pytest.mark.parametrize("link", ["javascript:alert(1)", "https://example.org/1.png", "/data/1.png", ""])
def test_links_lead_to_files_only(content: Content, link: str) -> None:
    image = replace(content.images[0], name="1.png", link=link)
    with pytest.raises(ValueError, match=r"must begin with file:, but that of 1\.png is "):
        render(replace(content, images=[image]))


@pytest.mark.parametrize("field", ["picture", "heat_map", "mask", "truth_mask"])
@pytest.mark.parametrize("address", ["https://example.org/1.png", "data:image/svg+xml;base64,", "data:text/html,<p>"])
def test_pictures_are_inside_the_page(content: Content, field: str, address: str) -> None:
    image = replace(content.images[0], name="1.png", **{field: address})
    with pytest.raises(ValueError, match=r"must be inside the page, as PNG, JPEG or WebP, but that of 1\.png is "):
        render(replace(content, images=[image]))


def test_the_picture_of_the_part_is_inside_the_page(content: Content) -> None:
    with pytest.raises(ValueError, match=r"but that of the part is 'http://example\.org'"):
        render(replace(content, part=replace(content.part, picture="http://example.org")))


def test_numbers_are_finite(content: Content) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        render(replace(content, images=[replace(content.images[0], score=float("nan"))]))


def test_500_images_with_pictures_of_40_kb_each_stay_below_25_mb(many: Callable[[int], Content]) -> None:
    content = many(500)
    pictures = [len(each.picture or "") + len(each.heat_map or "") for each in content.images]
    assert pictures == pytest.approx([40_000] * 500, rel=0.02)
    assert len(render(content).encode()) < LARGEST


def test_every_script_is_joined() -> None:
    assert sorted(SCRIPTS) == [path.name for path in ASSETS if path.suffix == ".js"]


@pytest.mark.parametrize("path", ASSETS, ids=lambda path: path.name)
def test_assets_write_no_markup_and_reach_for_nothing_outside(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 450
    markup = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|cssText|[\"']style[\"']|</|<!--"
    outside = r"fetch\(|XMLHttpRequest|@import|\bimport\b[ ({]|url\(|https?://(?!www\.w3\.org/2000/svg)"
    assert not re.findall(f"{markup}|{outside}", source)


def contrast(first: str, second: str) -> float:
    """Give the contrast of two colours, by the Web Content Accessibility Guidelines 2.2."""

    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted([luminance(first), luminance(second)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("front", "back", "least"),
    [
        *[(front, back, 4.5) for front in ("text", "quiet") for back in ("card", "page", "hover")],
        *[(front, "card", 4.5) for front in ("accent", "normal", "anomalous", "uncertain")],
        *[("on-colour", back, 4.5) for back in ("normal", "anomalous")],
        ("on-accent", "accent", 4.5),
        ("card", "text", 4.5),
        ("edge", "card", 3),
    ],
)
def test_text_and_edges_of_controls_have_contrast(scheme: int, front: str, back: str, least: float) -> None:
    style = (PACKAGE / "assets" / "page.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", style.split(":root {")[1 + scheme].split("}")[0]))
    assert contrast(colours[front], colours[back]) >= least


def test_the_template_marks_nothing_as_safe_and_has_no_style_or_handler_of_its_own() -> None:
    assert not re.findall(r"\|\s*safe|autoescape| style=| on\w+=", TEMPLATE.read_text(encoding="utf-8"))
