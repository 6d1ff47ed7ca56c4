"""Provision replies, requests and RPC calls: bytes <-> values."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqttprov.gateway.replies import MAX_REPLY_BYTES, UNUSABLE, Credentials, Refusal, parse_reply
from mqttprov.gateway.requests import ProvisionRequest, encode_request
from mqttprov.gateway.rpc import parse_call

# How long examples take says nothing about the code: the machine may be busy, Unicode tables not cached yet.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def success(kind: object, value: object, **more: object) -> bytes:
    """A SUCCESS reply."""
    return json.dumps({"status": "SUCCESS", "credentialsType": kind, "credentialsValue": value, **more}).encode()


def basic(**members: object) -> bytes:
    """An MQTT_BASIC reply."""
    return success("MQTT_BASIC", members)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (success("ACCESS_TOKEN", "t1"), Credentials("ACCESS_TOKEN", username="t1")),
        (success("ACCESS_TOKEN", "t1", deviceId="x", errorMsg=None), Credentials("ACCESS_TOKEN", username="t1")),
        (basic(clientId="c", userName="u", password="p"), Credentials("MQTT_BASIC", "c", "u", "p")),
        (basic(clientId="", userName="u", password=""), Credentials("MQTT_BASIC", "", "u", None)),
        (basic(clientId=None, userName="u", password=None), Credentials("MQTT_BASIC", "", "u", None)),
        (basic(clientId="c", userName="", password=""), Credentials("MQTT_BASIC", "c", None, None)),
        (success("X509_CERTIFICATE", "MIIB"), Credentials("X509_CERTIFICATE")),
    ],
)
def test_usable_replies_give_the_login(payload: bytes, expected: Credentials) -> None:
    """Each type; empty or null members are absent, unknown ones are ignored."""
    assert parse_reply(payload) == expected


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[1]",
        b'"x"',
        b"[" * 20_000,
        b'{"x":' + b"[" * 20_000,
        b" " * (MAX_REPLY_BYTES + 1),
        b'{"status":"SUCCESS"}',
        b'{"status":["SUCCESS"]}',
        b'{"credentialsType":"ACCESS_TOKEN","credentialsValue":"t1"}',
        success(None, "t"),
        success(["ACCESS_TOKEN"], "t"),
        success("LWM2M_CREDENTIALS", None),
        success("ACCESS_TOKEN", None),
        success("ACCESS_TOKEN", ""),
        success("ACCESS_TOKEN", 5),
        success("ACCESS_TOKEN", "nul\0"),
        success("ACCESS_TOKEN", "\ud800"),
        success("ACCESS_TOKEN", "x" * 65_000 + "yyyyy" * 200),
        success("ACCESS_TOKEN", "provision"),
        success("MQTT_BASIC", "u"),
        basic(clientId="c", password="p"),
        basic(clientId="c", userName="", password="p"),
        basic(clientId="", userName="", password=""),
        basic(clientId="provision", userName="u", password="p"),
        basic(clientId=["c"], userName="u", password="p"),
        basic(clientId="c", userName={}, password="p"),
        success("X509_CERTIFICATE", ""),
        success("X509_CERTIFICATE", {}),
    ],
)
def test_what_cannot_be_used_is_a_refusal(payload: bytes) -> None:
    """Garbage, halves and credentials that nobody could log in with (P10)."""
    result = parse_reply(payload)
    assert isinstance(result, Refusal)
    assert result.status == UNUSABLE


@pytest.mark.parametrize("status", ["NOT_FOUND", "FAILURE"])
@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [(30, 30.0), (0.5, 0.5), (-1, 0.0), (True, 0.0), ("30", 0.0), (None, 0.0), (10**400, 31_536_000.0)],
)
def test_refusals_carry_reason_and_retry_after(status: str, retry_after: object, expected: float) -> None:
    """A retryAfter that is no sensible number counts as not given."""
    payload = json.dumps({"status": status, "errorMsg": "because", "retryAfter": retry_after}).encode()
    assert parse_reply(payload) == Refusal(status, "because", expected)


def test_a_reason_is_one_printable_line() -> None:
    """A server cannot forge log lines or send screenfuls (P9)."""
    result = parse_reply(json.dumps({"status": "FAILURE", "errorMsg": "a\n\x1b[31mb" + "x" * 9999}).encode())
    assert isinstance(result, Refusal)
    assert result.message.isprintable()
    assert len(result.message) <= 200


def test_a_refusal_without_a_reason_is_understood() -> None:
    """The vendor's client dies of it."""
    assert parse_reply(b'{"status":"FAILURE"}') == Refusal("FAILURE", "no reason given", 0.0)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@UNTIMED
@given(
    st.binary()
    | st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ["status", "credentialsType", "credentialsValue", "errorMsg", "retryAfter"],
            JSON_VALUES | st.sampled_from(["SUCCESS", "FAILURE", "ACCESS_TOKEN", "MQTT_BASIC", "X509_CERTIFICATE"]),
        ),
    ).map(lambda reply: json.dumps(reply).encode())
)
def test_any_bytes_give_credentials_or_a_refusal(payload: bytes) -> None:
    """parse_reply never raises, and Credentials always have something to log in with (P10)."""
    result = parse_reply(payload)
    if isinstance(result, Credentials):
        assert result.type == "X509_CERTIFICATE" or result.username or result.client_id


def test_requests_have_the_members_of_the_reference() -> None:
    """Names as in reference/thingsboard.md section 11.4; what is not set is left out."""
    full = ProvisionRequest(
        provision_device_key="K", provision_device_secret="S", device_name="n", credentials_type="MQTT_BASIC",
        token="t", username="u", password="p", client_id="c", certificate_pem="PEM", gateway=True,
    )  # fmt: skip
    assert json.loads(encode_request(full)) == {
        "provisionDeviceKey": "K", "provisionDeviceSecret": "S", "deviceName": "n", "credentialsType": "MQTT_BASIC",
        "token": "t", "username": "u", "password": "p", "clientId": "c", "hash": "PEM", "gateway": True,
    }  # fmt: skip
    bare = ProvisionRequest(provision_device_key="K", provision_device_secret="S")
    assert encode_request(bare) == b'{"provisionDeviceKey":"K","provisionDeviceSecret":"S"}'
    assert "'S'" not in repr(full)


@pytest.mark.parametrize("value", [Credentials("MQTT_BASIC", "c-1", "u-1", "p-1")])
def test_credentials_do_not_show_themselves(value: Any) -> None:
    """Only the type is in the repr (P6)."""
    assert "-1" not in repr(value)


@UNTIMED
@given(st.text(max_size=80), st.binary(max_size=40))
def test_any_call_is_read_or_left_alone(tail: str, payload: bytes) -> None:
    """No topic or payload raises, and an answer goes to one level below the response topic."""
    call = parse_call("v1/devices/me/rpc/request/" + tail, payload)
    assert call is None or call.response_topic == "v1/devices/me/rpc/response/" + tail
    assert call is None or "/" not in tail
