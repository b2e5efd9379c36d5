"""The options of each command, and the settings that they make."""

from __future__ import annotations

import secrets
from argparse import RawDescriptionHelpFormatter
from importlib import import_module
from typing import Any, Literal

import yaml
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch import Trainer
from rich.console import Console

from anomalib_tiled.cli.parser import Parser, run_parser
from anomalib_tiled.cli.terminal import say
from anomalib_tiled.config.anomalib_config import read_post_processor
from anomalib_tiled.config.settings import FLOAT32, CacheSettings, MetricSettings, Settings, TilingSettings
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.stages import kinds
from anomalib_tiled.stages.thresholding import NEUTRAL
from anomalib_tiled.stages.workers import Workers

PRECISION = Literal["float32", "bfloat16", "float16"]

PLACES = {
    "normalization": (Literal["tile", "image", "none"], "Per tile before merging, per image, or not."),
    "thresholding": (Literal["tile", "image"], "Per tile before merging, or per image."),
}
"""Groups of settings that say where a stage is applied."""

PREDICT = """\
Predict unlabelled images: score, label, and anomalous regions in pixels of the image.

--data takes files, folders (with their subfolders), patterns such as 'parts/**/*.png', and -, which reads one of these
per line from standard input. Each batch is added to predictions.jsonl and predictions.csv as soon as it is predicted.

--watch goes on with images that appear in the folders of --data, each as soon as its file is complete, and prints a
line for each. Ctrl-C or SIGTERM is its normal end: it finishes the images in hand, and exits as without --watch.

--threshold and --pixel_threshold take a number on the scale of the scores, q0.99 (at most 1 % of the normal validation
scores lie above it) or fpr0.01 (the same, as a rate of false alarms). Without --data, they and --uncertain are applied
to the predictions in --output, and no image is predicted.

exit status:
  0    success
  2    an argument, a file or the run must be changed; existing files are kept
  3    some images could not be read or predicted, or some of their results not be written: see failures.csv
  4    success, and with --fail_on_anomaly: an image is anomalous
  6    success, and with --fail_on_anomaly: no image is anomalous, but one is uncertain
  130  interrupted by Ctrl-C, with --watch by a second one; resume with --skip_existing
  143  the same, by SIGTERM
  1    any other error
"""

SEEDS = 2**32
"""Number of seeds that numpy takes."""


def fit_parser(prog: str, *, tested: bool = False) -> Parser:
    """Give the options of ``fit`` and ``train``: every setting, from YAML and from the command line.

    Args:
        prog: Name of the command.
        tested: Whether a test follows.
    """
    import_module("anomalib_tiled.data.boards")
    find_plugins()  # jsonargparse finds a class by its short name once its module is loaded
    parser = Parser(prog=prog, description="Give settings in the file, on the command line, or both.")
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="Configuration in YAML or JSON.")
    parser.add_argument("--ckpt_dir", type=str | None, help="Resume this run, with its own configuration.")
    parser.add_argument("--tiles", type=str | None, help="Train these tiles of the run again: r00_c03,r01_c02.")
    parser.add_argument("--keep_going", action="store_true", help="Try all tiles, even after two fail for one reason.")
    if tested:
        _add_report(parser)
    parser.add_argument(
        "--seed_everything",
        type=bool | int,
        default=True,
        help="Seed of the split and all tiles; true for a random one.",
    )
    parser.add_argument("--default_root_dir", type=str, default="results", help="Folder for the run folders.")
    parser.add_class_arguments(TilingSettings, "tiling")
    parser.add_subclass_arguments(AnomalibModule, "model", fail_untyped=False, required=True)
    parser.add_subclass_arguments(AnomalibDataModule, "data", fail_untyped=False, required=True)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False)
    _add_stages(parser)
    parser.add_class_arguments(MetricSettings, "metrics")
    parser.add_argument(
        "--cache",
        type=CacheSettings | None,
        default=CacheSettings(),
        help="Where decoded images are kept; null to keep none.",
    )
    _add_free_settings(parser)
    return parser


