"""Clients that do at random what clients can do, and a responder that answers so that a stray reply is noticed.

Everything follows from a seed but the moments at which the broker gets to see it. No test lives here.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

from tests.brokers.harness import Client
from tests.brokers.mosquitto.beside import PASSWORD

from mqttprov.brokers.gate_desk import SHARED_FILTERS
from mqttprov.brokers.gate_link import CONTROL_TOPIC
from mqttprov.core.credentials import RESPONDER_LOGIN
from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC
from mqttprov.mqtt import (
    Connect,
    Disconnect,
    MessageReceived,
    Packet,
    Pingreq,
    Properties,
    ProtocolVersion,
    Puback,
    Publish,
    Pubrel,
    SessionStateError,
    Subscribe,
    Subscription,
    Unsubscribe,
    Will,
    encode,
)

CANARY: Final = b"canary:"
ASK: Final = b"ask:"
TOPICS: Final = (
    REQUEST_TOPIC, RESPONSE_TOPIC, CONTROL_TOPIC, "$CONTROL/dynamic-security/v1", "_prov/request/00", "_prov/called/1",
    "v1/devices/me/telemetry", "v1/devices/me/rpc/request/1", "v1/devices/me/rpc/response/1", "v1/gateway/connect",
    "v1/devices/gw-1/rpc/request/1", "v1/devices/gw-2/attributes", "v1/devices//x", "v1/devices/me/", "gw-1/data",
    "gw-2/data", "provision/audit/x", "$SYS/broker/uptime", "v1/devices/me/" + "x/" * 90, "v1/gateway/" + "y" * 65_500,
)  # fmt: skip
FILTERS: Final = (
    *TOPICS, "#", "+/+", "/#", "_prov/#", "$share/prov/_prov/#", "$share/g/#", f"$share/g{RESPONSE_TOPIC}",
    "$CONTROL/#", "v1/devices/me/#", "v1/devices/me/rpc/request/+", "v1/gateway/#", "v1/devices/+/#", "gw-1/#",
)  # fmt: skip
CLIENT_IDS: Final = ("", "provision", "a", "b", "c", "a/b+#%", "é" * 200, "x" * 3000, "_responder", "d:gw-1")
VERBS: Final = ("reply", "send", "kick", "end", "call", "recorded", "nonsense", "", "reply reply", "%s%n")


class Fuzzer:
    """Clients of all kinds against one broker. `logins` are user names and passwords that are let in."""

    def __init__(self, port: int, logins: list[tuple[str, str | None]], seed: int) -> None:
        self._port = port
        self._logins = logins
        self._random = random.Random(seed)  # noqa: S311 - to be repeated
        self._requests = 0
        self._handles: list[str] = []
        self.answered = 0
        self.strays: list[bytes] = []

    # --- what may be said ---

    def _noise(self, most: int) -> bytes:
        return self._random.randbytes(self._random.randrange(most))

    def _text(self) -> str:
        return self._noise(30).decode("latin-1").replace("\0", " ")

    def _properties(self) -> Properties:
        pick = self._random.random
        return Properties(
            message_expiry_interval_s=self._random.randrange(3) if pick() < 0.3 else None,
            content_type=self._text() if pick() < 0.3 else None,
            response_topic="x/y" if pick() < 0.3 else None,
            correlation_data=self._noise(40) if pick() < 0.3 else None,
            user_properties=tuple((self._text(), self._text()) for _ in range(self._random.randrange(4))),
        )

    def connect(self, version: ProtocolVersion) -> Connect:
        """Make a CONNECT that may or may not be let in."""
        rng = self._random
        username, password = rng.choice(
            [*self._logins, ("provision", None), ("provision", "x"), (self._text(), None), (self._text(), self._text()),
             (None, None), (RESPONDER_LOGIN, "wrong"), ("d:gw-1", None), ("p" * 4000, "q" * 4000)]
        )  # fmt: skip
        v5 = version is ProtocolVersion.V5
        will = None
        if rng.random() < 0.4:
            properties = self._properties() if v5 else Properties()
            will = Will(rng.choice(TOPICS), ASK + self._noise(60), rng.randrange(3), rng.random() < 0.5, properties)
        clean = rng.random() < 0.6 or (not v5 and username == "")
        client_id = rng.choice(CLIENT_IDS)
        return Connect(
            client_id if clean or v5 else client_id or "z",
            version=version,
            clean_start=clean,
            username=username,
            password=None if password is None else password.encode(),
            will=will,
            keep_alive_s=rng.choice((0, 1, 60)),
            properties=Properties(session_expiry_interval_s=rng.choice((0, 1, 2, 100))) if v5 else Properties(),
        )

    def _packet(self, version: ProtocolVersion) -> Packet:
        rng, topic = self._random, self._random.choice(TOPICS)
        v5 = version is ProtocolVersion.V5
        match rng.randrange(9):
            case 0 | 1 | 2:
                qos = rng.randrange(3)
                properties = self._properties() if v5 else Properties()
                return Publish(topic, self._noise(rng.choice((1, 100, 20_000))), qos=qos, retain=rng.random() < 0.2,
                               packet_id=rng.randrange(1, 9) if qos else None, properties=properties)  # fmt: skip
            case 3 | 4:
                chosen = rng.sample(FILTERS, rng.randrange(1, 6))
                return Subscribe(rng.randrange(1, 9), tuple(Subscription(f, rng.randrange(3)) for f in chosen))
            case 5:
                return Unsubscribe(rng.randrange(1, 9), (rng.choice(FILTERS),))
            case 6:
                return Puback(rng.randrange(1, 9))
            case 7:
                return Pubrel(rng.randrange(1, 9))
            case _:
                return Pingreq()

    def _bytes(self, version: ProtocolVersion) -> bytes:
        """Give some packets; now and then not quite."""
        rng = self._random
        data = bytearray(b"".join(encode(self._packet(version), version) for _ in range(rng.randrange(1, 5))))
        if rng.random() < 0.15:
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.05:
            data += self._noise(200)
        return bytes(data)

    # --- clients ---

    async def stranger(self) -> None:
        """Be anybody, ask for anything, and get no reply that is for others, nor what is the gate's own."""
        rng = self._random
        version = rng.choice((ProtocolVersion.V311, ProtocolVersion.V5))
        connect = self.connect(version)
        client = await Client.open(self._port, None)
        first = encode(connect, version)
        client.send(first if rng.random() < 0.95 else self._noise(300))
        for _ in range(rng.randrange(8)):
            if client.gone:
                break
            client.send(self._bytes(version))
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() * 0.02)
        if rng.random() < 0.3 and not client.gone:
            client.send(encode(Disconnect(), version))
        await asyncio.sleep(rng.random() * 0.05)
        client.abort()
        for forbidden in (CANARY, b"_prov/request/", b"_prov/first", b"$CONTROL"):
            if forbidden in client.raw:
                self.strays.append(bytes(client.raw))

    async def requester(self) -> None:
        """Ask as a gateway does, perhaps without waiting; get the own reply or none."""
        rng = self._random
        self._requests += 1
        number = b"%d;" % self._requests
        by_id = rng.random() < 0.3
        version = rng.choice((ProtocolVersion.V311, ProtocolVersion.V5))
        connect = Connect(
            "provision" if by_id else rng.choice(("", "same", "a")),
            version=version,
            username=None if by_id else "provision",
        )
        client = await Client.open(self._port, connect)
        with contextlib.suppress(TimeoutError, ConnectionError, SessionStateError):
            async with asyncio.timeout(2):
                if await client.connack() == 0:
                    client.publish_nowait(REQUEST_TOPIC, ASK + number, rng.randrange(2))
                    if rng.random() < 0.7:
                        self.answered += (await client.message()).payload == CANARY + number
        client.abort()
        if client.raw.count(CANARY) > client.raw.count(CANARY + number):
            self.strays.append(bytes(client.raw))

    # --- the responder ---

    def _command(self) -> bytes:
        rng = self._random
        known = rng.choice(self._handles or ["0" * 16])
        number = rng.choice((known, 0, 1, -1, 2**70, "x", "f" * 400))
        principals = (f"p:{known}", f"d:gw-{rng.randrange(1, 4)}", "r:responder", "o:operator-1", "d:", self._text())
        subject = rng.choice((*principals, "f" * 4000, rng.choice(TOPICS)))
        line = f"{rng.choice(VERBS)} {number} {rng.choice((0, 1, 5, -1, 2**70, 'x'))} {subject}"
        # What it says to somebody at random must not look like a reply.
        return line.encode() + rng.choice((b"\n", b"", b"\0")) + self._noise(40).replace(b":", b"")

    async def respond(self, stopped: Callable[[], bool]) -> None:
        """Answer each request with its own number, late or never, and say nonsense in between."""
        rng = self._random
        while not stopped():
            connect = Connect(
                f"{RESPONDER_LOGIN}-{rng.randrange(4)}",
                version=ProtocolVersion.V5,
                username=RESPONDER_LOGIN,
                password=PASSWORD.encode(),
            )
            client = await Client.open(self._port, connect)
            with contextlib.suppress(TimeoutError, ConnectionError, SessionStateError):
                await client.connack()
                await client.subscribe(*SHARED_FILTERS)
                until_s = asyncio.get_running_loop().time() + rng.uniform(0.5, 2.5)
                while not stopped() and not client.gone and asyncio.get_running_loop().time() < until_s:
                    self._answer(client)
                    if rng.random() < 0.3:
                        client.publish_nowait(CONTROL_TOPIC, self._command(), 1)
                    await asyncio.sleep(0.005)
            client.abort()

    def _answer(self, client: Client) -> None:
        events, client.events = client.events, []
        for publish in (e.publish for e in events if isinstance(e, MessageReceived)):
            kind, _, handle = publish.topic.removeprefix("_prov/").partition("/")
            if kind not in {"request", "ask", "listens"}:
                continue
            self._handles = [*self._handles[-50:], handle]
            if kind == "request" and publish.payload.startswith(ASK):
                number = publish.payload.removeprefix(ASK).partition(b";")
                reply = CANARY + number[0] + number[1]
                client.publish_nowait(CONTROL_TOPIC, b"reply 0 %d p:%b\n%b" % (len(reply), handle.encode(), reply), 1)
            elif kind == "request":
                client.publish_nowait(CONTROL_TOPIC, b"reply 0 5 p:%b\nnoise" % handle.encode(), 1)

    # --- all of them ---

    async def run(self, seconds: float, reload: Callable[[], None]) -> None:
        """Let them loose for so long, at most forty at a time; `reload` makes the broker read its files again."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + seconds
        places = asyncio.Semaphore(40)

        async def one() -> None:
            try:
                await (self.stranger() if self._random.random() < 0.7 else self.requester())
            finally:
                places.release()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(self.respond(lambda: loop.time() > end_s))
            while loop.time() < end_s:
                await places.acquire()
                tasks.create_task(one())
                if self._random.random() < 0.01:
                    reload()
