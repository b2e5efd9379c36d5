"""A whole run of anomalib's own tiled ensemble, and one of this package: same images, same weights, same numbers.

Compared is what the reference does right: scores are its mean over tiles, seams lie where both see one, no image has to
be padded, and nothing in the data module is random, so that setting it up again for each tile gives the same images.
Both train their models themselves, from the same first weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from anomalib.models import Padim
from anomalib.pipelines.tiled_ensemble import EvalTiledEnsemble, TrainTiledEnsemble
from anomalib.pipelines.tiled_ensemble.components import VisualizationJobGenerator
from anomalib.pipelines.tiled_ensemble.components.utils import helper_functions
from lightning.pytorch import seed_everything

from anomalib_tiled import pipeline
from anomalib_tiled.config.settings import Settings
from anomalib_tiled.data.boards import DemoBoards
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.training import preparation

pytestmark = pytest.mark.slow

SEED = 3
IMAGE_SIZE = (128, 192)
STRIDES = {"exact": [64, 64], "overlapping": [32, 64]}
KINDS = ("missing_part", "scratch", "solder_bridge")
SMOOTHING = {"sigma": 2, "width": 0.1}


@dataclass(frozen=True)
class Outcome:
    """What a run says of its test images, in their order, and what it learned.

    Args:
        images: Folders and names of the images.
        raw: Scores and maps before normalization, maps smoothed if seams are.
        normalized: Scores and maps in [0, 1].
        decided: Labels and masks.
        learned: Lowest and highest score and threshold, of images and of pixels.
        metrics: What the test images were measured with.
    """

    images: list[str]
    raw: tuple[torch.Tensor, torch.Tensor]
    normalized: tuple[torch.Tensor, torch.Tensor]
    decided: tuple[torch.Tensor, torch.Tensor]
    learned: dict[str, dict[str, float]]
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn boards: 6 to train, 3 normal and 3 anomalous ones to test."""
    root = tmp_path_factory.mktemp("boards") / "drawn"
    counts = {"train_images": 6, "normal_test_images": 3, "anomalous_test_images": 3}
    DemoBoards(root=root, image_size=IMAGE_SIZE, **counts).prepare_data()
    return root


@dataclass(frozen=True)
class Case:
    """What both run on."""

    root: Path
    folder: Path
    stride: list[int]
    smoothed: bool

    @property
    def data(self) -> dict[str, object]:
        return {
            "class_path": "anomalib.data.Folder",
            "init_args": {
                "name": "boards",
                "root": str(self.root),
                "normal_dir": "train/good",
                "normal_test_dir": "test/good",
                "abnormal_dir": [f"test/{kind}" for kind in KINDS],
                "mask_dir": [f"ground_truth/{kind}" for kind in KINDS],
                "val_split_mode": "same_as_test",
                "test_split_mode": "from_dir",
                "train_batch_size": 4,
                "eval_batch_size": 4,
                "num_workers": 0,
            },
        }


def ours(case: Case) -> Outcome:
    settings = {
        "seed_everything": SEED,
        "default_root_dir": str(case.folder / "ours"),
        "tiling": {"image_size": list(IMAGE_SIZE), "tile_size": 64, "stride": case.stride},
        "model": {"class_path": "anomalib.models.Padim", "init_args": {"pre_trained": False}},
        "data": case.data,
        "trainer": {"accelerator": "cpu"},
        "merging": {"class_path": "anomalib_tiled.stages.merging.Mean"},
        "scoring": {"class_path": "anomalib_tiled.stages.scoring.Mean"},
        "seam_smoothing": {"class_path": "anomalib_tiled.stages.seams.GaussianSeams", "init_args": SMOOTHING}
        if case.smoothed
        else None,
        "normalization": {"stage": "image", "method": {"class_path": "anomalib_tiled.stages.normalization.MinMax"}},
        "thresholding": {
            "stage": "image",
            "method": {
                "class_path": "anomalib_tiled.stages.thresholding.F1AdaptiveThreshold",
                "init_args": {"at": "lowest_anomalous"},
            },
        },
        "metrics": {"image": ["AUROC", "F1Score"], "pixel": ["AUROC", "F1Score"]},
        "workers": {"class_path": "anomalib_tiled.workers.local.LocalWorkers"},
        "cache": {"directory": None},
        "visualize": False,
    }
    run = preparation.prepare(Settings.from_mapping(settings))
    level = pipeline.fit(run, Observers()).image
    metrics = pipeline.test(run, Observers(), data=None, output=None, report=False).metrics
    ensemble = run.calibrated_ensemble()
    images, raws, finals = [], [], []
    for batch in run.images("test"):
        images += [name_of(path) for path in batch.image_path]
        raws.append(ensemble.predict_raw(batch.image))
        finals.append(ensemble.decide(raws[-1]))
    return Outcome(
        images=images,
        raw=(torch.cat([each.scores for each in raws]), torch.cat([each.maps[:, 0] for each in raws])),
        normalized=(
            torch.cat([each.pred_score for each in finals]),
            torch.cat([each.anomaly_map[:, 0] for each in finals]),
        ),
        decided=(torch.cat([each.pred_label for each in finals]), torch.cat([each.pred_mask[:, 0] for each in finals])),
        learned={"image": level.scores.normalization, "pixel": level.maps.normalization},
        metrics=metrics,
    )


