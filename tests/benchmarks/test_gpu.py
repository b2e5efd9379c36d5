from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from anomalib.pipelines.components.runners import SerialRunner
from anomalib.pipelines.tiled_ensemble import test_pipeline, train_pipeline
from anomalib.pipelines.tiled_ensemble.components import smoothing
from anomalib.pipelines.tiled_ensemble.components.utils import helper_functions

from benchmarks import efficient_ad, gpu, gpu_memory, gpu_plan, reference
from benchmarks.efficient_ad import EfficientAdCase
from benchmarks.gpu import Bench, Clock
from benchmarks.gpu_memory import MEBIBYTE, GpuWatch, bytes_of, watched
from benchmarks.gpu_plan import LEAST, Entry, Loaded, chosen, plan
from benchmarks.gpu_predict import PredictionTimes
from benchmarks.gpu_report import GpuReport, Row
from benchmarks.measure import CommandError, LimitError, Usage, measured
from benchmarks.programs import Loop, Reference

ROOT = Path(__file__).parent.parent.parent
TIMES = PredictionTimes(cold=12.0, single=0.025, rates={"4": 41.0, "16": 52.5}, from_files=17.0, tensors=2 * 10**9)


@pytest.fixture
def report(tmp_path: Path, machine: dict[str, str | int]) -> GpuReport:
    (tmp_path / "gpu").mkdir()
    return GpuReport(tmp_path / "gpu", "NVIDIA H100, 81559 MiB, driver 550", machine)


