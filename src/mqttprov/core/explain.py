"""Audit events in plain sentences: what happened, and what to do about a refusal. One sentence for one event.

No formatting and no times here: who prints puts those in front. Names in advice are written as placeholders where a
device chose them, so that nobody pastes a stranger's text into a shell.
"""

from collections.abc import Callable, Mapping
from typing import Final

from mqttprov.core.audit import Event, EventKind
from mqttprov.core.factory import BY_CHAIN, BY_FACTORY_IDENTITY
from mqttprov.core.login import LoginRefusal
from mqttprov.core.model import CredentialsType, LifecycleState
from mqttprov.core.requests import Reason

_CREDENTIALS: Final[Mapping[str, str]] = {
    CredentialsType.ACCESS_TOKEN: "an access token",
    CredentialsType.MQTT_BASIC: "an MQTT user name and password",
    CredentialsType.X509_CERTIFICATE: "an X.509 certificate",
}

_STATES: Final[Mapping[str, str]] = {
    LifecycleState.MANUFACTURED: "it is known but has not provisioned itself yet",
    LifecycleState.PROVISIONED: "it was given credentials and has not logged in with them yet",
    LifecycleState.ACTIVE: "it has logged in with its credentials",
    LifecycleState.SUSPENDED: "it may not connect until it is resumed",
    LifecycleState.DECOMMISSIONED: "it has ended; its name stays taken",
}

_REFUSALS: Final[Mapping[str, tuple[str, str]]] = {
    Reason.UNKNOWN_KEY: (
        "there is no such provision key",
        "Compare the key in the configuration of the device with those in 'mqttprov token list'.",
    ),
    Reason.WRONG_SECRET: (
        "the secret does not fit the key",
        ("Configure the device with the secret of {token}; if nobody has it any more, make another one with "
        "'mqttprov token create'. Many of these from one source are a guesser."),
    ),
    Reason.DISABLED: (
        "its profile lets no device in",
        "The strategy of {profile} is 'disabled'; use a registration token of another profile.",
    ),
    Reason.REVOKED: (
        "the registration token is revoked",
        "If the device is yours, give it another token: 'mqttprov token create'.",
    ),
    Reason.EXPIRED: (
        "the registration token has expired",
        "If it shall go on: 'mqttprov token update TOKEN --expires 30d' for {token}.",
    ),
    Reason.EXHAUSTED: (
        "the registration token has reached its limit",
        "If more devices shall come: 'mqttprov token update TOKEN --max-registrations N' for {token}.",
    ),
    Reason.BAD_NAME: (
        "its device name cannot be used",
        "Names have 1 to 255 letters, digits, ._:- and inner spaces; change it on the device.",
    ),
    Reason.NAME_NOT_ALLOWED: (
        "the registration token does not allow this device name",
        ("See the pattern in 'mqttprov token show' for {token}; change the name, or the pattern with "
        "'mqttprov token update TOKEN --device-name-pattern GLOB'."),
    ),
    Reason.BAD_LABELS: (
        "it set labels that it may not set, or that cannot be used",
        "'mqttprov profile show' says which labels devices of {profile} may set.",
    ),
    Reason.BAD_CREDENTIALS: (
        "the credentials that it brought or asked for cannot be used",
        "The reply to the device said what is wrong with them.",
    ),
    Reason.CREDENTIALS_TAKEN: (
        "the credentials that it brought belong to another device",
        ("Let it choose others, or bring none so that they are made here. Two devices may share one image: see "
        "'mqttprov audit report'."),
    ),
    Reason.NOT_PRE_PROVISIONED: (
        "{profile} takes only devices that are known beforehand, and this one is not",
        "If it is yours: 'mqttprov device create NAME --profile PROFILE'.",
    ),
    Reason.OTHER_PROFILE: (
        "a device of this name exists in another profile",
        "Give one of the two another name, or use a registration token of the profile that the device is in.",
    ),
    Reason.STATE: (
        "the device is in a state in which it may not be provisioned",
        "'mqttprov device show NAME' says which: a suspended device must be resumed, a decommissioned name released.",
    ),
    Reason.ALREADY_PROVISIONED: (
        "the device was provisioned before, and {profile} gives credentials only once",
        ("If it lost them: move on to a profile with '--reprovision reuse'. If it did not ask: somebody has its key "
        "and secret."),
    ),
    Reason.OTHER_KEY: (
        "the device has a key, of its factory or of the credentials before, and the request did not prove it",
        "It must send a signing request (csr) made with that key. If its key is new: somebody may pose as it.",
    ),
    Reason.CLAIM_NEEDED: (
        "the device has a claim secret of its own, and the token's secret came instead of it",
        "Configure it with its own secret, from the file that 'mqttprov device import --claim-secrets' wrote.",
    ),
    Reason.CLAIM_SPENT: (
        "the device's claim secret was used up by its first login",
        "It is good once. If the device lost its credentials: 'mqttprov device rotate NAME', and use {token}.",
    ),
    Reason.CHAIN_NEEDED: (
        "devices of {profile} come in by a certificate of their factory, not by key and secret",
        "The device must connect over TLS with a certificate that an authority of {profile} issued.",
    ),
    Reason.CERTIFICATE_ENDED: (
        "the certificate was replaced by a newer one of the device, or ended with it",
        "If the device is yours, give it a new certificate. If it has one, somebody may have a copy of the old one.",
    ),
    Reason.FACTORY_NAME: (
        "it asked for another device than its factory certificate is for",
        "Leave the device name out of the request, or send the one that the certificate is for.",
    ),
    Reason.FACTORY_SPENT: (
        "its factory identity was replaced by the credentials that the device logged in with",
        "If the device lost them: 'mqttprov device rotate NAME' lets it in once more. If not, somebody has its key.",
    ),
    Reason.OTHER_OWNER: (
        "the device belongs to another owner than the registration token",
        "'mqttprov device show NAME' says whose it is; use a token of that owner, or 'mqttprov device transfer NAME'.",
    ),
    Reason.TRANSFER_CODE: (
        "its claim code completes no transfer of this device",
        "It may be wrong, cancelled or used already, and the name another one: see 'mqttprov device show NAME'.",
    ),
    Reason.TRANSFER_EXPIRED: (
        "its claim code has expired",
        "Offer the device again: 'mqttprov device transfer NAME --to OWNER'.",
    ),
    Reason.TRANSFER_OWNER: (
        "the device is offered to another owner than that of the registration token",
        "Make a token with 'mqttprov token create --owner OWNER'; {token} is not one of the owner it is offered to.",
    ),
    Reason.MALFORMED: (
        "the request could not be understood",
        "The reply to the device said what is wrong with it; see the form in docs/reference/wire.md.",
    ),
}  # fmt: skip

