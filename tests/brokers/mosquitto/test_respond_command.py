"""`mqttprov respond` as an operator meets it: settings, TLS, and one clear line for everything that is wrong."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.brokers.harness import Client, ask, new_state, request_bytes
from tests.brokers.mosquitto.beside import Mosquitto, Respond

from mqttprov.brokers.broker_link import parse_url
from mqttprov.brokers.responder_run import now_ms
from mqttprov.brokers.tls import make_server_certificate
from mqttprov.mqtt import Connect
from mqttprov.responder.administration import IssuedToken
from mqttprov.responder.state_directory import StateDirectory


@pytest.fixture
def issued(tmp_path: Path) -> IssuedToken:
    """Make a state directory."""
    return new_state(tmp_path / "state")


Made = Callable[..., tuple[Mosquitto, Respond]]


@pytest.fixture
async def pair(tmp_path: Path, plugin: Path, issued: IssuedToken) -> AsyncIterator[Made]:
    """Give a function that makes a broker and a responder, neither of them started."""
    made: list[Mosquitto | Respond] = []

    def make(*, gate: bool = True, tls: tuple[Path, Path] | None = None) -> tuple[Mosquitto, Respond]:
        broker = Mosquitto(tmp_path, tmp_path / "state", plugin if gate else None, tls=tls)
        respond = Respond(tmp_path, tmp_path / "state", broker)
        made.extend((respond, broker))
        return broker, respond

    yield make
    for process in made:
        if process.is_started:
            await process.end()


async def test_a_broker_that_is_not_there_yet_is_waited_for(pair: Made) -> None:
    """It says once that it cannot reach it, and connects when it comes."""
    broker, respond = pair()
    await respond.begin()
    async with asyncio.timeout(20):
        while "cannot reach" not in respond.log.read_text():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.05)
    await asyncio.sleep(1)  # for more attempts
    await broker.start()
    assert await respond.connected() == f"mqtt://127.0.0.1:{broker.port}"
    assert respond.log.read_text().count("cannot reach") == 1
    assert await respond.end() == 0
    assert "Traceback" not in respond.log.read_text()


@pytest.mark.parametrize(
    ("gate", "password", "text"),
    [
        (True, "wrong", "refuses the responder's login"),
        (False, "any", "the gate plugin is not loaded"),
    ],
)
async def test_a_broker_that_refuses_us_is_told_in_one_line(pair: Made, gate: bool, password: str, text: str) -> None:
    """A wrong password and a broker without gate end the command with status 6."""
    broker, respond = pair(gate=gate)
    await broker.start()
    broker.password_file.write_text(password)
    await respond.begin()
    assert await respond.end(0) == 6
    log = respond.log.read_text()
    assert text in log
    assert (log.count("\n"), "Traceback" in log) == (1, False)


async def test_the_settings_file_names_everything_over_tls(tmp_path: Path, issued: IssuedToken, pair: Made) -> None:
    """Paths in it are relative to it; the broker's certificate is verified by our authority."""
    state = StateDirectory(tmp_path / "state")
    files = make_server_certificate(state.authority, "127.0.0.1", tmp_path / "state", now_ms())
    state.close()
    broker, respond = pair(tls=files)
    config = tmp_path / "responder.toml"
    config.write_text(
        f'broker = "mqtts://127.0.0.1:{broker.tls_port}"\npassword_file = "responder-password"\nstate = "state"\n'
    )
    context = ssl.create_default_context(cafile=str(tmp_path / "state" / "authority.pem"))
    await broker.start()
    await respond.begin("--config", str(config))
    assert (await respond.connected()).startswith("mqtts://")
    client = await Client.open(broker.tls_port, Connect("", username="provision"), tls=context)
    reply = await ask(client, request_bytes(issued, "gw-1"))
    client.abort()
    assert reply["status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("content", "mode", "options", "status", "text"),
    [
        ("", 0o600, ("--broker", "mqtt://127.0.0.1:1"), 2, "give --broker and --password-file"),
        ("", 0o600, ("--broker", "http://x", "--password-file", "p"), 2, "names no broker"),
        ("secret", 0o644, ("--broker", "mqtt://x", "--password-file", "p"), 2, "chmod 600"),
        ("\n", 0o600, ("--broker", "mqtt://x", "--password-file", "p"), 2, "in one line"),
        ("brokr = 'x'", 0o600, ("--config", "p"), 2, "known are: broker, password_file, state"),
        ("secret", 0o600, ("--broker", "mqtt://x", "--password-file", "p", "--state", "q"), 6, "mqttprov init"),
    ],
)
async def test_what_it_cannot_use_is_told_in_one_line(
    tmp_path: Path, pair: Made, content: str, mode: int, options: tuple[str, ...], status: int, text: str
) -> None:
    """Options, files and the state directory that are wrong or missing."""
    (tmp_path / "p").write_text(content)
    (tmp_path / "p").chmod(mode)
    _, respond = pair()
    await respond.begin(*(str(tmp_path / word) if word in {"p", "q"} else word for word in options))
    assert await respond.end(0) == status
    log = respond.log.read_text()
    assert text in log
    assert log.count("\n") == 1


@pytest.mark.parametrize("url", ["", "mqtt://", "host:1883", "mqtt://user:secret@host", "mqtt://host/x", "ws://host:1"])
def test_urls_that_name_no_broker_are_refused(url: str) -> None:
    """Also those with a password in them: it would be seen in the list of processes (P6)."""
    with pytest.raises(ValueError, match="names no broker"):
        parse_url(url)


def test_urls_have_the_usual_ports() -> None:
    """1883 for plain MQTT, 8883 for TLS; IPv6 addresses stand in brackets."""
    assert parse_url("mqtt://host").url == "mqtt://host:1883"
    assert parse_url("mqtts://[::1]").url == "mqtts://[::1]:8883"
