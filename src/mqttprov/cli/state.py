"""The state directory as verbs use it: where it is, opening it, who acts; and `init`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mqttprov.admin import Admin, DeviceLife, account, initialise
from mqttprov.cli.errors import Exit, Failure
from mqttprov.cli.output import emit_fields, emit_json, say
from mqttprov.cli.secret_files import told_once
from mqttprov.responder.state_directory import StateDirectory

if TYPE_CHECKING:
    from mqttprov.store.protocol import Reader

ENVIRONMENT: Final = "MQTTPROV_STATE"
_DEFAULT: Final = Path("mqttprov-state")
_HELP: Final = f"State directory; else ${ENVIRONMENT}, else ./{_DEFAULT}."


def directory(text: str) -> Path:
    """Give the state directory that an option names. Raises `Failure` for none, as an unset shell variable leaves."""
    if not text:
        raise Failure("--state-dir names no directory: its value is empty; is a variable unset?", Exit.USAGE)
    path = Path(text)
    if path.exists() and not os.access(path, os.R_OK):
        raise Failure(f"directory {text!r} is not readable by this user; run this as its owner", Exit.DENIED)
    return path


StateOption = Annotated[
    Path | None, typer.Option("--state-dir", "--state", parser=directory, metavar="DIR", help=_HELP, show_default=False)
]
# Where `--state` is the lifecycle state of devices.
OnlyStateDirOption = Annotated[
    Path | None, typer.Option("--state-dir", parser=directory, metavar="DIR", help=_HELP, show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

OwnTopicsOption = Annotated[
    bool,
    typer.Option(
        "--own-topics", help="Topics that name client and device, for brokers that route by topic (RabbitMQ)."
    ),
]

_before_the_verb: list[Path | None] = [None]


def remember_state(path: Path | None) -> None:
    """Keep what `--state-dir` said before the verb; the verb's own wins over it."""
    _before_the_verb[0] = path


def state_path(given: Path | None, configured: Path | None = None) -> Path:
    """Give the state directory that the command line, a settings file of the verb or the environment mean."""
    return given or _before_the_verb[0] or configured or Path(os.environ.get(ENVIRONMENT) or _DEFAULT)


def actor() -> str:
    """Give who acts, for audit events."""
    return f"cli:{account()}"


@contextmanager
def opened(given: Path | None, configured: Path | None = None) -> Iterator[StateDirectory]:
    """Open the state directory for a verb. Raises `StateError`."""
    state = StateDirectory(state_path(given, configured))
    try:
        yield state
    finally:
        state.close()


@contextmanager
def reading(given: Path | None) -> Iterator["Reader"]:
    """Open the state directory for a verb that only asks. Raises `StateError`."""
    with opened(given) as state:
        reader = state.store.reader()
        try:
            yield reader
        finally:
            reader.close()


def administering(given: Path | None) -> Admin:
    """Open the state directory for a verb, to do and to ask. Raises `StateError`."""
    return Admin(state_path(given), actor=actor())


@contextmanager
def caring(given: Path | None) -> Iterator[DeviceLife]:
    """Open the state directory for a verb on one device, which acts on running brokers too. Raises `StateError`."""
    with administering(given) as admin:
        yield admin.life


def init(state: StateOption = None, json: JsonOption = False) -> None:
    """Make the state directory with the profile 'default' and its registration token.

    Prints key and secret this once. Run again it changes nothing, and completes what was interrupted.
    """
    path = state_path(state)
    issued = initialise(path, actor=actor())
    if issued is None:
        say(f"{path} is initialised already; nothing was changed. For a new secret: mqttprov token create")
        if json:
            emit_json({"initialised": False, "state": str(path)})
        return
    credentials = {"provisionDeviceKey": issued.key, "provisionDeviceSecret": issued.secret}
    with told_once(
        f"{path} is made with a token's secret",
        f"give that token another one: mqttprov token rotate {issued.key} --yes --state {path}",
    ):
        if json:
            names = {"profile": issued.profile, "token": issued.name}
            emit_json({"initialised": True, "state": str(path), **names, **credentials})
            return
        say(f"Made the state directory {path}. The secret is shown this once:")
        emit_fields(credentials)
    say(f"Next: mqttprov serve{'' if path == _DEFAULT else f' --state {path}'}")
