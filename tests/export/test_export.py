"""Images are exported as they are: augmentations of test images are refused."""

from __future__ import annotations

import pytest
from torchvision.transforms import v2

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.export import Exported, check_augmentations
from anomalib_tiled.export.manifest import Checked


def test_augmentations_of_test_images_are_refused_by_name() -> None:
    check_augmentations(None)
    message = r"augments test images \(Identity, Normalize\)\. Predict with .* has train_augmentations instead"
    with pytest.raises(ConfigurationError, match=message):
        check_augmentations(v2.Compose([v2.Identity(), v2.Normalize([0.2], [0.7])]))
    with pytest.raises(ConfigurationError, match=r"augments test images \(Grayscale\)"):
        check_augmentations(v2.Grayscale(3))


def test_an_export_says_how_it_was_compared() -> None:
    assert list(Exported(Checked(3, 2, 4e-7), None).lines("Padim")) == [
        "Compared with the run on 5 images: largest difference 4e-07."
    ]
    assert list(Exported(Checked(3, 0, 4e-7), 1).lines("Patchcore"))[1:] == [
        "Note: Only random images were compared, because the images of the run are missing.",
        "Note: The files take 1 image at a time: Patchcore or a stage fixes the batch size.",
    ]
