from __future__ import annotations

from pathlib import Path

import anomalib.metrics
import pytest
import torchmetrics
from torchmetrics import classification, segmentation

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.results.metric_specs import MetricSpec, make_metric, read_metrics


class Difference(torchmetrics.MeanMetric):
    """A third party's metric."""

    def __init__(self, scale: float, **options: object) -> None:
        super().__init__(**options)
        self.scale = scale


class Unwilling(torchmetrics.MeanMetric):
    """Fails in its own way."""

    def __init__(self) -> None:
        message = "not today"
        raise OSError(message)


def spec(class_path: str, level: str = "image", **init_args: object) -> MetricSpec:
    (read,) = read_metrics(level, [{"class_path": class_path, "init_args": init_args}])
    return read


def test_a_metric_is_a_name_a_path_or_both_with_arguments() -> None:
    path = "torchmetrics.classification.BinaryFBetaScore"
    given = ["AUROC", path, {"class_path": path, "init_args": {"beta": 2.0}, "name": "F2"}, {"class_path": "F1Max"}]
    assert read_metrics("image", given) == (
        MetricSpec("image", "AUROC", "AUROC"),
        MetricSpec("image", path, "BinaryFBetaScore"),
        MetricSpec("image", path, "F2", {"beta": 2.0}),
        MetricSpec("image", "F1Max", "F1Max"),
    )


def test_only_short_names_without_arguments_are_counted() -> None:
    given = ["AUROC", {"class_path": "AUPR"}, "anomalib.metrics.F1Max", {"class_path": "AUPRO", "init_args": {"a": 1}}]
    assert [each.is_counted for each in read_metrics("pixel", given)] == [True, True, False, False]
    assert not read_metrics("image", ["AUPRO"])[0].is_counted


def test_two_metrics_of_one_name_are_refused() -> None:
    betas = [{"class_path": "BinaryFBetaScore", "init_args": {"beta": beta}} for beta in (0.5, 2.0)]
    message = (
        "^Every metric in metrics.image needs a name of its own, but 2 are called 'BinaryFBetaScore'. Name them, for "
        "example {class_path: BinaryFBetaScore, name: BinaryFBetaScore2, init_args: ...}, or remove one.$"
    )
    with pytest.raises(ConfigurationError, match=message):
        read_metrics("image", betas)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_paht": "AUROC"}, "no key 'class_paht'. Did you mean 'class_path'"),
        ({"class_path": None}, "must be a name, a dotted class path, or .* but is {'class_path': None}"),
        ({"class_path": "AUROC", "init_args": [1]}, "but is {'class_path': 'AUROC', 'init_args': .1.}"),
        (7, "but is 7"),
    ],
)
def test_other_forms_are_refused(given: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"in metrics.pixel.*{message}"):
        read_metrics("pixel", [given])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("AUROC", anomalib.metrics.AUROC),
        ("PGn", anomalib.metrics.PGn),
        ("BinaryAccuracy", classification.BinaryAccuracy),
        ("Accuracy", classification.BinaryAccuracy),
        ("torchmetrics.Specificity", classification.BinarySpecificity),
        ("MeanIoU", segmentation.MeanIoU),
        ("MeanSquaredError", torchmetrics.MeanSquaredError),
    ],
)
def test_a_class_is_found_by_its_name(name: str, found: type) -> None:
    assert type(make_metric(spec(name))) is found


def test_a_third_partys_class_is_found_by_its_path() -> None:
    assert make_metric(spec(f"{__name__}.Difference", scale=3, nan_strategy="ignore")).scale == 3.0


@pytest.mark.parametrize("name", ["AUPRO", "PRO", "anomalib.metrics.AUPRO"])
def test_metrics_of_regions_are_for_pixels(name: str) -> None:
    make_metric(spec(name, "pixel"))
    with pytest.raises(ConfigurationError, match=f"There is no metric '{name}' for metrics.image"):
        make_metric(spec(name))


def test_a_whole_number_is_taken_for_a_fraction() -> None:
    assert isinstance(make_metric(spec("BinaryFBetaScore", beta=2)).beta, float)


def test_a_task_can_be_chosen() -> None:
    made = make_metric(spec("Accuracy", task="multiclass", num_classes=2))
    assert type(made) is classification.MulticlassAccuracy


def test_an_argument_that_is_not_there() -> None:
    message = (
        "^The metric 'BinaryFBetaScore' in metrics.pixel has no argument 'betta'. Did you mean 'beta'. Allowed: beta, "
        "ignore_index, multidim_average, threshold, validate_args, zero_division.$"
    )
    with pytest.raises(ConfigurationError, match=message):
        make_metric(spec("BinaryFBetaScore", "pixel", betta=2.0))


def test_arguments_of_anomalibs_metrics_are_those_of_what_they_wrap() -> None:
    with pytest.raises(ConfigurationError, match=r"'AUROC' .* no argument 'max_fpr'. .*ignore_index.*thresholds"):
        make_metric(spec("AUROC", max_fpr=0.1))
    with pytest.raises(ConfigurationError, match=r"no argument 'limit'. Did you mean 'fpr_limit'\? Allowed: fpr_limit"):
        make_metric(spec("AUPRO", "pixel", limit=0.1))
    assert float(make_metric(spec("AUPRO", "pixel", fpr_limit=0.1)).fpr_limit) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["fields", "prefix"])
def test_where_values_come_from_is_not_for_the_user(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"gets '{name}' from its list, metrics\."):
        make_metric(spec("F1Score", **{name: ["pred_score", "gt_label"]}))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (("BinaryFBetaScore", {"beta": -1.0}), r"\{'beta': -1.0\}: Expected argument `beta` .* Its arguments: beta, "),
        (("BinaryFBetaScore", {}), "missing 1 required positional argument: 'beta'. Its arguments: beta, "),
        ((f"{__name__}.Unwilling", {}), "{}: not today. Its arguments: none."),
    ],
)
def test_a_value_that_a_class_refuses(made: tuple[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"'{made[0]}' in metrics.image cannot be made with .*{message}"):
        make_metric(spec(made[0], **made[1]))


@pytest.mark.usefixtures("ending_modules")
@pytest.mark.parametrize("path", ["ev-il.X", "1x.X", "a.ev-il.X", ".a.X", "a..X"])
def test_what_is_no_path_of_a_class_is_not_imported(path: str) -> None:
    with pytest.raises(ConfigurationError, match=f"There is no metric '{path}' for metrics.image"):
        make_metric(spec(path))


MISSING = "import no_such_package_at_all\n"


@pytest.mark.parametrize("source", [MISSING, "from metrics_of_mine import Nothing\n", "import metrics_of_mine.more\n"])
def test_what_a_metric_needs_itself_is_named_if_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "metrics_of_mine.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    message = "metrics_of_mine.Own' in metrics.image cannot be used, because metrics_of_mine cannot be imported: "
    with pytest.raises(ConfigurationError, match=message) as raised:
        make_metric(spec("metrics_of_mine.Own"))
    assert isinstance(raised.value.__cause__, ImportError)


@pytest.mark.parametrize(
    "path", ["no_such_package_at_all.X", "anomalib.no_such_module.X", "anomalib.metrics.auroc.x.X"]
)
def test_a_package_that_is_not_there_has_no_metrics(path: str) -> None:
    with pytest.raises(ConfigurationError, match=f"There is no metric '{path}' for metrics.image"):
        make_metric(spec(path))
