"""A small world for the rules: facts in memory, deterministic entropy, and the steps that a store would take."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from mqttprov.core.audit import Event
from mqttprov.core.credentials import Sign, SignedCertificate
from mqttprov.core.facts import DeviceFacts, Facts
from mqttprov.core.limits import REQUEST_ENTROPY_BYTES
from mqttprov.core.login import Activation, Login, LoginAttempt, LoginFacts, OperatorFacts, activate, decide_login
from mqttprov.core.login import login_keys as keys_of_login
from mqttprov.core.model import Credential, Device, LifecycleState, Profile, Token
from mqttprov.core.proving import claim_verifier
from mqttprov.core.provisioning import Context, Decision, decide
from mqttprov.core.requests import Granted, ProvisionRequest
from mqttprov.core.secrets import Keys

START_MS = 1_784_000_000_000
SECRET = "mqp_rs_the-secret-of-the-token"


class World:
    """One profile and its tokens; every request gets entropy from a counter, so that a run can be repeated."""

    def __init__(self, **profile: Any) -> None:
        self.keys = Keys(pepper=b"p" * 32, issuing_key=b"i" * 32)
        self.profile = Profile(1, "gateways", **profile)
        self.facts = Facts({}, {}, {})
        self.now_ms = START_MS
        self.events: list[Event] = []
        self.sign: Sign | None = None
        self._asked = 0
        self.add_token("default")

    def add_token(self, key: str, *, profile: Profile | None = None, **changes: Any) -> Token:
        """Add a registration token whose name is its key and whose secret is SECRET."""
        verifier = self.keys.registration_verifier(key, SECRET)
        token = Token(len(self.facts.tokens) + 1, profile or self.profile, key, key, verifier, **changes)
        self.facts.tokens[key] = token
        return token

    def request(self, device_name: str | None = "gw-1", **changes: Any) -> ProvisionRequest:
        """Make a request with the default token's key and secret."""
        return ProvisionRequest(**{"key": "default", "secret": SECRET, "device_name": device_name, **changes})

    def add_device(self, name: str, *, claim: str | None = None, used: bool = False, **changes: Any) -> str:
        """Add a manufactured device with a claim secret; one that is `used` has provisioned before. Gives its name."""
        hashed = None if claim is None else claim_verifier(self.keys, name, claim)
        device = Device(f"id-{name}", name, name, 1, LifecycleState.MANUFACTURED, START_MS, claim=hashed, **changes)
        self.facts.devices[name] = DeviceFacts(device, [], set(), int(used))
        return name

    def entropy(self) -> bytes:
        """Give the next 48 bytes."""
        self._asked += 1
        return hashlib.shake_256(self._asked.to_bytes(8, "big")).digest(REQUEST_ENTROPY_BYTES)

    def decide(self, request: ProvisionRequest) -> Decision:
        """Decide a request as the pipeline does, and keep its event."""
        decision = decide(request, self.facts, Context(self.now_ms, self.entropy(), self.keys, "192.0.2.7", self.sign))
        self.events.append(decision.event)
        return decision

    def grant(self, request: ProvisionRequest) -> Granted:
        """Decide a request that must succeed."""
        outcome = self.decide(request).outcome
        assert isinstance(outcome, Granted), outcome
        return outcome

    def device(self, fold: str = "gw-1") -> DeviceFacts:
        """Give what is known of a device."""
        return self.facts.devices[fold]

    def live(self) -> list[Credential]:
        """Give all live credentials."""
        return [credential for known in self.facts.devices.values() for credential in known.credentials]

    def login(self, attempt: LoginAttempt, operator: OperatorFacts | None = None) -> Login:
        """Decide a login as the responder does, without activating."""
        wanted = keys_of_login(attempt, self.keys)
        found = [
            LoginFacts(credential, known.device, self.profile)
            for known in self.facts.devices.values()
            for credential in known.credentials
            if credential.login_key in wanted
        ]
        return decide_login(attempt, found, operator, self.keys)

    def attempt(self, granted: Granted) -> LoginAttempt:
        """Give the CONNECT of a device that was granted credentials by which no certificate is needed."""
        if granted.username:
            return LoginAttempt(granted.client_id, granted.username, granted.value)
        return LoginAttempt("", granted.value)

    def connect(self, granted: Granted) -> tuple[Login, Activation | None]:
        """Log in with granted credentials and activate them if it is the first time."""
        login = self.login(self.attempt(granted))
        if login.principal is None or not login.first:
            return login, None
        activation = activate(
            login.fold, login.principal.generation, self.facts, now_ms=self.now_ms, source="192.0.2.7"
        )
        if activation.event:
            self.events.append(activation.event)
        return login, activation


@pytest.fixture
def world() -> World:
    """A world with a profile of defaults and an unlimited token `default`."""
    return World()


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    """Worlds with other profiles, also for property tests, which need a fresh one per example."""
    return World


@pytest.fixture(scope="session")
def signer() -> Sign:
    """A stand-in for the authority: what it signs shows what it was asked for."""

    def sign(csr_pem: str, device_id: str, device_name: str, serial_entropy: bytes, now_ms: int) -> SignedCertificate:
        assert len(serial_entropy) == 16
        pem = f"certificate of {device_name} ({device_id}) for {csr_pem} at {now_ms}"
        return SignedCertificate(pem, hashlib.sha256(pem.encode()).hexdigest(), "key-of-" + csr_pem)

    return sign
