"""The eight variables, what is made up when they are silent, and the request that comes of both."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from mqttprov.gateway.atomic_file import OPERATING_SYSTEM
from mqttprov.gateway.identity import IdentityError, load_identity, request_payload
from mqttprov.gateway.settings import GatewaySettings, SecretText, SettingsError

PREFIX = "TB_GW_PROVISIONING_DEVICE_"


def settings(directory: Path, port: int = 1883, /, **variables: str) -> GatewaySettings:
    """Settings from the environment, with key and secret."""
    env = {PREFIX + name: value for name, value in {"KEY": "K-1", "SECRET": "S-1", **variables}.items()}
    return GatewaySettings.from_environment(env, host="broker", port=port, directory=directory)


def request(directory: Path, **variables: str) -> dict[str, object]:
    """What a gateway with these variables asks for."""
    chosen = settings(directory, **variables)
    decoded: dict[str, object] = json.loads(request_payload(chosen, load_identity(chosen)))
    return decoded


@pytest.fixture
def with_ca(tmp_path: Path) -> Path:
    """A gateway directory with a CA file in it."""
    (tmp_path / "ca.pem").write_text("only its being there counts here")
    return tmp_path


@pytest.mark.parametrize(("present", "missing"), [("KEY", "SECRET"), ("SECRET", "KEY"), (None, "KEY and TB_")])
@pytest.mark.parametrize("absent_as_empty", [False, True])
def test_key_and_secret_are_needed(present: str | None, missing: str, absent_as_empty: bool, tmp_path: Path) -> None:
    """The error names what to set; empty counts as not set."""
    env = dict.fromkeys([PREFIX + "KEY", PREFIX + "SECRET"], "") if absent_as_empty else {}
    if present:
        env[PREFIX + present] = "x"
    with pytest.raises(SettingsError, match=PREFIX + missing):
        GatewaySettings.from_environment(env, host="h", port=1883, directory=tmp_path)


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({}, None),
        ({"ACCESS_TOKEN": "t"}, "ACCESS_TOKEN"),
        ({"USERNAME": "u"}, "MQTT_BASIC"),
        ({"PASSWORD": "p"}, "MQTT_BASIC"),
        ({"CLIENT_ID": "c"}, "MQTT_BASIC"),
        ({"CA_CERT_FILENAME": "ca.pem"}, "X509_CERTIFICATE"),
        ({"USERNAME": "u", "CA_CERT_FILENAME": "ca.pem"}, "MQTT_BASIC"),
        ({"ACCESS_TOKEN": "t", "USERNAME": "u", "CA_CERT_FILENAME": "ca.pem"}, "ACCESS_TOKEN"),
        ({"ACCESS_TOKEN": "", "USERNAME": "", "CA_CERT_FILENAME": ""}, None),
    ],
)
def test_token_goes_before_basic_before_certificate(with_ca: Path, variables: dict[str, str], kind: str | None) -> None:
    """The vendor's precedence; with none of them the server decides."""
    chosen = settings(with_ca, **variables)
    assert chosen.credentials_type == kind
    assert chosen.uses_tls == bool(variables.get("CA_CERT_FILENAME"))


def test_port_8883_means_tls(tmp_path: Path) -> None:
    """Also without a CA file: then the system's trust store verifies."""
    assert settings(tmp_path, 8883).uses_tls


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"CA_CERT_FILENAME": "missing.pem"}, "missing.pem is not there"),
        ({"CA_CERT_FILENAME": "../ca.pem"}, "must be the name of a file"),
        ({"CA_CERT_FILENAME": "/etc/ca.pem"}, "must be the name of a file"),
        ({"CA_CERT_FILENAME": ".."}, "is not there"),
        ({"NAME": "  "}, "NAME is blank"),
    ],
)
def test_variables_that_cannot_be_right_are_refused(with_ca: Path, variables: dict[str, str], why: str) -> None:
    """Each error says which and what to do."""
    with pytest.raises(SettingsError, match=why):
        settings(with_ca, **variables)


