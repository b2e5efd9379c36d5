from __future__ import annotations

from collections.abc import Callable

import pytest

from anomalib_tiled.config.differences import differences
from anomalib_tiled.config.settings import Settings

Change = Callable[[str, object], Settings]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tiling.stride", 3, "tiling.stride is None, not [3, 3]"),
        ("metrics.image", ["AUPR"], "metrics.image is ['AUROC'], not ['AUPR']"),
        ("thresholding.image_sensitivity", 0.3, "thresholding.image_sensitivity is 0.5, not 0.3"),
        ("merging.init_args", {}, "merging.init_args.sigma is 0.5, not None"),
    ],
)
def test_a_difference_is_said(
    configuration: dict[str, object], changed: Change, key: str, value: object, said: str
) -> None:
    assert differences(Settings.from_mapping(configuration), changed(key, value)) == [said]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tiling.tile_size", [4, 4]),
        ("default_root_dir", "elsewhere"),
        ("cache.directory", "/fast"),
        ("thresholding.pixel_sensitivity", 0.5),
    ],
)
def test_the_same_written_otherwise_and_folders_do_not_count(
    configuration: dict[str, object], changed: Change, key: str, value: object
) -> None:
    assert not differences(Settings.from_mapping(configuration), changed(key, value))
