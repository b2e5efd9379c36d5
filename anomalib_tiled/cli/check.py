"""The command ``check``, in a module of its own: it reads small files, and waits for no import of PyTorch."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalib_tiled.cli.parser import folder_named, run_parser
from anomalib_tiled.cli.terminal import say
from anomalib_tiled.drift.check import check_predictions
from anomalib_tiled.drift.findings import DRIFT, Drift
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.runs.result_files import check_output
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.system.files import read_json, write_json
from anomalib_tiled.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anomalib_tiled.cli.parser import Parser
    from anomalib_tiled.drift.findings import Finding

DRIFTED = 5
"""Exit status if something has moved and ``--fail_on_drift`` is given."""

SHOWN = 12
"""Most rows of the table."""


def check(arguments: Sequence[str], prog: str) -> int:
    """Say whether new images have drifted, and write that beside their predictions.

    Returns:
        Exit status: 0; 5 if something has moved and ``--fail_on_drift`` is given.
    """
    parsed = check_parser(prog).parse_args(list(arguments))
    folder = RunFolder.open(folder_named("--ckpt_dir", parsed.ckpt_dir))
    predictions = folder_named("--predictions", parsed.predictions)
    output = predictions / DRIFT if parsed.output is None else folder_named("--output", parsed.output)
    _check_free(output)
    drift = check_predictions(folder, predictions, parsed.window)
    write_json(output, drift.to_json())
    for sentence in drift.sentences:
        say(sentence)
    Console(emoji=False).print(table_of(drift))
    if (more := len(_rows(drift)) - SHOWN) > 0:
        say(f"{more} more rows are in the file.")
    say(f"Drift: {output}")
    return DRIFTED if drift.has_drifted and parsed.fail_on_drift else 0


def check_parser(prog: str) -> Parser:
    """Give the options of the command."""
    parser = run_parser(
        prog,
        "Compare predicted images, labelled or not, with the normal images that a run was calibrated with: scores of "
        "images, tiles and named regions, brightness, contrast and sharpness, and where the part lies. Neither images "
        "nor models are read, and predictions that are still written can be checked.",
    )
    parser.add_argument("--predictions", type=str, required=True, help="Folder that predict has written.")
    parser.add_argument(
        "--window",
        type=int,
        help="Number of images that follow each other and are looked at together; 50 if it is left out, more if there "
        "are many thousands.",
    )
    parser.add_argument(
        "--output", type=str, help=f"JSON file for the result; {DRIFT} in the folder of the predictions if left out."
    )
    parser.add_argument("--fail_on_drift", action="store_true", help="End with status 5 if something has moved.")
    return parser


def table_of(drift: Drift) -> Table:
    """Make the table of what whole images are like, and of the places that have moved."""
    table = Table("quantity", "was", "is", "stability index", "p-value", "moved")
    for finding in _rows(drift)[:SHOWN]:
        table.add_row(
            escape(f"{finding.quantity} {finding.place}".strip()),
            f"{finding.reference_median:.4g}",
            f"{finding.median:.4g}",
            f"{finding.stability_index:.2f}",
            f"{finding.p_value:.2g}",
            "yes" if finding.has_moved else "no",
        )
    return table


def _rows(drift: Drift) -> list[Finding]:
    whole = [each for each in drift.findings if not each.place]
    return [*whole, *(each for each in drift.findings if each.place and each.has_moved)]


def _check_free(output: Path) -> None:
    """Refuse to replace a file that is no earlier result.

    Raises:
        ConfigurationError: It is another file, or a folder, or belongs to a run.
    """
    check_output(output)
    with storage_errors(output):
        if not output.exists():
            return
    try:
        is_ours = output.is_file() and {each.name for each in fields(Drift)} <= read_json(output).keys()
    except RunFolderError:
        is_ours = False
    if not is_ours:
        message = (
            f"--output must name a new file or an earlier result of a check, but {output} is neither. Choose another "
            "file, or move it away."
        )
        raise ConfigurationError(message)
