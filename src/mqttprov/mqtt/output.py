"""Packets that wait to be written. Both sessions use it; what is in them and when to write is not its business."""


class OutputBuffer:
    """Chunks in order, and their size. It holds no list while it is empty: there is one for each idle connection."""

    __slots__ = ("_chunks", "size_bytes")

    def __init__(self) -> None:
        self._chunks: list[bytes] | None = None
        self.size_bytes = 0

    def put(self, packet: bytes) -> None:
        """Append a packet."""
        if self._chunks is None:
            self._chunks = [packet]
        else:
            self._chunks.append(packet)
        self.size_bytes += len(packet)

    def take(self) -> bytes:
        """Return everything as one write, and forget it."""
        chunks = self._chunks
        if chunks is None:
            return b""
        self._chunks = None
        self.size_bytes = 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
