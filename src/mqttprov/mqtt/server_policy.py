"""What the server's side serves: a session's limits, the CONNACK that announces them, the checks that enforce them.

Announcement and checks stand side by side, so that a capability is added or taken away here in one place. The course of
a conversation is server_session's.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec

from mqttprov.mqtt.delivery import MAX_PACKET_ID
from mqttprov.mqtt.encoder import frame
from mqttprov.mqtt.errors import ProtocolError, violation
from mqttprov.mqtt.packets import Connect, Disconnect, ProtocolVersion, Publish, Subscribe
from mqttprov.mqtt.primitives import text, varint
from mqttprov.mqtt.properties import EMPTY_PROPERTIES, PacketType, Properties, write_properties
from mqttprov.mqtt.reasons import ReasonCode
from mqttprov.mqtt.topics import TopicError, is_shared, validate_topic_name

_V5 = ProtocolVersion.V5

# 16 topics for each client that uses aliases (P9); a ThingsBoard gateway publishes to five.
TOPIC_ALIAS_MAXIMUM: Final = 16
UNLIMITED: Final = 1 << 32
SESSION_NEVER_EXPIRES: Final = 0xFFFF_FFFF  # MQTT 5 section 3.1.2.11.2


class ServerLimits(msgspec.Struct, frozen=True, gc=False):
    """What one session may cost (P9). One value serves all sessions of a listener."""

    max_packet_bytes_before_login: int = 16_384
    max_packet_bytes: int = 262_144  # after login, unless `accept` says otherwise
    receive_maximum: int = 100  # unacknowledged messages from the client; ThingsBoard tells its gateways 100
    max_in_flight_messages: int = 100  # unacknowledged messages to the client, where it does not want fewer
    max_queued_messages: int = 1_000  # of QoS 1 and 2 behind the window, the default of Mosquitto
    max_queued_bytes: int = 1_048_576  # queued messages and output not written yet; in flight the same once more
    max_keep_alive_s: int = 3_600  # MQTT 5 only; 3.1.1 cannot be told


class PendingCounts(msgspec.Struct, frozen=True, gc=False):
    """What a session holds at the moment."""

    in_flight: int
    queued_messages: int
    queued_bytes: int
    unacknowledged: int
    output_bytes: int


class ClientWishes(msgspec.Struct, frozen=True, gc=False):
    """What a client's CONNECT says of the connection. Clients with equal wishes share one."""

    receive_maximum: int = MAX_PACKET_ID
    max_packet_bytes: int = UNLIMITED
    problem_information: bool = True  # whether it wants to be told reasons in words
    session_expiry_s: int = 0


NO_WISHES: Final = ClientWishes()
_DURABLE_311: Final = ClientWishes(session_expiry_s=SESSION_NEVER_EXPIRES)


def wishes_of(connect: Connect) -> ClientWishes:
    """Read the wishes in CONNECT; a session of 3.1.1 that is not clean never expires (MQTT 5 section 3.1.2.11.2)."""
    if connect.version is not _V5:
        return NO_WISHES if connect.clean_start else _DURABLE_311
    told = connect.properties
    if told is EMPTY_PROPERTIES:
        return NO_WISHES
    return _wishes(
        told.receive_maximum or MAX_PACKET_ID,
        told.maximum_packet_size_bytes or UNLIMITED,
        told.request_problem_information is not False,
        told.session_expiry_interval_s or 0,
    )


@lru_cache(maxsize=256)
def _wishes(receive_maximum: int, max_packet_bytes: int, problem_information: bool, expiry_s: int) -> ClientWishes:
    return ClientWishes(receive_maximum, max_packet_bytes, problem_information, expiry_s)


