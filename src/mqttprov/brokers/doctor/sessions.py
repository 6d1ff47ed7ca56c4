"""What can be seen of a broker without any credentials: by provisioning sessions whose requests are refused."""

import os
import ssl
import time
from collections.abc import Iterator
from statistics import median
from typing import Final

import msgspec

from mqttprov.brokers.doctor.eavesdropper import EVERYTHING, Eavesdropper
from mqttprov.brokers.doctor.finding import Finding, right, unknown, wrong
from mqttprov.brokers.doctor.probe import PROVISION, Address, LoginRefused, Probe
from mqttprov.core.permissions import RESPONSE_TOPIC

MAX_CLOCK_DIFFERENCE_S: Final = 5.0
_LEFT_DAYS: Final = 14
_ASKED: Final = 3  # requests for each half of the measurement; refused attempts are rationed, 50 for a key
_HELD_UP_S: Final = 0.02  # Linux acknowledges after 40 ms; what takes that much longer then has waited for it


class _Reply(msgspec.Struct):
    status: str
    serverTime: int | None = None  # noqa: N815 - the name on the wire


def examine_sessions(address: Address) -> Iterator[Finding]:
    """Look at login, TLS, responder, replies and delays. Raises `NoBroker`."""
    yield from _refuses_strangers(address)
    try:
        with Probe(address, username=PROVISION) as asking, Eavesdropper(address, PROVISION, EVERYTHING) as listening:
            if asking.tls is not None:
                yield _certificate(asking.tls)
            asking.subscribe([RESPONSE_TOPIC])
            yield from _asked(asking, listening)
    except LoginRefused as error:
        why = f"the broker refuses the user name 'provision' ({error})"
        yield wrong("responder", f"{why}; is its gate loaded, and does a responder run?")


def _refuses_strangers(address: Address) -> Iterator[Finding]:
    let_in = []
    for who, username in (("without user name", None), ("with a token that is none", f"mqp_at_{os.urandom(16).hex()}")):
        try:
            with Probe(address, username=username):
                let_in.append(who)
        except LoginRefused:
            pass
    if let_in:
        yield wrong("logins", f"a client {' and one '.join(let_in)} got in; is the gate loaded, allow_anonymous false?")
    else:
        yield right("logins", "clients without user name and with an unknown token are refused")


def _certificate(tls: ssl.SSLSocket) -> Finding:
    certificate = tls.getpeercert() or {}
    ends_s = ssl.cert_time_to_seconds(str(certificate["notAfter"])) if "notAfter" in certificate else 0.0
    days = int((ends_s - time.time()) // 86_400)
    text = f"{tls.version()}, the broker's certificate lasts {days} more days"
    if days < _LEFT_DAYS:
        return wrong("tls", f"{text}; run `mqttprov mosquitto install` again, or renew your own")
    return right("tls", text)


def bad_request() -> bytes:
    """Make a request that nobody's key is in."""
    marker = f"doctor-{os.urandom(8).hex()}"
    return msgspec.json.encode(
        {"provisionDeviceKey": marker, "provisionDeviceSecret": os.urandom(16).hex(), "deviceName": marker}
    )


def _asked(asking: Probe, listening: Eavesdropper) -> Iterator[Finding]:
    answer = asking.ask(bad_request())
    if answer is None:
        yield wrong("responder", "no reply to a provisioning request; is `mqttprov respond` running?")
        yield unknown("private replies", "there was none")
        return
    try:
        reply = msgspec.json.decode(answer.payload, type=_Reply)
    except msgspec.DecodeError:
        yield wrong("responder", "the reply is not one of a provisioning server; is this the right broker?")
        return
    if reply.status != "NOT_FOUND":
        yield wrong("responder", f"an unknown key got {reply.status} instead of NOT_FOUND; look at its log")
    else:
        yield right("responder", f"replies after {answer.after_s * 1000:.1f} ms")
    yield _clock(reply.serverTime)
    yield listening.judge("private replies")
    yield _nodelay(asking)


def _clock(server_ms: int | None) -> Finding:
    if server_ms is None:
        return unknown("clock", "the reply tells no time")
    difference_s = time.time() - server_ms / 1000
    text = f"the responder's differs from ours by {abs(difference_s):.1f} s"
    if abs(difference_s) > MAX_CLOCK_DIFFERENCE_S:
        return wrong("clock", f"{text}; set both by NTP: expiry and certificates depend on it")
    return right("clock", text)


def _nodelay(asking: Probe) -> Finding:
    """Compare how long a reply comes behind its PUBACK when TCP's acknowledgements come at once and late."""
    if not asking.can_delay_ack:
        return unknown("nodelay", "this system cannot hold back acknowledgements of TCP")
    gaps_s: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(2 * _ASKED):
        asking.delay_ack(delayed := bool(turn % 2))
        answer = asking.ask(bad_request())
        if answer is None:
            return wrong("nodelay", "the responder stopped replying")
        gaps_s[delayed].append(answer.after_puback_s)
    late_s, soon_s = median(gaps_s[True]), median(gaps_s[False])
    text = f"a reply comes {late_s * 1000:.1f} ms behind the acknowledgement"
    if late_s - soon_s > _HELD_UP_S:
        return wrong(
            "nodelay", f"{text}, {soon_s * 1000:.1f} ms without TCP's delay; `set_tcp_nodelay true` is missing"
        )
    return right("nodelay", text)
