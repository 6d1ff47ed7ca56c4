"""What one virtual gateway is: who it is, how it connects, what it shares with others of its kind. Values only."""

from pathlib import Path

import msgspec

from mqttprov.gateway.backoff import MachineSettings
from mqttprov_simulator.chance import ChanceStream
from mqttprov_simulator.disk import Disk
from mqttprov_simulator.driver import Route


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What gateways have in common.

    `version`: protocol level of the operational connection. `stays`: a registered gateway remains online, otherwise it
    disconnects at once. `gives_up_after`: it ends after so many refusing replies; None: never. `disk`: keep credentials
    there, None: in memory. `own_topics`: the broker knows neither `me` nor private replies.
    """

    settings: MachineSettings
    version: int = 5
    stays: bool = True
    gives_up_after: int | None = None
    disk: Disk | None = None
    own_topics: bool = False


class GatewaySpec(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One gateway. `number`: its place in the swarm, from 0. `name`: for people; `device`: the device name.

    `request`: the provision request, byte for byte. `certified_route`: how to connect with its own certificate, None if
    it has none. `lonely_route`: from an address that nobody else has, for one whose failures would lock others out.
    `folder`: its own one, where its kind keeps credentials on disk.
    """

    number: int
    name: str
    device: str
    request: bytes
    kind: Kind
    route: Route
    chance: ChanceStream
    certified_route: Route | None = None
    lonely_route: Route | None = None
    folder: Path | None = None

    def __repr__(self) -> str:
        return f"GatewaySpec({self.name!r})"
