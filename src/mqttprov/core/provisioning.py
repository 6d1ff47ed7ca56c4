"""The provisioning decision: a request and the facts go in; an outcome, effects and one audit event come out.

Order of checks (security.md section 3): the secret first, so that nothing is told to somebody who does not have it; all
read-only checks before anything is consumed. The bytes of NOT_FOUND are the same for every reason, and so is the work.
"""

from typing import NamedTuple

import msgspec

from mqttprov.core import names
from mqttprov.core.admission import (
    Refusal,
    check_claim,
    check_device,
    check_factory,
    check_labels,
    check_limit,
    check_name,
    check_policy,
    check_supplied,
    check_token,
    check_way_in,
    repeated,
)
from mqttprov.core.audit import Event, EventKind
from mqttprov.core.credentials import (
    CredentialsRefused,
    Making,
    Sign,
    grant,
    is_recognisable,
    make_credential,
    proof_of,
    same_secret,
    told_again,
)
from mqttprov.core.factory import BY_FACTORY_IDENTITY
from mqttprov.core.facts import (
    ChangeOwner,
    CountRegistration,
    CreateDevice,
    DeviceFacts,
    Effect,
    Facts,
    IssueCredential,
    ProvisionDevice,
    RequestRotation,
    SupersedeCredentials,
)
from mqttprov.core.lifecycle import LifecycleEvent, transition
from mqttprov.core.limits import MAX_LIVE_GENERATIONS, MAX_NAME_CHARS
from mqttprov.core.model import (
    Credential,
    CredentialStatus,
    Device,
    LifecycleState,
    Strategy,
    Token,
)
from mqttprov.core.proving import Standing, judge_secret, pass_for_unproven
from mqttprov.core.requests import Malformed, Outcome, ProvisionRequest, Reason, is_not_found, refused
from mqttprov.core.secrets import Keys, new_id, new_reference
from mqttprov.core.transfer import TRANSFER_TEXT, check_all_new, judge_code, without_kept_code


class Context(msgspec.Struct, frozen=True):
    """What a decision needs beside request and facts: time, 48 random bytes, source address, keys, our authority."""

    now_ms: int
    entropy: bytes
    keys: Keys
    source: str | None = None
    sign: Sign | None = None

    @property
    def ref(self) -> str:
        """The public id of this outcome."""
        return new_reference(self.entropy[:10])


class Decision(NamedTuple):
    """What was decided. The effects are already applied to the facts; the store still has to write them."""

    outcome: Outcome
    effects: tuple[Effect, ...]
    event: Event


def device_name_of(request: ProvisionRequest, keys: Keys, entropy: bytes, *, unicode_names: bool) -> str:
    """Give the device name for a request.

    Without `deviceName` a name is made: derived from the proof when the request can be recognised again, so that a
    retry meets the same device, else random (ThingsBoard makes one too). Raises `names.InvalidName`.
    """
    if request.device_name is not None:
        return names.normalise_device_name(request.device_name, unicode_names=unicode_names)
    # Whoever knows any secret of the token may name a device freely, so that the name need not hang on the secret: a
    # rotation makes no second device.
    return keys.derived_name(
        proof_of(keys, request, None, base="") if is_recognisable(request) else entropy[36:46].hex()
    )


def lookup_fold(request: ProvisionRequest, keys: Keys, entropy: bytes) -> str | None:
    """Give the folded device name that `decide` will look up, for loading facts; None when the name cannot be used."""
    try:
        return names.fold(device_name_of(request, keys, entropy, unicode_names=True))
    except names.InvalidName:
        return None


def decide(request: ProvisionRequest, facts: Facts, context: Context) -> Decision:
    """Decide one request; apply its effects to `facts`.

    Never raises for anything that a device can send: every refusal is an outcome with its event (P5).
    """
    token = facts.tokens.get(request.key)
    asked = _asked(request, token, facts, context)
    try:
        token = check_token(token, asked.standing)
        return _provision(_Case(without_kept_code(request, asked.known, token), token, facts, context, asked))
    except Refusal as refusal:
        return _refuse(request, token, refusal.reason, refusal.why, context, asked)
    except names.InvalidName as error:
        return _refuse(request, token, Reason.BAD_NAME, str(error), context, asked)
    except CredentialsRefused as error:
        return _refuse(request, token, error.reason, str(error), context, asked)


def decide_malformed(request: Malformed, context: Context) -> Decision:
    """Refuse what could not be understood; it is an outcome with an event like any other."""
    event = Event(
        EventKind.REFUSED, context.now_ms, "device", source=context.source, ref=context.ref, reason=Reason.MALFORMED
    )
    return Decision(refused(Reason.MALFORMED, request.text, ref=context.ref), (), event)


