"""Checkpoints of the audit chain in C2SP signed-note form: how they are written and what a reader may believe.

A checkpoint says how many events there were and the hash of the last one (the head of a hash chain, not the root of a
Merkle tree), signed with Ed25519. Against it a cut tail shows, and a chain that was written anew (security.md SD-24);
so copies belong outside the machine. The signature itself is made and checked elsewhere (`mqttprov.pki.note_key`).

Forms: https://c2sp.org/signed-note and, for the three lines of the text, https://c2sp.org/tlog-checkpoint.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from mqttprov.core.audit import ChainHead

_DASH: Final = "\N{EM DASH} "
_ED25519: Final = b"\x01"  # the signature type of signed notes
_KEY_HASH_BYTES: Final = 4
_PUBLIC_KEY_BYTES: Final = 32
_HASH_BYTES: Final = 32
MAX_NOTE_LINE_CHARS: Final = 1024
_MAX_NOTE_LINES: Final = 20

VerifySignature = Callable[[bytes, bytes, bytes], bool]
"""Tells whether public key and signature (the first two) fit a message."""


class BadCheckpoint(ValueError):  # noqa: N818 - it names what is wrong, like the rest of the rules
    """A checkpoint or a verifier key cannot be believed; the text says where and why."""


class VerifierKey(msgspec.Struct, frozen=True):
    """The public half of the key that signs checkpoints. `name` is also the origin line of every checkpoint."""

    name: str
    public_key: bytes

    @property
    def key_hash(self) -> bytes:
        """The four bytes by which a signature line names its key."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[:_KEY_HASH_BYTES]

    def __str__(self) -> str:
        """Give it as text: `name+hash+base64`, the form that signed notes use."""
        return f"{self.name}+{self.key_hash.hex()}+{_base64(_ED25519 + self.public_key)}"


def verifier_key(public_key: bytes) -> VerifierKey:
    """Name a public key. The name follows from the key, so that two installations never sign under one name."""
    return VerifierKey(f"mqttprov-audit-{hashlib.sha256(public_key).hexdigest()[:16]}", public_key)


def parse_verifier_key(text: str) -> VerifierKey:
    """Read what `str` of a verifier key gave. Raises `BadCheckpoint`."""
    name, _, rest = text.strip().partition("+")
    key_hash, _, encoded = rest.partition("+")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    key = VerifierKey(name, raw[1:])
    if not name or raw[:1] != _ED25519 or len(key.public_key) != _PUBLIC_KEY_BYTES or key.key_hash.hex() != key_hash:
        raise BadCheckpoint("this is not the public key of an audit; 'mqttprov audit key' prints it")
    return key


def checkpoint_text(name: str, head: ChainHead) -> str:
    """Give the text that is signed: origin, number of events, base64 of the hash of the last one; a line each."""
    return f"{name}\n{head.seq}\n{_base64(bytes.fromhex(head.hash))}\n"


def signed_note(key: VerifierKey, text: str, signature: bytes) -> str:
    """Put a text and its signature together."""
    return f"{text}\n{_DASH}{key.name} {_base64(key.key_hash + signature)}\n"


def open_note(note: str, key: VerifierKey, verify_signature: VerifySignature) -> ChainHead:
    """Check the signature of a checkpoint and give what it vouches for. Raises `BadCheckpoint`."""
    text, separator, signatures = note.partition("\n\n")
    text += "\n"
    if not separator:
        raise BadCheckpoint("it is not a signed note: text, an empty line, a signature line")
    if not any(
        verify_signature(key.public_key, signature, text.encode()) for signature in _signatures(signatures, key)
    ):
        raise BadCheckpoint(f"no signature of {key.name} fits it; was it changed, or is it of another audit?")
    origin, _, rest = text.partition("\n")
    size, _, hash_ = rest.partition("\n")
    if origin != key.name or not (size.isascii() and size.isdigit()):
        raise BadCheckpoint("its text is not origin, number of events and hash")
    return ChainHead(int(size), _decoded_hash(hash_.partition("\n")[0]))


def read_checkpoints(
    lines: Iterable[str], key: VerifierKey, verify_signature: VerifySignature
) -> tuple[dict[int, str], bool]:
    """Read a file of checkpoints: hash (hex) by number of events, and whether the last one is torn (written halfway).

    Raises `BadCheckpoint` for one that is not signed by `key`, and for two that contradict each other.
    """
    heads: dict[int, str] = {}
    torn = False
    for line, note, whole in _notes(lines):
        if not whole:
            torn = True
            continue
        try:
            head = open_note(note, key, verify_signature)
        except BadCheckpoint as error:
            raise BadCheckpoint(f"the checkpoint in line {line} cannot be believed: {error}") from None
        if heads.setdefault(head.seq, head.hash) != head.hash:
            raise BadCheckpoint(
                f"the checkpoint in line {line} contradicts an earlier one of {head.seq} events: the record was "
                "written anew between them"
            )
    return heads, torn


def _notes(lines: Iterable[str]) -> Iterator[tuple[int, str, bool]]:
    """Give each note with the line it begins in and whether it is whole; a note ends behind its signature lines.

    Only the last one can be torn: what stands in between and is no note is given as whole, and will not be believed.
    """
    note: list[str] = []
    begin, signed = 1, False
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_NOTE_LINE_CHARS or len(note) >= _MAX_NOTE_LINES:
            raise BadCheckpoint(f"line {number} is no part of a checkpoint: too long")
        is_signature = line.startswith(_DASH)
        if signed and not is_signature:
            yield begin, "".join(note), True
            note, signed = [], False
        if not note:
            if line == "\n":
                continue
            begin = number
        note.append(line)
        signed = signed or is_signature
    if note:
        yield begin, "".join(note), signed and note[-1].endswith("\n")


def _signatures(lines: str, key: VerifierKey) -> Iterator[bytes]:
    """Give the signatures under a note that name this key; others are none of our business (C2SP)."""
    for line in lines.splitlines():
        name, _, encoded = line.removeprefix(_DASH).rpartition(" ")
        if name != key.name or not line.startswith(_DASH):
            continue
        try:
            raw = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            continue
        if raw[:_KEY_HASH_BYTES] == key.key_hash:
            yield raw[_KEY_HASH_BYTES:]


def _decoded_hash(encoded: str) -> str:
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _HASH_BYTES:
        raise BadCheckpoint("its text is not origin, number of events and hash")
    return raw.hex()


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
