"""What a gateway wants done: the outputs of `machine.GatewayMachine`, to be carried out by a driver in order.

Plain values, no behaviour. A driver's duties are written at each action; values that hold a secret do not show it (P6).
"""

from typing import Literal

import msgspec

Role = Literal["provisioning", "operational"]


class Connect(msgspec.Struct, frozen=True, gc=False):
    """Open a connection and send CONNECT with a clean start. There is never another one open at this point.

    `version` is the protocol level (4 = MQTT 3.1.1, 5 = MQTT 5). `use_client_certificate`: present the gateway's own
    certificate in TLS; with `renewed` the one that was saved as a renewal. A driver with TLS verifies the server in
    both roles.
    """

    role: Role
    client_id: str
    username: str | None
    password: str | None
    keep_alive_s: int
    version: int
    use_client_certificate: bool
    renewed: bool = False

    def __repr__(self) -> str:
        return f"Connect(role={self.role!r}, version={self.version}, certificate={self.use_client_certificate})"


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """Send SUBSCRIBE; nobody waits for the SUBACK."""

    filters: tuple[str, ...]
    qos: int = 1


class Publish(msgspec.Struct, frozen=True, gc=False):
    """Send PUBLISH, never retained. With a `token`, report its PUBACK as PublishAcknowledged; without one, do not."""

    topic: str
    payload: bytes
    qos: int
    token: int | None = None

    def __repr__(self) -> str:
        return f"Publish(topic={self.topic!r}, payload=<{len(self.payload)} bytes>, qos={self.qos}, token={self.token})"


class Disconnect(msgspec.Struct, frozen=True, gc=False):
    """Send DISCONNECT if connected and close. Harmless when nothing is open; no event of that connection may follow."""


class SaveCredentials(msgspec.Struct, frozen=True, gc=False):
    """Replace what is stored by these bytes, all or nothing also under a power cut (P10), then report how it went.

    With `renewed` they are kept beside what is stored, which stays, until AdoptRenewed.
    """

    content: bytes
    renewed: bool = False

    def __repr__(self) -> str:
        return f"SaveCredentials(content=<{len(self.content)} bytes>)"


class AdoptRenewed(msgspec.Struct, frozen=True, gc=False):
    """What was saved as a renewal has logged in: let it replace what is stored. Nobody waits for it.

    Should it fail, both are there at the next start, and the renewal has its turn first.
    """


class MakeRequest(msgspec.Struct, frozen=True, gc=False):
    """Make a provision request for a renewal, then report it. `new_key`: with a key that no certificate has yet.

    The same key until AdoptRenewed, also after a power cut, so that a repeated request gets the same answer (P4).
    """

    new_key: bool


class RemoveCredentials(msgspec.Struct, frozen=True, gc=False):
    """Remove what is stored, a renewal included, then report how it went. Nothing stored counts as removed."""


class SetTimer(msgspec.Struct, frozen=True, gc=False):
    """Report TimerFired(timer) after `delay_s` seconds. One timer is armed at most: this one replaces any other."""

    timer: int
    delay_s: float


class CancelTimer(msgspec.Struct, frozen=True, gc=False):
    """Forget the timer with this number."""

    timer: int


class StateChanged(msgspec.Struct, frozen=True, gc=False):
    """For people and statistics; nothing to carry out. States by name (`transitions.State`); `why` holds no secret."""

    old: str
    new: str
    why: str


class Stopped(msgspec.Struct, frozen=True, gc=False):
    """Last action ever: everything is closed, release the driver."""


Action = (
    Connect
    | Subscribe
    | Publish
    | Disconnect
    | SaveCredentials
    | AdoptRenewed
    | MakeRequest
    | RemoveCredentials
    | SetTimer
    | CancelTimer
    | StateChanged
    | Stopped
)
