"""README and docs say what is so: files validate, commands parse, names exist, every setting is listed as it is.

docs/own-task.md has a test of its own (test_tasks_own_docs.py); the journeys of README.md are run by test_readme.py.
"""

from __future__ import annotations

import re
import shlex
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any

import click
import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedsus.cli import cli
from fedsus.config import RunConfig, loads
from fedsus.owner.policy import Policy
from fedsus.plan import Cohort, Encoding, Metric, Optimizer
from fedsus_client.config import AgentConfig
from fedsus_simulations.scenario.config import Scenario
from fedsus_simulations.scenario.traces import CURVES

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [file for name in ("fedsus", "client", "server", "simulations") for file in (ROOT / name).rglob("*.py")]
FILES: Mapping[str, type[BaseModel]] = {
    "run.toml": RunConfig,
    "policy.toml": Policy,
    "agent.toml": AgentConfig,
    "scenario.toml": Scenario,
}
LEAST: Mapping[str, str] = {
    "run.toml": 'task = { name = "heart" }\nplan = { rounds = 2, cohort = { size = 3, minimum = 3 } }\n',
    "policy.toml": "",
    "scenario.toml": "plan = { rounds = 2, cohort = { size = 3, minimum = 3 } }\n"
    '[task]\nname = "heart"\n[population]\ndata = "heart"\n',
    "agent.toml": '[server]\naddress = "localhost:8443"\n[tasks]\n[data]\n',
}
FORMS = {
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$": "a name",
    r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$": "host:port",
    r"^(auto|cpu|mps|cuda(:[0-9]+)?)$": "`auto` `cpu` `mps` `cuda` `cuda:0` ...",
    r"^[0-9a-f]{64}$": "64 hex digits",
    r"^[A-Za-z0-9-]{1,60}$": "letters, digits, `-`",
}
PATH = re.compile(r"(?:fedsus|client|server|simulations|tests|examples|scripts|docs)/[\w./-]+(?:::\w+)?")


def pages(*, besides: str = "") -> list[Any]:
    return [pytest.param(page, id=page.name) for page in PAGES if page.name != besides]


