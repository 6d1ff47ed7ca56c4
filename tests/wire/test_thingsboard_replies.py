"""Replies in ThingsBoard's dialect, byte for byte (thingsboard.md section 5), and what we add behind `status`."""

import json

import msgpack
import pytest

from mqttprov.core.model import CredentialsType
from mqttprov.core.requests import Granted, Outcome, Reason, refused
from mqttprov.wire.thingsboard import Encoding, encode

NOW_MS = 1_784_000_000_123
PEM = "-----BEGIN CERTIFICATE-----\nMIIBKDCB\nz6ADAgEC\n-----END CERTIFICATE-----\n"


def granted(kind: CredentialsType, value: str, *, username: str = "", client_id: str = "") -> Granted:
    """Make a success for `gw-1`."""
    return Granted("0a1b", "gw-1", kind, value, "ref1", username, client_id)


TAIL = '"deviceName":"gw-1","deviceId":"0a1b","ref":"ref1","serverTime":1784000000123}'
CASES: dict[str, tuple[Outcome, str]] = {
    "token": (
        granted(CredentialsType.ACCESS_TOKEN, "sLzc0gDAZPkGMzFVTyUY"),
        '{"credentialsValue":"sLzc0gDAZPkGMzFVTyUY","credentialsType":"ACCESS_TOKEN","status":"SUCCESS",' + TAIL,
    ),
    "basic": (
        granted(CredentialsType.MQTT_BASIC, "p1", username="u1", client_id="c1"),
        '{"credentialsValue":{"clientId":"c1","userName":"u1","password":"p1"},"credentialsType":"MQTT_BASIC",'
        '"status":"SUCCESS",' + TAIL,
    ),
    "basic without client id": (
        granted(CredentialsType.MQTT_BASIC, "p1", username="u1"),
        '{"credentialsValue":{"clientId":"","userName":"u1","password":"p1"},"credentialsType":"MQTT_BASIC",'
        '"status":"SUCCESS",' + TAIL,
    ),
    "x509": (
        granted(CredentialsType.X509_CERTIFICATE, PEM),
        '{"credentialsValue":"MIIBKDCBz6ADAgEC","credentialsType":"X509_CERTIFICATE","status":"SUCCESS",' + TAIL,
    ),
    "not found": (
        refused(Reason.EXPIRED, ref="ref1"),
        '{"errorMsg":"Provision data was not found!","status":"NOT_FOUND","ref":"ref1","serverTime":1784000000123}',
    ),
    "failure": (
        refused(Reason.INTERNAL, ref="ref1"),
        '{"errorMsg":"Failed to provision device!","status":"FAILURE","ref":"ref1","serverTime":1784000000123}',
    ),
    "failure with a reason": (
        refused(Reason.BAD_NAME, "the device name is empty", ref="ref1"),
        (
            '{"errorMsg":"Failed to provision device: the device name is empty","status":"FAILURE","ref":"ref1",'
            '"serverTime":1784000000123}'
        ),
    ),
    "try again later": (
        refused(Reason.OVERLOADED, ref="ref1", retry_after_s=30),
        (
            '{"errorMsg":"Failed to provision device!","status":"FAILURE","ref":"ref1","retryAfter":30,'
            '"serverTime":1784000000123}'
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_json_replies(name: str) -> None:
    """Compact, in ThingsBoard's order of keys."""
    outcome, text = CASES[name]
    assert encode(outcome, Encoding.JSON, server_time_ms=NOW_MS) == text.encode()


@pytest.mark.parametrize("name", CASES)
def test_msgpack_replies(name: str) -> None:
    """The same keys in the same order."""
    outcome, text = CASES[name]
    found = msgpack.unpackb(encode(outcome, Encoding.MSGPACK, server_time_ms=NOW_MS))
    assert list(found.items()) == list(json.loads(text).items())


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_certificate_is_told_without_frame_and_lines(line_end: str) -> None:
    """As ThingsBoard does, whatever the lines end with."""
    outcome = granted(CredentialsType.X509_CERTIFICATE, PEM.replace("\n", line_end))
    assert b'"credentialsValue":"MIIBKDCBz6ADAgEC",' in encode(outcome, Encoding.JSON, server_time_ms=NOW_MS)


@pytest.mark.parametrize("encoding", Encoding)
def test_every_refusal_says_why_and_every_success_what(encoding: Encoding) -> None:
    """Without `errorMsg`, `credentialsType` or `credentialsValue` the vendor's gateway breaks (rules 8 and 9)."""
    for outcome, _ in CASES.values():
        payload = encode(outcome, encoding, server_time_ms=NOW_MS)
        fields = json.loads(payload) if encoding is Encoding.JSON else msgpack.unpackb(payload)
        wanted = {"credentialsType", "credentialsValue"} if fields["status"] == "SUCCESS" else {"errorMsg"}
        assert wanted <= fields.keys()
        assert all(fields[name] for name in wanted)


@pytest.mark.parametrize("encoding", Encoding)
def test_names_of_any_script_are_told(encoding: Encoding) -> None:
    """UTF-8, not escapes: small devices have small buffers."""
    outcome = Granted("0a1b", "東京-1", CredentialsType.ACCESS_TOKEN, "t", "r")
    assert "東京-1".encode() in encode(outcome, encoding, server_time_ms=NOW_MS)
