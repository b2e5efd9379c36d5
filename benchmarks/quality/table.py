"""Results as rows of a JSON file and as tables in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from benchmarks.quality.datasets import DATA_SETS
from benchmarks.quality.measuring import Measured, Quality
from benchmarks.quality.methods import METHODS
from benchmarks.report import table

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Plain


@dataclass(frozen=True)
class Result:
    """A method on a data set, with one seed.

    Args:
        data_set: Name of the data set.
        method: Name of the method.
        seed: Decides motif, defects and training.
        measured: What it reached; ``None`` if the program refused it.
        refused: Why the program refused it.
    """

    data_set: str
    method: str
    seed: int
    measured: Measured | None
    refused: str = ""


def read_results(path: Path) -> list[Result]:
    """Read results; none if there is no file."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [_result(**row) for row in rows]


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write results, so that they can be read again."""
    path.write_text(json.dumps([asdict(each) for each in results], indent=1), encoding="utf-8")


def to_markdown(results: Iterable[Result]) -> str:
    """Lay out a table for each data set: means over its seeds, with the lowest and highest where these differ."""
    chosen = list(results)
    return "\n\n".join(_section(name, own) for name in DATA_SETS if (own := [r for r in chosen if r.data_set == name]))


def _section(name: str, results: list[Result]) -> str:
    measured = [each.measured.quality for each in results if each.measured is not None]
    kinds = sorted({kind for each in measured for kind in each.kinds})
    normal, anomalous = ({getattr(each, count) for each in measured} for count in ("normal", "anomalous"))
    title = DATA_SETS[name].title
    titles = (
        *("method", "image AUROC", *kinds, "pixel AUPRO", f"false alarms{_of(normal)}", f"missed{_of(anomalous)}"),
        *("models", "training, s", "disk, MB", "seeds"),
    )
    rows = [
        _row(METHODS[method].title, own, kinds)
        for method in METHODS
        if (own := [each for each in results if each.method == method])
    ]
    return f"### {title[0].upper()}{title[1:]}\n\n{table(titles, rows)}"


def _of(counts: set[int]) -> str:
    return "".join(f" of {count}" for count in counts if len(counts) == 1)


def _row(title: str, results: list[Result], kinds: list[str]) -> list[str]:
    runs = [each.measured for each in results if each.measured is not None]
    if not runs:
        return [title, f"refused: {results[0].refused}", *[""] * (len(kinds) + 7)]
    qualities = [each.quality for each in runs]
    return [
        title,
        _spread([each.image_auroc for each in qualities]),
        *(f"{mean(each.kinds[kind] for each in qualities):.2f}" for kind in kinds),
        _spread([each.pixel_aupro for each in qualities]),
        _numbers([each.false_alarms for each in qualities]),
        _numbers([each.missed for each in qualities]),
        _numbers([each.models for each in runs]),
        f"{mean(each.seconds for each in runs):.0f}",
        f"{mean(each.megabytes for each in runs):.0f}",
        f"{len(runs)}",
    ]


def _spread(values: list[float]) -> str:
    """Give the mean, and the lowest and highest where they differ."""
    low, high, middle = (f"{each:.2f}" for each in (min(values), max(values), mean(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def _numbers(values: list[int]) -> str:
    """Give a number that all have in common, or each of them."""
    return str(values[0]) if len(set(values)) == 1 else ", ".join(map(str, values))


def _result(data_set: str, method: str, seed: int, measured: dict[str, Plain] | None, refused: str) -> Result:
    known = None if measured is None else Measured(**{**measured, "quality": Quality(**measured["quality"])})
    return Result(data_set, method, seed, known, refused)
