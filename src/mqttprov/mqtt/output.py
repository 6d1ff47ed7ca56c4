"""Packets that wait to be written. Both sessions use it; what is in them and when to write is not its business."""


class OutputBuffer:
    """Chunks in order, and their size."""

    __slots__ = ("_chunks", "size_bytes")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self.size_bytes = 0

    def put(self, packet: bytes) -> None:
        """Append a packet."""
        self._chunks.append(packet)
        self.size_bytes += len(packet)

    def take(self) -> bytes:
        """Return everything as one write, and forget it."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.size_bytes = 0
        return data
