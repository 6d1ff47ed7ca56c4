"""EMQX 5: JSON in by the templates of docs/how-to/emqx.md, an explicit verdict out (mosquitto.md section 10.1).

A device's rights come with its login, as `acl` (EMQX 5.8), so that EMQX need not ask for each topic; older ones ask.
On a listener with the mount point of the how-to, a provisioning session uses the vendor's two topics, and EMQX makes
them its own; without the mount point nobody would hear it there, so they are no risk.
"""

import hashlib
import logging
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mqttprov.brokers.http_auth.adapter import Adapter, Question, Unreadable, read_json, to_json
from mqttprov.brokers.http_auth.desk import Desk, Refusal
from mqttprov.core.login import LoginAttempt, Principal, Role
from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC, topic_of_device
from mqttprov.core.routed import REQUESTS, RESPONSES, Action, Guest, Who, authorize

_ALLOW: Final = to_json({"result": "allow"})
_DENY: Final = to_json({"result": "deny"})
_NOTHING: Final = frozenset({None, "", "undefined", "null"})  # how releases of EMQX write what a client did not send
_MOUNTED: Final = {Action.PUBLISH: REQUEST_TOPIC, Action.SUBSCRIBE: RESPONSE_TOPIC}

_log = logging.getLogger(__name__)


class _Connect(msgspec.Struct):
    clientid: str
    username: str | None = None
    password: str | None = None
    peerhost: str | None = None
    cert_pem: str | None = None


class _Use(msgspec.Struct):
    clientid: str
    action: Action
    topic: str
    username: str | None = None


async def _answer(desk: Desk, question: Question) -> bytes:
    if question.path == "authenticate":
        return await _authenticate(desk, read_json(question.body, _Connect))
    if question.path == "authorize":
        return _authorize(desk, read_json(question.body, _Use))
    raise Unreadable("EMQX asks at /authenticate and /authorize")


async def _authenticate(desk: Desk, asked: _Connect) -> bytes:
    certificate = _certificate(asked.cert_pem)
    attempt = LoginAttempt(asked.clientid, _given(asked.username), _given(asked.password), certificate)
    who = await desk.authenticate(attempt, _given(asked.peerhost) or "")
    if isinstance(who, Refusal):
        _log.info("login refused: %s", who.reason)
        return _DENY
    answer: dict[str, Any] = {"result": "allow", "is_superuser": False}
    rules = _rules(who)
    if rules:
        answer["acl"] = rules
    return to_json(answer)


def _authorize(desk: Desk, asked: _Use) -> bytes:
    who = desk.identify(asked.clientid, _given(asked.username))
    if who is None:
        return _DENY
    if isinstance(who, Guest) and asked.topic == _MOUNTED[asked.action]:
        return _ALLOW
    return _ALLOW if authorize(who, asked.action, asked.topic) else _DENY


def _given(text: str | None) -> str | None:
    return None if text in _NOTHING else text


def _certificate(pem: str | None) -> str | None:
    """Give the SHA-256 of the client certificate, if EMQX sends it. Raises `Unreadable`."""
    if pem is None or pem in _NOTHING:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(pem.replace("\\n", "\n").encode("ascii"))
    except ValueError as error:  # also UnicodeEncodeError
        raise Unreadable("cert_pem is no certificate") from error
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def _rules(who: Who) -> list[dict[str, str]]:
    """Write down the rights of guests and devices; for others EMQX asks topic by topic."""
    if isinstance(who, Guest):
        allowed = [("publish", REQUEST_TOPIC), ("subscribe", RESPONSE_TOPIC)]
        allowed += [("publish", REQUESTS + who.client_id), ("subscribe", RESPONSES + who.client_id)]
    elif isinstance(who, Principal) and who.role is Role.DEVICE:
        own = topic_of_device(who.name)
        if not authorize(who, Action.PUBLISH, f"{own}x"):  # a name that may not become part of a topic
            return []
        allowed = [("all", f"{own}#")]
        allowed += [("publish", p) for p in who.publish_topics if authorize(who, Action.PUBLISH, p)]
        allowed += [("subscribe", p) for p in who.subscribe_topics if authorize(who, Action.SUBSCRIBE, p)]
    else:
        return []
    rules = [{"permission": "allow", "action": action, "topic": topic} for action, topic in allowed]
    return [*rules, {"permission": "deny", "action": "all", "topic": "#"}]


EMQX: Final = Adapter("application/json", _DENY, _answer)
