"""The journal: a file with a line of JSON for each tested run."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path

JOURNAL = "FACTORY_JOURNAL"
"""Environment variable with the path of the journal; without it, there is no journal."""


def append(**facts: object) -> None:
    """Write a line, with the time in UTC.

    Args:
        facts: Values that JSON can hold, by name.
    """
    if path := os.environ.get(JOURNAL):
        line = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), **facts}
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
