"""What happens to a gateway: the inputs of `machine.GatewayMachine`, as plain values.

A driver (paho-mqtt in `client`, raw sockets or virtual time in the simulator) turns I/O into these. No behaviour lives
here. Values that may hold a secret show their size instead of their content (P6).
"""

from typing import Final, get_args

import msgspec


class Started(msgspec.Struct, frozen=True, gc=False):
    """Power is on. `stored` is what the credentials file holds, byte for byte, or None when there is no file.

    `renewed` is what was saved as a renewal and is not known to have logged in.
    """

    stored: bytes | None
    renewed: bytes | None = None

    def __repr__(self) -> str:
        return f"Started(stored={_size(self.stored)}, renewed={_size(self.renewed)})"


class ConnectSucceeded(msgspec.Struct, frozen=True, gc=False):
    """CONNACK with reason code 0 arrived for the last Connect action."""


class ConnectRefused(msgspec.Struct, frozen=True, gc=False):
    """CONNACK with another reason code; the connection is over.

    `reason_code` is the MQTT 5 number (MQTT 5 section 3.2.2.2); a driver maps 3.1.1 return codes to it. A broker that
    rejects the client certificate within TLS sends no CONNACK: report 0x87 (not authorized) then.
    """

    reason_code: int


class ConnectFailed(msgspec.Struct, frozen=True, gc=False):
    """No connection came about (DNS, TCP, TLS); `text` says why."""

    text: str


class ConnectionLost(msgspec.Struct, frozen=True, gc=False):
    """The peer or the network ended the connection. Not sent after a Disconnect action."""

    text: str


class MessageReceived(msgspec.Struct, frozen=True, gc=False):
    """A PUBLISH arrived; the driver has acknowledged it."""

    topic: str
    payload: bytes

    def __repr__(self) -> str:
        return f"MessageReceived(topic={self.topic!r}, payload=<{len(self.payload)} bytes>)"


class PublishAcknowledged(msgspec.Struct, frozen=True, gc=False):
    """PUBACK arrived for the Publish action that carried this token (only those with a token are reported)."""

    token: int


class CredentialsSaved(msgspec.Struct, frozen=True, gc=False):
    """The bytes of the last SaveCredentials action survive a power cut from now on."""


class CredentialsSaveFailed(msgspec.Struct, frozen=True, gc=False):
    """They were not saved; what was stored before is untouched. `text` says why."""

    text: str


class CredentialsUnusable(msgspec.Struct, frozen=True, gc=False):
    """They were not saved, and never can be used: a certificate for a key that is not here. `text` says why."""

    text: str


class RequestMade(msgspec.Struct, frozen=True, gc=False):
    """The provision request that MakeRequest asked for."""

    request: bytes

    def __repr__(self) -> str:
        return f"RequestMade(<{len(self.request)} bytes>)"


class RequestNotMade(msgspec.Struct, frozen=True, gc=False):
    """MakeRequest failed; `text` says why."""

    text: str


class CredentialsRemoved(msgspec.Struct, frozen=True, gc=False):
    """The credentials file is gone, also after a power cut."""


class CredentialsRemoveFailed(msgspec.Struct, frozen=True, gc=False):
    """The credentials file could not be removed and is still in force; `text` says why."""

    text: str


class TimerFired(msgspec.Struct, frozen=True, gc=False):
    """The delay of the SetTimer action with this number is over. A number that is no longer armed is harmless."""

    timer: int


class StopRequested(msgspec.Struct, frozen=True, gc=False):
    """Somebody wants the gateway to end in good order."""


def _size(content: bytes | None) -> str:
    return "None" if content is None else f"<{len(content)} bytes>"


Event = (
    Started
    | ConnectSucceeded
    | ConnectRefused
    | ConnectFailed
    | ConnectionLost
    | MessageReceived
    | PublishAcknowledged
    | CredentialsSaved
    | CredentialsSaveFailed
    | CredentialsUnusable
    | RequestMade
    | RequestNotMade
    | CredentialsRemoved
    | CredentialsRemoveFailed
    | TimerFired
    | StopRequested
)

EventType = type[msgspec.Struct]
EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(Event)
