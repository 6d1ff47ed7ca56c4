"""MQTT 3.1.1 and 5 without I/O: packets, a server's and a client's session, topics. No clock, sockets or randomness.

Everything that other parts use is importable from here; the modules below are the inside. A driver owns the connection
and the time: it passes reads to `receive`, handles the events, and writes `take_output()`. What outlives a connection
is a DeliveryState: it is taken out of a session that has ended, and given to the next one.
"""

from mqttprov.mqtt.aliases import InboundAliases
from mqttprov.mqtt.client_session import ClientSession
from mqttprov.mqtt.decoder import PacketDecoder
from mqttprov.mqtt.delivery import DeliveryState, Verdict
from mqttprov.mqtt.encoder import encode
from mqttprov.mqtt.errors import LimitReachedError, ProtocolError, SessionStateError
from mqttprov.mqtt.events import (
    ClientEvent,
    Connected,
    ConnectReceived,
    Disconnected,
    MessageDelivered,
    MessageReceived,
    ProtocolViolated,
    Published,
    PublishReceived,
    Refused,
    ServerEvent,
    Subscribed,
    SubscribeReceived,
    Unsubscribed,
    UnsubscribeReceived,
)
from mqttprov.mqtt.messages import Message
from mqttprov.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    ProtocolVersion,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)
from mqttprov.mqtt.properties import EMPTY_PROPERTIES, Properties
from mqttprov.mqtt.reasons import ReasonCode, connack_return_code
from mqttprov.mqtt.retained_store import Retained, RetainedLimits, RetainedStore
from mqttprov.mqtt.server_policy import SESSION_NEVER_EXPIRES, TOPIC_ALIAS_MAXIMUM, PendingCounts, ServerLimits
from mqttprov.mqtt.server_session import ServerSession
from mqttprov.mqtt.subscription_tree import Grant, SubscriptionTree, grant, split_shared
from mqttprov.mqtt.topics import TopicError, is_shared, topic_matches, validate_topic_filter, validate_topic_name

__all__ = [
    "EMPTY_PROPERTIES",
    "SESSION_NEVER_EXPIRES",
    "TOPIC_ALIAS_MAXIMUM",
    "Auth",
    "ClientEvent",
    "ClientSession",
    "Connack",
    "Connect",
    "ConnectReceived",
    "Connected",
    "DeliveryState",
    "Disconnect",
    "Disconnected",
    "Grant",
    "InboundAliases",
    "LimitReachedError",
    "Message",
    "MessageDelivered",
    "MessageReceived",
    "Packet",
    "PacketDecoder",
    "PendingCounts",
    "Pingreq",
    "Pingresp",
    "Properties",
    "ProtocolError",
    "ProtocolVersion",
    "ProtocolViolated",
    "Puback",
    "Pubcomp",
    "Publish",
    "PublishReceived",
    "Published",
    "Pubrec",
    "Pubrel",
    "ReasonCode",
    "Refused",
    "Retained",
    "RetainedLimits",
    "RetainedStore",
    "ServerEvent",
    "ServerLimits",
    "ServerSession",
    "SessionStateError",
    "Suback",
    "Subscribe",
    "SubscribeReceived",
    "Subscribed",
    "Subscription",
    "SubscriptionTree",
    "TopicError",
    "Unsuback",
    "Unsubscribe",
    "UnsubscribeReceived",
    "Unsubscribed",
    "Verdict",
    "Will",
    "connack_return_code",
    "encode",
    "grant",
    "is_shared",
    "split_shared",
    "topic_matches",
    "validate_topic_filter",
    "validate_topic_name",
]
