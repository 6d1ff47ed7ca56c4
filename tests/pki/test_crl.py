"""Lists of ended certificates: what is in them, their numbers and times, and that openssl accepts them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from mqttprov.pki.authority import Authority
from mqttprov.pki.crl import Ended, Ending, entries_by_issuer, is_current, list_pem, load_lists, make_list

if TYPE_CHECKING:
    from tests.pki.conftest import Maker

DAY_MS = 86_400_000


@pytest.fixture
def ended(authority: Authority, maker: Maker) -> list[Ended]:
    """One certificate for each reason."""
    return [
        Ended(authority.sign_device(maker.csr(), "0a", "gw", bytes([n]) * 16, maker.now_ms).pem, ending)
        for n, ending in enumerate(Ending, start=1)
    ]


def said(made: x509.CertificateRevocationList) -> dict[int, tuple[str, datetime]]:
    """Give reason and date by serial."""
    return {
        one.serial_number: (
            one.extensions.get_extension_for_class(x509.CRLReason).value.reason.value, one.revocation_date_utc
        ) for one in made
    }  # fmt: skip


def number(made: x509.CertificateRevocationList) -> int:
    """Give the CRL number."""
    return made.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def make(
    authority: Authority, ended: list[Ended], now_ms: int, *old: x509.CertificateRevocationList
) -> x509.CertificateRevocationList:
    """Make the authority's list."""
    return make_list(authority, entries_by_issuer(ended, now_ms).get(authority.key_id, {}), old, now_ms)


def test_a_list_says_which_certificates_ended_and_why(authority: Authority, maker: Maker, ended: list[Ended]) -> None:
    """Signed by its authority, good for 7 days, with number and key identifier (RFC 5280 section 5.2)."""
    made = make(authority, ended, maker.now_ms)
    now = datetime.fromtimestamp(maker.now_ms // 1000, UTC)
    serials = [x509.load_pem_x509_certificate(one.certificate.encode()).serial_number for one in ended]
    assert said(made) == {serial: (one.ending.value, now) for serial, one in zip(serials, ended, strict=True)}
    assert (made.last_update_utc, made.next_update_utc) == (now, now + timedelta(days=7))
    assert made.issuer == authority.certificate.subject
    assert authority.is_from(made)
    key = made.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert key.key_identifier == authority.key_id


def test_numbers_rise_and_dates_stay(authority: Authority, maker: Maker, ended: list[Ended]) -> None:
    """An entry keeps the date when it was first listed for this reason, also when the clock goes back."""
    first = make(authority, ended[:2], maker.now_ms)
    second = make(authority, [Ended(ended[0].certificate, Ending.ENDED), *ended[1:]], maker.now_ms + DAY_MS, first)
    again = make(authority, ended, maker.now_ms - DAY_MS, second)
    assert number(first) < number(second) < number(again)
    was, now = said(first), said(second)
    first_serial, second_serial, third_serial = sorted(now)
    assert now[second_serial] == was[second_serial]
    assert now[first_serial][1] == now[third_serial][1] == was[first_serial][1] + timedelta(days=1)


def test_a_lost_list_does_not_set_the_numbers_back(authority: Authority, maker: Maker) -> None:
    """They are at least the seconds since the epoch."""
    first = make(authority, [], maker.now_ms)
    assert number(make(authority, [], maker.now_ms + 2000)) > number(first)


def test_what_ran_out_and_what_others_issued_is_not_listed(
    authority: Authority, maker: Maker, ended: list[Ended]
) -> None:
    """A certificate past its validity needs no entry, and each authority speaks for its own."""
    other = Authority.create("other", maker.now_ms)
    foreign = Ended(other.sign_device(maker.csr(), "0a", "gw", b"x" * 16, maker.now_ms).pem, Ending.HELD)
    own = Ended(maker.certificate(), Ending.HELD)  # names no issuer's key
    entries = entries_by_issuer([*ended, foreign, own], maker.now_ms)
    assert {key: len(found) for key, found in entries.items()} == {authority.key_id: 3, other.key_id: 1}
    assert entries_by_issuer(ended, maker.now_ms + 91 * DAY_MS) == {}


def test_a_list_holds_until_something_changed_or_a_day_went_by(
    authority: Authority, maker: Maker, ended: list[Ended]
) -> None:
    """So that nothing is written for nothing; also behind a clock that was set back it is made anew."""
    made, entries = make(authority, ended, maker.now_ms), entries_by_issuer(ended, maker.now_ms)[authority.key_id]
    assert is_current(made, entries, maker.now_ms + DAY_MS - 2000)
    assert not is_current(made, entries, maker.now_ms + DAY_MS)
    assert not is_current(made, entries, maker.now_ms - 2000)
    assert not is_current(made, {}, maker.now_ms)
    changed = entries_by_issuer([Ended(one.certificate, Ending.HELD) for one in ended], maker.now_ms)
    assert not is_current(made, changed[authority.key_id], maker.now_ms)


def test_several_lists_in_one_file_are_read_back(authority: Authority, maker: Maker, ended: list[Ended]) -> None:
    """One behind the other, as brokers take them; what is none raises `ValueError`."""
    lists = [make(authority, ended, maker.now_ms), make(authority, [], maker.now_ms)]
    assert load_lists("".join(map(list_pem, lists))) == lists
    assert load_lists("") == []
    with pytest.raises(ValueError, match=r".+"):
        load_lists("nonsense")


def test_openssl_checks_certificates_against_a_list(
    authority: Authority, maker: Maker, ended: list[Ended], tmp_path: Path, need: Callable[[str], None]
) -> None:
    """It accepts the list's signature, a certificate that is not in it, and refuses each that is (SD-21)."""
    need("openssl")
    good = authority.sign_device(maker.csr(), "0b", "gw-2", b"g" * 16, maker.now_ms).pem
    files = {"ca": authority.certificate_pem, "crl": list_pem(make(authority, ended, maker.now_ms)), "good": good}
    files |= {f"bad{n}": one.certificate for n, one in enumerate(ended)}
    for name, text in files.items():
        (tmp_path / f"{name}.pem").write_text(text)

    def openssl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["openssl", *arguments], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=20
        )

    checked = openssl("crl", "-in", "crl.pem", "-CAfile", "ca.pem", "-noout", "-verify")
    assert (checked.returncode, checked.stderr.strip()) == (0, "verify OK")
    base = ["verify", "-crl_check", "-x509_strict", "-purpose", "sslclient", "-attime", str(maker.now_ms // 1000)]
    base += ["-CAfile", "ca.pem", "-CRLfile", "crl.pem"]
    assert openssl(*base, "good.pem").stdout == "good.pem: OK\n"
    for n in range(len(ended)):
        refused = openssl(*base, f"bad{n}.pem")
        assert refused.returncode != 0
        assert "certificate revoked" in refused.stderr
