"""Topic aliases that the peer sets (MQTT 5 section 3.3.2.3.4). Both sessions use it.

Sessions set none themselves: topics here are short, and a table for each of thousands of idle clients costs more memory
than the bytes are worth.
"""

import msgspec

from mqttprov.mqtt.errors import ProtocolError, violation
from mqttprov.mqtt.packets import Publish
from mqttprov.mqtt.properties import EMPTY_PROPERTIES
from mqttprov.mqtt.reasons import ReasonCode


class InboundAliases:
    """Topics by alias, for one connection and one direction; at most `maximum` of them (P9)."""

    __slots__ = ("_maximum", "_topics")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._topics: dict[int, str] = {}

    def resolve(self, publish: Publish) -> Publish:
        """Give a message that carries an alias its topic, without the alias; note the topic if it names one.

        Raises ProtocolError for an alias beyond the maximum, and for one that stands for no topic yet.
        """
        alias = publish.properties.topic_alias or 0
        if alias > self._maximum:
            raise ProtocolError(ReasonCode.TOPIC_ALIAS_INVALID, f"topic alias above {self._maximum}, the maximum")
        topic = publish.topic
        if topic:
            self._topics[alias] = topic
        else:
            known = self._topics.get(alias)
            if known is None:
                raise violation("a topic alias that stands for no topic yet")
            topic = known
        properties = msgspec.structs.replace(publish.properties, topic_alias=None)
        if properties == EMPTY_PROPERTIES:
            properties = EMPTY_PROPERTIES  # the one object, which others recognise
        return msgspec.structs.replace(publish, topic=topic, properties=properties)
