"""Loggers of a run as a whole, read back from their files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from mlflow import MlflowClient
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anomalib_tiled.config.settings import ClassSpec
from anomalib_tiled.ensemble.calibration import Calibration, Learned, Level
from anomalib_tiled.ensemble.false_alarms import FalseAlarms
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.results.trackers import KNOWN, LONGEST_SIDE, MOST_PICTURES, Tracker, check_loggers, make_logger

METRICS = {"image_AUROC": 0.9, "pixel_AUROC": None}
LEVEL = Level(Learned(2.5, None), Learned(3.5, None))
CALIBRATION = Calibration(image=LEVEL, false_alarms=FalseAlarms(0.1, 0.0, 0.4, 10))


@pytest.fixture
def run(tmp_path: Path) -> SimpleNamespace:
    """Stands in for a run with two tiles."""
    path = tmp_path / "Padim" / "boards" / "v0"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("seed_everything: 7\n")
    folder = SimpleNamespace(path=path, record=lambda _: SimpleNamespace(seconds=2.0), config_file=path / "config.yaml")
    run = SimpleNamespace(folder=folder, grid=SimpleNamespace(models="ab"))
    run.settings = SimpleNamespace(to_mapping=lambda: {"model": {"class_path": "Padim"}, "seed_everything": 7})
    run.without_left_out = lambda: run
    return run


def write_results(run: SimpleNamespace, misses: int = 1, alarms: int = 1, output: Path | None = None) -> Path:
    """Write what a test writes: images that were missed, false alarms, and one that is right."""
    output, data = output or run.folder.path, run.folder.path.parent / "data"
    labels = [("1", "0")] * misses + [("0", "1")] * alarms + [("1", "1"), ("", "1")]
    lines = ["image_path,gt_label,pred_score,pred_label,contradiction"]
    for number, (truth, label) in enumerate(labels):
        lines.append(f"{data}/a b/{number:03d}.png,{truth},{0.1 + 0.001 * number},{label},")
        path = output / "images" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2000, 20)).save(path)
    (output / "scores.csv").write_text("\n".join(lines) + "\n")
    (output / "tiles.csv").write_text("tile,AUROC\nr00_c00,0.5\n")
    (output / "report.html").write_text("<html></html>")
    return output


def tracker(run: SimpleNamespace, name: str, **arguments: object) -> Tracker:
    return Tracker.of(run, ClassSpec(name, arguments))


def test_tensorboard_gets_numbers_pictures_and_the_table(run: SimpleNamespace) -> None:
    tracked = tracker(run, "TensorBoardLogger")
    tracked.log_calibration(CALIBRATION)
    tracked.log_test(write_results(run), METRICS)
    found = EventAccumulator(str(run.folder.path / "tracked"), {"images": 0, "scalars": 0}).Reload()
    numbers = {name: found.Scalars(name)[0].value for name in found.Tags()["scalars"] if name != "hp_metric"}
    assert numbers == {
        "fit/tiles": 2,
        "fit/training_seconds": 4,
        "fit/threshold": 2.5,
        "fit/pixel_threshold": 3.5,
        "fit/expected_false_alarms": pytest.approx(0.1),
        "image_AUROC": pytest.approx(0.9),
    }
    assert sorted(found.Tags()["images"]) == ["false_alarm/01_001", "missed/01_000"]
    assert found.Images("missed/01_000")[0].width == LONGEST_SIDE
    assert {"tiles.csv/text_summary", "report.html/text_summary"} <= set(found.Tags()["tensors"])
    table = found.Tensors("tiles.csv/text_summary")[0].tensor_proto.string_val[0]
    assert table == b"| tile | AUROC |\n| --- | --- |\n| r00_c00 | 0.5 |"


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of a file store; MLflow refuses new ones unless it is asked to allow them."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file:{tmp_path / 'mlruns'}"


def test_mlflow_keeps_fit_and_tests_in_one_run(run: SimpleNamespace, mlflow: str) -> None:
    tracker(run, "MLFlowLogger", tracking_uri=mlflow).log_calibration(CALIBRATION)
    run.settings.to_mapping = lambda: {"seed_everything": 8}  # which MLflow refuses to change
    later = tracker(run, "MLFlowLogger", tracking_uri=mlflow)  # as of another command
    later.log_calibration(CALIBRATION)
    later.log_test(write_results(run), METRICS)
    client = MlflowClient(mlflow)
    (experiment,) = (each for each in client.search_experiments() if each.name == "lightning_logs")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("Padim/boards/v0", "FINISHED")
    assert found.data.params == {"model/class_path": "Padim", "seed_everything": "7"}
    assert found.data.metrics["fit/training_seconds"] == 4
    assert found.data.metrics["image_AUROC"] == 0.9
    assert "pixel_AUROC" not in found.data.metrics
    kept = {each.path for each in client.list_artifacts(found.info.run_id)}
    assert kept == {"config.yaml", "tiles.csv", "report.html", "missed", "false_alarm"}
    assert [each.path for each in client.list_artifacts(found.info.run_id, "missed")] == ["missed/01_000.png"]


def test_other_arguments_begin_another_run(run: SimpleNamespace, mlflow: str) -> None:
    for experiment in ("one", "two", "two"):
        tracker(run, "MLFlowLogger", tracking_uri=mlflow, experiment_name=experiment).log_test(
            write_results(run), METRICS
        )
    client = MlflowClient(mlflow)
    numbers = {each.name: len(client.search_runs([each.experiment_id])) for each in client.search_experiments()}
    assert (numbers["one"], numbers["two"]) == (1, 1)


def test_results_of_another_folder_bear_its_name(run: SimpleNamespace, mlflow: str, tmp_path: Path) -> None:
    output = tmp_path / "line2"
    output.mkdir()
    tracked = tracker(run, "MLFlowLogger", tracking_uri=mlflow)
    tracked.log_test(write_results(run, output=output), METRICS)
    client, run_id = MlflowClient(mlflow), tracked.logger.version
    assert client.get_run(run_id).data.metrics == {"line2/image_AUROC": 0.9}
    assert {each.path for each in client.list_artifacts(run_id)} == {"line2"}


@pytest.mark.parametrize(
    ("misses", "alarms", "expected"), [(30, 30, (8, 8)), (3, 30, (3, 13)), (30, 2, (14, 2)), (0, 0, (0, 0))]
)
def test_the_worst_pictures_are_sent(
    run: SimpleNamespace, mlflow: str, misses: int, alarms: int, expected: tuple[int, int]
) -> None:
    tracked = tracker(run, "MLFlowLogger", tracking_uri=mlflow)
    tracked.log_test(write_results(run, misses, alarms), METRICS)
    kept = [
        [Path(each.path).name for each in MlflowClient(mlflow).list_artifacts(tracked.logger.version, kind)]
        for kind in ("missed", "false_alarm")
    ]
    assert tuple(map(len, kept)) == expected
    assert sum(expected) in {0, MOST_PICTURES}
    if misses == alarms == 30:
        assert min(kept[0]) == "01_000.png", "the lowest score"
        assert min(kept[1]) == "01_059.png", "the highest"


def test_a_test_without_pictures_sends_none(run: SimpleNamespace) -> None:
    output = write_results(run)
    for path in output.rglob("*.png"):
        path.unlink()
    tracker(run, "TensorBoardLogger").log_test(output, METRICS)
    assert EventAccumulator(str(run.folder.path / "tracked")).Reload().Tags()["images"] == []


def test_any_other_logger_gets_numbers_and_configuration(run: SimpleNamespace) -> None:
    tracked = tracker(run, "CSVLogger")
    assert isinstance(tracked.logger, CSVLogger)
    tracked.log_calibration(CALIBRATION)
    (hparams,) = (run.folder.path / "tracked").rglob("hparams.yaml")
    assert "seed_everything: 7" in hparams.read_text()
    tracked.log_test(write_results(run), METRICS)
    assert any("image_AUROC" in each.read_text() for each in (run.folder.path / "tracked").rglob("metrics.csv"))
    assert not (run.folder.path / KNOWN).exists()


class Wandb(WandbLogger):
    """W&B without its client."""

    def __init__(self, **arguments: object) -> None:
        self.sent: list[tuple[str, object]] = []
        self.arguments = arguments

    @property
    def version(self) -> str:
        return "abc"

    @property
    def experiment(self) -> SimpleNamespace:
        return SimpleNamespace(log_artifact=lambda _, **named: self.sent.append((named["name"], named["type"])))

    def log_hyperparams(self, params: object) -> None:
        self.sent.append(("configuration", params))

    def log_metrics(self, metrics: object, step: int | None = None) -> None:
        self.sent.append(("metrics", metrics))

    def log_table(self, key: str, **table: object) -> None:
        self.sent.append((key, table))

    def log_image(self, key: str, images: list[object], step: int | None = None, **options: object) -> None:
        self.sent.append((key, options["caption"]))

    def finalize(self, status: str) -> None:
        self.sent.append(("end", status))


def test_wandb_gets_numbers_pictures_table_and_report(run: SimpleNamespace) -> None:
    tracked = Tracker(run, logger := Wandb(), "WandbLogger")
    tracked.log_test(write_results(run), METRICS)
    assert logger.sent == [
        ("tiles", {"columns": ["tile", "AUROC"], "data": [["r00_c00", "0.5"]]}),
        ("report", "report"),
        ("missed", ["missed/01_000"]),
        ("false_alarm", ["false_alarm/01_001"]),
        ("metrics", {"image_AUROC": 0.9}),
        ("end", "success"),
    ]
    assert KNOWN in {path.name for path in run.folder.path.iterdir()}


def test_a_logger_writes_where_it_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "Padim" / "boards" / "v0"
    own = make_logger(ClassSpec("TensorBoardLogger"), folder)
    shared = make_logger(ClassSpec("lightning.pytorch.loggers.TensorBoardLogger", {"save_dir": "all"}), folder)
    assert isinstance(own, TensorBoardLogger)
    assert isinstance(shared, TensorBoardLogger)
    assert (Path(own.log_dir), Path(shared.log_dir)) == (folder / "tracked", Path("all/Padim/boards/v0"))
    assert isinstance(make_logger(ClassSpec("MLFlowLogger", {"tracking_uri": "http://server"}), folder), MLFlowLogger)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ClassSpec("NoSuchLogger"), "lightning.pytorch.loggers.NoSuchLogger cannot be made with"),
        (ClassSpec("TensorBoardLogger", {"colour": 1}), "TensorBoardLogger cannot be made with .*colour"),
        (ClassSpec("anomalib.models.Padim"), "anomalib.models.Padim cannot be made with"),
        (ClassSpec("os.system", {"command": "ls"}), "os.system cannot be made with"),
    ],
)
def test_what_is_no_logger_is_refused_before_the_training(spec: ClassSpec, message: str) -> None:
    settings: Any = SimpleNamespace(loggers=(spec,))
    with pytest.raises(ConfigurationError, match=message):
        check_loggers(settings)