def connack_v5(
    session_present: bool,
    assigned_client_id: str | None,
    server_keep_alive_s: int | None,
    session_expiry_interval_s: int | None,
    receive_maximum: int,
    max_packet_bytes: int,
) -> bytes:
    """Write the CONNACK that accepts and says honestly what is served (MQTT 5 section 3.2.2.3).

    What is not named there is served: QoS 2, retained messages, wildcards, identifiers and shared subscriptions.
    """
    properties = _announcement(server_keep_alive_s, session_expiry_interval_s, receive_maximum, max_packet_bytes)
    if assigned_client_id is not None:  # property 0x12
        properties += b"\x12" + text(assigned_client_id)
    return frame(0x20, bytes((session_present, 0)) + varint(len(properties)) + properties)


@lru_cache(maxsize=256)
def _announcement(
    server_keep_alive_s: int | None, session_expiry_interval_s: int | None, receive_maximum: int, max_packet_bytes: int
) -> bytes:
    """Write the properties that many clients are told alike, without their length; writing them anew costs 8 us."""
    properties = Properties(
        session_expiry_interval_s=session_expiry_interval_s,
        server_keep_alive_s=server_keep_alive_s,
        receive_maximum=receive_maximum,
        topic_alias_maximum=TOPIC_ALIAS_MAXIMUM,
        maximum_packet_size_bytes=max_packet_bytes,
    )
    return write_properties(properties, PacketType.CONNACK)[1:]  # some 20 bytes: the length is one byte


def check_connect(connect: Connect) -> None:
    """Raise ProtocolError if this CONNECT asks for what is not served, or contradicts itself."""
    if connect.version is _V5:
        if connect.properties.authentication_method is not None:
            raise ProtocolError(ReasonCode.BAD_AUTHENTICATION_METHOD, "enhanced authentication is not served")
    elif not connect.client_id and not connect.clean_start:
        raise ProtocolError(
            ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "empty client id without clean session (MQTT-3.1.3-8)"
        )
    if connect.will is not None:
        _check_topic_name(connect.will.topic)
        _check_response_topic(connect.will.properties)


def check_publish(publish: Publish) -> None:
    """Raise ProtocolError if this message, its topic alias resolved, may not be published by a client."""
    if publish.properties is not EMPTY_PROPERTIES:
        if publish.properties.subscription_identifiers:
            raise violation("subscription identifier from a client (MQTT-3.3.4-6)")
        _check_response_topic(publish.properties)
    try:
        validate_topic_name(publish.topic)
    except TopicError as error:
        raise ProtocolError(ReasonCode.TOPIC_NAME_INVALID, str(error)) from None


def _check_response_topic(properties: Properties) -> None:
    if properties.response_topic is not None:
        _check_topic_name(properties.response_topic)  # MQTT-3.3.2-14


def check_subscribe(subscribe: Subscribe) -> None:
    """Raise ProtocolError for what MQTT 5 ends the connection for; a bad filter is refused by itself, in SUBACK."""
    for each in subscribe.subscriptions:
        if each.no_local and is_shared(each.topic_filter):
            raise violation("no local on a shared subscription (MQTT-3.8.3-4)")


def check_disconnect(disconnect: Disconnect, session_expiry_asked_s: int) -> None:
    """Raise ProtocolError if DISCONNECT asks for a session after all that CONNECT did not ask for."""
    if disconnect.properties.session_expiry_interval_s and not session_expiry_asked_s:
        raise violation("session expiry raised from 0 in DISCONNECT (MQTT 5 section 3.14.2.2.2)")


def _check_topic_name(topic: str) -> None:
    try:
        validate_topic_name(topic)
    except TopicError as error:
        raise ProtocolError(ReasonCode.TOPIC_NAME_INVALID, str(error)) from None


def explained(make: Callable[[Properties], bytes], reason_string: str | None, wishes: ClientWishes) -> bytes:
    """Write a packet with a reason in words, where the client wants to know and takes a packet so large.

    MQTT-3.1.2-29, MQTT-3.4.2-2. The encoder leaves words out in 3.1.1.
    """
    if reason_string is not None and wishes.problem_information:
        packet = make(_words(reason_string))
        if len(packet) <= wishes.max_packet_bytes:
            return packet
    return make(EMPTY_PROPERTIES)


@lru_cache(maxsize=64)
def _words(reason_string: str) -> Properties:
    return Properties(reason_string=reason_string)
