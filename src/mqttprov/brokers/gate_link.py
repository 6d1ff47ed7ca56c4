"""The responder's connection to Mosquitto, as its gate plugin takes it: commands, and messages that are settled.

Commands are gathered and leave together, and a message counts as settled no earlier than what was said about it.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final

from mqttprov.brokers.broker_link import KEEP_ALIVE_S, BrokerAddress, Link
from mqttprov.core.credentials import RESPONDER_LOGIN
from mqttprov.mqtt import Connect, LimitReachedError, Properties, ProtocolVersion, Publish, ReasonCode

CONTROL_TOPIC: Final = "$CONTROL/provision/v1"
# What is to be taken and not settled: more than the pipeline holds, which then tells the devices to come later. What is
# beyond this and its own queue the broker drops, and a device whose request is lost waits for its reply in vain.
RECEIVE_MAXIMUM: Final = 10_000
# Mosquitto 2.0 sends more than that once some of it is settled and some is not; what is too much for the pipeline is
# refused or told again, while hanging up would lose all of it, over and over.
_MAX_UNSETTLED: Final = 65_535  # as many as there are packet ids
MAX_COMMANDS_BYTES: Final = 32_768  # in one packet: the broker does nothing else while it obeys
_LOGIN_REFUSALS: Final = frozenset({ReasonCode.NOT_AUTHORIZED, ReasonCode.BAD_USER_NAME_OR_PASSWORD})

_log = logging.getLogger(__name__)


class GateRefused(Exception):  # noqa: N818 - it names what happened
    """The broker is there but does not take us for its responder; the text says what, why and what to do."""


class GateLink(Link):
    """One connection, from CONNECT to its end."""

    def __init__(
        self, address: BrokerAddress, password: str, on_message: Callable[["GateLink", Publish], None]
    ) -> None:
        connect = Connect(
            f"{RESPONDER_LOGIN}-{os.urandom(6).hex()}",
            version=ProtocolVersion.V5,
            keep_alive_s=KEEP_ALIVE_S,
            username=RESPONDER_LOGIN,
            password=password.encode(),
            properties=Properties(receive_maximum=RECEIVE_MAXIMUM),
        )
        super().__init__(
            connect, lambda publish: on_message(self, publish), manual_ack=True, max_unsettled=_MAX_UNSETTLED
        )
        self._url = address.url
        self._commands: list[bytes] = []
        self._settled: list[int] = []

    def refusal(self, reason: ReasonCode) -> Exception:
        """Give what is raised when the broker refuses the login: no attempt with the same password changes that."""
        if reason not in _LOGIN_REFUSALS:
            return GateRefused(f"{self._url} refuses the connection: {reason.name}; see the broker's log")
        return GateRefused(
            f"{self._url} refuses the responder's login: its password must be the line in the file that "
            "plugin_opt_responder_file names in the broker's configuration, and the plugin be loaded"
        )

    def command(self, line: str, payload: bytes = b"") -> None:
        """Tell the gate something with the next write, unless the connection has ended."""
        if not self._session.closed:
            self._commands.append(b"%b\n%b" % (line.encode(), payload))
            self.flush_soon()

    def execute(self, line: str) -> "asyncio.Future[ReasonCode]":
        """Tell the gate something at once; the answer comes when it is done. Raises `LinkLost`."""
        self._gather()
        return self.publish(CONTROL_TOPIC, line.encode())

    def settle(self, packet_id: int | None) -> None:
        """Acknowledge a message behind all commands that were given until now."""
        if packet_id is not None and not self._session.closed:
            self._settled.append(packet_id)
            self.flush_soon()

    def _gather(self) -> None:
        """Put commands into the output, as few packets as there can be: the broker reads one at a time."""
        commands, self._commands = self._commands, []
        packet: list[bytes] = []
        size = 0
        for command in commands:
            if packet and size + len(command) > MAX_COMMANDS_BYTES:
                self._session.publish(CONTROL_TOPIC, b"".join(packet), 0)
                packet, size = [], 0
            packet.append(command)
            size += len(command)
        if packet:
            self._session.publish(CONTROL_TOPIC, b"".join(packet), 0)

    def _complete(self) -> None:
        try:
            self._gather()
        except LimitReachedError as error:
            _log.error("the broker does not take a reply: %s", error)
        settled, self._settled = self._settled, []
        for packet_id in settled:
            self._session.acknowledge(packet_id)
