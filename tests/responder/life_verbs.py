"""What operators and factories do, added to the model of `life_model`. Verbs give the kinds of their audit events."""

from tests.responder.life_model import Device, Facts, Model, Token, fold, refuse_if

CONFLICT = "conflict"
MISSING = "not-found"
LASTING = float("inf")


class OperatedModel(Model):
    """The model with those behind the fleet."""

    def device(self, name: str) -> Device:
        """Give a device, or refuse."""
        refuse_if(fold(name) not in self.devices, MISSING)
        return self.devices[fold(name)]

    # --- devices ---

    def suspend(self, name: str) -> list[str]:
        """Stop a device that can log in."""
        device = self.device(name)
        refuse_if(device.state not in {"provisioned", "active"}, CONFLICT)
        device.state = "suspended"
        return ["suspended"]

    def resume(self, name: str) -> list[str]:
        """Let it go on as what it was: active if it has logged in with something that it still has."""
        device = self.device(name)
        refuse_if(device.state != "suspended", CONFLICT)
        device.state = "active" if any(g.status == "active" for g in device.live) else "provisioned"
        return ["resumed"]

    def decommission(self, name: str) -> list[str]:
        """Retire it for good."""
        device = self.device(name)
        refuse_if(device.state == "decommissioned", CONFLICT)
        device.state = "decommissioned"
        device.end(device.live)
        return ["decommissioned"]

    def release(self, name: str) -> list[str]:
        """Free the name of a tombstone."""
        device = self.device(name)
        refuse_if(device.state != "decommissioned", CONFLICT)
        self.released.append(self.devices.pop(fold(name)))
        return ["released"]

    def rotate(self, name: str) -> list[str]:
        """Ask for the next generation, if its token could give it."""
        device = self.device(name)
        refuse_if(device.state != "active", CONFLICT)
        token = device.token
        refuse_if(token is None or token.revoked or self.now >= token.expires, CONFLICT)
        device.rotate_from = len(device.generations)
        return ["rotation-requested"]

    def may_offer(self, name: str, to: str) -> Device:
        """Give the device if it can be offered."""
        device = self.device(name)
        refuse_if(device.state not in {"manufactured", "provisioned", "active"}, CONFLICT)
        refuse_if(device.owner == to, CONFLICT)
        refuse_if(device.offer is not None and self.now < device.offer[2], CONFLICT)
        return device

    def offer(self, name: str, to: str, code: str, until: float) -> list[str]:
        """Offer it."""
        self.may_offer(name, to).offer = (to, code, until)
        return ["transfer-offered"]

    def cancel(self, name: str) -> list[str]:
        """Take the offer back."""
        device = self.device(name)
        refuse_if(device.offer is None, CONFLICT)
        device.offer = None
        return ["transfer-cancelled"]

    def create_device(self, device: Device) -> list[str]:
        """Make a manufactured device."""
        refuse_if(fold(device.name) in self.devices, CONFLICT)
        self.devices[fold(device.name)] = device
        return ["device-created"]

    def import_line(self, line: Device) -> str:
        """Take a line of a list: `made`, `skipped` when it is so already, `failed` when it is otherwise."""
        known = self.devices.get(fold(line.name))
        if known is None:
            self.devices[fold(line.name)] = line
            return "made"
        same = ("name", "profile", "owner", "factory_key", "claim")
        if any(getattr(known, what) != getattr(line, what) for what in same) or known.state == "decommissioned":
            return "failed"
        as_listed = {key: known.labels.get(key) for key in line.labels} if known.generations else known.labels
        return "skipped" if as_listed == line.labels else "failed"

    # --- registration tokens ---

    def add_token(self, token: Token) -> list[str]:
        """Make one."""
        self.tokens[token.key] = token
        return ["token-created"]

    def update_token(self, key: str, limit: int | None, expires: float, labels: Facts) -> list[str]:
        """Change one; what it registered stays."""
        token = self.tokens[key]
        token.limit, token.expires, token.labels = limit, expires, labels
        return ["token-updated"]

    def revoke_token(self, key: str) -> list[str]:
        """End one."""
        refuse_if(self.tokens[key].revoked, CONFLICT)
        self.tokens[key].revoked = True
        return ["token-revoked"]

    def revoke_with_devices(self, key: str) -> list[str]:
        """End one, if it has not ended, and suspend what it registered."""
        token = self.tokens[key]
        events = [] if token.revoked else self.revoke_token(key)
        devices = [d for d in token.registered if d.state in {"provisioned", "active"}]
        for device in devices:
            device.state = "suspended"
        return events + ["suspended"] * len(devices)

    def may_rotate_token(self, key: str) -> list[str]:
        """Tell whether a token can have a new secret, which only the product knows."""
        refuse_if(self.tokens[key].revoked, CONFLICT)
        return ["token-rotated"]

    def rotate_token(self, key: str, secret: str, overlap: float) -> None:
        """Give it a new secret. The newest old one is good for the overlap; without one proofs begin anew (P4)."""
        token = self.tokens[key]
        newest = next(old for old, until in token.secrets.items() if until == LASTING)
        token.secrets = {newest: self.now + overlap, secret: LASTING} if overlap else {secret: LASTING}
        if not overlap:
            token.base = secret
