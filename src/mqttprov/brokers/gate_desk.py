"""What the gate in Mosquitto says, and what the responder answers: requests, logins, questions of devices.

Commands to the gate are lines (`mosquitto/messages.c`, `obey`); nothing that a device chose may hold a line's end. They
name whom they are about as the broker shows it: `device_principal`, or `p:` and the handle of a provisioning session.
"""

import logging
from collections.abc import Callable
from typing import Final

from mqttprov.brokers.answers import automatic_answer
from mqttprov.brokers.farewell import WIPE_CALL
from mqttprov.brokers.gate_link import GateLink
from mqttprov.core.audit import EventKind
from mqttprov.core.login import Holder, LoginRefusal
from mqttprov.core.requests import Outcome
from mqttprov.mqtt import Publish, ServerLimits
from mqttprov.responder.service import Responder
from mqttprov.store.protocol import StoreUnavailable

INTERNAL: Final = "_prov/"
# Requests and the like go to one responder each, whichever the broker chooses.
SHARED_FILTERS: Final = tuple(
    f"$share/prov/{INTERNAL}{kind}/+" for kind in ("request", "first", "seen", "refused", "ask", "listens")
)
_MAX_TOPIC_BYTES: Final = 1900  # of an answer to a device: the gate reads lines of 2047
_LATE_CALL: Final = 0  # number of a call whose audit event is long past; those have their event's place
_DEVICES: Final = "v1/devices/"
_OWN: Final = f"{_DEVICES}me/"

_log = logging.getLogger(__name__)


class GateDesk:
    """Answers what the gate passes on. Everything runs in the event loop; nothing here waits.

    `current` gives the connection that is up: a handle outlives our connection, though not the device's.
    """

    def __init__(
        self,
        responder: Responder,
        current: Callable[[], GateLink | None],
    ) -> None:
        self._responder = responder
        self._current = current
        self._limits = ServerLimits()
        self._handlers: dict[str, Callable[[GateLink, Publish, str], None]] = {
            "request": self._on_request,
            "first": self._on_first_login,
            "seen": self._on_seen,
            "refused": self._on_refused,
            "ask": self._on_ask,
            "listens": self._on_listens,
        }

    def message(self, link: GateLink, publish: Publish) -> None:
        """Take one message of the gate."""
        kind, _, rest = publish.topic.removeprefix(INTERNAL).partition("/")
        handler = self._handlers.get(kind)
        try:
            if handler is not None:
                handler(link, publish, rest)
                return
            _log.warning("the gate says something that is not understood; update both together")
        except (ValueError, KeyError):
            _log.exception("a message of the gate could not be read")
        link.settle(publish.packet_id)

    def _tell(self, line: str, payload: bytes = b"") -> None:
        link = self._current()
        if link is not None:  # else the gate asks again when it is back
            link.command(line, payload)

    def _on_request(self, link: GateLink, publish: Publish, handle: str) -> None:
        def reply(payload: bytes, _: Outcome) -> None:
            self._tell(f"reply 0 {len(payload)} p:{handle}", payload)
            link.settle(publish.packet_id)

        self._responder.request(publish.payload, _property(publish, "source"), reply)

    def _on_seen(self, link: GateLink, publish: Publish, device_id: str) -> None:
        self._responder.seen((device_id,))
        link.settle(publish.packet_id)

    def _on_first_login(self, link: GateLink, publish: Publish, _: str) -> None:
        device_id, number, name = publish.payload.decode().split(" ", 2)
        generation = int(number)

        def done(stands: bool | None) -> None:
            # None: the gate tells it again, until it could be recorded.
            if stands is not None:
                # Sessions of older generations end; of this one too, when its login may not stand.
                below = generation if stands else generation + 1
                if below > 1:
                    self._tell(f"kick {below} 0 {device_principal(name)}")
                self._tell(f"recorded {generation} 0 {device_principal(name)}")
            link.settle(publish.packet_id)

        self._responder.first_login(Holder(name, device_id, generation), _property(publish, "source"), done)

    def _on_refused(self, link: GateLink, publish: Publish, reason: str) -> None:
        # More in a second than the gate tells one by one come as a number, without their sources.
        source = dict(publish.properties.user_properties).get("source")
        refusal, times = LoginRefusal(reason), int(publish.payload)
        self._responder.count(EventKind.LOGIN_REFUSED, source, refusal, times=times)
        link.settle(publish.packet_id)

    def _on_ask(self, link: GateLink, publish: Publish, handle: str) -> None:
        link.settle(publish.packet_id)
        name, _, rest = _property(publish, "topic").removeprefix(_DEVICES).partition("/")
        topic = f"{_OWN}{rest}"
        answer = automatic_answer(topic, publish.payload, self._limits, self._labels(name, topic))
        if answer is not None:
            self._send(handle, name, *answer)

    def _send(self, handle: str, name: str, topic: str, payload: bytes) -> None:
        """Send a device something on a topic of its own, on the connection with this handle."""
        topic = f"{_DEVICES}{name}/{topic.removeprefix(_OWN)}"
        if "\n" not in topic and len(topic.encode()) <= _MAX_TOPIC_BYTES:
            self._tell(f"send {handle} {len(payload)} {topic}", payload)

    def _labels(self, name: str, topic: str) -> dict[str, str]:
        """Give the labels of a device that may have asked for them."""
        if "/attributes/request/" not in topic:
            return {}
        try:
            row = next(self._responder.chain().devices(name), None)
        except StoreUnavailable as error:
            _log.error("device %s is not told its labels: %s", name, error)
            return {}
        return {} if row is None else row.labels

    def _on_listens(self, link: GateLink, publish: Publish, handle: str) -> None:
        link.settle(publish.packet_id)
        name = publish.payload.decode()
        if self._responder.can_rotate(name):
            self._send(handle, name, f"{_OWN}rpc/request/{_LATE_CALL}", WIPE_CALL)


def device_principal(name: str) -> str:
    """Give what the gate calls a device: also its user name in the broker's log."""
    return f"d:{name}"


def operator_principals(name: str) -> tuple[str, str]:
    """Give what the gate calls an operator, in either role."""
    return f"o:{name}", f"v:{name}"


def _property(publish: Publish, key: str) -> str:
    """Give a user property that the gate adds. Raises KeyError."""
    return dict(publish.properties.user_properties)[key]
