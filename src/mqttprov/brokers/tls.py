"""TLS of the embedded broker: its own certificate, and the client certificates that it lets through.

A device may come without a certificate (to provision, or with a token) and with one. Certificates that authorities
issued (ours, those of profiles) are verified by OpenSSL as ever. Those that devices registered or were imported with
stand each for itself, most of them self-signed and by the hundred thousand, often all with one subject
(thingsboard.md section 12): the store is asked for the one that a handshake shows, and only that one becomes an anchor
(`VERIFY_X509_PARTIAL_CHAIN`). Loading them all costs the square of their number, and so does a directory (`capath`)
for those of one subject: OpenSSL reads all of them for the first handshake. Who it is and whether it may is decided at
CONNECT.
"""

import logging
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509

from mqttprov.core.audit import EventKind
from mqttprov.pki.authority import Authority

CHANGES_AUTHORITIES: Final = frozenset(
    {
        EventKind.AUTHORITY_CREATED,
        EventKind.AUTHORITY_ROTATED,
        EventKind.AUTHORITY_RETIRED,
        EventKind.PROFILE_CREATED,
        EventKind.PROFILE_UPDATED,
    }
)
MAX_ANCHORS: Final = 64  # for a context: each costs it memory, and time in all its handshakes
_HANDSHAKE: Final = 22  # RFC 8446 section 5.1
_CERTIFICATE: Final = 11  # RFC 8446 section 4, RFC 5246 section 7.4
_HEADER_BYTES: Final = 4
_NO_COMPRESSED_CERTIFICATES: Final = 1 << 33  # SSL_OP_NO_RX_CERTIFICATE_COMPRESSION (OpenSSL 3.2): they are read here

_log = logging.getLogger(__name__)


def server_context(certificate: Path, private_key: Path, authorities: str, *, required: bool) -> ssl.SSLContext:
    """Make a listener's context: TLS 1.2 (the vendor's gateway speaks nothing newer) or 1.3. Raises OSError.

    It takes client certificates of these authorities (PEM). `required` turns clients without a certificate away in the
    handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | _NO_COMPRESSED_CERTIFICATES
    context.load_cert_chain(certificate, private_key)
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=authorities)
    return context


class ClientTrust:
    """The contexts of TLS listeners, one after another: each takes in what a bounded number of handshakes showed.

    `make` makes one that knows the authorities alone and raises OSError; `knows` tells whether a certificate (DER)
    stands for itself.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext], knows: Callable[[bytes], bool]) -> None:
        self._make = make
        self._knows = knows
        self.renew()

    def renew(self) -> None:
        """Make new contexts: something else is trusted from now on. Raises OSError, and all stays as it was."""
        settled, context = self._make(), self._make()
        # Python tells nobody what it verifies, but has a hook for debuggers, before OpenSSL looks at a message.
        context._msg_callback = self._on_message  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public one
        self._settled, self._context = settled, context
        self._anchors = 0

    def context(self) -> ssl.SSLContext:
        """Give the context for a handshake that begins now."""
        if self._anchors >= MAX_ANCHORS:
            try:
                self.renew()
            except OSError as error:
                self._anchors = 0
                _log.error("TLS goes on with what was read before: %s", error)
        return self._context

    def settle(self, connection: ssl.SSLObject) -> None:
        """Have a connection be done with its handshake: no message of it is looked at any more."""
        connection.context = self._settled

    def _on_message(
        self, connection: ssl.SSLObject, direction: str, version: int, content_type: int, message_type: int, data: bytes
    ) -> None:
        if direction != "read" or content_type != _HANDSHAKE or message_type != _CERTIFICATE:
            return
        certificate = shown_certificate(data, tls13=version == ssl.TLSVersion.TLSv1_3)
        if certificate is not None and self._knows(certificate):
            self._anchors += 1
            connection.context.load_verify_locations(cadata=certificate)


def shown_certificate(message: bytes, *, tls13: bool) -> bytes | None:
    """Give the first certificate (DER) of a Certificate message, None when there is none in it.

    The forms are those of RFC 8446 section 4.4.2 and RFC 5246 section 7.4.2; that it is well formed is for OpenSSL.
    """
    at = _HEADER_BYTES
    if tls13:
        at += 1 + int.from_bytes(message[at : at + 1])  # certificate_request_context
    at += 3  # length of the list
    size = int.from_bytes(message[at : at + 3])
    certificate = bytes(message[at + 3 : at + 3 + size])
    return certificate if certificate and len(certificate) == size else None


def make_server_certificate(authority: Authority, host: str, folder: Path, now_ms: int) -> tuple[Path, Path]:
    """Make a certificate for this machine, signed by our authority; give the files of certificate and private key."""
    certificate_pem, key_pem = authority.issue_server(server_names(host), now_ms)
    certificate, key = folder / "server.pem", folder / "keys" / "server-key.pem"
    for path, text in ((certificate, certificate_pem), (key, key_pem)):
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(text, "ascii")
    return certificate, key


def warn_of_ended(certificate: Path, now_ms: int) -> None:
    """Log that a server's certificate is not valid now: it can be served, but no client that checks it comes in."""
    try:
        read = x509.load_pem_x509_certificate(certificate.read_bytes())
    except ValueError:  # OpenSSL, which serves it, is less strict
        return
    begins, ends = read.not_valid_before_utc, read.not_valid_after_utc
    if not begins.timestamp() * 1000 <= now_ms < ends.timestamp() * 1000:
        _log.warning(
            "the TLS certificate %s is valid from %s to %s only, so clients refuse it; renew it and start again, "
            "or set the clock",
            certificate,
            begins.date(),
            ends.date(),
        )


def server_names(host: str) -> list[str]:
    """Give the names for which a server that listens on this address needs a certificate."""
    names = {"localhost", "127.0.0.1", "::1"}
    if host not in {"0.0.0.0", "::", ""}:  # noqa: S104 - not bound here, only left out of the names
        names.add(host)
    else:
        names.add(socket.gethostname())
    return sorted(name for name in names if _usable(name))


def _usable(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return all(label.replace("-", "a").isalnum() for label in name.split("."))
    return True
