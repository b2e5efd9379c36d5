from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_tiled.errors import ConfigurationError, StorageError
from anomalib_tiled.export.output_folder import EARLIER, WORK, replacing_folder
from anomalib_tiled.system.temporary import temporary_name

Files = dict[str, str]


def write(folder: Path, content: str, **files: str) -> None:
    """Write an export: a manifest, and the files that it lists."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    listed = {name.replace("__", "/"): {} for name in files}
    (folder / "manifest.json").write_text(json.dumps({"format": content, "files": listed}))


def content(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def fail_after(work: Callable[[], None]) -> None:
    work()
    raise KeyError


def test_a_folder_has_files_when_all_are_there(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b"
    with replacing_folder(output, overwrite=False) as work:
        write(work, "onnx", model="1", tiles__weights="2")
        assert not [path for path in content(output) if not path.startswith(WORK)]
    assert content(output) == {"manifest.json", "model", "tiles/weights"}
    assert [path.name for path in output.parent.iterdir()] == ["b"]


def test_a_new_folder_is_gone_if_nothing_came_of_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), replacing_folder(tmp_path / "b", overwrite=False):
        raise KeyError
    assert not any(tmp_path.iterdir())


def test_an_earlier_export_stays_if_the_new_one_fails(tmp_path: Path) -> None:
    write(tmp_path, "onnx", model="old", tiles__weights="old")
    with pytest.raises(KeyError), replacing_folder(tmp_path, overwrite=True) as work:
        fail_after((work / "model").touch)
    assert content(tmp_path) == {"manifest.json", "model", "tiles/weights"}
    assert (tmp_path / "model").read_text() == "old"
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "load.pyc").touch()
    (tmp_path / "export.log").touch()
    killed = temporary_name(WORK.removeprefix(".")).replace(f"-{os.getpid()}-", "-999999999-")
    (tmp_path / killed).mkdir()
    with replacing_folder(tmp_path, overwrite=True) as work:
        write(work, "torch", model="new")
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "model"}, "nothing else is left"
    assert (tmp_path / "model").read_text() == "new"


@pytest.mark.parametrize(
    ("manifest", "made", "stranger"),
    [
        ({"format": "onnx", "files": {"model": {}}}, "found.npz", "found.npz"),
        ({"format": "onnx", "files": ["model"]}, "model", "manifest.json"),
        ({"name": "a web application", "files": {"model": {}}}, "model", "manifest.json"),
        ("cut short", "model", "manifest.json"),
        (None, "thesis.txt", "thesis.txt"),
    ],
)
def test_what_no_export_has_written_is_never_deleted(
    tmp_path: Path, manifest: object, made: str, stranger: str
) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(json.dumps(manifest) if isinstance(manifest, dict) else "{")
    (tmp_path / made).touch()
    before = content(tmp_path)
    message = f"or an earlier export, but .* holds {stranger}, which no export has written"
    with pytest.raises(ConfigurationError, match=message), replacing_folder(tmp_path, overwrite=True):
        pass
    assert content(tmp_path) == before


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with replacing_folder(tmp_path / "link", overwrite=False) as work:
        write(work, "onnx", model="1")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "disk") == {"manifest.json", "model"}


def test_a_file_where_a_folder_belongs_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match=r"file/output cannot be written: a file is where a folder belongs"),
        replacing_folder(tmp_path / "file" / "output", overwrite=False),
    ):
        pass


def test_an_earlier_export_comes_back_if_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "onnx", model="old", tiles__weights="old")
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path.parent.name == "new" and path.name == "manifest.json":
            raise OSError(errno.EIO, "the disk is worn out")
        return replace(path, target)

    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(sorted(iterdir(path), reverse=True)))  # the manifest last
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StorageError, match="worn out"), replacing_folder(tmp_path, overwrite=True) as work:
        write(work, "torch", model="new", tiles__weights="new")
    assert (tmp_path / "model").read_text() == (tmp_path / "tiles" / "weights").read_text() == "old"
    assert json.loads((tmp_path / "manifest.json").read_text())["format"] == "onnx"
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "model", "tiles"}, "and nothing else"


def test_an_earlier_export_that_cannot_be_moved_back_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "onnx", model="old", tiles__weights="old")
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path.parent.name == "new" or (path.parent.name.startswith(EARLIER) and path.name == "model"):
            raise OSError(errno.EIO, "the disk is worn out")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StorageError, match="worn out"), replacing_folder(tmp_path, overwrite=True) as work:
        write(work, "torch", model="new")
    [kept] = tmp_path.glob(f"{EARLIER}*")
    assert (kept / "model").read_text() == (tmp_path / "tiles" / "weights").read_text() == "old"
    assert content(tmp_path) == {"manifest.json", "tiles/weights", f"{kept.name}/model"}


def test_an_export_that_a_kill_left_aside_is_named(tmp_path: Path) -> None:
    write(tmp_path, "onnx", model="old")
    (kept := tmp_path / f"{EARLIER}x").mkdir()
    for name in ("manifest.json", "model"):
        (tmp_path / name).rename(kept / name)
    for overwrite in (True, False):
        with (
            pytest.raises(
                ConfigurationError, match=rf"killed: {kept} holds the export that was there\. Move it back, or"
            ),
            replacing_folder(tmp_path, overwrite=overwrite),
        ):
            pass
    assert (kept / "model").read_text() == "old"


def test_what_an_export_could_not_remove_is_in_nobodys_way(tmp_path: Path) -> None:
    write(tmp_path, "onnx", model="old")
    (tmp_path / f"{EARLIER}x").mkdir()
    (tmp_path / f"{EARLIER}x" / "model").touch()
    with replacing_folder(tmp_path, overwrite=True) as work:
        write(work, "torch", model="new")
    assert content(tmp_path) == {"manifest.json", "model"}


def test_an_export_that_is_at_work_is_left_alone(tmp_path: Path) -> None:
    with replacing_folder(tmp_path, overwrite=False) as first:
        with replacing_folder(tmp_path, overwrite=False) as second:
            write(second, "onnx", model="2")
        write(first, "onnx", model="1")
    assert (tmp_path / "model").read_text() == "1"
