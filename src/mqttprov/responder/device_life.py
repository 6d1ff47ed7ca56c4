"""An operator's verbs on one device: each is one transaction with exactly one audit event (P5), and acts at once (P7).

What may follow what is decided by `mqttprov.core.device_life`. When a verb that ends sessions returns, no broker on
this state has a session of the device left.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from mqttprov.core import device_life as rules
from mqttprov.core import names
from mqttprov.core.audit import EventKind, parse_body
from mqttprov.core.facts import DeviceFacts, Facts
from mqttprov.core.lifecycle import IllegalTransition
from mqttprov.core.model import Strategy, Transfer
from mqttprov.core.secrets import SECRET_ENTROPY_BYTES, Keys, new_claim_code
from mqttprov.core.transfer import code_verifier
from mqttprov.responder.administration import NotFound
from mqttprov.store.protocol import Conflict, DeviceRow, Reader, Store

WIPE_WAIT_MS: Final = 5_000
MAX_WIPE_WAIT_MS: Final = 60_000
CONFIRM_TIMEOUT_S: Final = 10.0
TRANSFER_VALID_MS: Final = 7 * 86_400_000
MAX_TRANSFER_VALID_MS: Final = 366 * 86_400_000

Verb = Callable[[Facts, DeviceFacts, rules.By], rules.Change]


class Wiped(msgspec.Struct, frozen=True):
    """What came of asking a connected gateway to wipe its credentials; `why` says why it is not known to have."""

    done: bool
    why: str | None = None


class Done(msgspec.Struct, frozen=True):
    """What a verb did: the device as it is now, the place of the audit event, and how many brokers have confirmed.

    `wiped` is None when the device was not connected, or had nothing to do with it.
    """

    device: DeviceRow
    seq: int
    brokers: int
    wiped: Wiped | None = None


class Offered(msgspec.Struct, frozen=True):
    """A device that is offered to another owner, with the claim code at the one moment when it can be told."""

    done: Done
    claim_code: str

    def __repr__(self) -> str:
        return f"Offered(done={self.done!r}, claim_code=***)"


class DeviceLife:
    """Acts on devices on behalf of `actor` (for example "cli:anna").

    `ring` makes running brokers act on the chain up to a place within a time in s, and gives how many there were
    (`doorbell.ring`). Every verb raises `NotFound`, `Conflict` when the device's state does not allow it,
    `names.InvalidName` for a remark that cannot be kept, and what `ring` raises, when all is committed.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        *,
        actor: str,
        now_ms: Callable[[], int],
        entropy: Callable[[int], bytes],
        ring: Callable[[int, float], int],
    ) -> None:
        self._store = store
        self._keys = keys
        self._entropy = entropy
        self._actor = actor
        self._now_ms = now_ms
        self._ring = ring

    def suspend(self, name: str, remark: str | None = None) -> Done:
        """Stop a device: no new login, no provisioning, its sessions end; `resume` undoes it."""
        return self._act(name, remark, rules.suspend, "only a provisioned or active one can be suspended")

    def resume(self, name: str, remark: str | None = None) -> Done:
        """Let a suspended device go on as what it was, with the credentials that it has."""
        return self._act(name, remark, rules.resume, "only a suspended one can be resumed")

    def decommission(self, name: str, remark: str | None = None, *, wait_ms: int = WIPE_WAIT_MS) -> Done:
        """Retire a device for good: all credentials end, its sessions end, its name stays taken (P8).

        A connected gateway is asked to wipe its credentials and has `wait_ms` to answer; all is revoked before that.
        """
        if not 0 <= wait_ms <= MAX_WIPE_WAIT_MS:
            raise names.InvalidName(f"a gateway is waited for at most {MAX_WIPE_WAIT_MS // 1000} s; give less")

        def verb(facts: Facts, known: DeviceFacts, by: rules.By) -> rules.Change:
            return rules.decommission(facts, known, by, wait_ms=wait_ms)

        done = self._act(name, remark, verb, "it is a tombstone already", CONFIRM_TIMEOUT_S + wait_ms / 1000)
        return msgspec.structs.replace(done, wiped=self._wiped(done))

    def release(self, name: str, remark: str | None = None) -> Done:
        """Free the name of a decommissioned device for another one; the record stays under the name with its id."""
        return self._act(name, remark, rules.release, "decommission it first")

    def rotate(self, name: str, remark: str | None = None) -> Done:
        """Ask for the next generation: the device gets it at its next request, and is told to ask when it is connected.

        The old generation works until the new one logs in.
        """
        return self._act(name, remark, rules.rotate, "only an active one, which has logged in, has something to rotate")

    def transfer(
        self, name: str, to_owner: str, remark: str | None = None, *, valid_ms: int = TRANSFER_VALID_MS
    ) -> Offered:
        """Offer a device to another owner, whose registration token completes it within `valid_ms` with the claim code.

        Until then nothing changes. At that moment all credentials end and new ones are issued, sessions end, the labels
        become those of the new owner's token. Raises `names.InvalidName` for an owner or time that cannot be.
        """
        names.check_object_name("owner", to_owner)
        if not 0 < valid_ms <= MAX_TRANSFER_VALID_MS:
            raise names.InvalidName(f"a claim code is good for at most {MAX_TRANSFER_VALID_MS // 86_400_000} days")
        code = new_claim_code(self._entropy(SECRET_ENTROPY_BYTES))

        def verb(facts: Facts, known: DeviceFacts, by: rules.By) -> rules.Change:
            verifier = code_verifier(self._keys, known.device.id, code)
            return rules.offer(facts, known, by, Transfer(to_owner, verifier, by.now_ms + valid_ms))

        hint = "see 'mqttprov device show', and cancel an open offer with 'mqttprov device transfer NAME --cancel'"
        return Offered(self._act(name, remark, verb, hint), code)

    def cancel_transfer(self, name: str, remark: str | None = None) -> Done:
        """Take an offer back: its claim code completes nothing any more."""
        return self._act(name, remark, rules.cancel_transfer, "see 'mqttprov device show'")

    def label(self, name: str, changes: Mapping[str, str | None], remark: str | None = None) -> Done:
        """Set labels of a device, and remove those whose value is None; its sessions have the new ones on return.

        Raises `names.InvalidName` for labels past their limits.
        """

        def verb(facts: Facts, known: DeviceFacts, by: rules.By) -> rules.Change:
            return rules.label(facts, known, by, changes)

        return self._act(name, remark, verb, "it is a tombstone")

    def assign(self, name: str, owner: str, remark: str | None = None) -> Done:
        """Give a device that has no owner to one. Raises `names.InvalidName` for an owner that cannot be."""

        def verb(facts: Facts, known: DeviceFacts, by: rules.By) -> rules.Change:
            return rules.assign(facts, known, by, owner)

        return self._act(name, remark, verb, "one that has an owner passes on by 'mqttprov device transfer'")

    def _act(self, name: str, remark: str | None, verb: Verb, hint: str, timeout_s: float = CONFIRM_TIMEOUT_S) -> Done:
        if remark is not None:
            rules.check_remark(remark)
        fold = names.fold(name)
        with self._store.write() as transaction:
            facts = transaction.load((), (fold,), ())
            known = facts.devices.get(fold)
            if known is None:
                raise NotFound(f"there is no device named {name!r}; see: mqttprov device list")
            by = rules.By(self._actor, self._now_ms(), remark)
            try:
                change = verb(facts, known, by)
            except IllegalTransition as error:
                raise Conflict(f"device {known.device.name!r}: {error}; {hint}") from error
            transaction.write(facts, change.effects)
            (event,) = transaction.append([change.event])
            row = next(transaction.reader().devices(known.device.fold))
            hindrance = obstacle(transaction.reader(), row, by.now_ms) if row.rotation_due else None
            if hindrance is not None and event.kind is EventKind.ROTATION_REQUESTED:
                raise Conflict(f"device {row.name!r} could not get new credentials: {hindrance}")
        return Done(row, event.seq, self._ring(event.seq, timeout_s))

    def _wiped(self, done: Done) -> Wiped | None:
        reader = self._store.reader()
        try:
            for event in reader.events(done.seq):
                if event.device_id == done.device.id and event.kind in {EventKind.WIPED, EventKind.NOT_WIPED}:
                    return Wiped(event.kind == EventKind.WIPED, parse_body(event.body)[1].text)
        finally:
            reader.close()
        return None


def obstacle(reader: Reader, device: DeviceRow, now_ms: int) -> str | None:
    """Tell why the device could not be given new credentials now: it must not be told to give up those that it has."""
    for row in reader.profiles(device.profile):
        if row.profile.strategy is Strategy.DISABLED:
            return f"its profile {device.profile!r} is disabled"
        if row.profile.strategy is Strategy.CERTIFICATE_CHAIN and not row.profile.rotate_on_first_use:
            return "its certificate is of a chain; give it a newer one of the same chain, which takes over by itself"
    for token in reader.tokens(device.profile, device.token) if device.token else ():
        if token.revoked_ms is not None:
            return f"the token {token.name!r} with which it provisions is revoked"
        if token.expires_ms is not None and token.expires_ms <= now_ms:
            return f"the token {token.name!r} with which it provisions has expired; see: mqttprov token update"
    return None


def would_change(reader: Reader, device: DeviceRow, now_ms: int) -> bool:
    """Tell whether a device that gives up its credentials at a login would come back with others.

    One that brings its own would bring the same again, be told again, and so on: it is told once, when the rotation is
    asked for.
    """
    newest = reader.credentials_of(device.id)[-1:]
    return obstacle(reader, device, now_ms) is None and not any(credential.supplied for credential in newest)
