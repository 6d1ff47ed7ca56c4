"""What a broker tells the program that embeds it: values without secrets. Nothing is decided here."""

import msgspec

from mqttprov.core.audit import Event
from mqttprov.core.login import Principal


class Recorded(msgspec.Struct, frozen=True):
    """An audit event: a registration, a refusal, a first login, an operator's action, by whichever process.

    They come in the order of the chain after their commit, each at least once: after a crash some come again.
    """

    seq: int  # its place in the chain, from 1
    event: Event


class LoginRefused(msgspec.Struct, frozen=True):
    """A login was refused; `source` is the client's address.

    `reason` is a `LoginRefusal`, or a `Reason` where the chain of a certificate did not make it a device.
    """

    reason: str
    source: str


class SessionBegun(msgspec.Struct, frozen=True):
    """A device or operator has logged in."""

    principal: Principal
    source: str


class SessionEnded(msgspec.Struct, frozen=True):
    """A session that had begun is over, whoever ended it."""

    principal: Principal
    source: str


Outcome = Recorded | LoginRefused | SessionBegun | SessionEnded
