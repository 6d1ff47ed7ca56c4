"""Reading what a person types: durations, labels, limits, secrets from files. What is allowed is judged elsewhere."""

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import typer

from mqttprov.admin import LifecycleState
from mqttprov.cli.errors import Exit, Failure

_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])")
_UNIT_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LONGEST_MS: Final = 100 * 366 * _UNIT_MS["d"]
_MAX_FILE_BYTES: Final = 64 * 1024


class _TokenFile(msgspec.Struct):
    provisionDeviceKey: str  # noqa: N815 - ThingsBoard's name
    provisionDeviceSecret: str  # noqa: N815 - the same


def finite(value: float) -> float:
    """Refuse what is no number: it is neither below nor above any bound. Raises a usage error."""
    if math.isnan(value):
        raise typer.BadParameter("nan is not a number; write for example 2.5")
    return value


def duration_ms(text: str, option: str) -> int:
    """Read `30d`, `12h`, `45m` or `90s`. Raises a usage error that names the option."""
    parts = _DURATION.fullmatch(text.strip())
    value_ms = int(parts[1]) * _UNIT_MS[parts[2]] if parts else 0
    if not 0 < value_ms <= _LONGEST_MS:
        raise typer.BadParameter(
            f"{text!r} is not a duration up to 100 years; write for example 30d, 12h, 45m or 90s",
            param_hint=f"'{option}'",
        )
    return value_ms


def labels(given: Sequence[str]) -> dict[str, str]:
    """Read `key=value` for each label. Raises a usage error."""
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"label {text!r} has no '='; write key=value")
        if key in found:
            raise typer.BadParameter(f"label {key!r} is given twice; give it once")
        found[key] = value
    return found


def label_changes(given: Sequence[str]) -> dict[str, str | None]:
    """Read `key=value`, or `key-` for a label that is to go (None). Raises a usage error."""
    removed = [text for text in given if "=" not in text]
    for text in removed:
        if not text.endswith("-"):
            raise typer.BadParameter(f"{text!r} changes no label; write key=value, or key- to remove one")
    changes: dict[str, str | None] = dict(labels([text for text in given if "=" in text]))
    for key in (text[:-1] for text in removed):
        if key in changes:
            raise typer.BadParameter(f"label {key!r} is given twice; give it once")
        changes[key] = None
    return changes


def lifecycle_state(text: str) -> LifecycleState:
    """Read the name of a lifecycle state. Raises a usage error."""
    try:
        return LifecycleState(text)
    except ValueError:
        known = ", ".join(LifecycleState)
        raise typer.BadParameter(f"{text!r} is none of {known}; a state directory is given by --state-dir") from None


def whole_number(text: str, option: str) -> int:
    """Read a number without sign or point. Raises a usage error that names the option."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise typer.BadParameter(
            f"{text!r} is not a whole number of at most 18 digits, without a sign; write for example 500",
            param_hint=f"'{option}'",
        )
    return int(text)


def text_from_file(path: Path, what: str = "the secret") -> str:
    """Read a secret, or `what` else is sent, from a file, without the line end behind it."""
    try:
        with path.open("rb") as file:
            return _text(file.read(_MAX_FILE_BYTES + 1), str(path), what)
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror or error}; name a file with {what}") from error


def secret_from_stdin() -> str:
    """Read a secret from standard input, without the line end behind it."""
    if sys.stdin.isatty():
        text: str = typer.prompt("secret", hide_input=True, err=True)
        return text
    return _text(sys.stdin.buffer.read(_MAX_FILE_BYTES + 1), "standard input", "the secret")


def registration_token(key: str | None, secret: str) -> tuple[str, str]:
    """Give key and secret of a registration token; `secret` may be a whole file of `token create --output-file`."""
    if secret.startswith("{"):
        try:
            both = msgspec.json.decode(secret, type=_TokenFile)
        except msgspec.DecodeError as error:
            raise Failure(f"the secret is no file of 'token create --output-file': {error}", Exit.USAGE) from error
        key, secret = key or both.provisionDeviceKey, both.provisionDeviceSecret
    if key is None:
        raise Failure("give --key, or a file of 'token create --output-file' as --secret-file", Exit.USAGE)
    return key, secret


def _text(content: bytes, where: str, what: str) -> str:
    if len(content) > _MAX_FILE_BYTES:
        raise Failure(f"{where} holds more than {_MAX_FILE_BYTES} bytes; that is not {what}")
    try:
        text = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Failure(f"{where} is not UTF-8 text; it must hold {what} as it was printed") from None
    if not text:
        raise Failure(f"{where} is empty; it must hold {what}")
    return text
