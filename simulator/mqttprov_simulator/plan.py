"""What a swarm is to do: how many gateways, when they start, where to, and for how long. Values only, no I/O."""

import math
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from mqttprov.core.limits import MAX_NAME_CHARS
from mqttprov.gateway.backoff import MachineSettings
from mqttprov.gateway.requests import ProvisionRequest

# One source address has 28,000 ports towards one broker, and a gateway uses two of them within a minute.
GATEWAYS_PER_SOURCE: Final = 5_000
_MAX_SOURCES: Final = 250
_DIGITS: Final = 6


class SwarmPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a swarm. All durations in seconds.

    `rate_per_s`: gateways start that often, at planned times, whatever happens to the others. None: as fast as
    `concurrency` allows, the largest number of gateways that are started and not yet registered.
    `credentials_types`: asked for in turn; empty leaves the choice to the server. `tls_ca_file`: use TLS and verify the
    server by it. `stay_connected`: a registered gateway stays online, rides out lost connections, and the run ends when
    all have been online together for `hold_s`; otherwise it disconnects at once, and the run ends with the last.
    `timeout_s` ends every run. `give_up_after_refusals`: a gateway ends after so many refusing replies; None: never.
    Raises ValueError for values that make no sense.
    """

    host: str
    port: int
    key: str
    secret: str
    gateways: int
    rate_per_s: float | None = None
    concurrency: int = 128
    tls_ca_file: Path | None = None
    credentials_types: tuple[Literal["ACCESS_TOKEN", "MQTT_BASIC"], ...] = ()
    name_prefix: str = "swarm-"
    seed: int = 0
    stay_connected: bool = False
    hold_s: float = 0.0
    timeout_s: float = 120.0
    give_up_after_refusals: int | None = None
    machine: MachineSettings = MachineSettings(heartbeat_s=None)

    def __post_init__(self) -> None:
        if not 0 < self.port < 65_536:
            raise ValueError(f"port is {self.port}: give the broker's, between 1 and 65535")
        most = GATEWAYS_PER_SOURCE * _MAX_SOURCES
        for name, value, largest in (
            ("gateways", self.gateways, most),
            ("concurrency", self.concurrency, most),
            ("give_up_after_refusals", self.give_up_after_refusals, math.inf),
        ):
            if value is not None and not 1 <= value <= largest:
                raise ValueError(f"{name} is {value}: give a number from 1 to {largest}")
        for name, duration in (("rate_per_s", self.rate_per_s), ("timeout_s", self.timeout_s)):
            if duration is not None and not 0 < duration < math.inf:
                raise ValueError(f"{name} is {duration}: give a positive, finite number")
        if not 0 <= self.hold_s < math.inf:
            raise ValueError(f"hold_s is {self.hold_s}: give 0 or a positive, finite number of seconds")
        if len(self.name_prefix) + _DIGITS > MAX_NAME_CHARS:
            raise ValueError(f"name_prefix is longer than {MAX_NAME_CHARS - _DIGITS} characters: give a shorter one")

    def __repr__(self) -> str:
        return f"SwarmPlan({self.public()})"

    def public(self) -> dict[str, Any]:
        """Give the whole plan for reports, without the secret (P6)."""
        values: dict[str, Any] = msgspec.to_builtins(self, enc_hook=str)
        del values["secret"]
        return values

    def planned_s(self, index: int) -> float:
        """Say when the gateway `index` (from 0) starts, in seconds after the first; 0.0 without a rate."""
        return 0.0 if self.rate_per_s is None else index / self.rate_per_s

    @property
    def most_connections(self) -> int:
        """How many connections may be open at once, with those that are just closing."""
        if self.stay_connected or self.rate_per_s is not None:
            return self.gateways + self.concurrency
        return 2 * min(self.concurrency, self.gateways)

    def device_name(self, index: int) -> str:
        """Give the device name of the gateway `index` (from 0): a prefix and a number from 1."""
        return f"{self.name_prefix}{index + 1:0{_DIGITS}}"

    def request(self, index: int) -> ProvisionRequest:
        """Make the provision request of the gateway `index`."""
        types = self.credentials_types
        return ProvisionRequest(
            provision_device_key=self.key,
            provision_device_secret=self.secret,
            device_name=self.device_name(index),
            credentials_type=types[index % len(types)] if types else None,
        )

    def source_address(self, index: int) -> str | None:
        """Give the loopback address that the gateway `index` connects from, None for the system's choice.

        Large swarms need several, because the ports of one run out (reference/simulation.md rule 4 of section 9).
        """
        if self.gateways <= GATEWAYS_PER_SOURCE or not self.host.startswith("127."):
            return None
        sources = math.ceil(self.gateways / GATEWAYS_PER_SOURCE)
        return f"127.0.0.{2 + index % sources}"
