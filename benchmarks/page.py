"""Sections of a page of the documentation that commands write and write again."""

from __future__ import annotations

from pathlib import Path


def write_section(page: Path, name: str, text: str) -> None:
    """Put a section where an earlier one of the same name stands, or else at the end.

    Args:
        page: A Markdown page; made if there is none.
        name: Name of the section, which only its source shows.
        text: The section.

    Raises:
        ValueError: The page holds the beginning of the section, but not its end.
    """
    begin, end = f"<!-- begin {name}: written by a command -->", f"<!-- end {name} -->"
    content = page.read_text(encoding="utf-8") if page.exists() else ""
    section = f"{begin}\n\n{text.strip()}\n\n{end}"
    before, found, rest = content.partition(begin)
    if not found:
        page.write_text(f"{content.rstrip()}\n\n{section}\n".lstrip(), encoding="utf-8")
        return
    _, found, after = rest.partition(end)
    if not found:
        message = f"{page} holds {begin!r}, but not {end!r} behind it. Put it back."
        raise ValueError(message)
    page.write_text(f"{before}{section}{after}", encoding="utf-8")
