"""Writes the page docs/reference/cli.md from the command line itself: `python -m mqttprov.cli.reference`.

The page is made from the verbs' own signatures and docstrings, so it cannot say anything else than they do.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Annotated, Any, Final, get_args, get_origin

import typer
from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from mqttprov.cli.errors import MEANINGS
from mqttprov.cli.main import NAMES, command_line

_HEAD: Final = """\
# The command line

Made by `python -m mqttprov.cli.reference > docs/reference/cli.md`; a test holds it to the program.

`mqttprov` is also reachable as `python -m mqttprov`. Data goes to stdout, everything else to stderr. With `--json` a
verb prints one JSON value, lists print one array; times are ISO 8601 in UTC. Secrets are never given on the command
line: they come from files or standard input, and those that are made are shown once.

The state directory is what `--state-dir` says (before or after the verb), else `MQTTPROV_STATE`, else
`./mqttprov-state`. `--state` is short for it, also before the verb; but behind `device list` it is the lifecycle state.
Verbs on it work beside a running `mqttprov serve`. Durations are written `90s`, `45m`, `12h` or `30d`.

## Exit statuses

| status | meaning |
|---|---|
"""


def page() -> str:
    """Give the whole page."""
    statuses = "".join(f"| {status.value} | {meaning} |\n" for status, meaning in MEANINGS.items())
    return _HEAD + statuses + "".join(_verb(name, function) for name, function in _verbs())


def _verbs() -> Iterator[tuple[str, Callable[..., Any]]]:
    app = command_line(NAMES)
    yield from _commands(app)
    for group in app.registered_groups:
        assert group.typer_instance is not None  # noqa: S101 - for the type checker: groups are made from one
        for name, function in _commands(group.typer_instance):
            yield f"{group.name} {name}", function


def _commands(app: typer.Typer) -> Iterator[tuple[str, Callable[..., Any]]]:
    for command in app.registered_commands:
        assert command.callback is not None  # noqa: S101 - for the type checker: verbs are functions
        yield command.name or command.callback.__name__, command.callback


def _verb(name: str, function: Callable[..., Any]) -> str:
    parameters = [_parameter(parameter) for parameter in inspect.signature(function).parameters.values()]
    arguments = "".join(f" {shown}" for shown, _, is_argument in parameters if is_argument)
    rows = "".join(f"| `{shown}` | {text} |\n" for shown, text, _ in parameters)
    return (
        f"\n## `mqttprov {name}{arguments}`\n\n{inspect.cleandoc(function.__doc__ or '')}\n\n"
        f"| option | meaning |\n|---|---|\n{rows}"
    )


def _parameter(parameter: inspect.Parameter) -> tuple[str, str, bool]:
    """Give how it is written, what it means and whether it is an argument."""
    annotation = parameter.annotation
    assert get_origin(annotation) is Annotated  # noqa: S101 - a verb's parameters are all described
    kind, info = get_args(annotation)[:2]
    assert isinstance(info, ParameterInfo)  # noqa: S101 - the same
    text = (info.help or "").replace("|", "\\|")
    if isinstance(info, ArgumentInfo):
        return parameter.name.upper(), text, True
    assert isinstance(info, OptionInfo)  # noqa: S101 - there are only these two
    # Within Annotated, typer keeps the first name where a default would be.
    given = (info.default, *(info.param_decls or ()))
    names = [name for name in given if isinstance(name, str) and name.startswith("-")]
    names = names or [f"--{parameter.name.replace('_', '-')}"]
    value = "" if bool in {kind, *get_args(kind)} else f" {info.metavar or _metavar(kind)}"
    shown = ", ".join(names) + value.replace("|", "\\|")
    return shown, text + _default(parameter.default, info), False


def _metavar(kind: Any) -> str:
    for candidate in get_args(kind) or (kind,):
        if isinstance(candidate, type) and issubclass(candidate, StrEnum):
            return "|".join(candidate)
    return "N" if kind in {int, float, int | None, float | None} else "TEXT"


def _default(value: Any, info: OptionInfo) -> str:
    if value is inspect.Parameter.empty:
        return " Required."
    if isinstance(info.show_default, str):
        return f" Default: {info.show_default}."
    return "" if value is None or value is False else f" Default: `{value}`."


if __name__ == "__main__":
    sys.stdout.write(page())
