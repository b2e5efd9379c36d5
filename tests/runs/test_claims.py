"""Which try may store a tile."""

from __future__ import annotations

import json
import os
import pickle
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.runs.claims import check_claim, claim_tile
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.tile_record import TileRecord
from anomalib_tiled.system.checksums import Checksum

FIRST, SECOND = TileGrid(Size(4, 8), Size(4, 4), Size(4, 4)).tiles
RECORD = TileRecord(1.0, 1, "a", Checksum(0, "b"))


@pytest.fixture
def run(tmp_path: Path, configuration: dict[str, object], make_run: Callable[[Path, Settings], RunFolder]) -> RunFolder:
    return make_run(tmp_path / "v0", Settings.from_mapping(configuration))


def test_the_last_try_has_the_tile(run: RunFolder) -> None:
    check_claim(None)
    early, other = claim_tile(run, FIRST), claim_tile(run, SECOND)
    check_claim(early)
    late = claim_tile(run, FIRST)
    for each in (late, other, pickle.loads(pickle.dumps(late))):  # noqa: S301  # pickled here
        check_claim(each)
    message = (
        rf"Tile r00_c00 of {run.path} does not belong to this try any more: try 2 of process {os.getpid()} on "
        rf"{platform.node()} since .* has it\. This try stores nothing\.$"
    )
    with pytest.raises(RunFolderError, match=message):
        check_claim(early)
    assert json.loads(run.claim_file(FIRST).read_text())["try"] == 2
    assert len(pickle.dumps(late)) < 1000


@pytest.mark.parametrize("end", [lambda run: run.clean_up(), lambda run: run.write_record(FIRST, RECORD)])
def test_a_tile_that_is_done_and_a_fit_that_has_ended_leave_no_claim(
    run: RunFolder, end: Callable[[RunFolder], None]
) -> None:
    claimed = claim_tile(run, FIRST)
    end(run)
    assert not run.claim_file(FIRST).exists()
    with pytest.raises(RunFolderError, match=r"any more: no fit waits for it\. This try stores nothing"):
        check_claim(claimed)
