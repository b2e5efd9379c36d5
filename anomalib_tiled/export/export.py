"""The whole story of an export: write, compare, describe."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import Compose

from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.supported_models import check_export
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.comparison import compare, random_images, real_images
from anomalib_tiled.export.formats import CHECKPOINTS
from anomalib_tiled.export.graphs import EnsembleGraphs, Graph, TileGraph, TileGraphs, input_of_whole, joining_graph
from anomalib_tiled.export.manifest import MANIFEST, Checked, checksums_of, described
from anomalib_tiled.export.onnx_files import SharedWeights, save_graph
from anomalib_tiled.export.output_folder import LOG, replacing_folder
from anomalib_tiled.export.precision import FLOAT32, PredictImages, in_precision, reduced
from anomalib_tiled.grid import WHOLE
from anomalib_tiled.results.precision_changes import predicting_in
from anomalib_tiled.runs.checkpoints import write_tensors
from anomalib_tiled.system.files import write_json
from anomalib_tiled.system.logs import log_to
from anomalib_tiled.system.out_of_memory import advising_on_memory
from anomalib_tiled.system.progress import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torchvision.transforms.v2 import Transform

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.export.comparison import Array, Predict
    from anomalib_tiled.export.formats import Format
    from anomalib_tiled.export.precision import Reduced

LESS_MEMORY = {
    False: "All tile models are in memory when they are exported: use a machine with more, or --per_tile (onnx).",
    True: "One tile model at a time is in memory: export on a machine with more.",
}
"""Advice if memory runs out, while all tile models are in memory and while one is."""

PER_TILE = "onnx"
"""The format in which each tile model can be a file of its own."""

STEPS = 2
"""Steps of writing besides one for each model."""

JOINING = "joining.onnx"
WEIGHTS = "weights.data"

REFERENCE = "reference.png"

TO_DO = (
    "Images must be aligned before they are predicted. Find the transform from pixels of the reference, enlarged to "
    "the size of the images, to pixels of the image: x to the right, y down, whole numbers are the middles of pixels. "
    "Move the image by it, bilinear, its border repeated; pixels of the results that come from outside the image mean "
    "nothing, and the inverse moves all others back. The page on exports has an example."
)
"""What a program does that uses the files of a run that aligns images."""

LOADER = Path(__file__).with_name("load_script.py")
"""The program that is copied beside a file of PyTorch."""

RUNNER = Path(__file__).with_name("run_script.py")
"""The program that is copied beside tile models."""


@dataclass(frozen=True)
class ExportRequest:
    """Format, folder and kind of an export.

    Args:
        form: The format.
        output: Folder for the files.
        dtype: Type of the images: ``float32`` for values in [0, 1], ``uint8`` for 0 to 255.
        overwrite: Whether an earlier export there is replaced.
        per_tile: Whether each tile model becomes a file of its own.
        precision: One of ``Precision``; with less than ``float32``, predictions may change.
        allow_changes: Whether they may change by more than the tolerance.
    """

    form: Format
    output: Path
    dtype: torch.dtype = torch.float32
    overwrite: bool = False
    per_tile: bool = False
    precision: str = FLOAT32
    allow_changes: bool = False


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Args:
        checked: How the files were compared to the ensemble: what rounding has changed, or less precision.
        batch: Batch size of the files; ``None`` for any.
        needs_alignment: Whether images must be aligned before.
        notes: Lines about the run that is exported.
    """

    checked: Checked | Reduced
    batch: int | None
    needs_alignment: bool = False
    notes: tuple[str, ...] = ()

    def lines(self, model: str) -> Iterator[str]:
        """Give the lines to print about the export.

        Args:
            model: Name of the model.
        """
        yield from self.notes
        yield from self.checked.lines()
        if self.needs_alignment:
            yield (
                "warning: The files do not align images, as the run does: align images before you give them to the "
                "files. See alignment in manifest.json, and docs/export.md."
            )
        if self.batch is not None:
            yield f"Note: The files take {self.batch} image at a time: {model} or a stage fixes the batch size."


@dataclass(frozen=True)
class Written:
    """Written files, and how to run them.

    Args:
        graph: A graph with the outputs and the batch size of the files.
        predict: Runs the files on ``images`` as an array.
        facts: Entries of the manifest about the files.
    """

    graph: Graph
    predict: Predict
    facts: Mapping[str, object]


