"""Messages of jsonargparse are known by their words, so each is made by jsonargparse itself here."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_tiled import arguments
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.explanations import EXPLANATIONS, explained

TWIN = "from anomalib.models import Padim\n\n\nclass Twin(Padim): ...\n"
MODULES = {"twin_one": TWIN, "twin_two": TWIN, "halfway": "import nowhere\n"}
MERGING = "anomalib_tiled.stages.merging"
NOT_THERE = "Give the name of a class, or a dotted class path."

CASES = (
    ("- a", [], "A configuration must hold settings by name, but holds - a."),
    ("tiling: {strides: 3}", [], "tiling has no setting 'strides'. Did you mean 'stride'? Allowed: image_size, "),
    ("tilling: 3", [], "There is no setting 'tilling'. Did you mean 'tiling'? Allowed: cache, ckpt_dir, "),
    ("{}", ["--tilling=3"], "There is no setting 'tilling'. Did you mean 'tiling'? Allowed: cache, ckpt_dir, "),
    ("{}", ["--model=Twin"], "'Twin' for model may be any of twin_one.Twin of twin_one 1.2, twin_two.Twin of twin_two"),
    ("{}", ["--model=Padin"], "There is no 'Padin' for model. Did you mean 'Padim'? Allowed: AiVad, "),
    ("{}", ["--merging=halfway.Mean"], "halfway.Mean for merging cannot be imported: there is no module 'nowhere'. In"),
    ("{}", [f"--merging={MERGING}.Nope"], f"There is no '{MERGING}.Nope' for merging. {NOT_THERE}"),
)
"""What makes jsonargparse say what each pattern is for: a file and options; and what is said instead."""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What jsonargparse said."""
    messages: list[str] = []

    def noted(parser: arguments.Parser, message: str) -> str:
        messages.append(message)
        return explained(parser, message)

    monkeypatch.setattr(arguments, "explained", noted)
    return messages


@pytest.mark.parametrize(("pattern", "case"), list(zip(EXPLANATIONS, CASES, strict=True)), ids=range(len(CASES)))
def test_each_message_of_jsonargparse_is_known_by_its_pattern(
    tmp_path: Path,
    install: Callable[..., None],
    said: list[str],
    pattern: str,
    case: tuple[str, list[str], str],
) -> None:
    content, options, instead = case
    for name, source in MODULES.items():
        install(name, source)
    (tmp_path / "configuration.yaml").write_text(content)
    with pytest.raises(ConfigurationError) as raised:
        arguments.fit_parser("fit").parse_args(["--config", str(tmp_path / "configuration.yaml"), *options])
    assert str(raised.value).startswith(instead)
    [message] = said
    assert next(each for each in EXPLANATIONS if re.search(each, message, re.DOTALL)) == pattern


def test_a_module_that_is_not_there_itself_is_no_class() -> None:
    said = "Parser key \"merging\":\n  - Problem with given class_path 'no.such.Mean':\n      No module named 'no.such'"
    assert explained(arguments.fit_parser("fit"), said).startswith(
        f"There is no 'no.such.Mean' for merging. {NOT_THERE}"
    )


@pytest.mark.parametrize(
    ("said", "instead"),
    {
        "something that nobody knows": "something that nobody knows",
        "Expected a <class 'int'>": "Expected a int",
        "Parser key \"visualize\":\nExpected a <class 'bool'>": "visualize: Expected a bool",
        "Parser key \"a.b\":\n  - Expected a <class 'NoneType'>\n  - Expected a <class 'c.Size'>\nGiven value: 7": (
            "a.b: Expected a Size. Given: 7."
        ),
        'Parser key "a":\n  - Expected a path but b\n  - Not allowed.\n  - Too large\nGiven value: 7': (
            "a: Not allowed.; or Too large. Given: 7."
        ),
        'Parser key "a":\n  - Expected an int. Got value: b\nGiven value: b': "a: Expected an int. Got value: b.",
        'Parser key "a":\n  - Not like this\nGiven value: Namespace(b=1)': "a: Not like this.",
    }.items(),
)
def test_reasons_are_said_in_a_line_without_what_only_jsonargparse_knows(said: str, instead: str) -> None:
    assert explained(arguments.fit_parser("fit"), said) == instead
