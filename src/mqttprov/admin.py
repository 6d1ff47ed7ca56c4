"""Everything that an operator can do or ask, for Python programs; the command line is a thin layer over it.

Opened on a state directory, also beside a running `serve`: changes hold from their commit on, and each leaves exactly
one audit event for each thing it changed (P5). Rules are in `mqttprov.core`; nothing is printed here, nobody is asked.
"""

import os
import pwd
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mqttprov.core.audit import BrokenChain, ChainedEvent, ChainHead, verify
from mqttprov.core.checkpoint import BadCheckpoint, VerifierKey
from mqttprov.core.export import TornExport, export_line
from mqttprov.core.hygiene import Finding, FindingKind
from mqttprov.core.limits import MIN_SECRET_CHARS
from mqttprov.core.model import (
    Chain,
    CredentialsType,
    LifecycleState,
    OperatorRole,
    Profile,
    ReprovisionPolicy,
    Strategy,
)
from mqttprov.core.names import InvalidName
from mqttprov.core.selectors import parse_selectors
from mqttprov.core.subjects import DEFAULT_SUBJECT_PATTERN
from mqttprov.responder import doorbell, state_directory
from mqttprov.responder.acting import NotFound, PartlyMade
from mqttprov.responder.administration import DEFAULT, Administration
from mqttprov.responder.audit_proof import Checkpoints, kept_checkpoints, signed_checkpoints, verify_export
from mqttprov.responder.device_csv import read_devices
from mqttprov.responder.device_import import ImportCount, ImportLine, LineFault
from mqttprov.responder.device_life import CONFIRM_TIMEOUT_S, DeviceLife, Done, Offered
from mqttprov.responder.doorbell import BrokerSilent, NewPasswordUnconfirmed
from mqttprov.responder.report import report
from mqttprov.responder.state_directory import AUDIT_PUBLIC_KEY, StateDirectory, StateError
from mqttprov.responder.story import Story, Told, find_story
from mqttprov.responder.token_actions import IssuedToken, TokenChange, find_token
from mqttprov.store.protocol import (
    Conflict,
    CredentialRow,
    DeviceQuery,
    DeviceRow,
    ProfileRow,
    Reader,
    RegisteredRow,
    StoreUnavailable,
    TokenRow,
)

if TYPE_CHECKING:
    from mqttprov.responder.authority_care import AuthorityCare

__all__ = [
    "DEFAULT",
    "DEFAULT_SUBJECT_PATTERN",
    "MIN_SECRET_CHARS",
    "Admin",
    "BadCheckpoint",
    "BrokenChain",
    "BrokerSilent",
    "Chain",
    "Checkpoints",
    "Conflict",
    "CredentialsType",
    "DeviceLife",
    "DeviceRow",
    "Done",
    "Finding",
    "FindingKind",
    "ImportCount",
    "ImportLine",
    "InvalidName",
    "IssuedToken",
    "LifecycleState",
    "LineFault",
    "NewPasswordUnconfirmed",
    "NotFound",
    "Offered",
    "OperatorRole",
    "PartlyMade",
    "Profile",
    "ProfileRow",
    "ReprovisionPolicy",
    "StateError",
    "StoreUnavailable",
    "Story",
    "Strategy",
    "TokenChange",
    "TokenRow",
    "Told",
    "TornExport",
    "VerifierKey",
    "initialise",
    "kept_checkpoints",
    "now_ms",
    "verify_export",
]


def now_ms() -> int:
    """Give the wall clock in ms since the epoch."""
    return time.time_ns() // 1_000_000