@pytest.mark.parametrize(("host", "port"), [("", 1883), (" ", 1883), ("h", 0), ("h", 65_536), ("h", -1)])
def test_host_and_port_are_checked(tmp_path: Path, host: str, port: int) -> None:
    """Before anything is connected."""
    env = {PREFIX + "KEY": "K", PREFIX + "SECRET": "S"}
    with pytest.raises(SettingsError):
        GatewaySettings.from_environment(env, host=host, port=port, directory=tmp_path)


def test_secrets_do_not_show_themselves(tmp_path: Path) -> None:
    """Neither in settings nor in the identity, by repr or str (P6)."""
    secrets = {"SECRET": "sesame-secret", "ACCESS_TOKEN": "sesame-token", "PASSWORD": "sesame-password"}
    chosen = settings(tmp_path, **secrets)
    text = f"{chosen!r} {chosen} {load_identity(settings(tmp_path, PASSWORD='sesame-password'))!r}"
    assert "***" in text
    for secret in secrets.values():
        assert secret not in text
    assert SecretText("a") == SecretText("a")
    assert SecretText("a") != SecretText("b")
    assert len({SecretText("a"), SecretText("a")}) == 1


def test_without_credentials_variables_none_are_sent(tmp_path: Path) -> None:
    """The platform's default decides: neither a type nor a token in the request."""
    assert request(tmp_path, NAME="Factory-Gateway-01") == {
        "provisionDeviceKey": "K-1",
        "provisionDeviceSecret": "S-1",
        "deviceName": "Factory-Gateway-01",
        "gateway": True,
    }


def test_a_token_is_sent_alone(tmp_path: Path) -> None:
    """What has lower precedence is left out."""
    asked = request(tmp_path, NAME="n", ACCESS_TOKEN="t", USERNAME="u")
    assert (asked["credentialsType"], asked["token"]) == ("ACCESS_TOKEN", "t")
    assert not asked.keys() & {"username", "password", "clientId", "hash"}


@pytest.mark.parametrize("given", ["USERNAME", "PASSWORD", "CLIENT_ID"])
def test_missing_parts_of_a_basic_login_are_made_up_once(tmp_path: Path, given: str) -> None:
    """User name and password are always complete, and the same at every start (P4)."""
    asked = request(tmp_path, NAME="n", **{given: "given-1"})
    assert asked["username"]
    assert asked["password"]
    assert "given-1" in asked.values()
    assert ("clientId" in asked) == (given == "CLIENT_ID")
    assert request(tmp_path, NAME="n", **{given: "given-1"}) == asked


def test_a_name_is_drawn_once(tmp_path: Path) -> None:
    """`Gateway ` and twelve letters, the same after every restart (P4), kept for the owner alone (P6)."""
    letters = iter("abcdefghijklxxxxx")
    chosen = settings(tmp_path)
    assert load_identity(chosen, draw=lambda _: next(letters)).device_name == "Gateway abcdefghijkl"
    assert load_identity(chosen).device_name == "Gateway abcdefghijkl"
    assert stat.S_IMODE((tmp_path / "identity.json").stat().st_mode) == 0o600


def test_two_gateways_draw_different_names(tmp_path: Path) -> None:
    """The default draws from the system's randomness."""
    names = set()
    for index in range(5):
        directory = tmp_path / str(index)
        directory.mkdir()
        names.add(load_identity(settings(directory)).device_name)
    assert len(names) > 1


