"""Lists of authorities: what is taken, and for which certificates they vouch."""

import time
from collections.abc import Callable

import pytest
from tests.brokers.certificates import DeviceKey, FactoryAuthority, der_of
from tests.pki.conftest import Maker

from mqttprov.core.limits import MAX_AUTHORITIES
from mqttprov.pki.chains import check_authorities, vouches_for
from mqttprov.pki.inspect import BadCertificate, inspect_presented

NOW_MS = time.time_ns() // 1_000_000
DAY_MS = 86_400_000
ROOT = FactoryAuthority("Root")
LINE = FactoryAuthority("Line", ROOT, path_length=0)
DEVICE = DeviceKey("gw-1")
LEAF = LINE.issue(DEVICE, "gw-1")


def test_an_issuer_in_the_list_vouches_with_and_without_what_is_above_it() -> None:
    """Root and intermediate, or the intermediate alone; the root alone has not issued it."""
    assert vouches_for(ROOT.pem + LINE.pem, LEAF, NOW_MS)
    assert vouches_for(LINE.pem + ROOT.pem, LEAF, NOW_MS)
    assert vouches_for(LINE.pem, LEAF, NOW_MS)
    assert not vouches_for(ROOT.pem, LEAF, NOW_MS)
    assert vouches_for(ROOT.pem, ROOT.issue(DEVICE, "gw-1"), NOW_MS)


@pytest.mark.parametrize(
    "others",
    [
        lambda: FactoryAuthority("Line", ROOT).pem,
        lambda: FactoryAuthority("Line").pem,
        lambda: LINE.issue(DeviceKey("x"), "Line"),
        lambda: DEVICE.certificate_pem,
    ],
    ids=["same name and issuer", "same name", "a leaf of that name", "the device itself"],
)
def test_a_name_is_not_enough(others: Callable[[], str]) -> None:
    """Only the key that signed counts."""
    assert not vouches_for(others(), LEAF, NOW_MS)


def test_every_authority_above_must_be_good_itself() -> None:
    """Path length, right to sign, being an authority at all, and dates, up to the top of the list."""
    outer = FactoryAuthority("Outer", path_length=0)
    inner = FactoryAuthority("Inner", outer)
    assert vouches_for(inner.pem, inner.issue(DEVICE, "gw-1"), NOW_MS)
    assert not vouches_for(outer.pem + inner.pem, inner.issue(DEVICE, "gw-1"), NOW_MS)
    no_signer = FactoryAuthority("No signer", signs=False)
    assert not vouches_for(no_signer.pem, no_signer.issue(DEVICE, "gw-1"), NOW_MS)
    none = FactoryAuthority("None", is_authority=False)
    assert not vouches_for(none.pem, none.issue(DEVICE, "gw-1"), NOW_MS)
    ended = FactoryAuthority("Ended", days=-1)
    below = FactoryAuthority("Below", ended)
    assert not vouches_for(ended.pem + below.pem, below.issue(DEVICE, "gw-1"), NOW_MS)
    assert vouches_for(ended.pem + below.pem, below.issue(DEVICE, "gw-1"), NOW_MS - 5 * DAY_MS)


def test_authorities_that_sign_each_other_end() -> None:
    """A list that goes round vouches or does not, but comes to an end."""
    one = FactoryAuthority("One")
    two = FactoryAuthority("Two", one)
    again = FactoryAuthority("One", two)
    assert not vouches_for(two.pem + again.pem, two.issue(DEVICE, "gw-1"), NOW_MS)


def test_a_list_is_taken_in_normal_form() -> None:
    """Text between the certificates is left out."""
    assert check_authorities(f"The root:\n{ROOT.pem}\nThe line:\n{LINE.pem}", NOW_MS) == ROOT.pem + LINE.pem


@pytest.mark.parametrize(
    ("pem", "text"),
    [
        ("", "holds 1 to"),
        ("-----BEGIN CERTIFICATE-----\nMAo=\n-----END CERTIFICATE-----\n", "give X.509 certificates"),
        ("-----BEGIN CERTIFICATE-----\n", "give X.509 certificates"),
        (ROOT.pem + DEVICE.private_key_pem(), "private key"),
        (ROOT.pem * (MAX_AUTHORITIES + 1), "holds 1 to"),
        ("x" * 200_000, "too large"),
        (LEAF, "not the certificate of an authority"),
        (FactoryAuthority("Old", days=-1).pem, "not valid now"),
        (DEVICE.csr_pem(), "give X.509 certificates"),
    ],
)
def test_what_cannot_be_a_list_of_authorities_is_refused_in_words(pem: str, text: str) -> None:
    """One error that says what is wrong, at the time of making the profile."""
    with pytest.raises(BadCertificate, match=text):
        check_authorities(pem, NOW_MS)


def test_a_presented_certificate_is_told_as_it_is(maker: Maker) -> None:
    """Name, key, dates and hashes; no name when there is none or several."""
    shown = inspect_presented(der_of(LEAF))
    assert (shown.common_name, shown.pem) == ("gw-1", LEAF)
    assert shown.is_valid(NOW_MS)
    assert not shown.is_valid(NOW_MS + 31 * DAY_MS)
    assert not shown.is_valid(NOW_MS - 31 * DAY_MS)
    assert inspect_presented(der_of(LINE.issue(DEVICE, None))).common_name is None
    assert inspect_presented(der_of(DEVICE.certificate_pem)).public_key == shown.public_key


def test_a_weak_or_broken_presented_certificate_is_no_identity(maker: Maker) -> None:
    """The same keys are allowed as everywhere."""
    with pytest.raises(BadCertificate, match="not allowed"):
        inspect_presented(der_of(maker.certificate("RSA 1024")))
    with pytest.raises(BadCertificate, match="cannot be read"):
        inspect_presented(b"nothing")
