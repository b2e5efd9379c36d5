"""What of an object is not as in a new one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType, SimpleNamespace

import pytest
import torch
from torch import nn

from anomalib_tiled.likeness import changes


class Drawn(nn.Module):
    """A layer of random weights, one that always begins alike, and settings."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.sizes = nn.Linear(3, 3), nn.BatchNorm1d(3), {"kernel": (3, 3)}
        self.linear.register_forward_hook(_nothing)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(images))


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


def _nothing(*_: object) -> None:
    pass


def _adder(number: int) -> Callable[[int], int]:
    return lambda value: value + number


def _write(model: Drawn) -> None:
    with torch.no_grad():
        model.linear.weight.add_(1)


CHANGES: dict[str, tuple[Callable[[Drawn], object], str]] = {
    "written": (_write, "linear.weight"),
    "loaded": (lambda model: model.linear.load_state_dict(nn.Linear(3, 3).state_dict()), "linear.weight"),
    "written in secret": (lambda model: model.norm.weight.data.fill_(2), "norm.weight"),
    "frozen": (lambda model: model.linear.requires_grad_(requires_grad=False), "linear.weight"),
    "other precision": (lambda model: model.linear.half(), "linear.weight"),
    "evaluating": (lambda model: model.eval(), "training"),
    "another layer": (lambda model: setattr(model, "linear", nn.Identity()), "linear"),
    "one layer more": (lambda model: model.add_module("last", nn.Identity()), "last"),
    "another setting": (lambda model: model.sizes.update(kernel=(5, 5)), "sizes.kernel.0"),
    "one hook more": (lambda model: model.linear.register_forward_hook(_nothing), "linear._forward_hooks.1"),
    "another method": (lambda model: setattr(model, "forward", MethodType(_nothing, model)), "forward"),
}


def test_random_weights_are_no_change() -> None:
    assert changes(Drawn(), Drawn(), Drawn()) == []


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_module_is_found(change: str) -> None:
    apply, name = CHANGES[change]
    given = Drawn()
    apply(given)
    assert name in [each.name for each in changes(given, Drawn(), Drawn())]


def test_what_using_an_object_adds_is_no_change() -> None:
    given = Drawn()
    given.seen = 3  # type: ignore[assignment]
    assert changes(given, Drawn(), Drawn()) == []


@pytest.mark.parametrize(
    ("given", "other"),
    [
        (_adder(1), _adder(2)),
        (partial(max, 1), partial(max, 2)),
        (Slotted(1), Slotted(2)),
        (Slotted([1]).__init__, Slotted([2]).__init__),
        ({1, 2}, {1, 3}),
        ([1, 2], [1]),
        (SimpleNamespace(a={"b": None}), SimpleNamespace(a={})),
        (1, True and "1"),
        (SimpleNamespace(a=torch.ones(2)), SimpleNamespace(a=torch.ones(3))),
    ],
)
def test_values_that_differ_are_told_apart(given: object, other: object) -> None:
    assert changes(given, other, other)
    assert not changes(given, given, other)


@pytest.mark.parametrize(
    "make", [lambda: _adder(1), lambda: partial(max, 1), lambda: Slotted((1, "a")), lambda: (1, 2)]
)
def test_values_that_are_alike_are_not(make: Callable[[], object]) -> None:
    assert changes(make(), make(), make()) == []


def test_objects_that_hold_one_another_are_compared_once() -> None:
    def ring(value: int) -> SimpleNamespace:
        one = SimpleNamespace(value=value)
        one.other = SimpleNamespace(other=one)
        return one

    assert changes(ring(1), ring(1), ring(1)) == []
    assert [each.name for each in changes(ring(1), ring(2), ring(2))] == ["value"]
