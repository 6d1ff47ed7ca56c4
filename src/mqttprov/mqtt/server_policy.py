"""What the server's side serves: a session's limits, the CONNACK that announces them, the checks that enforce them.

Announcement and checks stand side by side, so that a capability (QoS 2, retained messages, topic aliases) is added here
in one place. The course of a conversation is server_session's.
"""

from functools import lru_cache

import msgspec

from mqttprov.mqtt.encoder import frame
from mqttprov.mqtt.errors import ProtocolError, violation
from mqttprov.mqtt.packets import Connect, Disconnect, ProtocolVersion, Publish, Subscribe
from mqttprov.mqtt.primitives import text, varint
from mqttprov.mqtt.properties import EMPTY_PROPERTIES, PacketType, Properties, write_properties
from mqttprov.mqtt.reasons import ReasonCode
from mqttprov.mqtt.topics import TopicError, is_shared, validate_topic_name

_V5 = ProtocolVersion.V5


class ServerLimits(msgspec.Struct, frozen=True, gc=False):
    """What one session may cost (P9). One value serves all sessions of a listener."""

    max_packet_bytes_before_login: int = 16_384
    max_packet_bytes: int = 262_144  # after login, unless `accept` says otherwise
    receive_maximum: int = 100  # unacknowledged messages from the client; ThingsBoard tells its gateways 100
    max_in_flight_messages: int = 100  # unacknowledged messages to the client, where it does not want fewer
    max_queued_messages: int = 1_000  # of QoS 1 behind the window, the default of Mosquitto
    max_queued_bytes: int = 1_048_576  # queued messages and output that the driver could not write yet
    max_keep_alive_s: int = 3_600  # MQTT 5 only; 3.1.1 cannot be told


class PendingCounts(msgspec.Struct, frozen=True, gc=False):
    """What a session holds at the moment."""

    in_flight: int
    queued_messages: int
    queued_bytes: int
    unacknowledged: int
    output_bytes: int


def connack_v5(
    assigned_client_id: str | None,
    server_keep_alive_s: int | None,
    session_expiry_interval_s: int | None,
    receive_maximum: int,
    max_packet_bytes: int,
) -> bytes:
    """Write the CONNACK that says honestly what is served (MQTT 5 section 3.2.2.3)."""
    properties = _announcement(server_keep_alive_s, session_expiry_interval_s, receive_maximum, max_packet_bytes)
    if assigned_client_id is not None:  # property 0x12
        properties += b"\x12" + text(assigned_client_id)
    return frame(0x20, b"\0\0" + varint(len(properties)) + properties)


@lru_cache(maxsize=256)
def _announcement(
    server_keep_alive_s: int | None, session_expiry_interval_s: int | None, receive_maximum: int, max_packet_bytes: int
) -> bytes:
    """Write the properties that many clients are told alike, without their length; writing them anew costs 8 us."""
    properties = Properties(
        session_expiry_interval_s=session_expiry_interval_s,
        server_keep_alive_s=server_keep_alive_s,
        receive_maximum=receive_maximum,
        topic_alias_maximum=0,
        maximum_qos=1,
        retain_available=False,
        maximum_packet_size_bytes=max_packet_bytes,
        wildcard_subscription_available=True,
        subscription_identifiers_available=False,
        shared_subscription_available=False,
    )
    return write_properties(properties, PacketType.CONNACK)[1:]  # some 30 bytes: the length is one byte


def check_connect(connect: Connect) -> None:
    """Raise ProtocolError if this CONNECT asks for what is not served; a will of QoS 2 in 3.1.1 is sent with QoS 1."""
    will = connect.will
    if connect.version is _V5:
        if will is not None and will.qos > 1:
            raise ProtocolError(ReasonCode.QOS_NOT_SUPPORTED, "will of QoS 2 (MQTT-3.2.2-12)")
        if will is not None and will.retain:
            raise ProtocolError(ReasonCode.RETAIN_NOT_SUPPORTED, "retained will (MQTT-3.2.2-13)")
        if connect.properties.authentication_method is not None:
            raise ProtocolError(ReasonCode.BAD_AUTHENTICATION_METHOD, "enhanced authentication is not served")
    elif not connect.client_id and not connect.clean_start:
        raise ProtocolError(
            ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "empty client id without clean session (MQTT-3.1.3-8)"
        )
    if will is not None:
        _check_topic_name(will.topic)


def check_publish(publish: Publish, version: ProtocolVersion | None) -> None:
    """Raise ProtocolError if this message may not be published; the retain flag of 3.1.1 is left to be ignored."""
    if publish.properties is not EMPTY_PROPERTIES:
        if publish.properties.topic_alias is not None:
            raise ProtocolError(ReasonCode.TOPIC_ALIAS_INVALID, "topic alias, though Topic Alias Maximum is 0")
        if publish.properties.subscription_identifiers:
            raise violation("subscription identifier from a client (MQTT-3.3.4-6)")
    if publish.qos > 1:
        raise ProtocolError(ReasonCode.QOS_NOT_SUPPORTED, "message of QoS 2 (MQTT-3.2.2-11)")
    if publish.retain and version is _V5:
        raise ProtocolError(ReasonCode.RETAIN_NOT_SUPPORTED, "retained message (MQTT-3.2.2-14)")
    _check_topic_name(publish.topic)


def check_subscribe(subscribe: Subscribe, version: ProtocolVersion | None) -> None:
    """Raise ProtocolError for what MQTT 5 ends the connection for; a bad filter is refused by itself, in SUBACK."""
    if subscribe.properties.subscription_identifiers:
        raise ProtocolError(
            ReasonCode.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED, "subscription identifier (MQTT 5 section 3.2.2.3.12)"
        )
    if version is _V5 and any(is_shared(each.topic_filter) for each in subscribe.subscriptions):
        raise ProtocolError(
            ReasonCode.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED, "shared subscription (MQTT 5 section 3.2.2.3.13)"
        )


def check_disconnect(disconnect: Disconnect, session_expiry_asked_s: int) -> None:
    """Raise ProtocolError if DISCONNECT asks for a session after all that CONNECT did not ask for."""
    if disconnect.properties.session_expiry_interval_s and not session_expiry_asked_s:
        raise violation("session expiry raised from 0 in DISCONNECT (MQTT 5 section 3.14.2.2.2)")


def _check_topic_name(topic: str) -> None:
    try:
        validate_topic_name(topic)
    except TopicError as error:
        raise ProtocolError(ReasonCode.TOPIC_NAME_INVALID, str(error)) from None
