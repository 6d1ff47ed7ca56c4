"""Where brokers that run already are, as people write it: a URL, or several of one service with commas between."""

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import msgspec

from mqttprov_simulator.targets.target import TargetError

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


class Address(msgspec.Struct, frozen=True):
    """One broker: `scheme` mqtt or mqtts, a host by name or number, a port."""

    scheme: str
    host: str
    port: int

    @property
    def is_here(self) -> bool:
        """Whether it can only be on this machine."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def addresses(target: str) -> tuple[Address, ...]:
    """Read a target that is neither embedded nor mosquitto, in the order as written.

    Raises TargetError that quotes the part which is wrong: all are to be brokers with the same scheme, each named once.
    """
    read = tuple(_address(url.strip()) for url in target.split(","))
    if len({one.scheme for one in read}) > 1:
        raise TargetError(
            f"{target} names brokers with TLS and others without; gateways of one run go to any of them, so write "
            "mqtt:// for all or mqtts:// for all"
        )
    twice = [one for one in read if read.count(one) > 1]
    if twice:
        raise TargetError(f"{target} names {twice[0].host}:{twice[0].port} twice; name each broker once")
    return read


def _address(url: str) -> Address:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    odd = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if parts.scheme not in _PORTS or not parts.hostname or port == -1 or odd:
        raise TargetError(
            f"{url!r} is no target; give embedded, mosquitto, mqtt://HOST:PORT or mqtts://HOST:PORT, or several of "
            "these URLs with commas between them"
        )
    return Address(parts.scheme, parts.hostname, port or _PORTS[parts.scheme])
