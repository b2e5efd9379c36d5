from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anomalib_tiled.runs.versions import link_newest, new_version
from anomalib_tiled.system.temporary import temporary_name

FILL = """
import sys, time
from pathlib import Path
from anomalib_tiled.runs.versions import new_version
with new_version(Path(sys.argv[1])) as new:
    (new.path / "half").touch()
    print(new.path.name, flush=True)
    time.sleep(60)
"""


def make(root: Path) -> Path:
    with new_version(root) as new:
        new.publish()
    return new.path


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_the_link_is_that_of_the_newest_folder(tmp_path: Path) -> None:
    first, second = make(tmp_path / "runs"), make(tmp_path / "runs")
    assert [first.name, second.name] == ["v0", "v1"]
    assert (tmp_path / "runs" / "latest").resolve() == second
    shutil.rmtree(second)
    link_newest(tmp_path / "runs")
    assert (tmp_path / "runs" / "latest").resolve() == first
    shutil.rmtree(first)
    link_newest(tmp_path / "runs")
    assert not any((tmp_path / "runs").iterdir())


def test_after_an_error_the_folder_is_removed_though_it_was_published(tmp_path: Path) -> None:
    first = make(tmp_path)
    with pytest.raises(KeyboardInterrupt), new_version(tmp_path) as new:  # noqa: PT012  # fails after that
        new.publish()
        assert (tmp_path / "latest").resolve() == tmp_path / "v1"
        raise KeyboardInterrupt
    assert names(tmp_path) == ["latest", "v0"]
    assert (tmp_path / "latest").readlink() == Path(first.name), "a relative link, so that the folder can be moved"


def test_other_folders_are_no_versions(tmp_path: Path) -> None:
    for name in ("v9", "v10", "v11.old", "vx", "12", ".vscode"):
        (tmp_path / name).mkdir()
    assert make(tmp_path).name == "v11"
    assert (tmp_path / ".vscode").is_dir()


def test_two_at_once_have_two_numbers_and_the_higher_one_is_the_latest(tmp_path: Path) -> None:
    with new_version(tmp_path) as first:
        with new_version(tmp_path) as second:
            assert [name.partition(".")[2][:3] for name in names(tmp_path)] == ["v0.", "v1."], "nobody finds them"
            second.publish()
        first.publish()
    assert names(tmp_path) == ["latest", "v0", "v1"]
    assert (tmp_path / "latest").readlink() == Path("v1")


@pytest.mark.slow
def test_what_a_killed_process_has_left_is_removed_and_nothing_was_ever_the_latest(tmp_path: Path) -> None:
    program = subprocess.Popen([sys.executable, "-c", FILL, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert (hidden := program.stdout.readline().strip()).startswith(".v0.")
        with new_version(tmp_path) as meanwhile:
            assert meanwhile.final.name == "v1", "the other one is at work"
            meanwhile.publish()
    finally:
        os.kill(program.pid, signal.SIGKILL)
        program.wait()
    assert names(tmp_path) == [hidden, "latest", "v1"]
    assert make(tmp_path).name == "v2"
    assert names(tmp_path) == ["latest", "v1", "v2"]


def test_a_link_that_a_killed_process_has_not_made_is_made_even_if_the_next_one_fails(tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to(first.name)
    half = tmp_path / f".latest.{temporary_name('x').replace(f'-{os.getpid()}-', '-999999999-').removeprefix('.x.')}"
    half.symlink_to(first.name)
    with pytest.raises(KeyboardInterrupt), new_version(tmp_path):
        raise KeyboardInterrupt
    assert (tmp_path / "latest").resolve() == second
    assert names(tmp_path) == ["latest", "v0", "v1"]


def test_a_link_that_cannot_be_renewed_is_told_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, replace = make(tmp_path), Path.replace

    def fail(path: Path, target: Path) -> Path:
        if target.name == "latest":
            raise OSError(errno.EIO, "the disk is worn out")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    make(tmp_path)
    assert names(tmp_path) == ["latest", "v0", "v1"]
    assert (tmp_path / "latest").resolve() == first
    assert "latest could not be pointed to v1, the newest run: [Errno 5] the disk is worn out" in caplog.text
