"""What the built-in stages say of themselves: the page of a stage is its documentation."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

import pytest

from anomalib_tiled.plugins import builtin
from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.stages import (
    assignment,
    global_model,
    merging,
    normalization,
    regions,
    scoring,
    seams,
    thresholding,
)
from anomalib_tiled.stages.kinds import STAGE_KINDS, StageKind

NAMES = {
    "register_aligners": ["Translation", "Rigid", "Affine", "Homography"],
    "register_assignments": ["PerTile", "Shared", "Grid", "Clusters", "Groups"],
    "register_regions": ["Regions"],
    "register_global_models": ["GlobalModel", "WeightedMean"],
    "register_mergers": ["Mean", "Gaussian", "Hann", "Max"],
    "register_scorers": ["Max", "Mean", "TopK"],
    "register_seam_smoothers": ["GaussianSeams"],
    "register_normalizers": ["MinMax", "Quantile", "Standardize"],
    "register_thresholders": [
        "F1AdaptiveThreshold",
        "CostThreshold",
        "ManualThreshold",
        "QuantileThreshold",
        "ExtremeValueThreshold",
    ],
    "register_workers": ["LocalWorkers", "RayWorkers", "SlurmWorkers"],
}
CLASSES: list[type] = [each for hook in NAMES for each in getattr(builtin, hook)()]
EACH_KIND = pytest.mark.parametrize("kind", STAGE_KINDS, ids=lambda kind: kind.name)


def named(classes: Sequence[type]) -> list[str]:
    return [f"{each.__module__.rpartition('.')[2]}.{each.__name__}" for each in classes]


def described(documented: type) -> dict[str, str]:
    """What the section ``Args`` of a docstring says of each argument."""
    _, _, section = inspect.getdoc(documented).partition("\nArgs:\n")
    lines = section.partition("\n\n")[0]
    return {name: text.strip() for name, text in re.findall(r"^    (\w+): ((?:.|\n {8})*)", lines, re.MULTILINE)}


def taken_by(documented: type) -> list[inspect.Parameter]:
    """What a class is made with."""
    if documented.__init__ is object.__init__:
        return []
    return list(inspect.signature(documented).parameters.values())


@EACH_KIND
def test_every_hook_gives_classes_of_its_kind(kind: StageKind) -> None:
    classes = getattr(builtin, kind.hook)()
    assert [each.__name__ for each in classes] == NAMES[kind.hook]
    assert all(issubclass(each, kind.contract) and not inspect.isabstract(each) for each in classes)


@EACH_KIND
def test_what_is_built_in_comes_first_and_in_this_order(kind: StageKind) -> None:
    names = [choice.name for choice in find_plugins().of(kind.name) if choice.plugin.origin.package == "anomalib-tiled"]
    assert names == NAMES[kind.hook]


MODULES = [assignment, global_model, merging, scoring, seams, normalization, thresholding]


@pytest.mark.parametrize("module", MODULES)
def test_no_stage_of_the_package_is_forgotten(module: object) -> None:
    contracts = tuple(kind.contract for kind in STAGE_KINDS)
    made_here = [each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == module.__name__]
    usable = [each for each in made_here if issubclass(each, contracts) and not inspect.isabstract(each)]
    assert usable
    assert set(usable) <= set(CLASSES)


@pytest.mark.parametrize("documented", CLASSES, ids=named(CLASSES))
def test_the_first_line_says_what_it_does(documented: type) -> None:
    assert documented.__doc__, "not inherited from the contract"
    first, _, rest = inspect.getdoc(documented).partition("\n")
    assert first.endswith(".")
    assert len(first) > 20
    assert rest[:1] in {"", "\n"}, "one line, then an empty one"


@pytest.mark.parametrize("documented", CLASSES, ids=named(CLASSES))
def test_every_argument_is_described(documented: type) -> None:
    taken, said = taken_by(documented), described(documented)
    assert list(said) == [parameter.name for parameter in taken]
    assert all(text.endswith(".") and len(text) > 20 for text in said.values())
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in taken)


@pytest.mark.parametrize("documented", CLASSES, ids=named(CLASSES))
def test_only_the_threshold_costs_and_groups_that_you_give_have_to_be_given(documented: type) -> None:
    required = [each.name for each in taken_by(documented) if each.default is inspect.Parameter.empty]
    given = {
        thresholding.ManualThreshold: {"value": 0.5},
        thresholding.CostThreshold: {"miss": 50.0, "false_alarm": 1.0, "prevalence": 0.01},
        assignment.Groups: {"groups": [["r00_c00"]]},
    }
    assert required == list(given.get(documented, {}))
    one_of_several = {regions.Regions: {"ignore": "ignore.png"}}
    documented(**{**given, **one_of_several}.get(documented, {}))
