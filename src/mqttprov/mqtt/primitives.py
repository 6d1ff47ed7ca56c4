"""The data types of MQTT (section 1.5): bytes <-> integers, texts and binary data. No packets.

Readers take `(data, pos, stop)` and return `(value, next position)`. They never look past `stop`, the packet's end.
"""

from mqttprov.mqtt.errors import malformed

MAX_REMAINING_LENGTH = 268_435_455
MAX_TEXT_BYTES = 65_535


def read_u16(data: bytes, pos: int, stop: int) -> tuple[int, int]:
    """Read a two byte integer."""
    after = pos + 2
    if after > stop:
        raise malformed("packet ends inside a two byte integer")
    return data[pos] << 8 | data[pos + 1], after


def read_u32(data: bytes, pos: int, stop: int) -> tuple[int, int]:
    """Read a four byte integer."""
    after = pos + 4
    if after > stop:
        raise malformed("packet ends inside a four byte integer")
    return int.from_bytes(data[pos:after], "big"), after


def read_binary(data: bytes, pos: int, stop: int) -> tuple[bytes, int]:
    """Read binary data with its two byte length."""
    start = pos + 2
    if start > stop:
        raise malformed("packet ends inside the length of a field")
    after = start + (data[pos] << 8 | data[pos + 1])
    if after > stop:
        raise malformed("a field is longer than its packet")
    return data[start:after], after


def read_text(data: bytes, pos: int, stop: int) -> tuple[str, int]:
    """Read an UTF-8 string. UnicodeDecodeError if it is none; the decoder turns that into a malformed packet."""
    raw, after = read_binary(data, pos, stop)
    if 0 in raw:
        raise malformed("a text contains U+0000")
    return raw.decode(), after


def read_varint(data: bytes, pos: int, stop: int) -> tuple[int, int] | None:
    """Read a variable byte integer; None if it goes on past `stop`. More than the fewest bytes are malformed."""
    value = shift = 0
    for at in range(pos, min(stop, pos + 4)):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and at > pos:
                raise malformed("a length is not written in its shortest form")
            return value, at + 1
        shift += 7
    if stop - pos >= 4:
        raise malformed("a length has more than four bytes")
    return None


def u16(value: int) -> bytes:
    """Write a two byte integer; OverflowError if it does not fit."""
    return value.to_bytes(2, "big")


def text(value: str) -> bytes:
    """Write an UTF-8 string with its length; ValueError if MQTT cannot carry it."""
    raw = value.encode()
    if len(raw) > MAX_TEXT_BYTES or 0 in raw:
        raise ValueError(f"a text of MQTT has at most {MAX_TEXT_BYTES} bytes and no U+0000: shorten or clean it")
    return len(raw).to_bytes(2, "big") + raw


def binary(value: bytes) -> bytes:
    """Write binary data with its length; ValueError if it is too long."""
    if len(value) > MAX_TEXT_BYTES:
        raise ValueError(f"binary data of MQTT has at most {MAX_TEXT_BYTES} bytes, not {len(value)}: shorten it")
    return len(value).to_bytes(2, "big") + value


def varint(value: int) -> bytes:
    """Write a variable byte integer; ValueError if it does not fit into four bytes."""
    if value < 0x80:
        return bytes((value,))
    if value > MAX_REMAINING_LENGTH:
        raise ValueError(f"a packet of MQTT has at most {MAX_REMAINING_LENGTH} bytes, not {value}: send less at a time")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
