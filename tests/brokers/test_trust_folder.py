"""The folder of certificates that Mosquitto trusts: OpenSSL finds what is put there, and nothing is there twice."""

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.brokers.certificates import DeviceKey

from mqttprov.brokers.mosquitto.trust_folder import TrustFolder


def names(folder: Path) -> list[str]:
    """Give the names of its files, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def test_openssl_finds_a_certificate_by_its_name(tmp_path: Path, need: Callable[[str], None]) -> None:
    """The layout is that of `openssl rehash`."""
    need("openssl")
    device = DeviceKey("Gateway  One")
    assert TrustFolder(tmp_path).add(device.certificate_pem) is False
    own = tmp_path / "own.pem"
    own.write_text(device.certificate_pem)
    subprocess.run(["openssl", "verify", "-no-CAfile", "-CApath", str(tmp_path), str(own)], check=True, timeout=30)


def test_equal_names_stand_side_by_side_and_are_told(tmp_path: Path) -> None:
    """The second of a name gets the next number; nothing is replaced."""
    folder = TrustFolder(tmp_path)
    assert [folder.add(DeviceKey("gw").certificate_pem) for _ in range(3)] == [False, True, True]
    (first, *_) = names(tmp_path)
    assert names(tmp_path) == [f"{first[:-1]}{number}" for number in range(3)]


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    """By this process or by another one: several responders share the folder."""
    pems = [DeviceKey("gw").certificate_pem, DeviceKey("gw").certificate_pem, DeviceKey("other").certificate_pem]
    one, other = TrustFolder(tmp_path), TrustFolder(tmp_path)
    assert one.add_all(pems) == 3
    before = names(tmp_path)
    assert (other.add_all(pems), one.add_all(pems)) == (0, 0)
    assert other.add(DeviceKey("gw").certificate_pem) is True
    assert one.add(DeviceKey("gw").certificate_pem) is True
    assert len(names(tmp_path)) == len(before) + 2
    ssl.create_default_context(capath=tmp_path)


def test_a_bundle_is_taken_apart(tmp_path: Path) -> None:
    """An authority comes with those above it."""
    TrustFolder(tmp_path).add(DeviceKey("one").certificate_pem + DeviceKey("two").certificate_pem)
    assert len(names(tmp_path)) == 2


def test_what_is_no_certificate_leaves_no_file(tmp_path: Path) -> None:
    """Not even a draft."""
    with pytest.raises(ValueError, match="PEM"):
        TrustFolder(tmp_path).add("nothing")
    assert names(tmp_path) == []
