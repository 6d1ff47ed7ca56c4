"""Two joined nodes of Debian's RabbitMQ that ask `mqttprov http-auth`: real brokers and the real command."""

import asyncio
import contextlib
import json
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.brokers.harness import Client, new_state, request_bytes
from tests.brokers.http_auth.rabbitmq_nodes import cluster, installed
from tests.cli.command import mqttprov, start
from tests.ports import free_port

from mqttprov.gateway.actions import StateChanged
from mqttprov.gateway.client import GatewayClient
from mqttprov.gateway.one_shot import request_once
from mqttprov.gateway.settings import GatewaySettings, SecretText
from mqttprov.mqtt import Connect, Publish, ReasonCode
from mqttprov.responder.administration import IssuedToken

pytestmark = pytest.mark.timeout(300)
GATEWAY_TIMEOUT_S = 30.0


class Nodes(NamedTuple):
    """Where the nodes take devices, and the state that they ask about."""

    one: int
    two: int
    state: Path
    token: IssuedToken


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Run `http-auth` and two joined nodes, for all tests of this module."""
    if installed() is None or shutil.which("epmd") is None:
        reason = "rabbitmq-server is not installed; run as root: apt-get install rabbitmq-server"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("rabbitmq")
    state = folder / "state"
    token = new_state(state)
    listen, one, two = (free_port() for _ in range(3))
    options = ["--listen", f"127.0.0.1:{listen}", "--broker", f"mqtt://127.0.0.1:{one}", "--json"]
    with start("http-auth", "--state", str(state), *options) as http_auth:
        assert http_auth.stdout is not None
        assert http_auth.stderr is not None
        told = json.loads(http_auth.stdout.readline())
        threading.Thread(target=http_auth.stderr.read, daemon=True).start()  # so that it never waits for a reader
        secret = Path(told["secretFile"]).read_text().strip()
        with cluster(folder, f"{told['listening']}/{secret}/rabbitmq", (one, two)):
            assert json.loads(http_auth.stdout.readline()) == {"connected": f"mqtt://127.0.0.1:{one}"}
            yield Nodes(one, two, state, token)
        http_auth.terminate()
        assert http_auth.wait(30) == 0


def provision(nodes: Nodes, name: str, port: int | None = None) -> dict[str, Any]:
    """Provision a device as `mqttprov request --own-topics` does; give the reply."""
    payload = request_bytes(nodes.token, name)
    reply = request_once(
        payload, host="127.0.0.1", port=port or nodes.one, tls=None, timeout_s=20, own_topics=True
    )  # fmt: skip
    return json.loads(reply)  # type: ignore[no-any-return] # an object


def connect(username: str, client_id: str, password: str = "") -> Connect:
    """Give a CONNECT with a password, without which RabbitMQ asks nobody."""
    return Connect(client_id, username=username, password=password.encode())


Open = Callable[..., Any]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Open clients that are gone after the test."""
    clients: list[Client] = []

    async def open_client(port: int, packet: Connect) -> Client:
        client = await Client.open(port, packet)
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        client.abort()


async def device(nodes: Nodes, opened: Open, name: str, port: int | None = None) -> Client:
    """Provision a device and log it in."""
    reply = provision(nodes, name)
    assert reply["status"] == "SUCCESS", reply
    client: Client = await opened(port or nodes.two, connect(reply["credentialsValue"], f"id-of-{name}"))
    assert await client.connack() == ReasonCode.SUCCESS
    return client


async def refusal(opened: Open, port: int, packet: Connect) -> ReasonCode:
    """Try to log in; give the reason."""
    client = await opened(port, packet)
    return await client.connack()  # type: ignore[no-any-return] # `opened` is untyped


async def operator(nodes: Nodes, opened: Open) -> Client:
    """Make an operator and log in."""
    name = f"op-{os.urandom(3).hex()}"
    made = mqttprov("operator", "create", name, "--state", str(nodes.state), "--json")
    client: Client = await opened(nodes.one, connect(name, f"{name}-desk", made.data["password"]))
    assert await client.connack() == ReasonCode.SUCCESS
    return client


async def denied(client: Client, *filters: str) -> bool:
    """Subscribe; tell whether RabbitMQ refused, which it may do by hanging up."""
    try:
        return all(code >= 0x80 for code in await client.subscribe(*filters))
    except ConnectionError:
        return True