_LOGIN_REFUSALS: Final[Mapping[str, tuple[str, str]]] = {
    LoginRefusal.UNKNOWN: (
        "with credentials that nobody has",
        "If a device of yours has them: let it provision itself again.",
    ),
    LoginRefusal.SUPERSEDED: (
        "with superseded credentials",
        (
            "The device was copied, or was set back to an old state. 'mqttprov device show NAME' has the history; if "
            "it is one and the same device and lost its newest credentials, let it provision itself again."
        ),
    ),
    LoginRefusal.WRONG_PASSWORD: (
        "with a wrong password",
        "If the device is yours, let it provision itself again. Many of these from one source are a guesser.",
    ),
    LoginRefusal.STATE: (
        "by devices that may not connect in their state",
        "'mqttprov device list' shows states; the broker's log has the time of each attempt.",
    ),
    LoginRefusal.CHAIN: (
        "with a certificate of a chain that did not make a device of it",
        "'mqttprov profile show' says which names its subject may give.",
    ),
    LoginRefusal.CERTIFICATE: (
        "with a factory certificate that is not valid now",
        "Look at the clock of the device and at the dates in its certificate.",
    ),
    LoginRefusal.FACTORY_SPENT: (
        "with a factory identity that other credentials have replaced",
        "If a device lost them: 'mqttprov device rotate NAME' lets it in once more. If not, somebody has its key.",
    ),
    LoginRefusal.FACTORY_SHARED: (
        "with a factory certificate whose key several devices were imported with",
        "Give each device a key of its own: retire all but one of them, and import the others anew.",
    ),
    LoginRefusal.ANONYMOUS: ("without any credentials", "A client that was not configured, or a scan of the network."),
}


def sentence(event: Event) -> str:
    """Say what happened, in one sentence."""
    return _SENTENCES[event.kind](event)


def advice(event: Event) -> str | None:
    """Say what to do about a refusal; None for what needs nothing."""
    reason = event.reason or ""
    match event.kind:
        case EventKind.REFUSED:
            text = _REFUSALS.get(reason, ("", ""))[1]
        case EventKind.LOGIN_REFUSED:
            text = _login_refusal(event)[1]
        case EventKind.LIMITED:
            text = (
                "It may try again a minute after its last attempt. A device of yours has a wrong key or secret: look "
                "at the refusals before this."
            )
        case _:
            return None
    return text.format(token=_token(event), profile=_profile(event)) or None


