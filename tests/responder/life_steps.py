"""What may happen next in the life of tokens, devices, owners and credentials; `World` does it to product and model."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
from tests.responder.life_model import Asked, Device, Facts, Generation, Profile, Token, fold
from tests.responder.life_verbs import LASTING, OperatedModel
from tests.responder.life_world import KEYS, Pick, World

from mqttprov.admin import TokenChange

OWNERS = ("acme", "globex", "initech")
NAMES = {"default": ("gw-1", "GW-1", "gw-2", "pump 3"), "careful": ("gw-4", "gw-5", "GW-5"), "closed": ("gw-6",)}
BRINGS: tuple[Facts, ...] = (
    {},
    {},
    {"token": "a-token-of-mine"},
    {"token": "another-token-of-mine"},
    {"token": "short"},
    {"username": "user-1"},
    {"username": "user-1", "password": "a-password-of-mine"},
    {"username": "user-1", "password": "a-password-of-mine", "client_id": "client-1"},
    {"username": "user-2", "password": "another-password"},
    {"username": "user-2", "password": "a-token-of-mine"},
    {"password": "a-password-of-mine"},
    {"client_id": "client-1"},
    {"type": "MQTT_BASIC"},
    {"type": "X509_CERTIFICATE"},
    {"type": "ACCESS_TOKEN", "username": "user-1"},
    {"request_id": "request-1"},
    *({what: key} for what in ("certificate", "csr", "csr") for key in KEYS),
)
LABELS: tuple[Facts, ...] = ({}, {}, {"zone": "a"}, {"zone": "b", "floor": "1"})


class Steps:
    """A world, and each thing that may happen in it as a method; what exactly is chosen by `pick`."""

    def __init__(self, path: Path, pick: Pick) -> None:
        self.world = World(path)
        self.world.add_profile(
            "careful",
            Profile(
                pick(("allow-create", "pre-provisioned")),
                pick(("reuse", "refuse", "same-key")),
                pick(("ACCESS_TOKEN", "MQTT_BASIC")),
                ("zone",),
            ),
        )
        self.world.add_profile("closed", Profile("disabled"))

    @property
    def model(self) -> OperatedModel:
        """The model."""
        return self.world.model

    # --- devices ---

    def ask(self, pick: Pick) -> None:
        """One to three requests, good and bad, in one batch."""
        self.world.batch([self._asked(pick) for _ in range(pick((1, 1, 1, 2, 3)))], ())

    def retry(self, pick: Pick) -> None:
        """A request of before, granted or not, comes again: a reply was lost, or a device was set back."""
        if self.world.asked:
            self.world.batch([pick(self.world.asked[-9:] + self.world.granted[-9:] * 2)], ())

    def ask_otherwise(self, pick: Pick) -> None:
        """A device that was granted credentials asks for others, up to more than it may have at once."""
        if self.world.granted:
            asked = pick(self.world.granted[-3:])
            brought = [tuple(sorted(pick(BRINGS).items())) for _ in range(pick((1, 2, 5)))]
            self.world.batch([dataclasses.replace(asked, brings=brings, code=None) for brings in brought], ())

    def log_in(self, pick: Pick) -> None:
        """Credentials that were told some time ago log in, some with another password."""
        if self.world.ever:
            self.world.batch((), [self._login(pick) for _ in range(pick((1, 1, 2)))])

    def log_in_amid_requests(self, pick: Pick) -> None:
        """Logins and requests meet in one batch."""
        if self.world.ever and self.world.asked:
            requests = [self._asked(pick), pick(self.world.asked[-6:] + self.world.granted[-6:])]
            self.world.batch(requests, [self._login(pick), self._login(pick)])

    def complete(self, pick: Pick) -> None:
        """A device that is or was offered is claimed, with right and wrong codes, tokens and credentials."""
        devices = [d for d in self.model.devices.values() if d.offer]
        if not devices:
            return
        device = pick(devices)
        assert device.offer
        tokens = [t for t in self.model.tokens.values() if t.profile == device.profile]
        own = [t for t in tokens if t.owner == device.offer[0] and not t.revoked]
        token = pick(own * 8 + tokens)
        code = pick((*(device.offer[1],) * 6, pick(self.world.codes)))
        brings = tuple(sorted(pick(BRINGS).items()))
        asked = Asked(token.key, self._secret(pick, token), device.name, brings, (), code, pick((False, True)))
        self.world.batch([asked] * pick((1, 1, 2)), ())

    def _asked(self, pick: Pick) -> Asked:
        token = self._token(pick)
        names = pick((NAMES[token.profile],) * 6 + tuple(NAMES.values()))
        name = pick((*names, *names, None, "bad/name"))
        device = self.model.devices.get(fold(name or ""))
        secret = device.claim if device and device.claim and pick((False, True)) else self._secret(pick, token)
        return Asked(
            pick((token.key,) * 19 + ("unknown",)),
            secret,
            name,
            tuple(sorted(pick(BRINGS).items())),
            tuple(sorted(pick(LABELS).items())) if pick((0, 0, 1)) else (),
            pick((*(None,) * 9, self.world.codes[-1])),
            pick((False, True)),
        )

    @staticmethod
    def _secret(pick: Pick, token: Token) -> str:
        return pick((*list(token.secrets) * 8, "a-wrong-secret"))

    def _login(self, pick: Pick) -> tuple[Generation, str]:
        _, generation = pick(self.world.ever[-1:] * 4 + self.world.ever[-20:] + self.world.ever)
        return generation, pick((*(generation.secret,) * 6, "a-wrong-password"))

    # --- operators, on devices ---

    def suspend(self, pick: Pick) -> None:
        """Stop one."""
        name = self._name(pick)
        self.world.verb(lambda: self.model.suspend(name), lambda: self.world.admin.life.suspend(name))

    def resume(self, pick: Pick) -> None:
        """Let one go on."""
        name = self._name(pick, "suspended")
        self.world.verb(lambda: self.model.resume(name), lambda: self.world.admin.life.resume(name))

    def decommission(self, pick: Pick) -> None:
        """Retire one."""
        name = self._name(pick)
        self.world.verb(
            lambda: self.model.decommission(name), lambda: self.world.admin.life.decommission(name, wait_ms=0)
        )

    def release(self, pick: Pick) -> None:
        """Free a name."""
        name = self._name(pick, "decommissioned")
        self.world.verb(lambda: self.model.release(name), lambda: self.world.admin.life.release(name))

    def rotate(self, pick: Pick) -> None:
        """Ask one for a newer generation."""
        name = self._name(pick, "active")
        self.world.verb(lambda: self.model.rotate(name), lambda: self.world.admin.life.rotate(name))

    def offer(self, pick: Pick) -> None:
        """Offer one to another owner."""
        name, to, valid_ms = self._name(pick, "active"), pick(OWNERS), pick((1, 400, *(60_000,) * 6))
        until = self.world.now_ms + valid_ms
        self.world.codes.append("")  # until the product has said which

        def offered() -> None:
            self.world.codes[-1] = self.world.admin.life.transfer(name, to, valid_ms=valid_ms).claim_code
            self.model.devices[fold(name)].offer = (to, self.world.codes[-1], until)

        self.world.verb(lambda: self.model.offer(name, to, "", until), offered)
        if not self.world.codes[-1]:
            self.world.codes.pop()

    def cancel(self, pick: Pick) -> None:
        """Take an offer back."""
        name = self._name(pick)
        self.world.verb(lambda: self.model.cancel(name), lambda: self.world.admin.life.cancel_transfer(name))

    def look(self, pick: Pick) -> None:
        """Look at the whole history of a device, and try each credential that it ever had."""
        devices = [*self.model.devices.values(), *self.model.released]
        if devices:
            device = pick(devices)
            self.world.agree_on_credentials(device)
            for generation in device.generations:
                self.world.batch((), [(generation, generation.secret)])

    def _name(self, pick: Pick, state: str = "") -> str:
        names = [d.name for d in self.model.devices.values()]
        fitting = [d.name for d in self.model.devices.values() if d.state == state]
        return pick((*fitting * 4, *names, "gw-1", "nobody"))

    # --- factories and operators, on tokens ---

    def create_device(self, pick: Pick) -> None:
        """Make a manufactured device."""
        device = self._device(pick)
        device.claim = device.factory_key = None
        self.world.verb(
            lambda: self.model.create_device(device),
            lambda: self.world.admin.create_device(device.profile, device.name, device.owner, device.labels),
        )

    def import_list(self, pick: Pick) -> None:
        """Make, skip and refuse the lines of a list."""
        lines = [self._device(pick) for _ in range(pick((1, 2, 4)))]
        faults: list[object] = []
        count = self.world.admin.import_devices(
            [self.world.line(line, number) for number, line in enumerate(lines, 2)], tell_fault=faults.append
        )
        told = [self.model.import_line(line) for line in lines]
        assert (count.made, count.skipped, count.failed) == tuple(
            told.count(what) for what in ("made", "skipped", "failed")
        )
        assert len(faults) == count.failed
        self.world.agree(["device-created"] * count.made)

    def _device(self, pick: Pick) -> Device:
        profile = pick(("default", "careful", "careful"))
        name = pick(NAMES[profile])
        return Device(
            name,
            profile,
            pick((None, *OWNERS[:2])),
            pick(({}, {"site": "north"})),
            pick((None, f"claim-{fold(name)}")),
            pick((None, None, None, None, *KEYS[:2])),
        )

    def create_token(self, pick: Pick) -> None:
        """Make a registration token, while there are less than ten that are good for something."""
        if sum(not t.revoked for t in self.model.tokens.values()) >= 10:
            return
        limit, expires = pick((None, None, 1, 2, 3)), self._expiry(pick)
        owner, labels, only = pick((None, *OWNERS)), pick(({}, {"site": "harbour"})), pick((False, False, True))
        profile = pick(("default", "default", "careful", "careful", "closed"))
        change = TokenChange(limit, expires, labels, "GW-*" if only else msgspec.UNSET)
        issued = self.world.admin.create_token(profile, None, change, owner)
        self.world.add_token(
            issued, owner=owner, limit=limit, expires=expires or LASTING, labels=labels, only_gateways=only
        )
        self.world.agree(["token-created"])

    def update_token(self, pick: Pick) -> None:
        """Change a token's limit, expiry and labels, up or down."""
        token, limit, expires = self._token(pick), pick((None, 1, 2, 5)), self._expiry(pick)
        labels = pick(({}, {"site": "south"}))
        self.world.verb(
            lambda: self.model.update_token(token.key, limit, expires or LASTING, labels),
            lambda: self.world.admin.update_token(token.key, None, TokenChange(limit, expires, labels)),
        )

    def revoke_token(self, pick: Pick) -> None:
        """End a token."""
        token = self._token(pick)
        self.world.verb(
            lambda: self.model.revoke_token(token.key), lambda: self.world.admin.revoke_token(token.key, None)
        )

    def revoke_token_with_devices(self, pick: Pick) -> None:
        """End a token and suspend what it registered."""
        token = self._token(pick)
        self.world.verb(
            lambda: self.model.revoke_with_devices(token.key),
            lambda: self.world.admin.revoke_token_with_devices(token.key, None),
        )

    def rotate_token(self, pick: Pick) -> None:
        """Give a token a new secret."""
        token, overlap_ms = self._token(pick), pick((0, 0, 100, 2_000))

        def rotated() -> None:
            issued = self.world.admin.rotate_token(token.key, None, overlap_ms)
            self.model.rotate_token(token.key, issued.secret, overlap_ms)

        self.world.verb(lambda: self.model.may_rotate_token(token.key), rotated)

    def _token(self, pick: Pick) -> Token:
        tokens = list(self.model.tokens.values())
        good = [t for t in tokens if not t.revoked and t.profile != "closed" and t.expires > self.world.now_ms]
        return pick(good * 6 + tokens)

    def _expiry(self, pick: Pick) -> int | None:
        wait_ms = pick((None, None, None, None, 300, 3_000))
        return None if wait_ms is None else self.world.now_ms + wait_ms

    def wait(self, pick: Pick) -> None:
        """Time passes, or the moment comes at which something ends."""
        tokens, devices = self.model.tokens.values(), self.model.devices.values()
        ends = [end for token in tokens for end in (token.expires, *token.secrets.values())]
        ends += [device.offer[2] for device in devices if device.offer]
        moments = [int(end) for end in ends if self.world.now_ms < end < LASTING]
        self.model.now = self.world.now_ms = pick([self.world.now_ms + ms for ms in (1, 50, 500)] + moments)


RARE = ("decommission", "suspend", "revoke_token", "revoke_token_with_devices", "rotate_token", "update_token")
COMMON = ("ask", "retry", "log_in", "complete", "offer", "create_token", "resume")
STEPS: dict[str, Callable[[Steps, Pick], None]] = {
    name: step for name, step in vars(Steps).items() if callable(step) and not name.startswith("_")
}