async def delivered(sender: Client, receiver: Client, topic: str, payload: bytes) -> Publish:
    """Publish until a message comes: a node learns of subscriptions on the other one a moment after their SUBACK."""
    for _ in range(30):
        await sender.publish(topic, payload)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                return await receiver.message()
    pytest.fail(f"what was published to {topic} 30 times reached nobody")


async def test_a_device_provisions_on_one_node_and_works_on_the_other(nodes: Nodes, opened: Open) -> None:
    """The first login is recorded, telemetry reaches an operator on the other node under the device's name."""
    watcher = await operator(nodes, opened)
    assert await watcher.subscribe("v1/devices/+/telemetry") == (1,)
    client = await device(nodes, opened, "rabbit-1")
    shown = mqttprov("device", "show", "rabbit-1", "--state", str(nodes.state), "--json").data
    assert shown["state"] == "active"
    message = await delivered(client, watcher, "v1/devices/rabbit-1/telemetry", b'{"t":1}')
    assert (message.topic, message.payload) == ("v1/devices/rabbit-1/telemetry", b'{"t":1}')
    assert await client.subscribe("v1/devices/rabbit-1/rpc/request/+") == (1,)
    request = await delivered(watcher, client, "v1/devices/rabbit-1/rpc/request/7", b"{}")
    assert request.topic == "v1/devices/rabbit-1/rpc/request/7"


async def test_a_repeated_request_gets_the_same_answer(nodes: Nodes) -> None:
    """Whichever node it is asked on (P4)."""
    first, second = provision(nodes, "rabbit-again"), provision(nodes, "rabbit-again", nodes.two)
    assert first["credentialsValue"] == second["credentialsValue"]


@pytest.mark.parametrize(
    "topic_filter",
    [
        "#",
        "provision/#",
        "provision/response/+",
        "provision/response/#",
        "provision/response/*",
        "/provision/response",
        "provision.response.*",
        "+/response/+",
        "provision/request/+",
        "provision/audit/#",
        "$share/g/provision/response/+",
    ],
)
async def test_nobody_listens_to_the_replies_of_others(nodes: Nodes, opened: Open, topic_filter: str) -> None:
    """Not provisioning sessions, not devices, not operators; and all that they receive is their own (P3)."""
    guest = await opened(nodes.one, connect("provision", f"eavesdropper-{os.urandom(12).hex()}"))
    assert await guest.connack() == ReasonCode.SUCCESS
    assert await denied(guest, topic_filter)
    spy = await device(nodes, opened, "rabbit-spy", nodes.one)
    assert await denied(spy, topic_filter)
    if "audit" not in topic_filter:
        assert await denied(await operator(nodes, opened), topic_filter)
    secret = provision(nodes, f"rabbit-{os.urandom(4).hex()}")["credentialsValue"]
    assert secret.encode() not in bytes(guest.raw + spy.raw)


@pytest.mark.parametrize("client_id", ["provision", "gw-1", "a" * 21, "with.dots.that.are.slashes.elsewhere"])
async def test_a_provisioning_session_needs_a_client_id_that_nobody_guesses(
    nodes: Nodes, opened: Open, client_id: str
) -> None:
    """Whoever knows it could take the session over, and with it the reply (P3)."""
    assert await refusal(opened, nodes.one, connect("provision", client_id)) != ReasonCode.SUCCESS


async def test_a_device_keeps_to_its_own_topics(nodes: Nodes, opened: Open) -> None:
    """RabbitMQ takes '.' for '/' and '*' for '+': neither opens another's topics."""
    foreign = [
        "v1/devices/rabbit-b/telemetry",
        "v1.devices.rabbit-b.telemetry",
        "v1/devices/*/telemetry",
        "v1/devices/+/telemetry",
        "v1/*/rabbit-b/telemetry",
        "v1/devices/me/rpc/request/+",
    ]
    for topic_filter in foreign:
        client = await device(nodes, opened, "rabbit-a")
        assert await denied(client, topic_filter), topic_filter
        client.abort()
    client = await device(nodes, opened, "rabbit-a")
    client.publish_nowait("v1/devices/rabbit-b/telemetry", b"{}", 1)
    await client.wait_closed()


