"""Tables of a page that say how a run was made: its split, calibration, time, memory, devices and versions."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

from anomalib_tiled.report.content import Facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.data.split import Sample, Subset
    from anomalib_tiled.report.reported_run import ReportedRun
    from anomalib_tiled.runs.tile_record import TileRecord

Rows = list[tuple[str, str]]

MINUTE, HOUR, GIGABYTE = 60, 3600, 2**30

LABELS = ("normal", "anomalous")

SUBSETS: tuple[tuple[Subset, str], ...] = (("train", "Training"), ("val", "Validation"), ("test", "Test"))


def facts_of(run: ReportedRun, tested: Mapping[str, Plain]) -> list[Facts]:
    """Give the tables of a run.

    Args:
        run: The run.
        tested: Content of ``tested.json``; empty if no test is shown.

    Raises:
        RunFolderError: The split or a record was changed.
    """
    tables = {
        "Run": _of_run(run),
        "Split": _of_split(run),
        "Calibration": _of_calibration(run),
        "Time, memory and devices": [*_of_training(run), *_of_test(tested)],
        "Versions": _versions(run, tested),
    }
    return [Facts(heading, rows) for heading, rows in tables.items() if rows]


def _of_run(run: ReportedRun) -> Rows:
    grid = run.grid
    left_out = f", {len(grid.left_out)} of them without a model" if grid.left_out else ""
    return [
        ("Folder", str(run.folder.path)),
        ("Model", run.settings.model.name),
        ("Data", run.settings.data.name),
        ("Tiles", f"{len(grid.locations)} of {grid.tile_size} pixels, stride {grid.stride}{left_out}"),
        ("Images", f"{grid.image_size} pixels"),
        ("Seed", str(run.settings.seed_everything)),
    ]


def _of_split(run: ReportedRun) -> Rows:
    split = run.split
    rows = [(words, _counted(split.subset(name))) for name, words in SUBSETS]
    tuned = "yes: metrics are better than those of new images will be" if split.calibrated_on_test else "no"
    learned = "validation" if split.calibration_subset == "val" else "training"
    return [*rows, ("Stages learn from", f"{learned} images"), ("Validation images are test images", tuned)]


def _counted(samples: Sequence[Sample]) -> str:
    numbers = Counter("unknown" if each.label is None else LABELS[each.label] for each in samples)
    return ", ".join(f"{number} {word}" for word, number in sorted(numbers.items(), reverse=True)) or "none"


def _of_calibration(run: ReportedRun) -> Rows:
    settings, image = run.settings, run.calibration["image"]
    stages = {"Normalization": settings.normalization.stage, "Thresholding": settings.thresholding.stage}
    rows = [(words, f"{settings.stages[words.lower()].name}, stage {place}") for words, place in stages.items()]
    if image is not None:
        rows += [
            ("Learned threshold of images", f"{image['scores']['threshold']:.6g}, before normalization"),
            ("Learned threshold of pixels", f"{image['maps']['threshold']:.6g}, before normalization"),
        ]
    if expected := run.calibration.get("false_alarms"):
        share = f"{expected['rate']:.1%}, between {expected['low']:.1%} and {expected['high']:.1%}"
        rows.append(("False alarms to expect", f"{share}, from {expected['images']} normal validation images"))
    if borrowed := run.calibration.get("borrowed"):
        rows.append(("Tiles whose normal scores hardly vary", ", ".join(borrowed)))
    return rows


def _of_training(run: ReportedRun) -> Rows:
    seen = run.folder.seen()
    records = [seen.record(tile) for tile in run.grid.models if seen.has_record(tile)]
    if not records:
        return []
    seconds = [each.seconds for each in records]
    together = f"{_time(sum(seconds))} for {len(records)} models, {_time(max(seconds))} at most for one"
    rows = [("Training", together), ("Trained on", _distinct(map(_place, records)))]
    threads = _distinct(str(each.threads) for each in records if each.threads)
    return [(name, words) for name, words in (*rows, ("Threads", threads)) if words]


def _place(record: TileRecord) -> str:
    return ", ".join(filter(None, (record.device, record.host)))


def _of_test(tested: Mapping[str, Plain]) -> Rows:
    if not tested:
        return []
    memory = tested.get("peak_memory")
    place = ", ".join(filter(None, (tested.get("device"), tested.get("host"))))
    rows = [("Test", _time(tested["seconds"])), ("Tested on", place), ("Tested at", str(tested["finished"]))]
    return [*rows, *([("Peak memory of the command that tested", f"{memory / GIGABYTE:.2f} GiB")] if memory else [])]


def _versions(run: ReportedRun, tested: Mapping[str, Plain]) -> Rows:
    made: dict[str, str] = {}
    for origin in cast("Iterable[Mapping[str, Plain]]", run.folder.origins().values()):
        if origin.get("package"):
            made[f"{origin['package']}, when the run was made"] = str(origin["version"])
    now = {f"{name}, when it was tested": str(each) for name, each in tested.get("versions", {}).items() if each}
    return sorted({**made, **now}.items())


def _distinct(words: Iterable[str]) -> str:
    """Name what differs, the most frequent first."""
    return "; ".join(word for word, _ in Counter(filter(None, words)).most_common())


def _time(seconds: float) -> str:
    """Write a duration, such as 41.2 s, 12 min or 3.1 h."""
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    return f"{seconds / MINUTE:.1f} min" if seconds < HOUR else f"{seconds / HOUR:.1f} h"
