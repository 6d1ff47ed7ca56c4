"""A device comes in by its certificate: whose chain vouches for it becomes a device with its first TLS connection.

The certificate is its credential and is in use at once, so that all of its life so far is one event (P5). It counts on
the `default` token of its profile, which can be limited, revoked and expire like any other (P1).
"""

import msgspec

from mqttprov.core.admission import Refusal, check_device, check_limit, check_name, check_policy
from mqttprov.core.audit import Event, EventKind
from mqttprov.core.credentials import certificate_login_key
from mqttprov.core.factory import BY_CHAIN, ChainArrival
from mqttprov.core.facts import (
    ActivateCredential,
    ChangeOwner,
    CountRegistration,
    CreateDevice,
    DeviceFacts,
    Effect,
    Facts,
    IssueCredential,
    ProvisionDevice,
    SupersedeCredentials,
)
from mqttprov.core.lifecycle import LifecycleEvent, transition
from mqttprov.core.login import Login, LoginFacts, LoginRefusal, login_with
from mqttprov.core.model import Credential, CredentialsType, Device, LifecycleState, Strategy, Token
from mqttprov.core.provisioning import Context, issued_event
from mqttprov.core.requests import Reason
from mqttprov.core.secrets import new_id


class Enrolment(msgspec.Struct, frozen=True):
    """What an arrival changes. The effects are applied to the facts; without an event nothing has changed."""

    login: Login
    effects: tuple[Effect, ...] = ()
    event: Event | None = None


def enrol(arrival: ChainArrival, facts: Facts, context: Context) -> Enrolment:
    """Decide whether a certificate of a chain makes a device, or the next generation of one; apply it to `facts`.

    Never raises for anything that a certificate can hold: a refusal is a login with its reason.
    """
    try:
        return _enrol(arrival, facts, context)
    except Refusal as refusal:
        return Enrolment(Login(refusal=LoginRefusal.CHAIN, reason=refusal.reason))


def _enrol(arrival: ChainArrival, facts: Facts, context: Context) -> Enrolment:
    certificate, now_ms = arrival.certificate, context.now_ms
    token = _check_token(facts.tokens.get(arrival.token_key))
    login_key = certificate_login_key(context.keys, certificate.fingerprint)
    if not certificate.is_valid(now_ms):
        raise Refusal(Reason.BAD_CREDENTIALS)
    check_name(token, arrival.name)
    known = facts.devices.get(arrival.fold)
    if known is not None:
        check_device(known.device, token, transferring=False)
        held = next((c for c in known.credentials if c.login_key == login_key), None)
        if held is not None:  # another connection with the same certificate was faster
            return Enrolment(login_with(LoginFacts(held, known.device, token.profile)))
    if login_key in facts.ended:
        raise Refusal(Reason.CERTIFICATE_ENDED)
    if login_key in facts.logins:
        raise Refusal(Reason.CREDENTIALS_TAKEN)
    if token.expires_ms is not None and now_ms >= token.expires_ms:
        raise Refusal(Reason.EXPIRED)
    if known is not None:
        _check_known(known, token, certificate.public_key)
    else:
        known = DeviceFacts(_new_device(arrival, token, context))
    check_limit(token, known)
    credential = Credential(
        known.device.id,
        known.last_generation + 1,
        CredentialsType.X509_CERTIFICATE,
        login_key,
        context.keys.mac("chain-proof", certificate.fingerprint),
        # Not kept: TLS trusts it by its authority, and no longer than that.
        public_key=certificate.public_key,
        supplied=True,
        issued_ms=now_ms,
    )
    return _let_in(facts, token, known, credential, context)


def _check_token(token: Token | None) -> Token:
    if token is None:
        raise Refusal(Reason.UNKNOWN_KEY)
    # Another process may have changed the profile since the certificate was looked into.
    if token.profile.strategy is not Strategy.CERTIFICATE_CHAIN or token.profile.rotate_on_first_use:
        raise Refusal(Reason.DISABLED)
    if token.revoked_ms is not None:
        raise Refusal(Reason.REVOKED)
    return token


def _check_known(known: DeviceFacts, token: Token, public_key: str) -> None:
    """Hold a device that an operator listed to what its factory gave it, and one that was here to its policy."""
    if known.last_generation == 0:
        if known.device.claim is not None:
            raise Refusal(Reason.CLAIM_NEEDED)
        if known.device.factory_key not in {None, public_key}:
            raise Refusal(Reason.OTHER_KEY)
    check_policy(known, token.profile, public_key)


def _new_device(arrival: ChainArrival, token: Token, context: Context) -> Device:
    return Device(
        new_id(context.now_ms, context.entropy[10:20]),
        arrival.name,
        arrival.fold,
        token.profile.id,
        LifecycleState.MANUFACTURED,
        context.now_ms,
        owner=token.owner,
    )


def _let_in(facts: Facts, token: Token, known: DeviceFacts, credential: Credential, context: Context) -> Enrolment:
    device, now_ms = known.device, context.now_ms
    older = tuple(c.generation for c in known.credentials)
    effects: list[Effect] = [] if device.fold in facts.devices else [CreateDevice(device)]
    labels = device.labels
    if token.id not in known.registered_by:
        effects.append(CountRegistration(token.id, token.key, device.id, device.fold, now_ms))
        labels = {**labels, **token.labels}
    state = transition(device.state, LifecycleEvent.PROVISION)
    effects.append(ProvisionDevice(device.id, device.fold, state, labels, token.id, device.gateway))
    if token.owner is not None and device.owner is None:
        effects.append(ChangeOwner(device.id, device.fold, token.owner, None))
    effects.append(IssueCredential(device.fold, credential))
    effects.append(ActivateCredential(device.id, device.fold, credential.generation, now_ms))
    if older:
        effects.append(SupersedeCredentials(device.id, device.fold, older))
    for effect in effects:
        effect.apply(facts)
    kind = EventKind.REPROVISIONED if credential.generation > 1 else EventKind.PROVISIONED
    event = issued_event(kind, context, token, device, credential, effects, BY_CHAIN)
    login = login_with(LoginFacts(credential, facts.devices[device.fold].device, token.profile))
    return Enrolment(login, tuple(effects), event)