def state_sentence(name: str, state: str, profile: str, owner: str | None) -> str:
    """Say what a device is now, why, and whose."""
    of = f"belongs to {owner!r}" if owner is not None else "has no owner"
    return f"{name!r} is {state}: {_STATES.get(state, 'see its story')}. It is in profile {profile!r} and {of}."


def _token(event: Event) -> str:
    return f"registration token {event.token!r}" if event.token else "a registration token"


def _profile(event: Event) -> str:
    return f"profile {event.profile!r}" if event.profile else "the profile"


def _device(event: Event) -> str:
    return repr(event.device) if event.device else "a device"


def _from(event: Event) -> str:
    return f" from {event.source}" if event.source else ""


def _times(event: Event, what: str) -> str:
    count = event.count or 0
    return f"{count} {what}{'' if count == 1 else 's'}{_from(event) or ' from further sources'}"


def _credentials(event: Event) -> str:
    what = _CREDENTIALS.get(event.credentials_type or "", "credentials")
    return f"{what} (generation {event.generation})"


def _provisioned(event: Event, given: str) -> str:
    """Say how a device came to credentials, or came with one; without the end of the sentence."""
    counted = f", registration {event.registration} of it" if event.registration is not None else ""
    shown = f"its {event.text}, which stands for " if event.text in {BY_FACTORY_IDENTITY, BY_CHAIN} else ""
    token = f"{shown}{_token(event)} of {_profile(event)}{counted}"
    if event.text == BY_CHAIN:
        it = f"the certificate is now its credential (generation {event.generation})"
        return f"{_device(event)} connected{_from(event)} with {token}: {it}, and it is active"
    return f"{_device(event)} asked{_from(event)} with {token}, and was given {given}, {_credentials(event)}"


def _refused(event: Event) -> str:
    why = _REFUSALS.get(event.reason or "", (f"the reason is '{event.reason}'", ""))[0].format(profile=_profile(event))
    with_ = f" with {_token(event)} of {_profile(event)}" if event.token else ""
    named = f" as {event.device!r}" if event.device else ""
    return f"A request{_from(event)}{named}{with_} was refused: {why}."


def _login_refused(event: Event) -> str:
    how = _login_refusal(event)[0].format(profile=_profile(event))
    whose = f" of {event.device!r} (generation {event.generation})" if event.device else ""
    return f"{_times(event, 'login')} {how}{whose} {'was' if event.count == 1 else 'were'} refused."


def _labelled(event: Event) -> str:
    labels = ", ".join(f"{key}={value}" for key, value in sorted((event.labels or {}).items()))
    remark = f" ({event.text})" if event.text else ""
    return f"{event.actor} labelled {_device(event)}; it now has {labels or 'no labels'}{remark}."


def _taken_over(event: Event) -> str:
    return f"{_times(event, 'takeover')} of the session of {_device(event)}: two connections use one client id."


def _login_refusal(event: Event) -> tuple[str, str]:
    """Give how such logins came and what to do; other reasons are those why a chain did not make a device."""
    reason = event.reason or ""
    if reason in _LOGIN_REFUSALS:
        return _LOGIN_REFUSALS[reason]
    if reason in _REFUSALS:
        why, what = _REFUSALS[reason]
        return f"with a certificate of a chain ({why})", what
    return f"for the reason '{reason}'", ""


def _changed(event: Event) -> str:
    text = f": {event.text}" if event.text else ""
    return f"{event.actor} changed {_token(event)} of {_profile(event)}{text}."


def _created_token(event: Event) -> str:
    text = f" with {event.text}" if event.text else ""
    return f"{event.actor} made {_token(event)} of {_profile(event)}{text}."


def _did(done: str) -> Callable[[Event], str]:
    """Say an operator's verb on a device, with the remark that came with it."""

    def say(event: Event) -> str:
        why = f" because its token was revoked ({_token(event)})" if event.reason == "token-revoked" else ""
        remark = f" ({event.text})" if event.text else ""
        return f"{event.actor} {done.format(device=_device(event))}{why}{remark}."

    return say


def _owner(name: str | None) -> str:
    return f"owner {name!r}" if name else "nobody"


def _login(done: str) -> Callable[[Event], str]:
    """Say what was done to an operator's MQTT login."""

    def say(event: Event) -> str:
        whose = f" of operator {event.operator!r}" if event.operator else ""
        return f"{event.actor} {done.format(login=f'the MQTT login{whose}')}; its sessions ended."

    return say