class _Asked(msgspec.Struct, frozen=True):
    """What every request is worked out to before anything is judged, so that all refusals cost the same (SD-8)."""

    name: str | names.InvalidName
    fold: str
    known: DeviceFacts | None
    standing: Standing
    proof: str


def _asked(request: ProvisionRequest, token: Token | None, facts: Facts, context: Context) -> _Asked:
    name: str | names.InvalidName
    fold = ""
    try:
        unicode_names = token is not None and token.profile.unicode_names
        name = device_name_of(request, context.keys, context.entropy, unicode_names=unicode_names)
        fold = names.fold(name)
    except names.InvalidName as error:
        name = error
    known = facts.devices.get(fold)
    standing = judge_secret(request, token, known, context.keys, context.now_ms)
    named = fold if request.device_name is not None else None
    return _Asked(name, fold, known, standing, proof_of(context.keys, request, named, base=standing.base))


def proves_secret(request: ProvisionRequest, facts: Facts, context: Context) -> bool:
    """Tell whether the request knows its token's secret, or that of the device which it names."""
    fold = lookup_fold(request, context.keys, context.entropy)
    known = None if fold is None else facts.devices.get(fold)
    return judge_secret(request, facts.tokens.get(request.key), known, context.keys, context.now_ms).proven


class _Case(msgspec.Struct, frozen=True):
    request: ProvisionRequest
    token: Token
    facts: Facts
    context: Context
    asked: _Asked


def _provision(case: _Case) -> Decision:
    request, token, context, asked = case.request, case.token, case.context, case.asked
    profile, proof, known = token.profile, asked.proof, asked.known
    name = _check_asked(case)
    if known is not None:
        check_device(known.device, token, transferring=request.claim_code is not None)
        given = repeated(known, proof)
        if given is not None:
            secret = told_again(given, request, context.keys)
            return _answer(case, EventKind.REPEATED, given, secret, known.device, [])
    # Only now, as with the limit below: who was answered in time gets the same answer again when it was lost (P4).
    if token.expires_ms is not None and context.now_ms >= token.expires_ms:
        raise Refusal(Reason.EXPIRED)
    if request.claim_code is not None:
        fault = judge_code(request, known.device if known else None, token, context.keys, context.now_ms)
        if fault is not None or asked.standing.claimed:  # the device's own secret does not prove the new owner's token
            raise Refusal(fault or Reason.TRANSFER_OWNER, TRANSFER_TEXT)
    if known is not None:
        check_claim(request, known, asked.standing)
        if request.claim_code is None:
            # A certificate proves nothing, since it is public; a signing request is signed with the key.
            check_policy(known, profile, request.csr.public_key if request.csr else None)
    elif profile.strategy is Strategy.PRE_PROVISIONED:
        raise Refusal(Reason.NOT_PRE_PROVISIONED, "this device is not known here")
    else:
        known = DeviceFacts(_new_device(case, name))
    check_limit(token, known)
    return _issue(case, known, proof)


def _check_asked(case: _Case) -> str:
    """Do the checks that need no device; give the device's name."""
    request, token, asked = case.request, case.token, case.asked
    check_supplied(request, asked.known, token.profile)
    if isinstance(asked.name, names.InvalidName):
        raise asked.name
    check_factory(request, asked.standing, asked.fold, asked.known)
    check_way_in(request, token.profile, asked.standing)
    check_name(token, asked.name)
    check_labels(request, token.profile)
    return asked.name


def _new_device(case: _Case, name: str) -> Device:
    context, factory = case.context, case.request.factory
    return Device(
        new_id(context.now_ms, context.entropy[10:20]),
        name,
        case.asked.fold,
        case.token.profile.id,
        LifecycleState.MANUFACTURED,
        context.now_ms,
        owner=case.token.owner,
        factory_key=factory.public_key if factory is not None else None,
    )


