"""What the broker answers by itself, so that an unmodified ThingsBoard gateway counts itself connected (DESIGN 5.8).

The gateway asks `getSessionLimits` and unlocks remote configuration only after a reply (thingsboard.md rule 14); a
device's request for attributes gets an empty set. Pure.
"""

import json
from typing import Final

from mqttprov.mqtt import ServerLimits

_RPC_REQUEST: Final = "v1/devices/me/rpc/request/"
_RPC_RESPONSE: Final = "v1/devices/me/rpc/response/"
_ATTRIBUTES_REQUEST: Final = "v1/devices/me/attributes/request/"
_ATTRIBUTES_RESPONSE: Final = "v1/devices/me/attributes/response/"


def automatic_answer(topic: str, payload: bytes, limits: ServerLimits) -> tuple[str, bytes] | None:
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
        return _RPC_RESPONSE + topic[len(_RPC_REQUEST) :], json.dumps(answer, separators=(",", ":")).encode()
    if topic.startswith(_ATTRIBUTES_REQUEST):
        return _ATTRIBUTES_RESPONSE + topic[len(_ATTRIBUTES_REQUEST) :], b"{}"
    return None
