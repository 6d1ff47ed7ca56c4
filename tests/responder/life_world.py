"""The product beside its model: each step is done to both, and they must agree on everything that can be seen.

The product is the real one: `mqttprov.admin` and the batch processor over a state directory, with a clock that only the
steps move. What happens next is chosen by whoever calls, with `Pick`: Hypothesis, or a random walk.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.pki.conftest import Maker
from tests.responder.life_model import Answer, Asked, Device, Generation, Profile, Refusal, Token, fold
from tests.responder.life_verbs import CONFLICT, LASTING, MISSING, OperatedModel

from mqttprov import admin as product
from mqttprov.admin import Admin, Conflict, NotFound, TokenRow
from mqttprov.core import model as rules
from mqttprov.core.login import Login, LoginAttempt
from mqttprov.core.requests import Granted, Outcome, ProvisionRequest, SuppliedCertificate, SuppliedCsr
from mqttprov.responder.jobs import BatchProcessor, Job, LoginJob, ProvisionJob

START_MS = Maker.now_ms
T = TypeVar("T")
KEYS = ("P-256", "P-384", "Ed25519")


class Pick(Protocol):
    """Chooses one of several."""

    def __call__(self, options: Sequence[T], /) -> T:
        """Choose."""


@cache
def _brought(key: str) -> tuple[str, str, str]:
    """Give a certificate and a signing request of a key, and the SHA-256 of the key."""
    maker = Maker()
    certificate = maker.certificate(key)
    return certificate, maker.csr(key), _hash_of_key(certificate)


@cache
def _hash_of_key(pem: str) -> str:
    from mqttprov.pki.inspect import inspect_certificate  # noqa: PLC0415 - for this only

    return inspect_certificate(pem, START_MS).public_key


def _fingerprint(pem: str) -> str:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


class World:
    """Both of them."""

    def __init__(self, path: Path) -> None:
        self.model = OperatedModel()
        self.model.now = self.now_ms = START_MS
        with mock.patch.object(product, "now_ms", self.clock):
            issued = product.initialise(path, actor="api:test")
            assert issued is not None
            self.admin = Admin(path, actor="api:test")
            assert self.admin.life
        state = self.admin._state
        state.store._connection.execute("PRAGMA synchronous = OFF")
        self.processor = BatchProcessor(
            state.store,
            state.keys,
            now_ms=self.clock,
            entropy=os.urandom,
            sign=state.authority.sign_device,
        )
        self.seq = 0
        self.ever: list[tuple[Device, Generation]] = []  # every credential that was told
        self.asked: list[Asked] = []
        self.granted: list[Asked] = []
        self.met: set[str] = set()  # events and reasons, to tell a walk that leads nowhere
        self.codes: list[str] = ["mqp_cc_" + 32 * "a"]
        self._profile(issued, Profile())

    def clock(self) -> int:
        """Give the time, which only steps move."""
        return self.now_ms

    def add_profile(self, name: str, profile: Profile) -> None:
        """Make a profile, with its first token."""
        issued = self.admin.create_profile(
            rules.Profile(
                0,
                name,
                rules.Strategy(profile.strategy),
                rules.CredentialsType(profile.kind),
                rules.ReprovisionPolicy(profile.policy),
                label_keys=profile.label_keys,
            )
        )
        self._profile(issued, profile)

    def _profile(self, issued: product.IssuedToken, profile: Profile) -> None:
        self.model.profiles[issued.profile] = profile
        self.add_token(issued)
        self.seq = self.admin.verify_audit().seq

    def add_token(self, issued: product.IssuedToken, **fields: Any) -> Token:
        """Take a token that was made into the model."""
        token = Token(issued.key, issued.name, issued.profile, {issued.secret: LASTING}, issued.secret, **fields)
        self.model.add_token(token)
        return token

    def close(self) -> None:
        """Check the whole audit and let go (P5)."""
        self.admin.verify_audit()
        self.processor.close()
        self.admin.close()

    # --- what devices do ---

    def batch(self, requests: Sequence[Asked], logins: Sequence[tuple[Generation, str]]) -> None:
        """Do requests and logins (a credential and the password that is presented) in one transaction."""
        outcomes: dict[int, Any] = {}
        jobs: list[Job] = []
        for asked in requests:
            jobs.append(ProvisionJob(self._request(asked), "192.0.2.7", _keep(outcomes, len(jobs))))
        for generation, password in logins:
            jobs.append(LoginJob(_attempt(generation, password), "192.0.2.7", _keep(outcomes, len(jobs))))
        told = [self._find(generation, password) for generation, password in logins]
        self._process(jobs)
        events = [self._check_answer(asked, outcomes[i]) for i, asked in enumerate(requests)]
        for i, found in enumerate(told, len(requests)):
            events += self._check_login(found, outcomes[i])
        self.agree(events)

    def _process(self, jobs: Sequence[Job]) -> None:
        for done, result in self.processor.process(jobs):
            done(result)

    def _check_answer(self, asked: Asked, outcome: Outcome) -> str:
        self.asked.append(asked)
        answer, expected = None, None
        try:
            answer = self.model.provision(asked)
        except Refusal as refusal:
            expected = str(refusal)
        came = None if isinstance(outcome, Granted) else outcome.reason
        assert came == expected, (asked, answer)
        if answer is None or not isinstance(outcome, Granted):
            self.met.add(str(expected))
            return "refused"
        self.met.add(answer.event)
        self.granted.append(asked)
        self._learn(asked, answer, outcome)
        return answer.event

    def _learn(self, asked: Asked, answer: Answer, granted: Granted) -> None:
        device, generation = answer.device, answer.generation
        known = {d.id: d for d, _ in self.ever}
        if device.id:
            assert device.id == granted.device_id
        else:
            assert granted.device_id not in known
            device.id = granted.device_id
        told = (granted.device_name, granted.username, granted.client_id, granted.value)
        assert granted.type == generation.kind
        assert (granted.ended_before > 0) is (answer.event == "transfer-completed")
        certificate = _fingerprint(granted.value) if generation.kind == "X509_CERTIFICATE" else ""
        brings = dict(asked.brings)
        if generation.told is None:
            self.ever.append((device, generation))
            self.model.learn(asked, answer, told, certificate)
        else:
            assert told == generation.told  # the same proof, or the same credentials: the same answer (P4)
        for what, got in (("username", granted.username), ("client_id", granted.client_id)):
            assert generation.kind != "MQTT_BASIC" or what not in brings or brings[what] == got
        if generation.kind == "ACCESS_TOKEN" and "token" in brings:
            assert granted.value == brings["token"]
        if generation.kind == "MQTT_BASIC" and "password" in brings:
            assert granted.value == brings["password"]

    def _find(self, generation: Generation, password: str) -> tuple[Device, Generation, bool] | str:
        try:
            device, found = self.model.find(generation.login, password)
        except Refusal as refusal:
            return str(refusal)
        return device, found, found.status == "issued"

    def _check_login(self, found: tuple[Device, Generation, bool] | str, login: Login) -> list[str]:
        events: list[str] = []
        if not isinstance(found, str) and found[2]:  # all others came before what else is in the batch
            try:
                events = self.model.activate(*found[:2])
            except Refusal as refusal:
                found = str(refusal)
        self.met.add(f"login {found}" if isinstance(found, str) else "login")
        if isinstance(found, str):
            assert (login.principal, login.refusal) == (None, found), (found, login)
            return []
        assert login.principal is not None, (found, login)
        assert (login.principal.device_id, login.principal.generation) == (found[0].id, found[1].number)
        return events

    def _request(self, asked: Asked) -> ProvisionRequest:
        brings: dict[str, Any] = dict(asked.brings)
        kind = brings.pop("type", None)
        if "certificate" in brings:
            brings["certificate"] = SuppliedCertificate(_brought(brings["certificate"])[0])
        if "csr" in brings:
            brings["csr"] = SuppliedCsr(_brought(brings["csr"])[1])
        return ProvisionRequest(
            asked.key,
            asked.secret,
            asked.name,
            rules.CredentialsType(kind) if kind else None,
            labels=dict(asked.labels),
            claim_code=asked.code,
            code_with_secret=asked.behind_secret,
            **brings,
        )

    # --- what operators do ---

    def verb(self, model: Callable[[], list[str]], real: Callable[[], T]) -> T | None:
        """Do it to both; give what came of it, None when both say that it cannot be."""
        events: list[str] = []
        result, expected, came = None, "done", "done"
        try:
            events = model()
        except Refusal as refusal:
            expected = str(refusal)
        try:
            result = real()
        except Conflict:
            came = CONFLICT
        except NotFound:
            came = MISSING
        assert came == expected, (events, result)
        self.met.update(events)
        self.agree(events)
        return result

    def line(self, device: Device, number: int = 2) -> product.ImportLine:
        """Give a device of the model as a line of a list."""
        key = device.factory_key
        return product.ImportLine(
            number, device.name, device.profile, device.owner, device.labels, device.claim, key and _brought(key)[2]
        )

    # --- what can be seen ---

    def agree(self, events: Sequence[str]) -> None:
        """Compare everything: the events of this step (P5), tokens with their uses (P1), devices."""
        written = list(self.admin.events(self.seq))
        assert [event.kind for event in written] == list(events)
        self.seq += len(written)
        assert [_token_row(row) for row in self.admin.tokens()] == [_token(t) for t in self.model.tokens.values()]
        rows = {row.id: row for row in self.admin.devices()}
        expected = [*self.model.devices.values(), *self.model.released]
        for device in expected:
            device.id = device.id or self.admin.device(device.name).id
        assert {row.id: _device_row(row) for row in rows.values()} == {d.id: _device(d) for d in expected}
        for device in self.model.released:
            assert rows[device.id].name == f"{fold(device.name)}#{device.id}"

    def agree_on_credentials(self, device: Device) -> None:
        """Compare the whole history of a device's credentials."""
        row = next(row for row in self.admin.devices() if row.id == device.id)
        history = [(g.number, g.kind, g.status) for g in device.generations]
        assert [(c.generation, c.type, c.status) for c in self.admin.credentials(row)] == history


