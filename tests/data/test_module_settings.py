from __future__ import annotations

import re
from pathlib import Path

import pytest
from anomalib.data import Folder

from anomalib_tiled.data.datamodule import check_numbers, folders_of
from anomalib_tiled.errors import ConfigurationError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_batch_size": 0}, "data.init_args.train_batch_size must be at least 1, but is 0. Raise it."),
        ({"eval_batch_size": 0}, "data.init_args.eval_batch_size must be at least 1, but is 0. Raise it."),
        ({"num_workers": -1}, "data.init_args.num_workers must be at least 0, but is -1. Raise it."),
    ],
)
def test_numbers_with_which_nothing_can_be_loaded(changes: dict[str, int], message: str) -> None:
    check_numbers(Folder(name="parts", normal_dir="good", num_workers=0, train_batch_size=1, eval_batch_size=1))
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        check_numbers(Folder(name="parts", normal_dir="good", **changes))


NO_FOLDERS = ("../../evil", "/evil", "..", ".", "", "a\\b", "a\nb")


@pytest.mark.parametrize("name", NO_FOLDERS)
def test_a_name_that_would_lead_elsewhere(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^data\.init_args\.name must be the name of a folder, .* but is '"):
        folders_of(Folder(name=name, normal_dir="good"))
    if name:  # without a category there is no folder of it
        data = Folder(name="parts", normal_dir="good")
        data.category = name
        with pytest.raises(ConfigurationError, match=r"^data\.init_args\.category must be the name of a folder"):
            folders_of(data)


@pytest.mark.parametrize("name", ["parts 2", ".hidden", "...", "teile_ä"])
def test_any_other_name_is_a_folder_below_that_of_all_runs(name: str, tmp_path: Path) -> None:
    data = Folder(name=name, normal_dir="good")
    assert folders_of(data) == [name]
    data.category = name
    assert folders_of(data) == [name, name]
    assert tmp_path.joinpath(*folders_of(data)).resolve().parent.parent == tmp_path.resolve()
