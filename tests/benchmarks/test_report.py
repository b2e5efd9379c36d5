from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.case import Case
from benchmarks.growth import grown, growth_table
from benchmarks.page import write_section
from benchmarks.plot import draw
from benchmarks.report import Comparison, Result

METRICS = {"image_AUROC": 0.75, "pixel_AUROC": 0.5}

FIT = Result("anomalib's own", "fit", 30, 40, 3_000_000_000, 10_000_000, 60, 20, 6, {})
TEST = Result("anomalib's own", "test", 10, 12, 2_000_000_000, 20_000_000, 8, 4, 2, METRICS)
TRAIN = Result("anomalib-tiled", "train", 10, 26, 1_000_000_000, 5_000_000, 6, 2, 6, METRICS)


@pytest.fixture
def comparison(machine: dict[str, str | int]) -> Comparison:
    return Comparison(Case(train=4, test=2), machine, 7.5, [FIT, TEST, TRAIN])


def test_phases_add_up_but_memory_is_the_highest_and_disk_the_last() -> None:
    together = Result.together([FIT, TEST])
    assert (together.phase, together.seconds, together.processor_seconds) == ("fit + test", 40, 52)
    assert (together.peak_memory, together.disk) == (3_000_000_000, 20_000_000)
    assert together.decodes_per_image == 68 / 6
    assert together.metrics == METRICS


def test_the_table_has_a_row_for_each_phase_and_one_for_all(comparison: Comparison) -> None:
    lines = comparison.to_markdown().splitlines()
    assert "2 cores of slow, 8 GB" in lines[0]
    assert "takes 7.5 s" in lines[0]
    assert lines[4:8] == [
        "| anomalib's own | fit | 30.0 | 40.0 | 3.00 | 0.010 | 10.0 |  |  |",
        "| anomalib's own | test | 10.0 | 12.0 | 2.00 | 0.020 | 4.0 | 0.7500 | 0.5000 |",
        "| anomalib's own | fit + test | 40.0 | 52.0 | 3.00 | 0.020 | 11.3 | 0.7500 | 0.5000 |",
        "| anomalib-tiled | train | 10.0 | 26.0 | 1.00 | 0.005 | 1.0 | 0.7500 | 0.5000 |",
    ]


def test_the_second_table_says_what_a_program_takes_of_the_references(comparison: Comparison) -> None:
    ratios = comparison.to_markdown().splitlines()[9:]
    assert ratios[0] == (
        "| of what anomalib's own takes | phase | wall time | processor time | peak memory | disk | decodes |"
    )
    assert ratios[2:] == ["| anomalib-tiled | train | 0.25 | 0.50 | 0.33 | 0.25 | 0.09 |"]


def test_there_is_no_second_table_without_the_reference(comparison: Comparison) -> None:
    assert "of what" not in replace(comparison, results=[TRAIN]).to_markdown()


def test_a_program_that_is_less_right_than_the_reference_is_doubted(comparison: Comparison) -> None:
    assert "Doubt" not in comparison.to_markdown()
    worse = replace(TRAIN, metrics={"image_AUROC": 0.9, "pixel_AUROC": 0.49})
    doubts = replace(comparison, results=[FIT, TEST, worse]).to_markdown().splitlines()[13:]
    assert doubts == ["Doubt: pixel_AUROC of anomalib-tiled, train, is 0.0100 lower than anomalib's own."]


def test_fit_and_test_of_a_program_stay_apart_from_its_train() -> None:
    apart = [replace(TRAIN, phase=phase) for phase in ("fit", "test", "train")]
    totals = Comparison(Case(), {}, 0, apart).totals
    assert [each.phase for each in totals] == ["fit + test", "train"]


def test_what_was_measured_several_times_has_one_row_of_medians(comparison: Comparison) -> None:
    again = [replace(each, seconds=each.seconds + more) for more in (0, 1, 5) for each in (FIT, TEST, TRAIN)]
    repeated = replace(comparison, results=again)
    assert [[each.seconds for each in phases] for phases in repeated.programs] == [[31, 11], [11]]
    assert "Medians of 3 runs of all programs in turn." in repeated.to_markdown()
    assert "Medians" not in comparison.to_markdown()


def test_everything_is_in_the_json(comparison: Comparison, tmp_path: Path) -> None:
    comparison.write_json(tmp_path / "results.json")
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["case"]["train"] == 4
    assert content["machine"] == comparison.machine
    assert content["results"][1]["metrics"] == METRICS


def test_a_picture_is_drawn(comparison: Comparison, tmp_path: Path) -> None:
    draw(comparison, tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes()[:4] == b"\x89PNG"


def test_a_section_is_added_once_and_then_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nText.\n")
    write_section(page, "small", "Old.")
    write_section(page, "large", "Other.")
    write_section(page, "small", "New.\n")
    begin = "<!-- begin {0}: written by a command -->"
    assert page.read_text() == (
        f"# Page\n\nText.\n\n{begin.format('small')}\n\nNew.\n\n<!-- end small -->\n\n"
        f"{begin.format('large')}\n\nOther.\n\n<!-- end large -->\n"
    )


def test_a_section_without_end_is_not_written_over(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    write_section_of = "<!-- begin small: written by a command -->\n\nOld. And what the author wrote by hand.\n"
    page.write_text(write_section_of)
    with pytest.raises(ValueError, match=r"but not '<!-- end small -->' behind it"):
        write_section(page, "small", "New.")
    assert page.read_text() == write_section_of


def test_growth_is_that_of_test_images_then_of_training_images() -> None:
    cases = grown(Case(train=4, test=2), factor=3)
    assert [(each.train, each.test) for each in cases] == [(4, 2), (4, 6), (12, 2)]


def test_growth_is_given_against_the_fewest_images() -> None:
    few, many = Case(train=4, test=2), Case(train=4, test=8)
    lines = growth_table({few: [FIT, TEST], many: [FIT, replace(TEST, peak_memory=2_200_000_000)]}).splitlines()
    assert lines[2:] == [
        "| 4 | 2 | 3.00 (1.00 ×) | 2.00 (1.00 ×) |",
        "| 4 | 8 | 3.00 (1.00 ×) | 2.20 (1.10 ×) |",
    ]
