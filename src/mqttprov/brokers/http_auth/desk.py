"""The two questions that a broker asks over HTTP, whatever its form: who is it (`authenticate`), may it (`authorize`).

Between the two a broker remembers user name and client id only, so `identify` finds out again who that is, from the
database as it is now: what a device may do ends with its lifecycle state (P7). Nothing here knows HTTP.
"""

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from mqttprov.core.credentials import PROVISION_LOGIN, RESPONDER_LOGIN
from mqttprov.core.login import (
    Login,
    LoginAttempt,
    LoginRefusal,
    Principal,
    Role,
    login_keys,
    login_with,
    operator_verifier,
)
from mqttprov.core.routed import Guest, Service, Who, is_unguessable
from mqttprov.core.secrets import Keys
from mqttprov.responder.service import Responder
from mqttprov.store.protocol import Reader, StoreUnavailable

LOGIN_TIMEOUT_S: Final = 5.0
REFUSED_FOR_S: Final = 2.0  # a refusal is repeated for so long without asking; a permission never
MAX_REFUSED: Final = 10_000
MAX_HELD: Final = 100_000
MAX_ENDED: Final = 16  # client ids of one device whose sessions are ended
MAX_ENDED_OF_OPERATOR: Final = 256  # a program that publishes now and then takes a new one each time
_NEVER_CACHED: Final = frozenset({LoginRefusal.UNAVAILABLE})

V = TypeVar("V")
_log = logging.getLogger(__name__)


class Refusal(msgspec.Struct, frozen=True):
    """Nobody: why, for the log."""

    reason: str


class Held(msgspec.Struct, frozen=True):
    """Who came last under a client id. Login keys tell a device's credential again, `verifier` an operator's password.

    It is None for an operator who was let in before this process began.
    """

    role: Role
    name: str
    device_id: str
    keys: tuple[str, ...]
    verifier: str | None = None

    @property
    def identity(self) -> str:
        """Whose sessions there are under this client id, as `Principal.identity`."""
        return Principal(self.role, self.name, self.device_id).identity


