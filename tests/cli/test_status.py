"""What the state of tiles looks like, and that it waits for no import of PyTorch."""

from __future__ import annotations

import subprocess
import sys

from anomalib_tiled.cli.status import COLUMNS, cells, lines
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.runs.tile_record import TileRecord
from anomalib_tiled.runs.tile_status import TileStatus
from anomalib_tiled.system.checksums import Checksum

FIRST, SECOND = TileGrid(Size(4, 8), Size(4, 4), Size(4, 4)).tiles
RECORD = TileRecord(12.34, 1, "", Checksum(0, ""), host="node-7", device="cuda:0 NVIDIA H100")


def shown(*tiles: TileStatus) -> list[str]:
    return lines([COLUMNS, *map(cells, tiles)])


def test_tiles_say_where_they_were_trained() -> None:
    assert shown(TileStatus(FIRST, "done", "", RECORD), TileStatus(SECOND, "failed", "out of luck")) == [
        "tile     state   seconds  host    device              detail",
        "r00_c00  done    12.3     node-7  cuda:0 NVIDIA H100",
        "r00_c01  failed                                       out of luck",
    ]


def test_columns_in_which_nothing_is_known_are_left_out() -> None:
    assert shown(TileStatus(FIRST, "missing", "")) == ["tile     state", "r00_c00  missing"]


def test_tiles_that_share_a_model_are_one_row() -> None:
    many = tuple(f"r00_c{column:02d}" for column in range(6))
    assert shown(TileStatus(FIRST, "missing", "", members=many), TileStatus(SECOND, "missing", "")) == [
        "tile     shared by                                      state",
        "r00_c00  r00_c00, r00_c01, r00_c02, r00_c03 and 2 more  missing",
        "r00_c01                                                 missing",
    ]


def test_long_texts_stay_in_one_line_so_that_they_can_be_copied() -> None:
    assert shown(TileStatus(FIRST, "damaged", "word " * 100 + "end"))[1].endswith("word word end")


def test_the_command_imports_neither_anomalib_nor_pytorch() -> None:
    code = "import sys, anomalib_tiled.cli.status; print({'torch', 'anomalib', 'lightning'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
