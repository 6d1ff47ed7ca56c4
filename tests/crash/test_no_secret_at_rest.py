"""Proof of P6: a whole run with planted secrets, and none of them in files, logs, events, process lists or outputs.

The run goes through all types of credentials, refusals, wrong secrets, secrets in wrong fields, broken packets, the
limiter and a crash. Everything is logged at DEBUG.
"""

import asyncio
import base64
import hashlib
import json
import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.brokers.certificates import DeviceKey
from tests.brokers.harness import ACTOR, Client, ask, request_bytes
from tests.crash.beside import BesideChild
from tests.crash.child import Child

from mqttprov.brokers.responder_run import now_ms
from mqttprov.core.model import OperatorRole
from mqttprov.mqtt import Connect, ProtocolVersion, ReasonCode
from mqttprov.responder.administration import IssuedToken, TokenChange
from mqttprov.responder.state_directory import StateDirectory

COMMANDS = (
    ("token", "list", "--json"), ("token", "list"), ("token", "show", "limited", "--json"),
    ("profile", "list", "--json"), ("device", "list", "--json"), ("device", "list"), ("device", "show", "gw-basic"),
    ("operator", "list", "--json"), ("audit", "tail", "-n", "1000", "--json"), ("audit", "verify"),
)  # fmt: skip


class Planted:
    """The secrets of a run, and the forms in which each would be a leak."""

    def __init__(self) -> None:
        self.secrets: list[str] = []

    def plant(self, name: str) -> str:
        """Make a secret that nothing else can look like."""
        secret = f"planted.{name}.{os.urandom(6).hex()}"
        self.secrets.append(secret)
        return secret

    def note(self, secret: str) -> str:
        """Remember a secret that the broker made."""
        self.secrets.append(secret)
        return secret

    def found_in(self, haystack: bytes) -> list[str]:
        """Give the secrets that are in there as text, UTF-16, hex, Base64, or as a hash without a key."""
        return [secret for secret in self.secrets if any(form in haystack for form in _forms(secret))]


