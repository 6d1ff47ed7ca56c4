"""What must hold of tokens, devices, owners and credentials, written down a second time: docs/reference/words.md.

Plain values and sentences. Nothing of the product is used here, so that both can only agree by being right.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_LIVE = 4
Facts = dict[str, str]


class Refusal(Exception):  # noqa: N818 - what the model says, not an error
    """It may not be; the reason is the first argument."""


def refuse_if(condition: object, reason: str) -> None:
    """Refuse."""
    if condition:
        raise Refusal(reason)


def fold(name: str) -> str:
    """Give the form in which names are one (P8)."""
    return name.lower()


@dataclass(eq=False)
class Profile:
    """A class of devices."""

    strategy: str = "allow-create"
    policy: str = "reuse"
    kind: str = "ACCESS_TOKEN"
    label_keys: tuple[str, ...] = ()


@dataclass(eq=False)
class Token:
    """A registration token. `secrets` are good until a time, or for ever; `base` stands for them in proofs."""

    key: str
    name: str
    profile: str
    secrets: dict[str, float]
    base: object
    owner: str | None = None
    limit: int | None = None
    expires: float = float("inf")
    only_gateways: bool = False
    labels: Facts = field(default_factory=dict)
    revoked: bool = False
    registered: set["Device"] = field(default_factory=set)


@dataclass(eq=False)
class Generation:
    """A credential. `secret` is its token or password; what was made has a stand-in until it is `told`."""

    number: int
    kind: str
    login: tuple[Any, ...]
    secret: str
    public_key: str | None
    proof: object
    status: str = "issued"
    told: Any = None


@dataclass(eq=False)
class Device:
    """A device; `token` last provisioned it, `offer` is (new owner, code, until)."""

    name: str
    profile: str
    owner: str | None = None
    labels: Facts = field(default_factory=dict)
    claim: str | None = None
    factory_key: str | None = None
    state: str = "manufactured"
    id: str = ""
    generations: list[Generation] = field(default_factory=list)
    rotate_from: int = 0
    offer: tuple[str, str, float] | None = None
    transferred: bool = False
    token: Token | None = None

    @property
    def live(self) -> list[Generation]:
        """Give what it may log in with."""
        return [g for g in self.generations if g.status != "superseded"]

    @property
    def rotation_due(self) -> bool:
        """Tell whether it was asked for a newer generation and has none since."""
        return 0 < self.rotate_from == len(self.generations)

    def end(self, generations: list[Generation]) -> None:
        """End these."""
        for generation in generations:
            generation.status = "superseded"


@dataclass(frozen=True)
class Asked:
    """A provisioning request. `brings` are its supplied credentials, with keys by their names."""

    key: str
    secret: str
    name: str | None = None
    brings: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    code: str | None = None
    behind_secret: bool = False


@dataclass(frozen=True)
class Answer:
    """What a request must be answered with: the event's kind, and the credential of a device."""

    event: str
    device: Device
    generation: Generation


