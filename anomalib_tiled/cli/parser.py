"""Reads arguments and configurations, and names the nearest setting or class where one does not exist."""

from __future__ import annotations

import re
from argparse import HelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from inspect import isabstract
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader
from jsonargparse.typing import Path_fr
from rich.console import Console

from anomalib_tiled.cli.terminal import say
from anomalib_tiled.config.anomalib_config import HEADING, NAMED_HERE, is_reference, translate
from anomalib_tiled.config.settings import Plain
from anomalib_tiled.errors import ConfigurationError, allowed_names
from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.stages import kinds
from anomalib_tiled.system.bounds import LONGEST_CONFIGURATION, check_yaml
from anomalib_tiled.system.files import absolute

UNKNOWN = (
    r"Group '(\S+)' does not accept option '(\S+)'|Option '(\S+)' is not accepted|Unrecognized arguments: --([^\s=]+)"
)
"""Messages of jsonargparse about a setting that does not exist."""

NO_CLASS = r'(?s).*Parser key "(\S+)":.*Expected a dot import path string: (\S*)'
"""Message of jsonargparse about a name that no imported class has."""

IN_WORDS = {
    "bool": "true or false",
    "dict": "settings by name",
    "dot import path string": "the dotted path of a class",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "str": "text",
    "tuple": "a list",
}
"""What a value of a type looks like in YAML."""

ONE_OF = r"(?:typing\.Literal\[|member of <enum '\w+'>: \{)(?P<names>[^\]}]*)[\]}]"
"""How jsonargparse lists the names that a setting takes."""

NOISE = (
    "- Does not validate",
    "- Expected a <class 'NoneType'>",
    "- Expected a path",
    "- a class path",
    "- a dict",
    "Does not validate",
    "Errors:",
    "Given value type:",
    "Given value: Namespace(",
    "Given value: NestedArg(",
    "Subclass types expect",
    "Subtypes:",
)
"""Beginnings of lines in which jsonargparse says how it works, not what is wrong."""


class Parser(ArgumentParser):
    """A parser that also reads files of anomalib's own tiled ensemble, and lists allowed names in its errors."""

    def __init__(self, **options: Plain) -> None:
        # _files_first and commands look for whole names, and would miss an abbreviated --config or --ckpt_dir.
        super().__init__(**{"allow_abbrev": False, **options})
        self.class_name = ""

    def add_class_arguments(  # type: ignore[override]
        self, theclass: type, nested_key: str | None = None, **options: Plain
    ) -> list[str]:
        """Add the arguments of a class; a parser that takes nothing else names the class in its errors."""
        if nested_key is None:
            self.class_name = theclass.__name__
        return super().add_class_arguments(theclass, nested_key, **options)

    def parse_args(self, args: Sequence[str], *arguments: Plain, **options: Plain) -> Namespace:  # type: ignore[override]
        """Parse arguments; options override files, in any order."""
        _check_arguments(args)
        try:
            return super().parse_args(_files_first(args), *arguments, **options)
        except UnicodeDecodeError as error:
            message = f"A configuration must be text in UTF-8, but one of the files is not: {error}. Convert it."
            raise ConfigurationError(message) from error

    def parse_path(self, cfg_path: str | PathLike[str], *arguments: Plain, **options: Plain) -> Namespace:
        """Parse the file after ``--config``; reads no more of it than a configuration may have."""
        path = Path_fr(cfg_path)
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(LONGEST_CONFIGURATION + 1)
        with path.relative_path_context():
            return self.parse_string(text, *arguments, **{**options, "cfg_path": Path(path).name})

    def parse_string(self, cfg_str: str, *arguments: Plain, **options: Plain) -> Namespace:
        """Parse the text of a configuration: the value of ``--config``, or the content of the file that it names."""
        check_yaml(cfg_str, options.get("cfg_path") or "The configuration")
        return super().parse_string(_in_our_form(cfg_str), *arguments, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise an error instead of printing the usage.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(_explained(self, message)) from ex


def _check_arguments(arguments: Iterable[str]) -> None:
    """Check the size of arguments before they are parsed: each may be YAML."""
    option = "An argument"
    for argument in arguments:
        name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        option = name or option
        if equals or not name:
            check_yaml(value, option)


def _files_first(arguments: Iterable[str]) -> list[str]:
    files, others = [], []
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if name in {"-c", "--config"}:
            files += [argument] if equals else [argument, *islice(rest, 1)]
        else:
            others.append(argument)
    return [*files, *others]


def _in_our_form(text: str) -> str:
    """Translate a configuration of anomalib's own tiled ensemble, and say so; give any other unchanged."""
    try:
        configuration = get_loader("yaml")(text)
    except yaml.YAMLError:
        return text  # the parser says what is wrong with it
    if not isinstance(configuration, Mapping):
        message = f"A configuration must hold settings by name, but holds {text.strip() or 'nothing'}."
        raise ConfigurationError(message)
    if not is_reference(configuration):
        return text
    settings, notes = translate(configuration)
    say("\n".join([HEADING, *notes]), Console(stderr=True))  # others read the output of commands
    return str(yaml.safe_dump(settings, sort_keys=False))


def _explained(parser: Parser, message: str) -> str:
    """Say what is wrong; where a name does not exist, name the allowed ones."""
    if unknown := re.search(UNKNOWN, message):
        return _unknown_setting(parser, ".".join(filter(None, unknown.groups())))
    if (missing := re.search(NO_CLASS, message)) and (names := _classes_for(missing[1])):
        broken = "; ".join(map(str, find_plugins().broken))
        plugins = f" These plugins cannot be loaded: {broken}." if broken else ""
        allowed = f"{allowed_names(missing[2], names)} Or give a dotted class path."
        return f"There is no {missing[2]!r} for {missing[1]}. {allowed}{plugins}"
    lines = [line.strip() for line in message.splitlines()]
    text = "\n".join(line for line in lines if line and not line.startswith(NOISE))
    text = _reworded(re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text))
    # The parser around that of a class looks for these keys.
    return text if parser.class_name else re.sub(r'Parser key "(\S+)":', r"\1:", text)


