"""Key pairs and certificates of virtual gateways: made ahead, the same ones for the same seed, group and place.

The same ones, so that a clone shows its original's, whichever process drives it. They are worth nothing outside of a
simulation: whoever knows the seed has the keys.
"""

import datetime as dt
import ssl
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mqttprov_simulator.chance import sub_seed

_MAX_COMMON_NAME: Final = 64  # X.520 ub-common-name
# As the shipped gateway's: it is trusted because it was registered, so it neither runs out nor hangs on a clock.
_NOT_BEFORE: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NOT_AFTER: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
_PARTS: Final = 4  # of 64 bits each, for a number of P-256


class OwnCertificate(msgspec.Struct, frozen=True):
    """A self-signed certificate as PEM, and the file that holds it with its key."""

    pem: str
    file: Path

    def context(self, ca_pem: str | None) -> ssl.SSLContext:
        """Make a context that shows it. OpenSSL reads keys from files alone."""
        context = server_context(ca_pem)
        context.load_cert_chain(self.file)
        return context


def server_context(ca_pem: str | None) -> ssl.SSLContext:
    """Make a context that verifies the server by this authority, None: by those of the system."""
    return ssl.create_default_context(cadata=ca_pem)


def own_certificate(seed: int, group: str, place: int, device: str, folder: Path) -> OwnCertificate:
    """Make the certificate of one gateway and write it with its key, readable by the owner alone. Raises OSError."""
    number = 0
    for part in range(_PARTS):
        number = number << 64 | sub_seed(seed, "key", str(part), group, str(place))
    # Nearly all numbers of 256 bits are below the order of P-256; half of them would be more than enough.
    key = ec.derive_private_key(1 + (number >> 1), ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device[:_MAX_COMMON_NAME])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1 + (number >> 100))
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "identity.pem"
    file.touch(mode=0o600)
    file.write_bytes(key_pem + pem.encode())
    return OwnCertificate(pem, file)