class Model:
    """All of it."""

    def __init__(self) -> None:
        self.now: float = 0
        self.profiles: dict[str, Profile] = {}
        self.tokens: dict[str, Token] = {}
        self.devices: dict[str, Device] = {}
        self.released: list[Device] = []
        self.nameless: dict[object, str] = {}  # what such a request brings -> the name that it was given
        self._numbers = itertools.count()

    # --- a provisioning request ---

    def provision(self, asked: Asked) -> Answer:
        """Answer a request, or refuse."""
        device = self.devices.get(fold(self.name_of(asked) or ""))
        token, claimed = self._proven(asked, device)
        profile = self.profiles[token.profile]
        refuse_if(profile.strategy == "disabled", "disabled")
        refuse_if(token.revoked, "revoked")
        refuse_if(asked.name is not None and "/" in asked.name, "bad-name")
        refuse_if(token.only_gateways and not (asked.name or "").lower().startswith("gw"), "name-not-allowed")
        refuse_if(any(key not in profile.label_keys for key, _ in asked.labels), "bad-labels")
        code = asked.code
        if asked.behind_secret and device and device.owner and device.owner == token.owner:
            code = None  # it is his already
        proof = self._proof(asked, ("claim", device.claim) if claimed and device else token.base)
        if device is not None:
            refuse_if(device.profile != token.profile, "other-profile")
            refuse_if(code is None and self._foreign(device, token), "other-owner")
            refuse_if(device.state in {"suspended", "decommissioned"}, "state")
            for generation in reversed(device.live):  # same proof, same answer (P4)
                unused = generation.status == "issued" and generation.number > device.rotate_from
                if unused and generation.proof == proof:
                    return Answer("repeated", device, generation)
        refuse_if(self.now >= token.expires, "expired")
        if code is not None:
            self._judge_code(code, device, token, claimed=claimed)
        if device is not None:
            self._may_come(asked, device, profile, claimed=claimed, transferring=code is not None)
        refuse_if(device is None and profile.strategy == "pre-provisioned", "not-pre-provisioned")
        device = device or Device(self.name_of(asked) or self._stand_in(), token.profile, token.owner)
        refuse_if(
            device not in token.registered and token.limit is not None and len(token.registered) >= token.limit,
            "exhausted",
        )
        return self._issue(asked, token, device, proof, transferring=code is not None)

    def name_of(self, asked: Asked) -> str | None:
        """Give the name that it is about; None for one that nobody knows yet."""
        return asked.name if asked.name is not None else self.nameless.get(self.recognised(asked))

    @staticmethod
    def recognised(asked: Asked) -> object | None:
        """Give by what a nameless request is known again; None: by nothing."""
        has = {what for what, _ in asked.brings}
        if not has & {"token", "username", "client_id", "certificate", "csr", "request_id"}:
            return None
        return asked.key, asked.brings, asked.code

    def _proven(self, asked: Asked, device: Device | None) -> tuple[Token, bool]:
        token = self.tokens.get(asked.key)
        if token is None:
            raise Refusal("unknown-key")
        if self.now < token.secrets.get(asked.secret, float("-inf")):
            return token, False
        own = device is not None and device.claim == asked.secret and device.profile == token.profile
        refuse_if(not own, "wrong-secret")
        return token, True

    @staticmethod
    def _proof(asked: Asked, base: object) -> object:
        # The number of a request tells nothing beside a name.
        brings = [(what, x) for what, x in asked.brings if what != "request_id" or asked.name is None]
        return asked.key, base, asked.name and fold(asked.name), tuple(brings), asked.code

    @staticmethod
    def _foreign(device: Device, token: Token) -> bool:
        if device.transferred:
            return device.owner != token.owner
        return None not in {device.owner, token.owner} and device.owner != token.owner

    def _judge_code(self, code: str, device: Device | None, token: Token, *, claimed: bool) -> None:
        offer = device.offer if device else None
        if offer is None or offer[1] != code:
            raise Refusal("transfer-code")
        refuse_if(self.now >= offer[2], "transfer-expired")
        refuse_if(token.owner != offer[0] or claimed, "transfer-owner")

    @staticmethod
    def _may_come(asked: Asked, device: Device, profile: Profile, *, claimed: bool, transferring: bool) -> None:
        keys = {key for what, key in asked.brings if what in {"certificate", "csr"}}
        if not device.generations:
            refuse_if(device.claim and not claimed and not transferring, "claim-needed")
            refuse_if(device.factory_key and device.factory_key not in keys, "other-key")
            return
        refuse_if(claimed, "claim-spent")
        if transferring:
            return
        refuse_if(profile.policy == "refuse" and not device.rotation_due, "already-provisioned")
        if profile.policy == "same-key":
            held = {g.public_key for g in device.live if g.public_key}
            refuse_if(dict(asked.brings).get("csr") not in held, "other-key")

    def _issue(self, asked: Asked, token: Token, device: Device, proof: object, *, transferring: bool) -> Answer:
        new = self._made(asked, self.profiles[token.profile], len(device.generations) + 1, proof)
        if transferring:
            refuse_if(any(_shared(old, new) for old in device.generations), "bad-credentials")
        same = next((g for g in device.live if (g.login, g.secret) == (new.login, new.secret)), None)
        others = (g for other in self.devices.values() if other is not device for g in other.live)
        refuse_if(same is None and new.login in [g.login for g in others], "credentials-taken")
        if asked.name is None and (recognised := self.recognised(asked)):
            self.nameless[recognised] = device.name
        self.devices[fold(device.name)] = device
        labels = dict(asked.labels)
        if transferring:
            device.labels = {**token.labels, **labels}
        elif device not in token.registered:
            device.labels = {**device.labels, **token.labels, **labels}
        token.registered.add(device)
        device.token = token
        if transferring or device.state == "manufactured":
            device.state = "provisioned"
        if token.owner is not None and (transferring or device.owner is None):
            device.owner, device.offer = token.owner, None
            device.transferred = device.transferred or transferring
        if same is not None:
            if device.rotation_due:
                device.rotate_from = 0
                device.end([g for g in device.live if g is not same and g.status == "issued"])
            return Answer("repeated", device, same)
        event = "transfer-completed" if transferring else "reprovisioned" if device.generations else "provisioned"
        if transferring:
            device.end(device.live)
        else:
            excess = max(len(device.live) + 1 - MAX_LIVE, 0)
            device.end([g for g in device.live if g.status == "issued"][:excess])
        device.generations.append(new)
        return Answer(event, device, new)

    def _made(self, asked: Asked, profile: Profile, number: int, proof: object) -> Generation:
        brings = dict(asked.brings)
        kind = _kind(brings, profile)
        if kind == "X509_CERTIFICATE":
            key = brings.get("certificate") or brings.get("csr")
            refuse_if(key is None, "bad-credentials")
            login = ("certificate", key if "certificate" in brings else self._stand_in())
            return Generation(number, kind, login, "", key, proof)
        supplied = brings.get("token" if kind == "ACCESS_TOKEN" else "password")
        refuse_if(supplied is not None and len(supplied) < 8, "bad-credentials")
        secret = supplied or self._stand_in()
        if kind == "ACCESS_TOKEN":
            return Generation(number, kind, ("token", secret), secret, None, proof)
        username = brings.get("username")
        refuse_if(supplied and not username, "bad-credentials")
        return Generation(
            number, kind, ("basic", username or self._stand_in(), brings.get("client_id")), secret, None, proof
        )

    def _stand_in(self) -> str:
        return f"?{next(self._numbers)}"

    def learn(self, asked: Asked, answer: Answer, told: tuple[str, str, str, str], certificate: str) -> None:
        """Take note of name, user name, client id and secret that were told, and of the certificate's fingerprint."""
        device, generation = answer.device, answer.generation
        name, username, client_id, secret = told
        if device.name != name:
            del self.devices[fold(device.name)]
            self.devices[fold(name)], device.name = device, name
            if recognised := self.recognised(asked):
                self.nameless[recognised] = name
        if generation.told is None and generation.kind == "ACCESS_TOKEN":
            generation.login, generation.secret = ("token", secret), secret
        elif generation.told is None and generation.kind == "MQTT_BASIC":
            generation.login, generation.secret = ("basic", username, client_id or None), secret
        elif generation.told is None and generation.login[1].startswith("?"):
            generation.login = ("certificate", certificate)
        generation.told = generation.told or told

    # --- logins ---

    def find(self, login: tuple[Any, ...], password: str) -> tuple[Device, Generation]:
        """Give what a login opens, or refuse; it is decided before its batch, and `activate` follows."""
        found = [(d, g) for d in self.devices.values() for g in d.live if g.login == login]
        if login[0] == "basic" and login[2] is not None:  # a user name alone is good from any client
            found += [(d, g) for d in self.devices.values() for g in d.live if g.login == ("basic", login[1], None)]
        refuse_if(not found, "unknown")
        if login[0] == "basic":
            found = [(d, g) for d, g in found if g.secret == password]
        refuse_if(not found, "wrong-password")
        device, generation = found[0]
        refuse_if(device.state not in {"provisioned", "active"}, "state")
        return device, generation

    def activate(self, device: Device, generation: Generation) -> list[str]:
        """Record a first login; give its events."""
        refuse_if(generation.status == "superseded", "unknown")
        refuse_if(device.state not in {"provisioned", "active"}, "unknown")
        if generation.status == "active":
            return []
        generation.status, device.state = "active", "active"
        device.end([g for g in device.live if g.number < generation.number])
        return ["activated"]


def _kind(brings: Mapping[str, str], profile: Profile) -> str:
    kinds = {
        "ACCESS_TOKEN": {"token"},
        "MQTT_BASIC": {"username", "password", "client_id"},
        "X509_CERTIFICATE": {"certificate", "csr"},
    }
    brought = [kind for kind, fields in kinds.items() if fields & brings.keys()]
    named = brings.get("type")
    refuse_if(named and brought and named not in brought, "bad-credentials")
    return named or (brought[0] if brought else profile.kind)


def _shared(old: Generation, new: Generation) -> bool:
    return old.public_key == new.public_key if new.public_key else old.secret == new.secret