def account() -> str:
    """Give the system's account of this process, which the environment cannot change: who acts, for audit events."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # an account without a name, as in containers
        return str(os.getuid())


def initialise(path: Path, *, actor: str | None = None) -> IssuedToken | None:
    """Make a state directory with profile `default`; give its token, or None when it is complete already.

    Raises `StateError`.
    """
    return state_directory.initialise(path, actor=actor or f"api:{account()}", now_ms=now_ms, entropy=os.urandom)


class Admin(Administration):
    """A state directory, opened for an operator. For one thread; use it as a context manager, or `close` it.

    What it changes is inherited: profiles, registration tokens, devices, operators. `actor` is who acts in the audit
    events, by default `api:<system account>`. Raises `StateError` when the directory cannot be used.
    """

    def __init__(self, path: Path, *, actor: str | None = None) -> None:
        self._state = StateDirectory(path)
        super().__init__(
            self._state.store, self._state.keys, actor=actor or f"api:{account()}", now_ms=now_ms, entropy=os.urandom
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the state directory."""
        if "_reader" in self.__dict__:
            self._reader.close()
        self._state.close()

    @property
    def path(self) -> Path:
        """The state directory."""
        return self._state.path

    @cached_property
    def _reader(self) -> Reader:
        return self._state.store.reader()

    @cached_property
    def life(self) -> DeviceLife:
        """The verbs on single devices, from suspend to transfer. They act at once."""
        return self._state.device_life(self._actor, now_ms)

    @cached_property
    def ca(self) -> "AuthorityCare":
        """The verbs on certificate authorities: show, init, rotate, retire, and their lists of ended certificates."""
        return self._state.authority_care(self._actor, now_ms)

    def revoke_token_with_devices(
        self, name_or_key: str, profile: str | None, tell_progress: Callable[[int], None] = lambda _: None
    ) -> tuple[TokenRow, int]:
        """End a token and suspend all devices that it ever registered; their sessions have ended on return (P7)."""
        row, suspended = super().revoke_token_with_devices(name_or_key, profile, tell_progress)
        self._ring()
        return row, suspended

    def rotate_operator(self, name: str) -> str:
        """Give an operator's login a new password, told this once; sessions under the old one have ended on return.

        Raises as for `Administration`, and `NewPasswordUnconfirmed`, which has the password.
        """
        password = super().rotate_operator(name)
        try:
            self._ring()
        except BrokerSilent as error:
            raise NewPasswordUnconfirmed(str(error), password) from error
        return password

    def remove_operator(self, name: str) -> None:
        """End an operator's login for good; its sessions have ended on return."""
        super().remove_operator(name)
        self._ring()

    def _ring(self) -> None:
        """Wait until running brokers have acted on all that is committed. Raises `BrokerSilent`."""
        doorbell.ring(self._state.path, self._reader.head().seq, CONFIRM_TIMEOUT_S)

    def profiles(self) -> list[ProfileRow]:
        """List all profiles."""
        return self._reader.profiles()

    def profile(self, name: str) -> ProfileRow:
        """Give one profile. Raises `NotFound`."""
        rows = self._reader.profiles(name)
        if not rows:
            raise NotFound(f"there is no profile named {name!r}; see: mqttprov profile list")
        return rows[0]

    def tokens(self, profile: str | None = None) -> list[TokenRow]:
        """List registration tokens, of all profiles or of one; never their secrets."""
        return self._reader.tokens(profile)

    def token(self, name_or_key: str, profile: str | None = None) -> TokenRow:
        """Give one registration token. Raises `NotFound`, and `Conflict` for a name that several profiles use."""
        return find_token(self._reader.tokens(profile, name_or_key), name_or_key)

    def registered(self, token: TokenRow) -> Iterator[RegisteredRow]:
        """List the devices that a token ever registered, oldest first."""
        return self._reader.registered(token.id)

    def devices(
        self,
        *,
        labels: Sequence[str] = (),
        state: LifecycleState | None = None,
        owner: str | None = None,
        profile: str | None = None,
        unseen_for_ms: int | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[DeviceRow]:
        """List devices for which all conditions hold, oldest first.

        `labels` are selectors: `key=value`, `key!=value` (also without the label) and `key` (it exists).
        `unseen_for_ms` means devices that were not in use for that long, or, never used, made before; decommissioned
        ones only with their `state`. When a device was last in use is known to about an hour. A page of `limit` devices
        begins behind the id `after`. Raises `InvalidName` for what is no selector.
        """
        unseen_since_ms = None if unseen_for_ms is None else now_ms() - unseen_for_ms
        query = DeviceQuery(None, profile, owner, state, parse_selectors(labels), after, limit, unseen_since_ms)
        return self._reader.find_devices(query)

    def device(self, name: str) -> DeviceRow:
        """Give one device. Raises `NotFound`."""
        found = next(self._reader.devices(name), None)
        if found is None:
            raise NotFound(f"there is no device named {name!r}; see: mqttprov device list")
        return found

    def credentials(self, device: DeviceRow) -> list[CredentialRow]:
        """List all generations of a device's credentials, oldest first; never the credentials."""
        return self._reader.credentials_of(device.id)

    def operators(self) -> list[tuple[str, OperatorRole, int]]:
        """List operators: name, role, time of making in ms."""
        return self._reader.operators()

    def events(self, after_seq: int = 0, limit: int = -1) -> Iterator[ChainedEvent]:
        """Give audit events behind a place in the chain, in order, at most `limit` of them (-1: all)."""
        return self._reader.events(after_seq, limit)

    def export_audit(self) -> Iterator[str]:
        """Give the audit events as lines of an export (jsonl), without line ends; `verify_export` reads them."""
        return map(export_line, self._reader.events())

    def checkpoints(self, path: Path | None = None, key: Path | None = None) -> Checkpoints:
        """Read checkpoints: those of the state directory, or a copy that was kept elsewhere.

        `key` is the file of the public key that must have signed them. Raises `BadCheckpoint` and `OSError`.
        """
        key = key or self._state.path / AUDIT_PUBLIC_KEY
        if path is not None:
            return kept_checkpoints(path, key)
        own = self._state.checkpoints_path
        return signed_checkpoints(own, key) if own.exists() else Checkpoints()

    def verify_audit(self, checkpoints: Checkpoints | None = None) -> ChainHead:
        """Check the whole audit chain, against those of the state directory unless told others; give its end.

        Raises `BrokenChain`; `BadCheckpoint` when checkpoints cannot be believed.
        """
        against = self.checkpoints() if checkpoints is None else checkpoints
        return verify(self._reader.events(), checkpoints=against.heads)

    def write_checkpoint(self) -> tuple[int, str | None]:
        """Sign how things stand; give for how many events the last checkpoint is, and its text if it is new.

        Raises `mqttprov.responder.checkpoints.CheckpointRefused` when the last one contradicts the database.
        """
        from mqttprov.responder.checkpoints import CheckpointWriter  # noqa: PLC0415 - cryptography, for this only

        writer = CheckpointWriter(self._state.store, self._state.audit_signer(os.urandom), self._state.checkpoints_path)
        note = writer.write()
        return writer.last_size(), note

    def audit_key(self) -> VerifierKey:
        """Give the public key that verifies checkpoints; its `str` is the form to hand on."""
        return self._state.audit_signer(os.urandom).verifier_key

    def explain(self, ref_or_device: str) -> Story:
        """Tell the story of a device (by name or id), or of one reply (by the `ref` in it). Raises `NotFound`."""
        return find_story(self._reader, ref_or_device)

    def report(self, *, within_ms: int) -> list[Finding]:
        """Look for what an operator should know, the most urgent first; none is good.

        `within_ms` is how long enrolling may take and a token may lie unused, and how far back failures count.
        """
        return report(self._reader, now_ms=now_ms(), within_ms=within_ms)

    def import_list(
        self,
        path: Path,
        *,
        profile: str | None = None,
        tell_fault: Callable[[LineFault], None],
        tell_claims: Callable[[Sequence[tuple[str, str]]], None] | None = None,
        tell_progress: Callable[[ImportCount], None] = lambda _: None,
        dry_run: bool = False,
    ) -> ImportCount:
        """Make manufactured devices from a CSV file; `profile` is for lines that name none (see `import_devices`).

        Raises `InvalidName` for a heading that is not ours, and `OSError`.
        """
        # Bytes that are no text become faults of their lines: they are in no name.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return self.import_devices(
                read_devices(file, path.parent, profile=profile, now_ms=now_ms()),
                tell_fault=tell_fault,
                tell_claims=tell_claims,
                tell_progress=tell_progress,
                dry_run=dry_run,
            )
