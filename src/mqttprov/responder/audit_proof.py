"""Checking the audit by what others keep: checkpoints with the public key that signed them, and exports.

No state directory is needed for it. The rules of chain, checkpoint and export are in `mqttprov.core`.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from mqttprov.core.audit import ChainedEvent, ChainHead, CutTail, verify
from mqttprov.core.checkpoint import BadCheckpoint, VerifierKey, parse_verifier_key, read_checkpoints
from mqttprov.core.export import MAX_LINE_BYTES, TornExport, read_export

_MAX_KEY_BYTES: Final = 1024


class Checkpoints(msgspec.Struct, frozen=True):
    """What a file of checkpoints vouches for: the hash (hex) of the last of so many events.

    `torn` tells that the last checkpoint was written halfway; it is left out.
    """

    heads: Mapping[int, str] = {}
    torn: bool = False


def kept_checkpoints(path: Path, key_path: Path) -> Checkpoints:
    """Read checkpoints that somebody keeps, at least one. Raises as `signed_checkpoints`."""
    kept = signed_checkpoints(path, key_path)
    if not kept.heads:
        raise BadCheckpoint(
            f"{path} holds no whole checkpoint, so nothing can be checked against it; give another copy"
        )
    return kept


def signed_checkpoints(path: Path, key_path: Path) -> Checkpoints:
    """Read checkpoints and check that this public key signed them. Raises `BadCheckpoint` and `OSError`."""
    from mqttprov.pki.note_key import verify_signature  # noqa: PLC0415 - cryptography, which most verbs do without

    key = _verifier_key(key_path)
    try:
        with path.open(encoding="utf-8") as file:
            return Checkpoints(*read_checkpoints(file, key, verify_signature))
    except (BadCheckpoint, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{path}: {error}") from error


def verify_export(path: Path, checkpoints: Checkpoints) -> ChainHead:
    """Verify what of an export (jsonl) is whole, and only then complain about its torn end; give the chain's end.

    Raises `BrokenChain`, `TornExport` and `OSError`.
    """
    torn: list[TornExport] = []

    def whole(lines: Iterable[bytes]) -> Iterator[ChainedEvent]:
        try:
            yield from read_export(lines)
        except TornExport as error:
            torn.append(error)

    with path.open("rb") as file:
        lines = iter(partial(file.readline, MAX_LINE_BYTES + 1), b"")
        try:
            head = verify(whole(lines), checkpoints=checkpoints.heads)
        except CutTail:
            if not torn:
                raise
        if torn:
            raise torn[0]
        if not head.seq:  # each record begins with one: 'verified' would be said of a file that was never written
            raise TornExport("the export is empty; export again")
        return head


def _verifier_key(path: Path) -> VerifierKey:
    try:
        with path.open("rb") as file:
            return parse_verifier_key(file.read(_MAX_KEY_BYTES).decode("utf-8", "replace"))
    except OSError as error:
        raise BadCheckpoint(
            f"{path} cannot be read: {error.strerror}; name the audit's public key with --key"
        ) from error
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{path}: {error}") from None
