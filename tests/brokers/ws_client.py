"""A WebSocket client that sends what a test says and keeps what it gets, to the frame. No test lives here."""

import asyncio
import ssl
from typing import Self

from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

TIMEOUT_S = 30.0


class WsClient:
    """One WebSocket over asyncio streams. `data` is what came in binary frames, joined."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: ClientProtocol) -> None:
        self.reader = reader
        self.writer = writer
        self.frames = frames
        self.seen: list[Frame] = []
        self.data = b""

    @classmethod
    async def open(
        cls,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        path: str = "/mqtt",
        subprotocols: tuple[str, ...] = ("mqtt",),
    ) -> tuple[Self, Response]:
        """Open a connection and shake hands; give the client and the server's answer."""
        uri = parse_uri(f"{'wss' if tls else 'ws'}://127.0.0.1:{port}{path}")
        frames = ClientProtocol(uri, subprotocols=[Subprotocol(name) for name in subprotocols], max_size=None)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        client = cls(reader, writer, frames)
        frames.send_request(frames.connect())
        client.push()
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                for event in frames.events_received():
                    if isinstance(event, Response):
                        return client, event
                await client.read()

    def push(self) -> None:
        """Write what the protocol has to write."""
        for chunk in self.frames.data_to_send():
            if chunk:
                self.writer.write(chunk)

    def send(self, *pieces: bytes) -> None:
        """Send each as a binary frame of its own."""
        for piece in pieces:
            self.frames.send_binary(piece)
        self.push()

    async def read(self) -> bool:
        """Take one read; False at the end."""
        data = await self.reader.read(65_536)
        if data:
            self.frames.receive_data(data)
        else:
            self.frames.receive_eof()
        self.push()
        return bool(data)

    async def get(self, size: int) -> bytes:
        """Wait until so many bytes of MQTT have come since the last call; give all."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.data) < size:
                more = await self.read()
                self.collect()
                assert more or len(self.data) >= size, f"closed after {self.data!r}"
        data, self.data = self.data, b""
        return data

    async def until(self, opcode: Opcode) -> Frame:
        """Wait for a frame of this kind."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                self.collect()
                for frame in self.seen:
                    if frame.opcode is opcode:
                        self.seen.remove(frame)
                        return frame
                assert await self.read(), "closed"

    async def close_code(self) -> int:
        """Wait for the server's Close; give its code."""
        return Close.parse(bytes((await self.until(Opcode.CLOSE)).data)).code

    def collect(self) -> None:
        """Sort out what has come."""
        for event in self.frames.events_received():
            if isinstance(event, Frame):
                self.seen.append(event)
                if event.opcode in {Opcode.BINARY, Opcode.CONT}:
                    self.data += event.data

    async def closed(self) -> None:
        """Wait for the end of the TCP connection."""
        async with asyncio.timeout(TIMEOUT_S):
            while await self.read():
                self.collect()
        self.writer.close()

    def abort(self) -> None:
        """Cut it off."""
        self.writer.transport.abort()
