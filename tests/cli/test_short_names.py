"""A short name stands for what a plugin registers, and for nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from anomalib_tiled.cli.short_names import expand_arguments, expand_short_names
from anomalib_tiled.errors import ConfigurationError

HANN = "anomalib_tiled.stages.merging.Hann"
TOP = "anomalib_tiled.stages.scoring.TopK"
MIN_MAX = "anomalib_tiled.stages.normalization.MinMax"
SHY = """
from anomalib_tiled import Scorer, hookimpl


class Max(Scorer):
    def score(self, tile_scores, maps):
        return tile_scores.amin(dim=0)


class ShyScore(Max):
    pass


@hookimpl
def register_scorers():
    return []
"""


def test_stages_of_a_configuration_get_their_dotted_paths() -> None:
    given = {
        "merging": "Hann",
        "scoring": {"class_path": "TopK", "init_args": {"k": 2}},
        "seam_smoothing": None,
        "normalization": {"stage": "tile", "method": "MinMax"},
        "thresholding": {"stage": "image"},
        "model": "Padim",
        "trainer": {"max_epochs": 1},
    }
    assert expand_short_names(given) == {
        **given,
        "merging": HANN,
        "scoring": {"class_path": TOP, "init_args": {"k": 2}},
        "normalization": {"stage": "tile", "method": MIN_MAX},
    }
    assert given["merging"] == "Hann", "what is given stays as it is"


@pytest.mark.parametrize("given", [None, "text", ["Hann"], {"merging": HANN}, {"normalization": None}, {"merging": 5}])
def test_what_names_no_stage_by_a_short_name_stays(given: object) -> None:
    assert expand_short_names(given) == given


@pytest.mark.parametrize(
    ("given", "full"),
    [
        (["--merging", "Hann"], ["--merging", HANN]),
        (["--merging=Hann"], [f"--merging={HANN}"]),
        (["--scoring.class_path", "TopK", "--scoring.k", "2"], ["--scoring.class_path", TOP, "--scoring.k", "2"]),
        (["--normalization.method", "MinMax"], ["--normalization.method", MIN_MAX]),
        (["--merging={class_path: Hann}"], [f"--merging={{class_path: {HANN}}}"]),
        (["--seam_smoothing", "null"], ["--seam_smoothing", "null"]),
        (["--merging.help", "Hann"], ["--merging.help", "Hann"]),
        (["--model", "Hann", "Max"], ["--model", "Hann", "Max"]),
        (["--merging"], ["--merging"]),
        ([], []),
    ],
)
def test_stages_on_the_command_line_get_their_dotted_paths(given: list[str], full: list[str]) -> None:
    assert expand_arguments(given) == full


def test_a_name_that_nobody_registers_is_refused() -> None:
    message = "There is no 'Meen' for merging. Did you mean 'Mean'? Allowed: Gaussian, Hann, Max, Mean. Or give a"
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        expand_short_names({"merging": "Meen"})


def test_a_class_that_is_not_registered_takes_no_part(install: Callable[..., None]) -> None:
    install("shy", SHY)
    assert expand_short_names({"scoring": "Max"}) == {"scoring": "anomalib_tiled.stages.scoring.Max"}
    with pytest.raises(ConfigurationError, match="There is no 'ShyScore' for scoring"):
        expand_short_names({"scoring": "ShyScore"})
    assert expand_short_names({"scoring": "shy.ShyScore"}) == {"scoring": "shy.ShyScore"}


def test_a_name_that_two_packages_register_is_refused(install: Callable[..., None]) -> None:
    install("twin_a", SHY.replace("return []", "return [ShyScore]"))
    install("twin_b", SHY.replace("return []", "return [ShyScore]"), "0.3")
    message = "'ShyScore' for scoring may be any of twin_a.ShyScore of twin_a 1.2, twin_b.ShyScore of twin_b 0.3. Give"
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        expand_short_names({"scoring": "ShyScore"})
