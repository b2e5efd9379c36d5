"""The smallest comparison, from the command line to the page."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.measure import CommandError
from benchmarks.programs import Program
from benchmarks.report import Result

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_all_programs_do_the_same_work_and_are_measured(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    sizes = ["--image_size", "128", "--tile_size", "64", "--train", "2", "--test", "2"]
    programs = ["--programs", "reference,tiled,train,loop", "--processes", "1"]
    written = ["--output", str(tmp_path), "--markdown", str(page)]
    command = [sys.executable, "-m", "benchmarks.compare", *sizes, *programs, *written]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    folder = tmp_path / "Padim-128-64-2-2"
    results = json.loads((folder / "results.json").read_text())["results"]
    phases = [(each["program"], each["phase"]) for each in results]
    assert phases == [
        *(("anomalib's own", "fit"), ("anomalib's own", "test")),
        *(("anomalib-tiled", "fit"), ("anomalib-tiled", "test"), ("anomalib-tiled", "train")),
        *(("bare loop", "fit"), ("bare loop", "test")),
    ]
    for each in results:
        assert each["seconds"] > 1
        assert each["processor_seconds"] > 1
        assert each["peak_memory"] > 200_000_000
        assert each["disk"] > 10_000
    decodes = dict(zip(phases, [each["image_decodes"] / each["images"] for each in results], strict=True))
    assert decodes["anomalib's own", "fit"] >= 4  # once for each tile, at least
    assert decodes["anomalib-tiled", "fit"] == decodes["bare loop", "fit"] == decodes["bare loop", "test"] == 1

    areas = [each["metrics"]["pixel_AUROC"] for each in results if each["metrics"]]
    assert len(areas) == 4
    assert areas == pytest.approx([areas[0]] * 4, abs=0.02)  # seams are smoothed, but not by the loop
    assert areas[1] == pytest.approx(areas[0], abs=1e-3)
    assert areas[2] == areas[1]
    assert (folder / "results.png").is_file()
    assert done.stdout.count("| anomalib-tiled | train |") == page.read_text().count("| anomalib-tiled | train |") == 2


def test_a_program_that_fails_costs_none_of_the_numbers_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def results_of(program: Program, *, keep: bool) -> Iterator[Result]:
        assert not keep
        first, *others = [Result(program.name, phase.name, 2, 3, 4, 5, 6, 7, 8, {}) for phase in program.phases]
        yield first
        if program.name == "anomalib's own":
            message = "killed for memory"
            raise CommandError(message)
        yield from others

    monkeypatch.setattr(compare, "results_of", results_of)
    monkeypatch.setattr(compare, "_start", lambda folder: folder.mkdir(parents=True) or 1.0)
    page, sizes = tmp_path / "page.md", ["--image_size", "128", "--tile_size", "64", "--train", "2", "--test", "2"]
    arguments = [*sizes, "--processes", "1", "--output", str(tmp_path), "--markdown", str(page)]
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    with pytest.raises(SystemExit) as left:
        compare.main()
    assert left.value.code
    content = json.loads((tmp_path / "Padim-128-64-2-2" / "results.json").read_text())
    assert [(each["program"], each["phase"]) for each in content["results"]] == [
        *(("anomalib-tiled", "fit"), ("anomalib-tiled", "test")),
        *(("bare loop", "fit"), ("bare loop", "test")),
    ]
    assert content["failures"] == ["anomalib's own (fit + test)"]
    printed = capsys.readouterr()
    assert "killed for memory" in printed.err
    assert "Failed, so not measured: anomalib's own (fit + test)." in printed.out
    assert not page.exists(), "an earlier table, which may be complete, stays"
