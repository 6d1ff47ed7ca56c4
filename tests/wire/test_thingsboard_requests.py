"""Requests in ThingsBoard's dialect: what unmodified clients send (thingsboard.md sections 4, 11.4), our additions."""

import json
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.core.model import CredentialsType
from mqttprov.core.requests import Malformed, ProvisionRequest, SuppliedCertificate, SuppliedCsr
from mqttprov.wire.thingsboard import Encoding, decode, encoding_of

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
CODE = "mqp_cc_" + 4 * "abcdez27"

# The request of gateway 3.8.5 as it was seen on the wire: a whole PUBLISH packet (thingsboard.md section 11.4).
SEEN_PACKET = bytes.fromhex(
    "30bf0100122f70726f766973696f6e2f726571756573747b2270726f766973696f6e4465766963654b6579223a224b4559222c2270"
    "726f766973696f6e446576696365536563726574223a22534543524554222c22746f6b656e223a226d792d6163636573732d746f6b"
    "656e2d31222c2263726564656e7469616c7354797065223a224143434553535f544f4b454e222c226465766963654e616d65223a22"
    "466163746f72792d476174657761792d3031222c2267617465776179223a747275657d"
)
TOKEN_REQUEST = ProvisionRequest(
    "KEY", "SECRET", "Factory-Gateway-01", CredentialsType.ACCESS_TOKEN, token="my-access-token-1", gateway=True
)

CASES: dict[str, tuple[str, ProvisionRequest]] = {
    "token": (
        ('{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET","token":"my-access-token-1",'
        '"credentialsType":"ACCESS_TOKEN","deviceName":"Factory-Gateway-01","gateway":true}'),
        TOKEN_REQUEST,
    ),
    "basic": (
        ('{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET","username":"u1","password":"p1","clientId":"c1",'
        '"credentialsType":"MQTT_BASIC","deviceName":"Factory-Gateway-01","gateway":true}'),
        ProvisionRequest("KEY", "SECRET", "Factory-Gateway-01", CredentialsType.MQTT_BASIC, username="u1",
                         password="p1", client_id="c1", gateway=True),
    ),
    "x509": (
        ('{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET",'
        '"hash":"-----BEGIN CERTIFICATE-----\\nMIIB\\n-----END CERTIFICATE-----\\n",'
        '"credentialsType":"X509_CERTIFICATE","deviceName":"Factory-Gateway-01","gateway":true}'),
        ProvisionRequest("KEY", "SECRET", "Factory-Gateway-01", CredentialsType.X509_CERTIFICATE,
                         certificate=SuppliedCertificate(PEM), gateway=True),
    ),
    "none": (
        ('{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET","token":"ivbgggexqhfxjbk",'
        '"credentialsType":"ACCESS_TOKEN","deviceName":"Gateway sespk","gateway":true}'),
        ProvisionRequest("KEY", "SECRET", "Gateway sespk", CredentialsType.ACCESS_TOKEN, token="ivbgggexqhfxjbk",
                         gateway=True),
    ),
    "nulls of the vendor's client": (
        ('{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET","username":"u1","password":null,"clientId":null,'
        '"credentialsType":"MQTT_BASIC"}'),
        ProvisionRequest("KEY", "SECRET", credentials_type=CredentialsType.MQTT_BASIC, username="u1"),
    ),
    "claim code behind the secret": (
        f'{{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SEC:RET:{CODE}"}}',
        ProvisionRequest("KEY", "SEC:RET", claim_code=CODE, code_with_secret=True),
    ),
    "claim code in a field of its own": (
        f'{{"claimCode":"{CODE}","provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET:{CODE}"}}',
        ProvisionRequest("KEY", f"SECRET:{CODE}", claim_code=CODE),
    ),
    "key and secret alone": (
        '{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET"}',
        ProvisionRequest("KEY", "SECRET"),
    ),
    "every optional field null": (
        ('{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET","deviceName":null,"credentialsType":null,'
        '"token":null,"username":null,"password":null,"clientId":null,"hash":null,"csr":null,"gateway":null,'
        '"labels":null,"requestId":null}'),
        ProvisionRequest("KEY", "SECRET"),
    ),
    "every optional field empty": (
        ('{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET","credentialsType":"","token":"","username":"",'
        '"password":"","clientId":"","hash":"","csr":"","labels":{},"requestId":""}'),
        ProvisionRequest("KEY", "SECRET"),
    ),
    "empty key and secret are wrong, not missing": (
        '{"provisionDeviceKey":"","provisionDeviceSecret":""}',
        ProvisionRequest("", ""),
    ),
    "a blank name stays for the rules to refuse": (
        '{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET","deviceName":"  "}',
        ProvisionRequest("KEY", "SECRET", "  "),
    ),
    "an empty name too": (
        '{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET","deviceName":""}',
        ProvisionRequest("KEY", "SECRET", ""),
    ),
    "our additions": (
        ('{"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET","labels":{"site":"Nürnberg"},"csr":"CSR",'
        '"requestId":"r-1","gateway":false}'),
        ProvisionRequest("KEY", "SECRET", labels={"site": "Nürnberg"}, csr=SuppliedCsr("CSR"), request_id="r-1"),
    ),
    "unknown fields are ignored": (
        '{"x":{"y":[1,-2.5,true,null,"z"]},"provisionDeviceKey":"KEY","provisionDeviceSecret":"SECRET","Token":"no"}',
        ProvisionRequest("KEY", "SECRET"),
    ),
}  # fmt: skip


