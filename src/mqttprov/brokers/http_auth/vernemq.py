"""VerneMQ's webhooks, for MQTT 3.1.1 and 5: one address for all of them, told apart by a header (mosquitto.md 10.2).

VerneMQ lets a hook rewrite client ids and topics. So clients keep the topics they know: each provisioning session
gets a client id of its own that nobody can guess, behind the vendor's two topics stand those of `core.routed`, and
`v1/devices/me/...` becomes the device's own. Nothing is cached by VerneMQ, as no answer says for how long.
"""

import base64
import hashlib
import logging
import os
from typing import Any, Final

import msgspec

from mqttprov.brokers.http_auth.adapter import Adapter, Question, Unreadable, read_json, to_json
from mqttprov.brokers.http_auth.desk import Desk, Refusal
from mqttprov.core.credentials import PROVISION_LOGIN
from mqttprov.core.login import LoginAttempt, Principal
from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC, inward, outward
from mqttprov.core.routed import REQUESTS, RESPONSES, Action, Guest, Who, authorize

_OK: Final = to_json({"result": "ok"})
_DENY: Final = to_json({"result": {"error": "not_allowed"}})
_REFUSED: Final = {"": 128, "_m5": 135}  # in place of a QoS: failure, and MQTT 5's "not authorized"
_GUEST_PREFIX: Final = "provisioning-"

_log = logging.getLogger(__name__)


class _Register(msgspec.Struct):
    client_id: str
    username: str | None = None
    password: str | None = None
    peer_addr: str | None = None
    mountpoint: str = ""
    client_cert: str | None = None


class _Publish(msgspec.Struct):
    client_id: str
    topic: str
    username: str | None = None


class _Subscribe(msgspec.Struct):
    client_id: str
    topics: list[dict[str, Any]]
    username: str | None = None


class _Unsubscribe(msgspec.Struct):
    client_id: str
    topics: list[str]
    username: str | None = None


async def _answer(desk: Desk, question: Question) -> bytes:
    hook = question.headers.get("vernemq-hook", "")
    version = "_m5" if hook.endswith("_m5") else ""
    match hook.removesuffix("_m5"):
        case "auth_on_register":
            return await _register(desk, read_json(question.body, _Register))
        case "auth_on_publish":
            return _publish(desk, read_json(question.body, _Publish))
        case "auth_on_subscribe":
            return _subscribe(desk, read_json(question.body, _Subscribe), version)
        case "on_unsubscribe":
            return _unsubscribe(desk, read_json(question.body, _Unsubscribe), version)
        case "on_deliver":
            return _deliver(desk, read_json(question.body, _Publish))
        case _:
            raise Unreadable("the header vernemq-hook names no hook that is answered here")


async def _register(desk: Desk, asked: _Register) -> bytes:
    modifiers: dict[str, str] = {}
    client_id, username = asked.client_id, asked.username or None
    if PROVISION_LOGIN in {username, client_id}:
        # Whatever it calls itself, and however many call themselves the same.
        client_id, username = _GUEST_PREFIX + os.urandom(16).hex(), PROVISION_LOGIN
        modifiers = {"client_id": client_id, "mountpoint": asked.mountpoint}
    attempt = LoginAttempt(client_id, username, asked.password, _certificate(asked.client_cert))
    who = await desk.authenticate(attempt, asked.peer_addr or "")
    if isinstance(who, Refusal):
        _log.info("login refused: %s", who.reason)
        return _DENY
    return to_json({"result": "ok", "modifiers": modifiers}) if modifiers else _OK


def _publish(desk: Desk, asked: _Publish) -> bytes:
    who = _identify(desk, asked.client_id, asked.username)
    topic = None if who is None else _inward(who, asked.topic)
    if who is None or topic is None or not authorize(who, Action.PUBLISH, topic):
        return _DENY
    return _OK if topic == asked.topic else to_json({"result": "ok", "modifiers": {"topic": topic}})


def _subscribe(desk: Desk, asked: _Subscribe, version: str) -> bytes:
    who = _identify(desk, asked.client_id, asked.username)
    if who is None:
        return _DENY
    topics = [_granted(who, wish, version) for wish in asked.topics]
    return _with_topics(topics, version)


def _granted(who: Who, wish: dict[str, Any], version: str) -> dict[str, Any]:
    topic_filter = wish.get("topic")
    topic = _inward(who, topic_filter) if isinstance(topic_filter, str) else None
    if topic is None or not authorize(who, Action.SUBSCRIBE, topic):
        return {**wish, "qos": _REFUSED[version]}
    return {**wish, "topic": topic}


def _unsubscribe(desk: Desk, asked: _Unsubscribe, version: str) -> bytes:
    who = _identify(desk, asked.client_id, asked.username)
    if who is None:
        return _OK
    return _with_topics([_inward(who, topic) for topic in asked.topics], version)


def _deliver(desk: Desk, asked: _Publish) -> bytes:
    who = _identify(desk, asked.client_id, asked.username)
    if isinstance(who, Guest):
        topic = RESPONSE_TOPIC if asked.topic == RESPONSES + who.client_id else asked.topic
    else:
        topic = outward(who, asked.topic) if isinstance(who, Principal) else asked.topic
    return _OK if topic == asked.topic else to_json({"result": "ok", "modifiers": {"topic": topic}})


def _with_topics(topics: list[Any], version: str) -> bytes:
    """MQTT 5 hooks take new topics as modifiers, the others beside the result."""
    return to_json({"result": "ok", "modifiers": {"topics": topics}} if version else {"result": "ok", "topics": topics})


def _identify(desk: Desk, client_id: str, username: str | None) -> Who | None:
    # The prefix, because a session that only called its client id `provision` has no user name.
    return desk.identify(client_id, PROVISION_LOGIN if client_id.startswith(_GUEST_PREFIX) else username or None)


def _inward(who: Who, topic: str) -> str:
    if isinstance(who, Guest):
        return {REQUEST_TOPIC: REQUESTS + who.client_id, RESPONSE_TOPIC: RESPONSES + who.client_id}.get(topic, topic)
    try:
        return inward(who, topic) if isinstance(who, Principal) else topic
    except ValueError:  # a name that may not become part of a topic: it is refused with the one it gave
        return topic


def _certificate(encoded: str | None) -> str | None:
    if not encoded:
        return None
    try:
        return hashlib.sha256(base64.b64decode(encoded, validate=True)).hexdigest()
    except ValueError as error:
        raise Unreadable("client_cert is not base64") from error


VERNEMQ: Final = Adapter("application/json", _DENY, _answer)
