"""RabbitMQ's `rabbitmq_auth_backend_http`: a form in, the text `allow` or `deny` out (mosquitto.md section 10.3).

RabbitMQ routes by AMQP routing keys, in which '.' stands for '/' and '*' for '+': `a.b` and `a/b` are one topic. So
rights are judged on the key, and a device whose name holds a '.' is refused, as its topics would be another's too.
Logins over AMQP, or to the management pages, name no client id: they are refused here, and left to other back ends.
"""

import logging
from typing import Final
from urllib.parse import parse_qsl

from mqttprov.brokers.http_auth.adapter import Adapter, Question, Unreadable
from mqttprov.brokers.http_auth.desk import Desk, Refusal
from mqttprov.core.login import LoginAttempt, Principal, Role
from mqttprov.core.routed import Action, Guest, Who, authorize

VHOST: Final = "/"
EXCHANGE: Final = "amq.topic"
_ALLOW: Final = b"allow"
_DENY: Final = b"deny"
_MAX_FIELDS: Final = 32
_ACTIONS: Final = {"write": Action.PUBLISH, "read": Action.SUBSCRIBE}

_log = logging.getLogger(__name__)


async def _answer(desk: Desk, question: Question) -> bytes:
    fields = _form(question.body)
    if question.path == "user":
        return _ALLOW if await _may_enter(desk, fields) else _DENY
    check = {"vhost": _may_use_vhost, "resource": _may_use_resource, "topic": _may_use_topic}.get(question.path)
    if check is None:
        raise Unreadable("RabbitMQ asks at /user, /vhost, /resource and /topic")
    client_id = fields.get("client_id") or fields.get("variable_map.client_id")
    username = fields.get("username")
    if not client_id or not username or fields.get("vhost") != VHOST:
        return _DENY
    who = desk.identify(client_id, username)
    return _ALLOW if who is not None and check(desk, who, client_id, fields) else _DENY


async def _may_enter(desk: Desk, fields: dict[str, str]) -> bool:
    client_id, username = fields.get("client_id"), fields.get("username")
    if not client_id or not username:
        return False
    who = await desk.authenticate(LoginAttempt(client_id, username, fields.get("password", "")), "")
    if isinstance(who, Refusal):
        _log.info("login refused: %s", who.reason)
        return False
    if isinstance(who, Principal) and who.role is Role.DEVICE and "." in who.name:
        _log.warning("device %s is refused: RabbitMQ takes the '.' in its name for a '/'", who.name)
        return False
    return True


def _may_use_vhost(desk: Desk, who: Who, client_id: str, fields: dict[str, str]) -> bool:
    if isinstance(who, Guest) and fields.get("ip"):
        desk.note_source(client_id, fields["ip"].removeprefix("::ffff:"))
    return True


def _may_use_resource(_desk: Desk, _who: Who, client_id: str, fields: dict[str, str]) -> bool:
    name, permission = fields.get("name"), fields.get("permission")
    if fields.get("resource") == "queue":
        return name in {f"mqtt-subscription-{client_id}qos0", f"mqtt-subscription-{client_id}qos1"}
    return fields.get("resource") == "exchange" and name == EXCHANGE and permission in _ACTIONS


def _may_use_topic(_desk: Desk, who: Who, _client_id: str, fields: dict[str, str]) -> bool:
    action, key = _ACTIONS.get(fields.get("permission", "")), fields.get("routing_key")
    if action is None or not key or fields.get("name") != EXCHANGE:
        return False
    if isinstance(who, Principal) and who.role is Role.DEVICE and "." in who.name:
        return False
    topic = topic_of(key, action)
    return topic is not None and authorize(who, action, topic)


def topic_of(key: str, action: Action) -> str | None:
    """Give the topic or filter that a routing key or binding key means; None for one that MQTT could not have asked."""
    levels = key.replace(".", "/").split("/")
    if action is Action.SUBSCRIBE:
        if any("+" in level or ("#" in level and level != "#") for level in levels):
            return None
        if "#" in levels[:-1]:  # AMQP allows it anywhere, MQTT at the end only
            return None
        levels = ["+" if level == "*" else level for level in levels]
    elif any(c in key for c in "+#"):
        return None
    return "/".join(levels)


def _form(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError as error:  # also UnicodeDecodeError
        raise Unreadable("not a form") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Unreadable("a form with a field twice")
    return fields


RABBITMQ: Final = Adapter("text/plain", _DENY, _answer)
