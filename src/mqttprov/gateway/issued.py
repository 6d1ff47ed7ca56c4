"""Certificates that the server's authority issued to this gateway, and the keys that they belong to. No decisions.

`key.pem` is the key of the stored certificate, `key-next.pem` that of a renewal. Which key belongs to which certificate
is seen by comparing them, so that a power cut between two renames does no harm (P10).
"""

from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from mqttprov.gateway.atomic_file import OPERATING_SYSTEM, FileLayer, move_file, remove_leftovers, write_file
from mqttprov.gateway.identity import ClientCertificate, kept_key, read_key
from mqttprov.gateway.renewal import Life

_MAX_COMMON_NAME: Final = 64  # X.520 ub-common-name; the server takes only the key from the request


class NotUsable(Exception):  # noqa: N818 - it names what is wrong
    """A reply holds no certificate for a key of this gateway; the text says why."""


class IssuedCertificate(msgspec.Struct, frozen=True):
    """A certificate with its key, as files, and when it is valid by the wall clock (s since the epoch)."""

    files: ClientCertificate
    not_before_s: float
    not_after_s: float

    def life(self, wall_s: float) -> Life:
        """Give what is left of it."""
        return Life(self.not_after_s - wall_s, self.not_after_s - self.not_before_s)


class _Reply(msgspec.Struct, rename="camel"):
    credentials_value: str = ""


class IssuedCertificates:
    """The keys of one gateway directory, and what was issued for them."""

    def __init__(self, directory: Path, files: FileLayer = OPERATING_SYSTEM) -> None:
        self._directory = directory
        self._files = files
        self._key = directory / "key.pem"
        self._next_key = directory / "key-next.pem"

    def signing_request(self, device_name: str, *, new_key: bool) -> str:
        """Make a signing request (PEM) with the present or the next key, which is made once. Raises OSError."""
        key = kept_key(self._next_key if new_key else self._key, self._files)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_name[:_MAX_COMMON_NAME])])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def take(self, reply: bytes, *, renewed: bool) -> IssuedCertificate:
        """Put the certificate of a reply where TLS finds it, beside the key that it belongs to.

        Raises NotUsable and OSError.
        """
        pem = _pem_of(reply)
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode())
            public_key = certificate.public_key()
        except ValueError as error:
            raise NotUsable(f"the server's certificate cannot be read: {error}") from error
        for key_file in (self._key, self._next_key):
            key = read_key(key_file, self._files)
            if key is not None and key.public_key() == public_key:
                break
        else:
            raise NotUsable("the server's certificate is not for a key of this gateway")
        file = self._directory / ("cert-next.pem" if renewed else "cert.pem")
        remove_leftovers(file, self._files)
        write_file(file, pem.encode(), self._files)
        return IssuedCertificate(
            ClientCertificate(file, key_file, pem),
            certificate.not_valid_before_utc.timestamp(),
            certificate.not_valid_after_utc.timestamp(),
        )

    def settle(self, stored: IssuedCertificate) -> IssuedCertificate:
        """Give the stored certificate's key its usual name, which makes room for the next one. Raises OSError."""
        files = stored.files
        if files.key_file == self._next_key:
            move_file(self._next_key, self._key, self._files)
            files = msgspec.structs.replace(files, key_file=self._key)
        return msgspec.structs.replace(stored, files=files)


def _pem_of(reply: bytes) -> str:
    """Give the certificate of a reply as PEM; servers leave the first and last line out (thingsboard.md section 5)."""
    try:
        value = msgspec.json.decode(reply, type=_Reply).credentials_value.strip()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotUsable("the reply holds no certificate") from error
    if value.startswith("-----BEGIN"):
        return value + "\n"
    return f"-----BEGIN CERTIFICATE-----\n{value}\n-----END CERTIFICATE-----\n"
