"""The page on the architecture names rooms and files that exist, and leaves no room out."""

from __future__ import annotations

import re
from pathlib import Path

import anomalib_tiled

CHECKOUT = Path(__file__).parents[2]
PACKAGE = Path(anomalib_tiled.__file__).parent
PAGE = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILES = set(re.findall(r"(?<![\w./(-])(?:\w+/)*\w+\.(?:py|md)\b", PAGE))
OF_A_RUN = {"raw/"}
FOLDERS = set(re.findall(r"`((?:\w+/)+)`", PAGE)) - OF_A_RUN
LINKS = set(re.findall(r"\]\(([^)#]+)", PAGE))


def test_what_the_page_names_exists() -> None:
    named = FILES | FOLDERS
    assert named
    assert not {path for path in named if not ((PACKAGE / path).exists() or (CHECKOUT / path).exists())}


def test_what_the_page_links_to_exists() -> None:
    assert LINKS
    assert not {link for link in LINKS if not (CHECKOUT / "docs" / link).exists()}


def test_the_page_has_the_rooms_of_the_package_in_its_order() -> None:
    documented = [line.split()[0] for line in (anomalib_tiled.__doc__ or "").splitlines() if line.startswith("    ")]
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", PAGE, re.MULTILINE)
    assert rows == documented