def _issue(case: _Case, known: DeviceFacts, proof: str) -> Decision:
    """Make the next generation for a new or known device and collect everything that this changes."""
    request, token, context, device = case.request, case.token, case.context, known.device
    credential, secret = make_credential(
        Making(
            request,
            device,
            token.profile,
            known.last_generation + 1,
            proof,
            context.keys,
            context.now_ms,
            context.entropy[20:36],
            context.sign,
        )
    )
    live = known.credentials
    effects: list[Effect] = [] if device.fold in case.facts.devices else [CreateDevice(device)]
    labels = device.labels
    if token.id not in known.registered_by:
        effects.append(CountRegistration(token.id, token.key, device.id, device.fold, context.now_ms))
        labels = {**labels, **token.labels, **request.labels}
    transferring = request.claim_code is not None
    if transferring:
        check_all_new((*known.ended, *live), credential, secret, context.keys)
        labels = {**token.labels, **request.labels}
    state = transition(device.state, LifecycleEvent.TRANSFER if transferring else LifecycleEvent.PROVISION)
    gateway = device.gateway or request.gateway
    effects.append(ProvisionDevice(device.id, device.fold, state, labels, token.id, gateway))
    if token.owner is not None and (transferring or device.owner is None):
        effects.append(ChangeOwner(device.id, device.fold, token.owner, context.now_ms if transferring else None))
    for held in live:
        if same_secret(held, credential):
            # The device supplied what it already holds: nothing new to tell, and no second credential to keep.
            effects += _end_rotation(known, held)
            return _answer(case, EventKind.REPEATED, held, secret, device, effects)
    # Its own older generation may have the same login with another password: both work until the new one logs in.
    if case.facts.logins.get(credential.login_key, device.id) != device.id:
        raise Refusal(Reason.CREDENTIALS_TAKEN, "these credentials cannot be used; choose others or let us make them")
    effects.append(IssueCredential(device.fold, credential))
    if transferring:
        # At once and not at the first login: nothing of what the last owner knows may work any more.
        effects.append(SupersedeCredentials(device.id, device.fold, tuple(held.generation for held in live)))
        return _answer(case, EventKind.TRANSFER_COMPLETED, credential, secret, device, effects)
    excess = len(live) + 1 - MAX_LIVE_GENERATIONS
    unused = [c.generation for c in live if c.status is CredentialStatus.ISSUED]
    if excess > 0 and unused:
        effects.append(SupersedeCredentials(device.id, device.fold, tuple(unused[:excess])))
    kind = EventKind.REPROVISIONED if known.last_generation else EventKind.PROVISIONED
    return _answer(case, kind, credential, secret, device, effects)


def _end_rotation(known: DeviceFacts, held: Credential) -> list[Effect]:
    """End an operator's wish for a newer generation: the device would bring the same one at every call to rotate.

    What was issued besides and never used ends, too: it may be what leaked.
    """
    if not known.rotation_due:
        return []
    device, live = known.device, known.credentials
    unused = tuple(c.generation for c in live if c is not held and c.status is CredentialStatus.ISSUED)
    over = RequestRotation(device.id, device.fold, None)
    return [over, SupersedeCredentials(device.id, device.fold, unused)] if unused else [over]


def _answer(
    case: _Case, kind: EventKind, credential: Credential, secret: str, device: Device, effects: list[Effect]
) -> Decision:
    ref, owner = case.context.ref, device.owner
    for effect in effects:
        effect.apply(case.facts)
    shown = BY_FACTORY_IDENTITY if case.asked.standing.factory else None
    event = issued_event(kind, case.context, case.token, device, credential, effects, shown)
    if transferred := kind is EventKind.TRANSFER_COMPLETED:
        event = msgspec.structs.replace(event, owner=owner, to_owner=device.owner)
    return Decision(grant(credential, secret, device.name, ref, alone=transferred), tuple(effects), event)


def issued_event(
    kind: EventKind,
    context: Context,
    token: Token,
    device: Device,
    credential: Credential,
    effects: list[Effect],
    shown: str | None,
) -> Event:
    """Give the event of a credential whose effects are applied; `shown`: by what, if not by key and secret."""
    counted = CountRegistration in map(type, effects)
    return Event(
        kind,
        context.now_ms,
        "device",
        source=context.source,
        ref=context.ref,
        device=device.name,
        device_id=device.id,
        profile=token.profile.name,
        token=token.name,
        key=token.key,
        credentials_type=credential.type,
        generation=credential.generation,
        registration=token.used if counted else None,
        state=device.state,
        text=shown,
    )


def _refuse(
    request: ProvisionRequest, token: Token | None, reason: Reason, why: str, context: Context, asked: _Asked
) -> Decision:
    # An unknown key may be a secret in the wrong field: only its hash is recorded (P6).
    hidden_key = ""
    if is_not_found(reason):
        hidden_key = context.keys.mac("unknown-key", request.key)[:16]
        pass_for_unproven(asked.standing, request, asked.fold, context.keys)
    unproven = reason in {Reason.UNKNOWN_KEY, Reason.WRONG_SECRET}
    named = request.device_name.strip() if request.device_name and not unproven else None
    # Who knows the secret and asks as a device that we know is a part of that device's story.
    known = None if unproven else asked.known
    event = Event(
        EventKind.REFUSED,
        context.now_ms,
        "device",
        source=context.source,
        ref=context.ref,
        device=named[:MAX_NAME_CHARS] if named and reason is not Reason.BAD_NAME else None,
        device_id=known.device.id if known else None,
        profile=token.profile.name if token else None,
        token=token.name if token else None,
        key=token.key if token else hidden_key,
        reason=reason,
    )
    return Decision(refused(reason, why, ref=context.ref), (), event)
