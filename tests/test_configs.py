"""Every example configuration is understood, fits together, and names stages that can be made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from anomalib_tiled.cli.options import settings_from
from anomalib_tiled.cli.parser import Parser
from anomalib_tiled.config.settings import Settings, as_size
from anomalib_tiled.config.tiling import grid_of
from anomalib_tiled.ensemble.calibration import Stages
from anomalib_tiled.ensemble.supported_models import check_model
from anomalib_tiled.ensemble.tile_model import class_of
from anomalib_tiled.results.metrics import Measurements
from anomalib_tiled.stages.workers import Workers
from anomalib_tiled.training.trainer import trainer_arguments

CHECKOUT = Path(__file__).parents[1]
CONFIGS = sorted((CHECKOUT / "configs").glob("*.yaml"))
MODELS = (CHECKOUT / "docs" / "models.md").read_text(encoding="utf-8")
ANY_SIZE = (1200, 1601)
"""Stands in for the size of the user's own images."""


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda path: path.stem)
def settings(request: pytest.FixtureRequest, parser: Parser) -> Settings:
    """Each example, read as the command reads it."""
    return settings_from(parser, parser.parse_args(["--config", str(request.param)]))


def test_there_are_examples() -> None:
    assert {"demo", "folder", "overlap"} <= {path.stem for path in CONFIGS}


def test_its_grid_covers_the_images_with_several_tiles(settings: Settings) -> None:
    grid = grid_of(replace(settings.tiling, image_size=settings.tiling.image_size or ANY_SIZE))
    assert len(grid.tiles) > 1
    assert (grid.tiles[-1].rows.stop, grid.tiles[-1].columns.stop) == tuple(grid.image_size)


def test_its_model_was_tried_and_no_rule_speaks_against_its_tiles(settings: Settings) -> None:
    assert f"| `{class_of(settings.model).__name__}` | yes |" in MODELS
    tile_size, batch_size = as_size(settings.tiling.tile_size), settings.data.init_args.get("train_batch_size", 32)
    check_model(settings.model, tile_size, train_batch_size=batch_size)


def test_its_stages_can_be_made(settings: Settings) -> None:
    stages = Stages.build(settings)
    asked = [settings.stages[kind] for kind in ("merging", "scoring", "normalization", "thresholding")]
    made = [stages.merger, stages.scorer, stages.normalizer, stages.thresholder]
    assert [type(each).__name__ for each in made] == [each.name for each in asked]
    assert (stages.smoother is None) == ("seam_smoothing" not in settings.stages)
    if "seam_smoothing" in settings.stages:
        assert type(stages.smoother).__name__ == settings.stages["seam_smoothing"].name


def test_its_metrics_workers_and_trainer_arguments_can_be_made(settings: Settings) -> None:
    Measurements(settings.metrics)
    settings.stages["workers"].build(Workers)
    given = settings.trainer["callbacks"] or []
    assert len(trainer_arguments(settings.trainer)["callbacks"]) == len(given)


def test_it_survives_being_written_and_read(settings: Settings, parser: Parser, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(settings.to_yaml(), encoding="utf-8")
    again = settings_from(parser, parser.parse_args(["--config", str(tmp_path / "config.yaml")]))
    assert again == settings


def test_its_seed_is_written_down_and_not_drawn(settings: Settings) -> None:
    assert settings.seed_everything == 42
