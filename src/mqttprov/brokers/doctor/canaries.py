"""Two throw-away devices of a throw-away registration token: they show that devices are kept apart, and ended at once.

What is made is ended again; its records and audit events stay, under names that begin with `doctor-`.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from mqttprov.admin import DEFAULT, Admin, Conflict, IssuedToken, NotFound, TokenChange, now_ms
from mqttprov.brokers.doctor.eavesdropper import EVERYTHING, Eavesdropper
from mqttprov.brokers.doctor.finding import Finding, right, wrong
from mqttprov.brokers.doctor.probe import PROVISION, Address, LoginRefused, Probe
from mqttprov.core.permissions import RESPONSE_TOPIC

_LIFE_MS: Final = 600_000  # should this be interrupted, the token is worth nothing soon after
_END_TIMEOUT_S: Final = 2.0
_TOPICS: Final = ("v1/devices/me/telemetry", "v1/devices/me/rpc/response/1", "v1/gateway/telemetry")
_SPOOFED: Final = ("rpc/request/1", "attributes", "telemetry")  # on the other's topics


class _Reply(msgspec.Struct):
    status: str
    credentialsValue: str = ""  # noqa: N815 - the name on the wire


def examine_devices(address: Address, admin: Admin) -> Iterator[Finding]:
    """Provision two devices and look at what they may. Raises `NoBroker`."""
    name = f"doctor-{os.urandom(4).hex()}"
    limits = TokenChange(max_registrations=2, expires_ms=now_ms() + _LIFE_MS)
    token = admin.create_token(DEFAULT, name, limits)
    names = (f"{name}-1", f"{name}-2")
    try:
        yield from _with_devices(address, admin, token, names)
    except LoginRefused as error:
        yield wrong("devices", f"the broker refuses a device that has just been registered ({error})")
    finally:
        admin.revoke_token(name, DEFAULT)
        for device in names:
            with contextlib.suppress(NotFound, Conflict):  # it was not made, or is ended already
                admin.life.decommission(device, wait_ms=0)
                admin.life.release(device)


def _with_devices(address: Address, admin: Admin, token: IssuedToken, names: tuple[str, str]) -> Iterator[Finding]:
    with Eavesdropper(address, PROVISION, EVERYTHING) as listening:
        values = []
        for name in names:
            with Probe(address, username=PROVISION) as asking:
                asking.subscribe([RESPONSE_TOPIC])
                answer = asking.ask(_request(token, name))
            reply = None if answer is None else msgspec.json.decode(answer.payload, type=_Reply)
            if reply is None or reply.status != "SUCCESS":
                why = "no reply" if reply is None else reply.status
                yield wrong(
                    "devices", f"{why} for a token of this state directory; does the responder use another one?"
                )
                return
            values.append(reply.credentialsValue)
        yield listening.judge("private credentials")
    with Probe(address, username=values[0]) as first:
        yield _kept_apart(address, first, values[1], names)
        yield _ended(address, admin, first, names[0], values[0])


def _request(token: IssuedToken, name: str) -> bytes:
    return msgspec.json.encode(
        {"provisionDeviceKey": token.key, "provisionDeviceSecret": token.secret, "deviceName": name}
    )


def _kept_apart(address: Address, first: Probe, second_token: str, names: tuple[str, str]) -> Finding:
    """Let the one speak on its own topics and on those of the other, who listens to whatever it may."""
    marker = os.urandom(8).hex().encode()
    of_first = f"v1/devices/{names[0]}/#"
    filters = (*EVERYTHING, "v1/devices/me/#", "v1/gateway/#", of_first, f"$share/doctor/{of_first}")
    with Eavesdropper(address, second_token, filters) as second:
        for topic in (*_TOPICS, *(f"v1/devices/{names[1]}/{rest}" for rest in _SPOOFED), RESPONSE_TOPIC):
            first.publish(topic, b'{"doctor":"' + marker + b'"}')
        return second.judge("devices", marker)


def _ended(address: Address, admin: Admin, session: Probe, name: str, token: str) -> Finding:
    begun_s = time.monotonic()
    admin.life.suspend(name, "the doctor's own")
    returned_s = time.monotonic() - begun_s
    if not session.wait_closed(_END_TIMEOUT_S):
        return wrong("suspended", "the session of a device goes on after it was suspended; look at the responder's log")
    try:
        with Probe(address, username=token):
            return wrong("suspended", "a suspended device got in; does the broker's gate read this database?")
    except LoginRefused:
        return right("suspended", f"its session ended within {returned_s * 1000:.0f} ms, and it does not get in again")
