"""A factory beside a broker with TLS: its authorities, a profile for its devices, and TLS contexts as they have them.

No test lives here.
"""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.certificates import DeviceKey, FactoryAuthority
from tests.brokers.harness import Running

from mqttprov.core.audit import parse_body
from mqttprov.core.model import Chain, Profile, Strategy
from mqttprov.pki.inspect import inspect_certificate
from mqttprov.responder.administration import IssuedToken
from mqttprov.responder.device_import import ImportLine


class Factory:
    """A factory with root and intermediate, whose devices a profile of the broker takes in."""

    def __init__(self, broker: Running, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        self.root = FactoryAuthority("Factory root")
        self.line = FactoryAuthority("Factory line", self.root, path_length=0)
        self.authorities = self.root.pem + self.line.pem
        self.key = DeviceKey("gw-1")  # the factory's key of the device in `identity`

    def profile(self, name: str = "made", pattern: str = "(.*)", **settings: Any) -> IssuedToken:
        """Make the profile, beside the running broker."""
        profile = Profile(0, name, Strategy.CERTIFICATE_CHAIN, **settings)
        return self.broker.admin.create_profile(profile, Chain(self.authorities, pattern))

    async def learnt(self) -> None:
        """Wait until the broker has met all that operators did."""
        reader = self.broker.state.store.reader()
        await self.broker.server._run.act(reader.head().seq)
        reader.close()

    def device(self, name: str | None, key: DeviceKey | None = None, *, send: str = "") -> ssl.SSLContext:
        """Give the TLS context of a device with a new certificate; `send` goes behind it on the wire."""
        key = key or DeviceKey("any")
        pem = self.line.issue(key, name) + send
        return key.context(self.broker.path / "authority.pem", self.folder, pem)

    async def imported(self, name: str, profile: str, key: DeviceKey) -> ssl.SSLContext:
        """Import a device with a self-signed factory certificate; give its TLS context."""
        certificate = inspect_certificate(key.certificate_pem, 0)
        line = ImportLine(2, name, profile, factory_key=certificate.public_key)
        count = self.broker.admin.import_devices([line], tell_fault=lambda fault: pytest.fail(fault.text))
        assert count.made == 1
        await self.learnt()
        return key.context(self.broker.path / "authority.pem", self.folder)

    def shown(self, name: str) -> Any:
        """Give a device as it is listed."""
        reader = self.broker.state.store.reader()
        row = next(reader.devices(name), None)
        reader.close()
        return row

    def told(self, kind: str) -> list[Any]:
        """Give the audit events of a kind."""
        self.broker.server._run.responder._flush_limited()
        reader = self.broker.state.store.reader()
        events = [parse_body(event.body)[1] for event in reader.events() if event.kind == kind]
        reader.close()
        return events

    async def refusals(self) -> list[Any]:
        """Give the audit events of refused logins, once there are some."""
        async with asyncio.timeout(30):
            while not (events := self.told("login-refused")):  # noqa: ASYNC110 - the writer is a thread
                await asyncio.sleep(0.01)
        return events


def keyless(**fields: Any) -> bytes:
    """Write a request without key and secret."""
    return json.dumps(fields).encode()