def theirs(case: Case) -> Outcome:
    configuration = {
        "seed": SEED,
        "accelerator": "cpu",
        "default_root_dir": str(case.folder / "theirs"),
        "tiling": {"image_size": list(IMAGE_SIZE), "tile_size": 64, "stride": case.stride},
        "normalization_stage": "image",
        "thresholding": {"method": "F1AdaptiveThreshold", "stage": "image"},
        "thresholding_stage": "image",
        "data": case.data,
        "SeamSmoothing": {"apply": case.smoothed, **SMOOTHING},
        "TrainModels": {"model": {"class_path": "Padim"}, "metrics": {}, "trainer": {}},
    }
    training = TrainTiledEnsemble()
    for _ in results_of(training, configuration):
        pass
    steps = {name: snapshot(result) for name, result in results_of(EvalTiledEnsemble(training.root_dir), configuration)}
    merged = steps["SeamSmoothing" if case.smoothed else "Merge"]
    stats = json.loads((training.root_dir / "weights" / "lightning" / "stats.json").read_text())
    [metrics] = pd.read_csv(training.root_dir / "metric_results.csv").to_dict("records")
    return Outcome(
        images=merged["image_path"],
        raw=(merged["pred_score"], merged["anomaly_map"]),
        normalized=(steps["Normalize"]["pred_score"], steps["Normalize"]["anomaly_map"]),
        decided=(steps["Threshold"]["pred_label"], steps["Threshold"]["pred_mask"]),
        learned={
            level: {
                "minimum": stats["minmax"][name]["min"],
                "maximum": stats["minmax"][name]["max"],
                "threshold": stats[f"{level}_threshold"],
            }
            for level, name in {"image": "pred_score", "pixel": "anomaly_map"}.items()
        },
        metrics=metrics,
    )


def name_of(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


def results_of(
    pipeline_of_reference: TrainTiledEnsemble | EvalTiledEnsemble, configuration: dict[str, object]
) -> Iterator[tuple[str, object]]:
    """Do the jobs in their order, as the pipelines themselves do, but without going on after an exception."""
    result = None
    for runner in pipeline_of_reference._setup_runners(configuration):
        if isinstance(runner.generator, VisualizationJobGenerator):
            continue  # only draws, and gives on what it is given
        name = runner.generator.job_class.name
        result = runner.run(configuration.get(name) or {}, result)
        yield name, result


def snapshot(batches: object) -> dict[str, object]:
    """Join and copy the predictions of all batches: later jobs change them in place."""
    if not isinstance(batches, list):  # predictions of tiles, or metrics
        return {}
    joined: dict[str, object] = {"image_path": [name_of(path) for batch in batches for path in batch.image_path]}
    for name in ("anomaly_map", "pred_mask"):
        joined[name] = torch.cat([getattr(batch, name).clone() for batch in batches])
    for name in ("pred_score", "pred_label"):  # one column of them
        joined[name] = torch.cat([getattr(batch, name).clone().flatten() for batch in batches])
    return joined


@pytest.fixture(
    scope="module",
    params=[("exact", False), ("overlapping", False), ("exact", True)],
    ids=["exact grid", "overlapping grid", "smoothed seams"],
)
def outcomes(
    request: pytest.FixtureRequest, boards: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outcome, Outcome]:
    """What this package and the reference make of the same images."""
    stride, smoothed = request.param
    case = Case(boards, tmp_path_factory.mktemp("runs"), STRIDES[stride], smoothed)

    def random_padim(model_args: dict[str, object], **arguments: object) -> Padim:
        # The reference takes no arguments of a model from its configuration, so it is given the model itself.
        assert model_args == {"class_path": "Padim"}
        seed_everything(SEED)
        return Padim(pre_trained=False, **arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(helper_functions, "get_model", random_padim)
        reference = theirs(case)
    return ours(case), reference


def names(value: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("level", ["image", "pixel"], ids=lambda level: f"{level} {value}")


def score_range(reference: Outcome, level: str) -> float:
    return reference.learned[level]["maximum"] - reference.learned[level]["minimum"]


def test_the_images_are_the_same(outcomes: tuple[Outcome, Outcome]) -> None:
    mine, reference = outcomes
    assert mine.images == reference.images
    assert len(set(mine.images)) == 6


def test_merged_maps_and_mean_scores_are_the_same(outcomes: tuple[Outcome, Outcome]) -> None:
    for mine, reference in zip(outcomes[0].raw, outcomes[1].raw, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=0)


@names("scores")
def test_lowest_and_highest_score_are_the_same(outcomes: tuple[Outcome, Outcome], level: str) -> None:
    mine, reference = outcomes
    for end in ("minimum", "maximum"):
        assert mine.learned[level][end] == pytest.approx(reference.learned[level][end], rel=1e-4)


@names("threshold")
def test_thresholds_are_the_same(outcomes: tuple[Outcome, Outcome], level: str) -> None:
    mine, reference = (outcome.learned[level]["threshold"] for outcome in outcomes)
    assert mine == pytest.approx(reference, abs=1e-4 * score_range(outcomes[1], level))


def test_normalized_maps_and_scores_are_the_same(outcomes: tuple[Outcome, Outcome]) -> None:
    for mine, reference in zip(outcomes[0].normalized, outcomes[1].normalized, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-4)
        assert reference.min() < 0.5 < reference.max()


def test_decisions_are_the_same(outcomes: tuple[Outcome, Outcome]) -> None:
    """But for pixels so near the threshold that the last digits of their scores decide."""
    for mine, reference, scores in zip(outcomes[0].decided, outcomes[1].decided, outcomes[1].normalized, strict=True):
        assert not (mine != reference)[(scores - 0.5).abs() > 1e-4].any()
        assert 0 < int(mine.sum()) < mine.numel()


def test_metrics_are_the_same(outcomes: tuple[Outcome, Outcome]) -> None:
    mine, reference = outcomes
    assert mine.metrics == pytest.approx({name: reference.metrics[name] for name in mine.metrics}, abs=1e-4)
    assert list(mine.metrics) == ["image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"]
