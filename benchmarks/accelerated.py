"""Compare accelerated parts of models with those of anomalib: time, and the largest difference of results.

    OMP_NUM_THREADS=1 python -m benchmarks.accelerated

Prints a Markdown table. Both of a pair compute in turn, several times; times are medians of processor time. Images are
one tile location of drawn boards, weights are random.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from statistics import median
from time import process_time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from anomalib.models import Padim, Patchcore
from lightning.pytorch import seed_everything

from anomalib_tiled.data.boards import BoardSettings, Shot, draw_board, draw_shot
from anomalib_tiled.ensemble.accelerated import accelerate
from anomalib_tiled.ensemble.gaussians import inverses_of
from anomalib_tiled.grid import Size
from anomalib_tiled.training.coreset import picked_faster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    Part = Callable[[], torch.Tensor]

T = TypeVar("T")

SIDE = 256
"""Height and width of the tile in pixels."""

FEWEST, MANY = 24, 200
"""Numbers of training images: fewer than half of Padim's 100 features, and more than these."""


class Pair(NamedTuple):
    """What is compared.

    Args:
        name: The part of a model.
        own: Computes as anomalib does.
        faster: Computes faster.
    """

    name: str
    own: Part
    faster: Part


def main() -> None:
    """Print a row for each part."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="how often each computes")
    repeats = parser.parse_args().repeats
    print("| part | anomalib, ms | here, ms | share | largest difference |\n|---|---|---|---|---|")
    for pair in (*_of_padim(FEWEST), *_of_padim(MANY), *_of_patchcore(FEWEST)):
        print(_row(pair, repeats), flush=True)


def _row(pair: Pair, repeats: int) -> str:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        results = [timed(part, each) for part, each in zip((pair.own, pair.faster), times, strict=True)]
    own, faster = (1000 * median(each) for each in times)
    exact, found = results
    difference = float((found - exact).abs().max() / exact.abs().max())
    return f"| {pair.name} | {own:.0f} | {faster:.0f} | {faster / own:.2f} | {difference:.0e} |"


def timed(part: Callable[[], T], times: list[float]) -> T:
    """Compute a part, and note the processor time in seconds."""
    begin = process_time()
    result = part()
    times.append(process_time() - begin)
    return result


def _of_padim(images: int) -> Iterator[Pair]:
    own, faster = _twins(Padim(backbone="resnet18", pre_trained=False).model)
    tiles, few = tiles_of_boards(images), images == FEWEST
    if few:
        yield Pair(
            "Padim: features of 8 training tiles",
            partial(_features, own, tiles[:8]),
            partial(_features, faster, tiles[:8]),
        )
    with torch.no_grad():
        embedding = torch.cat([own(each) for each in tiles.split(8)])
    own.memory_bank = []
    yield Pair(
        f"Padim: Gaussians of {images} tiles",
        partial(_gaussians, own, embedding),
        partial(_gaussians, faster, embedding),
    )
    if few:
        for number in (1, 4):
            yield Pair(
                f"Padim: prediction of {number} tile{'s' * (number > 1)}",
                *(partial(_maps, each, tiles[:number]) for each in (own, faster)),
            )


def _of_patchcore(images: int) -> Iterator[Pair]:
    own, faster = _twins(Patchcore(backbone="resnet18", pre_trained=False).model)
    tiles = tiles_of_boards(images)
    with torch.no_grad():
        embedding = torch.cat([own(each) for each in tiles.split(8)])
    yield Pair(
        f"PatchCore: coreset of a tenth of {len(embedding)} patches",
        partial(_coreset, own, embedding, nullcontext),
        partial(_coreset, faster, embedding, picked_faster),
    )
    faster.load_state_dict(own.state_dict())
    yield Pair("PatchCore: prediction of 4 tiles", *(partial(_maps, each, tiles[:4]) for each in (own, faster)))


def _twins(model: nn.Module) -> tuple[Any, Any]:
    """Give a model, ready to be trained, and a faster copy of it."""
    model.train().get_submodule("feature_extractor").eval()
    faster = deepcopy(model)
    accelerate(faster)
    return model, faster


def tiles_of_boards(number: int) -> torch.Tensor:
    """Draw the tile in the middle of boards, shape (number, 3, SIDE, SIDE)."""
    settings = BoardSettings(Size(4 * SIDE, 4 * SIDE), number, 0, 1, 0)
    board, inside = draw_board(settings), slice(SIDE, 2 * SIDE)
    shots = (draw_shot(board, Shot("train", "good", index), seed=0)[0] for index in range(number))
    return torch.from_numpy(np.stack([shot[inside, inside] for shot in shots])).permute(0, 3, 1, 2).float() / 255


def _features(model: Any, tiles: torch.Tensor) -> torch.Tensor:  # noqa: ANN401  # a model of anomalib
    model.train()
    features: torch.Tensor = model(tiles)
    model.memory_bank.clear()
    return features


def _gaussians(model: Any, embedding: torch.Tensor) -> torch.Tensor:  # noqa: ANN401  # as above
    return inverses_of(*model.gaussian.fit(embedding))


@torch.inference_mode()
def _maps(model: Any, tiles: torch.Tensor) -> torch.Tensor:  # noqa: ANN401  # as above
    maps: torch.Tensor = model.eval()(tiles).anomaly_map
    return maps


def _coreset(model: Any, embedding: torch.Tensor, how: Callable[[], Any]) -> torch.Tensor:  # noqa: ANN401  # as above
    seed_everything(0, verbose=False)
    with how():
        model.embedding_store = [embedding]
        model.subsample_embedding(0.1)
    picked: torch.Tensor = model.memory_bank
    return picked


if __name__ == "__main__":
    main()
