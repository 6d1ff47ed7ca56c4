"""MQTT in WebSockets (MQTT 5 section 6, RFC 6455): frames on the wire, a transport like TCP's for a `Connection`.

What a packet is stays unknown here: frames are joined to a stream, since packets may span them and share them. The
connection's deadlines hold from the accept on, so the HTTP handshake is part of the time to CONNECT.
"""

import asyncio
import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final, cast

from websockets.frames import CloseCode, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from mqttprov.brokers.connection import Connection

PATH: Final = "/mqtt"
SUBPROTOCOL: Final = Subprotocol("mqtt")  # MQTT-6.0.0-3, MQTT-6.0.0-4
MAX_HANDSHAKE_BYTES: Final = 8192
MAX_FRAME_BYTES_BEFORE_LOGIN: Final = 131_072  # twice the largest packet: a frame may hold several
MAX_FRAME_BYTES: Final = 524_288
MAX_UNREAD_CONTROL_BYTES: Final = 65_536  # pongs to a client that sends pings and does not read

_END_OF_HEAD: Final = b"\r\n\r\n"
_METHOD: Final = b"GET "
_silent = logging.getLogger(f"{__name__}.frames")
_silent.disabled = True  # it would write what frames hold: user names and passwords (P6)


class WebSocket(asyncio.Protocol):
    """A WebSocket from accept to close, between a TCP or TLS transport and a `Connection`."""

    __slots__ = ("_congested", "_connection", "_face", "_frames", "_head", "_transport", "_unread_bytes")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        self._face: WebSocketTransport | None = None
        self._frames = ServerProtocol(subprotocols=[SUBPROTOCOL], max_size=None, logger=_silent)
        self._head: bytearray | None = bytearray()  # of the HTTP handshake, None when that is done
        self._congested = False
        self._unread_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the connection begin at once: it counts, and its deadline runs."""
        self._transport = cast("asyncio.Transport", transport)  # as in `Connection`
        self._face = WebSocketTransport(self._transport, self._frames)
        self._connection.connection_made(self._face)

    def data_received(self, data: bytes) -> None:
        """Take one read."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._head is None:
            self._receive(data)
            return
        self._head += data
        end = self._head.find(_END_OF_HEAD)
        size = end + len(_END_OF_HEAD) if end >= 0 else len(self._head)
        if not self._head.startswith(_METHOD[:size]):
            text = f"this is a WebSocket: begin with 'GET {PATH} HTTP/1.1'"
            self._turn_away(self._transport, HTTPStatus.BAD_REQUEST, text)
        elif size > MAX_HANDSHAKE_BYTES:
            text = f"a handshake has at most {MAX_HANDSHAKE_BYTES} bytes"
            self._turn_away(self._transport, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)
        elif end >= 0:
            head, rest = bytes(self._head[:size]), bytes(self._head[size:])
            if self._shake_hands(self._transport, head) and rest:
                self._receive(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the end on."""
        self._transport = self._face = None
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on: what the client does not read waits in the session, where it is bounded (P9)."""
        self._congested = True
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._congested = False
        self._unread_bytes = 0
        self._connection.resume_writing()

    # --- the HTTP handshake ---

    def _shake_hands(self, transport: asyncio.Transport, head: bytes) -> bool:
        """Answer the handshake; tell whether this is a WebSocket now."""
        self._frames.receive_data(head)
        events = self._frames.events_received()
        if not events:
            self._turn_away(transport, HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request that can be read")
            return False
        request = cast("Request", events[0])
        if request.path.partition("?")[0] != PATH:
            self._turn_away(transport, HTTPStatus.NOT_FOUND, f"MQTT is served at the path {PATH}")
            return False
        response = self._frames.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._refuse(transport, response)
            return False
        self._frames.send_response(response)
        transport.writelines(self._frames.data_to_send())
        self._head = None
        return True

    def _turn_away(self, transport: asyncio.Transport, status: HTTPStatus, text: str) -> None:
        self._refuse(transport, self._frames.reject(status, f"{text}\n"))

    def _refuse(self, transport: asyncio.Transport, response: Response) -> None:
        self._head = bytearray()
        transport.write(response.serialize())
        transport.close()

    # --- frames ---

    def _receive(self, data: bytes) -> None:
        frames = self._frames
        frames.receive_data(data)
        stream = []
        for frame in frames.events_received():
            if not isinstance(frame, Request | Response):
                if frame.opcode is Opcode.BINARY or frame.opcode is Opcode.CONT:
                    stream.append(frame.data)
                elif frame.opcode is Opcode.TEXT:  # MQTT-6.0.0-1
                    frames.fail(CloseCode.UNSUPPORTED_DATA, "MQTT comes in binary frames only")
                    break
        if stream:
            self._connection.data_received(b"".join(stream))
        limit = MAX_FRAME_BYTES_BEFORE_LOGIN if self._connection.principal is None else MAX_FRAME_BYTES
        if len(frames.reader.buffer) > limit and frames.state is State.OPEN:
            frames.fail(CloseCode.MESSAGE_TOO_BIG, f"a frame has at most {limit} bytes")
        if self._face is not None:
            self._answer(self._face)

    def _answer(self, face: "WebSocketTransport") -> None:
        """Send what the frames of the client ask for: pongs, the other half of a close."""
        sent_bytes = face.push()
        if self._congested:
            self._unread_bytes += sent_bytes
            if self._unread_bytes > MAX_UNREAD_CONTROL_BYTES:
                face.abort()


class WebSocketTransport(asyncio.Transport):
    """What a `Connection` writes to: each write becomes one binary frame.

    `close` says goodbye as RFC 6455 wants it and waits for the client's answer. Until then there is something in the
    write buffer for whoever asks, so that the connection's own deadline ends the wait.
    """

    __slots__ = ("_closing", "_frames", "_transport")

    def __init__(self, transport: asyncio.Transport, frames: ServerProtocol) -> None:
        super().__init__()
        self._transport = transport
        self._frames = frames
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Ask the transport below: peer, TLS."""
        return self._transport.get_extra_info(name, default)

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        """Send bytes; after the closing handshake began they can only be dropped."""
        if self._frames.state is State.OPEN:
            self._frames.send_binary(bytes(data))
            self.push()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Send bytes in one frame."""
        self.write(b"".join(list_of_data))

    def push(self) -> int:
        """Write the frames that are ready; give their size."""
        size_bytes = 0
        for chunk in self._frames.data_to_send():
            if chunk:
                size_bytes += len(chunk)
                self._transport.write(chunk)
            else:  # this is how `websockets` says that the TCP connection is to be closed
                self._transport.close()
        return size_bytes

    def close(self) -> None:
        """Begin the closing handshake; what was written before it is still sent."""
        if self._closing:
            return
        self._closing = True
        if self._frames.state is State.OPEN:
            self._frames.send_close(CloseCode.NORMAL_CLOSURE)
            self.push()
            if not self._transport.is_reading():
                self._transport.resume_reading()  # the client's answer
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        """Tell whether the end has begun."""
        return self._closing or self._transport.is_closing()

    def abort(self) -> None:
        """Cut the connection off."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """Leave what the client sends in the kernel."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        self._transport.resume_reading()

    def is_reading(self) -> bool:
        """Tell whether reads go on."""
        return self._transport.is_reading()

    def get_write_buffer_size(self) -> int:
        """Give how many bytes wait; at least one while the client's half of the closing handshake is awaited."""
        awaited = self._closing and not self._transport.is_closing()
        return self._transport.get_write_buffer_size() or int(awaited)
