"""The command `mqttprov`: puts the verbs together and turns every expected error into one line and an exit status."""

import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final

import typer

from mqttprov import __version__
from mqttprov.cli import state
from mqttprov.cli.errors import EXPECTED, Exit, exit_status
from mqttprov.cli.output import emit, say
from mqttprov.core.audit import BrokenChain

# Verb or noun -> its module; a command line loads only what it names, because building a parser takes its time.
_VERBS: Final = {
    "init": "state",
    "serve": "serve",
    "respond": "respond",
    "request": "request",
    "simulate": "simulate",
    "demo": "simulate",
    "http-auth": "http_auth",
    "doctor": "doctor",
}
_NOUNS: Final = {
    "profile": "profiles",
    "token": "tokens",
    "device": "devices",
    "operator": "operators",
    "audit": "audit",
    "ca": "ca",
    "gateway": "gateway",
    "mosquitto": "mosquitto",
    "swarm": "swarm_verbs",
}
NAMES: Final = (*_VERBS, *_NOUNS)


def _tell_version(asked: bool) -> None:
    if asked:
        emit(f"mqttprov {__version__}")
        raise typer.Exit


def _before_the_verb(
    state_directory: Annotated[
        Path | None,
        typer.Option(
            "--state-dir",
            "--state",
            parser=state.directory,
            metavar="DIR",
            help="State directory; may also follow the verb.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Print name and version.")
    ] = False,
) -> None:
    """Turn a provision key and secret into a device identity over MQTT."""
    state.remember_state(state_directory)


def command_line(names: Iterable[str] = NAMES) -> typer.Typer:
    """Give the command line with these verbs and nouns."""
    app = typer.Typer(name="mqttprov", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(_before_the_verb)
    for name in names:
        module = import_module(f"mqttprov.cli.{_VERBS.get(name) or _NOUNS[name]}")
        if name in _VERBS:
            app.command(name)(getattr(module, name.replace("-", "_")))
        else:
            app.add_typer(module.app, name=name)
    return app


def run(arguments: Sequence[str]) -> int:
    """Do what the command line says; give the exit status. Every expected error is one line on stderr."""
    named = [name for name in NAMES if name in arguments]
    try:
        for text in arguments:
            text.encode()
        app = command_line(named if named and arguments[0] != "--help" else NAMES)
        result = app(list(arguments) or ["--help"], prog_name="mqttprov", standalone_mode=False)
    except UnicodeEncodeError:
        return _fail("the command line holds bytes that are not UTF-8; type it again", Exit.USAGE)
    except typer.TyperException as error:  # what typer itself finds wrong with the command line
        return _usage(error)
    except (typer.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except BrokenChain as error:
        return _fail(f"the audit chain is broken: {error}", Exit.FAILED)
    except EXPECTED as error:
        return _fail(_text(error), exit_status(error))
    return result if isinstance(result, int) else Exit.OK


def _usage(error: typer.TyperException) -> int:
    text = error.format_message().strip().rstrip(".")
    if text.endswith(" is not readable"):  # how typer tells of a file that this user may not read
        return _fail(f"{text} by this user; run this as its owner", Exit.DENIED)
    context = getattr(error, "ctx", None)  # only usage errors have one
    if context is not None:
        text += f"{'' if text.endswith('?') else ';'} see: {context.command_path} --help"
    return _fail(text, Exit(error.exit_code))


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:  # without its number
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


def _fail(text: str, status: Exit) -> int:
    say(f"error: {text}")
    return status


def main() -> None:
    """Run the command of this process (console script `mqttprov`)."""
    sys.exit(run(sys.argv[1:]))