def test_a_given_name_is_not_kept(tmp_path: Path) -> None:
    """identity.json holds only what was drawn."""
    load_identity(settings(tmp_path, NAME="n"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"deviceName":5}', b"\xff"])
def test_an_unreadable_identity_is_set_aside_and_drawn_anew(tmp_path: Path, content: bytes) -> None:
    """Bit rot never bricks a gateway (P10)."""
    (tmp_path / "identity.json").write_bytes(content)
    assert load_identity(settings(tmp_path)).device_name.startswith("Gateway ")
    assert (tmp_path / "identity.json.bad").read_bytes() == content


def test_an_identity_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    """Going on would make another device at every start, so it says what to do instead."""
    with pytest.raises(IdentityError, match="read and write the directory"):
        load_identity(settings(tmp_path / "gone"))


def test_the_certificate_is_made_once(with_ca: Path) -> None:
    """P-256, self-signed, CN is the device name, does not run out; key for the owner alone; request carries the PEM."""
    chosen = settings(with_ca, NAME="gw-1", CA_CERT_FILENAME="ca.pem")
    identity = load_identity(chosen)
    assert identity.certificate is not None
    certificate = x509.load_pem_x509_certificate(identity.certificate.pem.encode())
    assert certificate.subject.rfc4514_string() == "CN=gw-1"
    assert certificate.issuer == certificate.subject
    assert certificate.not_valid_after_utc.year == 9999
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert stat.S_IMODE((with_ca / "key.pem").stat().st_mode) == 0o600
    assert load_identity(chosen) == identity
    asked = json.loads(request_payload(chosen, identity))
    assert (asked["credentialsType"], asked["hash"]) == ("X509_CERTIFICATE", identity.certificate.pem)


def test_a_long_device_name_fits_into_the_certificate(with_ca: Path) -> None:
    """A common name has 64 characters at most; the name in the request stays whole."""
    name = "n" * 255
    identity = load_identity(settings(with_ca, NAME=name, CA_CERT_FILENAME="ca.pem"))
    assert identity.certificate is not None
    assert identity.device_name == name


def test_a_power_cut_between_key_and_certificate_keeps_the_key(with_ca: Path) -> None:
    """The certificate is made again from the same key (P10)."""
    chosen = settings(with_ca, NAME="n", CA_CERT_FILENAME="ca.pem")
    load_identity(chosen)
    key = (with_ca / "key.pem").read_bytes()
    (with_ca / "cert.pem").unlink()
    identity = load_identity(chosen)
    assert identity.certificate is not None
    assert (with_ca / "key.pem").read_bytes() == key
    assert (with_ca / "cert.pem").read_text() == identity.certificate.pem


def ed25519_key() -> bytes:
    """A key of a kind that we do not use."""
    return ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def encrypted_key() -> bytes:
    """A key that nobody is there to unlock."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )


@pytest.mark.parametrize("content", [lambda: b"junk", ed25519_key, encrypted_key])
def test_an_unusable_key_is_set_aside_with_its_certificate(with_ca: Path, content: Callable[[], bytes]) -> None:
    """A new pair is made, and the two belong together (P10)."""
    chosen = settings(with_ca, NAME="n", CA_CERT_FILENAME="ca.pem")
    before = load_identity(chosen)
    (with_ca / "key.pem").write_bytes(content())
    after = load_identity(chosen)
    assert after != before
    assert load_identity(chosen) == after
    assert (with_ca / "key.pem.bad").exists()
    assert (with_ca / "cert.pem.bad").exists()


def test_an_unreadable_certificate_is_made_again(with_ca: Path) -> None:
    """From the key that is there."""
    chosen = settings(with_ca, NAME="n", CA_CERT_FILENAME="ca.pem")
    load_identity(chosen)
    key = (with_ca / "key.pem").read_bytes()
    (with_ca / "cert.pem").write_bytes(b"junk")
    assert load_identity(chosen).certificate is not None
    assert (with_ca / "key.pem").read_bytes() == key


def test_the_identity_is_written_atomically(tmp_path: Path) -> None:
    """It goes through the file layer that test_atomic_file.py proves, leaving nothing beside it."""
    load_identity(settings(tmp_path), files=OPERATING_SYSTEM)
    assert [path.name for path in tmp_path.iterdir()] == ["identity.json"]
