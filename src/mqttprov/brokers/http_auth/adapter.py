"""What every adapter is: a broker's way to ask and to be answered. Also what they share in reading its questions."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from mqttprov.brokers.http_auth.desk import Desk

T = TypeVar("T")


class Question(msgspec.Struct, frozen=True):
    """One HTTP request: the rest of its path behind the adapter's name, its headers (lower case), its body."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Question(path={self.path!r}, <{len(self.body)} bytes>)"


class Unreadable(ValueError):  # noqa: N818 - it names what is wrong
    """The broker asked something that this adapter does not understand; the answer is a refusal."""


class Adapter(msgspec.Struct, frozen=True):
    """A broker's form. `deny` is its refusal; `answer` raises `Unreadable`."""

    media_type: str
    deny: bytes
    answer: Callable[[Desk, Question], Awaitable[bytes]]


def read_json(body: bytes, kind: type[T]) -> T:
    """Read a JSON body of this shape. Raises `Unreadable`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"not the expected JSON: {type(error).__name__}") from error


def to_json(value: Any) -> bytes:
    """Write a JSON body."""
    return msgspec.json.encode(value)
