"""Turns the content of a report into one HTML file that needs nothing else."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from anomalib_tiled.report.content import Content

SCRIPTS = (
    "elements.js",
    "scores.js",
    "histogram.js",
    "pictures.js",
    "threshold.js",
    "gallery.js",
    "viewer.js",
    "part.js",
    "drift.js",
    "main.js",
)
"""Of ours, in the order in which they are joined: the last one starts the page."""

PICTURES = tuple(f"data:image/{kind};base64," for kind in ("png", "jpeg", "webp"))
"""How the address of a picture may begin."""


def render(content: Content) -> str:
    """Give the page as HTML, to be written as UTF-8.

    Text that UTF-8 cannot hold, such as that of a file name with stray bytes, shows as a question mark.

    Args:
        content: What it shows.

    Raises:
        ValueError: A picture is not inside the page, a link leads elsewhere than to a file, or a number is not finite.
    """
    _check_addresses(content)
    environment = Environment(
        loader=PackageLoader("anomalib_tiled", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["shown"] = _shown
    script, style = _script(), _style()
    page = environment.get_template("page.html.jinja").render(
        content=content,
        policy=_policy(script, style),
        # These three are ours, or escaped here: they stand in elements whose text HTML does not decode.
        script=Markup(script),  # noqa: S704
        style=Markup(style),  # noqa: S704
        data=Markup(_data(content)),  # noqa: S704
    )
    return page.encode("utf-8", errors="replace").decode("utf-8")


def _check_addresses(content: Content) -> None:
    for image in content.images:
        if image.link is not None and not image.link.startswith("file:"):
            message = f"A link of the page must begin with file:, but that of {image.name} is {image.link!r}."
            raise ValueError(message)
        for picture in (image.picture, image.heat_map, image.mask, image.truth_mask):
            _check_picture(picture, image.name)
    _check_picture(content.part.picture, "the part")


def _check_picture(address: str | None, name: str) -> None:
    if address is not None and not address.startswith(PICTURES):
        message = f"Pictures must be inside the page, as PNG, JPEG or WebP, but that of {name} is {address[:40]!r}."
        raise ValueError(message)


def _data(content: Content) -> str:
    """Give the content as JSON without a character that could end its element, or the line of a script."""
    text = json.dumps(content.to_json(), allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _asset(*path: str) -> str:
    return files("anomalib_tiled.report").joinpath(*path).read_text(encoding="utf-8")


def _script() -> str:
    own = "\n".join(_asset("assets", name) for name in SCRIPTS)
    return f'{_asset("uplot", "uPlot.iife.min.js")}\n(() => {{\n"use strict";\n{own}\n}})();\n'


def _style() -> str:
    return f"{_asset('uplot', 'uPlot.min.css')}\n{_asset('assets', 'page.css')}"


def _policy(script: str, style: str) -> str:
    """Allow this script, this style and pictures inside the page; no network, no other script, no form."""
    return (
        f"default-src 'none'; img-src data:; script-src {_source(script)}; style-src {_source(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _shown(value: float | None) -> str:
    """Give a number as tables show it, such as 0.9712."""
    if value is None:
        return "undefined"
    return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