def _forms(secret: str) -> Iterator[bytes]:
    raw = secret.encode()
    yield raw
    yield raw[len(raw) // 2 :]  # a part is a leak too
    yield secret.encode("utf-16-le")
    yield raw.hex().encode()
    yield base64.b64encode(raw).rstrip(b"=")[:-1]
    for digest in (hashlib.sha256(raw), hashlib.sha1(raw), hashlib.md5(raw)):  # noqa: S324 - what must not be there
        yield digest.hexdigest().encode()
        yield digest.digest()


class Run:
    """The steps of the run."""

    def __init__(self, child: Child | BesideChild, issued: IssuedToken, planted: Planted) -> None:
        self.child = child
        self.issued = issued
        self.planted = planted
        self.private: list[str] = []
        self.kept: list[tuple[str, dict[str, Any], Any]] = []

    async def open(self, connect: Connect | None, **options: Any) -> Client:
        """Open a connection to the broker."""
        return await Client.open(self.child.port, connect, **options)

    async def request(self, payload: bytes, source: str = "127.0.0.2") -> Any:
        """Ask over a provisioning session of its own."""
        session = await self.open(Connect("", username="provision"), source=source)
        reply = await ask(session, payload)
        session.disconnect()
        return reply

    async def provision(self) -> None:
        """Get credentials of every type, made and supplied, and log in with them."""
        planted = self.planted
        own = DeviceKey("gw-x509")
        self.private += _lines(own.private_key_pem())
        cases: dict[str, dict[str, Any]] = {
            "gw-token": {},
            "gw-own-token": {"token": planted.plant("own-token")},
            "gw-basic": {"credentialsType": "MQTT_BASIC"},
            "gw-own-basic": {"username": "public-name", "password": planted.plant("own-password")},
            "gw-x509": {"hash": own.certificate_pem},
            "gw-csr": {"csr": own.csr_pem()},
        }
        for name, fields in cases.items():
            reply = await self.request(request_bytes(self.issued, name, **fields))
            assert reply["status"] == "SUCCESS"
            self.kept.append((name, fields, reply["credentialsValue"]))
            value = reply["credentialsValue"]
            if reply["credentialsType"] == "ACCESS_TOKEN":
                connect = Connect(planted.note(value), ProtocolVersion.V5, username=value)  # as the client id, too
            elif reply["credentialsType"] == "MQTT_BASIC":
                connect = Connect("id", username=value["userName"], password=planted.note(value["password"]).encode())
            else:
                continue
            device = await self.open(connect)
            assert await device.connack() == ReasonCode.SUCCESS
            await device.publish(f"api/v1/{planted.secrets[-1]}/telemetry", planted.plant("payload").encode())
            await device.subscribe(f"{planted.secrets[-1]}/#")
            device.drop()

    async def provision_over_tls(self, folder: Path) -> None:
        """Log in with a registered certificate."""
        own = DeviceKey("gw-tls")
        self.private += _lines(own.private_key_pem())
        reply = await self.request(request_bytes(self.issued, "gw-tls", hash=own.certificate_pem))
        assert reply["status"] == "SUCCESS"
        tls: ssl.SSLContext = own.context(self.child.state / "authority.pem", folder)
        device = await Client.open(self.child.tls_port, Connect("gw-tls"), tls=tls)
        assert await device.connack() == ReasonCode.SUCCESS
        device.drop()

    async def be_refused(self, limited: IssuedToken) -> None:
        """Collect refusals: wrong secrets, secrets in wrong fields, texts that cannot be read, a used-up token."""
        plant, issued = self.planted.plant, self.issued
        wrong = {"provisionDeviceSecret": plant("wrong-secret")}
        own = DeviceKey("x")
        self.private += _lines(own.private_key_pem())
        for name, fields in (
            ("gw-1", wrong),
            ("gw-1", {"provisionDeviceKey": issued.secret}),
            ("gw-1", {"provisionDeviceKey": issued.secret, "provisionDeviceSecret": issued.key}),
            (issued.secret, wrong),
            (f"{issued.secret}/{plant('name')}", {}),
            ("gw-1", {"credentialsType": plant("type")}),
            ("gw-1", {"labels": {plant("label"): plant("label-value")}}),
            ("gw-1", {"labels": plant("labels")}),
            ("gw-1", {"gateway": plant("gateway")}),
            ("gw-1", {"token": plant("token") + "\x07"}),
            ("gw-1", {"token": plant("token") * 30}),
            ("gw-1", {"password": plant("password-alone")}),
            ("gw-1", {"credentialsType": "MQTT_BASIC", "token": plant("other-type")}),
            ("gw-1", {"hash": own.certificate_pem + own.private_key_pem()}),
            ("gw-1", {"csr": plant("csr")}),
            ("gw-1", {"apiKey": plant("unknown") * 2000}),
        ):
            reply = await self.request(request_bytes(issued, name, **fields))
            assert reply["status"] != "SUCCESS", fields
            assert not self.planted.found_in(json.dumps(reply).encode()), fields
        # These are no refusals, but what they bring besides is nobody's business either.
        extra = {"requestId": plant("request-id"), "unknown": plant("unknown"), "note": {"deep": plant("deep")}}
        assert (await self.request(request_bytes(issued, "gw-extra", **extra)))["status"] == "SUCCESS"
        for payload in (issued.secret.encode(), b'{"provisionDeviceSecret":"' + issued.secret.encode()):
            assert (await self.request(payload))["status"] == "FAILURE"
        for number in range(3):
            status = (await self.request(request_bytes(limited, f"gw-limited-{number}")))["status"]
            assert status == ("SUCCESS" if number == 0 else "NOT_FOUND")

    async def break_in(self, operator: str) -> None:
        """Try logins and packets that hold secrets, until the limiter has had enough of one source."""
        plant, issued = self.planted.plant, self.issued
        token = next(value for name, _, value in self.kept if name == "gw-token")
        for connect in (
            Connect(plant("client-id"), ProtocolVersion.V5),
            Connect(token, username=plant("wrong-token")),
            Connect("x", username=plant("username"), password=plant("password").encode()),
            Connect("x", username="public-name", password=plant("wrong-password").encode()),
            Connect("x", username=operator, password=plant("wrong-operator-password").encode()),
            Connect("x", username=issued.key, password=issued.secret.encode()),
        ):
            client = await self.open(connect)
            assert await client.connack() != ReasonCode.SUCCESS
        session = await self.open(Connect("", username="provision"))
        assert await session.connack() == ReasonCode.SUCCESS
        session.publish_nowait(plant("topic"), plant("payload").encode(), 1)
        await session.until(lambda: bool(session.events), or_gone=True)
        for start in (b"\x10\x30\x00\x04MQTX", b"\x30", b"\x82\x60\x00\x01"):
            raw = await self.open(None)
            raw.send(start + plant("packet").encode() * 3 + b"\xff" * 100)
            raw.end_of_input()
            await raw.wait_closed()
        guesser = await self.open(Connect("", username="provision"), source="127.0.0.66")
        for _ in range(60):
            payload = request_bytes(issued, "gw-1", provisionDeviceSecret=plant("guess"))
            reply = await ask(guesser, payload)
        assert reply["retryAfter"] > 0
        guesser.drop()

    async def ask_again(self) -> None:
        """Repeat requests after the crash; what was used gets the next generation, whose secret counts too."""
        for name, fields, before in self.kept:
            reply = await self.request(request_bytes(self.issued, name, **fields))
            assert reply["status"] == "SUCCESS"
            value = reply["credentialsValue"]
            if name == "gw-token":
                assert value != before
                self.planted.note(value)
            elif name == "gw-basic":
                self.planted.note(value["password"])


def _lines(pem: str) -> list[str]:
    """Give the lines of a private key that say something."""
    return [line for line in pem.splitlines() if len(line) > 40]


def check_files(root: Path, planted: Planted, private: list[str]) -> int:
    """See that no file but those in `keys` holds a secret; give how many were looked at."""
    files = [path for path in root.rglob("*") if path.is_file() and path.parent.name not in {"keys", "device"}]
    for path in files:
        content = path.read_bytes()
        assert not planted.found_in(content), path
        assert not [line for line in private if line.encode() in content], path
    return len(files)


def check_processes(pids: list[int], planted: Planted) -> None:
    """See that what `ps` shows holds no secret."""
    for pid in pids:
        for name in ("cmdline", "environ"):
            assert not planted.found_in(Path(f"/proc/{pid}/{name}").read_bytes())


async def command(child: Child | BesideChild, *arguments: str) -> tuple[int | None, bytes]:
    """Run the command line on the state; give its status and all that it writes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mqttprov", *arguments, "--state-dir", str(child.state),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return process.returncode, output


def keys_of(state: Path) -> tuple[list[str], list[bytes]]:
    """Give the master keys as text and as bytes, and the lines of our private keys."""
    texts = [(state / "keys" / name).read_text().strip() for name in ("pepper", "issuing-key")]
    pems = [path.read_text() for path in (state / "keys").glob("*.pem")]
    return [line for pem in pems for line in _lines(pem)] + texts, [bytes.fromhex(text) for text in texts]


@pytest.mark.timeout(120)
async def test_no_planted_secret_is_anywhere_after_a_whole_run(
    verbose_child: Child | BesideChild, issued: IssuedToken, tmp_path: Path
) -> None:
    """Database with its WAL, DEBUG log, events, `ps`, refusals and outputs: no secret in any form (P6)."""
    child, planted = verbose_child, Planted()
    planted.note(issued.secret)
    state = StateDirectory(child.state)
    admin = state.administration(ACTOR, now_ms, os.urandom)
    password = planted.note(admin.create_operator("listener", OperatorRole.OPERATOR))
    limited = admin.create_token("default", "limited", TokenChange(max_registrations=1))
    planted.note(limited.secret)
    state.close()
    (tmp_path / "device").mkdir()

    await child.start()
    run = Run(child, issued, planted)
    listener = await run.open(Connect("", username="listener", password=password.encode()))
    await listener.subscribe("#")
    await run.provision()
    await run.provision_over_tls(tmp_path / "device")
    await run.be_refused(limited)
    await run.break_in("listener")
    check_processes(child.pids, planted)
    await child.kill()
    private, raw_keys = keys_of(child.state)
    private += run.private
    assert check_files(tmp_path, planted, private) >= 5

    await child.start()
    again = await run.open(Connect("", username="listener", password=password.encode()))
    await again.subscribe("#")
    await run.ask_again()
    for arguments in COMMANDS:
        status, output = await command(child, *arguments)
        assert status == 0, output
        assert output
        assert not planted.found_in(output), arguments
    await again.until(lambda: b"reprovisioned" in again.raw)
    check_processes(child.pids, planted)
    await child.stop()
    check_files(tmp_path, planted, private)
    for client in (listener, again):
        assert client.messages()
        assert not planted.found_in(bytes(client.raw))
    database = b"".join(path.read_bytes() for path in child.state.glob("mqttprov.db*"))
    log = child.log.read_bytes()
    assert not [key for key in raw_keys if key in database + log]
    assert b"Traceback" not in log
    # The search would have found them: what is public is where it belongs.
    assert issued.key.encode() in database
    assert b"gw-own-basic" in database + listener.raw
    assert child.logs in log
