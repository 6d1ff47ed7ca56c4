"""MQTT packets as values, the same for 3.1.1 and 5. No bytes (encoder, decoder), no rules of conversation (sessions).

A packet never shows in its repr what may be a secret: user names (an access token is one), passwords and payloads (P6).
"""

from enum import IntEnum

import msgspec

from mqttprov.mqtt.properties import EMPTY_PROPERTIES, Properties
from mqttprov.mqtt.reasons import ReasonCode


class ProtocolVersion(IntEnum):
    """The protocol level in CONNECT."""

    V311 = 4
    V5 = 5


class Will(msgspec.Struct, frozen=True, gc=False):
    """The message that a server publishes for a client that goes without saying so."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = EMPTY_PROPERTIES

    def __repr__(self) -> str:
        return f"Will(topic={self.topic!r}, payload=<{len(self.payload)} bytes>, qos={self.qos}, retain={self.retain})"


class Connect(msgspec.Struct, frozen=True, gc=False):
    """CONNECT. `clean_start` is Clean Session in 3.1.1; keep alive 0 means none."""

    client_id: str
    version: ProtocolVersion = ProtocolVersion.V311
    clean_start: bool = True
    keep_alive_s: int = 60
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = EMPTY_PROPERTIES

    def __repr__(self) -> str:
        hidden = [n for n in ("username", "password") if getattr(self, n) is not None]
        return (
            f"Connect(client_id={self.client_id!r}, version={self.version!r}, clean_start={self.clean_start}, "
            f"keep_alive_s={self.keep_alive_s}, hidden={hidden}, will={self.will!r}, properties={self.properties!r})"
        )


class Connack(msgspec.Struct, frozen=True, gc=False):
    """CONNACK. The reason code is MQTT 5's in both versions; encoder and decoder translate 3.1.1's return codes."""

    session_present: bool
    reason_code: ReasonCode
    properties: Properties = EMPTY_PROPERTIES


class Publish(msgspec.Struct, frozen=True, gc=False):
    """PUBLISH. `packet_id` is None for QoS 0 and only for it."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int | None = None
    properties: Properties = EMPTY_PROPERTIES

    def __repr__(self) -> str:
        return (
            f"Publish(topic={self.topic!r}, payload=<{len(self.payload)} bytes>, qos={self.qos}, retain={self.retain}, "
            f"dup={self.dup}, packet_id={self.packet_id}, properties={self.properties!r})"
        )


class _Acknowledgement(msgspec.Struct, frozen=True, gc=False):
    """What the four acknowledgements of PUBLISH have in common. 3.1.1 carries the packet id alone."""

    packet_id: int
    reason_code: ReasonCode = ReasonCode.SUCCESS
    properties: Properties = EMPTY_PROPERTIES


class Puback(_Acknowledgement, frozen=True, gc=False):
    """PUBACK, the answer to QoS 1."""


class Pubrec(_Acknowledgement, frozen=True, gc=False):
    """PUBREC, the first answer to QoS 2."""


class Pubrel(_Acknowledgement, frozen=True, gc=False):
    """PUBREL, the answer to PUBREC."""


class Pubcomp(_Acknowledgement, frozen=True, gc=False):
    """PUBCOMP, the end of QoS 2."""


class Subscription(msgspec.Struct, frozen=True, gc=False):
    """One filter in SUBSCRIBE with its options; 3.1.1 has the QoS alone. `retain_handling` is 0, 1 or 2."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """SUBSCRIBE, with one filter at least."""

    packet_id: int
    subscriptions: tuple[Subscription, ...]
    properties: Properties = EMPTY_PROPERTIES


class Suback(msgspec.Struct, frozen=True, gc=False):
    """SUBACK, one reason code per filter in their order. Every refusal is 0x80 in 3.1.1."""

    packet_id: int
    reason_codes: tuple[ReasonCode, ...]
    properties: Properties = EMPTY_PROPERTIES


class Unsubscribe(msgspec.Struct, frozen=True, gc=False):
    """UNSUBSCRIBE, with one filter at least."""

    packet_id: int
    topic_filters: tuple[str, ...]
    properties: Properties = EMPTY_PROPERTIES


class Unsuback(msgspec.Struct, frozen=True, gc=False):
    """UNSUBACK; 3.1.1 carries no reason codes."""

    packet_id: int
    reason_codes: tuple[ReasonCode, ...] = ()
    properties: Properties = EMPTY_PROPERTIES


class Pingreq(msgspec.Struct, frozen=True, gc=False):
    """PINGREQ."""


class Pingresp(msgspec.Struct, frozen=True, gc=False):
    """PINGRESP."""


class Disconnect(msgspec.Struct, frozen=True, gc=False):
    """DISCONNECT; in 3.1.1 only clients send it, without a reason."""

    reason_code: ReasonCode = ReasonCode.NORMAL_DISCONNECTION
    properties: Properties = EMPTY_PROPERTIES


class Auth(msgspec.Struct, frozen=True, gc=False):
    """AUTH, MQTT 5 only."""

    reason_code: ReasonCode = ReasonCode.SUCCESS
    properties: Properties = EMPTY_PROPERTIES


Packet = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)
