"""Topics of one's own, for brokers that route every message by its topic alone (RabbitMQ): no I/O, no state.

There a reply is private because its topic holds the client id, which nobody else can guess; and there is no `me`, so a
device writes its name instead. Such brokers speak MQTT 3.1.1 and take no user name without a password.
"""

from typing import Any, Final

import msgspec

from mqttprov.gateway.actions import Connect

REQUEST_TOPIC: Final = "/provision/request"
RESPONSE_TOPIC: Final = "/provision/response"
CLIENT_ID_BYTES: Final = 24  # of chance in the client id of a provisioning session
MQTT_3_1_1: Final = 4
_ME: Final = "v1/devices/me/"


class OwnTopics(msgspec.Struct, frozen=True):
    """Translates between what the machine says and what the broker routes; `device_name` once it is known."""

    client_id: str
    device_name: str | None = None

    def outward(self, topic: str) -> str:
        """Give the topic or filter to send."""
        if topic == REQUEST_TOPIC:
            return f"provision/request/{self.client_id}"
        if topic == RESPONSE_TOPIC:
            return f"provision/response/{self.client_id}"
        if self.device_name is not None and topic.startswith(_ME):
            return f"v1/devices/{self.device_name}/{topic[len(_ME) :]}"
        return topic

    def inward(self, topic: str) -> str:
        """Give the topic that the machine knows."""
        if topic == f"provision/response/{self.client_id}":
            return RESPONSE_TOPIC
        own = f"v1/devices/{self.device_name}/"
        return _ME + topic[len(own) :] if self.device_name is not None and topic.startswith(own) else topic


def with_own_topics(connect: Connect, stored: bytes | None, new_id: str, session_id: str) -> tuple[Connect, OwnTopics]:
    """Give the connection as such a broker takes it, and its topics.

    `stored` is the provision reply in use, `new_id` a client id drawn for this connection, `session_id` one for all
    logins of this gateway, unless its credentials are bound to another.
    """
    provisioning = connect.role == "provisioning"
    client_id = new_id if provisioning else connect.client_id or session_id
    password = connect.password
    if connect.username is not None and password is None:
        password = ""
    name = None if provisioning or stored is None else device_name_in(stored)
    connect = msgspec.structs.replace(connect, client_id=client_id, password=password, version=MQTT_3_1_1)
    return connect, OwnTopics(client_id, name)


class _Reply(msgspec.Struct, rename="camel"):
    device_name: Any = None


def device_name_in(reply: bytes) -> str | None:
    """Give the device name that a provision reply tells; None if it tells none."""
    try:
        name = msgspec.json.decode(reply, type=_Reply).device_name
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return name if isinstance(name, str) else None
