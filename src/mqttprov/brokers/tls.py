"""TLS of the embedded broker: its own certificate, and the client certificates that it lets through.

A device may come without a certificate (to provision, or with a token) and with one. Certificates that devices made
themselves or were imported with are trusted each by itself: with `VERIFY_X509_PARTIAL_CHAIN` any certificate can be an
anchor, and new ones are added to the live context (thingsboard.md section 12); so are the authorities of profiles. Who
it is and whether it may is decided at CONNECT.
"""

import socket
import ssl
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from mqttprov.pki.authority import Authority


def server_context(certificate: Path, private_key: Path, *, required: bool) -> ssl.SSLContext:
    """Make the listener's context: TLS 1.2 (the vendor's gateway speaks nothing newer) or 1.3. Raises OSError.

    `required` turns clients without a certificate away in the handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, private_key)
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def trust(context: ssl.SSLContext, certificates: Iterable[str]) -> None:
    """Accept these client certificates (PEM), and what they issued, in handshakes from now on."""
    pem = "\n".join(certificates)
    if pem:
        context.load_verify_locations(cadata=pem)


def make_server_certificate(authority: Authority, host: str, folder: Path, now_ms: int) -> tuple[Path, Path]:
    """Make a certificate for this machine, signed by our authority; give the files of certificate and private key."""
    certificate_pem, key_pem = authority.issue_server(server_names(host), now_ms)
    certificate, key = folder / "server.pem", folder / "keys" / "server-key.pem"
    for path, text in ((certificate, certificate_pem), (key, key_pem)):
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(text, "ascii")
    return certificate, key


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
