"""One provisioning request by hand: connect, ask, wait for the reply, hang up. Blocking, for people and scripts.

A gateway does not work like this: it keeps trying, and saves what it gets (`machine`, `client`).
"""

import secrets
import socket
import ssl
import time
from typing import Final

from mqttprov.gateway.own_topics import CLIENT_ID_BYTES, REQUEST_TOPIC, RESPONSE_TOPIC, OwnTopics
from mqttprov.mqtt import (
    ClientSession,
    Connect,
    Connected,
    Disconnected,
    MessageReceived,
    ProtocolViolated,
    Refused,
    Subscribed,
)

_USER_NAME: Final = "provision"  # what marks a provisioning session (reference/thingsboard.md rule 2)
_FAILED_FROM: Final = 0x80  # reason codes from here on are refusals (MQTT 5 section 2.4)
_READ_BYTES: Final = 65_536
# What to do about a certificate, by OpenSSL's verify code (x509_vfy.h); else its CA is not known.
_ADVICE: Final = {
    9: "is this machine's clock right?",  # not yet valid
    10: "let the broker's operator renew it, or set this machine's clock",  # has expired
    62: "connect by a name that it is for",  # hostname mismatch
    64: "connect by a name that it is for",  # IP address mismatch
}


class NoReply(Exception):  # noqa: N818 - it names what is wrong
    """No reply was got; the text says why and what to do."""


def request_once(
    payload: bytes, *, host: str, port: int, tls: ssl.SSLContext | None, timeout_s: float, own_topics: bool = False
) -> bytes:
    """Send one provision request over a connection of its own and give the reply's bytes. Raises `NoReply`.

    `timeout_s` bounds all of it together. `own_topics` is for brokers that cannot make the shared one private.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        with _connected(host, port, tls, deadline_s) as connection:
            return _converse(connection, payload, deadline_s, own_topics=own_topics)
    except TimeoutError as error:
        raise NoReply(f"{host}:{port} did not answer within {timeout_s:g} s; try again, or look there") from error
    except ssl.SSLCertVerificationError as error:
        raise NoReply(f"the certificate of {host}:{port} does not hold: {why_untrusted(error)}") from error
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
        reason = getattr(error, "strerror", None) or error
        raise NoReply(f"cannot talk to {host}:{port}: {reason}; is the broker there, with or without TLS?") from error


def why_untrusted(error: ssl.SSLCertVerificationError) -> str:
    """Give what is wrong with a broker's certificate, and what to do."""
    return f"{error.verify_message.rstrip('.')}; {_ADVICE.get(error.verify_code, 'name its CA with --tls-ca')}"


def _connected(host: str, port: int, tls: ssl.SSLContext | None, deadline_s: float) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=_left_s(deadline_s))
    if tls is None:
        return connection
    try:
        connection.settimeout(_left_s(deadline_s))
        return tls.wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _converse(connection: socket.socket, payload: bytes, deadline_s: float, *, own_topics: bool) -> bytes:
    request_topic, response_topic = REQUEST_TOPIC, RESPONSE_TOPIC
    connect = Connect("", username=_USER_NAME)
    if own_topics:
        own = OwnTopics(secrets.token_urlsafe(CLIENT_ID_BYTES))
        request_topic, response_topic = own.outward(REQUEST_TOPIC), own.outward(RESPONSE_TOPIC)
        connect = Connect(own.client_id, username=_USER_NAME, password=b"")
    session = ClientSession(connect)
    while True:
        connection.settimeout(_left_s(deadline_s))
        connection.sendall(session.take_output())
        data = connection.recv(_READ_BYTES)
        if not data:
            raise NoReply("the server hung up without a reply; is it an MQTT broker that provisions?")
        for event in session.receive(data):
            match event:
                case Connected():
                    session.subscribe([(response_topic, 1)])
                case Subscribed(reason_codes=codes) if codes[0] >= _FAILED_FROM:
                    raise NoReply(f"the server does not let us subscribe to {response_topic}; it does not provision")
                case Subscribed():
                    session.publish(request_topic, payload, 1)
                case MessageReceived(publish) if publish.topic == response_topic:
                    session.disconnect()
                    connection.sendall(session.take_output())
                    return publish.payload
                case Refused(reason_code):
                    raise NoReply(
                        f"the server refused the user name '{_USER_NAME}' ({reason_code.name}); does a responder run?"
                    )
                case Disconnected(reason_code):
                    raise NoReply(f"the server ended the session without a reply ({reason_code.name})")
                case ProtocolViolated(error):
                    raise NoReply(f"the server does not speak MQTT as it should: {error}")
                case _:
                    pass
