"""Regions in COCO's format, which annotation tools read."""

from __future__ import annotations

import json
from itertools import chain, count, repeat
from typing import TYPE_CHECKING

from anomalib_tiled.system.files import json_line, replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TextIO

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.results.prediction_folder import PredictionFolder
    from anomalib_tiled.results.prediction_row import PredictedImage

CATEGORY = {"id": 1, "name": "anomaly", "supercategory": "anomaly"}


def write_coco(folder: PredictionFolder) -> None:
    """Write ``coco.json`` from the predictions of a folder, one at a time.

    Args:
        folder: The folder; its predictions are read twice, so that memory does not depend on their number.
    """
    with replacing(folder.coco_file) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"categories": [{json.dumps(CATEGORY)}],\n"images": [')
        _write_list(file, (_image(number, image) for number, image in enumerate(folder.predicted(), start=1)))
        file.write('],\n"annotations": [')
        _write_list(file, _annotations(folder.predicted()))
        file.write("]}\n")


def _image(number: int, image: PredictedImage) -> dict[str, Plain]:
    height, width = image.image_size
    return {"id": number, "file_name": image.image_path, "height": height, "width": width}


def _annotations(images: Iterable[PredictedImage]) -> Iterator[dict[str, Plain]]:
    numbers = count(1)
    for image_number, image in enumerate(images, start=1):
        for region in image.regions:
            runs = {"size": [*image.image_size], "counts": [*(region.segmentation or ())]}
            yield {
                "id": next(numbers),
                "image_id": image_number,
                "category_id": CATEGORY["id"],
                "bbox": [*region.bbox],
                "area": region.area,
                "segmentation": runs,
                "iscrowd": 0,
                "score": region.to_json()["peak_score"],
            }


def _write_list(file: TextIO, entries: Iterable[dict[str, Plain]]) -> None:
    separators = chain(["\n"], repeat(",\n"))
    file.writelines(before + json_line(entry) for entry, before in zip(entries, separators))  # noqa: B905  # separators never end
