"""The folder of client certificates that Mosquitto trusts: its `capath`, in the layout of `openssl rehash`.

Mosquitto looks into it at each handshake, so a certificate that is put there counts without a restart. What is removed
counts until a restart; who may log in is decided by the gate in any case.
"""

import contextlib
import os
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from mqttprov.pki.name_hash import name_hash

FOLDER_MODE: Final = 0o750
_FILE_MODE: Final = 0o644


class TrustFolder:
    """A folder with one file for each certificate; several processes may add to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: set[bytes] = set()  # fingerprints of what is there
        self._added = 0
        self._taken: dict[str, int] = {}  # hash of a name -> how many files it has

    def add(self, pem: str) -> bool:
        """Have certificates (PEM) trusted from now on; what is there already is left alone.

        Tells whether one of them has a name (subject) that another one has, too: OpenSSL asks the folder for a name
        only until it has found it, so a running Mosquitto that has met the other one does not find this one; after a
        restart it does, if the two have key identifiers.
        Raises `ValueError` for what is no certificate, and `OSError`.
        """
        shared = [self._add(certificate) for certificate in x509.load_pem_x509_certificates(pem.encode())]
        return any(shared)

    def add_all(self, certificates: Iterable[str]) -> int:
        """Add all of them; give how many were not there. Raises as `add` does."""
        before = self._added
        for pem in certificates:
            self.add(pem)
        return self._added - before

    def _add(self, certificate: x509.Certificate) -> bool:
        fingerprint = certificate.fingerprint(hashes.SHA256())
        if fingerprint in self._known:
            return False
        name, content = name_hash(certificate.subject), certificate.public_bytes(Encoding.PEM)
        for number in count(self._taken.get(name, 0)):
            self._taken[name] = number + 1
            file = self.path / f"{name}.{number}"
            if _put(file, content):
                self._known.add(fingerprint)
                self._added += 1
                return number > 0
            if file.read_bytes() == content:
                self._known.add(fingerprint)
                return False
        raise AssertionError("numbers do not end")


def _put(file: Path, content: bytes) -> bool:
    """Write a file that nobody ever sees half; False when there is one of this name."""
    if file.exists():
        return False
    draft = file.with_name(f".{os.getpid()}-{file.name}")
    descriptor = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, _FILE_MODE)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
            return True
        return False
    finally:
        draft.unlink()
