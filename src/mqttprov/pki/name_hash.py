"""The hash by which OpenSSL finds certificates in a directory (`openssl rehash`, X509_NAME_hash).

OpenSSL compares names in a canonical form: text as UTF-8, in small letters (ASCII), blanks folded. It hashes the DER of
that form without the outer SEQUENCE by SHA-1; the name of the file is the first four bytes, the lowest first.
"""

import hashlib
from collections.abc import Iterator
from typing import Final

from cryptography import x509

_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_UTF8: Final = 0x0C
# Tags of the texts that OpenSSL brings to one form (ASN1_MASK_CANON), with their encoding; others stay as they are.
_TEXTS: Final = {
    _UTF8: "utf-8",
    0x13: "ascii",  # PrintableString
    0x14: "latin-1",  # T61String, as OpenSSL reads it
    0x16: "ascii",  # IA5String
    0x1A: "ascii",  # VisibleString
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}
_BLANKS: Final = " \t\n\v\f\r"


def name_hash(name: x509.Name) -> str:
    """Give the eight hex digits for a subject or issuer. Raises `ValueError` for a name that cannot be read."""
    canonical = b""
    for _, rdn in _items(next(_items(name.public_bytes()))[1]):
        canonical += _tlv(_SET, b"".join(sorted(_attribute(content) for _, content in _items(rdn))))
    digest = hashlib.sha1(canonical, usedforsecurity=False).digest()
    return digest[3::-1].hex()


def _attribute(content: bytes) -> bytes:
    (kind, oid), (tag, value) = _items(content)
    if tag in _TEXTS:
        tag, value = _UTF8, _folded(value.decode(_TEXTS[tag])).encode()
    return _tlv(_SEQUENCE, _tlv(kind, oid) + _tlv(tag, value))


def _folded(text: str) -> str:
    for blank in _BLANKS:
        text = text.replace(blank, " ")
    words = " ".join(word for word in text.split(" ") if word)
    return "".join(c.lower() if c.isascii() else c for c in words)


def _items(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Split DER (X.690) into tags and contents."""
    at = 0
    while at < len(der):
        length, start = der[at + 1], at + 2
        if length >= 0x80:
            start += length & 0x7F
            length = int.from_bytes(der[at + 2 : start], "big")
        yield der[at], der[start : start + length]
        at = start + length


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
