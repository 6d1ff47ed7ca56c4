"""Keeps the folder of certificates that Mosquitto trusts up to date while a responder runs beside it."""

import logging
from pathlib import Path
from typing import Final

from mqttprov.brokers.mosquitto.trust_folder import TrustFolder
from mqttprov.core.audit import ChainedEvent, EventKind
from mqttprov.core.model import CredentialsType
from mqttprov.core.requests import Granted, Outcome
from mqttprov.responder.service import Responder
from mqttprov.responder.state_directory import StateDirectory
from mqttprov.responder.state_files import StateError
from mqttprov.store.protocol import StoreUnavailable

_NEW_AUTHORITY: Final = frozenset({EventKind.AUTHORITY_CREATED, EventKind.AUTHORITY_ROTATED})

_log = logging.getLogger(__name__)


class TrustKeeper:
    """What it cannot write it tells the log: a device that cannot log in by certificate must not stop the others."""

    def __init__(self, folder: Path, state: StateDirectory, responder: Responder) -> None:
        self._folder = TrustFolder(folder)
        self._state = state
        self._responder = responder

    def begin(self) -> None:
        """Add what was registered while nobody was here. Raises `StateError` and `StoreUnavailable`."""
        self._add(self._state.authorities().certificates_pem)
        for pem in self._responder.chain().certificates():
            self._add(pem)

    def granted(self, outcome: Outcome) -> None:
        """Have a device's new certificate trusted, before the device hears of it."""
        if isinstance(outcome, Granted) and outcome.type is CredentialsType.X509_CERTIFICATE:
            self._add(outcome.value)

    def met(self, event: ChainedEvent) -> None:
        """Follow the audit chain: authorities, and certificates that operators bring."""
        if event.kind not in _NEW_AUTHORITY:
            for pem in self._responder.new_certificates(event):
                self._add(pem)
            return
        try:
            self._add(self._state.authorities().certificates_pem)
        except (StateError, StoreUnavailable) as error:
            _log.error("the new authority is trusted after the next start: %s", error)

    def _add(self, pem: str) -> None:
        try:
            if self._folder.add(pem):
                _log.warning(
                    "several certificates have the same subject; Mosquitto does not tell them apart, or only "
                    "after a restart: let devices put their names into their certificates"
                )
        except (OSError, ValueError) as error:
            _log.error("Mosquitto does not trust a certificate: %s: %s", self._folder.path, error)
