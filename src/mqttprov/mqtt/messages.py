"""An application message apart from any connection: what a broker routes, retains and keeps for who is away.

Times are seconds on the caller's clock, whatever its zero, the same in `arrived_s` and every `now_s`.
"""

from functools import lru_cache

import msgspec

from mqttprov.mqtt.packets import Will
from mqttprov.mqtt.properties import EMPTY_PROPERTIES, Properties


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message as its publisher sent it. `qos` and `retain` are the publisher's, not those of a delivery.

    `properties` are those that a server passes on unaltered (MQTT 5 section 3.3.2.3): payload format, content type,
    response topic, correlation data, user properties; and the expiry interval, which counts from `arrived_s`.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = EMPTY_PROPERTIES
    arrived_s: float = 0.0

    def __repr__(self) -> str:
        return (
            f"Message(topic={self.topic!r}, payload=<{len(self.payload)} bytes>, qos={self.qos}, retain={self.retain}, "
            f"properties={self.properties!r})"
        )

    @classmethod
    def from_will(cls, will: Will, now_s: float = 0.0) -> "Message":
        """Make the message that a will is; its expiry counts from `now_s`, when it is published (section 3.1.3.2.4)."""
        properties = will.properties
        if properties.will_delay_interval_s is not None:
            properties = msgspec.structs.replace(properties, will_delay_interval_s=None)
        return cls(will.topic, will.payload, will.qos, will.retain, properties, now_s)

    def has_expired(self, now_s: float) -> bool:
        """Tell whether its lifetime has passed, so that no delivery may begin any more (MQTT-3.3.2-5)."""
        expiry_s = self.properties.message_expiry_interval_s
        return expiry_s is not None and now_s - self.arrived_s >= expiry_s

    @property
    def size_bytes(self) -> int:
        """What it weighs in a bounded store (P9): topic, payload and the texts of its properties."""
        size = len(self.topic) + len(self.payload)
        return size if self.properties is EMPTY_PROPERTIES else size + _size_of(self.properties)


def properties_for_delivery(message: Message, subscription_ids: tuple[int, ...], now_s: float) -> Properties:
    """Give what stands in the PUBLISH of a delivery: the message's own properties, the lifetime that is left of it
    (MQTT-3.3.2-6), and the identifiers of the subscriptions that it is for (MQTT-3.3.4-3)."""
    properties = message.properties
    if properties is EMPTY_PROPERTIES:
        return _identifiers_alone(subscription_ids) if subscription_ids else properties
    expiry_s = properties.message_expiry_interval_s
    if expiry_s is not None:
        waited_s = max(0, int(now_s - message.arrived_s))
        properties = msgspec.structs.replace(properties, message_expiry_interval_s=max(0, expiry_s - waited_s))
    if subscription_ids:
        properties = msgspec.structs.replace(properties, subscription_identifiers=subscription_ids)
    return properties


@lru_cache(maxsize=256)
def _identifiers_alone(subscription_ids: tuple[int, ...]) -> Properties:
    return Properties(subscription_identifiers=subscription_ids)


def _size_of(properties: Properties) -> int:
    size = len(properties.correlation_data or b"")
    for text in (properties.content_type, properties.response_topic):
        if text is not None:
            size += len(text.encode())
    return size + sum([len(name.encode()) + len(value.encode()) + 4 for name, value in properties.user_properties])