def test_the_packet_that_was_seen_is_understood() -> None:
    """The very bytes of an unmodified gateway."""
    payload = SEEN_PACKET[3 + 2 + len("/provision/request") :]
    assert payload.decode() == CASES["token"][0]
    assert decode(payload) == (TOKEN_REQUEST, Encoding.JSON)


@pytest.mark.parametrize("name", CASES)
def test_json_requests(name: str) -> None:
    """Each case, also with blanks around and inside."""
    text, expected = CASES[name]
    assert decode(text.encode()) == (expected, Encoding.JSON)
    loose = f" \r\n\t{json.dumps(json.loads(text), indent=2)}\n"
    assert decode(loose.encode()) == (expected, Encoding.JSON)


@pytest.mark.parametrize("name", CASES)
def test_msgpack_requests(name: str) -> None:
    """The same fields as a msgpack map, small or large header."""
    text, expected = CASES[name]
    packed = msgpack.packb(json.loads(text))
    assert decode(packed) == (expected, Encoding.MSGPACK)
    size = packed[0] & 0x0F
    assert decode(b"\xde" + size.to_bytes(2, "big") + packed[1:]) == (expected, Encoding.MSGPACK)
    assert decode(b"\xdf" + size.to_bytes(4, "big") + packed[1:]) == (expected, Encoding.MSGPACK)


@pytest.mark.parametrize(
    ("payload", "encoding"),
    [(b"{", Encoding.JSON), (b" {", Encoding.JSON), (b"\x80", Encoding.MSGPACK), (b"\x8f", Encoding.MSGPACK),
     (b"\xde", Encoding.MSGPACK), (b"\xdf", Encoding.MSGPACK), (b"", Encoding.JSON), (b"\x90", Encoding.JSON)],
)  # fmt: skip
def test_the_first_byte_tells_the_encoding(payload: bytes, encoding: Encoding) -> None:
    """The reply uses the same encoding; what is neither is answered in JSON."""
    assert encoding_of(payload) is encoding
    assert decode(payload)[1] is encoding


text_values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
fields = st.fixed_dictionaries(
    {"provisionDeviceKey": text_values, "provisionDeviceSecret": text_values},
    optional={
        "deviceName": text_values,
        "credentialsType": st.sampled_from(CredentialsType).map(str),
        "token": text_values,
        "username": text_values,
        "password": text_values,
        "clientId": text_values,
        "hash": text_values,
        "csr": text_values,
        "gateway": st.booleans(),
        "labels": st.dictionaries(text_values, text_values, max_size=3),
        "requestId": text_values,
    },
)
NAMES = {"key": "provisionDeviceKey", "secret": "provisionDeviceSecret", "device_name": "deviceName",
         "credentials_type": "credentialsType", "client_id": "clientId", "certificate": "hash",
         "request_id": "requestId"}  # fmt: skip


def written_again(request: ProvisionRequest) -> dict[str, Any]:
    """Give the fields that a request was read from."""
    found = msgspec.structs.asdict(request)
    for pem in ("certificate", "csr"):
        found[pem] = found[pem].pem if found[pem] else None
    return {NAMES.get(name, name): value for name, value in found.items() if value not in (None, False, {})}


@given(fields, st.sampled_from(Encoding), st.booleans())
def test_every_field_arrives_as_it_was_sent(sent: dict[str, Any], encoding: Encoding, ascii_only: bool) -> None:
    """Round trip through both encodings, with and without JSON escapes."""
    packed: bytes = msgpack.packb(sent)
    payload = packed if encoding is Encoding.MSGPACK else json.dumps(sent, ensure_ascii=ascii_only).encode()
    request, found = decode(payload)
    assert found is encoding
    assert not isinstance(request, Malformed)
    assert written_again(request) == {name: value for name, value in sent.items() if value not in (False, {})}
