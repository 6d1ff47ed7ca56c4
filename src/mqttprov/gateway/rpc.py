"""The topics of a connected gateway and the remote procedure calls it answers: bytes <-> values, no state.

ThingsBoard's topics and texts (reference/thingsboard.md sections 11.3 and 11.5).
"""

from typing import Any, Final

import msgspec

from mqttprov.gateway.replies import printable

TELEMETRY_TOPIC: Final = "v1/devices/me/telemetry"
ATTRIBUTES_TOPIC: Final = "v1/devices/me/attributes"
RPC_REQUEST_FILTER: Final = "v1/devices/me/rpc/request/+"
PING_METHOD: Final = "gateway_ping"
REMOVE_METHOD: Final = "gateway_remove_provisioned_credentials"
PONG: Final = b'{"code":200,"resp":"pong"}'
REMOVED: Final = b'{"code":200,"resp":"Provisioned credentials file removed successfully."}'

_REQUEST_PREFIX: Final = RPC_REQUEST_FILTER[:-1]
_RESPONSE_PREFIX: Final = "v1/devices/me/rpc/response/"
_MAX_ID_CHARACTERS: Final = 64


class RpcCall(msgspec.Struct, frozen=True, gc=False):
    """One call. Parameters are left out: no method of ours takes any, and whatever is sent as such is welcome."""

    method: str
    response_topic: str


class _Body(msgspec.Struct, gc=False):
    method: Any = None


_DECODER: Final = msgspec.json.Decoder(_Body)


def parse_call(topic: str, payload: bytes) -> RpcCall | None:
    """Read a call; None if the topic is no call's. A payload that names no method is a call of the method ''."""
    call_id = topic.removeprefix(_REQUEST_PREFIX)
    if call_id == topic or not 0 < len(call_id) <= _MAX_ID_CHARACTERS or "/" in call_id:
        return None
    try:
        method = _DECODER.decode(payload).method
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        method = ""
    return RpcCall(method if isinstance(method, str) else "", _RESPONSE_PREFIX + call_id)


def unsupported(method: str) -> bytes:
    """Answer to a call of a method that this gateway does not have."""
    return msgspec.json.encode({"error": f"RPC method '{printable(method)}' is not supported", "code": 404})


def not_removed(reason: str) -> bytes:
    """Answer to a removal that failed; the stored credentials are still in force."""
    return msgspec.json.encode({"error": f"Provisioned credentials file was not removed: {reason}", "code": 500})
