"""What is measured on a GPU, the most important first: which program, on which case."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.case import Case
from benchmarks.efficient_ad import MODEL as EFFICIENT_AD
from benchmarks.efficient_ad import EfficientAdCase
from benchmarks.programs import Loop, Phase, Program, Reference, Tiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

LEAST = 20
"""Seconds that a phase must have left to be begun at all: half of them are imports."""

LEAST_OF_LARGE_REFERENCE = 60
"""The same of anomalib's own with large images, which it decodes for each of 64 tiles."""

MANY_TILES = 16

SIZES = {"small": (1024, 256, 16, 8), "large": (2048, 256, 8, 4)}
"""Image size, tile size, and numbers of training and test images."""

TINY, TINY_OF_EFFICIENT_AD = (128, 64, 4, 4), (256, 256, 2, 2)
"""The same to try the plan; EfficientAD takes no smaller tiles."""


@dataclass(frozen=True)
class Loaded(Tiled):
    """This package: fit, then predictions with the models in memory."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The command, and a program that predicts."""
        run = self.folder / "results" / self.case.model / "boards" / "latest"
        predict = ("-m", "benchmarks.gpu_predict", str(run), str(self.boards / "test"), "--device", self.device)
        return (super().phases[0], Phase("predict", predict, trains=False))


@dataclass(frozen=True)
class Fitted(Loaded):
    """This package: fit alone."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The command."""
        return super().phases[:1]


@dataclass(frozen=True)
class FittedLoop(Loop):
    """The bare loop: fit alone, with one prediction of the test images."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Its first half."""
        return super().phases[:1]


@dataclass(frozen=True)
class Entry:
    """A program to measure.

    Args:
        name: Its name on the command line.
        case: Images and model.
        make: Makes the program from the case, the folder of its images, and the folder that it runs in.
        least: Seconds that each phase must have left.
    """

    name: str
    case: Case
    make: Callable[[Case, Path, Path], Program] = field(repr=False)
    least: float = LEAST


def plan(device: str, penalty: Path, *, tiny: bool) -> list[Entry]:
    """Give all that can be measured, in the order of its importance.

    Args:
        device: ``cuda``, or ``cpu`` to try the plan.
        penalty: Images for the penalty of EfficientAD.
        tiny: Whether images are so small and few that any machine does all of it.
    """
    small, large = (_cases(size, str(penalty), tiny=tiny) for size in ("small", "large"))
    of_small, of_large = (partial(_entries, cases, device) for cases in (small, large))
    entries = [
        *of_small("Padim", "tiled", "reference", "loop"),
        *of_large("Padim", "tiled", "fitted_loop"),
        *of_small("Padim", "bfloat16", "two"),
        *of_small("Patchcore", "tiled", "reference"),
        *of_small(EFFICIENT_AD, "tiled", "reference"),
        *of_large("Padim", "two", "four"),
        *of_large("Patchcore", "tiled"),
        *of_large(EFFICIENT_AD, "tiled"),
        *of_small("Patchcore", "bfloat16"),
        *of_small(EFFICIENT_AD, "bfloat16"),
        *of_large("Padim", "reference", "bfloat16"),
        *of_small("Patchcore", "loop"),
        *of_large("Patchcore", "fitted_loop", "bfloat16", "reference"),
        *of_large(EFFICIENT_AD, "bfloat16", "reference"),
    ]
    return list({entry.name: entry for entry in entries}.values()) if tiny else entries


def chosen(names: Iterable[str], words: Iterable[str]) -> list[str]:
    """Give the names that hold one of some words, in their order; all if there are no words.

    Args:
        names: Names of entries.
        words: Parts of names.

    Raises:
        ValueError: No name holds a word.
    """
    names, words = [*names], [*words]
    for word in words:
        if not any(word in name for name in names):
            message = f"--only must name parts of {', '.join(names)}, found {word!r}."
            raise ValueError(message)
    return [name for name in names if not words or any(word in name for word in words)]


def _cases(size: str, penalty: str, *, tiny: bool) -> dict[str, Case]:
    """Give the case of each model: 16 tiles of small images, or 64 of large ones."""
    images, of_efficient_ad = (TINY, TINY_OF_EFFICIENT_AD) if tiny else (SIZES[size], SIZES[size])
    cases: dict[str, Case] = {model: Case(*images, model=model) for model in ("Padim", "Patchcore")}
    return {**cases, EFFICIENT_AD: EfficientAdCase(*of_efficient_ad, penalty=penalty)}


def _entries(cases: Mapping[str, Case], device: str, model: str, *kinds: str) -> list[Entry]:
    """Give entries of the case of a model."""
    case = cases[model]
    makers: dict[str, Callable[..., Program]] = {
        "tiled": Loaded,
        "bfloat16": partial(Loaded, precision="bfloat16"),
        "two": partial(Fitted, processes=2),
        "four": partial(Fitted, processes=4),
        "loop": Loop,
        "fitted_loop": FittedLoop,
        "reference": Reference,
    }
    return [
        Entry(f"{model}-{case.image_size}-{kind}", case, partial(makers[kind], device=device), _least(case, kind))
        for kind in kinds
    ]


def _least(case: Case, kind: str) -> float:
    return LEAST_OF_LARGE_REFERENCE if kind == "reference" and case.tiles > MANY_TILES else LEAST
