"""One process at a time in a run folder."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from filelock import FileLock

from anomalib_tiled.errors import RunFolderError, StorageError
from anomalib_tiled.system.locks import PREDICTION, locked

HOLD = """
import sys, time
from pathlib import Path
from unittest.mock import Mock
from anomalib_tiled.system.locks import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_whoever_has_it_is_named_with_host_and_process(tmp_path: Path) -> None:
    with locked(tmp_path):
        said = json.loads((tmp_path / "fit.lock.json").read_text())
        assert (said["host"], said["process"]) == (platform.node(), os.getpid())
        message = f"is being fitted by process {os.getpid()} on {platform.node()} since .* Wait until it has finished"
        with pytest.raises(RunFolderError, match=message), locked(tmp_path):
            pytest.fail("two at once")
        assert (tmp_path / "fit.lock.json").is_file(), "the second one takes nothing away"


def test_it_is_free_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            pass
    assert not (tmp_path / "fit.lock.json").exists()
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_one_that_has_not_said_who_it_is_yet(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / "fit.lock.json").write_text("{")
        with pytest.raises(RunFolderError, match="is being fitted by another process"), locked(tmp_path):
            pytest.fail("two at once")


def test_each_work_has_a_lock_of_its_own(tmp_path: Path) -> None:
    with locked(tmp_path), locked(tmp_path, PREDICTION):
        message = r"is being predicted into by process \d+ on .* or stop it; what it has predicted is kept\.$"
        with pytest.raises(RunFolderError, match=message), locked(tmp_path, PREDICTION):
            pytest.fail("two at once")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileLock, "acquire", Mock(side_effect=OSError(errno.EROFS, "Read-only file system")))
    with pytest.raises(StorageError, match="cannot be written: Read-only file system"), locked(tmp_path):
        pytest.fail("it is not locked")


def test_a_killed_process_leaves_it_free(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        message = f"is being fitted by process {holder.pid} on"
        with pytest.raises(RunFolderError, match=message), locked(tmp_path):
            pytest.fail("two at once")
    finally:
        holder.kill()
        holder.wait()
    with locked(tmp_path):
        pass
