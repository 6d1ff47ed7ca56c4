"""What sessions tell their drivers. Values only; packets inside hide their secrets in repr themselves."""

import msgspec

from mqttprov.mqtt.errors import ProtocolError
from mqttprov.mqtt.messages import Message
from mqttprov.mqtt.packets import Connack, Connect, Publish, Subscribe, Unsubscribe
from mqttprov.mqtt.reasons import ReasonCode


class ConnectReceived(msgspec.Struct, frozen=True, gc=False):
    """Server: a client asks to connect. Answer with `accept` or `refuse`; nothing else comes before that."""

    connect: Connect


class PublishReceived(msgspec.Struct, frozen=True, gc=False):
    """Server: a message, its topic alias resolved. One of QoS 1 or 2 is to be answered with `acknowledge`."""

    publish: Publish


class SubscribeReceived(msgspec.Struct, frozen=True, gc=False):
    """Server: to be answered with `suback`. Filters are not checked: refuse invalid ones one by one, with 0x8F.

    They may be shared ($share/group/filter), with MQTT 5 only: to 3.1.1 these mean nothing, refuse them there.
    """

    subscribe: Subscribe

    @property
    def subscription_identifier(self) -> int | None:
        """What every message for these subscriptions is to carry (MQTT 5 section 3.8.2.1.2); None for nothing."""
        identifiers = self.subscribe.properties.subscription_identifiers
        return identifiers[0] if identifiers else None


class UnsubscribeReceived(msgspec.Struct, frozen=True, gc=False):
    """Server: to be answered with `unsuback`."""

    unsubscribe: Unsubscribe


class MessageDelivered(msgspec.Struct, frozen=True, gc=False):
    """Server: the client has taken a message of QoS 1 or 2 to its end, or refused it (reason from 0x80)."""

    packet_id: int
    reason_code: ReasonCode


class Connected(msgspec.Struct, frozen=True, gc=False):
    """Client: the server has accepted us.

    `lost` are messages of an earlier connection, sent and unacknowledged, when the server has forgotten that session
    (MQTT-3.2.2-5): whether they arrived is unknown, and publishing them again is the user's decision.
    """

    connack: Connack
    lost: tuple[Message, ...] = ()


class Refused(msgspec.Struct, frozen=True, gc=False):
    """Client: the server has refused us; the reason is MQTT 5's in 3.1.1 too. The session is closed."""

    reason_code: ReasonCode


class MessageReceived(msgspec.Struct, frozen=True, gc=False):
    """Client: a message, its topic alias resolved. With `manual_ack`, QoS 1 and 2 are answered with `acknowledge`."""

    publish: Publish


class Subscribed(msgspec.Struct, frozen=True, gc=False):
    """Client: the answer to a SUBSCRIBE, one code per filter; from 0x80 it is a refusal."""

    packet_id: int
    reason_codes: tuple[ReasonCode, ...]


class Unsubscribed(msgspec.Struct, frozen=True, gc=False):
    """Client: the answer to an UNSUBSCRIBE; 3.1.1 gives no codes."""

    packet_id: int
    reason_codes: tuple[ReasonCode, ...]


class Published(msgspec.Struct, frozen=True, gc=False):
    """Client: the server has taken a message of QoS 1 or 2 to its end, or refused it (reason from 0x80)."""

    packet_id: int
    reason_code: ReasonCode


class Disconnected(msgspec.Struct, frozen=True, gc=False):
    """Both: the peer has ended the session, which is now closed.

    `clean` is true for a normal DISCONNECT. `publish_will` is for servers: the client's will is now due.
    """

    reason_code: ReasonCode
    clean: bool
    publish_will: bool = False


class ProtocolViolated(msgspec.Struct, frozen=True, gc=False):
    """Both: the peer broke the protocol. The session is closed, its farewell is in the output; no event follows."""

    error: ProtocolError


ServerEvent = (
    ConnectReceived
    | PublishReceived
    | SubscribeReceived
    | UnsubscribeReceived
    | MessageDelivered
    | Disconnected
    | ProtocolViolated
)
ClientEvent = (
    Connected | Refused | MessageReceived | Subscribed | Unsubscribed | Published | Disconnected | ProtocolViolated
)
