"""What a client asks for: filters -> the bytes of SUBSCRIBE and UNSUBSCRIBE, checked. No session and no packet ids.

Topic filters are checked here, as a server would close the connection for an invalid one.
"""

from functools import lru_cache

from mqttprov.mqtt.encoder import encode
from mqttprov.mqtt.packets import ProtocolVersion, Subscribe, Subscription, Unsubscribe
from mqttprov.mqtt.properties import EMPTY_PROPERTIES, Properties
from mqttprov.mqtt.topics import validate_topic_filter


@lru_cache(maxsize=256)
def subscribe_packet(
    packet_id: int, version: ProtocolVersion, wanted: tuple[Subscription | tuple[str, int], ...], identifier: int | None
) -> bytes:
    """Check and encode SUBSCRIBE; kept, because thousands of sessions of a swarm send the same ones.

    Raises TopicError for an invalid filter, ValueError for a QoS that there is not.
    """
    subscriptions = tuple([each if isinstance(each, Subscription) else Subscription(*each) for each in wanted])
    for each in subscriptions:
        validate_topic_filter(each.topic_filter)
        if each.qos not in {0, 1, 2}:
            raise ValueError(f"there is no QoS {each.qos}: subscribe with 0, 1 or 2")
    properties = EMPTY_PROPERTIES if identifier is None else Properties(subscription_identifiers=(identifier,))
    return encode(Subscribe(packet_id, subscriptions, properties), version)


def unsubscribe_packet(packet_id: int, version: ProtocolVersion, topic_filters: tuple[str, ...]) -> bytes:
    """Check and encode UNSUBSCRIBE. Raises TopicError for an invalid filter."""
    for topic_filter in topic_filters:
        validate_topic_filter(topic_filter)
    return encode(Unsubscribe(packet_id, topic_filters), version)