def _keep(outcomes: dict[int, Any], place: int) -> Callable[[Any], None]:
    return lambda outcome: outcomes.__setitem__(place, outcome)


def _attempt(generation: Generation, password: str) -> LoginAttempt:
    kind, *login = generation.login
    if kind == "token":
        return LoginAttempt("", login[0])
    if kind == "basic":
        return LoginAttempt(login[1] or "", login[0], password)
    return LoginAttempt("", certificate=_fingerprint(_brought(login[0])[0]) if login[0] in KEYS else login[0])


def _token_row(row: TokenRow) -> tuple[object, ...]:
    return row.key, row.name, row.profile, row.owner, row.used, row.max_registrations, row.expires_ms, row.labels, \
        row.revoked_ms is not None  # fmt: skip


def _token(token: Token) -> tuple[object, ...]:
    expires = None if token.expires == LASTING else token.expires
    return token.key, token.name, token.profile, token.owner, len(token.registered), token.limit, expires, \
        token.labels, token.revoked  # fmt: skip


def _device_row(row: product.DeviceRow) -> tuple[object, ...]:
    return row.state, row.profile, row.owner, row.labels, row.token, row.generation, row.credential_status, \
        row.rotation_due, row.transfer_to, row.transfer_expires_ms  # fmt: skip


def _device(device: Device) -> tuple[object, ...]:
    newest = device.generations[-1] if device.generations else None
    return device.state, device.profile, device.owner, device.labels, device.token and device.token.name, \
        newest and newest.number, newest and newest.status, device.rotation_due, device.offer and device.offer[0], \
        device.offer and device.offer[2]  # fmt: skip