def _transfer(done: str) -> Callable[[Event], str]:
    """Say what was done about a transfer, with both sides and the remark that came with it."""

    def say(event: Event) -> str:
        sides = {"owner": _owner(event.owner), "to_owner": _owner(event.to_owner)}
        remark = f" ({event.text})" if event.text else ""
        return f"{event.actor} {done.format(device=_device(event), **sides)}{remark}."

    return say


_SENTENCES: Final[Mapping[EventKind, Callable[[Event], str]]] = {
    EventKind.INITIALISED: lambda e: f"{e.actor} made this state directory.",
    EventKind.PROFILE_CREATED: lambda e: f"{e.actor} made {_profile(e)}: {e.text}.",
    EventKind.PROFILE_UPDATED: lambda e: f"{e.actor} changed {_profile(e)}: {e.text}.",
    EventKind.TOKEN_CREATED: _created_token,
    EventKind.TOKEN_UPDATED: _changed,
    EventKind.TOKEN_REVOKED: lambda e: f"{e.actor} revoked {_token(e)} of {_profile(e)}.",
    EventKind.OPERATOR_CREATED: lambda e: f"{e.actor} made an MQTT login: {e.text}.",
    EventKind.OPERATOR_ROTATED: _login("gave {login} a new password"),
    EventKind.OPERATOR_REMOVED: _login("removed {login}"),
    EventKind.DEVICE_CREATED: lambda e: f"{e.actor} made {_device(e)} in {_profile(e)}; it may now provision itself.",
    EventKind.PROVISIONED: lambda e: f"{_provisioned(e, 'its first credentials')}.",
    EventKind.REPROVISIONED: lambda e: f"{_provisioned(e, 'new credentials')}.",
    EventKind.REPEATED: lambda e: f"{_provisioned(e, 'the same credentials once more')}.",
    EventKind.REFUSED: _refused,
    EventKind.LIMITED: lambda e: (
        f"{_times(e, 'request')} {'was' if e.count == 1 else 'were'} turned away unread: too "
        "many refused attempts before."
    ),
    EventKind.ACTIVATED: lambda e: (
        f"{_device(e)} logged in{_from(e)} with {_credentials(e)} for the first time: it is "
        "active, and older generations have ended."
    ),
    EventKind.LOGIN_REFUSED: _login_refused,
    EventKind.TOKEN_ROTATED: lambda e: f"{e.actor} gave {_token(e)} of {_profile(e)} a new secret.",
    EventKind.SUSPENDED: _did("suspended {device}: it may neither connect nor provision"),
    EventKind.RESUMED: _did("resumed {device}: it goes on as what it was"),
    EventKind.DECOMMISSIONED: _did("decommissioned {device}: its credentials have ended, its name stays taken"),
    EventKind.RELEASED: _did("released the name of {device}: another device may have it"),
    EventKind.ROTATION_REQUESTED: _did("asked {device} to fetch new credentials; the old ones work until then"),
    EventKind.TRANSFER_OFFERED: _transfer("offered {device} of {owner} to {to_owner}, who needs the claim code"),
    EventKind.TRANSFER_CANCELLED: _transfer("took back the offer of {device} of {owner} to {to_owner}"),
    EventKind.TRANSFER_COMPLETED: lambda e: (
        f"{_provisioned(e, 'new credentials')}: it has passed from {_owner(e.owner)} to "
        f"{_owner(e.to_owner)}, and older generations have ended."
    ),
    EventKind.LABELLED: _labelled,
    EventKind.OWNER_ASSIGNED: lambda e: (
        f"{e.actor} gave {_device(e)}, which had no owner, to {_owner(e.to_owner)}{f' ({e.text})' if e.text else ''}."
    ),
    EventKind.TAKEN_OVER: _taken_over,
    EventKind.AUTHORITY_CREATED: lambda e: f"{e.actor} put another certificate authority in place: {e.text}.",
    EventKind.AUTHORITY_ROTATED: lambda e: (
        f"{e.actor} had a new certificate authority take over: {e.text}; older ones stay trusted."
    ),
    EventKind.AUTHORITY_RETIRED: lambda e: f"{e.actor} ended the trust in older certificate authorities: {e.text}.",
    EventKind.WIPED: lambda e: f"{_device(e)} wiped its credentials{_from(e)}, as it was asked to.",
    EventKind.NOT_WIPED: lambda e: (
        f"It is not known whether {_device(e)} wiped its credentials{f': {e.text}' if e.text else ''}."
    ),
}
