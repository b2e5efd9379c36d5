"""A disk that gets full while several processes store their checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from anomalib_tiled.cli.main import main
from anomalib_tiled.system.checksums import Checksum


@pytest.mark.slow
def test_a_disk_that_gets_full_costs_what_did_not_fit(
    configure: Callable[..., Path],
    small_disk: Callable[[int], Path],
    finished_run: Path,
    checkpoints: Callable[[Path], dict[str, Checksum]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    [shared] = (finished_run / "tiles").glob("shared-*.ckpt")
    size = shared.stat().st_size // 2**20 + 2  # for the cache and some of the tiles
    disk = small_disk(size)
    two = {"class_path": "LocalWorkers", "init_args": {"processes": 2}}
    assert main(["fit", "--config", str(configure(workers=two, default_root_dir=str(disk / "results")))]) == 2
    run, said = disk / "results" / "Padim" / "photographs" / "v0", capsys.readouterr().err
    # Two processes that have trained their first tile at the same moment both write what all tiles share.
    assert re.search(rf"No space left on the disk while writing {run / 'tiles'}/(r0|\.shared)", said)
    assert f"Resume with: anomalib-tiled fit --ckpt_dir {run}" in said
    done = [path.stem for path in (run / "tiles").glob("r*.json")]
    assert len(done) < 9
    stored = {path.stem: torch.load(path, weights_only=True) for path in (run / "tiles").glob("r*.ckpt")}
    assert stored.keys() >= set(done)
    assert all(content["state_dict"] for content in stored.values()), "none is half written"
    small_disk(size * 5)
    assert main(["fit", "--ckpt_dir", str(run)]) == 0
    assert (run / "calibration.json").read_bytes() == (finished_run / "calibration.json").read_bytes()
    assert not [path for path in (run / "tiles").iterdir() if path.name.startswith(".")], "nothing half done is left"
    assert checkpoints(run) == checkpoints(finished_run)
