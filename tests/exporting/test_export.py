"""Files that predict something else are refused, and the folder appears when everything is in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from anomalib_tiled.ensemble import TiledEnsemble
from anomalib_tiled.errors import ConfigurationError, StorageError
from anomalib_tiled.exporting.export import Exporting, _check, _first_tiles, replacing_folder
from anomalib_tiled.exporting.formats import TorchFormat
from anomalib_tiled.stages.scoring import Scorer


class Changed(Scorer):
    """Something else while a graph is made."""

    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        return tile_scores.amax(dim=0) + (5.0 if torch.compiler.is_exporting() else 0.0)


def test_files_that_predict_something_else_are_refused_and_the_cause_is_named(
    make_ensemble: Callable[..., TiledEnsemble], images: torch.Tensor, tmp_path: Path
) -> None:
    asked = Exporting(TorchFormat(), tmp_path / "output")
    message = r"to 0\.0001, but differ in pred_score by .*The cause is scoring Changed .*Nothing was kept"
    with pytest.raises(ConfigurationError, match=message):
        _check(make_ensemble(scorer=Changed(), normalize_at="none"), asked, tmp_path, [images])


def test_the_first_tiles_are_the_same_tiles(make_ensemble: Callable[..., TiledEnsemble]) -> None:
    ensemble = make_ensemble()
    first = _first_tiles(ensemble).grid
    assert [tile.name for tile in first.tiles] == ["r00_c00", "r00_c01", "r01_c00", "r01_c01"]
    assert all(tile == ensemble.grid.tile(tile.name) for tile in first.tiles)


def test_a_folder_appears_when_everything_is_in_it(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b"
    with replacing_folder(output, overwrite=False) as work:
        (work / "manifest.json").write_text("1")
        assert not output.exists()
    assert [path.name for path in output.parent.iterdir()] == ["b"]


def test_an_earlier_export_stays_if_the_new_one_fails(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text("old")
    with pytest.raises(KeyError), replacing_folder(tmp_path / "b", overwrite=True):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b" / "manifest.json").read_text() == "old"
    with replacing_folder(tmp_path / "b", overwrite=True) as work:
        (work / "manifest.json").write_text("new")
    assert (tmp_path / "b" / "manifest.json").read_text() == "new"


def test_a_file_where_a_folder_belongs_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match=r"file/output cannot be written: a file is where a folder belongs"),
        replacing_folder(tmp_path / "file" / "output", overwrite=False),
    ):
        pass