@pytest.fixture
def bench(tmp_path: Path, report: GpuReport, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(gpu_plan.Case, "boards", lambda case, output: output / "boards")
    monkeypatch.setattr(Loaded, "configure", lambda program: None)
    monkeypatch.setattr(gpu, "monotonic", lambda: 0.0)
    return Bench(Clock(100.0), report, tmp_path, None, 0)


@pytest.fixture
def entry() -> Entry:
    return next(iter(plan("cuda", Path("penalty"), tiny=False)))


def test_the_plan_has_every_model_size_and_program_and_begins_with_small_images() -> None:
    entries = plan("cuda", Path("penalty"), tiny=False)
    made = [entry.make(entry.case, Path("boards"), Path("runs")) for entry in entries]
    assert {(entry.case.model, entry.case.image_size, entry.case.tiles) for entry in entries} == {
        (model, *size) for model in ("Padim", "Patchcore", "EfficientAd") for size in ((1024, 16), (2048, 64))
    }
    for model in ("Padim", "Patchcore", "EfficientAd"):
        for side in (1024, 2048):
            here = [each for each in made if (each.case.model, each.case.image_size) == (model, side)]
            assert {type(each) for each in here} >= {Loaded, Reference}
            assert {each.precision for each in here if isinstance(each, Loaded)} == {"float32", "bfloat16"}
            assert any(isinstance(each, Loop) for each in here) is (model != "EfficientAd")
    assert {each.processes for each in made} == {1, 2, 4}
    assert {each.device for each in made} == {"cuda"}
    assert len({entry.name for entry in entries}) == len(entries)
    assert [entry.case.image_size for entry in entries[:3]] == [1024] * 3


def test_the_tiny_plan_does_each_kind_of_thing_once() -> None:
    entries = plan("cpu", Path("penalty"), tiny=True)
    kinds = {entry.name.split("-")[-1] for entry in entries}
    assert kinds == {entry.name.split("-")[-1] for entry in plan("cuda", Path("penalty"), tiny=False)}
    assert len(entries) == len({entry.name for entry in entries})
    assert max(entry.case.image_size for entry in entries) == 256


def test_entries_are_chosen_by_parts_of_their_names() -> None:
    names = ["tests", "Padim-1024-tiled", "Padim-2048-tiled", "Patchcore-1024-loop"]
    assert chosen(names, []) == names
    assert chosen(names, ["loop", "Padim-10"]) == [names[1], names[3]]
    with pytest.raises(ValueError, match=r"^--only must name parts of tests, Padim-1024-tiled.*, found 'fastest'\.$"):
        chosen(names, ["fastest"])


def test_efficient_ad_has_its_own_arguments() -> None:
    case = EfficientAdCase(512, 256, 2, 2, penalty="images")
    assert (case.init_args, case.trainer, case.train_batch) == ({"imagenet_dir": "images"}, {"max_epochs": 1}, 1)


@pytest.mark.slow
def test_what_efficient_ad_downloads_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anomalib.models import EfficientAd

    monkeypatch.setenv(efficient_ad.CACHE, "elsewhere")
    efficient_ad.prepare(tmp_path)
    assert len(list((tmp_path / efficient_ad.PENALTY / "noise").glob("*.png"))) == efficient_ad.IMAGES
    model = EfficientAd(imagenet_dir=tmp_path / efficient_ad.PENALTY)
    monkeypatch.setattr("anomalib.models.image.efficient_ad.lightning_model.download_and_extract", pytest.fail)
    model.prepare_pretrained_model()
    model.prepare_imagenette_data((64, 64))
    assert next(model.imagenet_iterator)[0].shape == (1, 3, 64, 64)


def test_each_phase_is_measured_and_written_at_once(
    bench: Bench, entry: Entry, report: GpuReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []

    def done(arguments: tuple[str, ...], *, limit: float, folder: Path, **_: object) -> Usage:
        limits.append(limit)
        if "benchmarks.gpu_predict" in arguments:
            assert len(json.loads((report.folder / "results.json").read_text())["rows"]) == 1
            (folder / "predicted.json").write_text(json.dumps(vars(TIMES)))
        return Usage(20.0, 30.0, 10**9)

    monkeypatch.setattr(gpu, "measured", done)
    bench.measure(entry, keep=False)
    assert [(row.program, row.phase, row.note) for row in report.rows] == [
        ("anomalib-tiled", "fit", ""),
        ("anomalib-tiled", "predict", ""),
    ]
    assert report.rows[1].times == TIMES
    assert limits == [90.0, 90.0]
    assert not (report.folder / entry.name).exists()
    assert "| anomalib-tiled | predict | 12.0 |" in (report.folder / "results.md").read_text()


def test_what_has_too_little_time_is_left_out(bench: Bench, entry: Entry, report: GpuReport) -> None:
    late = replace(bench, clock=Clock(LEAST + gpu.TO_FINISH - 1.0))
    late.measure(entry, keep=False)
    assert report.rows == []
    assert report.left_out == [f"{entry.name} ({LEAST - 1} of at least {LEAST} s were left)"]
    assert f"Left out: {entry.name} (" in (report.folder / "results.md").read_text()
    assert not report.has_failures


@pytest.mark.parametrize(
    ("error", "note", "fails"),
    [(LimitError("too long"), "not done after 90 s", False), (CommandError("killed"), "failed, see ", True)],
)
def test_the_phases_after_one_that_is_not_done_are_not_begun(
    bench: Bench, entry: Entry, error: CommandError, note: str, *, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(gpu, "measured", fail)
    bench.measure(entry, keep=False)
    [row] = bench.report.rows
    assert row.note.startswith(note)
    assert f"| anomalib-tiled | fit | {note}" in bench.report.to_markdown()
    assert bench.report.has_failures is fails


def test_a_table_for_each_case(report: GpuReport) -> None:
    usage = Usage(20.0, 30.0, 10**9)
    report.rows += [
        Row("Padim", "anomalib-tiled", "fit", usage, gpu_memory=3 * 10**9),
        Row("Padim", "anomalib-tiled", "predict", usage, 4 * 10**9, TIMES),
        Row("Patchcore", "bare loop", "fit", usage),
    ]
    report.tests = "9 passed in 60.00s"
    text = report.to_markdown()
    assert text.startswith("NVIDIA H100, 81559 MiB, driver 550; 2 cores of slow")
    assert text.count("| program | phase |") == 2
    assert "| anomalib-tiled | fit | 20.0 | 3.00 |  | 1.00 |  |  |  |  |" in text
    assert "| anomalib-tiled | predict | 12.0 | 4.00 | 2.00 | 1.00 | 25 | 41.0 | 52.5 | 17.0 |" in text
    assert "Tests that need a GPU: 9 passed in 60.00s." in text


def test_tests_are_those_that_are_marked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(command: list[str], *, stdout: object, timeout: float, **_: object) -> SimpleNamespace:
        asked.append((command, timeout))
        stdout.write(b"..\n1 failed, 2 passed in 3.00s\n")
        stdout.flush()
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    bench.test()
    [(command, timeout)] = asked
    assert timeout == 90 / 4
    assert {Path(each).name for each in command if each.endswith(".py")} >= {"test_gpu.py", "test_merging.py"}
    assert bench.report.tests == "failed: 1 failed, 2 passed in 3.00s"
    assert bench.report.has_failures


@pytest.mark.parametrize(("printed", "expected"), [("1536", 1536 * MEBIBYTE), ("[N/A]", None), ("", None)])
def test_memory_is_what_the_driver_says(printed: str, expected: int | None) -> None:
    assert bytes_of(printed) == expected


def test_the_highest_memory_beyond_that_of_others_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["[N/A]", "1500", "2500", "1000"])
    monkeypatch.setattr(gpu_memory, "_asked", lambda *_: next(said))
    watch, peaks = GpuWatch(before=500 * MEBIBYTE), []
    for _ in range(4):
        watch.look("0")
        peaks.append(watch.peak)
    assert peaks == [None, *(each * MEBIBYTE for each in (1000, 2000, 2000))]


def test_a_gpu_is_watched_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, asked = Event(), []

    def answer(gpu: str, field: str) -> str:
        asked.append((gpu, field))
        looked.set()
        return "900"

    monkeypatch.setattr(gpu_memory, "_asked", answer)
    monkeypatch.setattr(gpu_memory, "SECONDS_BETWEEN_LOOKS", 0.001)
    with watched("3", before=0) as watch:
        assert looked.wait(60)
    number = len(asked)
    assert watch.peak == 900 * MEBIBYTE
    assert set(asked) == {("3", "memory.used")}
    assert len(asked) == number, "it has ended"


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    files = {"folder": tmp_path, "log": tmp_path / "log", "decodes": tmp_path / "decodes"}
    with pytest.raises(LimitError, match=r"^A command was ended after 0 s: .* sleep"):
        measured(["-c", "import time; time.sleep(60)  # sleep"], **files, limit=0.3)


@contextmanager
def restored(*attributes: tuple[object, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in attributes:
            patch.setattr(owner, name, getattr(owner, name))
        yield


def test_the_reference_smooths_where_its_maps_are_and_trains_in_its_own_process() -> None:
    pipelines = [(each, "ParallelRunner") for each in (train_pipeline, test_pipeline)]
    with restored(*pipelines, (smoothing, "SmoothingJob")):
        reference.use_one_gpu()
        tiling = {"tile_size": [8, 8], "stride": 8, "image_size": [16, 16]}
        generator = smoothing.SmoothingJobGenerator("meta", tiling, {})
        [job] = generator.generate_jobs({"width": 0.1, "sigma": 2}, [])
        assert job.blur.kernel.device.type == "meta"
        assert isinstance(train_pipeline.ParallelRunner(generator, n_jobs=1), SerialRunner)
        assert isinstance(test_pipeline.ParallelRunner(generator, n_jobs=1), SerialRunner)


def test_the_reference_gets_along_with_models_that_only_resize() -> None:
    from anomalib.models import EfficientAd, Padim

    pre_processor, of_several_steps = (each.configure_pre_processor((8, 8)) for each in (EfficientAd, Padim))
    with pytest.raises(ValueError, match="Pass at least one transform"):
        helper_functions.drop_resize_transform(pre_processor)
    reference.take_out_of_list(pre_processor)
    helper_functions.drop_resize_transform(pre_processor)
    assert pre_processor.transform is None
    before = of_several_steps.transform
    reference.take_out_of_list(of_several_steps)
    assert of_several_steps.transform is before


@pytest.mark.slow
def test_the_tiny_plan_runs_where_there_is_no_gpu(tmp_path: Path) -> None:
    only = ["--only", "Padim-128-tiled", "Padim-128-loop", "Padim-128-reference", "EfficientAd-256-tiled"]
    sizes = ["--device", "cpu", "--tiny", "--minutes", "30"]
    command = [sys.executable, "-m", "benchmarks.gpu", *sizes, "--output", str(tmp_path), *only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "gpu" / "results.json").read_text())
    assert [(row["program"], row["phase"], row["note"]) for row in results["rows"]] == [
        *(("anomalib-tiled", "fit", ""), ("anomalib-tiled", "predict", "")),
        *(("anomalib's own", "fit", ""), ("anomalib's own", "test", "")),
        *(("bare loop", "fit", ""), ("bare loop", "test", "")),
        *(("anomalib-tiled", "fit", ""), ("anomalib-tiled", "predict", "")),
    ]
    assert results["left_out"] == []
    assert all(min(row["times"]["rates"].values()) > 0 for row in results["rows"] if row["phase"] == "predict")
    assert "| bare loop | fit |" in (tmp_path / "gpu" / "results.md").read_text()
