"""Somebody who wants to read what is others': one who is let in, and listens to whatever the broker grants."""

import contextlib
from collections.abc import Sequence
from typing import Final, Self

from mqttprov.brokers.doctor.finding import Finding, right, wrong
from mqttprov.brokers.doctor.probe import Address, Probe
from mqttprov.core.permissions import REQUEST_TOPIC, RESPONSE_TOPIC
from mqttprov.mqtt import is_shared

LISTEN_S: Final = 0.5  # after the reply: what is routed to others leaves the broker at the same time
_READ_S: Final = 0.05  # for what has come meanwhile
# Replies, requests, messages of devices, audit events, and what travels between a broker and its responder.
EVERYTHING: Final = (
    RESPONSE_TOPIC, REQUEST_TOPIC, "#", "+/+/+", "/provision/#", "/provision/+", "_prov/#", "v1/devices/#",
    "v1/devices/+/telemetry", "provision/audit/#", "$SYS/#", "$CONTROL/#", "$share/doctor/#",
    f"$share/doctor/{RESPONSE_TOPIC}", "$share/prov/_prov/#",
)  # fmt: skip


class Eavesdropper:
    """Several sessions of one login: a broker may hang up on who asks for a shared subscription."""

    def __init__(self, address: Address, username: str, filters: Sequence[str]) -> None:
        """Log in and subscribe to each filter. Raises `NoBroker` and `LoginRefused`."""
        self.tried = len(filters)
        self.granted = 0
        self._sessions = contextlib.ExitStack()
        self._shared: list[Probe] = []
        with contextlib.ExitStack() as until_complete:
            self._main = until_complete.enter_context(Probe(address, username=username))
            self.granted = len(self._main.subscribe([one for one in filters if not is_shared(one)]))
            for one in filter(is_shared, filters):
                self._shared.append(until_complete.enter_context(Probe(address, username=username)))
                self.granted += len(self._shared[-1].subscribe([one]))
            self._sessions = until_complete.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sessions.close()

    def judge(self, check: str, marker: bytes = b"") -> Finding:
        """Listen a while longer, and say whether anything came that holds the marker."""
        heard = self._main.listen(LISTEN_S)
        for session in self._shared:
            heard += session.listen(_READ_S)
        topics = sorted({topic for topic, payload in heard if marker in payload})
        if topics:
            return wrong(check, f"another session received what was not its own, on {', '.join(topics)}")
        if self._main.closed:
            return wrong(check, "the broker ended the session that listened, so this was not seen; look at its log")
        return right(check, f"another session tried {self.tried} filters, {self.granted} granted, and received nothing")