def fenced(page: Path) -> list[tuple[str, str, str]]:
    """(language, title or first comment, text) of each fenced block."""
    found = []
    for match in re.finditer(
        r"^```(\w*)(?: title=\"([^\"]*)\")?\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        language, title, text = match[1], match[2] or "", match[3]
        comment = re.match(r"# (\S+\.toml(?: \(a part\))?)$", text.partition("\n")[0])
        found.append((language, title or (comment[1] if comment else ""), text))
    return found


def inline(page: Path) -> list[str]:
    """Text of each inline code, and of nothing in fenced blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def commands(page: Path) -> list[str]:
    """Whole command lines of fenced blocks."""
    lines = [line.strip() for language, _, text in fenced(page) if language != "toml" for line in text.splitlines()]
    joined = [part.strip() for line in lines for part in line.split("&&")]
    return [re.sub(r"^(?:sudo (?:-u \S+ )?)?(?:\S*/bin/)", "", line).partition(" #")[0] for line in joined]


@pytest.mark.parametrize("page", pages(besides="own-task.md"))
def test_blocks_are_of_a_kind_that_is_checked(page: Path) -> None:
    assert {language for language, _, _ in fenced(page)} <= {"bash", "sh", "text", "toml", ""}


@pytest.mark.parametrize("page", pages(besides="own-task.md"))
def test_configuration_files_are_valid(page: Path) -> None:
    for language, title, text in fenced(page):
        if language == "toml":
            name, _, part = title.partition(" ")
            assert name in FILES, f"say which file this is in its first line: # run.toml\n{text}"
            if part:
                merge(tomllib.loads(LEAST[name]), tomllib.loads(text), FILES[name])
            else:
                loads(text, FILES[name], f"{page.name}: {name}")


def merge(least: dict[str, Any], part: dict[str, Any], model: type[BaseModel]) -> None:
    """Validate a part of a file, over the least that a file must say."""

    def over(below: Any, above: Any) -> Any:
        if isinstance(below, dict) and isinstance(above, dict):
            return {key: over(below.get(key), above.get(key, below.get(key))) for key in below | above}
        return above

    model.model_validate(over(least, part))


@pytest.mark.parametrize("file", sorted((ROOT / "examples" / "heart").glob("*.toml")), ids=lambda file: file.name)
def test_the_examples_are_valid(file: Path) -> None:
    loads(file.read_text(encoding="utf-8"), FILES[file.name], file.name)


@pytest.mark.parametrize("file", ["agent.toml", "policy.toml"])
def test_the_templates_are_valid(file: str) -> None:
    text = (ROOT / "client" / "fedsus_client" / "files" / file).read_text(encoding="utf-8")
    loads(text, FILES[file], file)


@pytest.mark.parametrize("page", pages())
def test_fedsus_commands_parse(page: Path) -> None:
    for line in commands(page):
        if line.startswith("fedsus "):
            parse(line, whole=True)
    for code in inline(page):
        if code.startswith("fedsus ") and "|" not in code:
            parse(code, whole=False)


def parse(line: str, whole: bool) -> None:
    """Follow a command line down to its command; unknown commands and options fail, missing ones if ``whole``."""
    words = shlex.split(line)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="fedsus")
    while isinstance(command, click.Group) and words:
        if words[0].startswith("-"):
            words = words[1:]  # --debug, --help
            continue
        if words[0].isupper():
            return
        found = command.get_command(context, words[0])
        assert found is not None, f"{line}: no command '{words[0]}'"
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    if isinstance(command, click.Group):
        return
    try:
        command.make_context(command.name, [word.replace("RUN_TOML", "run.toml") for word in words], parent=context)
    except click.exceptions.Exit:
        return
    except click.UsageError as error:
        if whole or not isinstance(error, click.MissingParameter):
            pytest.fail(f"{line}: {error.format_message()}")


@pytest.mark.parametrize("line", ["fedsus server begin", "fedsus server start --prot 1", "fedsus simulate"])
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        parse(line, whole=True)


@pytest.mark.parametrize("page", pages())
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    said = [line for line in [*commands(page), *inline(page)] if line.startswith("make ")]
    for line in said:
        assert shlex.split(line)[1] in {*targets, "TARGET"}, line


@pytest.mark.parametrize("page", pages())
def test_named_files_and_tests_exist(page: Path) -> None:
    for code in inline(page):
        if PATH.fullmatch(code):
            name, _, function = code.partition("::")
            assert (ROOT / name).exists(), code
            if function:
                assert re.search(rf"^def {function}\(", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE), code


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_messages_in_the_table_of_errors_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    section = text.partition("## What to do when")[2]
    messages = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert len(messages) > 15
    source = "\n".join(file.read_text(encoding="utf-8") for file in SOURCES)
    missing = [message for message in messages for part in message.split("...") if part.strip() not in source]
    assert missing == []


def is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def limits(metadata: typing.Iterable[Any]) -> str:
    """The range of a number or the form of a text, as the page writes it."""
    said = []
    for one in metadata:
        if isinstance(one, FieldInfo):
            said.append(limits(one.metadata))
        for sign, kind, key in ((">", Gt, "gt"), ("≥", Ge, "ge"), ("<", Lt, "lt"), ("≤", Le, "le")):
            if isinstance(one, kind):
                said.append(f"{sign} {getattr(one, key):,g}".replace(",", " "))
        if isinstance(one, MaxLen):
            said.append(f"at most {one.max_length}")
        pattern = getattr(one, "pattern", None)
        if isinstance(pattern, str):
            said.append(FORMS[pattern])
    return ", ".join(part for part in said if part)


def described(kind: Any, metadata: typing.Iterable[Any] = ()) -> tuple[str, str]:
    """Type and range of an annotation."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return described(arguments[0], [*arguments[1:], *metadata])
    if origin in (typing.Union, UnionType):
        inner = [described(one, metadata) for one in arguments if one is not type(None)]
        return " or ".join(dict.fromkeys(name for name, _ in inner)), inner[0][1]
    if origin is typing.Literal:
        numbers = all(isinstance(value, int) for value in arguments)
        return "whole number" if numbers else "text", " ".join(f"`{value}`" for value in arguments)
    if origin is list or (origin is tuple and not is_model(arguments[0])):
        if is_model(arguments[0]):
            return "list of tables", limits(metadata)
        name, allowed = described(arguments[0])
        return f"list of {name}", allowed
    if origin is tuple:
        return "list of tables", limits(metadata)
    if is_model(kind):
        return "table", ""
    if origin is dict:
        return "table", ""
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
    return names[kind], limits(metadata)


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, dict[str, tuple[str, str, str]]]]:
    """Each table of a file: its heading, and field -> (type, range, default)."""
    fields = {}
    nested: list[tuple[str, type[BaseModel]]] = []
    for name, info in model.model_fields.items():
        kind, below = info.annotation, f"{path}.{name}" if path else name
        values = typing.get_args(kind)
        if is_model(values[0] if values else None) and values[1:] == (type(None),):
            kind, values = values[0], ()  # a table that may be left out
        if is_model(kind):
            nested.append((below, typing.cast("type[BaseModel]", kind)))
            continue
        if typing.get_origin(kind) is dict and is_model(values[1]):
            nested.append((f"{below}.<name>", values[1]))
            continue
        if typing.get_origin(kind) in (list, tuple) and is_model(values[0]):
            nested.append((f"[{below}]", values[0]))
        kind_said, allowed = described(kind, info.metadata)
        default = "required" if info.is_required() else said(info.get_default(call_default_factory=True))
        fields[name] = (kind_said, allowed, default)
    if fields:
        yield path, fields
    for below, inner in nested:
        yield from sections(inner, below)