def _reworded(text: str) -> str:
    """Say in plain words which types a setting takes."""

    def must_be(found: re.Match[str]) -> str:
        types = [line.strip().removeprefix("- ").removeprefix("Expected a ") for line in found[2].splitlines()]
        words = dict.fromkeys(IN_WORDS.get(each.partition(":")[0], each) for each in types)
        allowed = re.sub(ONE_OF, r"one of \g<names>", " or ".join(words))
        return f"{found[1]} must be {allowed}, but is {found[3]}."

    text = re.sub(r'Parser key "(\S+)":\n(Expected a .+)\. Got value: (.*)', must_be, text)
    return re.sub(r'Parser key "(\S+)":\n((?:- Expected a .+\n)+)Given value: (.*)', must_be, text)


def _unknown_setting(parser: Parser, name: str) -> str:
    first, _, rest = name.partition(".")
    if first in NAMED_HERE:
        return f"{first!r} of anomalib's own tiled ensemble is called {NAMED_HERE[first]} here. Give that instead."
    names = [action.dest for action in parser._actions]  # noqa: SLF001  # argparse has no public list of options
    top = {each.partition(".")[0] for each in names} - {"help", "print_config", ""}
    inner = {each.split(".")[1] for each in names if each.startswith(f"{first}.")}
    if inner and not rest:
        return f"{first} is a group of settings. Give one of {', '.join(f'{first}.{each}' for each in sorted(inner))}."
    if inner:
        return f"{first} has no setting {rest!r}. {allowed_names(rest, inner)}"
    if not top:
        return f"{parser.class_name} takes no arguments, but {first!r} is given. Leave it out."
    lack = f"{parser.class_name} has" if parser.class_name else "There is"
    return f"{lack} no setting {first!r}. {allowed_names(first, top)}"


def run_parser(prog: str, description: str, formatter: type[HelpFormatter] | None = None) -> Parser:
    """Give the options of commands that read a run folder."""
    parser = Parser(prog=prog, description=description, **({} if formatter is None else {"formatter_class": formatter}))
    parser.add_argument("--ckpt_dir", type=str, required=True, help="Folder of the run, as fit prints it.")
    return parser


def folder_named(option: str, given: str) -> Path:
    """Give the absolute path of a folder that an option names.

    Raises:
        ConfigurationError: The name is empty.
    """
    if not given:
        message = f"{option} must name a folder, but the name is empty. Is a variable of the shell not set?"
        raise ConfigurationError(message)
    return absolute(given)


def _classes_for(key: str) -> list[str]:
    """Give the short names of the classes that a setting takes."""
    import anomalib.data  # slow, as are those below, and `status` needs none of them
    import anomalib.models
    from anomalib.data import AnomalibDataModule
    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.data.boards import DemoBoards

    if key == "model":
        return _concrete(AnomalibModule, vars(anomalib.models).values())
    if key == "data":
        return _concrete(AnomalibDataModule, [*vars(anomalib.data).values(), DemoBoards])
    kind = kinds.kind_at(key)
    return [] if kind is None else [choice.name for choice in find_plugins().of(kind.name)]


def _concrete(base: type, candidates: Iterable[object]) -> list[str]:
    classes = [each for each in candidates if isinstance(each, type)]
    return [each.__name__ for each in classes if issubclass(each, base) and not isabstract(each)]