def export(run: Run, request: ExportRequest) -> Exported:
    """Export a run as files that predict whole images without anomalib and without this package.

    They compute in single precision. If the run does not, it is measured first how its predictions change.

    Args:
        run: A complete run.
        request: Format, folder and kind of the export.

    Raises:
        TiledError: The user has to change something; no files are left.
    """
    if request.per_tile and request.form.name != PER_TILE:
        message = f"--per_tile writes {PER_TILE}, but --format is {request.form.name}. Set --format {PER_TILE}."
        raise ConfigurationError(message)
    form = in_precision(request.form, request.precision, run, request.dtype)
    form.check_installed()
    for tile in run.grid.kinds:
        check_export(run.settings.model_of(tile), by_onnx="onnx" in form.packages)
    with (
        advising_on_memory(LESS_MEMORY[request.per_tile]),
        replacing_folder(request.output, overwrite=request.overwrite) as work,
        log_to(work / LOG),
    ):
        check_augmentations(run.datamodule.test_augmentations)
        notes: list[str] = []
        run = predicting_in(run, FLOAT32, "cpu", notes.append, allow_changes=request.allow_changes)
        ensemble = run.calibrated_ensemble("cpu")
        ensemble.tile_models.budget = 0 if request.per_tile else sys.maxsize  # the whole graph holds all models
        with steps("Exporting", len(ensemble.grid.models) + STEPS + 1) as done:
            write = write_tiles if request.per_tile else write_whole
            written = write(ensemble, form, work, request.dtype, done)
            checked = _checked(run, ensemble, form, written, request)
            done("comparison with the run")
        facts = {**written.facts, **alignment_of(run, work)}
        files = sorted(path for path in work.rglob("*") if path.is_file() and path.name != LOG)
        needs = {"format": form.name, "needs": form.needs, "augmentations": [], "notes": notes}
        content = {**needs, **facts, **described(run, ensemble, written.graph, request.dtype)}
        write_json(work / MANIFEST, {**content, **checked.to_json(), "files": checksums_of(work, files)})
    return Exported(checked, written.graph.batch, needs_alignment=run.is_aligned, notes=tuple(notes))


def _checked(
    run: Run, ensemble: EnsembleModel, form: Format, written: Written, request: ExportRequest
) -> Checked | Reduced:
    """Compare the predictions of the files to those of the ensemble.

    Raises:
        ConfigurationError: They differ by more than rounding, or by more than less precision is allowed to change.
    """
    batch = written.graph.batch
    if request.precision != FLOAT32:
        found = reduced(run, ensemble, form, PredictImages(written.predict, request.dtype, batch))
        if not request.allow_changes:
            found.check()
        return found
    made, real = random_images(ensemble.grid.image_size, request.dtype), real_images(run, request.dtype)
    parts = chain.from_iterable(images.split(batch or len(images)) for images in (*made, *real))
    largest = compare(ensemble, written.predict, parts)
    return Checked(sum(map(len, made)), sum(map(len, real)), largest)


def alignment_of(run: Run, folder: Path) -> dict[str, object]:
    """Write the image that the aligner has learned, and give the manifest's entry about it; none without alignment.

    Args:
        run: The run.
        folder: Folder for the image.
    """
    if (finder := run.job.finder) is None:
        return {}
    Image.fromarray(finder.reference.image).save(folder / REFERENCE, format="PNG")
    spec = run.settings.stages["alignment"]
    return {
        "alignment": {
            "class": {"class_path": spec.class_path, "init_args": dict(spec.init_args)},
            "reference": REFERENCE,
            "numbers": dict(finder.reference.numbers),
            "to_do": TO_DO,
        }
    }


def export_checkpoints(run: Run, output: Path, *, overwrite: bool) -> None:
    """Write a checkpoint for each model that ``load_from_checkpoint`` of its class opens.

    Args:
        run: A run with all tiles trained.
        output: Folder for the files.
        overwrite: Whether an earlier export there is replaced.

    Raises:
        TiledError: The user has to change something; no files are left.
    """
    with (
        advising_on_memory(LESS_MEMORY[True]),
        replacing_folder(output, overwrite=overwrite) as work,
        log_to(work / LOG),
    ):
        run.check_tiles()
        with steps("Writing checkpoints", len(run.grid.models)) as done:
            for tile in run.grid.models:
                write_tensors(run.job.saved_models_of(tile).whole_checkpoint(tile), work / f"{tile.name}.ckpt")
                done(f"tile {tile.name}")
        own = {} if run.settings.whole_size is None else {"global_class": asdict(run.settings.whole_model)}
        facts = {"format": CHECKPOINTS, "class": asdict(run.settings.model), **own}
        facts["run"] = {"folder": str(run.folder.path)}
        if run.grid.groups:
            facts["tiles"] = {tile.name: run.grid.model_of(tile).name for tile in run.grid.tiles}
        write_json(work / MANIFEST, {**facts, "files": checksums_of(work, sorted(work.glob("*.ckpt")))})


