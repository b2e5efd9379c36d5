"""Train one model of anomalib on whole images, by ``Engine.fit``, at a given size.

    python -m benchmarks.single single.json

The checkpoint is written beside the file of the job.
"""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from anomalib import models
from anomalib.data import Folder
from anomalib.engine import Engine
from lightning.pytorch import seed_everything

from benchmarks.case import Case
from benchmarks.predictors import CHECKPOINT


def main() -> None:
    """Train the model of the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, help="file with case, boards, and the side that images are brought to")
    path = parser.parse_args().job.absolute()
    job = json.loads(path.read_text(encoding="utf-8"))
    train(Case(**job["case"]), Path(job["boards"]), job["side"], path.parent)


def train(case: Case, boards: Path, side: int, folder: Path) -> None:
    """Train a model and keep its checkpoint.

    Args:
        case: Model, its arguments, seed and epochs.
        boards: Folder of the images.
        side: Side in pixels that images are brought to.
        folder: Where the checkpoint goes.
    """
    seed_everything(case.seed, workers=True, verbose=False)
    model_class = getattr(models, case.model)
    pre_processor = model_class.configure_pre_processor((side, side))
    model = model_class(**case.init_args, pre_processor=pre_processor, evaluator=False, visualizer=False)
    engine = Engine(
        default_root_dir=folder / "engine", accelerator="cpu", devices=1, enable_progress_bar=False, **case.trainer
    )
    engine.fit(model, datamodule=Folder(**case.data(boards)["init_args"]))
    shutil.move(str(engine.best_model_path), folder / CHECKPOINT)
    shutil.rmtree(folder / "engine")


if __name__ == "__main__":
    main()
