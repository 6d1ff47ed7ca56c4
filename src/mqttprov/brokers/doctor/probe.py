"""One MQTT 5 connection by which the doctor looks at a broker. Blocking, and every wait is bounded."""

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Final, Self, TypeVar

import msgspec

from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC
from mqttprov.gateway.one_shot import why_untrusted
from mqttprov.mqtt import (
    ClientEvent,
    ClientSession,
    Connect,
    Connected,
    MessageReceived,
    ProtocolVersion,
    Published,
    ReasonCode,
    Refused,
    SessionStateError,
    Subscribed,
)

TIMEOUT_S: Final = 5.0
PROVISION: Final = "provision"
_REFUSED_FROM: Final = 0x80  # reason codes from here on are refusals (MQTT 5 section 2.4)
_READ_BYTES: Final = 65_536

T = TypeVar("T")


class Address(msgspec.Struct, frozen=True):
    """Where the broker listens, and how to verify it (None: plain MQTT)."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None


class NoBroker(Exception):  # noqa: N818 - it names what is wrong
    """The broker does not do what every broker does; the text says what."""


class LoginRefused(Exception):  # noqa: N818 - it names what happened
    """The broker did not accept a CONNECT."""

    def __init__(self, reason: ReasonCode) -> None:
        super().__init__(reason.name)


class Answer(msgspec.Struct, frozen=True):
    """The reply to one request: after how long it came, and how long after its PUBACK."""

    payload: bytes
    after_s: float
    after_puback_s: float


class Probe:
    """A session."""

    can_delay_ack: Final = hasattr(socket, "TCP_QUICKACK")  # Linux

    def __init__(self, address: Address, *, username: str | None) -> None:
        """Connect and log in. Raises `NoBroker` and `LoginRefused`."""
        self._quick_ack = 1
        self._events: list[tuple[float, ClientEvent]] = []
        self.closed = False
        connect = Connect(f"doctor-{os.urandom(6).hex()}", version=ProtocolVersion.V5, username=username)
        self._session = ClientSession(connect)
        self._socket = _connected(address)
        try:
            self._wait(lambda: bool(self._found(Connected) or self._found(Refused)))
        except BaseException:
            self._socket.close()
            raise
        refused = self._found(Refused)
        if refused:
            self._socket.close()
            raise LoginRefused(refused[0][1].reason_code)
        if not self._session.connected:
            self._socket.close()
            raise NoBroker(f"{address.host}:{address.port} does not answer CONNECT; is it an MQTT broker?")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._session.disconnect()
            self._socket.sendall(self._session.take_output())
        self._socket.close()

    @property
    def tls(self) -> ssl.SSLSocket | None:
        """The TLS side of the connection."""
        return self._socket if isinstance(self._socket, ssl.SSLSocket) else None

    def subscribe(self, filters: Sequence[str]) -> list[str]:
        """Subscribe to each by itself; give those that were granted."""
        granted = []
        for topic_filter in filters:
            if self.closed:
                break
            before = len(self._found(Subscribed))
            self._session.subscribe([(topic_filter, 1)])
            self._wait(lambda: len(self._found(Subscribed)) > before)  # noqa: B023 - used up in this turn
            answers = self._found(Subscribed)[before:]
            if answers and answers[0][1].reason_codes[0] < _REFUSED_FROM:
                granted.append(topic_filter)
        return granted

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 1, and wait for what the broker says to it."""
        with contextlib.suppress(SessionStateError):  # it hung up on us
            packet_id = self._session.publish(topic, payload, 1)
            self._wait(lambda: any(e.packet_id == packet_id for _, e in self._found(Published)))

    def ask(self, payload: bytes) -> Answer | None:
        """Send a provisioning request and wait for its reply; None when there is none."""
        before, begun = len(self._replies()), time.monotonic()
        packet_id = self._session.publish(REQUEST_TOPIC, payload, 1)
        self._wait(lambda: len(self._replies()) > before)
        if len(self._replies()) == before:
            return None
        at, reply = self._replies()[before]
        pubacks = [at for at, event in self._found(Published) if event.packet_id == packet_id]
        return Answer(reply.publish.payload, at - begun, at - pubacks[-1] if pubacks else 0.0)

    def delay_ack(self, delayed: bool) -> None:
        """Let TCP acknowledge late, as it does for devices that have nothing to say, or at once."""
        self._quick_ack = int(not delayed)

    def listen(self, for_s: float) -> list[tuple[str, bytes]]:
        """Listen for a while; give topic and payload of all messages that ever came."""
        self._wait(lambda: self.closed, for_s)
        return [(event.publish.topic, event.publish.payload) for _, event in self._found(MessageReceived)]

    def wait_closed(self, timeout_s: float) -> bool:
        """Wait until the broker has ended the session; tell whether it has."""
        self._wait(lambda: self.closed, timeout_s)
        return self.closed

    def _replies(self) -> list[tuple[float, MessageReceived]]:
        return [(at, event) for at, event in self._found(MessageReceived) if event.publish.topic == RESPONSE_TOPIC]

    def _found(self, kind: type[T]) -> list[tuple[float, T]]:
        return [(at, event) for at, event in self._events if isinstance(event, kind)]

    def _wait(self, done: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
        """Exchange packets until it is done, the broker hangs up, or time is over."""
        deadline_s = time.monotonic() + timeout_s
        try:
            self._socket.sendall(self._session.take_output())
            while not done() and not self.closed and (left_s := deadline_s - time.monotonic()) > 0:
                if self.can_delay_ack:  # the system forgets it again and again
                    self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, self._quick_ack)
                self._socket.settimeout(left_s)
                data = self._socket.recv(_READ_BYTES)
                at = time.monotonic()
                self._events += [(at, event) for event in self._session.receive(data)]
                self.closed = not data or self._session.closed
                self._socket.sendall(self._session.take_output())
        except TimeoutError:
            pass
        except OSError:
            self.closed = True


def _connected(address: Address) -> socket.socket:
    try:
        connection = socket.create_connection((address.host, address.port), timeout=TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.tls is None:
            return connection
        try:
            return address.tls.wrap_socket(connection, server_hostname=address.host)
        except BaseException:
            connection.close()
            raise
    except ssl.SSLCertVerificationError as error:
        raise NoBroker(f"its certificate does not hold: {why_untrusted(error)}") from error
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise NoBroker(f"cannot talk to {address.host}:{address.port}: {why}; is the broker there?") from error