def check_augmentations(augmentations: Transform | None) -> None:
    """Check that images are predicted as they are: exported files do not augment them.

    Args:
        augmentations: The augmentations of test images.

    Raises:
        ConfigurationError: There are augmentations.
    """
    if augmentations is not None:
        parts = augmentations.transforms if isinstance(augmentations, Compose) else [augmentations]
        names = ", ".join(type(each).__name__ for each in parts)
        message = (
            f"An export predicts images as they are, but the data module augments test images ({names}). Predict with "
            "`anomalib tiled predict`; or fit a run whose data module has train_augmentations instead of "
            "augmentations, and no test_augmentations."
        )
        raise ConfigurationError(message)


def write_whole(
    ensemble: EnsembleModel, form: Format, folder: Path, dtype: torch.dtype, done: Callable[[str], None]
) -> Written:
    """Write an ensemble as one model.

    Args:
        ensemble: The ensemble, calibrated.
        form: The format.
        folder: Folder for the files.
        dtype: Type of the images.
        done: Called after each step: one for each model, and ``STEPS`` more.

    Raises:
        TiledError: The ensemble cannot become a graph, or the format cannot express it.
        OSError: The disk is full, for example.
    """
    graphs, of_models = TileGraphs(ensemble), dict[str, TileGraph]()
    for tile in ensemble.grid.models:
        of_models[tile.name] = graphs.graph(tile)
        done(f"tile {tile.name}")
    tiles = [of_models[ensemble.grid.model_of(tile).name] for tile in ensemble.grid.predicted]
    path = folder / f"model{form.suffix}"
    graph = form.write(EnsembleGraphs(ensemble, tuple(tiles), dtype), path)
    done(f"file of format {form.name}")
    facts = {"model": path.name}
    if form.loader is not None:
        shutil.copyfile(LOADER, folder / form.loader)
        facts["loader"] = form.loader
    predict = form.load(path)
    done("loading of the file")
    return Written(graph, predict, facts)


def write_tiles(
    ensemble: EnsembleModel, form: Format, folder: Path, dtype: torch.dtype, done: Callable[[str], None]
) -> Written:
    """Write a file for each model, one for the stages, and a program that runs them one by one.

    Args:
        ensemble: The ensemble, calibrated.
        form: The format, which is ONNX.
        folder: Folder for the files.
        dtype: Type of the images.
        done: Called after each step: one for each model, and ``STEPS`` more.

    Raises:
        TiledError: The ensemble cannot become a graph, or the format cannot express it.
        OSError: The disk is full, for example.
    """
    (folder / "tiles").mkdir()
    weights, graphs = SharedWeights(folder / "tiles" / WEIGHTS), TileGraphs(ensemble, dtype)
    any_batch, outputs = True, list[tuple[str, ...]]()
    for tile in ensemble.grid.models:
        graph = graphs.graph(tile)
        with form.step("written"):
            weights.save(graph, folder / "tiles" / f"{tile.name}{form.suffix}")
        any_batch = any_batch and graph.graph.batch is None
        outputs.append(graph.graph.outputs)
        del graph
        gc.collect()  # graph and model refer to each other, and would stay in memory beside the next ones
        done(f"tile {tile.name}")
    whole = outputs[-1] if ensemble.grid.whole_image is not None else ()
    joining = joining_graph(ensemble, outputs[0], whole, any_batch=any_batch)
    with form.step("written"):
        save_graph(joining, folder / JOINING)
    done(f"file of format {form.name}")
    shutil.copyfile(RUNNER, folder / "run.py")
    predict = _one_after_the_other(ensemble, form, folder, outputs[0])
    done("program beside the files")
    return Written(joining, predict, {"joining": JOINING, "runner": "run.py"})


def _one_after_the_other(ensemble: EnsembleModel, form: Format, folder: Path, names: tuple[str, ...]) -> Predict:
    """Predict as the program beside the files does; the program itself needs the manifest, which is written later."""

    def predict(inputs: Mapping[str, Array]) -> dict[str, Array]:
        predictions = []
        for tile in ensemble.grid.tiles:
            part = np.ascontiguousarray(inputs["images"][..., tile.rows, tile.columns])
            model = ensemble.grid.model_of(tile)
            predictions.append(form.load(folder / "tiles" / f"{model.name}{form.suffix}")({"images": part}))
        stacked = {name: np.stack([each[name] for each in predictions], axis=1) for name in names}
        if ensemble.grid.whole_image is not None:
            found = form.load(folder / "tiles" / f"{WHOLE}{form.suffix}")({"images": inputs["images"]})
            stacked |= {input_of_whole(name): values for name, values in found.items()}
        return form.load(folder / JOINING)(stacked)

    return predict
