"""The errors of this part, sorted by who is to blame. Nothing else lives here."""

from mqttprov.mqtt.reasons import ReasonCode


class ProtocolError(Exception):
    """The peer broke the protocol or one of our limits; the connection has to end.

    `reason_code` is the MQTT 5 reason (section 4.13), `text` says what was wrong without quoting the peer (P6).
    """

    def __init__(self, reason_code: ReasonCode, text: str) -> None:
        super().__init__(f"{text} (0x{reason_code:02X} {reason_code.name})")
        self.reason_code = reason_code
        self.text = text


class SessionStateError(RuntimeError):
    """Our own code called a session out of turn, such as accepting a client that has not sent CONNECT."""


class LimitReachedError(RuntimeError):
    """A message was not taken: a queue is full, or the peer has announced that it does not take such messages."""


def malformed(text: str) -> ProtocolError:
    """Make the error for bytes that no MQTT packet may have."""
    return ProtocolError(ReasonCode.MALFORMED_PACKET, text)


def violation(text: str) -> ProtocolError:
    """Make the error for a well-formed packet that must not come here or now."""
    return ProtocolError(ReasonCode.PROTOCOL_ERROR, text)