def said(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:,g}".replace(",", " ") if abs(value) >= 1 or value == 0 else f"{value:g}"
    if value in CURVES.values():
        return next(name for name, curve in CURVES.items() if curve == value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "empty"
    return "empty" if value == {} else str(value)


def documented(page: str) -> dict[str, dict[str, dict[str, tuple[str, str, str]]]]:
    """File -> heading -> field -> (type, range, default), as the page has them."""
    found: dict[str, dict[str, dict[str, tuple[str, str, str]]]] = {}
    file = heading = ""
    for line in page.splitlines():
        if match := re.fullmatch(r"## `(\S+\.toml)`", line):
            file, heading = match[1], ""
        elif match := re.fullmatch(r"### `\[(\S+)\]`", line):
            heading = match[1]
        elif match := re.match(r"\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| .+ \|$", line):
            kind, allowed, default = (part.strip() for part in match.groups()[1:])
            found.setdefault(file, {}).setdefault(heading, {})[match[1]] = (kind, allowed, default)
    return found


@pytest.mark.parametrize("file", FILES)
def test_the_page_of_settings_has_each_with_its_type_range_and_default(file: str) -> None:
    if file == "scenario.toml":
        page = documented((ROOT / "docs" / "simulation.md").read_text(encoding="utf-8"))
        assert page[file] == beyond(Scenario, RunConfig)
        return
    page = documented((ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"))
    assert page[file] == dict(sections(FILES[file]))


def beyond(model: type[BaseModel], base: type[BaseModel]) -> dict[str, dict[str, tuple[str, str, str]]]:
    """The settings that a file has, and the one that it builds on has not."""
    known = dict(sections(base))
    found = {
        heading: {name: told for name, told in fields.items() if known.get(heading, {}).get(name) != told}
        for heading, fields in sections(model)
    }
    return {heading: fields for heading, fields in found.items() if fields}


def test_the_settings_are_really_read_from_the_models() -> None:
    whole = dict(sections(Encoding))[""]
    assert whole["bits"] == ("whole number", "≥ 16, ≤ 32", "32")
    (optimizer,) = [fields for heading, fields in sections(Optimizer)]
    assert optimizer["learning_rate"] == ("number", "> 0, ≤ 1e+09", "0.1")
    assert dict(sections(Cohort))[""]["minimum"][2] == "required"
    assert dict(sections(Metric))[""]["low"][1] == "≥ -1e+06, ≤ 1e+06"
