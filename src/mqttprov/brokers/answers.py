"""What the broker answers by itself, so that an unmodified ThingsBoard gateway counts itself connected (DESIGN 5.8).

The gateway asks `getSessionLimits` and unlocks remote configuration only after a reply (thingsboard.md rule 14); a
device's request for attributes gets its labels as the one shared attribute that there is. Pure.
"""

import json
from collections.abc import Mapping
from typing import Final

from mqttprov.mqtt import ServerLimits

_RPC_REQUEST: Final = "v1/devices/me/rpc/request/"
_RPC_RESPONSE: Final = "v1/devices/me/rpc/response/"
_ATTRIBUTES_REQUEST: Final = "v1/devices/me/attributes/request/"
_ATTRIBUTES_RESPONSE: Final = "v1/devices/me/attributes/response/"
_LABELS: Final = "labels"


def automatic_answer(
    topic: str, payload: bytes, limits: ServerLimits, labels: Mapping[str, str]
) -> tuple[str, bytes] | None:
    """Give topic and payload of the answer to what a device published, if it is one of these questions."""
    if topic.startswith(_RPC_REQUEST):
        if b"getSessionLimits" not in payload:
            return None
        try:
            request = json.loads(payload)
        except (ValueError, RecursionError):
            return None
        if not isinstance(request, dict) or request.get("method") != "getSessionLimits":
            return None
        answer = {
            "maxPayloadSize": limits.max_packet_bytes,
            "maxInflightMessages": limits.receive_maximum,
            "rateLimits": {},  # none; the device client takes an answer without this field for a failed one
        }
        return _RPC_RESPONSE + topic[len(_RPC_REQUEST) :], _json(answer)
    if topic.startswith(_ATTRIBUTES_REQUEST):
        answer = {"shared": {_LABELS: dict(labels)}} if _asks_for_labels(payload) else {}
        return _ATTRIBUTES_RESPONSE + topic[len(_ATTRIBUTES_REQUEST) :], _json(answer)
    return None


def _asks_for_labels(payload: bytes) -> bool:
    """Tell whether a request for attributes names the labels, or names no keys at all, which means: everything."""
    try:
        request = json.loads(payload)
    except (ValueError, RecursionError):
        return False
    if not isinstance(request, dict):
        return False
    keys = request.get("sharedKeys")
    if keys is None:
        return request.get("clientKeys") is None
    return isinstance(keys, str) and _LABELS in keys.split(",")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
