"""Checkpoints: their exact form, what is believed and what is not (P5)."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttprov.core.audit import ChainHead
from mqttprov.core.checkpoint import (
    BadCheckpoint,
    checkpoint_text,
    open_note,
    parse_verifier_key,
    read_checkpoints,
    signed_note,
    verifier_key,
)
from mqttprov.pki.note_key import NoteSigner, verify_signature

SIGNER = NoteSigner(bytes(range(32)))
OTHER = NoteSigner(bytes(32))
HASH = hashlib.sha256(b"x").hexdigest()

# The example in the documentation of Go's golang.org/x/mod/sumdb/note, the first implementation of the form.
FOREIGN_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
FOREIGN_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\N{EM DASH} PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def notes(*heads: ChainHead) -> str:
    """Write a file of checkpoints."""
    return "\n".join(SIGNER.sign(head) for head in heads)


def read(text: str) -> tuple[dict[int, str], bool]:
    """Read a file of checkpoints."""
    return read_checkpoints(text.splitlines(keepends=True), SIGNER.verifier_key, verify_signature)


def test_the_form_is_that_of_signed_notes() -> None:
    """Origin, number of events, base64 of the hash, empty line, signature line with key hash and signature."""
    key = SIGNER.verifier_key
    text, _, signature = SIGNER.sign(ChainHead(42, HASH)).partition("\n\n")
    assert text.split("\n") == [key.name, "42", base64.b64encode(bytes.fromhex(HASH)).decode()]
    dash, name, encoded = signature.rstrip("\n").split(" ")
    raw = base64.b64decode(encoded)
    assert (dash, name, len(raw)) == ("\N{EM DASH}", key.name, 68)
    assert raw[:4] == hashlib.sha256(key.name.encode() + b"\n\x01" + key.public_key).digest()[:4]
    assert verify_signature(key.public_key, raw[4:], (text + "\n").encode())


def test_a_note_of_another_implementation_is_understood() -> None:
    """Key hash and signature are computed as others do: its signature fits, only its text is no checkpoint."""
    key = parse_verifier_key(FOREIGN_KEY)
    assert str(key) == FOREIGN_KEY
    with pytest.raises(BadCheckpoint, match="its text is not origin"):
        open_note(FOREIGN_NOTE, key, verify_signature)
    with pytest.raises(BadCheckpoint, match="no signature"):
        open_note(FOREIGN_NOTE.replace("problem is", "problem was"), key, verify_signature)


@given(st.integers(0, 2**60), st.binary(min_size=32, max_size=32))
def test_what_is_signed_reads_back(size: int, digest: bytes) -> None:
    """No loss."""
    head = ChainHead(size, digest.hex())
    assert open_note(SIGNER.sign(head), SIGNER.verifier_key, verify_signature) == head


@given(st.data())
def test_a_changed_character_is_found(data: st.DataObject) -> None:
    """Nothing of a checkpoint can be changed to mean something else."""
    head = ChainHead(42, HASH)
    note = SIGNER.sign(head)
    place = data.draw(st.integers(0, len(note) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != note[place]))
    try:
        assert open_note(note[:place] + other + note[place + 1 :], SIGNER.verifier_key, verify_signature) == head
    except BadCheckpoint:
        return


@pytest.mark.parametrize("size", ["-1", "1.0", "\N{ARABIC-INDIC DIGIT ONE}", " ", "0x1"])
def test_a_signed_text_that_is_no_checkpoint_is_refused(size: str) -> None:
    """The signature alone makes no checkpoint."""
    key, private = SIGNER.verifier_key, SIGNER._private_key
    text = checkpoint_text(key.name, ChainHead(7, HASH)).replace("\n7\n", f"\n{size}\n")
    with pytest.raises(BadCheckpoint, match="not origin"):
        open_note(signed_note(key, text, private.sign(text.encode())), key, verify_signature)
    text = checkpoint_text(key.name, ChainHead(7, HASH[:-2]))
    with pytest.raises(BadCheckpoint, match="not origin"):
        open_note(signed_note(key, text, private.sign(text.encode())), key, verify_signature)


def test_the_checkpoint_of_another_audit_is_refused() -> None:
    """Neither its signature fits nor its origin."""
    with pytest.raises(BadCheckpoint, match="no signature of"):
        open_note(OTHER.sign(ChainHead(1, HASH)), SIGNER.verifier_key, verify_signature)
    text = checkpoint_text("elsewhere", ChainHead(1, HASH))
    note = signed_note(SIGNER.verifier_key, text, SIGNER._private_key.sign(text.encode()))
    with pytest.raises(BadCheckpoint, match="not origin"):
        open_note(note, SIGNER.verifier_key, verify_signature)


def test_a_file_of_checkpoints_reads_back() -> None:
    """Hash by number of events; signatures of others beside ours do no harm (C2SP: they are ignored)."""
    text = (
        notes(ChainHead(1, HASH), ChainHead(1000, HASH[::-1]))
        + "\N{EM DASH} witness AAAA\n\n"
        + notes(ChainHead(1001, HASH))
    )
    assert read(text) == ({1: HASH, 1000: HASH[::-1], 1001: HASH}, False)
    assert read("") == ({}, False)


def test_a_torn_last_checkpoint_is_told_apart() -> None:
    """Wherever the write was cut: what is before it counts, and the reader learns of it."""
    first, second = notes(ChainHead(1, HASH)), SIGNER.sign(ChainHead(2, HASH))
    for cut in range(1, len(second)):
        assert read(f"{first}\n{second[:cut]}") == ({1: HASH}, True)


def test_what_cannot_be_believed_is_named() -> None:
    """A changed checkpoint, a foreign one, one that contradicts another, and what is none: each with its line."""
    first = notes(ChainHead(1, HASH))
    with pytest.raises(BadCheckpoint, match="line 7 cannot be believed: no signature"):
        read(first + "\n" + OTHER.sign(ChainHead(2, HASH)))
    with pytest.raises(BadCheckpoint, match="line 1 cannot be believed"):
        read("nonsense\n\n" + first)
    with pytest.raises(BadCheckpoint, match="line 7 contradicts an earlier one of 1 events"):
        read(notes(ChainHead(1, HASH), ChainHead(1, HASH[::-1])))
    with pytest.raises(BadCheckpoint, match="too long"):
        read("x" * 2000)
    with pytest.raises(BadCheckpoint, match="too long"):
        read("x\n" * 100)


@pytest.mark.parametrize(
    "text", ["", "a", "a+b", "a+b+c", "+e3+AQ==", f"{SIGNER.verifier_key}x", FOREIGN_KEY.replace("c7", "c8")]
)
def test_what_is_no_key_is_refused(text: str) -> None:
    """A mistyped key is told as such."""
    with pytest.raises(BadCheckpoint, match="not the public key"):
        parse_verifier_key(text)


def test_the_secret_does_not_show() -> None:
    """A signer in a log line says only its name (P6)."""
    assert repr(SIGNER) == f"NoteSigner({verifier_key(SIGNER.verifier_key.public_key).name}, ***)"