class Desk:
    """Answers for one state directory. Everything is called in the event loop; maps are bounded (P9).

    `password` is the one of the responder's own login; `now_s` is a monotonic clock; `answering` tells whether a
    request would be answered now.
    """

    def __init__(
        self,
        responder: Responder,
        reader: Reader,
        keys: Keys,
        *,
        now_s: Callable[[], float],
        answering: Callable[[], bool],
    ) -> None:
        self._responder = responder
        self._reader = reader
        self._keys = keys
        self._now_s = now_s
        self._answering = answering
        self.password: Final = service_password(keys)
        self._refused: dict[bytes, tuple[float, str]] = {}  # until when, why; the oldest first
        self._held: dict[str, Held] = {}  # by client id
        self._sources: dict[str, str] = {}  # of provisioning sessions, by client id

    async def authenticate(self, attempt: LoginAttempt, source: str) -> Who | Refusal:
        """Tell who a CONNECT is from. A first login has been recorded when this returns."""
        if attempt.username == RESPONDER_LOGIN:
            known = hmac.compare_digest((attempt.password or "").encode(), self.password.encode())
            return Service() if known else Refusal(LoginRefusal.WRONG_PASSWORD)
        if PROVISION_LOGIN in {attempt.username, attempt.client_id}:
            return self._guest(attempt.client_id, source)
        mark, now_s = _mark(attempt, self._keys), self._now_s()
        known_refusal = self._refused.get(mark)
        if known_refusal is not None and now_s < known_refusal[0]:
            return Refusal(known_refusal[1])
        login = await self._login(attempt, source)
        if login.principal is None:
            refusal = login.refusal or LoginRefusal.UNKNOWN
            if refusal not in _NEVER_CACHED:
                self._remember_refusal(mark, refusal)
            return Refusal(refusal)
        return self._hold(attempt, login.principal)

    async def _login(self, attempt: LoginAttempt, source: str) -> Login:
        answer: asyncio.Future[Login] = asyncio.get_running_loop().create_future()

        def done(login: Login) -> None:
            if not answer.done():  # nobody waits for it any more
                answer.set_result(login)

        self._responder.login(attempt, source, done)
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT_S):
                return await answer
        except TimeoutError:
            return Login(refusal=LoginRefusal.UNAVAILABLE)

    def _guest(self, client_id: str, source: str) -> Guest | Refusal:
        if not is_unguessable(client_id):
            return Refusal("a provisioning session needs a random client id of 22 or more letters and digits")
        if client_id in self._held:
            return Refusal("the client id is a device's")
        if not self._answering():
            return Refusal("nobody would answer: no http-auth with --broker is connected to the broker")
        if source:
            _put(self._sources, client_id, source)
        return Guest(client_id)

    def _hold(self, attempt: LoginAttempt, principal: Principal) -> Principal | Refusal:
        """Let no device in under the client id of another: the broker would hand it that one's session and messages."""
        held = self._held.get(attempt.client_id)
        if held is not None and (held.role, held.name) != (principal.role, principal.name) and self._still_may(held):
            _log.warning("%s came with the client id of %s and was refused", principal.name, held.name)
            return Refusal("the client id is another's")
        shown = operator_verifier(self._keys, principal.name, attempt.password or "")
        verifier = None if principal.role is Role.DEVICE else shown
        mine = Held(principal.role, principal.name, principal.device_id, login_keys(attempt, self._keys), verifier)
        _put(self._held, attempt.client_id, mine)
        return principal

    def _still_may(self, held: Held) -> bool:
        try:
            if held.role is not Role.DEVICE:
                return self._operator(held.name, held.verifier) is not None
            return any(self._reader.find_logins(held.keys)) and self._principal(held.keys, held.device_id) is not None
        except StoreUnavailable:
            return True

    def _remember_refusal(self, mark: bytes, reason: str) -> None:
        now_s = self._now_s()
        while self._refused:
            oldest = next(iter(self._refused))
            if now_s < self._refused[oldest][0] and len(self._refused) < MAX_REFUSED:
                break
            del self._refused[oldest]
        self._refused.pop(mark, None)
        self._refused[mark] = (now_s + REFUSED_FOR_S, reason)

    def identify(self, client_id: str, username: str | None) -> Who | None:
        """Tell who is behind a session that was let in, by what the broker still knows of it; None: nobody now."""
        if username == RESPONDER_LOGIN:
            return Service()
        if PROVISION_LOGIN in {username, client_id}:
            return Guest(client_id) if is_unguessable(client_id) and client_id not in self._held else None
        try:
            return self._identify(client_id, username)
        except StoreUnavailable as error:
            _log.error("who %r is cannot be looked up: %s", client_id, error)
            return None

    def _identify(self, client_id: str, username: str | None) -> Principal | None:
        held = self._held.get(client_id)
        keys = login_keys(LoginAttempt(client_id, username, ""), self._keys) if username else ()
        if held is not None and (not keys or not held.keys or keys[0] == held.keys[0]):
            if held.role is not Role.DEVICE:
                return self._operator(held.name, held.verifier)
            return self._principal(held.keys, held.device_id)
        if not username:
            return None
        # After a restart: unless it is clear who that is, it has to log in again.
        operator, device = self._operator(username), self._principal(keys, None)
        who = device if operator is None else operator if device is None else None
        if who is not None and held is None:
            _put(self._held, client_id, Held(who.role, who.name, who.device_id, keys))
        return who

    def _operator(self, name: str, verifier: str | None = None) -> Principal | None:
        """Give the operator of this name, None if that login is removed or has another password by now."""
        facts = self._reader.find_operator(name)
        if facts is None or verifier not in {None, facts.verifier}:
            return None
        return Principal(Role(facts.role), facts.name)

    def _principal(self, keys: tuple[str, ...], device_id: str | None) -> Principal | None:
        """Give the device that the login keys name, None if it may not log in, or if they name several."""
        logins = (login_with(facts) for facts in self._reader.find_logins(keys))
        found = {login.principal.device_id: login.principal for login in logins if login.principal is not None}
        if device_id is not None:
            return found.get(device_id)
        return next(iter(found.values())) if len(found) == 1 else None

    def source_of(self, client_id: str) -> str:
        """Give the address that a provisioning session came from, if its broker told it; else its client id."""
        return self._sources.get(client_id) or client_id

    def note_source(self, client_id: str, source: str) -> None:
        """Take note of where a provisioning session comes from."""
        _put(self._sources, client_id, source)

    def client_ids_of(self, *identities: str) -> list[str]:
        """Give the client ids under which a device came, or an operator in either role: the last ones."""
        found = [(client_id, held) for client_id, held in self._held.items() if held.identity in identities]
        most = MAX_ENDED if all(held.role is Role.DEVICE for _, held in found) else MAX_ENDED_OF_OPERATOR
        return [client_id for client_id, _ in found[-most:]]


def service_password(keys: Keys) -> str:
    """Give the password of the responder's own login: the same for every process on one state, and stored nowhere."""
    return keys.mac("http-auth-service")


def _mark(attempt: LoginAttempt, keys: Keys) -> bytes:
    """Give what stands for an attempt in the memory of refusals, which holds no secret (P6)."""
    parts = (attempt.client_id, attempt.username or "", attempt.password or "", attempt.certificate or "")
    return hashlib.sha256(keys.mac("http-auth-refused", *parts).encode()).digest()


def _put(bounded: dict[str, V], key: str, value: V) -> None:
    bounded.pop(key, None)
    bounded[key] = value
    if len(bounded) > MAX_HELD:
        del bounded[next(iter(bounded))]