def test_parser(prog: str) -> Parser:
    """Give the options of ``test``."""
    parser = run_parser(prog, "Measure a run on its test images, or on others.")
    parser.add_subclass_arguments(AnomalibDataModule, "data", fail_untyped=False, required=False)
    parser.add_argument("--output", type=str | None, help="Folder for the results; the run folder if left out.")
    _add_report(parser)
    return parser


def _add_report(parser: Parser) -> None:
    parser.add_argument("--report", action="store_true", help="Also write report.html, a page that shows the results.")


def predict_parser(prog: str) -> Parser:
    """Give the options of ``predict``."""
    find_plugins()  # jsonargparse finds a class by its short name once its module is loaded
    parser = run_parser(prog, PREDICT, RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", action="extend", nargs="+", metavar="PATH", help="Images, folders, patterns, or - for a list."
    )
    parser.add_argument("--output", type=str | None, help="Folder for the results; RUN/predictions if left out.")
    parser.add_argument(
        "--skip_existing", action="store_true", help="Resume: leave out images that have a result already."
    )
    parser.add_argument("--watch", action="store_true", help="Go on with images that appear in the folders; see above.")
    parser.add_argument(
        "--threshold", type=str, metavar="T", help="Images with a higher score are anomalous; see above."
    )
    parser.add_argument("--pixel_threshold", type=str, metavar="T", help="The same for pixels, in masks and regions.")
    parser.add_argument(
        "--uncertain",
        type=float | None,
        metavar="WIDTH",
        help="Images with scores in a band of this width around the threshold are uncertain; if not as in the run.",
    )
    parser.add_argument("--min_area", type=int, default=1, help="Leave out smaller regions; in pixels of the image.")
    parser.add_argument(
        "--overlays",
        type=bool | Literal["beside"],
        nargs="?",
        const=True,
        default=False,
        metavar="beside",
        help="Write heat maps over the images to images/; beside: with the image alone beside each.",
    )
    parser.add_argument("--masks", action="store_true", help="Write masks in the size of the images to masks/.")
    parser.add_argument(
        "--maps",
        type=Literal["npy", "tiff"] | None,
        metavar="{npy,tiff}",
        help="Write raw anomaly maps to maps/, so that --pixel_threshold can be changed later.",
    )
    parser.add_argument("--coco", action="store_true", help="Also write the regions to coco.json, in COCO's format.")
    parser.add_argument("--fail_on_anomaly", action="store_true", help="Exit status 4 if an image is anomalous.")
    parser.add_argument("--device", type=str, default="auto", help="Such as cpu or cuda:1; auto: as in training.")
    parser.add_argument(
        "--engine",
        type=Literal["torch", "openvino", "onnx", "auto"],
        default="torch",
        help="Engine that computes frozen backbones on a CPU; auto: the fastest that is installed.",
    )
    parser.add_argument(
        "--precision", type=PRECISION | None, help="float32, bfloat16, on a GPU float16; that of the run if left out."
    )
    parser.add_argument(
        "--allow_changes", action="store_true", help="Accept larger changes by --precision, or by --engine in 16 bits."
    )
    parser.add_argument(
        "--workers", type=Workers | None, help="Let these predict, such as LocalWorkers, and not this process alone."
    )
    return parser


