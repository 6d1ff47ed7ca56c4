"""The WebSocket layer by itself, fed bytes: any cut of a stream is the same stream, and no bytes do harm (P9)."""

import asyncio
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from tests.brokers.test_websockets import handshake
from websockets.frames import Frame, Opcode

from mqttprov.brokers.connection import Connection
from mqttprov.brokers.websocket import MAX_FRAME_BYTES_BEFORE_LOGIN, MAX_HANDSHAKE_BYTES, WebSocket

SLICES = st.lists(st.integers(1, 200), min_size=1, max_size=20)


class Wire(asyncio.Transport):
    """What a WebSocket writes, and whether it closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        """Keep it."""
        assert not self.closed
        self.written += data

    def close(self) -> None:
        """Note it."""
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        """Tell whether it was closed."""
        return self.closed


class Listener:
    """In the place of a `Connection`: keeps the stream that reaches MQTT."""

    principal = None

    def __init__(self) -> None:
        self.stream = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is said to it."""

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.stream += data


def opened() -> tuple[WebSocket, Wire, Listener]:
    """Make a WebSocket before its handshake."""
    wire, listener = Wire(), Listener()
    socket = WebSocket(cast("Connection", listener))
    socket.connection_made(wire)
    return socket, wire, listener


def feed(socket: WebSocket, data: bytes, slices: list[int]) -> None:
    """Feed bytes in slices of these sizes, again and again."""
    place = turn = 0
    while place < len(data):
        size = slices[turn % len(slices)]
        socket.data_received(data[place : place + size])
        place, turn = place + size, turn + 1


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, bytes, int]:
    """Make a stream, the frames that carry it (fragments with pings between them), and the number of pings."""
    stream, frames, pings = b"", b"", 0
    for pieces in draw(st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=4), max_size=6)):
        for place, piece in enumerate(pieces):
            if draw(st.booleans()):
                frames += Frame(Opcode.PING, b"p").serialize(mask=True)
                pings += 1
            opcode = Opcode.CONT if place else Opcode.BINARY
            frames += Frame(opcode, piece, fin=place == len(pieces) - 1).serialize(mask=True)
            stream += piece
    return stream, frames, pings


@given(messages(), SLICES)
def test_any_cut_of_a_stream_is_the_same_stream(made: tuple[bytes, bytes, int], slices: list[int]) -> None:
    """Into frames, fragments and segments, the handshake included; each ping gets its pong."""
    stream, frames, pings = made
    socket, wire, listener = opened()
    feed(socket, handshake() + frames, slices)
    assert listener.stream == stream
    assert wire.written.partition(b"\r\n\r\n")[2] == pings * b"\x8a\x01p"
    assert not wire.closed


@given(st.booleans(), st.lists(st.binary(max_size=600), max_size=10), SLICES)
def test_no_bytes_do_harm(handshaken: bool, pieces: list[bytes], slices: list[int]) -> None:
    """Whatever comes, before or after the handshake: no exception, and after the end nothing is said or passed on."""
    socket, wire, listener = opened()
    if handshaken:
        socket.data_received(handshake())
    for piece in pieces:
        feed(socket, piece, slices)
    if not handshaken:
        assert listener.stream == b""
    if wire.closed:
        before = (wire.written, listener.stream)
        feed(socket, Frame(Opcode.BINARY, b"late").serialize(mask=True), slices)
        assert (wire.written, listener.stream) == before


@given(st.integers(0, 2**63 - 1), st.integers(1000, 60_000))
def test_what_waits_for_its_end_is_bounded(announced: int, chunk: int) -> None:
    """A frame of any announced size, and a handshake without end, hold no more than their limits and one read (P9)."""
    socket, wire, _ = opened()
    socket.data_received(handshake() + b"\x82\xff" + announced.to_bytes(8) + bytes(4))
    held = 0
    for _ in range(3 * MAX_FRAME_BYTES_BEFORE_LOGIN // chunk):
        socket.data_received(bytes(chunk))
        held = max(held, len(socket._frames.reader.buffer))
    assert held <= MAX_FRAME_BYTES_BEFORE_LOGIN + chunk
    socket, wire, _ = opened()
    socket.data_received(b"GET /mqtt HTTP/1.1\r\n")
    for _ in range(2 * MAX_HANDSHAKE_BYTES // chunk + 1):
        socket.data_received(chunk * b"x")
    assert wire.closed
    assert wire.written.startswith(b"HTTP/1.1 431 ")
