"""Factory identities: what a certificate from a factory shows in the TLS handshake, and what that opens.

A device is known by the key of the certificate with which it was imported, or by the name that a chain vouches for.
By such a certificate it may provision itself and nothing else; with `rotate-on-first-use` the certificate stands for
key and secret, until the device has logged in with what it was given.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from mqttprov.core import names
from mqttprov.core.facts import DeviceFacts
from mqttprov.core.lifecycle import may_provision
from mqttprov.core.login import Login, LoginRefusal
from mqttprov.core.model import Chain, CredentialStatus, LifecycleState, Profile
from mqttprov.core.requests import FactoryIdentity, ProvisionRequest, Reason
from mqttprov.core.subjects import name_in_subject

BY_FACTORY_IDENTITY: Final = "factory identity"  # in audit events, what was shown instead of key and secret
BY_CHAIN: Final = "certificate chain"
_NEVER_USED: Final = frozenset({LifecycleState.MANUFACTURED, LifecycleState.PROVISIONED})


class PresentedCertificate(msgspec.Struct, frozen=True, gc=False):
    """A client certificate that a TLS handshake has checked; its hashes are SHA-256 (hex) of the DER and of its key.

    `common_name` is None when the subject has none, or several. It is valid from `from_ms` to `until_ms`.
    """

    pem: str
    fingerprint: str
    public_key: str
    common_name: str | None
    from_ms: int
    until_ms: int

    def is_valid(self, now_ms: int) -> bool:
        """Tell whether it is valid now, whatever the handshake said."""
        return self.from_ms <= now_ms <= self.until_ms


class FactoryFacts(msgspec.Struct, frozen=True):
    """A device that a factory identity may be, with its profile and the key of that profile's `default` token.

    `rotating` tells that an operator wants a newer generation and none has logged in yet.
    """

    name: str
    fold: str
    state: LifecycleState
    transferred: bool
    rotating: bool
    profile: Profile
    token_key: str


class ChainFacts(msgspec.Struct, frozen=True):
    """A profile whose devices come in by certificates, with the key of its `default` token."""

    profile: Profile
    chain: Chain
    token_key: str


class ChainArrival(msgspec.Struct, frozen=True):
    """A certificate of a chain that no credential knows, and the device name that its subject gives."""

    certificate: PresentedCertificate
    name: str
    fold: str
    token_key: str


def is_open(known: DeviceFacts) -> bool:
    """Tell whether a factory identity may still stand for key and secret of this device."""
    device = known.device
    rotating = device.rotate_from is not None and not any(
        c.status is CredentialStatus.ACTIVE and c.generation > device.rotate_from for c in known.credentials
    )
    return _is_open(device.state, transferred=device.transferred_ms is not None, rotating=rotating)


def _is_open(state: LifecycleState, *, transferred: bool, rotating: bool) -> bool:
    """Until the first login with what it was given, and again when an operator asks it to fetch a newer generation.

    Never after a transfer: the one who had the device may know the key.
    """
    return not transferred and (state in _NEVER_USED or (state is LifecycleState.ACTIVE and rotating))


def login_as_imported(certificate: PresentedCertificate, devices: Sequence[FactoryFacts], now_ms: int) -> Login:
    """Decide what the certificate opens with whose key these devices were imported."""
    if len(devices) > 1:
        return Login(refusal=LoginRefusal.FACTORY_SHARED)
    return _login(certificate, devices[0], devices[0].name, now_ms, chain=False)


def arrive_by_chain(
    certificate: PresentedCertificate, chain: ChainFacts, known: FactoryFacts | None, name: str, now_ms: int
) -> Login | ChainArrival:
    """Decide what a certificate of the chain opens: the way to become a device, or only to provision itself as one.

    `known` is the device of that name, if there is one. Raises `names.InvalidName`.
    """
    name = names.normalise_device_name(name, unicode_names=chain.profile.unicode_names)
    if not chain.profile.rotate_on_first_use:
        return ChainArrival(certificate, name, names.fold(name), chain.token_key)
    if known is not None and known.profile.id != chain.profile.id:
        return Login(refusal=LoginRefusal.CHAIN, reason=Reason.OTHER_PROFILE)
    never = LifecycleState.MANUFACTURED
    new = FactoryFacts(name, names.fold(name), never, False, False, chain.profile, chain.token_key)
    return _login(certificate, known or new, name, now_ms, chain=True)


def _login(certificate: PresentedCertificate, facts: FactoryFacts, name: str, now_ms: int, *, chain: bool) -> Login:
    suffices = facts.profile.rotate_on_first_use
    if not certificate.is_valid(now_ms):
        return Login(refusal=LoginRefusal.CERTIFICATE)
    if not may_provision(facts.state):
        return Login(refusal=LoginRefusal.STATE)
    if suffices and not _is_open(facts.state, transferred=facts.transferred, rotating=facts.rotating):
        return Login(refusal=LoginRefusal.FACTORY_SPENT)
    identity = FactoryIdentity(name, facts.fold, facts.token_key, certificate.public_key, chain, suffices)
    return Login(provisioning=True, factory=identity)


def fitting_name(chain: ChainFacts, certificate: PresentedCertificate) -> str | None:
    """Give the device name in the subject of a certificate, None when the profile's pattern finds none."""
    if certificate.common_name is None:
        return None
    return name_in_subject(chain.chain.subject_pattern, certificate.common_name)


def asked_by(factory: FactoryIdentity, request: ProvisionRequest) -> ProvisionRequest:
    """Complete a request by what the session has shown: the name, and the token on which it counts."""
    return msgspec.structs.replace(
        request,
        factory=factory,
        key=request.key or factory.token_key,
        device_name=factory.name if request.device_name is None else request.device_name,
    )