def export_parser(prog: str) -> Parser:
    """Give the options of ``export``."""
    parser = run_parser(prog, "Write a run as files that predict without this package, or as checkpoints of anomalib.")
    parser.add_argument("--format", type=str, required=True, help="torch, onnx, openvino or checkpoints.")
    parser.add_argument("--output", type=str | None, help="Folder for the files; RUN/export/FORMAT if left out.")
    parser.add_argument(
        "--input",
        type=Literal["float32", "uint8"],
        default="float32",
        help="Type of the images: float32 for values from 0 to 1, uint8 for 0 to 255.",
    )
    parser.add_argument("--per_tile", action="store_true", help="Write a file for each tile model.")
    parser.add_argument(
        "--precision",
        type=Literal["float32", "float16", "int8"],
        default="float32",
        help="openvino only: float16 halves the weights, int8 computes convolutions with 8 bits; predictions change.",
    )
    parser.add_argument(
        "--allow_changes", action="store_true", help="Accept more changes by --precision than the tolerance."
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace an earlier export.")
    return parser


def settings_from(parser: Parser, parsed: Namespace) -> Settings:
    """Turn parsed arguments into settings.

    Raises:
        ConfigurationError: Settings contradict each other.
    """
    mapping = yaml.safe_load(parser.dump(parsed, skip_none=False, skip_validation=True))
    for key in ("config", "ckpt_dir", "tiles", "keep_going", "report"):
        mapping.pop(key, None)
    if isinstance(mapping["seed_everything"], bool):
        mapping["seed_everything"] = secrets.randbelow(SEEDS)
    if not 0 <= mapping["seed_everything"] < SEEDS:
        message = f"seed_everything must be between 0 and {SEEDS - 1}, or true, but is {mapping['seed_everything']}."
        raise ConfigurationError(message)
    try:
        settings, note = read_post_processor(Settings.from_mapping(mapping))
    except (TypeError, ValueError, AttributeError) as error:
        message = f"A setting has a value of the wrong type: {error}. See `anomalib tiled fit --help`."
        raise ConfigurationError(message) from error
    if note is not None:
        say(note, Console(stderr=True))
    return settings


def _add_free_settings(parser: Parser) -> None:
    """Add the settings that change no model."""
    parser.add_argument(
        "--visualize",
        type=bool | Literal["beside"],
        default=True,
        help="Whether test draws pictures; beside: with the image alone beside each.",
    )
    parser.add_argument(
        "--memory_budget", type=str | int | None, help="Such as 4GB; null for a share of the free memory."
    )
    parser.add_argument(
        "--unfitted_tiles",
        type=Literal["leave_out", "error"],
        default="leave_out",
        help="What to do about locations on which the model cannot be fitted, such as a blank margin.",
    )
    parser.add_argument(
        "--unaligned_images",
        type=Literal["error", "leave_out"],
        default="error",
        help="What to do about training images in which the part is not found, if images are aligned.",
    )
    parser.add_argument(
        "--accelerate",
        type=bool,
        default=True,
        help="Whether parts of anomalib's models compute faster than anomalib's own; results differ by rounding.",
    )
    parser.add_argument(
        "--precision",
        type=PRECISION,
        default=FLOAT32,
        help="Precision of frozen backbones, or else of whole models; scores change.",
    )
    parser.add_argument(
        "--loggers",
        type=list[str | dict[str, Any]] | None,
        default=[],
        help="Lightning's loggers of the run as a whole: names, or {class_path, init_args}.",
    )


def _add_stages(parser: Parser) -> None:
    for kind in kinds.STAGE_KINDS:
        if kind.group in PLACES:
            places, text = PLACES[kind.group]
            parser.add_argument(f"--{kind.group}.stage", type=places, default="image", help=text)
        if kind.optional:
            parser.add_argument(f"--{kind.setting}", type=kind.contract | None, help=kind.purpose)
        else:
            parser.add_subclass_arguments(kind.contract, kind.setting, help=kind.purpose)
        if kind.default is not None:
            parser.set_defaults({kind.setting: {"class_path": kind.default}})
    for level, decided in {"image": "An image", "pixel": "A pixel"}.items():
        parser.add_argument(
            f"--thresholding.{level}_sensitivity",
            type=float,
            default=NEUTRAL,
            help=f"Between 0 and 1. {decided} is anomalous if its normalized score is greater than 1 minus this.",
        )
    parser.add_argument(
        "--thresholding.uncertain",
        type=dict[str, float] | None,
        default=None,
        help=(
            "Images with scores near the threshold are uncertain: {width: 0.1}, half of it to each side of the "
            "threshold; or {lower: 0.45, upper: 0.6}, on the scale of the scores; null for none."
        ),
    )
