"""What a command records of images, itself or from the files of shards."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from anomalib_tiled.data.placement import DISPLACED
from anomalib_tiled.errors import DataError, NotFiniteError, OutOfMemoryError, RunFolderError, UnalignedError
from anomalib_tiled.grid import Size
from anomalib_tiled.results.prediction_folder import PredictionFolder, in_facts
from anomalib_tiled.results.prediction_row import PredictedImage
from anomalib_tiled.results.recording import WITHOUT_MAPS, Part, Record, Recording, record_part
from anomalib_tiled.results.region import Region
from anomalib_tiled.results.request import PredictionSettings
from anomalib_tiled.stages.uncertain import Band

ODD = b"\xff\xfe.png".decode(errors="surrogateescape")
"""A file name that is no UTF-8."""


def image(name: str, label: int = 0) -> PredictedImage:
    region = Region((1, 2, 3, 4), 5, (1.5, 2.5), (1, 2), 0.123456789123, 0.1, (7, 8))
    return PredictedImage(f"/in/{name}", Size(8, 12), 1 / 3, 2 / 3, label, (region,) * label, any_pixel=bool(label))


def begin(path: Path, said: list[str]) -> Recording:
    folder = PredictionFolder(path)
    folder.begin(PredictionSettings(), common="/in")
    return Recording(folder, [], said.append)


def first_shard(record: Record) -> None:
    record.note("shape", "warning: a is small.")
    record.fail(Path("/in/b"), NotFiniteError("b is nonsense"))
    record.add([image("a", label=1), image(ODD)], has_maps=False)
    record.fail(Path("/in/c"), DataError("c is missing"))


def second_shard(record: Record) -> None:
    record.note("shape", "warning: d is small.")
    record.note("bits", "warning: d has 16 bits.")
    record.fail(Path("/in/d"), OutOfMemoryError("too large"))
    record.add([image("e", label=1)], has_maps=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_of_shards_are_recorded_like_what_this_process_predicts(tmp_path: Path) -> None:
    here, there = [], []
    direct, collected = begin(tmp_path / "direct", here), begin(tmp_path / "collected", there)
    for shard in (first_shard, second_shard):
        shard(direct)
        shard(part := Part(images_may_be_too_large=True))
        part.write(path := tmp_path / "collected" / "predict.parts" / "one.jsonl")
        record_part(path, collected)
        assert not path.exists()
    summaries = [each.finish(coco=True, seconds=1.0) for each in (direct, collected)]
    assert contents(tmp_path / "collected") == contents(tmp_path / "direct")
    assert not (tmp_path / "collected" / "predict.parts").exists()
    assert summaries[0] == summaries[1]
    assert (summaries[0].images, summaries[0].failed, summaries[0].anomalous) == (3, 3, 2)
    assert here == there
    assert here == [
        "warning: a is small.",
        "skipped: b is nonsense",
        WITHOUT_MAPS,
        "skipped: c is missing",
        "warning: d has 16 bits.",
        "skipped: /in/d is left out. too large",
    ]


def test_images_are_judged_where_they_are_recorded(tmp_path: Path) -> None:
    folder, band = PredictionFolder(tmp_path / "out"), Band(0.3, 0.4)
    folder.begin(PredictionSettings(), common="/in", aligned=True, **in_facts(band))
    Image.new("L", (12, 8)).save(tmp_path / "lost.png")
    recording, part = Recording(folder, [], [].append), Part(images_may_be_too_large=True)
    part.add([replace(image("a", label=1), unaligned="")], has_maps=True)
    part.fail(tmp_path / "lost.png", UnalignedError("Nothing in it fits."))
    part.add([replace(image("b", label=1), pred_score=0.9, unaligned="")], has_maps=True)
    part.write(path := tmp_path / "one.jsonl")
    record_part(path, recording)
    assert [each.verdict for each in folder.predicted()] == ["uncertain", "anomalous", "anomalous"]
    with folder.rows_file.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["verdict"], row["unaligned"]) for row in rows] == [
        ("uncertain", ""),
        ("anomalous", "Nothing in it fits."),
        ("anomalous", ""),
    ]
    summary = recording.finish(coco=False, seconds=1.0)
    assert str(summary).endswith("2 of 3 are anomalous, 1 of them because the part is not found, 1 uncertain.")
    text = folder.rows_file.read_text()
    again = Recording(folder, [Path("/in/a"), Path("/in/b")], [].append).finish(coco=False, seconds=1.0)
    assert (again.existing, again.anomalous, again.uncertain) == (2, 1, 1)
    assert folder.rows_file.read_text() == text, "the table is made again from the lines"


def test_images_whose_part_lies_elsewhere_are_counted_over_all_shards(tmp_path: Path) -> None:
    said: list[str] = []
    recording = begin(tmp_path, said)
    for shard in (["a", "b"], ["c"]):
        part = Part(images_may_be_too_large=True)
        for name in shard:
            part.note(DISPLACED, f"warning: {name} lies elsewhere.")
        part.write(path := tmp_path / "one.jsonl")
        record_part(path, recording)
    recording.finish(coco=False, seconds=1.0)
    assert said == [
        "warning: a lies elsewhere.",
        "warning: In 3 images the part lies elsewhere than in training images.",
    ]


def test_two_images_in_a_row_that_are_too_large_end_a_prediction_also_in_two_shards(tmp_path: Path) -> None:
    recording = begin(tmp_path, [])
    for name in ("a", "b"):
        part = Part(images_may_be_too_large=True)
        part.fail(Path(name), OutOfMemoryError(f"{name} is too large"))
        part.write(tmp_path / name)
    record_part(tmp_path / "a", recording)
    with pytest.raises(OutOfMemoryError, match="b is too large"):
        record_part(tmp_path / "b", recording)
    assert not (tmp_path / "b").exists(), "it would end every further try, too"


def out_of(memory: str) -> OutOfMemoryError:
    error = OutOfMemoryError(f"The memory of {memory} ran out")
    error.of_machine = memory == "the machine"
    return error


def test_memory_that_other_places_use_is_no_fault_of_an_image(tmp_path: Path) -> None:
    together, alone = (Part(images_may_be_too_large=each) for each in (False, True))
    together.fail(Path("a"), out_of("GPU 0"))
    with pytest.raises(OutOfMemoryError, match="The memory of the machine ran out"):
        together.fail(Path("b"), out_of("the machine"))
    alone.fail(Path("b"), out_of("the machine"))


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda content: content[:-20],
    "another key": lambda content: content.replace(b'"images"', b'"pictures"'),
    "no object": lambda _: b"7\n",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_file_is_named_and_its_images_are_predicted_again(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    first_shard(part := Part(images_may_be_too_large=False))
    part.write(path := tmp_path / "part.jsonl")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(RunFolderError, match=r"part\.jsonl was changed .*\. Resume: its images are predicted again\.$"):
        record_part(path, begin(tmp_path / "output", []))
    assert not path.exists()


def test_images_that_failed_before_are_known(tmp_path: Path) -> None:
    recording = begin(tmp_path, [])
    recording.add([image("a")], has_maps=True)
    recording.fail(Path("/in/b"), DataError("is damaged"))
    again = Recording(PredictionFolder(tmp_path), [Path("/in") / name for name in "cab"], lambda _: None)
    assert again.groups(1) == [[Path("/in/b")], [], [Path("/in/c")]]
    assert again.waiting == 2


def test_what_is_left_of_batches_moves_no_image_into_another_batch(tmp_path: Path) -> None:
    recording = begin(tmp_path, [])
    recording.add([image("a"), image("b")], has_maps=True)
    recording.fail(Path("/in/c"), DataError("is damaged"))  # and the command was killed before it recorded d
    recording.add([image("h")], has_maps=True)  # an image that was given alone
    again = Recording(PredictionFolder(tmp_path), [Path("/in") / name for name in "abcdefghi"], lambda _: None)
    assert [["".join(path.name for path in group)] for group in again.groups(2)] == [["c"], ["dg"], ["efi"]]
    assert again.waiting == 6


def test_an_image_without_the_part_is_predicted_not_failed(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.new("L", (7, 5)).save(path)
    part = Part(images_may_be_too_large=True)
    part.fail(paths[0], UnalignedError("Nothing in it fits."))
    part.write(tmp_path / "part.jsonl")
    folder = PredictionFolder(tmp_path / "out")
    folder.begin(PredictionSettings(), common="/", aligned=True)
    said: list[str] = []
    recording = Recording(folder, paths, said.append)
    record_part(tmp_path / "part.jsonl", recording)
    recording.fail(paths[1], UnalignedError("Another part."))
    assert [image.unaligned for image in folder.predicted()] == ["Nothing in it fits.", "Another part."]
    assert folder.rows_file.read_text().splitlines()[0].endswith(",contradiction,unaligned")
    assert not folder.failures_file.exists()
    assert said == [], "whether the model gives maps is not known yet"
    summary = str(recording.finish(coco=False, seconds=2.0))
    assert summary.endswith("2 of 2 are anomalous, 2 of them because the part is not found.")


def test_each_prediction_is_shown_once_it_is_recorded(tmp_path: Path) -> None:
    def show(shown: PredictedImage) -> None:
        seen.append((shown.image_path, len(list(folder.predicted()))))

    folder, seen = PredictionFolder(tmp_path), []
    folder.begin(PredictionSettings(), common="/in")
    recording = Recording(folder, [], lambda _: None, show)
    recording.add([image("a"), image("b")], has_maps=True)
    assert seen == [("/in/a", 2), ("/in/b", 2)]


def test_a_failure_is_taken_back_when_its_image_is_tried_again(tmp_path: Path) -> None:
    recording = begin(tmp_path, [])
    for name in "ab":
        recording.fail(Path(f"/in/{name}"), DataError(f"{name} is damaged"))
    recording.take_back([Path("/in/a")])
    recording.add([image("a")], has_maps=True)
    assert (tmp_path / "failures.csv").read_text() == "image_path,error\n/in/b,b is damaged\n"
    assert recording.finish(coco=False, seconds=1.0).failed == 1
