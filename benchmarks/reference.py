"""Run one half of anomalib's own tiled ensemble, by its own pipelines, as its scripts do.

Three things are added. Its models get the arguments that its configuration cannot carry, and random weights of one
seed. Pre-processing that only resizes, as that of EfficientAD, is taken out of its list of one step: anomalib
would make an empty list of that, and fail. And its errors, which it only prints, end the command.

On a GPU, two more. The kernel that smooths seams moves to the GPU with the maps: where anomalib leaves it, on the
processor, it ends each run that smooths. And tiles are trained in this process instead of a pool of one process, which
would pass each trained model back and forth.

    python -m benchmarks.reference fit config.yaml
    python -m benchmarks.reference test config.yaml
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from anomalib.models import get_model
from anomalib.models.components import AnomalibModule
from anomalib.pipelines.components.base import Pipeline
from anomalib.pipelines.components.base.pipeline import log_file
from anomalib.pipelines.components.runners import SerialRunner
from anomalib.pipelines.tiled_ensemble import EvalTiledEnsemble, TrainTiledEnsemble, test_pipeline, train_pipeline
from anomalib.pipelines.tiled_ensemble.components import smoothing
from anomalib.pipelines.tiled_ensemble.components.utils import helper_functions
from anomalib.pipelines.tiled_ensemble.components.utils.ensemble_engine import TiledEnsembleEngine
from anomalib.pre_processing import PreProcessor
from jsonargparse import Namespace
from lightning.pytorch import seed_everything
from torchvision.transforms.v2 import Compose

if TYPE_CHECKING:
    from anomalib.pipelines.components import JobGenerator

    from anomalib_tiled.config.settings import Plain

FAILURE = "An error occurred when running the runner"


class SmoothingOnItsDevice(smoothing.SmoothingJob):
    """Smooths seams with a kernel that lies where the maps are."""

    def __init__(self, accelerator: str, **arguments: object) -> None:
        super().__init__(accelerator=accelerator, **arguments)  # type: ignore[arg-type]  # those of anomalib
        self.blur.to(accelerator)


def main() -> None:
    """Run a phase of the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=["fit", "test"], help="train and calibrate, or measure the test images")
    parser.add_argument("config", type=Path, help="configuration of anomalib's tiled ensemble, with init_args")
    options = parser.parse_args()
    configuration = yaml.safe_load(options.config.read_text(encoding="utf-8"))
    _give_arguments(configuration["seed"])
    if configuration["accelerator"] != "cpu":
        use_one_gpu()
    _pipeline(options.phase, configuration).run(Namespace(config=options.config))  # type: ignore[no-untyped-call]  # jsonargparse's
    if FAILURE in Path(log_file).read_text(encoding="utf-8"):
        sys.exit(f"The pipeline went on after an error; see {Path(log_file).absolute()}")


def take_out_of_list(pre_processor: PreProcessor) -> None:
    """Give pre-processing of a single step without the list that it is in.

    Args:
        pre_processor: Of a model; stays as it is if it has several steps.
    """
    transform = pre_processor.transform
    if isinstance(transform, Compose) and len(transform.transforms) == 1:
        pre_processor.transform = transform.transforms[0]


def use_one_gpu() -> None:
    """Let the pipelines run on one GPU."""

    def one_after_another(generator: JobGenerator, n_jobs: int) -> SerialRunner:
        del n_jobs  # the number of GPUs
        return SerialRunner(generator)

    for module in (train_pipeline, test_pipeline):
        setattr(module, "ParallelRunner", one_after_another)  # noqa: B010  # types allow no other function in its place
    setattr(smoothing, "SmoothingJob", SmoothingOnItsDevice)  # noqa: B010


def _pipeline(phase: str, configuration: dict[str, Plain]) -> Pipeline:
    if phase == "fit":
        return TrainTiledEnsemble()
    return EvalTiledEnsemble(TiledEnsembleEngine.setup_ensemble_workspace(configuration, versioned_dir=False))


def _give_arguments(seed: int) -> None:
    """Have every model made with the arguments of the configuration, and with the same first weights."""

    def seeded(model: dict[str, Plain], **arguments: Plain) -> AnomalibModule:
        seed_everything(seed, verbose=False)
        made: AnomalibModule = get_model({"class_path": model["class_path"]}, **model["init_args"], **arguments)
        if isinstance(made.pre_processor, PreProcessor):
            take_out_of_list(made.pre_processor)
        return made

    setattr(helper_functions, "get_model", seeded)  # noqa: B010  # types allow no other function in its place


if __name__ == "__main__":
    main()
