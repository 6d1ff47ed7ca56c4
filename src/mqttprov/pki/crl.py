"""Lists of ended certificates (CRL, RFC 5280 section 5): which entries, numbers and times. Files are not for here.

When a certificate ended is not kept anywhere else: an entry keeps the date of the list before, new ones get today's.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mqttprov.pki.authority import Authority, issuer_key_id

VALID: Final = timedelta(days=7)
RENEW_AFTER: Final = timedelta(days=1)


class Ending(StrEnum):
    """Why a certificate no longer counts; the values are X.509's reasons (RFC 5280 section 5.3.1)."""

    SUPERSEDED = "superseded"
    HELD = "certificateHold"
    ENDED = "cessationOfOperation"


class Ended(msgspec.Struct, frozen=True):
    """A certificate of ours (PEM) that no longer counts."""

    certificate: str
    ending: Ending


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What a list says of a certificate."""

    serial: int
    ending: Ending


def entries_by_issuer(ended: Iterable[Ended], now_ms: int) -> dict[bytes, dict[int, Entry]]:
    """Give the entries of all lists, by the issuer's key identifier; certificates that have run out need none."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    found: dict[bytes, dict[int, Entry]] = {}
    for one in ended:
        certificate = x509.load_pem_x509_certificate(one.certificate.encode())
        issuer = issuer_key_id(certificate)
        if issuer is not None and certificate.not_valid_after_utc > now:
            found.setdefault(issuer, {})[certificate.serial_number] = Entry(certificate.serial_number, one.ending)
    return found


def load_lists(pem: str) -> list[x509.CertificateRevocationList]:
    """Read the lists that a file holds, one behind the other. Raises `ValueError`."""
    end = "-----END X509 CRL-----"
    return [x509.load_pem_x509_crl((part + end).encode()) for part in pem.split(end) if part.strip()]


def is_current(old: x509.CertificateRevocationList, entries: dict[int, Entry], now_ms: int) -> bool:
    """Tell whether a list still says what it should, and is not a day old yet."""
    age = datetime.fromtimestamp(now_ms / 1000, UTC) - old.last_update_utc
    said = {revoked.serial_number: _reason(revoked) for revoked in old}
    wanted = {serial: entry.ending.value for serial, entry in entries.items()}
    return timedelta() <= age < RENEW_AFTER and said == wanted


def make_list(
    authority: Authority, entries: dict[int, Entry], old: Sequence[x509.CertificateRevocationList], now_ms: int
) -> x509.CertificateRevocationList:
    """Sign the list of an authority that follows `old` ones (of any authority; only its own count)."""
    now = datetime.fromtimestamp(now_ms // 1000, UTC)
    before = [one for one in old if authority.is_from(one)]
    dates = {
        revoked.serial_number: (_reason(revoked), revoked.revocation_date_utc) for one in before for revoked in one
    }
    # Seconds since the epoch, so that numbers go on rising when the file was lost; never less than the last one and 1.
    number = max([int(now.timestamp()), *(_number(one) + 1 for one in before)])
    builder = (
        x509.CertificateRevocationListBuilder()
        .last_update(now)
        .next_update(now + VALID)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial, entry in sorted(entries.items()):
        reason, date = dates.get(serial, ("", now))
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(serial)
            .revocation_date(date if reason == entry.ending else now)
            .add_extension(x509.CRLReason(x509.ReasonFlags(entry.ending.value)), critical=False)
            .build()
        )
    return authority.sign_list(builder)


def list_pem(made: x509.CertificateRevocationList) -> str:
    """Give a list as PEM text."""
    return made.public_bytes(Encoding.PEM).decode("ascii")


def _number(made: x509.CertificateRevocationList) -> int:
    return made.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def _reason(revoked: x509.RevokedCertificate) -> str:
    try:
        return revoked.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        return ""