async def test_a_name_with_a_dot_is_refused(nodes: Nodes, opened: Open) -> None:
    """Its topics would be those of the device whose name is the part before the dot, too."""
    reply = provision(nodes, "rabbit.dotted")
    assert await refusal(opened, nodes.one, connect(reply["credentialsValue"], "dotted")) != ReasonCode.SUCCESS


async def test_a_suspended_device_is_thrown_out_and_refused(nodes: Nodes, opened: Open) -> None:
    """When the command returns, its session has ended on whichever node; resumed it comes back (P7)."""
    token = provision(nodes, "rabbit-out")["credentialsValue"]
    client = await opened(nodes.two, connect(token, "id-of-rabbit-out"))
    assert await client.connack() == ReasonCode.SUCCESS
    assert mqttprov("device", "suspend", "rabbit-out", "--state", str(nodes.state)).status == 0
    await client.wait_closed()
    for port in (nodes.one, nodes.two):
        assert await refusal(opened, port, connect(token, "id-of-rabbit-out")) != ReasonCode.SUCCESS
    assert mqttprov("device", "resume", "rabbit-out", "--state", str(nodes.state)).status == 0
    packet = connect(token, "id-of-rabbit-out-again")
    assert await refusal(opened, nodes.one, packet) == ReasonCode.SUCCESS


async def test_a_device_is_not_let_in_under_the_client_id_of_another(nodes: Nodes, opened: Open) -> None:
    """It would end that one's session and be handed its messages."""
    victim = await device(nodes, opened, "rabbit-victim", nodes.one)
    intruder = provision(nodes, "rabbit-intruder")["credentialsValue"]
    assert await refusal(opened, nodes.two, connect(intruder, "id-of-rabbit-victim")) != ReasonCode.SUCCESS
    assert await refusal(opened, nodes.two, connect("provision", "id-of-rabbit-victim")) != ReasonCode.SUCCESS
    await victim.ping()


async def test_who_is_unknown_is_refused(nodes: Nodes, opened: Open) -> None:
    """Strangers, and those who would be the responder."""
    for username in ("stranger", "_responder", ""):
        assert await refusal(opened, nodes.one, connect(username, "some-client", "guess")) != ReasonCode.SUCCESS


async def test_audit_events_are_published(nodes: Nodes, opened: Open) -> None:
    """Operators follow on the broker what happens (P5)."""
    watcher = await operator(nodes, opened)
    assert await watcher.subscribe("provision/audit/provisioned") == (1,)
    provision(nodes, "rabbit-told")
    while "rabbit-told" not in (await watcher.message()).payload.decode():
        pass


async def test_our_gateway_lives_on_its_own_topics(nodes: Nodes, opened: Open, tmp_path: Path) -> None:
    """It provisions, logs in, answers a call under its name and comes back after its session was ended (P10)."""
    online = threading.Event()

    def on_state(change: StateChanged) -> None:
        if change.new == "online":
            online.set()

    settings = GatewaySettings(
        host="127.0.0.1",
        port=nodes.two,
        directory=tmp_path,
        provision_key=nodes.token.key,
        provision_secret=SecretText(nodes.token.secret),
        device_name="rabbit-gw",
        own_topics=True,
    )
    gateway = GatewayClient(settings, on_state=on_state)
    thread = threading.Thread(target=gateway.run)
    thread.start()
    try:
        assert online.wait(GATEWAY_TIMEOUT_S)
        desk = await operator(nodes, opened)
        assert await desk.subscribe("v1/devices/rabbit-gw/rpc/response/+") == (1,)
        # Its state says "online" once it is let in, before its own subscriptions are granted.
        answer = await delivered(desk, desk, "v1/devices/rabbit-gw/rpc/request/5", b'{"method":"gateway_ping"}')
        assert answer.topic == "v1/devices/rabbit-gw/rpc/response/5"
        assert json.loads(answer.payload) == {"code": 200, "resp": "pong"}
        online.clear()
        for verb in ("suspend", "resume"):
            assert mqttprov("device", verb, "rabbit-gw", "--state", str(nodes.state)).status == 0
        assert online.wait(GATEWAY_TIMEOUT_S)
    finally:
        gateway.stop()
        thread.join(GATEWAY_TIMEOUT_S)
