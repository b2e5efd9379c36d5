from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.auroc import auroc
from benchmarks.case import Case
from benchmarks.programs import programs


def test_tiles_are_counted() -> None:
    assert Case(image_size=1024, tile_size=256).tiles == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 1000}, "image_size is 1000, tile_size is 256"),
        ({"train": 1}, "train must be at least 2, found 1"),
        ({"train_batch": 0}, "train_batch must be at least 1, found 0"),
        ({"model": "Ganomaly"}, "model must be one of Padim, Patchcore, Fastflow, found 'Ganomaly'"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Case(**arguments)


def test_drawn_images_are_kept_and_named_by_the_data_module(tmp_path: Path) -> None:
    case = Case(image_size=128, tile_size=64, train=2, test=3)
    boards = case.boards(tmp_path)
    drawn = {path: path.stat().st_mtime_ns for path in boards.rglob("*.png")}
    assert len(drawn) == 2 + 3 + 1
    arguments = case.data(boards)["init_args"]
    assert len(list(boards.glob(f"{arguments['normal_test_dir']}/*"))) == 2
    assert [len(list(boards.glob(f"{each}/*"))) for each in arguments["abnormal_dir"]] == [1]
    assert case.boards(tmp_path) == boards
    assert {path: path.stat().st_mtime_ns for path in boards.rglob("*.png")} == drawn


def test_cases_have_names_of_their_own() -> None:
    cases = [Case(), Case(train=12), Case(model="Fastflow"), Case(model="Fastflow", epochs=20), Case(eval_batch=16)]
    assert len({case.name for case in cases}) == len({case.title for case in cases}) == len(cases)
    assert Case().name == Case(epochs=20).name, "Padim looks at each image once"


def test_batches_are_those_of_the_case(tmp_path: Path) -> None:
    (tmp_path / "ground_truth").mkdir()
    arguments = Case(train_batch=32, eval_batch=16).data(tmp_path)["init_args"]
    assert (arguments["train_batch_size"], arguments["eval_batch_size"]) == (32, 16)


def test_each_number_of_processes_is_a_program_of_its_own() -> None:
    chosen = programs(["reference", "tiled", "budget", "train", "loop"], Case(), Path("b"), Path("f"), [1, 2])
    assert len({each.folder for each in chosen}) == len(chosen) == 9
    assert len({(each.name, each.phases) for each in chosen}) == 9
    assert [each.name for each in chosen if each.phases[0].name == "train"] == [
        "anomalib-tiled",
        "anomalib-tiled, 2 processes",
    ]


def test_an_unknown_program_is_refused() -> None:
    with pytest.raises(ValueError, match="Programs are reference, tiled, budget, train and loop, found 'ours'"):
        programs(["ours"], Case(), Path(), Path(), [1])


def test_the_loop_refuses_a_model_that_it_cannot_train() -> None:
    with pytest.raises(ValueError, match="no model by gradients, found Fastflow"):
        programs(["loop"], Case(model="Fastflow"), Path(), Path(), [1])


@pytest.mark.parametrize(
    ("scores", "area"), [([0.1, 0.2, 0.8, 0.9], 1.0), ([0.9, 0.8, 0.2, 0.1], 0.0), ([0.5, 0.5, 0.5, 0.9], 0.75)]
)
def test_area_under_the_curve(scores: list[float], area: float) -> None:
    assert auroc(np.array(scores, np.float32), np.array([False, False, True, True])) == area
