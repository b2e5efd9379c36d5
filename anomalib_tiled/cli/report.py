"""The command ``report``, in a module of its own: it reads files, and waits for no import of PyTorch."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from typing import TYPE_CHECKING

from anomalib_tiled.cli.parser import folder_named, run_parser
from anomalib_tiled.cli.terminal import say
from anomalib_tiled.report.writing import write_report
from anomalib_tiled.runs.package_versions import changed_origins
from anomalib_tiled.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

REPORT = """\
Write one HTML file that shows the results of a run: scores with a threshold to drag, images, places, and how the run
was made. It opens in any browser, without internet.

It shows the test of the run; or with --predictions the images in a folder that predict has written, which need no
labels, and what check has found in them.

exit status:
  0    success
  2    an argument, a file or the run must be changed; existing files are kept
  1    any other error
"""


def report(arguments: Sequence[str], prog: str) -> None:
    """Write a page that shows a test, or predictions."""
    parser = run_parser(prog, REPORT, RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=str | None, metavar="DIR", help="Show these predictions, not the test.")
    parser.add_argument(
        "--output", type=str | None, metavar="FILE", help="The file; report.html in the run, or in DIR, if left out."
    )
    parsed = parser.parse_args(list(arguments))
    folder = RunFolder.open(folder_named("--ckpt_dir", parsed.ckpt_dir))
    predictions, output = (
        None if parsed[name] is None else folder_named(f"--{name}", parsed[name]) for name in ("predictions", "output")
    )
    for note in changed_origins(folder.origins()):
        say(f"Note: {note}")
    say(f"Report: {write_report(folder, predictions=predictions, output=output)}")
