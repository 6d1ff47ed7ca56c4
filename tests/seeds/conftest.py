"""A running broker with an operator's command line beside it: what the tests of the seed documents stand on."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.conftest import broker, clean_log, expected_errors, tls_broker
from tests.brokers.harness import Client, Running, ask, request_bytes
from tests.cli.command import Result, mqttprov

from mqttprov.admin import Admin, DeviceRow, IssuedToken
from mqttprov.core.audit import Event, parse_body

__all__ = ["broker", "clean_log", "expected_errors", "tls_broker"]  # fixtures of the brokers' tests, as they are


class Site:
    """A broker, what devices ask of it, and what an operator does and sees."""

    def __init__(self, broker: Running) -> None:
        self.broker = broker
        self.default = broker.issued

    async def cli(self, *arguments: str) -> Result:
        """Run a command beside the broker, as another person at the same machine does."""
        return await asyncio.to_thread(mqttprov, *arguments, "--state-dir", str(self.broker.path))

    async def do(self, *arguments: str) -> Any:
        """Run a command that must succeed; give what it printed as JSON."""
        result = await self.cli(*arguments, "--json")
        assert result.status == 0, result.err
        return result.data

    async def token(self, *options: str) -> IssuedToken:
        """Make a registration token."""
        made = await self.do("token", "create", *options)
        return IssuedToken(made["profile"], made["token"], made["provisionDeviceKey"], made["provisionDeviceSecret"])

    async def ask(self, token: IssuedToken, name: str | None, /, **fields: Any) -> Any:
        """Send one provisioning request over a session of its own; give the reply."""
        client = await self.broker.session()
        try:
            return await ask(client, request_bytes(token, name, **fields))
        finally:
            client.disconnect()

    async def register(self, token: IssuedToken, *names: str) -> list[bool]:
        """Ask for devices one after the other; tell which were registered."""
        return [(await self.ask(token, name))["status"] == "SUCCESS" for name in names]

    async def credentials(self, name: str, token: IssuedToken | None = None, /, **fields: Any) -> str:
        """Provision a device; give its access token."""
        reply = await self.ask(token or self.default, name, **fields)
        assert reply["status"] == "SUCCESS", reply
        return str(reply["credentialsValue"])

    async def online(self, name: str) -> Client:
        """Provision a device and log it in."""
        return await self.broker.login(await self.credentials(name))

    def see(self, look: Callable[[Admin], Any]) -> Any:
        """Look at the state as a program does."""
        with Admin(self.broker.path, actor="api:test") as admin:
            return look(admin)

    def device(self, name: str) -> DeviceRow:
        """Give a device as it is listed."""
        row: DeviceRow = self.see(lambda admin: admin.device(name))
        return row

    def events(self, *kinds: str) -> list[Event]:
        """Give the audit events of these kinds, oldest first; the chain holds."""

        def look(admin: Admin) -> list[Event]:
            admin.verify_audit()
            return [parse_body(event.body)[1] for event in admin.events() if event.kind in kinds]

        found: list[Event] = self.see(look)
        return found

    async def attributes(self, device: Client) -> Any:
        """Let a device ask for its attributes; give the answer."""
        await device.subscribe("v1/devices/me/attributes/response/+")
        device.publish_nowait("v1/devices/me/attributes/request/1", b"{}", 1)
        return json.loads((await device.message()).payload)


@pytest.fixture
def site(broker: Running) -> Site:
    """Give a running broker with its command line."""
    return Site(broker)


@pytest.fixture
def tls_site(tls_broker: Running) -> Site:
    """Give the same with a TLS listener."""
    return Site(tls_broker)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder for what commands write, beside the state."""
    path = tmp_path / "operator"
    path.mkdir()
    return path
