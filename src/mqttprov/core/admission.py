"""Who may be given the next generation of credentials: the checks that stand between a request and its device.

Each raises `Refusal`. In which order they come, and what follows, is in `mqttprov.core.provisioning` for requests and
in `mqttprov.core.chain` for certificates.
"""

from mqttprov.core import names
from mqttprov.core.credentials import CredentialsRefused
from mqttprov.core.factory import is_open
from mqttprov.core.facts import DeviceFacts
from mqttprov.core.lifecycle import may_provision
from mqttprov.core.model import Credential, CredentialStatus, Device, Profile, ReprovisionPolicy, Strategy, Token
from mqttprov.core.proving import Standing
from mqttprov.core.requests import FactoryIdentity, ProvisionRequest, Reason
from mqttprov.core.secrets import equal
from mqttprov.core.transfer import is_foreign


class Refusal(Exception):  # noqa: N818 - control flow within the rules, not an error
    """It is refused: why, for the operator, and in words for the device where it may know."""

    def __init__(self, reason: Reason, why: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.why = why


def check_token(token: Token | None, standing: Standing) -> Token:
    """Hold a request to its token: known, proven, in use."""
    if token is None:
        raise Refusal(Reason.UNKNOWN_KEY)
    if not standing.proven:
        raise Refusal(Reason.WRONG_SECRET)
    if token.profile.strategy is Strategy.DISABLED:
        raise Refusal(Reason.DISABLED)
    if token.revoked_ms is not None:
        raise Refusal(Reason.REVOKED)
    return token


def check_name(token: Token, name: str) -> None:
    """Hold a device name to the token's pattern."""
    if token.device_name_pattern is not None and not names.name_matches(token.device_name_pattern, name):
        raise Refusal(Reason.NAME_NOT_ALLOWED, "this device name is not allowed for this key")


def check_supplied(request: ProvisionRequest, known: DeviceFacts | None, profile: Profile) -> None:
    """Refuse a certificate or signing request with a fault, and one that would make the factory's key go on."""
    for supplied in (request.certificate, request.csr):
        if supplied is not None and supplied.fault:
            raise CredentialsRefused(supplied.fault)
    if profile.rotate_on_first_use:
        factory_key = request.factory.public_key if request.factory else None
        keys = {known.device.factory_key if known else None, factory_key} - {None}
        # Without TLS a signing request is how the factory's key is shown; a session that showed it needs another.
        shown = {request.certificate.public_key if request.certificate else None}
        if request.factory is not None:
            shown.add(request.csr.public_key if request.csr else None)
        if keys & shown:
            raise CredentialsRefused("the factory's key is not for operation; make a new one")


def check_labels(request: ProvisionRequest, profile: Profile) -> None:
    """Refuse labels that the device may not set or that cannot be."""
    foreign = [key for key in request.labels if key not in profile.label_keys]
    if foreign:
        raise Refusal(Reason.BAD_LABELS, "the request sets labels that its profile does not allow")
    try:
        names.check_labels(request.labels)
    except names.InvalidName as error:
        raise Refusal(Reason.BAD_LABELS, str(error)) from error


def check_device(device: Device, token: Token, *, transferring: bool) -> None:
    """Hold a known device to the token's profile and owner, and to its state (P7)."""
    if device.profile_id != token.profile.id:
        raise Refusal(Reason.OTHER_PROFILE, "a device of this name exists already")
    if not transferring and is_foreign(device, token):
        raise Refusal(Reason.OTHER_OWNER, "a device of this name exists already")
    if not may_provision(device.state):
        raise Refusal(Reason.STATE, "this device may not be provisioned now")


def check_factory(request: ProvisionRequest, standing: Standing, fold: str, known: DeviceFacts | None) -> None:
    """Hold a session's request to the device that its factory identity is, also when that has changed since."""
    factory = request.factory
    if factory is not None and factory.fold != fold:
        raise Refusal(Reason.FACTORY_NAME, "the factory certificate of this session is that of another device")
    if factory is None or not standing.factory:
        return
    if known is None:
        if not factory.chain:
            raise Refusal(Reason.NOT_PRE_PROVISIONED, "this device is not known here")
    elif known.device.factory_key != factory.public_key and not _is_vouched_for(factory, known.device):
        raise Refusal(Reason.OTHER_KEY, "this device was made with another factory key")
    elif not is_open(known):
        raise Refusal(Reason.FACTORY_SPENT, "this factory identity has been replaced")


def _is_vouched_for(factory: FactoryIdentity, device: Device) -> bool:
    """Tell whether a chain may say who has the device's name: an operator listed it without a key of its own."""
    return factory.chain and device.factory_key is None


def check_way_in(request: ProvisionRequest, profile: Profile, standing: Standing) -> None:
    """Let devices of a chain's profile in by their certificates, and by a transfer, but not by key and secret."""
    by_chain = profile.strategy is Strategy.CERTIFICATE_CHAIN
    if by_chain and not standing.factory and request.claim_code is None:
        raise Refusal(Reason.CHAIN_NEEDED, "devices of this profile come in by a certificate of their factory")


def repeated(known: DeviceFacts, proof: str) -> Credential | None:
    """Find the unused generation that the same proof was given before (P4); the newest first.

    Not one from before an operator asked for a newer one: that may be what leaked.
    """
    oldest = known.device.rotate_from or 0
    for credential in reversed(known.credentials):
        if credential.generation <= oldest:
            break
        if credential.status is CredentialStatus.ISSUED and equal(credential.proof, proof):
            return credential
    return None


def check_claim(request: ProvisionRequest, known: DeviceFacts, standing: Standing) -> None:
    """Hold a device's first time to what its factory gave it: its claim secret, its certificate's key."""
    if known.last_generation > 0:
        if standing.claimed:
            raise Refusal(Reason.CLAIM_SPENT)
        return
    if known.device.claim is not None and not (standing.claimed or standing.factory) and request.claim_code is None:
        raise Refusal(Reason.CLAIM_NEEDED, "this device must prove itself by its own secret")
    # A signing request is signed by the key; a certificate helps only who has the key when it comes to logging in.
    supplied = (
        request.csr and request.csr.public_key,
        request.certificate and request.certificate.public_key,
        request.factory and request.factory.public_key,
    )
    if known.device.factory_key is not None and known.device.factory_key not in supplied:
        raise Refusal(Reason.OTHER_KEY, "this device must show its factory key: send 'csr' or 'hash' made with it")


def check_policy(known: DeviceFacts, profile: Profile, proven_key: str | None) -> None:
    """Decide whether a device that was provisioned before may have the next generation (DESIGN 5.6).

    `proven_key` is the SHA-256 of the public key whose private half it has shown to have.
    """
    if known.last_generation == 0:
        return  # manufactured: this is its first time
    match profile.reprovision:
        case ReprovisionPolicy.REFUSE:
            if not known.rotation_due:  # an operator's wish for a newer generation opens this once
                raise Refusal(Reason.ALREADY_PROVISIONED, "this device was provisioned before")
        case ReprovisionPolicy.SAME_KEY:
            keys_held = {c.public_key for c in known.credentials if c.public_key}
            if proven_key is None or proven_key not in keys_held:
                raise Refusal(Reason.OTHER_KEY, "this device must prove its key with a 'csr' signed by it")
        case ReprovisionPolicy.REUSE:
            pass


def check_limit(token: Token, known: DeviceFacts) -> None:
    """Hold a token to its maximum. Read under the store's write lock and counted in the same transaction (P1)."""
    limit = token.max_registrations
    if token.id not in known.registered_by and limit is not None and token.used >= limit:
        raise Refusal(Reason.EXHAUSTED)
