"""Messages of jsonargparse are known by their words, so each is made by jsonargparse itself here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_tiled.cli import options as arguments
from anomalib_tiled.cli.messages import explained
from anomalib_tiled.errors import ConfigurationError

TWIN = "from anomalib.models import Padim\n\n\nclass Twin(Padim): ...\n"
MODULES = {"twin_one": TWIN, "twin_two": TWIN, "halfway": "import nowhere\n"}
CASES = {
    "no settings": ("- a", [], "A configuration must hold settings by name, but holds - a."),
    "nothing": ("", [], "A configuration must hold settings by name, but holds nothing."),
    "in a group": (
        "tiling: {strides: 3}",
        [],
        "tiling has no setting 'strides'. Did you mean 'stride'? Allowed: image",
    ),
    "in a file": ("tilling: 3", [], "There is no setting 'tilling'. Did you mean 'tiling'? Allowed: cache, ckpt_dir, "),
    "an option": ("{}", ["--tilling=3"], "There is no setting 'tilling'. Did you mean 'tiling'? Allowed: cache, ckpt_"),
    "two classes": (
        "{}",
        ["--model=Twin"],
        "model: Multiple subclasses with name Twin. Give the full class path to av",
    ),
    "a class": ("{}", ["--model=Padin"], "model: Expected a class: Padin. Did you mean 'Padim'? Allowed: AiVad, "),
    "a callback": (
        "{}",
        ["--trainer.callbacks=[{class_path: no.such.Callback}]"],
        "trainer.callbacks: Problem with given class_path 'no.such.Callback': No module named 'no'; or No",
    ),
    "another type": ("cache: [1]", [], "cache: Not a valid subclass of CacheSettings. Given: [1]."),
    "a module": (
        "{}",
        ["--merging=halfway.Mean"],
        "merging: Problem with given class_path 'halfway.Mean': No module named 'nowhere'. Did you mean",
    ),
}
"""A file and options that jsonargparse refuses; and what is said."""


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_said_in_a_line_with_what_is_allowed(
    tmp_path: Path, install: Callable[..., None], name: str
) -> None:
    content, options, said = CASES[name]
    for module, source in MODULES.items():
        install(module, source)
    (tmp_path / "configuration.yaml").write_text(content)
    with pytest.raises(ConfigurationError) as raised:
        arguments.fit_parser("fit").parse_args(["--config", str(tmp_path / "configuration.yaml"), *options])
    assert str(raised.value).startswith(said)


def test_both_classes_of_a_name_are_given(install: Callable[..., None]) -> None:
    for module, source in MODULES.items():
        install(module, source)
    with pytest.raises(ConfigurationError, match=r"ambiguity: .*twin_one\.Twin, twin_two\.Twin"):
        arguments.fit_parser("fit").parse_args(["--model=Twin"])


@pytest.mark.parametrize(
    ("said", "instead"),
    {
        "something that nobody knows": "something that nobody knows",
        "Expected a <class 'int'>": "Expected a int",
        "Parser key \"visualize\":\nExpected a <class 'bool'>": "visualize: Expected a bool.",
        "Parser key \"a.b\":\n  - Expected a <class 'NoneType'>\n  - Expected a <class 'c.Size'>\nGiven value: 7": (
            "a.b: Expected a Size. Given: 7."
        ),
        'Parser key "a":\n  - Expected a path but b\n  - Not allowed.\n  - Too large\nGiven value: 7': (
            "a: Not allowed; or Too large. Given: 7."
        ),
        'Parser key "a":\n  - Expected an int. Got value: b\nGiven value: b': "a: Expected an int. Got value: b.",
        'Parser key "a":\n  - Not like this\nGiven value: Namespace(b=1)': "a: Not like this.",
    }.items(),
)
def test_reasons_are_said_in_a_line_without_what_only_jsonargparse_knows(said: str, instead: str) -> None:
    assert explained(arguments.fit_parser("fit"), said) == instead
